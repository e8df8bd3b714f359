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
use crate::units::{HugeId, PAGES_PER_HUGE, PageId};

const LISTS: usize = PAGES_PER_HUGE as usize + 1;
const NIL: u32 = u32::MAX;

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
    /// whether they are known to be zero. `None` when no hugepage has room.
    pub fn take(&mut self, table: &mut HugeTable, len: u32, align: u32) -> Option<(PageId, bool)> {
        // A gap of len + align - 1 holds an aligned run wherever it starts.
        let least = len.checked_add(align - 1).filter(|n| *n <= PAGES_PER_HUGE)?;
        let list = self.first_list(least)?;
        let id = *self.heads.get(list as usize)?;
        let page = table.at(id);
        // The shortest gap that does; the first of several.
        let fits = |&(first, gap): &(u32, u32)| first.next_multiple_of(align) + len <= first + gap;
        let (first, _) = page.used.gaps().filter(fits).min_by_key(|&(_, gap)| gap)?;
        let first = first.next_multiple_of(align);
        let zero = self.mark_used(page, first, len);
        self.relist(table, id);
        Some((HugeId(id).first_page().plus(first), zero))
    }

    /// Takes the first `len` pages of an empty hugepage; as [`HugeFiller::take`].
    pub fn take_first(&mut self, table: &mut HugeTable, id: HugeId, len: u32) -> (PageId, bool) {
        let zero = self.mark_used(table.at(id.0), 0, len);
        self.relist(table, id.0);
        (id.first_page(), zero)
    }

    /// Takes the given pages if all are free; whether that was so.
    pub fn take_at(&mut self, table: &mut HugeTable, first: PageId, len: u32) -> bool {
        let page = table.at(first.huge().0);
        let within = first.within();
        if page.state != HugeState::Filler
            || within + len > PAGES_PER_HUGE
            || page.used.count(within, len) > 0
        {
            return false;
        }
        self.mark_used(page, within, len);
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
            self.relist(table, id);
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

    /// Says of used pages that their contents have moved away.
    pub fn clean_used(&mut self, table: &mut HugeTable, first: PageId, len: u32) {
        table.at(first.huge().0).dirty.remove(first.within(), len);
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
        let page = table.at(id);
        let (old, new) = (page.longest, page.used.longest_gap() as u16);
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
