//! Pointers outside the arena: blocks from aside, and blocks of a neighbour,
//! the C library's own malloc, which some libraries reach past us.

use crate::back::aside;
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::Ordering::{Acquire, Release};

/// Another allocator in the process. Each function takes any address.
#[derive(Debug)]
pub struct Neighbour {
    /// The usable bytes of a live block of its own, else `None`.
    pub usable_size: fn(usize) -> Option<usize>,
    /// Frees a block for which `usable_size` has an answer.
    pub free: fn(usize),
    /// As C's realloc, of such a block.
    pub reallocate: fn(usize, usize) -> *mut u8,
}

static NEIGHBOUR: AtomicPtr<Neighbour> = AtomicPtr::new(core::ptr::null_mut());

/// Blocks of the neighbour's may be given to us from now on.
pub fn set_neighbour(neighbour: &'static Neighbour) {
    NEIGHBOUR.store(core::ptr::from_ref(neighbour).cast_mut(), Release);
}

#[allow(unsafe_code)]
fn neighbour() -> Option<&'static Neighbour> {
    // SAFETY: null, or a reference that `set_neighbour` was given for good.
    unsafe { NEIGHBOUR.load(Acquire).as_ref() }
}

/// Frees the block; false if nobody knows it.
pub fn free(addr: usize) -> bool {
    if aside::free(addr) {
        return true;
    }
    let Some(other) = neighbour().filter(|other| (other.usable_size)(addr).is_some()) else {
        return false;
    };
    (other.free)(addr);
    true
}

/// The usable bytes of the block, `None` if nobody knows it.
pub fn usable_size(addr: usize) -> Option<usize> {
    aside::usable_size(addr).or_else(|| (neighbour()?.usable_size)(addr))
}

/// C's realloc of a neighbour's block; `None` if it is not one.
pub fn reallocate(addr: usize, size: usize) -> Option<*mut u8> {
    if aside::usable_size(addr).is_some() {
        return None;
    }
    let other = neighbour()?;
    (other.usable_size)(addr)?;
    Some((other.reallocate)(addr, size))
}
