//! Each kind of fault is planted in a heap in use, found by the walk, and taken
//! out again.

#![allow(unsafe_code)]

use crate::back::page_heap::{IN_USE_BYTES, PAGE_HEAP};
use crate::back::page_map::PAGE_MAP;
use crate::back::span::{Span, span_of};
use crate::census::Kind;
use crate::front::cpu_cache::{self, OPEN_SLABS};
use crate::front::process;
use crate::front::slab::{STOPPED, header, limits};
use crate::front::take_in;
use crate::heap;
use crate::middle::{central_free_list, transfer_cache};
use crate::os::thread::Inside;
use crate::size_class::{class_of, info};
use crate::units::{Cid, ClassId, HUGE_BYTES, PAGES_PER_HUGE, PageId, Pages};
use crate::watch::walk::walk;
use core::mem::replace;
use core::sync::atomic::Ordering::Relaxed;
use std::collections::BTreeSet;
use std::string::ToString;
use std::vec::Vec;

/// A size whose spans have several pages, and objects that do not fill the last
/// word of the bitmap.
const SIZE: usize = 640;

struct Plants {
    found: BTreeSet<usize>,
}

impl Plants {
    /// `toggle` plants a fault and, called again, takes it out.
    fn plant(&mut self, kind: Kind, mut toggle: impl FnMut()) {
        toggle();
        let broken = walk().expect_err("nothing found");
        assert!(broken.has(kind), "{kind:?} was planted, found was\n{broken}");
        // What the C library's users see names it too.
        assert!(broken.to_string().lines().all(|line| line.starts_with("cidalloc: walk: ")));
        toggle();
        if let Err(broken) = walk() {
            panic!("{kind:?} was taken out, found was\n{broken}");
        }
        self.found.insert(kind as usize);
    }

    /// As [`Plants::plant`], by a number that is wrong by some bits.
    fn number(&mut self, kind: Kind, at: *mut u32, bits: u32) {
        // SAFETY: a number of the heap, which no other thread uses.
        self.plant(kind, || unsafe { *at ^= bits });
    }

    /// As [`Plants::plant`], by another object in a slot.
    fn object(&mut self, kind: Kind, slot: *mut usize, object: usize) {
        let mut other = object;
        // SAFETY: a slot of a slab that no other thread uses.
        self.plant(kind, || unsafe { other = replace(&mut *slot, other) });
    }
}

/// A slab that holds at least two objects of the class.
fn slab_with(class: ClassId) -> (Cid, &'static [usize]) {
    let process = process::get().unwrap();
    (0..process.slabs())
        // SAFETY: no other thread uses the heap.
        .map(|cid| (Cid(cid), unsafe { cpu_cache::verify::objects(Cid(cid), class) }))
        .find(|(_, objects)| objects.len() >= 2)
        .expect("a slab with objects")
}

fn record(addr: usize) -> *mut Span {
    span_of(addr).unwrap()
}

#[test]
#[cfg_attr(miri, ignore = "asks the kernel")]
fn every_kind_of_fault_is_found() {
    let class = class_of(SIZE);
    // One thread has one slab, and would have no transfer caches.
    crate::middle::SHARED.store(true, core::sync::atomic::Ordering::Relaxed);
    let blocks: Vec<usize> = (0..6000).map(|_| heap::allocate(SIZE) as usize).collect();
    let other = heap::allocate(64) as usize;
    let large = heap::allocate(2 * HUGE_BYTES + 100_000) as usize;
    let gone = heap::allocate(3 * HUGE_BYTES) as usize;
    // SAFETY: allocated above; what stays is used to the end.
    unsafe {
        blocks[..5500].iter().for_each(|b| heap::free(*b as *mut u8));
        heap::free(gone as *mut u8);
    }
    let census = walk().unwrap();
    let counts = census.classes[class.index()];
    assert_eq!(counts.live, 500);
    assert!(counts.transfer > 0 && counts.central_free > 0 && counts.cached > 1, "{counts:?}");

    // As in a signal handler that has interrupted the allocator.
    let inside = Inside::enter().unwrap();
    assert!(walk().expect_err("a walk inside").has(Kind::Inside));
    let aside = heap::allocate_aligned(2000, 16);
    drop(inside);
    // Freed by its size, a block from aside is cached like any other.
    // SAFETY: allocated with these.
    unsafe {
        heap::free(heap::allocate(2000));
        heap::free_sized(aside, 2000, 16);
    }
    let counts = walk().unwrap().classes[class_of(2000).index()];
    let objects = u64::from(counts.spans) * u64::from(info(class_of(2000)).objects);
    // Where every free takes the slow path, it went straight home.
    let asides = u64::from(process::get().unwrap().in_sections());
    assert_eq!(counts.cached + counts.central_free, objects + asides, "{counts:?}");
    assert_eq!(counts.live, 0);

    let mut plants = Plants { found: BTreeSet::new() };
    slabs(&mut plants, class, other);
    middle(&mut plants, class);
    spans(&mut plants, &blocks[5500..], large);
    hugepages(&mut plants);

    let all = 0..=Kind::UnitSum as usize;
    let missing: Vec<usize> = all.filter(|kind| !plants.found.contains(kind)).collect();
    // The first is shown in tests/walk.rs, the other above.
    assert_eq!(
        missing,
        [Kind::NoFence as usize, Kind::Inside as usize],
        "kinds of fault that were not planted"
    );
}

