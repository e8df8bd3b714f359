//! The middle: batches of objects between the slabs and the spans.
//!
//! `take` and `give` go to the class's transfer cache first, and for the rest
//! to its central list. A process with one slab has no transfer caches. Objects
//! that have a span to themselves go to the page heap (`whole`).

pub mod batch;
pub mod central_free_list;
pub mod transfer_cache;
pub mod whole;

use crate::os::fault::Fault;
use crate::units::ClassId;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

/// Whether there are several slabs: with one only, what it gives up nobody else
/// takes, and objects go home to their spans, which hands out neighbours again.
/// Set once; a hint, so relaxed.
pub static SHARED: AtomicBool = AtomicBool::new(false);

/// Fills `out` with objects of a class; how many there were (0: no memory).
pub fn take(class: ClassId, out: &mut [usize]) -> usize {
    if whole::serves(class) {
        return whole::take(class, out);
    }
    let got = if SHARED.load(Relaxed) { transfer_cache::take(class, out) } else { 0 };
    if got == out.len() {
        return got;
    }
    got + central_free_list::take(class, out.get_mut(got..).unwrap_or_default())
}

/// [`take`] past the transfer cache.
pub fn take_home(class: ClassId, out: &mut [usize]) -> usize {
    match whole::serves(class) {
        true => whole::take(class, out),
        false => central_free_list::take(class, out),
    }
}

/// [`give`] past the transfer cache.
pub fn give_home(class: ClassId, objects: &[usize]) {
    match whole::serves(class) {
        true => whole::give(class, objects),
        false => central_free_list::give(class, objects),
    }
}

/// Takes objects of a class back. Dies on one that is not a block, or is free, as
/// far as that is seen: in the central list always, here where a block was freed
/// twice in a row.
pub fn give(class: ClassId, objects: &[usize]) {
    let next = objects.get(1..).unwrap_or_default();
    // No early end: so the comparisons need not come one after the other.
    let twice = objects.iter().zip(next).fold(false, |twice, (a, b)| twice | (a == b));
    if twice {
        die_of_twice(class, objects);
    }
    if whole::serves(class) {
        return whole::give(class, objects);
    }
    let kept = if SHARED.load(Relaxed) { transfer_cache::give(class, objects) } else { 0 };
    central_free_list::give(class, objects.get(kept..).unwrap_or_default());
}

#[cold]
fn die_of_twice(class: ClassId, objects: &[usize]) -> ! {
    let twice = objects.windows(2).find(|pair| pair.first() == pair.last());
    let addr = twice.and_then(|pair| pair.first());
    central_free_list::die_in(class, Fault::DoubleFree, addr.copied().unwrap_or_default())
}
