//! What is known of each hugepage: one record per 2 MiB of arena.
//!
//! | state | `used` | stands in |
//! |---|---|---|
//! | Absent | - | nothing: not mapped, or a hole |
//! | Filler | pages of spans | a list of the filler |
//! | Block | - | a large block |
//! | Free | empty | a range of the cache |
//!
//! `dirty`: pages that may hold something else than zeros, and cost memory.
//! Guarded by the page heap's lock.

#![allow(unsafe_code)]

use crate::units::PAGES_PER_HUGE;

/// A set of the 256 pages of a hugepage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageSet([u64; WORDS]);

const WORDS: usize = PAGES_PER_HUGE as usize / 64;

impl PageSet {
    pub const EMPTY: PageSet = PageSet([0; WORDS]);
    pub const FULL: PageSet = PageSet([u64::MAX; WORDS]);

    /// The words that pages `[from, from + len)` lie in, each with their bits.
    /// Most runs lie in one word.
    #[inline]
    fn masks(from: u32, len: u32) -> impl Iterator<Item = (usize, u64)> {
        let (mut at, end) = (from, (from + len).min(PAGES_PER_HUGE));
        core::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (word, bit) = (at / 64, at % 64);
            let count = (end - at).min(64 - bit);
            at += count;
            Some((word as usize, (u64::MAX >> (64 - count)) << bit))
        })
    }

    pub fn insert(&mut self, from: u32, len: u32) {
        for (i, mask) in Self::masks(from, len) {
            if let Some(word) = self.0.get_mut(i) {
                *word |= mask;
            }
        }
    }

    pub fn remove(&mut self, from: u32, len: u32) {
        for (i, mask) in Self::masks(from, len) {
            if let Some(word) = self.0.get_mut(i) {
                *word &= !mask;
            }
        }
    }

    /// How many of the pages `[from, from + len)` are in the set.
    pub fn count(&self, from: u32, len: u32) -> u32 {
        Self::masks(from, len)
            .map(|(i, mask)| self.0.get(i).map_or(0, |word| (word & mask).count_ones()))
            .sum()
    }

    pub fn len(&self) -> u32 {
        self.0.iter().map(|w| w.count_ones()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|w| *w == 0)
    }

    pub fn minus(&self, other: &PageSet) -> PageSet {
        let mut result = *self;
        for (word, removed) in result.0.iter_mut().zip(other.0) {
            *word &= !removed;
        }
        result
    }

    /// The first page from `from` on that is (`member`) or is not in the set,
    /// 256 if there is none.
    #[inline]
    fn next(&self, from: u32, member: bool) -> u32 {
        let flip = if member { 0 } else { u64::MAX };
        let mut low = u64::MAX << (from % 64);
        for (i, &word) in self.0.iter().enumerate().skip(from as usize / 64) {
            let wanted = (word ^ flip) & low;
            if wanted != 0 {
                return i as u32 * 64 + wanted.trailing_zeros();
            }
            low = u64::MAX;
        }
        PAGES_PER_HUGE
    }

    /// The run of pages not in the set that `at`, which is not, lies in, as
    /// (first, length).
    pub fn gap_around(&self, at: u32) -> (u32, u32) {
        let mut first = 0;
        let mut high = u64::MAX >> (63 - at % 64);
        for (i, &word) in self.0.iter().enumerate().take(at as usize / 64 + 1).rev() {
            if word & high != 0 {
                first = i as u32 * 64 + 64 - (word & high).leading_zeros();
                break;
            }
            high = u64::MAX;
        }
        (first, self.next(at, true) - first)
    }

    /// The runs of pages in the set, as (first, length).
    pub fn runs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.runs_of(true)
    }

    /// The runs of pages not in the set, as (first, length).
    pub fn gaps(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.runs_of(false)
    }

    fn runs_of(&self, member: bool) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut at = 0;
        core::iter::from_fn(move || {
            if at >= PAGES_PER_HUGE {
                return None;
            }
            let first = self.next(at, member);
            if first >= PAGES_PER_HUGE {
                at = first;
                return None;
            }
            at = self.next(first, !member);
            Some((first, at - first))
        })
    }

    /// The longest run of pages not in the set.
    pub fn longest_gap(&self) -> u32 {
        self.gaps().map(|(_, len)| len).max().unwrap_or(0)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum HugeState {
    Absent = 0,
    Filler = 1,
    Block = 2,
    Free = 3,
}

/// What the kernel was told about hugepages here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Advice {
    /// The state of zero bytes.
    #[allow(dead_code)]
    Nothing = 0,
    Huge = 1,
    NoHuge = 2,
}

/// All zero bytes are a valid record: Absent.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct HugePage {
    pub used: PageSet,
    pub dirty: PageSet,
    pub next: u32,
    pub prev: u32,
    pub state: HugeState,
    pub advice: Advice,
    /// Free: the range is in the warm set.
    pub warm: bool,
    /// Filler: the list it stands in, which is the longest run of free pages.
    pub longest: u16,
    /// Free, at the first and last hugepage of a range: the range's length.
    pub range_len: u32,
}

const _: () = assert!(size_of::<HugePage>() == 128);

/// The table of records: an array over the region, indexed by hugepage.
#[derive(Clone, Copy, Debug)]
pub struct HugeTable {
    first: *mut HugePage,
    /// Records that exist.
    pub count: u32,
}

// SAFETY: the table is reached under the page heap's lock only.
unsafe impl Send for HugeTable {}

impl HugeTable {
    pub const EMPTY: HugeTable = HugeTable { first: core::ptr::null_mut(), count: 0 };

    /// # Safety
    /// `first` is an array of at least `count` records, zero or valid.
    pub unsafe fn new(first: *mut HugePage, count: u32) -> HugeTable {
        HugeTable { first, count }
    }

    /// The record of a hugepage of the arena.
    pub fn at(&mut self, id: u32) -> &mut HugePage {
        if id >= self.count {
            crate::os::fault::die(crate::os::fault::Fault::Corrupt, id as usize);
        }
        // SAFETY: within the array; one borrow at a time through &mut self.
        unsafe { &mut *self.first.add(id as usize) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sets_agree_with_a_bool_array() {
        let mut set = PageSet::EMPTY;
        let mut naive = [false; 256];
        let mut seed = 1u64;
        for _ in 0..if cfg!(miri) { 100 } else { 2000 } {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let from = (seed >> 33) as u32 % 256;
            let len = (seed >> 45) as u32 % (257 - from);
            let insert = seed >> 63 == 0;
            if insert {
                set.insert(from, len)
            } else {
                set.remove(from, len)
            }
            naive[from as usize..(from + len) as usize].fill(insert);
            assert_eq!(set.len(), naive.iter().filter(|b| **b).count() as u32);
            let mut longest = 0;
            let mut run = 0;
            for used in naive {
                run = if used { 0 } else { run + 1 };
                longest = longest.max(run);
            }
            assert_eq!(set.longest_gap(), longest);
            assert_eq!(set.runs().map(|r| r.1).sum::<u32>(), set.len());
            if let Some(at) = (from..256).find(|at| !naive[*at as usize]) {
                let first = (0..at).rev().find(|i| naive[*i as usize]).map_or(0, |i| i + 1);
                let end = (at..256).find(|i| naive[*i as usize]).unwrap_or(256);
                assert_eq!(set.gap_around(at), (first, end - first));
            }
            assert_eq!(
                set.count(from, len),
                naive[from as usize..(from + len) as usize].iter().filter(|b| **b).count() as u32
            );
        }
    }
}