fn slabs(plants: &mut Plants, class: ClassId, other: usize) {
    let (cid, objects) = slab_with(class);
    let slab = cpu_cache::state(cid).value();
    let of_class = header(cid, class);
    let slot = objects.as_ptr() as *mut usize;

    let mut word = limits(64, 8);
    plants.plant(Kind::HeaderLimits, || of_class.store_limits(replace(&mut word, STOPPED)));
    let none = header(cid, ClassId::NONE);
    plants.plant(Kind::ClassZeroHeader, || {
        none.end_lo.fetch_xor(8, Relaxed);
    });
    plants.plant(Kind::TopOutside, || {
        of_class.cur.fetch_xor(1 << 40, Relaxed);
    });
    // SAFETY: no other thread uses the heap.
    unsafe {
        plants.plant(Kind::SlotsOutside, || (*slab).plant_array(class));
        plants.plant(Kind::SlotsOverlap, || (*slab).plant_begin(class, class_of(64)));
        plants.plant(Kind::SlabUsed, || (*slab).plant_used(16));
        plants.plant(Kind::SlabBudget, || (*slab).plant_used(1 << 40));
        plants.plant(Kind::BudgetSum, || (*slab).plant_budget());
        plants.plant(Kind::ClosedSlab, || (*slab).open = !(*slab).open);
    }
    plants.plant(Kind::OpenSlabs, || {
        OPEN_SLABS.fetch_xor(1 << 20, Relaxed);
    });
    plants.plant(Kind::RseqAreas, take_in::plant);

    let top = PAGE_MAP.addr_of(PageId(PAGE_MAP.count() as u32 - 1));
    plants.object(Kind::ObjectForeign, slot, &raw const top as usize);
    plants.object(Kind::ObjectNoSpan, slot, top);
    plants.object(Kind::ObjectClass, slot, other);
    plants.object(Kind::ObjectInterior, slot, objects[0] + 16);
    plants.object(Kind::ObjectTwice, slot, objects[1]);
    // SAFETY: no other thread uses the heap.
    let transfer = unsafe { (*transfer_cache::of(class).value()).objects(class)[0] };
    plants.object(Kind::ObjectTwice, slot, transfer);
    // SAFETY: as above.
    unsafe {
        let span = record(objects[0]);
        let offset = objects[0] - (*span).addr();
        let index = (offset / info(class).size_bytes as usize) as u32;
        plants.plant(Kind::ObjectFree, || (*span).flip(index));
    }
}

fn middle(plants: &mut Plants, class: ClassId) {
    let central = central_free_list::of(class).value();
    // SAFETY: no other thread uses the heap.
    unsafe {
        plants.plant(Kind::TransferCounts, || (*transfer_cache::of(class).value()).plant());
        plants.number(Kind::CentralFree, &raw mut (*central).free, 1);
        plants.number(Kind::CentralSpans, &raw mut (*central).spans, 1);
        let head = (*central).plant_heads().iter_mut().find(|unit| **unit != 0).unwrap();
        let span = Span::at(*head);
        plants.number(Kind::CentralListed, head, *head);
        plants.number(Kind::CentralRecord, head, 1 << 31);
        plants.number(Kind::CentralLink, &raw mut (*span).prev, 1);
        plants.plant(Kind::CentralPlace, || (*span).list ^= 8);
        // A span that is in its list twice, or in a loop.
        let old = (*span).next;
        plants.number(Kind::CentralLink, &raw mut (*span).next, old ^ (*span).unit());
    }
}

fn spans(plants: &mut Plants, blocks: &[usize], large: usize) {
    // SAFETY: no other thread uses the heap.
    unsafe {
        let span = record(blocks[0]);
        let (page, class, unit) = ((*span).page, (*span).class, (*span).unit());
        assert!((*span).pages.0 > 1 && (*span).objects() % 64 != 0);
        let entry = (class, unit);
        let mut set = |kind, wrong| {
            let mut next = wrong;
            plants.plant(kind, || {
                let (class, unit) = replace(&mut next, entry);
                PAGE_MAP.set(page.plus(1), Pages(1), class, unit);
            });
        };
        set(Kind::MapClass, (ClassId(class.0 + 1), unit));
        set(Kind::MapUnit, (class, 0));
        set(Kind::MapUnit, (class, unit + 1));
        plants.plant(Kind::MapLength, || {
            let len = PAGE_MAP.count() ^ (1 << 24);
            PAGE_MAP.grow(len);
        });
        plants.plant(Kind::SpanFree, || (*span).free ^= 1);
        plants.plant(Kind::SpanFree, || (*span).flip(1));
        let last = u32::from((*span).objects());
        plants.plant(Kind::SpanBits, || (*span).flip(last));
        let list = (*span).list.max(1);
        plants.plant(Kind::SpanPlace, || (*span).list ^= list);
        plants.plant(Kind::SpanShape, || (*span).pages.0 ^= 1);
        let block = record(large);
        plants.plant(Kind::BlockShape, || (*block).pages.0 ^= PAGES_PER_HUGE);
        // A stray entry within a block.
        let inner = PAGE_MAP.page_of(large + HUGE_BYTES).unwrap();
        let mut wrong = unit;
        plants.plant(Kind::MapUnit, || {
            PAGE_MAP.set(inner, Pages(1), ClassId::NONE, replace(&mut wrong, 0));
        });
    }
}

fn hugepages(plants: &mut Plants) {
    // SAFETY: no other thread uses the heap.
    let heap = unsafe { &mut *PAGE_HEAP.value() };
    heap.plant(|kind, toggle| plants.plant(kind, toggle));
    plants.plant(Kind::InUse, || {
        IN_USE_BYTES.fetch_xor(1 << 13, Relaxed);
    });
}
