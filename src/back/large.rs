//! Blocks above the classes: spans of their own.
//!
//! ```text
//! below a hugepage:   pages of one hugepage of the filler
//! else:               | Block | Block | … | first pages of a filler hugepage |
//!                       whole hugepages       the tail, if any
//! ```
//! A block grows in place where what follows is free; else its pages move to a
//! larger place by mremap, and nothing is copied.

#![allow(unsafe_code)]

use crate::back::huge_page::{Advice, HugeState, PageSet};
use crate::back::page_heap::release::SLICE_HUGEPAGES;
use crate::back::page_heap::{PAGE_HEAP, PageHeap, huge_addr};
use crate::back::page_map::PAGE_MAP;
use crate::back::span::{self, Span};
use crate::os::fault::Fault;
use crate::os::{slice, sys};
use crate::units::{ClassId, HUGE_BYTES, HugeId, PAGE_BYTES, PAGES_PER_HUGE, PageId, Pages};

/// The room that a block that is to grow asks for, the best first: 1 MiB, or so
/// many times its length.
const ROOM_PAGES: u32 = 128;
const ROOM_TIMES: [u32; 2] = [8, 2];

/// How a block's pages lie: `whole` hugepages, then `tail` pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shape {
    whole: u32,
    tail: u32,
}

impl Shape {
    fn of(pages: Pages) -> Shape {
        Shape { whole: pages.0 / PAGES_PER_HUGE, tail: pages.0 % PAGES_PER_HUGE }
    }
    fn hugepages(self) -> u32 {
        self.whole + u32::from(self.tail > 0)
    }
}

/// Where a block of less than a hugepage is put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// Where it leaves the least room.
    Any,
    /// Where as many free pages follow as it has itself, or more, if there is
    /// such a place: it is to grow.
    Behind,
}

/// A block of at least `size` bytes at a multiple of `align`, and whether it
/// is known to be zero; `None` when there is no memory. Locks: page heap.
pub fn allocate(size: usize, align: usize, room: Room) -> Option<(usize, bool)> {
    let pages = Pages::holding(size.max(1))?;
    let _asked = slice::ask();
    let mut heap = PAGE_HEAP.lock();
    if room == Room::Behind {
        // They may lie where there would be most room.
        heap.free_all_kept();
    } else if align <= PAGE_BYTES {
        if let Some(unit) = heap.kept.take(pages) {
            return Some((heap.reuse_kept(unit), false));
        }
    }
    let record = heap.new_record(span::units_for(0))?;
    let Some((page, zero)) = heap.take_block(pages, align, room) else {
        // SAFETY: a fresh record, made valid so that it can be freed.
        unsafe {
            Span::init(Span::at(record), PageId(0), Pages(0), ClassId::NONE);
            heap.free_record(Span::at(record));
        }
        return None;
    };
    // SAFETY: a fresh record.
    unsafe { Span::init(Span::at(record), page, pages, ClassId::NONE) };
    PAGE_MAP.set(page, Pages(1), ClassId::NONE, record);
    heap.counts.large_blocks += 1;
    if zero {
        heap.expected.count(Shape::of(pages).whole);
    }
    Some((PAGE_MAP.addr_of(page), zero))
}

/// Frees the block at `addr`. Locks: page heap.
pub fn free(addr: usize) -> Result<(), Fault> {
    let asked = slice::ask();
    let mut heap = PAGE_HEAP.lock();
    let at = block_at(addr)?;
    // SAFETY: a live block's record, and the lock is held.
    let (page, pages, unit) = unsafe { ((*at).page, (*at).pages, (*at).unit()) };
    PAGE_MAP.set(page, Pages(1), ClassId::NONE, 0);
    heap.counts.large_blocks -= 1;
    heap.unuse_pages(pages.0 as usize);
    if let Some(unit) = heap.kept.put(unit, pages) {
        heap.free_kept(unit);
    }
    let mut excess = heap.excess_after(Shape::of(pages).whole);
    drop(heap);
    drop(asked);
    while excess > 0 {
        // Not all at once: others wait for the lock.
        match PAGE_HEAP.lock().cool(excess.min(SLICE_HUGEPAGES)) {
            0 => break,
            done => excess -= done,
        }
    }
    Ok(())
}

/// The bytes of the block at `addr`. Reads without a lock: the block is live.
pub fn usable_size(addr: usize) -> Result<usize, Fault> {
    let at = block_at(addr)?;
    // SAFETY: a live block's record.
    Ok(unsafe { (*at).pages.bytes() })
}

