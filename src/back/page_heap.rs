//! The page heap: spans of pages out of hugepages, under one lock.
//!
//! ```text
//! alloc ── below a hugepage ── filler ──┐
//!   └───── whole hugepages ─────────────┴─ warm ranges ─ cold ranges ─ new arena
//! ```
//! Locks: `PAGE_HEAP` (rank PageHeap). Called by the central lists and by
//! `large`. Memory goes back in `release`, which the heartbeat drives.

#![allow(unsafe_code)]

mod advice;
pub mod release;
mod trade;
pub mod verify;

use crate::back::address_space::AddressSpace;
use crate::back::expected::Expected;
use crate::back::huge_cache::HugeRanges;
use crate::back::huge_filler::{Freed, HugeFiller};
use crate::back::huge_page::{HugePage, HugeState, HugeTable, PageSet};
use crate::back::kept::KeptBlocks;
use crate::back::page_heap::release::{Patience, Release};
use crate::back::page_map::PAGE_MAP;
use crate::back::records::Records;
use crate::back::span::{self, Span};
use crate::config::Config;
use crate::os::lock::{Lock, Rank};
use crate::os::machine::{Machine, Thp};
use crate::size_class;
use crate::units::{
    ClassId, HUGE_BYTES, HUGE_SHIFT, HugeId, PAGE_BYTES, PAGES_PER_HUGE, PageId, Pages,
};
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

/// Pages handed out as spans and blocks, in bytes; and the most that ever was.
/// Written under the lock, read anywhere (a hint, so relaxed).
pub static IN_USE_BYTES: AtomicUsize = AtomicUsize::new(0);
pub static PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);
pub static PAGE_HEAP: Lock<PageHeap> = Lock::new(Rank::PageHeap, PageHeap::EMPTY);

#[derive(Debug)]
pub struct PageHeap {
    space: AddressSpace,
    pub(super) table: HugeTable,
    pub(super) filler: HugeFiller,
    pub(super) warm: HugeRanges,
    cold: HugeRanges,
    pub(super) kept: KeptBlocks,
    pub(super) expected: Expected,
    records: Records,
    policy: Policy,
    /// The least of the filler's free dirty pages since the last look.
    filler_low_pages: u32,
    release: Release,
    /// The most pages that were backed at once, see `trade`.
    most_backed_pages: usize,
    pub counts: Counts,
}

#[derive(Clone, Copy, Debug)]
struct Policy {
    thp: Thp,
    thp_after_bytes: usize,
    os_page_bytes: usize,
    /// Large blocks may move by mremap.
    moves: bool,
    /// How much may be free before memory waits to go back.
    patience: Patience,
    /// Mapped memory counts against a limit: map no more than asked for.
    frugal: bool,
}

/// Since start, or now where the name says so.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    pub in_use_pages: usize,
    /// Spans and large blocks that exist now.
    pub spans: u32,
    pub large_blocks: u32,
    /// Pages given back to the kernel by MADV_DONTNEED.
    pub returned_pages: u64,
    /// Hugepages asked for by MADV_HUGEPAGE.
    pub advised: u32,
    /// Blocks moved by mremap.
    pub moves: u32,
}

/// Half of what the kernel lets a process have (vm.max_map_count): above, blocks
/// are copied, and the other half stays for the application.
const MAPPINGS_MOST: u32 = 32 << 10;
/// New arena is mapped in an eighth of what there is, within these hugepages.
const EXTEND_LEAST: u32 = 4;
const EXTEND_MOST: u32 = 32;

/// Sizes for the statistics, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub mapped: usize,
    /// Free and still backed by memory.
    pub free: usize,
    /// Free and given back (or never touched).
    pub returned: usize,
    pub records: usize,
    pub hugepages_in_use: u32,
}

impl PageHeap {
    const EMPTY: PageHeap = PageHeap {
        space: AddressSpace::EMPTY,
        table: HugeTable::EMPTY,
        filler: HugeFiller::EMPTY,
        warm: HugeRanges::new(true),
        cold: HugeRanges::new(false),
        kept: KeptBlocks::EMPTY,
        expected: Expected::NONE,
        records: Records::NONE,
        policy: Policy {
            thp: Thp::Never,
            thp_after_bytes: 0,
            os_page_bytes: PAGE_BYTES,
            moves: false,
            patience: Patience::WATCH,
            frugal: false,
        },
        filler_low_pages: 0,
        release: Release::NONE,
        most_backed_pages: 0,
        counts: Counts {
            in_use_pages: 0,
            spans: 0,
            large_blocks: 0,
            returned_pages: 0,
            advised: 0,
            moves: 0,
        },
    };

