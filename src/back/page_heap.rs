//! The page heap: spans of pages out of hugepages, under one lock.
//!
//! ```text
//! alloc ── below a hugepage ── filler ──┐
//!   └───── whole hugepages ─────────────┴─ warm ranges ─ cold ranges ─ new arena
//! ```
//! Locks: `PAGE_HEAP` (rank PageHeap). Called by the central lists and by
//! `large`. Memory goes back in `release_slice`, which the heartbeat calls.

#![allow(unsafe_code)]

mod advice;
mod trade;
pub mod verify;

use crate::back::address_space::AddressSpace;
use crate::back::expected::Expected;
use crate::back::huge_cache::HugeRanges;
use crate::back::huge_filler::{Freed, HugeFiller};
use crate::back::huge_page::{HugePage, HugeState, HugeTable, PageSet};
use crate::back::kept::KeptBlocks;
use crate::back::page_map::PAGE_MAP;
use crate::back::records::Records;
use crate::back::span::{self, Span};
use crate::config::Config;
use crate::os::lock::{Lock, Rank};
use crate::os::machine::{Machine, Thp};
use crate::os::sys;
use crate::size_class;
use crate::units::{
    ClassId, HUGE_BYTES, HUGE_SHIFT, HugeId, PAGE_BYTES, PAGES_PER_HUGE, PageId, Pages,
};
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicUsize};

/// Pages handed out as spans and blocks, in bytes; and the most that ever was.
/// Written under the lock, read anywhere (a hint, so relaxed).
pub static IN_USE_BYTES: AtomicUsize = AtomicUsize::new(0);
pub static PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);
/// Much more memory is free than the heap may need soon, and waits to go back.
/// Written under the lock, read anywhere (a hint, so relaxed).
pub static MEMORY_WAITS: AtomicBool = AtomicBool::new(false);

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

/// What goes back until the next look, and how it goes on after that.
#[derive(Clone, Copy, Debug)]
struct Release {
    due_hugepages: u32,
    due_pages: u32,
    /// The share of the last looks: what stays idle goes in equal steps.
    step_hugepages: u32,
    step_pages: u32,
    /// The kernel has refused: nothing waits for it any more.
    refused: bool,
}

#[derive(Clone, Copy, Debug)]
struct Policy {
    thp: Thp,
    thp_after_bytes: usize,
    os_page_bytes: usize,
    /// Large blocks may move by mremap.
    moves: bool,
    /// MADV_DONTNEED leaves zeros behind; `None` until it was tried.
    zeroes: Option<bool>,
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

/// A pass over free pages ends after so many that the kernel did not take: where
/// all memory is locked, no other would be.
const REFUSALS_MOST: u32 = 16;

/// An amount that follows the heap: `1 / share` of the pages in use, and some.
#[derive(Clone, Copy, Debug)]
struct Patience {
    share: usize,
    more_pages: usize,
}

impl Patience {
    /// Above this memory waits to go back as soon as it is free, where that costs
    /// all threads time, …
    const WATCH: Patience = Patience { share: 4, more_pages: (64 << 20) / PAGE_BYTES };
    /// … or only the background thread's; …
    const THREAD: Patience = Patience { share: 16, more_pages: (2 << 20) / PAGE_BYTES };
    /// … above this when it has lain idle from one look to the next: programs that
    /// take again what they have freed do not wait for anything; …
    const IDLE: Patience = Patience { share: 4, more_pages: (8 << 20) / PAGE_BYTES };
    /// … and up to this it waits no more.
    const CALM: Patience = Patience { share: 16, more_pages: (1 << 20) / PAGE_BYTES };

