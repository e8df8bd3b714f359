//! The words that every thread has: one cache line's half of thread-local
//! storage, declared in assembly so that it is reached without a call.
//!
//! ```text
//!  0  slabs   base of the slabs, or 0: take the slow path
//!  8  index   address of the u32 that picks the slab (mm_cid or cpu_id)
//! 16  rseq    address of the thread's struct rseq
//! 24  state   0 unseen, 1 uses sections, 2 uses shards
//! 28  shard   the shard of a thread that uses shards
//! 32  inside  whether the thread is inside the allocator, see `Inside`
//! 36  left    on watch: operations until the thread looks at the clock
//! 38  looked  on watch: when it looked, in milliseconds
//! 40  watched on watch: base of the slabs, else 0
//! 48  ranks   debug builds: counts of held locks, a byte a rank
//! 52  busy    on watch: looks in a row that came soon, with no miss between
//! 54  slice   time slice extensions: requests so far, or what was decided, see `slice`
//! 55  asking  whether the request that stands is the allocator's
//! ```
//! Only the thread itself reads or writes its words: its signal handlers too.

#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicU8, AtomicU32, compiler_fence};

#[derive(Debug)]
#[repr(C)]
pub struct ThreadWords {
    pub slabs: usize,
    pub index: usize,
    pub rseq: usize,
    pub state: State,
    pub shard: u32,
    inside: AtomicU32,
    pub left: u16,
    pub looked_ms: u16,
    pub watched: usize,
    ranks: [u8; 4],
    pub busy: u16,
    pub slice: AtomicU8,
    pub asking: AtomicU8,
}

/// How a thread reaches the slabs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum State {
    Unseen = 0,
    /// In restartable sequences, by the id at `index`.
    Sections = 1,
    /// Under the lock of `shard`.
    Shards = 2,
}

pub const SLABS_AT: usize = offset_of!(ThreadWords, slabs);
pub const WATCHED_AT: usize = offset_of!(ThreadWords, watched);
pub const INDEX_AT: usize = offset_of!(ThreadWords, index);
pub const RSEQ_AT: usize = offset_of!(ThreadWords, rseq);

global_asm!(
    ".pushsection .tbss.cidalloc_thread,\"awT\",@nobits",
    ".balign 16",
    ".hidden cidalloc_thread",
    ".globl cidalloc_thread",
    ".type cidalloc_thread, @object",
    ".size cidalloc_thread, {size}",
    "cidalloc_thread:",
    ".zero {size}",
    ".popsection",
    size = const size_of::<ThreadWords>(),
);

/// This thread's words, where there is no assembly.
#[cfg(miri)]
pub fn words() -> *mut ThreadWords {
    std::thread_local! {
        // SAFETY: zero bytes are valid words.
        static WORDS: core::cell::UnsafeCell<ThreadWords> =
            const { unsafe { core::mem::zeroed() } };
    }
    WORDS.with(|words| words.get())
}

/// This thread's words.
#[cfg(not(miri))]
#[inline(always)]
pub fn words() -> *mut ThreadWords {
    let at: *mut ThreadWords;
    // SAFETY: computes an address; the initial-exec model needs no call.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!("mov {at}, qword ptr [rip + cidalloc_thread@GOTTPOFF]", "add {at}, qword ptr fs:[0]",
             at = out(reg) at, options(nostack, readonly));
        #[cfg(target_arch = "aarch64")]
        asm!("adrp {at}, :gottprel:cidalloc_thread",
             "ldr {at}, [{at}, :gottprel_lo12:cidalloc_thread]",
             "mrs {base}, tpidr_el0",
             "add {at}, {at}, {base}",
             at = out(reg) at, base = out(reg) _, options(nostack, readonly));
    }
    at
}

/// The thread pointer, from which the C library's `__rseq_offset` counts.
pub fn pointer() -> usize {
    let at: usize;
    // SAFETY: reads a register, or the word that holds the thread pointer.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!("mov {at}, qword ptr fs:[0]", at = out(reg) at, options(nostack, readonly));
        #[cfg(target_arch = "aarch64")]
        asm!("mrs {at}, tpidr_el0", at = out(reg) at, options(nostack, nomem));
    }
    at
}