    /// Lays out the address space, unless that is done; false when there is none.
    pub fn start(&mut self, machine: &Machine, config: &Config) -> bool {
        if self.table.count > 0 {
            return true;
        }
        let Some(space) = AddressSpace::find(machine) else { return false };
        self.space = space;
        self.policy = Policy {
            thp: if config.thp { machine.thp } else { Thp::Never },
            thp_after_bytes: config.thp_after_bytes,
            os_page_bytes: machine.os_page_bytes,
            moves: machine.moves_mappings,
            patience: if config.background { Patience::THREAD } else { Patience::WATCH },
            frugal: machine.address_limit_bytes.is_some()
                || machine.data_limited
                || machine.strict_overcommit,
        };
        let s = &self.space;
        span::UNITS_BASE.store(s.units.base, Relaxed); // before any unit exists
        PAGE_MAP.start(s.arena.base, s.page_classes.base, s.page_spans.base);
        let mapped = s.arena.mapped_bytes;
        self.add_arena(0, mapped);
        true
    }

    /// Puts mapped arena among the cold ranges.
    fn add_arena(&mut self, offset: usize, len_bytes: usize) {
        let end = offset + len_bytes;
        let count = (end >> HUGE_SHIFT) as u32;
        // SAFETY: the records were mapped before the arena, and read as zero.
        self.table = unsafe {
            HugeTable::new(with_exposed_provenance_mut(self.space.huge_pages.base), count)
        };
        PAGE_MAP.grow(end / PAGE_BYTES);
        let first = HugeId((offset >> HUGE_SHIFT) as u32);
        self.cold.put(&mut self.table, first, (len_bytes >> HUGE_SHIFT) as u32);
    }

    /// A run of `len` pages of less than a hugepage at a multiple of `align`
    /// pages (at most a hugepage); and whether it is known to be zero.
    ///
    /// Of hugepages in use one is chosen that has the first of `rooms` (in pages) in
    /// one piece; where none has, the next of them counts.
    pub(super) fn take_pages(
        &mut self,
        len: u32,
        align: u32,
        rooms: &[u32],
    ) -> Option<(PageId, bool)> {
        let roomy = |room: &u32| self.filler.take(&mut self.table, len, align, *room);
        let mut taken = rooms.iter().find_map(roomy);
        taken = taken.or_else(|| self.filler.take(&mut self.table, len, align, len));
        if taken.is_none() && self.free_all_kept() {
            taken = self.filler.take(&mut self.table, len, align, len);
        }
        let taken = match taken {
            Some(taken) => taken,
            None => {
                let (id, zero) = self.take_hugepages(1)?;
                if zero {
                    self.advise(id, 1, true);
                }
                self.filler.add(&mut self.table, id);
                // An empty hugepage has the run whatever the alignment.
                self.filler.take_first(&mut self.table, id, len)
            }
        };
        self.filler_low_pages = self.filler_low_pages.min(self.filler.free_dirty_pages);
        self.use_pages(len as usize);
        self.note_backed();
        Some(taken)
    }

    /// Whole hugepages, in a row, in no state; and whether all are zero: then the
    /// caller sees to [`PageHeap::advise`].
    pub(super) fn take_hugepages(&mut self, len: u32) -> Option<(HugeId, bool)> {
        if let Some(id) = self.warm.take(&mut self.table, len) {
            return Some((id, false));
        }
        if self.free_all_kept() {
            return self.take_hugepages(len);
        }
        if len as usize > self.space.arena.limit_bytes() >> HUGE_SHIFT {
            return None;
        }
        // What is free and does not fit would come on top of the new memory.
        let cooled = self.cool(len);
        self.trade_pages(len * PAGES_PER_HUGE, cooled * PAGES_PER_HUGE);
        let id = match self.cold.take(&mut self.table, len) {
            Some(id) => id,
            None => self.extend(len)?,
        };
        Some((id, true))
    }