    fn pages(self, in_use: usize) -> usize {
        in_use / self.share + self.more_pages
    }
}

/// Hugepages given back under one hold of the lock.
pub const SLICE_HUGEPAGES: u32 = 16;

/// The next step of a release in equal steps: a share of the most that was idle.
fn next_step(step: u32, idle: u32, parts: u32) -> u32 {
    if idle == 0 { 0 } else { step.max(idle.div_ceil(parts)) }
}

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
            zeroes: None,
            patience: Patience::WATCH,
            frugal: false,
        },
        filler_low_pages: 0,
        release: Release {
            due_hugepages: 0,
            due_pages: 0,
            step_hugepages: 0,
            step_pages: 0,
            refused: false,
        },
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
            zeroes: None,
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

    /// Gives up to `most` warm hugepages back to the kernel; how many.
    pub fn cool(&mut self, most: u32) -> u32 {
        self.free_all_kept();
        let mut done = 0;
        while done < most {
            let Some((first, len)) = self.warm.take_any(&mut self.table, most - done) else {
                break;
            };
            let bytes = (len as usize) << HUGE_SHIFT;
            if !give_back(&mut self.policy.zeroes, huge_addr(first), bytes) {
                // Locked memory, or a kernel that clears nothing: it stays warm.
                self.warm.put(&mut self.table, first, len);
                break;
            }
            self.mark_clean(first, len);
            self.cold.put(&mut self.table, first, len);
            self.counts.returned_pages += u64::from(len * PAGES_PER_HUGE);
            done += len;
        }
        done
    }

    /// What is known of MADV_DONTNEED, for the statistics.
    pub fn dontneed(&self) -> &'static str {
        match self.policy.zeroes {
            None => "unknown",
            Some(true) => "zeroes",
            Some(false) => "keeps",
        }
    }

    /// Gives back up to `most` free pages of partly used hugepages, the
    /// sparsest hugepages first; how many.
    pub fn subrelease(&mut self, most: u32) -> u32 {
        let unit = self.policy.os_page_bytes.div_ceil(PAGE_BYTES) as u32;
        let (mut done, mut refused) = (0, 0);
        let zeroes = &mut self.policy.zeroes;
        self.filler.each_sparse(&mut self.table, |filler, table, id| {
            let page = table.at(id.0);
            for (first, len) in page.dirty.minus(&page.used).runs() {
                // Whole OS pages only.
                let from = first.next_multiple_of(unit);
                let len = (first + len).saturating_sub(from) / unit * unit;
                if len == 0 {
                    continue;
                }
                let addr = PAGE_MAP.addr_of(id.first_page().plus(from));
                let bytes = Pages(len).bytes();
                if give_back(zeroes, addr, bytes) {
                    filler.forget_dirty(table, id, from, len);
                    done += len;
                } else {
                    refused += 1;
                }
            }
            done < most && refused < REFUSALS_MOST
        });
        self.counts.returned_pages += u64::from(done);
        done
    }

    /// Looks at what has lain idle since the last look: a share of it, `1 / parts`
    /// of the most there was, is due to go back in [`PageHeap::release_slice`].
    pub fn look_for_idle(&mut self, parts: u32) {
        self.free_all_kept();
        self.expected.grow_older();
        let release = &mut self.release;
        let idle = self.warm.low;
        release.step_hugepages = next_step(release.step_hugepages, idle, parts);
        release.due_hugepages = release.step_hugepages.min(idle);
        // Breaking hugepages for a few pages costs more than it gives.
        let idle = Some(self.filler_low_pages).filter(|n| *n >= PAGES_PER_HUGE / 2).unwrap_or(0);
        release.step_pages = next_step(release.step_pages, idle, parts);
        release.due_pages = release.step_pages.min(idle);
        let idle = (self.warm.low * PAGES_PER_HUGE + self.filler_low_pages) as usize;
        if idle > Patience::IDLE.pages(self.counts.in_use_pages) && !self.release.refused {
            MEMORY_WAITS.store(true, Relaxed);
        }
        self.warm.low = self.warm.total;
        self.filler_low_pages = self.filler.free_dirty_pages;
    }

    /// Makes all that is free due.
    pub fn release_all_soon(&mut self) {
        self.release.due_hugepages = self.warm.total;
        self.release.due_pages = self.filler.free_dirty_pages;
    }

    /// After a release that has ended: more has come in since, and waits too.
    pub fn wait_for_rest(&mut self) {
        let much = self.idle_pages() > Patience::CALM.pages(self.counts.in_use_pages);
        if much && !self.release.refused {
            MEMORY_WAITS.store(true, Relaxed);
        }
    }

    /// All has gone back that can.
    pub fn nothing_waits(&mut self) {
        MEMORY_WAITS.store(false, Relaxed);
    }

    /// Gives back some of what is due; whether more is. Not all at once: others
    /// wait for the lock.
    pub fn release_slice(&mut self) -> bool {
        let (hugepages, pages) = (self.release.due_hugepages, self.release.due_pages);
        let (due, done) = if hugepages > 0 {
            let due = hugepages.min(SLICE_HUGEPAGES).min(self.warm.total);
            self.release.due_hugepages -= hugepages.min(SLICE_HUGEPAGES);
            (due, self.cool(due))
        } else {
            self.release.due_pages = 0;
            // Others may have used them since: that is no refusal.
            let due = pages.min(self.filler.free_dirty_pages);
            (due, self.subrelease(due))
        };
        if due > 0 {
            self.release.refused = done == 0;
        }
        let more = self.release.due_hugepages > 0 || self.release.due_pages > 0;
        let little = self.idle_pages() <= Patience::CALM.pages(self.counts.in_use_pages);
        if self.release.refused || (little && !more) {
            MEMORY_WAITS.store(false, Relaxed);
        }
        more && !self.release.refused
    }

    /// Free pages that cost memory.
    fn idle_pages(&self) -> usize {
        (self.warm.total * PAGES_PER_HUGE + self.filler.free_dirty_pages + self.kept.pages) as usize
    }

    /// Notes after a free whether much memory waits to go back.
    fn note_idle(&self) {
        if self.idle_pages() > self.policy.patience.pages(self.counts.in_use_pages)
            && !self.release.refused
            && !MEMORY_WAITS.load(Relaxed)
        {
            MEMORY_WAITS.store(true, Relaxed);
        }
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
        let Policy { zeroes, os_page_bytes, .. } = &mut self.policy;
        self.records.put(unit, units, |addr, len_bytes| {
            *os_page_bytes <= len_bytes && give_back(zeroes, addr, len_bytes)
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

/// Gives free memory of ours back to the kernel; whether it took it, so that it
/// reads as zero now.
///
/// The first time shows in `zeroes` whether it does: emulators have reported
/// success and done nothing. From then on nothing goes back there.
fn give_back(zeroes: &mut Option<bool>, addr: usize, len_bytes: usize) -> bool {
    if *zeroes == Some(false) {
        return false;
    }
    let first: *mut u8 = with_exposed_provenance_mut(addr);
    if zeroes.is_none() {
        // SAFETY: free memory of the caller's.
        unsafe { first.write_volatile(0xa5) };
    }
    // SAFETY: as above.
    if unsafe { sys::madvise(addr, len_bytes, libc::MADV_DONTNEED) }.is_err() {
        return false;
    }
    if zeroes.is_none() {
        // SAFETY: as above.
        *zeroes = Some(unsafe { first.read_volatile() } == 0);
    }
    *zeroes == Some(true)
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
