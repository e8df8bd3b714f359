//! Whole free hugepages, in ranges: warm ones, whose memory is still ours, and
//! cold ones, which are address space only.
//!
//! Ranges of one kind that touch are one range. A request is served by the
//! shortest range that holds it. What is kept warm follows demand: `low` is
//! the least that lay idle since the last look, and only of that is anything
//! given back.

use crate::back::huge_page::{HugeState, HugeTable};
use crate::back::page_map::PAGE_MAP;
use crate::census::{Broken, Kind};
use crate::units::{ClassId, HugeId};

const NIL: u32 = u32::MAX;
/// Bin n holds ranges of 2^n to 2^(n+1) - 1 hugepages.
const BINS: usize = 24;
/// How many ranges of its own bin a request looks at.
const LOOKS: usize = 32;

fn addr_of(id: u32) -> usize {
    PAGE_MAP.addr_of(HugeId(id).first_page())
}

#[derive(Debug)]
pub struct HugeRanges {
    heads: [u32; BINS],
    warm: bool,
    /// Hugepages held.
    pub total: u32,
    /// The least total since `mark`.
    pub low: u32,
}

fn bin_of(len: u32) -> usize {
    (len.max(1).ilog2() as usize).min(BINS - 1)
}

impl HugeRanges {
    pub const fn new(warm: bool) -> HugeRanges {
        HugeRanges { heads: [NIL; BINS], warm, total: 0, low: 0 }
    }

    /// Puts a range in, joined with free neighbours of its kind.
    pub fn put(&mut self, table: &mut HugeTable, first: HugeId, len: u32) {
        self.total += len;
        let (mut first, mut len) = (first.0, len);
        for id in first..first + len {
            let page = table.at(id);
            page.state = HugeState::Free;
            page.warm = self.warm;
            page.range_len = 0;
        }
        if first > 0 && self.is_ours(table, first - 1) {
            let before = table.at(first - 1).range_len;
            first -= before;
            self.unlink(table, first, before);
            len += before;
        }
        let after = first + len;
        if after < table.count && self.is_ours(table, after) {
            let more = table.at(after).range_len;
            self.unlink(table, after, more);
            len += more;
        }
        self.link(table, first, len);
    }

    fn is_ours(&self, table: &mut HugeTable, id: u32) -> bool {
        let page = table.at(id);
        page.state == HugeState::Free && page.warm == self.warm
    }

    /// Takes `len` hugepages out of the range that fits them best.
    pub fn take(&mut self, table: &mut HugeTable, len: u32) -> Option<HugeId> {
        for bin in bin_of(len)..BINS {
            let mut best: Option<(u32, u32)> = None;
            let mut id = self.heads.get(bin).copied().unwrap_or(NIL);
            for _ in 0..LOOKS {
                if id == NIL {
                    break;
                }
                let page = table.at(id);
                let range = page.range_len;
                if range >= len && best.is_none_or(|(_, b)| range < b) {
                    best = Some((id, range));
                }
                id = page.next;
            }
            if let Some((first, range)) = best {
                self.carve(table, first, range, first, len);
                return Some(HugeId(first));
            }
        }
        None
    }

    /// Whether the hugepages `[first, first + len)` are free and of this kind.
    pub fn has(&self, table: &mut HugeTable, first: HugeId, len: u32) -> bool {
        (first.0..first.0 + len).all(|id| self.is_ours(table, id))
    }

    /// Takes the hugepages `[first, first + len)` if they are free and of this
    /// kind; whether that was so.
    pub fn take_at(&mut self, table: &mut HugeTable, first: HugeId, len: u32) -> bool {
        let end = first.0 + len;
        if len == 0 || end > table.count || !self.has(table, first, len) {
            return false;
        }
        // The range starts here or before: heads carry the length, as do tails.
        let mut head = first.0;
        while table.at(head).range_len == 0 || !self.starts(table, head) {
            head -= 1;
        }
        let range = table.at(head).range_len;
        self.carve(table, head, range, first.0, len);
        true
    }

