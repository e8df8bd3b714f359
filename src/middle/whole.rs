//! Classes whose spans are one object: straight between the slabs and the page
//! heap.
//!
//! For these a transfer cache would only keep memory that the page heap can give
//! to every class, and a central list would have nothing to list. Such a span has
//! its record like any other, with no free object, and its first page alone in
//! the page map, as a large block has.
//! Locks: the page heap's.

#![allow(unsafe_code)]

use crate::back::aside;
use crate::back::page_heap::{PAGE_HEAP, PageHeap};
use crate::back::span::span_of;
use crate::middle::central_free_list::die_in;
use crate::os::fault::Fault;
use crate::os::slice;
use crate::size_class::{self, info};
use crate::units::ClassId;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

/// By class: objects that exist. Written under the page heap's lock, and read as
/// statistics, so relaxed.
static SPANS: [AtomicU32; size_class::COUNT] = [const { AtomicU32::new(0) }; size_class::COUNT];

/// Whether this is how the class is served.
pub fn serves(class: ClassId) -> bool {
    info(class).objects == 1
}

/// The spans of a class that exist.
pub fn spans(class: ClassId) -> u32 {
    SPANS.get(class.index()).map_or(0, |spans| spans.load(Relaxed))
}

/// Counts objects made (or, below zero, given back); the caller holds the lock.
fn count(class: ClassId, change: i32) {
    if let Some(spans) = SPANS.get(class.index()) {
        spans.store(spans.load(Relaxed).wrapping_add_signed(change), Relaxed);
    }
}

fn make(heap: &mut PageHeap, class: ClassId) -> Option<(usize, bool)> {
    let made = heap.new_whole(class)?;
    count(class, 1);
    Some(made)
}

/// Fills `out`; how many objects there were.
pub fn take(class: ClassId, out: &mut [usize]) -> usize {
    let mut heap = PAGE_HEAP.lock();
    let mut taken = 0;
    for slot in out {
        let Some((addr, _)) = make(&mut heap, class) else { break };
        *slot = addr;
        taken += 1;
    }
    taken
}

/// One object, and whether it is known to be zero.
pub fn take_one(class: ClassId) -> Option<(usize, bool)> {
    let _asked = slice::ask();
    make(&mut PAGE_HEAP.lock(), class)
}

/// Gives objects back. Dies on one that is not a block of the class.
pub fn give(class: ClassId, objects: &[usize]) {
    if objects.is_empty() {
        return;
    }
    let mut heap = PAGE_HEAP.lock();
    for &addr in objects {
        let at = match span_of(addr) {
            Ok(at) => at,
            // Freed by its size, a block from aside has come this way.
            Err(Fault::Foreign) if aside::free(addr) => continue,
            Err(fault) => die_in(class, fault, addr),
        };
        // SAFETY: records are never unmapped; a stale one fails the checks.
        let (of, start) = unsafe { ((*at).class, (*at).addr()) };
        if of != class {
            die_in(class, Fault::NotAllocated, addr);
        }
        if start != addr {
            die_in(class, Fault::Interior, addr);
        }
        // SAFETY: the span's only object is here; the map named the record, so
        // it is live, and in no list.
        unsafe { heap.free_span(at) };
        count(class, -1);
    }
}
