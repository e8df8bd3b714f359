//! Blocks for whoever cannot use the heap: a signal handler that interrupts the
//! allocator in its own thread, or fork handlers between the halves of fork.
//!
//! Chunks of memory of their own, outside the arena, without locks: a block is
//! cut off a chunk by one exchange, and a chunk starts anew when its last block
//! is freed. Chunks are never unmapped, so that their list may be read at any
//! time; their memory goes back to the kernel while they are empty.
//!
//! ```text
//! chunk:  | next | len_bytes | state: used bytes, live blocks | block | block … |
//! block:  | size_bytes, seal, before it | what the caller gets, at its alignment |
//! ```

#![allow(unsafe_code)]

use crate::os::fault::{Fault, die};
use crate::os::sys;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

#[repr(C, align(64))]
struct Chunk {
    /// The chunk made before, as an address; 0 ends the list.
    next: usize,
    len_bytes: usize,
    /// Bytes used from the chunk's start (high half), blocks live (low half),
    /// each in units that let both fit; see `State`.
    state: AtomicUsize,
}

static CHUNKS: AtomicUsize = AtomicUsize::new(0);

const CHUNK_BYTES: usize = 1 << 20;
/// Size and seal stand before a block, and blocks are multiples of 16.
const HEAD_BYTES: usize = 16;
/// With its address, the seal of a live block: what has none is not freed, or
/// not again.
const SEAL: usize = 0x5ea1_ed0b_10c4_a51d;

/// Where the next block may start, in units of 16 bytes, and the live blocks.
#[derive(Clone, Copy)]
struct State {
    used: usize,
    live: usize,
}

const LIVE_BITS: u32 = 20;
const EMPTY: State = State { used: size_of::<Chunk>(), live: 0 };
/// The memory is being given back: nobody may take a block.
const CLOSED: usize = usize::MAX;

impl State {
    fn of(word: usize) -> State {
        State { used: (word >> LIVE_BITS) * HEAD_BYTES, live: word & ((1 << LIVE_BITS) - 1) }
    }
    fn word(self) -> usize {
        (self.used / HEAD_BYTES) << LIVE_BITS | self.live
    }
}

/// A block of at least `size` bytes at a multiple of `align`, a power of two;
/// null when there is no memory. Its memory may hold anything.
#[cold]
pub fn allocate(size: usize, align: usize) -> *mut u8 {
    let (size, align) = (size.max(1), align.max(HEAD_BYTES));
    let need = size.checked_add(align + HEAD_BYTES * 2 + size_of::<Chunk>());
    let Some(need) = need.filter(|need| *need <= isize::MAX as usize) else {
        return core::ptr::null_mut();
    };
    let found = each().find_map(|chunk| chunk.cut(size, align));
    found.or_else(|| Chunk::make(need, size, align)).unwrap_or(core::ptr::null_mut())
}

/// What stands before a block.
#[derive(Clone, Copy)]
#[repr(C)]
struct Head {
    size_bytes: usize,
    seal: usize,
}
const _: () = assert!(size_of::<Head>() == HEAD_BYTES);

/// The bytes of the block at `addr`, `None` if there is none in a chunk.
pub fn usable_size(addr: usize) -> Option<usize> {
    chunk_of(addr)?;
    // SAFETY: in a chunk, behind its first block's head.
    let head: Head = unsafe { with_exposed_provenance::<Head>(addr - HEAD_BYTES).read_unaligned() };
    (head.seal == addr ^ SEAL).then_some(head.size_bytes)
}

/// Frees the block at `addr`; false if that is in no chunk. Dies if no live
/// block starts there.
pub fn free(addr: usize) -> bool {
    let Some(chunk) = chunk_of(addr) else { return false };
    if usable_size(addr).is_none() {
        die(Fault::NotAllocated, addr);
    }
    // SAFETY: the head of a block that is the caller's to give up.
    unsafe { *with_exposed_provenance_mut(addr - HEAD_BYTES) = Head { size_bytes: 0, seal: 0 } };
    chunk.put_back(addr);
    true
}

/// How many blocks are live, or lie in caches because they were freed by size.
pub fn live() -> u64 {
    let words = each().map(|chunk| chunk.state.load(Relaxed)).filter(|word| *word != CLOSED);
    words.map(|word| State::of(word).live as u64).sum()
}

fn chunk_of(addr: usize) -> Option<&'static Chunk> {
    each().find(|chunk| {
        let at = *chunk as *const Chunk as usize;
        (at + size_of::<Chunk>() + HEAD_BYTES..at + chunk.len_bytes).contains(&addr)
    })
}

fn each() -> impl Iterator<Item = &'static Chunk> {
    // Acquire pairs with the Release that published the chunk.
    let mut at = CHUNKS.load(Acquire);
    core::iter::from_fn(move || {
        // SAFETY: chunks are never unmapped.
        let chunk = unsafe { with_exposed_provenance::<Chunk>(at).as_ref() }?;
        at = chunk.next;
        Some(chunk)
    })
}