    /// Maps new arena and takes `len` hugepages of it.
    fn extend(&mut self, len: u32) -> Option<HugeId> {
        let step = (self.table.count / 8).clamp(EXTEND_LEAST, EXTEND_MOST);
        let wished = if self.policy.frugal { len } else { len.max(step) };
        if self.extend_by(wished).is_none() && self.extend_by(len).is_none() {
            // No more address space: warm memory may join cold ranges.
            self.cool(u32::MAX);
        }
        self.cold.take(&mut self.table, len)
    }

    fn extend_by(&mut self, len: u32) -> Option<()> {
        let bytes = (len as usize).checked_mul(HUGE_BYTES)?;
        // Records for the case without holes; with holes they are made after.
        let end = self.space.arena.mapped_bytes.checked_add(bytes)?;
        if end > self.space.arena.limit_bytes() || !self.space.ensure_records(end) {
            return None;
        }
        let before = self.space.arena.mapped_bytes;
        let offset = self.space.arena.extend(bytes)?;
        if !self.space.ensure_records(offset + bytes) {
            self.space.arena.retract(before, offset);
            return None;
        }
        self.add_arena(offset, bytes);
        Some(())
    }

    /// Maps new arena so that it reaches `end` hugepages without a hole.
    pub(super) fn extend_to(&mut self, end: u32) -> bool {
        let before = self.table.count;
        self.extend_by(end - before).is_some() && self.table.count == end
    }

    /// Whether all hugepages of `[first, end)` are free and cold; `first` is at
    /// most `end`.
    pub(super) fn is_cold(&mut self, first: HugeId, end: u32) -> bool {
        first.0 <= end && self.cold.has(&mut self.table, first, end - first.0)
    }

    /// Takes exactly these hugepages if all are cold.
    pub(super) fn take_cold_at(&mut self, first: HugeId, len: u32) -> bool {
        self.cold.take_at(&mut self.table, first, len)
    }

    /// Blocks are copied from now on.
    pub(super) fn never_move(&mut self) {
        self.policy.moves = false;
    }

    /// Whether one more block may be moved by mremap: moves split mappings that
    /// never join again, at most as many as there are hugepages.
    pub(super) fn may_move(&self) -> bool {
        let mappings = self.table.count.min(self.counts.moves.saturating_mul(2));
        self.policy.moves && mappings <= MAPPINGS_MOST
    }

    /// Returns hugepages that are in no state to the ranges.
    pub(super) fn give_hugepages(&mut self, first: HugeId, len: u32, dirty: bool) {
        let ranges = if dirty { &mut self.warm } else { &mut self.cold };
        ranges.put(&mut self.table, first, len);
        self.note_idle();
    }

    pub(super) fn give_pages(&mut self, first: PageId, len: u32) {
        self.unuse_pages(len as usize);
        if self.filler.give(&mut self.table, first, len) == Freed::Whole {
            let dirty = !self.table.at(first.huge().0).dirty.is_empty();
            self.give_hugepages(first.huge(), 1, dirty);
        } else {
            self.note_idle();
        }
    }

    pub(super) fn use_pages(&mut self, pages: usize) {
        self.counts.in_use_pages += pages;
        let bytes = self.counts.in_use_pages * PAGE_BYTES;
        IN_USE_BYTES.store(bytes, Relaxed); // statistics and a hint
        if bytes > PEAK_BYTES.load(Relaxed) {
            PEAK_BYTES.store(bytes, Relaxed);
        }
    }

    pub(super) fn unuse_pages(&mut self, pages: usize) {
        self.counts.in_use_pages -= pages;
        IN_USE_BYTES.store(self.counts.in_use_pages * PAGE_BYTES, Relaxed); // as above
    }

    /// Makes a span for a class, entered in the page map.
    pub fn new_span(&mut self, class: ClassId) -> Option<*mut Span> {
        self.make_span(class).map(|(at, _)| at)
    }

    /// Makes a span of one object, which is taken; the object, and whether it is
    /// known to be zero.
    pub fn new_whole(&mut self, class: ClassId) -> Option<(usize, bool)> {
        let (at, zero) = self.make_span(class)?;
        let mut object = [0];
        // SAFETY: a new span, the caller's.
        unsafe { (*at).take(&mut object) };
        Some((object[0], zero))
    }

