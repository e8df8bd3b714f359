//! Checks everything below the central lists against the page map, page by page.
//!
//! Every page of the arena belongs to exactly one thing: a small span, a large
//! block, or nothing. The sums of what is met must be those that the page heap,
//! the filler and the ranges keep.

#![allow(unsafe_code)]

use crate::back::huge_filler::Totals;
#[cfg(test)]
use crate::back::huge_page::HugePage;
use crate::back::huge_page::{HugeState, PageSet};
use crate::back::page_heap::{IN_USE_BYTES, PEAK_BYTES, PageHeap, huge_addr, mapped_pages};
use crate::back::page_map::PAGE_MAP;
use crate::back::span::{self, Span};
use crate::census::{Broken, Kind};
use crate::size_class::{self, info};
use crate::units::{ClassId, HugeId, PAGE_BYTES, PAGES_PER_HUGE, PageId};
use core::sync::atomic::Ordering::Relaxed;

/// What the pages' walk met.
#[derive(Debug)]
pub struct Tally {
    /// By class: spans, those with free objects, and these objects.
    pub spans: [u32; size_class::COUNT],
    pub partial: [u32; size_class::COUNT],
    pub free: [u64; size_class::COUNT],
    pub large_blocks: u32,
    pub large_pages: usize,
    span_pages: usize,
    kept_pages: u32,
    units: u32,
}

impl Tally {
    const NONE: Tally = Tally {
        spans: [0; size_class::COUNT],
        partial: [0; size_class::COUNT],
        free: [0; size_class::COUNT],
        large_blocks: 0,
        large_pages: 0,
        span_pages: 0,
        kept_pages: 0,
        units: 0,
    };
}

/// What the hugepages' records say.
#[derive(Debug, Default)]
struct HugeCounts {
    filler: Totals,
    roomy: u32,
    warm: u32,
    cold: u32,
}

impl PageHeap {
    /// Checks page map, spans, blocks, hugepages and records. The caller holds
    /// every lock.
    pub fn verify(&mut self, found: &mut Broken) -> Tally {
        let mut tally = Tally::NONE;
        let mut huge = HugeCounts::default();
        let pages = (self.table.count * PAGES_PER_HUGE) as usize;
        found.same(Kind::MapLength, ClassId::NONE, 0, PAGE_MAP.count(), pages);
        // Pages below are accounted for.
        let mut next = 0;
        for id in 0..self.table.count {
            self.verify_hugepage(id, &mut huge, found);
            while next < (id + 1) * PAGES_PER_HUGE {
                next += self.verify_page(PageId(next), &mut tally, found);
            }
        }
        self.verify_sums(&tally, &huge, found);
        tally
    }

    /// The record at a unit, if that is one that can be read.
    pub fn record(&self, unit: u32) -> Option<*mut Span> {
        if !self.records.holds(unit, 1) {
            return None;
        }
        let at = Span::at(unit);
        // SAFETY: units in use are mapped and were written as records (or
        // as something else, whose bytes are checked like a record's).
        let (class, units) = unsafe { ((*at).class.index(), u32::from((*at).units())) };
        let right = class < size_class::COUNT
            && units == u32::from(span::units_for(info(ClassId(class as u8)).objects as usize))
            && self.records.holds(unit, units);
        right.then_some(at)
    }

    /// The span and the object in it that `addr` is, for a cached object.
    pub fn object(&self, class: ClassId, addr: usize) -> Result<(*mut Span, u32), Kind> {
        let page = PAGE_MAP.page_of(addr).ok_or(Kind::ObjectForeign)?;
        let at = self.record(PAGE_MAP.span_unit(page)).ok_or(Kind::ObjectNoSpan)?;
        // SAFETY: a record that can be read.
        let span = unsafe { &*at };
        if page < span.page || page.0 - span.page.0 >= span.pages.0 {
            return Err(Kind::ObjectNoSpan);
        }
        if span.class != class {
            return Err(Kind::ObjectClass);
        }
        if span.pages != info(class).span_pages() {
            return Err(Kind::ObjectNoSpan);
        }
        let index = info(class).object_index(addr - span.addr()).ok_or(Kind::ObjectInterior)?;
        Ok((at, index))
    }

