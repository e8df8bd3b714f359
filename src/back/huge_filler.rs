//! Packs spans of less than a hugepage into hugepages.
//!
//! A hugepage with room stands in the list of its longest run of free pages.
//! A request takes from the first list that can serve it: the hugepage that it
//! leaves the least room in, which keeps long runs whole and lets sparse
//! hugepages become empty.
//!
//! Invariant: `free_dirty_pages` = sum over Filler hugepages of
//! |dirty minus used|.

use crate::back::huge_page::{HugePage, HugeState, HugeTable};
use crate::back::page_map::PAGE_MAP;
use crate::census::{Broken, Kind};
use crate::units::{ClassId, HugeId, PAGES_PER_HUGE, PageId};

const LISTS: usize = PAGES_PER_HUGE as usize + 1;
const NIL: u32 = u32::MAX;

fn addr_of(id: u32) -> usize {
    PAGE_MAP.addr_of(HugeId(id).first_page())
}

#[derive(Debug)]
pub struct HugeFiller {
    /// Heads, by longest free run; list 0 (full hugepages) is not kept.
    heads: [u32; LISTS],
    /// Bit n: list n is not empty.
    occupied: [u64; LISTS.div_ceil(64)],
    /// Hugepages held.
    pub hugepages: u32,
    pub used_pages: u32,
    /// Free pages that cost memory.
    pub free_dirty_pages: u32,
}

/// What a filler holds, counted anew.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub hugepages: u32,
    pub used_pages: u32,
    pub free_dirty_pages: u32,
}

/// What freeing left behind.
#[derive(PartialEq, Eq, Debug)]
pub enum Freed {
    Partly,
    /// The hugepage is empty and has left the filler.
    Whole,
}

impl HugeFiller {
    pub const EMPTY: HugeFiller = HugeFiller {
        heads: [NIL; LISTS],
        occupied: [0; LISTS.div_ceil(64)],
        hugepages: 0,
        used_pages: 0,
        free_dirty_pages: 0,
    };

    /// Takes in an empty hugepage.
    pub fn add(&mut self, table: &mut HugeTable, id: HugeId) {
        let page = table.at(id.0);
        page.state = HugeState::Filler;
        self.hugepages += 1;
        self.free_dirty_pages += page.dirty.len();
        page.longest = page.used.longest_gap() as u16;
        let list = page.longest;
        self.link(table, id.0, list);
    }

    /// Takes `len` pages at a multiple of `align` pages; the first of them and
    /// whether they are known to be zero. They start a run of `room` free pages or
    /// more (`len` at least). `None` when no hugepage has such a run.
    pub fn take(
        &mut self,
        table: &mut HugeTable,
        len: u32,
        align: u32,
        room: u32,
    ) -> Option<(PageId, bool)> {
        // A gap of room + align - 1 holds an aligned run wherever it starts.
        let least = room.checked_add(align - 1).filter(|n| *n <= PAGES_PER_HUGE)?;
        let list = self.first_list(least)?;
        let id = *self.heads.get(list as usize)?;
        let page = table.at(id);
        // The shortest gap that does; the first of several. What is then the
        // longest is another one, or what is left of this one.
        let (mut best, mut others): (Option<(u32, u32)>, u32) = (None, 0);
        for (first, gap) in page.used.gaps() {
            let fits = first.next_multiple_of(align) + room <= first + gap;
            if fits && best.is_none_or(|(_, shortest)| gap < shortest) {
                others = others.max(best.map_or(0, |(_, shortest)| shortest));
                best = Some((first, gap));
            } else {
                others = others.max(gap);
            }
        }
        let (start, gap) = best?;
        let first = start.next_multiple_of(align);
        let left = (first - start).max(start + gap - first - len);
        let zero = self.mark_used(page, first, len);
        self.set_longest(table, id, others.max(left));
        Some((HugeId(id).first_page().plus(first), zero))
    }

    /// Takes the first `len` pages of an empty hugepage; as [`HugeFiller::take`].
    pub fn take_first(&mut self, table: &mut HugeTable, id: HugeId, len: u32) -> (PageId, bool) {
        let zero = self.mark_used(table.at(id.0), 0, len);
        self.relist(table, id.0);
        (id.first_page(), zero)
    }

