//! A mutex that spins briefly, then waits on a futex.
//!
//! | word | meaning |
//! |---|---|
//! | 0 | free |
//! | 1 | held, nobody waits |
//! | 2 | held, somebody may wait |
//!
//! Locks have a rank; a thread takes them in rising order, which is also the
//! order in which fork takes them all. Debug builds check it.

#![allow(unsafe_code)]

use crate::os::sync::{AtomicU32, SPINS, relax};
use crate::os::{slice, sys, thread};
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::AtomicU32 as Counter;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// The order in which locks are taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rank {
    /// Slabs; several at once only in rising order of their index. Zero, so that
    /// zero memory is an open lock of a slab.
    Slab = 0,
    Transfer = 1,
    Central = 2,
    PageHeap = 3,
}

/// Waits on any lock that ended in a futex, since start.
pub static WAITS: Counter = Counter::new(0);

/// The rank, where it is checked. Elsewhere zero memory is an open lock of any
/// rank, so that tables of locks cost nothing before they are used.
#[derive(Debug)]
struct Kept {
    #[cfg(debug_assertions)]
    rank: Rank,
}

impl Kept {
    const fn new(rank: Rank) -> Kept {
        #[cfg(not(debug_assertions))]
        let _ = rank;
        Kept {
            #[cfg(debug_assertions)]
            rank,
        }
    }

    #[inline]
    fn number(&self) -> u8 {
        #[cfg(debug_assertions)]
        return self.rank as u8;
        #[cfg(not(debug_assertions))]
        0
    }
}

#[derive(Debug)]
pub struct Lock<T> {
    word: AtomicU32,
    rank: Kept,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a guard, one at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub const fn new(rank: Rank, value: T) -> Lock<T> {
        Lock { word: AtomicU32::new(0), rank: Kept::new(rank), value: UnsafeCell::new(value) }
    }

    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        self.acquire();
        Guard { lock: self }
    }

    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        // Acquire pairs with the Release in `release`.
        self.word.compare_exchange(0, 1, Acquire, Relaxed).ok()?;
        thread::entered(self.rank.number());
        Some(Guard { lock: self })
    }

    /// Takes the lock with no guard: for fork, and for locks taken in numbers.
    #[inline]
    pub fn acquire(&self) {
        if self.word.compare_exchange(0, 1, Acquire, Relaxed).is_err() {
            self.acquire_slow();
        }
        thread::entered(self.rank.number());
    }

    #[cold]
    fn acquire_slow(&self) {
        for _ in 0..SPINS {
            relax();
            // Relaxed: only a hint, the exchange decides.
            if self.word.load(Relaxed) == 0
                && self.word.compare_exchange(0, 1, Acquire, Relaxed).is_ok()
            {
                return;
            }
        }
        // Asleep the thread needs no time, and the call would end an extension.
        let asked = slice::pause();
        // Whoever has slept takes the lock as 2: others may sleep still.
        while self.word.swap(2, Acquire) != 0 {
            WAITS.fetch_add(1, Relaxed); // a statistic
            sys::futex_wait(&self.word, 2);
        }
        slice::resume(asked);
    }

    /// # Safety
    /// The calling thread holds the lock, and no guard of it remains.
    #[inline]
    pub unsafe fn release(&self) {
        thread::left(self.rank.number());
        // Release pairs with the Acquire of the next holder.
        if self.word.swap(0, Release) == 2 {
            sys::futex_wake(&self.word, 1);
        }
    }

    /// The value, for a caller that holds the lock by [`Lock::acquire`].
    pub fn value(&self) -> *mut T {
        self.value.get()
    }
}

#[derive(Debug)]
pub struct Guard<'a, T> {
    lock: &'a Lock<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock, and is borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the guard held the lock and ends here.
        unsafe { self.lock.release() }
    }
}