    fn verify_hugepage(&mut self, id: u32, huge: &mut HugeCounts, found: &mut Broken) {
        let at = huge_addr(HugeId(id));
        let page = self.table.at(id);
        let (used, dirty) = (page.used, page.dirty);
        let clean = match page.state {
            HugeState::Filler => {
                let room = used.longest_gap();
                huge.filler.hugepages += 1;
                huge.filler.used_pages += used.len();
                huge.filler.free_dirty_pages += dirty.minus(&used).len();
                huge.roomy += u32::from(room > 0);
                found.same(
                    Kind::FillerPlace,
                    ClassId::NONE,
                    at,
                    usize::from(page.longest),
                    room as usize,
                );
                found.check(!used.is_empty(), Kind::UsedPages, ClassId::NONE, at);
                used.minus(&dirty).is_empty()
            }
            HugeState::Block => dirty == PageSet::FULL,
            HugeState::Free if page.warm => {
                huge.warm += 1;
                true
            }
            HugeState::Free => {
                huge.cold += 1;
                dirty.is_empty()
            }
            HugeState::Absent => dirty.is_empty(),
        };
        found.check(clean, Kind::DirtyPages, ClassId::NONE, at);
        let right = page.state == HugeState::Filler || used.is_empty();
        found.check(right, Kind::UsedPages, ClassId::NONE, at);
    }

    /// Checks what begins at a page; how many pages that is.
    fn verify_page(&mut self, page: PageId, tally: &mut Tally, found: &mut Broken) -> u32 {
        let (unit, class) = (PAGE_MAP.span_unit(page), PAGE_MAP.class_of_page(page));
        let at = PAGE_MAP.addr_of(page);
        if unit == 0 {
            found.check(class == ClassId::NONE, Kind::MapClass, class, at);
            if let Some(len) = self.verify_kept(page, tally, found) {
                return len;
            }
            return self.verify_free(page, found);
        }
        let Some(record) = self.record(unit) else {
            found.check(false, Kind::MapUnit, class, at);
            return 1;
        };
        // SAFETY: a record that can be read; all locks are held.
        let span = unsafe { &mut *record };
        let len = span.pages.0;
        let end = page.0.checked_add(len);
        let arena = self.table.count * PAGES_PER_HUGE;
        if span.page != page || len == 0 || end.is_none_or(|end| end > arena) {
            found.check(false, Kind::MapUnit, class, at);
            return 1;
        }
        found.check(class == span.class, Kind::MapClass, class, at);
        tally.units += u32::from(span.units());
        if span.class == ClassId::NONE {
            tally.large_blocks += 1;
            tally.large_pages += len as usize;
            self.verify_block(page, len, found);
        } else {
            self.verify_span(span, tally, found);
        }
        len
    }

    /// Checks the kept block that starts at a page, if one does: like a live one, but
    /// that the page map does not know it. How many pages it has.
    fn verify_kept(&mut self, page: PageId, tally: &mut Tally, found: &mut Broken) -> Option<u32> {
        let starts = |unit: &u32| {
            // SAFETY: a record that can be read; all locks are held.
            self.record(*unit).is_some_and(|at| unsafe { (*at).page == page })
        };
        let at = Span::at(self.kept.units().find(starts)?);
        // SAFETY: as above.
        let (class, len) = unsafe { ((*at).class, (*at).pages.0) };
        let arena = self.table.count * PAGES_PER_HUGE;
        if class != ClassId::NONE || len == 0 || page.0.checked_add(len).is_none_or(|e| e > arena) {
            found.check(false, Kind::BlockShape, class, PAGE_MAP.addr_of(page));
            return None;
        }
        tally.units += 1;
        tally.kept_pages += len;
        self.verify_block(page, len, found);
        Some(len)
    }

