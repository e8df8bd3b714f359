//! What locks are made of, and what the models put in its place: `model/`
//! compiles `lock.rs` with loom's atomics here, and with one spin.

pub use core::sync::atomic::AtomicU32;

use spin::relax::{RelaxStrategy, Spin};

/// How often a waiter looks before it sleeps: about 2 µs, longer than a
/// typical hold, shorter than a sleep and a wake-up.
pub const SPINS: u32 = 60;

/// Lets the CPU's other threads go first for some cycles.
#[inline]
pub fn relax() {
    Spin::relax();
}
