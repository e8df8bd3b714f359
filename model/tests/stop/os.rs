//! What the front uses of `os`: locks over loom's mutex, and system calls on the
//! model's memory.

pub use cidalloc_model::lock;

pub mod sys {
    use crate::front::slab;

    /// # Safety
    /// None needed here.
    pub unsafe fn mmap(_addr: usize, len: usize, _prot: i32, _flags: i32) -> Result<usize, i32> {
        Ok(crate::memory(len))
    }

    /// # Safety
    /// None needed here.
    pub unsafe fn mprotect(_addr: usize, _len: usize, _prot: i32) -> Result<usize, i32> {
        Ok(0)
    }

    /// Memory of a slab goes back: it reads as zero.
    ///
    /// # Safety
    /// As the real one's.
    pub unsafe fn madvise(addr: usize, len: usize, _advice: i32) -> Result<usize, i32> {
        for at in (addr..addr + len).step_by(8) {
            // SAFETY: the caller's duty.
            unsafe { slab::write_slot(at, 0) };
        }
        if crate::PLANTED.load(std::sync::atomic::Ordering::Relaxed) == crate::HEADER_PAGE {
            slab::zero_headers(addr);
        }
        Ok(0)
    }

    /// Smaller than any.
    pub fn os_page_bytes() -> usize {
        64
    }
}

/// Nobody asks for more time.
pub mod slice {
    pub struct Asked;

    pub fn ask() -> Asked {
        Asked
    }
}

pub mod thread {
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum State {
        Sections,
        Shards,
    }

    #[derive(Clone, Copy)]
    pub struct ThreadWords {
        pub slabs: usize,
        pub index: usize,
        pub rseq: usize,
        pub state: State,
        pub shard: u32,
    }
}