    /// Whether a range starts at this hugepage: the one before is not in it.
    fn starts(&self, table: &mut HugeTable, id: u32) -> bool {
        id == 0 || !self.is_ours(table, id - 1)
    }

    /// Takes up to `most` hugepages from any range, longest first.
    pub fn take_any(&mut self, table: &mut HugeTable, most: u32) -> Option<(HugeId, u32)> {
        let first = self.heads.iter().rev().copied().find(|id| *id != NIL)?;
        let range = table.at(first).range_len;
        let len = range.min(most);
        // From the end: low addresses stay in use.
        let at = first + range - len;
        self.carve(table, first, range, at, len);
        Some((HugeId(at), len))
    }

    fn carve(&mut self, table: &mut HugeTable, first: u32, range: u32, at: u32, len: u32) {
        self.unlink(table, first, range);
        for id in at..at + len {
            table.at(id).state = HugeState::Absent;
        }
        if at > first {
            self.link(table, first, at - first);
        }
        let rest = first + range - (at + len);
        if rest > 0 {
            self.link(table, at + len, rest);
        }
        self.total -= len;
        self.low = self.low.min(self.total);
    }

    /// Checks the lists and the total; `free` hugepages are of this kind.
    pub fn verify(&self, table: &mut HugeTable, free: u32, found: &mut Broken) {
        let none = ClassId::NONE;
        let mut listed = 0;
        for (bin, &head) in self.heads.iter().enumerate() {
            // No loop: a range met again would have another one before it.
            let (mut id, mut before) = (head, NIL);
            while id != NIL {
                if id >= table.count || table.at(id).prev != before {
                    found.check(false, Kind::RangeLink, none, addr_of(id));
                    break;
                }
                let (len, next) = (table.at(id).range_len, table.at(id).next);
                if bin_of(len) != bin || !self.is_range(table, id, len) {
                    found.check(false, Kind::RangeShape, none, addr_of(id));
                    break;
                }
                listed += len;
                (before, id) = (id, next);
            }
        }
        for count in [listed, free] {
            found.same(Kind::RangeTotals, none, 0, self.total as usize, count as usize);
        }
        found.check(self.low <= self.total, Kind::RangeTotals, none, 0);
    }

    /// Whether `len` hugepages from `first` on, and not one more on either side,
    /// are free and of this kind, and both ends carry the length.
    fn is_range(&self, table: &mut HugeTable, first: u32, len: u32) -> bool {
        let count = table.count;
        let Some(end) = first.checked_add(len).filter(|end| len > 0 && *end <= count) else {
            return false;
        };
        self.has(table, HugeId(first), len)
            && self.starts(table, first)
            && (end == count || !self.is_ours(table, end))
            && table.at(end - 1).range_len == len
    }

    fn link(&mut self, table: &mut HugeTable, first: u32, len: u32) {
        let Some(head) = self.heads.get_mut(bin_of(len)) else { return };
        let next = core::mem::replace(head, first);
        if next != NIL {
            table.at(next).prev = first;
        }
        table.at(first + len - 1).range_len = len;
        let page = table.at(first);
        (page.next, page.prev, page.range_len) = (next, NIL, len);
    }

    fn unlink(&mut self, table: &mut HugeTable, first: u32, len: u32) {
        let (next, prev) = (table.at(first).next, table.at(first).prev);
        if next != NIL {
            table.at(next).prev = prev;
        }
        if prev != NIL {
            table.at(prev).next = next;
        } else if let Some(head) = self.heads.get_mut(bin_of(len)) {
            *head = next;
        }
        // Inner boundaries of what becomes one range must not look like ends.
        table.at(first + len - 1).range_len = 0;
        table.at(first).range_len = 0;
    }
}

#[cfg(test)]
mod tests {
    #![allow(unsafe_code)]

    use super::*;
    use crate::back::huge_page::{HugePage, PageSet};
    use std::vec::Vec;

    const COUNT: u32 = 200;

