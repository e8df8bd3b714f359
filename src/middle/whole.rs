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
use crate::back::page_heap::PAGE_HEAP;
use crate::back::span::span_of;
use crate::middle::central_free_list::die_in;
use crate::os::fault::Fault;
use crate::size_class::info;
use crate::units::ClassId;

/// Whether this is how the class is served.
pub fn serves(class: ClassId) -> bool {
    info(class).objects == 1
}

/// Fills `out`; how many objects there were.
pub fn take(class: ClassId, out: &mut [usize]) -> usize {
    let mut heap = PAGE_HEAP.lock();
    let mut taken = 0;
    for slot in out {
        let Some((addr, _)) = heap.new_whole(class) else { break };
        *slot = addr;
        taken += 1;
    }
    taken
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
    }
}
