//! Central free lists: per class, the spans that have free objects, by
//! occupancy.
//!
//! Objects come from the fullest span that has any, so that sparse spans
//! become empty and go home. List n holds spans whose free share is in
//! ((n - 1) / LISTS, n / LISTS]; spans without free objects are in no list.
//!
//! Invariant: `free` = sum of the listed spans' free objects.
//! Locks: one per class (rank Central), then the page heap.

#![allow(unsafe_code)]

use crate::back::aside;
use crate::back::page_heap::verify::Tally;
use crate::back::page_heap::{PAGE_HEAP, PageHeap};
use crate::back::page_map::PAGE_MAP;
use crate::back::span::{Span, span_of, unit_addr};
use crate::census::{Broken, Kind};
use crate::middle::whole;
use crate::os::fault::{Fault, die_knowing};
use crate::os::fetch::fetch;
use crate::os::lock::{Lock, Rank};
use crate::size_class;
use crate::units::{ClassId, PAGE_SHIFT};

const LISTS: usize = 8;
/// The list number of a span that is in none.
const UNLISTED: u8 = 0;

#[derive(Debug)]
pub struct Central {
    /// Heads as units, by list number minus one.
    heads: [u32; LISTS],
    pub spans: u32,
    /// Free objects in the spans.
    pub free: u32,
    pub acquisitions: u64,
}

#[derive(Debug)]
#[repr(align(128))]
struct PerClass(Lock<Central>);

static CENTRAL: [PerClass; size_class::COUNT] =
    [const { PerClass(Lock::new(Rank::Central, Central::EMPTY)) }; size_class::COUNT];

/// The lock of a class's list.
pub fn of(class: ClassId) -> &'static Lock<Central> {
    // A ClassId is below COUNT.
    &CENTRAL[class.index()].0
}

/// Fills `out`; how many objects there were.
pub fn take(class: ClassId, out: &mut [usize]) -> usize {
    let mut central = of(class).lock();
    central.acquisitions += 1;
    let mut taken = 0;
    while let Some(rest) = out.get_mut(taken..).filter(|r| !r.is_empty()) {
        let Some(span) = central.fullest().or_else(|| central.grow(class)) else { break };
        // SAFETY: a listed span of this class, and its lock is held.
        let span = unsafe { &mut *span };
        let got = span.take(rest);
        taken += got;
        central.free -= got as u32;
        central.relist(span);
    }
    taken
}

