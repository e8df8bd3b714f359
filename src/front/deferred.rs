//! Blocks freed by a signal handler that interrupted the allocator in its own
//! thread: kept until the next slow path of any thread.
//!
//! A list through the blocks themselves: whoever frees puts one in front, and
//! whoever empties takes the whole list, so no exchange can meet an old head.

#![allow(unsafe_code)]

use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// The block put last, as an address; 0 for none.
static LAST: AtomicUsize = AtomicUsize::new(0);

/// Keeps a block of the arena, which is the caller's to give up.
#[cold]
pub fn put(addr: usize) {
    let mut last = LAST.load(Relaxed);
    loop {
        // SAFETY: blocks have at least 8 bytes, and this one is nobody's now.
        unsafe { *with_exposed_provenance_mut(addr) = last };
        // Release publishes the word just written.
        match LAST.compare_exchange_weak(last, addr, Release, Relaxed) {
            Ok(_) => return,
            Err(now) => last = now,
        }
    }
}

/// Takes all there are.
#[inline]
pub fn each(mut f: impl FnMut(usize)) {
    // Relaxed: a block that is missed now is found next time.
    if LAST.load(Relaxed) == 0 {
        return;
    }
    // Acquire pairs with the Release in `put`.
    let mut addr = LAST.swap(0, Acquire);
    while addr != 0 {
        // SAFETY: a block of the list holds the next one's address.
        let next = unsafe { *with_exposed_provenance::<usize>(addr) };
        f(addr);
        addr = next;
    }
}