    /// Whether the given pages are in one hugepage here, and all free.
    pub fn has(&self, table: &mut HugeTable, first: PageId, len: u32) -> bool {
        let page = table.at(first.huge().0);
        let within = first.within();
        page.state == HugeState::Filler
            && within + len <= PAGES_PER_HUGE
            && page.used.count(within, len) == 0
    }

    /// Takes the given pages if all are free; whether that was so.
    pub fn take_at(&mut self, table: &mut HugeTable, first: PageId, len: u32) -> bool {
        if !self.has(table, first, len) {
            return false;
        }
        self.mark_used(table.at(first.huge().0), first.within(), len);
        self.relist(table, first.huge().0);
        true
    }

    fn mark_used(&mut self, page: &mut HugePage, first: u32, len: u32) -> bool {
        let dirty = page.dirty.count(first, len);
        page.used.insert(first, len);
        page.dirty.insert(first, len);
        self.used_pages += len;
        self.free_dirty_pages -= dirty;
        dirty == 0
    }

    /// Takes back pages of one hugepage.
    pub fn give(&mut self, table: &mut HugeTable, first: PageId, len: u32) -> Freed {
        let id = first.huge().0;
        let page = table.at(id);
        page.used.remove(first.within(), len);
        self.used_pages -= len;
        self.free_dirty_pages += page.dirty.count(first.within(), len);
        if !page.used.is_empty() {
            let (_, gap) = page.used.gap_around(first.within());
            let longest = gap.max(u32::from(page.longest));
            self.set_longest(table, id, longest);
            return Freed::Partly;
        }
        self.free_dirty_pages -= page.dirty.len();
        self.hugepages -= 1;
        let list = page.longest;
        self.unlink(table, id, list);
        Freed::Whole
    }

    /// Says of free pages that they are zero now: their memory went back, or
    /// moved away.
    pub fn forget_dirty(&mut self, table: &mut HugeTable, id: HugeId, first: u32, len: u32) {
        let page = table.at(id.0);
        self.free_dirty_pages -= page.dirty.count(first, len);
        page.dirty.remove(first, len);
    }

    /// The hugepages with the most room first, for subrelease: calls `f` with
    /// each until it returns false.
    pub fn each_sparse(
        &mut self,
        table: &mut HugeTable,
        mut f: impl FnMut(&mut HugeFiller, &mut HugeTable, HugeId) -> bool,
    ) {
        for list in (1..LISTS).rev() {
            let mut id = self.heads.get(list).copied().unwrap_or(NIL);
            while id != NIL {
                let next = table.at(id).next;
                if !f(self, table, HugeId(id)) {
                    return;
                }
                id = next;
            }
        }
    }

    /// Checks the lists and the totals. `seen` is what the hugepages' records
    /// say, `roomy` how many of them have free pages.
    pub fn verify(&self, table: &mut HugeTable, seen: &Totals, roomy: u32, found: &mut Broken) {
        let none = ClassId::NONE;
        let mut listed = 0;
        for (list, &head) in self.heads.iter().enumerate() {
            let bit = self.occupied.get(list / 64).is_some_and(|w| w >> (list % 64) & 1 == 1);
            found.check(bit == (head != NIL), Kind::FillerLists, none, 0);
            // No loop: a hugepage met again would have another one before it.
            let (mut id, mut before) = (head, NIL);
            while id != NIL {
                if id >= table.count || table.at(id).prev != before {
                    found.check(false, Kind::FillerLink, none, addr_of(id));
                    break;
                }
                let page = table.at(id);
                let right = page.state == HugeState::Filler && page.longest as usize == list;
                found.check(right, Kind::FillerPlace, none, addr_of(id));
                if !right {
                    break;
                }
                listed += 1;
                (before, id) = (id, page.next);
            }
        }
        found.same(Kind::FillerLists, none, 0, listed, roomy as usize);
        for (mine, theirs) in [
            (self.hugepages, seen.hugepages),
            (self.used_pages, seen.used_pages),
            (self.free_dirty_pages, seen.free_dirty_pages),
        ] {
            found.same(Kind::FillerTotals, none, 0, mine as usize, theirs as usize);
        }
    }

    /// The lists' heads, for the walk's test to break.
    #[cfg(test)]
    pub fn plant_heads(&mut self) -> &mut [u32] {
        &mut self.heads
    }