/// Makes the block at `addr` hold `size` bytes without copying: in place, or
/// moved by mremap. Returns its address, or `None` where the caller must copy
/// (or there is no memory): then nothing has changed. Locks: page heap.
pub fn resize(addr: usize, size: usize) -> Result<Option<usize>, Fault> {
    let Some(new) = Pages::holding(size.max(1)) else { return Ok(None) };
    let mut heap = PAGE_HEAP.lock();
    let at = block_at(addr)?;
    // SAFETY: a live block's record, and the lock is held.
    let span = unsafe { &mut *at };
    let old = span.pages;
    if new <= old {
        heap.shrink(span.page, old, new);
    } else if !heap.grow(span.page, old, new)
        && (!heap.free_all_kept() || !heap.grow(span.page, old, new))
    {
        let Some(page) = heap.relocate(span.page, old, new) else { return Ok(None) };
        PAGE_MAP.set(span.page, Pages(1), ClassId::NONE, 0);
        PAGE_MAP.set(page, Pages(1), ClassId::NONE, span.unit());
        span.page = page;
    }
    span.pages = new;
    Ok(Some(PAGE_MAP.addr_of(span.page)))
}

/// The record of the large block that starts at `addr`.
fn block_at(addr: usize) -> Result<*mut Span, Fault> {
    let at = span::span_of(addr)?;
    // SAFETY: records are never unmapped; a stale one fails the checks.
    let span = unsafe { &*at };
    if span.class != ClassId::NONE || span.addr() != addr {
        return Err(Fault::Interior);
    }
    Ok(at)
}

/// What became of a move.
enum Moved {
    Done,
    /// The memory is where it was; the target is mapped and of any contents.
    Not,
    /// As `Not`, but the target is unmapped, and cannot be mapped again.
    Lost,
}

impl PageHeap {
    /// The warm hugepages that had better go back now that a block with so many
    /// is free.
    fn excess_after(&mut self, whole: u32) -> u32 {
        self.expected.after_free(whole, self.warm.total)
    }

    /// Makes a block of a kept one's record again; its address.
    fn reuse_kept(&mut self, unit: u32) -> usize {
        // SAFETY: the record of a kept block, which nobody else has.
        let (page, pages) = unsafe { ((*Span::at(unit)).page, (*Span::at(unit)).pages) };
        PAGE_MAP.set(page, Pages(1), ClassId::NONE, unit);
        self.counts.large_blocks += 1;
        self.use_pages(pages.0 as usize);
        PAGE_MAP.addr_of(page)
    }

    /// Frees the record and the pages of a block that was kept.
    fn free_kept(&mut self, unit: u32) {
        let at = Span::at(unit);
        // SAFETY: as above; not used after.
        let (page, pages) = unsafe {
            let shape = ((*at).page, (*at).pages);
            self.free_record(at);
            shape
        };
        // What gives them back takes them for pages in use.
        self.counts.in_use_pages += pages.0 as usize;
        self.give_block(page, pages);
    }

    /// Frees all kept blocks; whether there was one.
    pub(super) fn free_all_kept(&mut self) -> bool {
        let any = self.kept.pages > 0;
        while let Some(unit) = self.kept.take_any() {
            self.free_kept(unit);
        }
        any
    }

    fn take_block(&mut self, pages: Pages, align: usize, room: Room) -> Option<(PageId, bool)> {
        let shape = Shape::of(pages);
        if shape.whole == 0 && align <= HUGE_BYTES {
            let [more, twice] = ROOM_TIMES.map(|times| pages.0 * times);
            let rooms = [more.max(ROOM_PAGES), more, twice];
            let rooms = if room == Room::Behind { &rooms[..] } else { &[] };
            return self.take_pages(pages.0, align.div_ceil(PAGE_BYTES) as u32, rooms);
        }
        let need = shape.hugepages();
        let align_huge = u32::try_from(align.div_ceil(HUGE_BYTES)).ok()?;
        let (start, zero) = self.take_hugepages(need.checked_add(align_huge - 1)?)?;
        // Alignment is of addresses, and the arena's base is aligned to 2 MiB only.
        let wanted = huge_addr(start).checked_next_multiple_of(align)?;
        let first = HugeId(start.0 + ((wanted - huge_addr(start)) / HUGE_BYTES) as u32);
        let spare = align_huge - 1 - (first.0 - start.0);
        if first.0 > start.0 {
            self.give_hugepages(start, first.0 - start.0, !zero);
        }
        if spare > 0 {
            self.give_hugepages(HugeId(first.0 + need), spare, !zero);
        }
        if zero {
            self.advise_block(first, shape.whole, shape.tail, pages);
        }
        self.settle(first, shape);
        self.use_pages(pages.0 as usize);
        Some((first.first_page(), zero))
    }