    fn make_span(&mut self, class: ClassId) -> Option<(*mut Span, bool)> {
        let info = size_class::info(class);
        let record = self.new_record(span::units_for(info.objects as usize))?;
        let Some((page, zero)) = self.take_pages(info.span_pages as u32, 1, &[]) else {
            self.put_record(record, span::units_for(info.objects as usize));
            return None;
        };
        let at = Span::at(record);
        // SAFETY: fresh units.
        unsafe { Span::init(at, page, info.span_pages(), class) };
        PAGE_MAP.set(page, mapped_pages(class), class, record);
        self.counts.spans += 1;
        Some((at, zero))
    }

    /// Takes back a span of a class that has all its objects.
    ///
    /// # Safety
    /// The span is the caller's and in no list.
    pub unsafe fn free_span(&mut self, at: *mut Span) {
        // SAFETY: the caller's span.
        let (page, pages, class) = unsafe { ((*at).page, (*at).pages, (*at).class) };
        PAGE_MAP.set(page, mapped_pages(class), ClassId::NONE, 0);
        self.counts.spans -= 1;
        // SAFETY: as above; not used after.
        unsafe { self.free_record(at) };
        self.give_pages(page, pages.0);
    }

    pub(super) fn new_record(&mut self, units: u8) -> Option<u32> {
        self.records.take(&mut self.space.units, units)
    }

    /// # Safety
    /// The record is the caller's, and nobody uses it any more.
    pub(super) unsafe fn free_record(&mut self, at: *mut Span) {
        // SAFETY: the caller's duty.
        let (unit, units) = unsafe { ((*at).unit(), (*at).units()) };
        self.put_record(unit, units);
    }

    fn put_record(&mut self, unit: u32, units: u8) {
        let os_page_bytes = self.policy.os_page_bytes;
        self.records.put(unit, units, |addr, len_bytes| {
            os_page_bytes <= len_bytes && self.release.give_back(addr, len_bytes)
        });
    }

    /// Memory for a record of another layer, 128 bytes at a multiple of 128,
    /// zero, never unmapped and never given back.
    pub fn permanent_record(&mut self) -> Option<usize> {
        let unit = self.records.take_permanent(&mut self.space.units)?;
        Some(span::unit_addr(unit))
    }

    pub fn sizes(&self) -> Sizes {
        let s = &self.space;
        let filler_free =
            (self.filler.hugepages * PAGES_PER_HUGE - self.filler.used_pages) as usize;
        let free_pages = self.filler.free_dirty_pages as usize;
        let warm = (self.warm.total as usize) << HUGE_SHIFT;
        Sizes {
            mapped: s.arena.mapped_bytes,
            free: (free_pages + self.kept.pages as usize) * PAGE_BYTES + warm,
            returned: (filler_free - free_pages) * PAGE_BYTES
                + ((self.cold.total as usize) << HUGE_SHIFT),
            records: self.records.bytes()
                + self.table.count as usize * size_of::<HugePage>()
                + s.arena.mapped_bytes / PAGE_BYTES * 5,
            hugepages_in_use: self.table.count - self.warm.total - self.cold.total,
        }
    }
}

/// The pages of a class's spans that the page map names: of a span with one
/// object, which begins where the span does, only the first.
pub fn mapped_pages(class: ClassId) -> Pages {
    let info = size_class::info(class);
    if info.objects == 1 { Pages(1) } else { info.span_pages() }
}

/// The address of a hugepage.
pub fn huge_addr(id: HugeId) -> usize {
    PAGE_MAP.addr_of(id.first_page())
}

/// A block of whole hugepages changes state; the tail goes to the filler.
impl PageHeap {
    pub(super) fn mark_block(&mut self, first: HugeId, len: u32) {
        for id in first.0..first.0 + len {
            let page = self.table.at(id);
            page.state = HugeState::Block;
            page.dirty = PageSet::FULL;
        }
    }

    pub(super) fn mark_clean(&mut self, first: HugeId, len: u32) {
        for id in first.0..first.0 + len {
            self.table.at(id).dirty = PageSet::EMPTY;
        }
    }
}
