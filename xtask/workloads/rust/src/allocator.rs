//! The allocator this program is built with.

#[cfg(feature = "cidalloc")]
mod chosen {
    pub const NAME: &str = "cidalloc";
    #[global_allocator]
    static A: cidalloc::CidAlloc = cidalloc::CidAlloc;
}

#[cfg(feature = "mimalloc")]
mod chosen {
    pub const NAME: &str = "mimalloc";
    #[global_allocator]
    static A: mimalloc::MiMalloc = mimalloc::MiMalloc;
}

#[cfg(feature = "jemalloc")]
mod chosen {
    pub const NAME: &str = "tikv-jemallocator";
    #[global_allocator]
    static A: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
}

#[cfg(feature = "snmalloc")]
mod chosen {
    pub const NAME: &str = "snmalloc-rs";
    #[global_allocator]
    static A: snmalloc_rs::SnMalloc = snmalloc_rs::SnMalloc;
}

#[cfg(feature = "tcmalloc")]
mod chosen {
    pub const NAME: &str = "tcmalloc-better";
    #[global_allocator]
    static A: tcmalloc_better::TCMalloc = tcmalloc_better::TCMalloc;
}

#[cfg(feature = "rpmalloc")]
mod chosen {
    pub const NAME: &str = "rpmalloc";
    #[global_allocator]
    static A: rpmalloc::RpMalloc = rpmalloc::RpMalloc;
}

#[cfg(feature = "nothing")]
mod chosen {
    pub const NAME: &str = "nothing";
    use std::alloc::{GlobalAlloc, Layout};
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    /// What a program's start needs, then the same memory for every request.
    struct Nothing;

    #[global_allocator]
    static A: Nothing = Nothing;

    const START: usize = 1 << 20;
    static mut MEMORY: [u128; (START + (1 << 20)) / 16] = [0; (START + (1 << 20)) / 16];
    static USED: AtomicUsize = AtomicUsize::new(0);

    // SAFETY: it is no allocator; only calls are timed with it, by `calls`, which
    // does not read what it wrote.
    unsafe impl GlobalAlloc for Nothing {
        #[inline]
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let used = USED.load(Relaxed);
            let memory = (&raw mut MEMORY).cast::<u8>();
            if used < START {
                return start(memory, layout);
            }
            memory.wrapping_add(START)
        }
        #[inline]
        unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
            std::hint::black_box(block);
        }
        #[inline]
        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller's.
            unsafe { self.alloc(layout) }
        }
        #[inline]
        unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            if USED.load(Relaxed) < START {
                let with = Layout::from_size_align(size, layout.align()).unwrap();
                let new = start((&raw mut MEMORY).cast(), with);
                // SAFETY: both are at least that long.
                unsafe { new.copy_from(block, size.min(layout.size())) };
                return new;
            }
            block
        }
    }

    #[cold]
    fn start(memory: *mut u8, layout: Layout) -> *mut u8 {
        let at = USED.load(Relaxed).next_multiple_of(layout.align().max(16));
        if at + layout.size() > START {
            USED.store(START, Relaxed);
            return memory.wrapping_add(START);
        }
        USED.store(at + layout.size(), Relaxed);
        memory.wrapping_add(at)
    }
}

#[cfg(not(any(
    feature = "cidalloc",
    feature = "mimalloc",
    feature = "jemalloc",
    feature = "snmalloc",
    feature = "tcmalloc",
    feature = "rpmalloc",
    feature = "nothing"
)))]
mod chosen {
    pub const NAME: &str = "system";
    #[global_allocator]
    static A: std::alloc::System = std::alloc::System;
}

#[cfg(feature = "tcmalloc")]
unsafe extern "C" {
    fn MallocExtension_Internal_GetPerCpuCachesActive() -> bool;
}

/// Lines that say what this is: the allocator, where malloc is from, tcmalloc's mode.
pub fn which() -> String {
    let mut text = format!("allocator {}", chosen::NAME);
    // SAFETY: asks the loader only.
    unsafe {
        let malloc = libc::dlsym(libc::RTLD_DEFAULT, c"malloc".as_ptr());
        let mut info = std::mem::zeroed::<libc::Dl_info>();
        if libc::dladdr(malloc, &mut info) != 0 {
            let from = std::ffi::CStr::from_ptr(info.dli_fname).to_string_lossy();
            text += &format!("\nmalloc {from}");
        }
    }
    #[cfg(feature = "tcmalloc")]
    {
        drop(std::hint::black_box(vec![1u8; 100]));
        // SAFETY: takes no argument, reads a flag.
        let on = unsafe { MallocExtension_Internal_GetPerCpuCachesActive() };
        text += if on { "\nper_cpu on" } else { "\nper_cpu off" };
    }
    text
}