    fn random(state: &mut u64) -> u32 {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*state >> 33) as u32
    }

    fn absent() -> HugePage {
        HugePage {
            used: PageSet::EMPTY,
            dirty: PageSet::EMPTY,
            next: 0,
            prev: 0,
            state: HugeState::Absent,
            advice: crate::back::huge_page::Advice::Nothing,
            warm: false,
            longest: 0,
            range_len: 0,
        }
    }

    /// Every range in the lists is maximal, where the model says, and found once.
    fn check(ranges: &HugeRanges, table: &mut HugeTable, free: &[Option<bool>]) {
        let mut seen = [false; COUNT as usize];
        for (bin, &head) in ranges.heads.iter().enumerate() {
            let (mut id, mut before) = (head, NIL);
            while id != NIL {
                let (len, next, prev) = {
                    let page = table.at(id);
                    (page.range_len, page.next, page.prev)
                };
                assert_eq!((bin_of(len), prev), (bin, before));
                assert_eq!(table.at(id + len - 1).range_len, len);
                for i in id..id + len {
                    assert_eq!(free[i as usize], Some(ranges.warm));
                    assert!(!core::mem::replace(&mut seen[i as usize], true));
                }
                let ours = |i: u32| free.get(i as usize) == Some(&Some(ranges.warm));
                assert!((id == 0 || !ours(id - 1)) && !ours(id + len));
                (before, id) = (id, next);
            }
        }
        let total = free.iter().filter(|f| **f == Some(ranges.warm)).count();
        assert_eq!(seen.iter().filter(|s| **s).count(), total);
        assert_eq!(ranges.total as usize, total);
    }

    #[test]
    fn ranges_agree_with_a_list_of_free_hugepages() {
        let mut pages: Vec<HugePage> = (0..COUNT).map(|_| absent()).collect();
        // SAFETY: the vector outlives the table.
        let mut table = unsafe { HugeTable::new(pages.as_mut_ptr(), COUNT) };
        let mut sets = [HugeRanges::new(false), HugeRanges::new(true)];
        // None: not in a range; else whether it is warm.
        let mut free = [None; COUNT as usize];
        sets[0].put(&mut table, HugeId(0), COUNT);
        free.fill(Some(false));
        let mut seed = 7;
        for _ in 0..if cfg!(miri) { 100 } else { 4_000 } {
            let warm = random(&mut seed) % 2 == 1;
            let set = &mut sets[usize::from(warm)];
            let len = 1 + random(&mut seed) % 12;
            let at = random(&mut seed) % COUNT;
            let fits = |first: u32, len: u32| {
                (first..first + len).all(|i| free.get(i as usize) == Some(&Some(warm)))
            };
            let taken = match random(&mut seed) % 5 {
                0 => {
                    let taken = set.take(&mut table, len);
                    // With this few ranges the looks in a bin find any that fits.
                    assert_eq!(taken.is_some(), (0..COUNT).any(|i| fits(i, len)));
                    taken.map(|first| (first.0, len))
                }
                1 => {
                    let done = set.take_at(&mut table, HugeId(at), len);
                    assert_eq!(done, fits(at, len));
                    done.then_some((at, len))
                }
                2 => {
                    let taken = set.take_any(&mut table, len);
                    assert_eq!(taken.is_some(), free.contains(&Some(warm)));
                    taken.map(|(first, len)| (first.0, len))
                }
                _ => {
                    let len = (at..COUNT).take_while(|i| free[*i as usize].is_none()).count();
                    let len = (len as u32).min(1 + random(&mut seed) % 12);
                    if len > 0 {
                        set.put(&mut table, HugeId(at), len);
                        free[at as usize..(at + len) as usize].fill(Some(warm));
                    }
                    None
                }
            };
            if let Some((first, len)) = taken {
                for slot in &mut free[first as usize..(first + len) as usize] {
                    assert_eq!(slot.take(), Some(warm));
                }
            }
            check(&sets[0], &mut table, &free);
            check(&sets[1], &mut table, &free);
        }
    }
}