    /// Checks that nothing uses a page; how many pages were looked at.
    fn verify_free(&mut self, page: PageId, found: &mut Broken) -> u32 {
        let at = PAGE_MAP.addr_of(page);
        let huge = self.table.at(page.huge().0);
        if huge.state == HugeState::Block {
            found.check(false, Kind::StrayBlock, ClassId::NONE, at);
            return PAGES_PER_HUGE - page.within();
        }
        let used = huge.used.count(page.within(), 1) > 0;
        found.check(!used, Kind::UsedPages, ClassId::NONE, at);
        1
    }

    /// Checks the pages of a span or of a block's tail: in one hugepage of the
    /// filler, and used there.
    fn in_filler(&mut self, page: PageId, len: u32) -> bool {
        let huge = self.table.at(page.huge().0);
        huge.state == HugeState::Filler
            && page.within() + len <= PAGES_PER_HUGE
            && huge.used.count(page.within(), len) == len
    }

    fn verify_span(&mut self, span: &mut Span, tally: &mut Tally, found: &mut Broken) {
        let (class, unit, at) = (span.class, span.unit(), span.addr());
        let right = span.pages == info(class).span_pages();
        found.check(right, Kind::SpanShape, class, at);
        let used = self.in_filler(span.page, span.pages.0);
        found.check(used, Kind::UsedPages, class, at);
        let mapped = mapped_pages(class).0;
        for n in 1..span.pages.0 {
            let page = span.page.plus(n);
            let named = if n < mapped { (unit, class) } else { (0, ClassId::NONE) };
            let at = PAGE_MAP.addr_of(page);
            found.check(PAGE_MAP.span_unit(page) == named.0, Kind::MapUnit, class, at);
            found.check(PAGE_MAP.class_of_page(page) == named.1, Kind::MapClass, class, at);
        }
        let (free, beyond) = span.bits();
        found.same(Kind::SpanFree, class, at, usize::from(span.free), free as usize);
        found.check(beyond == 0, Kind::SpanBits, class, at);
        // A span that has all its objects goes home; a full one is in no list.
        let placed = span.free < span.objects() && (span.free == 0) == (span.list == 0);
        found.check(placed, Kind::SpanPlace, class, at);
        tally.span_pages += span.pages.0 as usize;
        // A ClassId of a record is below COUNT.
        tally.spans[class.index()] += 1;
        tally.partial[class.index()] += u32::from(span.free > 0);
        tally.free[class.index()] += u64::from(span.free);
    }

    fn verify_block(&mut self, page: PageId, len: u32, found: &mut Broken) {
        let none = ClassId::NONE;
        let (whole, tail) = (len / PAGES_PER_HUGE, len % PAGES_PER_HUGE);
        let right = if whole == 0 {
            self.in_filler(page, len)
        } else {
            let first = page.huge().0;
            page.within() == 0
                && (first..first + whole).all(|id| self.table.at(id).state == HugeState::Block)
                && (tail == 0 || self.in_filler(HugeId(first + whole).first_page(), tail))
        };
        found.check(right, Kind::BlockShape, none, PAGE_MAP.addr_of(page));
        for page in (1..len).map(|n| page.plus(n)) {
            let at = PAGE_MAP.addr_of(page);
            found.check(PAGE_MAP.span_unit(page) == 0, Kind::MapUnit, none, at);
            found.check(PAGE_MAP.class_of_page(page) == none, Kind::MapClass, none, at);
        }
    }

