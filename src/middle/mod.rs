//! The middle: batches of objects between the slabs and the spans.
//!
//! `take` and `give` go to the class's transfer cache first, and for the rest
//! to its central list.

pub mod central_free_list;
pub mod transfer_cache;

use crate::os::fault::Fault;
use crate::units::ClassId;

/// Fills `out` with objects of a class; how many there were (0: no memory).
pub fn take(class: ClassId, out: &mut [usize]) -> usize {
    let got = transfer_cache::take(class, out);
    if got == out.len() {
        return got;
    }
    got + central_free_list::take(class, out.get_mut(got..).unwrap_or_default())
}

/// Takes objects of a class back. Dies on one that is not a block, or is free, as
/// far as that is seen: in the central list always, here where a block was freed
/// twice in a row.
pub fn give(class: ClassId, objects: &mut [usize]) {
    let twice = objects.windows(2).find(|pair| pair.first() == pair.last());
    if let Some(&addr) = twice.and_then(|pair| pair.first()) {
        central_free_list::die_in(class, Fault::DoubleFree, addr);
    }
    let kept = transfer_cache::give(class, objects);
    central_free_list::give(class, objects.get_mut(kept..).unwrap_or_default());
}