    /// Puts hugepages in no state to use as a block.
    fn settle(&mut self, first: HugeId, shape: Shape) {
        self.mark_block(first, shape.whole);
        if shape.tail > 0 {
            let last = HugeId(first.0 + shape.whole);
            self.filler.add(&mut self.table, last);
            self.filler.take_first(&mut self.table, last, shape.tail);
        }
    }

    fn give_block(&mut self, page: PageId, pages: Pages) {
        let shape = Shape::of(pages);
        if shape.whole == 0 {
            return self.give_pages(page, pages.0);
        }
        let first = page.huge();
        self.unuse_pages((shape.whole * PAGES_PER_HUGE) as usize);
        self.give_hugepages(first, shape.whole, true);
        if shape.tail > 0 {
            self.give_pages(HugeId(first.0 + shape.whole).first_page(), shape.tail);
        }
    }

    fn shrink(&mut self, page: PageId, old: Pages, new: Pages) {
        let (from, to) = (Shape::of(old), Shape::of(new));
        if from.whole == to.whole {
            if old > new {
                self.give_pages(page.plus(new.0), old.0 - new.0);
            }
            return;
        }
        let first = page.huge();
        if from.tail > 0 {
            self.give_pages(HugeId(first.0 + from.whole).first_page(), from.tail);
        }
        self.unuse_pages(((from.whole - to.whole) * PAGES_PER_HUGE) as usize);
        if to.tail > 0 {
            let last = HugeId(first.0 + to.whole);
            self.filler.add(&mut self.table, last);
            self.filler.take_first(&mut self.table, last, to.tail);
            self.use_pages(to.tail as usize);
        }
        let kept = to.hugepages();
        if from.whole > kept {
            self.give_hugepages(HugeId(first.0 + kept), from.whole - kept, true);
        }
    }

    /// Grows in place; whether what follows was free.
    fn grow(&mut self, page: PageId, old: Pages, new: Pages) -> bool {
        let (from, to) = (Shape::of(old), Shape::of(new));
        let more = (new.0 - old.0) as usize;
        let starts_hugepage = page.within() == 0;
        if from.whole == to.whole && from.tail > 0 {
            // A block that ends at its hugepage's end must not run into the next.
            let within = if from.whole > 0 { 0 } else { page.within() };
            if within + to.tail > PAGES_PER_HUGE {
                return false;
            }
            let done = self.filler.take_at(&mut self.table, page.plus(old.0), new.0 - old.0);
            if done {
                self.use_pages(more);
            }
            return done;
        }
        if !starts_hugepage {
            return false;
        }
        let first = page.huge();
        let next = HugeId(first.0 + from.hugepages());
        let need = to.hugepages() - from.hugepages();
        // The tail's hugepage must be ours alone to become whole.
        let rest = PAGES_PER_HUGE - from.tail;
        if from.tail > 0 && !self.filler.has(&mut self.table, page.plus(old.0), rest) {
            return false;
        }
        if need > 0 && !self.take_hugepages_at(next, need, new) {
            return false;
        }
        if from.tail > 0 {
            self.filler.take_at(&mut self.table, page.plus(old.0), rest);
        }
        let mut whole_from = from.whole;
        if from.tail > 0 {
            let tail = HugeId(first.0 + from.whole);
            self.filler.give(&mut self.table, tail.first_page(), PAGES_PER_HUGE);
            self.mark_block(tail, 1);
            whole_from += 1;
        }
        self.settle(
            HugeId(first.0 + whole_from),
            Shape { whole: to.whole - whole_from, tail: to.tail },
        );
        self.use_pages(more);
        true
    }

    /// Takes exactly these hugepages, the last ones of a block of `pages`, if they
    /// are free, or new, all of one kind.
    fn take_hugepages_at(&mut self, first: HugeId, len: u32, pages: Pages) -> bool {
        let Some(end) = first.0.checked_add(len) else { return false };
        let count = self.table.count;
        if end > count && (!self.is_cold(first, count) || !self.extend_to(end)) {
            return false;
        }
        if self.warm.take_at(&mut self.table, first, len) {
            return true;
        }
        let taken = self.take_cold_at(first, len);
        if taken {
            let tail = Shape::of(pages).tail;
            self.advise_block(first, len - u32::from(tail > 0), tail, pages);
        }
        taken
    }