/// The thread is in a slow path: it may hold locks, and hold a layer half changed.
///
/// A signal handler that interrupts it and allocates must do without both, and
/// so must whatever runs between the halves of fork.
#[derive(Debug)]
pub struct Inside(());

const OUTSIDE: u32 = 0;
const INSIDE: u32 = 1;
/// Between fork's handlers; each number above is a fork inside that one, made by
/// a signal handler.
const FORKING: u32 = 2;

fn inside() -> &'static AtomicU32 {
    // SAFETY: the thread's own words; they live as long as it does.
    unsafe { &(*words()).inside }
}

impl Inside {
    /// `None` if the thread is inside already.
    #[inline]
    pub fn enter() -> Option<Inside> {
        Inside::change(OUTSIDE, INSIDE).then(|| Inside(()))
    }

    /// The same from fork's first handler to its last; false if it was inside.
    pub fn enter_fork() -> bool {
        let now = inside().load(Relaxed);
        if now >= FORKING {
            Inside::change(now, now + 1);
        }
        Inside::change(OUTSIDE, FORKING)
    }

    /// Ends what [`Inside::enter_fork`] began; calls `release` first if that was
    /// true.
    pub fn leave_fork(release: impl FnOnce()) {
        match inside().load(Relaxed) {
            FORKING => {
                release();
                Inside::change(FORKING, OUTSIDE);
            }
            now if now > FORKING => {
                Inside::change(now, now - 1);
            }
            _ => {}
        }
    }

    fn change(from: u32, to: u32) -> bool {
        let word = inside();
        // A plain load and store: a handler that comes between them has left
        // the word as it was when it returns.
        if word.load(Relaxed) != from {
            return false;
        }
        compiler_fence(SeqCst);
        word.store(to, Relaxed);
        compiler_fence(SeqCst);
        true
    }
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        Inside::change(INSIDE, OUTSIDE);
    }
}

/// Notes that a lock of this rank was taken; debug builds check the order.
#[inline]
pub fn entered(rank: u8) {
    if cfg!(debug_assertions) {
        // SAFETY: the thread's own words.
        let ranks = unsafe { &mut (*words()).ranks };
        let higher = ranks.iter().skip(rank as usize + 1).any(|&n| n > 0);
        if higher {
            crate::os::fault::die(crate::os::fault::Fault::LockOrder, rank as usize);
        }
        if let Some(n) = ranks.get_mut(rank as usize) {
            *n = n.wrapping_add(1);
        }
    }
}

/// Notes that a lock of this rank was released.
#[inline]
pub fn left(rank: u8) {
    if cfg!(debug_assertions) {
        // SAFETY: the thread's own words.
        let ranks = unsafe { &mut (*words()).ranks };
        if let Some(n) = ranks.get_mut(rank as usize) {
            *n = n.wrapping_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_the_thread_inside_leaves_it_inside() {
        let outer = Inside::enter().expect("outside at first");
        for _ in 0..2 {
            assert!(Inside::enter().is_none());
            assert!(!Inside::enter_fork());
            Inside::leave_fork(|| panic!("a fork that took no locks"));
        }
        drop(outer);
        drop(Inside::enter().expect("outside again"));
    }

    #[test]
    fn a_fork_inside_a_fork_leaves_the_locks_to_the_outer_one() {
        assert!(Inside::enter_fork());
        for _ in 0..2 {
            assert!(!Inside::enter_fork());
            assert!(!Inside::enter_fork());
            assert!(Inside::enter().is_none());
            Inside::leave_fork(|| panic!("the outer fork's locks"));
            Inside::leave_fork(|| panic!("the outer fork's locks"));
        }
        let mut released = false;
        Inside::leave_fork(|| released = true);
        assert!(released);
        drop(Inside::enter().expect("outside again"));
    }
}