/// Takes objects back into their spans; empty spans go home. Dies on an object
/// that is not one of the class or is free already.
pub fn give(class: ClassId, objects: &[usize]) {
    if objects.is_empty() {
        return;
    }
    let scattered = fetch_records(objects) > objects.len() / 2;
    let info = size_class::info(class);
    let mut central = of(class).lock();
    central.acquisitions += 1;
    let mut rest = objects;
    while let Some(&addr) = rest.first() {
        let at = match span_of(addr) {
            Ok(at) => at,
            // Freed by its size, a block from aside has come this way.
            Err(Fault::Foreign) if aside::free(addr) => {
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            Err(fault) => die_in(class, fault, addr),
        };
        // SAFETY: records are never unmapped; the class is checked before use.
        let span = unsafe { &mut *at };
        if span.class != class {
            die_in(class, Fault::NotAllocated, addr);
        }
        let given = match scattered {
            true => span.give(info, addr).map(|()| 1),
            false => span.give_run(info, rest),
        };
        let given = match given {
            Ok(0) => die_in(class, Fault::Corrupt, addr),
            Ok(given) => given,
            Err(wrong) => die_in(class, wrong.fault, wrong.addr),
        };
        central.free += given as u32;
        rest = rest.get(given..).unwrap_or_default();
        if span.free == info.objects {
            central.retire(span);
        } else if info.eighths(span.free) != span.list {
            central.relist(span);
        }
    }
}

/// Asks for the records of the objects' spans, all at once and before the lock is
/// taken: objects that were freed here and there find none of them in the cache.
/// Returns how often the page changes from one object to the next.
fn fetch_records(objects: &[usize]) -> usize {
    let (mut last, mut changes) = (0, 0);
    for &addr in objects {
        if (addr ^ last) >> PAGE_SHIFT != 0 {
            (last, changes) = (addr, changes + 1);
            if let Some(page) = PAGE_MAP.page_of(addr) {
                fetch(unit_addr(PAGE_MAP.span_unit(page)));
            }
        }
    }
    changes
}

/// The list that a span belongs in.
fn list_of(span: &Span) -> u8 {
    const { assert!(LISTS == 8) };
    size_class::info(span.class).eighths(span.free)
}

/// The end of a process that freed `addr` as one of the class.
#[cold]
pub fn die_in(class: ClassId, fault: Fault, addr: usize) -> ! {
    let size = size_class::info(class).size_bytes;
    die_knowing(fault, addr, format_args!(", freed into the class of {size} bytes"))
}

impl Central {
    /// Checks lists and counts; `tally` is what the page map says.
    pub fn verify(&self, class: ClassId, heap: &PageHeap, tally: &Tally, found: &mut Broken) {
        let (mut listed, mut free) = (0, 0);
        for (list, &head) in (UNLISTED + 1..).zip(&self.heads) {
            // No loop: a span met again would have another one before it.
            let (mut unit, mut before) = (head, 0);
            while unit != 0 {
                let Some(at) = heap.record(unit) else {
                    found.check(false, Kind::CentralRecord, class, unit as usize);
                    break;
                };
                // SAFETY: a record that can be read; all locks are held.
                let span = unsafe { &*at };
                if span.prev != before {
                    found.check(false, Kind::CentralLink, class, unit as usize);
                    break;
                }
                if span.class != class || span_of(span.addr()) != Ok(at) {
                    found.check(false, Kind::CentralRecord, class, unit as usize);
                    break;
                }
                let right = span.list == list && list_of(span) == list;
                found.check(right, Kind::CentralPlace, class, unit as usize);
                listed += 1;
                free += usize::from(span.free);
                (before, unit) = (unit, span.next);
            }
        }
        let i = class.index();
        let (spans, partial) = (tally.spans[i] as usize, tally.partial[i] as usize);
        found.same(Kind::CentralListed, class, 0, listed, partial);
        // Spans of one object are in no list.
        let ours = if whole::serves(class) { whole::spans(class) } else { self.spans };
        found.same(Kind::CentralSpans, class, 0, ours as usize, spans);
        found.same(Kind::CentralFree, class, 0, self.free as usize, free);
        found.same(Kind::CentralFree, class, 0, self.free as usize, tally.free[i] as usize);
    }

    const EMPTY: Central = Central { heads: [0; LISTS], spans: 0, free: 0, acquisitions: 0 };

    /// The lists' heads, for the walk's test to break.
    #[cfg(test)]
    pub fn plant_heads(&mut self) -> &mut [u32] {
        &mut self.heads
    }

    fn fullest(&self) -> Option<*mut Span> {
        self.heads.iter().find(|unit| **unit != 0).map(|unit| Span::at(*unit))
    }

    fn grow(&mut self, class: ClassId) -> Option<*mut Span> {
        let span = PAGE_HEAP.lock().new_span(class)?;
        self.spans += 1;
        // SAFETY: a new span, ours under this lock.
        let span = unsafe { &mut *span };
        self.free += u32::from(span.free);
        self.relist(span);
        Some(span)
    }

    /// Puts a span into the list of its occupancy.
    fn relist(&mut self, span: &mut Span) {
        let list = list_of(span);
        if list == span.list {
            return;
        }
        self.unlink(span);
        if list == UNLISTED {
            return;
        }
        let unit = span.unit();
        if let Some(head) = self.heads.get_mut(list as usize - 1) {
            span.next = *head;
            span.prev = 0;
            if *head != 0 {
                // SAFETY: the head is a listed span under this lock.
                unsafe { (*Span::at(*head)).prev = unit };
            }
            *head = unit;
        }
        span.list = list;
    }

    fn unlink(&mut self, span: &mut Span) {
        if span.list == UNLISTED {
            return;
        }
        // SAFETY: neighbours are listed spans under this lock.
        unsafe {
            if span.next != 0 {
                (*Span::at(span.next)).prev = span.prev;
            }
            if span.prev != 0 {
                (*Span::at(span.prev)).next = span.next;
            } else if let Some(head) = self.heads.get_mut(span.list as usize - 1) {
                *head = span.next;
            }
        }
        span.list = UNLISTED;
    }

    /// Sends an empty span home.
    fn retire(&mut self, span: &mut Span) {
        self.unlink(span);
        self.spans -= 1;
        self.free -= u32::from(span.free);
        // SAFETY: all its objects are here and it is in no list.
        unsafe { PAGE_HEAP.lock().free_span(span) };
    }
}