    fn first_list(&self, least: u32) -> Option<u32> {
        let mut from = least;
        for (i, &word) in self.occupied.iter().enumerate().skip(least as usize / 64) {
            let word = word & (u64::MAX << (from % 64));
            if word != 0 {
                return Some(i as u32 * 64 + word.trailing_zeros());
            }
            from = 0;
        }
        None
    }

    fn relist(&mut self, table: &mut HugeTable, id: u32) {
        let longest = table.at(id).used.longest_gap();
        self.set_longest(table, id, longest);
    }

    /// Puts a hugepage into the list of its longest run of free pages.
    fn set_longest(&mut self, table: &mut HugeTable, id: u32, longest: u32) {
        let page = table.at(id);
        let (old, new) = (page.longest, longest as u16);
        if old != new {
            page.longest = new;
            self.unlink(table, id, old);
            self.link(table, id, new);
        }
    }

    fn link(&mut self, table: &mut HugeTable, id: u32, list: u16) {
        if list == 0 {
            return;
        }
        let Some(head) = self.heads.get_mut(list as usize) else { return };
        let next = core::mem::replace(head, id);
        if next != NIL {
            table.at(next).prev = id;
        } else if let Some(word) = self.occupied.get_mut(list as usize / 64) {
            *word |= 1 << (list % 64);
        }
        let page = table.at(id);
        (page.next, page.prev) = (next, NIL);
    }