    fn verify_sums(&mut self, tally: &Tally, huge: &HugeCounts, found: &mut Broken) {
        let none = ClassId::NONE;
        self.filler.verify(&mut self.table, &huge.filler, huge.roomy, found);
        self.warm.verify(&mut self.table, huge.warm, found);
        self.cold.verify(&mut self.table, huge.cold, found);
        let counts = &self.counts;
        let pages = tally.span_pages + tally.large_pages;
        found.same(Kind::InUse, none, 0, counts.in_use_pages, pages);
        let bytes = IN_USE_BYTES.load(Relaxed); // written under the lock that is held
        found.same(Kind::InUse, none, 0, bytes, counts.in_use_pages * PAGE_BYTES);
        found.check(bytes <= PEAK_BYTES.load(Relaxed), Kind::InUse, none, 0);
        let spans = tally.spans.iter().sum::<u32>() as usize;
        found.same(Kind::SpanCount, none, 0, counts.spans as usize, spans);
        let blocks = tally.large_blocks as usize;
        found.same(Kind::LargeCount, none, 0, counts.large_blocks as usize, blocks);
        let kept = self.kept.pages as usize;
        found.same(Kind::KeptBlocks, none, 0, kept, tally.kept_pages as usize);
        self.records.verify(tally.units, found);
    }
}

#[cfg(test)]
impl PageHeap {
    /// Faults for the walk's test: calls `plant` with each kind and a function
    /// that plants a fault of the kind or takes it out.
    pub fn plant(&mut self, mut plant: impl FnMut(Kind, &mut dyn FnMut())) {
        let count = self.table.count;
        let find = |heap: &mut PageHeap, state, warm| {
            let right = |page: &HugePage| page.state == state && page.warm == warm;
            (0..count).find(|id| right(heap.table.at(*id))).expect("such a hugepage")
        };
        let heap: *mut PageHeap = self;
        // SAFETY: one test thread; the walk it calls makes references of its own
        // to the heap, and none of these lives across it.
        unsafe {
            let mut table = (*heap).table;
            let used = (0..count).find(|id| (*heap).table.at(*id).state == HugeState::Filler);
            let filler: *mut HugePage = table.at(used.expect("a hugepage in the filler"));
            let (free, _) = (*filler).used.gaps().next().expect("room in it");
            let mut there = false;
            let mut toggle_used = || {
                there = !there;
                let used = &mut (*filler).used;
                if there { used.insert(free, 1) } else { used.remove(free, 1) }
            };
            plant(Kind::UsedPages, &mut toggle_used);
            let old = (*filler).dirty;
            let mut dirty = PageSet::EMPTY;
            plant(Kind::DirtyPages, &mut || {
                (*filler).dirty = core::mem::replace(&mut dirty, old);
            });
            plant(Kind::FillerPlace, &mut || (*filler).longest ^= 1);
            plant(Kind::FillerLink, &mut || (*filler).prev ^= 1);
            let list = usize::from((*filler).longest);
            let head = &raw mut (*heap).filler.plant_heads()[list];
            let mut other = u32::MAX;
            plant(Kind::FillerLists, &mut || other = core::mem::replace(&mut *head, other));
            plant(Kind::FillerTotals, &mut || (*heap).filler.free_dirty_pages ^= 1);
            plant(Kind::FillerTotals, &mut || (*heap).filler.used_pages ^= 1);
            plant(Kind::FillerTotals, &mut || (*heap).filler.hugepages ^= 1);

            let warm: *mut HugePage = table.at(find(&mut *heap, HugeState::Free, true));
            plant(Kind::RangeLink, &mut || (*warm).prev ^= 1);
            plant(Kind::RangeShape, &mut || (*warm).range_len ^= 1);
            plant(Kind::RangeTotals, &mut || (*heap).warm.total ^= 1);
            let mut state = HugeState::Block;
            plant(Kind::StrayBlock, &mut || {
                state = core::mem::replace(&mut (*warm).state, state);
            });
            let cold: *mut HugePage = table.at(find(&mut *heap, HugeState::Free, false));
            plant(Kind::RangeTotals, &mut || (*cold).warm ^= true);

            plant(Kind::InUse, &mut || (*heap).counts.in_use_pages ^= 1);
            plant(Kind::SpanCount, &mut || (*heap).counts.spans ^= 1);
            plant(Kind::LargeCount, &mut || (*heap).counts.large_blocks ^= 1);
            plant(Kind::KeptBlocks, &mut || (*heap).kept.pages ^= 1);
            for kind in [Kind::UnitSum, Kind::UnitList] {
                plant(kind, &mut || (*heap).records.plant(kind));
            }
        }
    }
}
