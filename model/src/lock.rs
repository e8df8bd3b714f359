//! `os::lock` for models of what locks guard: the same interface over loom's
//! mutex. `tests/lock.rs` shows that the real one is a mutex.

use crate::fresh::Fresh;
use std::ops::{Deref, DerefMut};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rank {
    Slab = 0,
    Transfer = 1,
    Central = 2,
    PageHeap = 3,
}

/// Zero bytes are an open lock of a zero value.
#[repr(C)]
pub struct Lock<T> {
    rank: Rank,
    /// What the value is at the start of each execution.
    init: T,
    real: Fresh<Real<T>>,
}

struct Real<T> {
    mutex: loom::sync::Mutex<()>,
    guard: Option<loom::sync::MutexGuard<'static, ()>>,
    value: T,
}

// SAFETY: the value is reached through a guard.
unsafe impl<T> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub const fn new(rank: Rank, init: T) -> Lock<T> {
        Lock { rank, init, real: Fresh::new() }
    }

    fn real(&self) -> *mut Real<T> {
        self.real.get(|| Real {
            mutex: loom::sync::Mutex::new(()),
            guard: None,
            // SAFETY: plain data of the allocator, never dropped.
            value: unsafe { std::ptr::read(&self.init) },
        })
    }

    pub fn lock(&self) -> Guard<'_, T> {
        self.acquire();
        Guard(self)
    }

    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        let real = self.real();
        // SAFETY: one OS thread; the references end before loom switches.
        unsafe {
            let guard = (*real).mutex.try_lock().ok()?;
            (*real).guard = Some(guard);
        }
        Some(Guard(self))
    }

    pub fn acquire(&self) {
        let real = self.real();
        // SAFETY: as above.
        unsafe {
            let guard = (*real).mutex.lock().unwrap();
            (*real).guard = Some(guard);
        }
    }

    /// # Safety
    /// The calling thread holds the lock.
    pub unsafe fn release(&self) {
        // SAFETY: as above.
        let guard = unsafe { (*self.real()).guard.take() };
        drop(guard.expect("a lock that is held"));
    }

    pub fn value(&self) -> *mut T {
        // SAFETY: makes a pointer only.
        unsafe { &raw mut (*self.real()).value }
    }

    pub fn rank(&self) -> Rank {
        self.rank
    }
}

pub struct Guard<'a, T>(&'a Lock<T>);

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.0.value() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock.
        unsafe { &mut *self.0.value() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the guard held the lock.
        unsafe { self.0.release() }
    }
}

impl<T> std::fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lock")
    }
}
