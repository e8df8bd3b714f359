//! Exact counts of allocations and frees, for processes that asked for them.
//!
//! With `CIDALLOC_COUNT=1` every operation takes the slow path, which counts.

use crate::front::process::Process;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

/// Operations counted. Relaxed: nothing is ordered by a count.
pub static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
pub static FREES: AtomicU64 = AtomicU64::new(0);

#[inline]
pub fn count_allocation(process: &Process) {
    if process.config.count {
        ALLOCATIONS.fetch_add(1, Relaxed);
    }
}

#[inline]
pub fn count_free(process: &Process) {
    if process.config.count {
        FREES.fetch_add(1, Relaxed);
    }
}
