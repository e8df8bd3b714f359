//! Statics that are new in every execution of a model.
//!
//! loom's objects belong to one execution; the allocator's are statics, made
//! by `const fn`. loom runs all threads of a model on one OS thread, and
//! [`explore`](crate::explore) runs one model at a time, so nothing here is
//! ever used by two OS threads at once.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static EXECUTION: AtomicU64 = AtomicU64::new(0);

/// Begins an execution: all values are made again.
pub fn renew() {
    EXECUTION.fetch_add(1, Relaxed);
}

/// A value made at its first use in each execution. Zero bytes are a valid one.
///
/// loom holds a value's making against whoever uses it without being ordered
/// after: a model's first thread uses it before it starts others.
#[repr(C)]
pub struct Fresh<T>(UnsafeCell<Slot<T>>);

#[repr(C)]
struct Slot<T> {
    execution: u64,
    value: *mut T,
}

// SAFETY: see the file's head.
unsafe impl<T> Sync for Fresh<T> {}
// SAFETY: as above.
unsafe impl<T> Send for Fresh<T> {}

impl<T> Fresh<T> {
    pub const fn new() -> Fresh<T> {
        Fresh(UnsafeCell::new(Slot { execution: 0, value: std::ptr::null_mut() }))
    }

    /// The value of this execution. A pointer: what is stale is never freed.
    pub fn get(&self, make: impl FnOnce() -> T) -> *mut T {
        let now = EXECUTION.load(Relaxed);
        // SAFETY: one OS thread, and `make` does not come back here.
        unsafe {
            if (*self.0.get()).execution != now {
                let value = Box::into_raw(Box::new(make()));
                *self.0.get() = Slot { execution: now, value };
            }
            (*self.0.get()).value
        }
    }
}

impl<T> Default for Fresh<T> {
    fn default() -> Self {
        Fresh::new()
    }
}