    fn unlink(&mut self, table: &mut HugeTable, id: u32, list: u16) {
        if list == 0 {
            return;
        }
        let (next, prev) = (table.at(id).next, table.at(id).prev);
        if next != NIL {
            table.at(next).prev = prev;
        }
        if prev != NIL {
            table.at(prev).next = next;
            return;
        }
        if let Some(head) = self.heads.get_mut(list as usize) {
            *head = next;
        }
        if next == NIL {
            if let Some(word) = self.occupied.get_mut(list as usize / 64) {
                *word &= !(1 << (list % 64));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(unsafe_code)]

    use super::*;
    use crate::back::huge_page::{Advice, PageSet};
    use std::vec::Vec;

    const COUNT: u32 = 6;
    const PER: u32 = PAGES_PER_HUGE;

    fn random(state: &mut u64) -> u32 {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*state >> 33) as u32
    }

    /// Per page: the run it is in, and whether it was written since it was zero.
    #[derive(Clone, Copy, Default)]
    struct Model {
        run: u32,
        dirty: bool,
    }

    fn check(filler: &HugeFiller, table: &mut HugeTable, model: &[Model], held: &[bool]) {
        let pages = |id: u32| &model[(id * PER) as usize..((id + 1) * PER) as usize];
        let in_filler = || (0..COUNT).filter(|id| held[*id as usize]);
        let count = |f: fn(&Model) -> bool| -> u32 {
            in_filler().map(|id| pages(id).iter().filter(|p| f(p)).count() as u32).sum()
        };
        assert_eq!(filler.hugepages, in_filler().count() as u32);
        assert_eq!(filler.used_pages, count(|p| p.run != 0));
        assert_eq!(filler.free_dirty_pages, count(|p| p.run == 0 && p.dirty));
        for id in in_filler() {
            let longest = pages(id).split(|p| p.run != 0).map(<[_]>::len).max().unwrap_or(0);
            assert_eq!(table.at(id).longest as usize, longest);
            for (i, page) in pages(id).iter().enumerate() {
                assert_eq!(table.at(id).used.count(i as u32, 1) == 1, page.run != 0);
                assert_eq!(table.at(id).dirty.count(i as u32, 1) == 1, page.dirty);
            }
            // In its list, if it has room, and in that list only.
            let mut found = 0;
            for (list, &head) in filler.heads.iter().enumerate() {
                assert_eq!(filler.occupied[list / 64] >> (list % 64) & 1 == 1, head != NIL);
                let mut at = head;
                while at != NIL {
                    found += u32::from(at == id && list == longest);
                    at = table.at(at).next;
                }
            }
            assert_eq!(found, u32::from(longest > 0));
        }
    }

    #[test]
    fn runs_agree_with_a_list_of_pages() {
        let new = || HugePage {
            used: PageSet::EMPTY,
            dirty: PageSet::EMPTY,
            next: 0,
            prev: 0,
            state: HugeState::Absent,
            advice: Advice::Nothing,
            warm: false,
            longest: 0,
            range_len: 0,
        };
        let mut records: Vec<HugePage> = (0..COUNT).map(|_| new()).collect();
        // SAFETY: the vector outlives the table.
        let mut table = unsafe { HugeTable::new(records.as_mut_ptr(), COUNT) };
        let mut filler = HugeFiller::EMPTY;
        let mut model = [Model::default(); (COUNT * PER) as usize];
        let mut held = [false; COUNT as usize];
        // Live runs: (first page, length, name).
        let mut runs: Vec<(u32, u32, u32)> = Vec::new();
        let (mut seed, mut name) = (3, 0);
        for _ in 0..if cfg!(miri) { 60 } else { 4_000 } {
            let len = 1 + random(&mut seed) % [4, 40, 256][random(&mut seed) as usize % 3];
            let mut claim = |model: &mut [Model], first: u32, len: u32, zero: Option<bool>| {
                name += 1;
                let taken = &mut model[first as usize..(first + len) as usize];
                assert!(taken.iter().all(|p| p.run == 0), "handed out twice");
                if let Some(zero) = zero {
                    assert_eq!(zero, taken.iter().all(|p| !p.dirty));
                }
                taken.fill(Model { run: name, dirty: true });
                name
            };
            match random(&mut seed) % 8 {
                0..3 => {
                    let align = 1 << (random(&mut seed) % 4);
                    let room = len * (1 + random(&mut seed) % 3);
                    if let Some((page, zero)) = filler.take(&mut table, len, align, room) {
                        assert!(page.0 % align == 0 && page.within() + room <= PER);
                        let behind = &model[page.0 as usize..(page.0 + room) as usize];
                        assert!(behind.iter().all(|p| p.run == 0));
                        let name = claim(&mut model, page.0, len, Some(zero));
                        runs.push((page.0, len, name));
                    } else if let Some(id) = (0..COUNT).find(|id| !held[*id as usize]) {
                        filler.add(&mut table, HugeId(id));
                        held[id as usize] = true;
                        let (page, zero) = filler.take_first(&mut table, HugeId(id), len);
                        let name = claim(&mut model, page.0, len, Some(zero));
                        runs.push((page.0, len, name));
                    }
                }
                3 if !runs.is_empty() => {
                    // A run grows into what follows it, within its hugepage.
                    let i = random(&mut seed) as usize % runs.len();
                    let (first, old, _) = runs[i];
                    let end = first + old;
                    let room = (PER - 1 - (end - 1) % PER).min(1 + random(&mut seed) % 20);
                    if room > 0 {
                        let free = |p: &Model| p.run == 0;
                        let fits = model[end as usize..(end + room) as usize].iter().all(free);
                        let done = filler.take_at(&mut table, PageId(end), room);
                        assert_eq!(done, fits);
                        if done {
                            claim(&mut model, end, room, None);
                            runs[i].1 += room;
                        }
                    }
                }
                4 => {
                    // Memory of free pages goes back to the kernel.
                    let id = random(&mut seed) % COUNT;
                    if held[id as usize] {
                        let page = table.at(id);
                        let run = page.dirty.minus(&page.used).runs().next();
                        if let Some((from, len)) = run {
                            filler.forget_dirty(&mut table, HugeId(id), from, len);
                            let at = (id * PER + from) as usize;
                            model[at..at + len as usize].iter_mut().for_each(|p| p.dirty = false);
                        }
                    }
                }
                _ if !runs.is_empty() => {
                    let i = random(&mut seed) as usize % runs.len();
                    let (first, len, _) = runs.swap_remove(i);
                    let id = first / PER;
                    let freed = filler.give(&mut table, PageId(first), len);
                    model[first as usize..(first + len) as usize]
                        .iter_mut()
                        .for_each(|p| p.run = 0);
                    let pages = &model[(id * PER) as usize..((id + 1) * PER) as usize];
                    let empty = pages.iter().all(|p| p.run == 0);
                    assert_eq!(freed, if empty { Freed::Whole } else { Freed::Partly });
                    held[id as usize] = !empty;
                }
                _ => {}
            }
            check(&filler, &mut table, &model, &held);
        }
    }
}