    /// Moves a block's hugepages to a larger place and copies its tail; `None`
    /// when that cannot be.
    ///
    /// Mappings split at hugepages only, so a hugepage lies in one mapping and
    /// moves whole or not at all. More at once would not do: kernels before
    /// 6.17 refuse several mappings, later ones may stop half way.
    fn relocate(&mut self, page: PageId, old: Pages, new: Pages) -> Option<PageId> {
        let shape = Shape::of(old);
        if shape.whole == 0 || !self.may_move() {
            return None;
        }
        let to = self.take_block(new, PAGE_BYTES, Room::Any)?.0;
        if is_locked(to.huge()) {
            self.give_block(to, new);
            return None;
        }
        for i in 0..shape.whole {
            let (from, into) = (HugeId(page.huge().0 + i), HugeId(to.huge().0 + i));
            match self.move_hugepage(from, into) {
                Moved::Done => self.mark_clean(from, 1),
                // Not this kernel, or not now: the caller copies, unlocked.
                Moved::Not if i == 0 => {
                    self.give_block(to, new);
                    return None;
                }
                Moved::Not => copy_pages(huge_addr(from), huge_addr(into), HUGE_BYTES),
                Moved::Lost => {
                    self.move_back(page.huge(), to.huge(), i, Shape::of(new));
                    return None;
                }
            }
        }
        self.counts.moves += 1;
        let tail = page.plus(shape.whole * PAGES_PER_HUGE);
        let tail_to = to.plus(shape.whole * PAGES_PER_HUGE);
        copy_pages(PAGE_MAP.addr_of(tail), PAGE_MAP.addr_of(tail_to), Pages(shape.tail).bytes());
        self.unuse_pages((shape.whole * PAGES_PER_HUGE) as usize);
        for i in 0..shape.whole {
            let id = HugeId(page.huge().0 + i);
            let dirty = !self.table.at(id.0).dirty.is_empty();
            self.give_hugepages(id, 1, dirty);
        }
        if shape.tail > 0 {
            self.give_pages(tail, shape.tail);
        }
        Some(to)
    }

    /// Undoes the moves of `done` hugepages, as the place of the next is lost, and
    /// gives back what is left of the new block.
    fn move_back(&mut self, from: HugeId, to: HugeId, done: u32, new: Shape) {
        let len_bytes = done as usize * HUGE_BYTES;
        copy_pages(huge_addr(to), huge_addr(from), len_bytes);
        self.mark_block(from, done);
        self.unuse_pages((new.whole * PAGES_PER_HUGE) as usize);
        if done > 0 {
            self.give_hugepages(to, done, true);
        }
        let lost = self.table.at(to.0 + done);
        (lost.state, lost.dirty) = (HugeState::Absent, PageSet::EMPTY);
        let left = new.whole - done - 1;
        if left > 0 {
            self.give_hugepages(HugeId(to.0 + done + 1), left, true);
        }
        if new.tail > 0 {
            self.give_pages(HugeId(to.0 + new.whole).first_page(), new.tail);
        }
    }

    /// Moves a hugepage's memory, which leaves zeros.
    fn move_hugepage(&mut self, from: HugeId, to: HugeId) -> Moved {
        // SAFETY: both are the caller's blocks.
        let refused = match unsafe { sys::mremap_move(huge_addr(from), huge_addr(to), HUGE_BYTES) }
        {
            Ok(_) => {
                // The mapping has come along with what was said of it.
                self.table.at(to.0).advice = self.table.at(from.0).advice;
                return Moved::Done;
            }
            Err(error) => error,
        };
        if refused == libc::EINVAL {
            // The kernel knows no move that leaves the old mapping.
            self.never_move();
        }
        // The kernel may have unmapped the target before it refused: advice that
        // changes nothing fails only there.
        // SAFETY: a block of ours.
        if unsafe { sys::madvise(huge_addr(to), HUGE_BYTES, libc::MADV_NORMAL) }.is_ok() {
            return Moved::Not;
        }
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: a new block of ours, nothing in it yet.
        if unsafe { sys::mmap(huge_addr(to), HUGE_BYTES, prot, flags) }.is_err() {
            return Moved::Lost;
        }
        self.table.at(to.0).advice = Advice::Nothing;
        Moved::Not
    }
}

/// Whether memory of ours is locked (mlockall): what a move leaves would not be.
/// Asked by advice that locked memory does not take (Linux 5.4, before such
/// moves), and that is of no matter to memory about to be replaced.
fn is_locked(id: HugeId) -> bool {
    // SAFETY: a block of ours.
    let asked = unsafe { sys::madvise(huge_addr(id), PAGE_BYTES, libc::MADV_COLD) };
    asked == Err(libc::EINVAL)
}

fn copy_pages(from: usize, to: usize, len_bytes: usize) {
    let from = core::ptr::with_exposed_provenance::<u8>(from);
    let to = core::ptr::with_exposed_provenance_mut(to);
    // SAFETY: both ranges are mapped, the caller's, and apart.
    unsafe { core::ptr::copy_nonoverlapping(from, to, len_bytes) };
}