impl Chunk {
    /// Maps a chunk of at least `need` bytes, cuts a block off it and publishes
    /// it: not before, as others might close it or fill it first.
    fn make(need: usize, size: usize, align: usize) -> Option<*mut u8> {
        let len = need.max(CHUNK_BYTES).checked_next_multiple_of(CHUNK_BYTES)?;
        // The state counts units of 16 bytes above the live blocks.
        if len / HEAD_BYTES >= 1 << (usize::BITS - LIVE_BITS) {
            return None;
        }
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping.
        let at = unsafe { sys::mmap(0, len, prot, libc::MAP_NORESERVE) }.ok()?;
        let chunk: *mut Chunk = with_exposed_provenance_mut(at);
        let state = AtomicUsize::new(EMPTY.word());
        // SAFETY: the new mapping, nobody else's yet.
        let block = unsafe {
            chunk.write(Chunk { next: 0, len_bytes: len, state });
            (*chunk).cut(size, align)?
        };
        let mut next = CHUNKS.load(Relaxed);
        loop {
            // SAFETY: not published yet.
            unsafe { (*chunk).next = next };
            // Release publishes the chunk's words.
            match CHUNKS.compare_exchange_weak(next, at, Release, Relaxed) {
                Ok(_) => return Some(block),
                Err(now) => next = now,
            }
        }
    }

    fn cut(&self, size: usize, align: usize) -> Option<*mut u8> {
        let base = self as *const Chunk as usize;
        let mut word = self.state.load(Relaxed);
        loop {
            let state = State::of(word);
            let at = (base + state.used + HEAD_BYTES).next_multiple_of(align);
            let end = (at - base).checked_add(size)?.checked_next_multiple_of(HEAD_BYTES)?;
            if word == CLOSED || end > self.len_bytes || state.live + 1 >= 1 << LIVE_BITS {
                return None;
            }
            let new = State { used: end, live: state.live + 1 }.word();
            // Acquire pairs with the Release of the emptying.
            match self.state.compare_exchange_weak(word, new, AcqRel, Relaxed) {
                Ok(_) => {
                    let head = Head { size_bytes: end - (at - base), seal: at ^ SEAL };
                    // SAFETY: these bytes are this block's alone now.
                    unsafe { *with_exposed_provenance_mut(at - HEAD_BYTES) = head };
                    return Some(with_exposed_provenance_mut(at));
                }
                Err(now) => word = now,
            }
        }
    }

    fn put_back(&self, addr: usize) {
        let mut word = self.state.load(Relaxed);
        loop {
            let state = State::of(word);
            if word == CLOSED || state.live == 0 {
                die(Fault::DoubleFree, addr);
            }
            let last = state.live == 1;
            let new = if last { CLOSED } else { State { live: state.live - 1, ..state }.word() };
            // Release orders the owner's last use before the block's next.
            match self.state.compare_exchange_weak(word, new, AcqRel, Relaxed) {
                Ok(_) if last => break,
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
        let base = self as *const Chunk as usize;
        let first = base + CHUNK_BYTES / 16;
        // SAFETY: closed and empty: nobody uses what lies behind the first pages.
        let _ = unsafe { sys::madvise(first, base + self.len_bytes - first, libc::MADV_DONTNEED) };
        self.state.store(EMPTY.word(), Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test: a block that lives on keeps its chunk from starting anew.
    #[test]
    #[cfg_attr(miri, ignore = "maps memory")]
    fn blocks_are_apart_aligned_found_and_their_memory_is_used_again() {
        let mut blocks = std::vec::Vec::new();
        for i in 0..2000usize {
            let (size, align) = (i * 7 % 3000, 1 << (i % 13));
            let block = allocate(size, align);
            assert!(!block.is_null() && block as usize % align == 0);
            assert!(usable_size(block as usize).unwrap() >= size);
            // SAFETY: a block of that size.
            unsafe { block.write_bytes(i as u8, size) };
            blocks.push((block, size, i as u8));
        }
        for (block, size, byte) in blocks {
            // SAFETY: a live block of that size.
            assert!(unsafe { core::slice::from_raw_parts(block, size) }.iter().all(|b| *b == byte));
            assert!(free(block as usize));
        }
        let large = allocate(40 << 20, 4096);
        assert!(usable_size(large as usize).unwrap() >= 40 << 20);
        assert!(free(large as usize));
        assert!(!free(0x1000));
        let (one, other) = (allocate(100, 16) as usize, allocate(0, 4096) as usize);
        assert!(usable_size(one + 16).is_none() && usable_size(other).is_some());
        assert!(free(one) && usable_size(one).is_none());
        assert!(free(other));
        assert!(allocate(usize::MAX - 8, 16).is_null());
        let most = each().count();
        for _ in 0..20_000 {
            assert!(free(allocate(10_000, 16) as usize));
        }
        assert!(each().count() <= most);
    }
}
