//! The middle: batches of objects between the slabs and the spans.
//!
//! `take` and `give` go to the class's transfer cache first, and for the rest
//! to its central list.

pub mod central_free_list;
pub mod transfer_cache;

use crate::units::ClassId;

/// Fills `out` with objects of a class; how many there were (0: no memory).
pub fn take(class: ClassId, out: &mut [usize]) -> usize {
    let got = transfer_cache::take(class, out);
    if got == out.len() {
        return got;
    }
    got + central_free_list::take(class, out.get_mut(got..).unwrap_or_default())
}

/// Takes objects of a class back. Dies on one that is not a block, or is free.
pub fn give(class: ClassId, objects: &mut [usize]) {
    let kept = transfer_cache::give(class, objects);
    central_free_list::give(class, objects.get_mut(kept..).unwrap_or_default());
}
