//! `back::huge_filler` against a list of pages: which are used, which may hold
//! something else than zeros.

use super::Target;
use super::input::Input;
use cidalloc::trial::NOTHING;
use cidalloc::trial::huge_filler::{Freed, HugeFiller, Totals};
use cidalloc::trial::huge_page::{HugePage, HugeState, HugeTable, PageSet};
use cidalloc::units::{HugeId, PAGES_PER_HUGE, PageId};
use std::ops::Range;

pub static TARGET: Target = Target {
    name: "filler",
    run,
    faults: &[
        "a run overlaps another",
        "a longer run is broken than needed",
        "a dirty page is called zero",
        "the last page given is lost",
        "a page given back stays dirty",
        "an empty hugepage is kept",
    ],
};

const HUGES: u32 = 5;
const PER: u32 = PAGES_PER_HUGE;

fn pages(first: u32, len: u32) -> Range<usize> {
    first as usize..(first + len) as usize
}

struct Trial<'a> {
    filler: HugeFiller,
    table: HugeTable,
    /// Per page.
    used: Vec<bool>,
    dirty: Vec<bool>,
    /// Hugepages that the filler has.
    held: [bool; HUGES as usize],
    /// What was taken and not yet given: first page and length.
    runs: Vec<(u32, u32)>,
    planted: &'a str,
}

fn run(bytes: &[u8], planted: &str) -> Result<(), String> {
    // SAFETY: all zero bytes are a valid record.
    let mut records: Vec<HugePage> = (0..HUGES).map(|_| unsafe { std::mem::zeroed() }).collect();
    let mut trial = Trial {
        filler: HugeFiller::EMPTY,
        // SAFETY: the vector outlives the table.
        table: unsafe { HugeTable::new(records.as_mut_ptr(), HUGES) },
        used: vec![false; (HUGES * PER) as usize],
        dirty: vec![false; (HUGES * PER) as usize],
        held: [false; HUGES as usize],
        runs: Vec::new(),
        planted,
    };
    let mut input = Input::new(bytes);
    while let Some(choice) = input.next() {
        trial.step(choice, &mut input).and_then(|()| trial.compare())?;
    }
    while let Some((first, len)) = trial.runs.pop() {
        trial.give(first, len)?;
    }
    trial.compare()?;
    check!(trial.filler.hugepages == 0, "{} hugepages left", trial.filler.hugepages);
    Ok(())
}

/// Lengths in pages: mostly short, up to a hugepage.
fn length(input: &mut Input) -> u32 {
    let byte = u32::from(input.byte());
    1 + if byte < 160 { byte % 16 } else { u32::from(input.byte()) }
}

impl Trial<'_> {
    fn step(&mut self, choice: u8, input: &mut Input) -> Result<(), String> {
        match choice % 8 {
            0..=2 => {
                let len = length(input);
                // One in four is aligned.
                let align = 1 << (input.byte().saturating_sub(191) % 9);
                self.take(len, align, choice >= 128)
            }
            3 => {
                let first = input.below(HUGES * PER);
                self.take_at(first, length(input)).map(|_| ())
            }
            4 if !self.runs.is_empty() => {
                // In place behind a run, as a block grows.
                let i = input.below(self.runs.len() as u32) as usize;
                let (first, len) = self.runs[i];
                let more = length(input);
                if (first + len) % PER > 0 && self.take_at(first + len, more)? {
                    self.runs.pop();
                    self.runs[i].1 += more;
                }
                Ok(())
            }
            5 if !self.runs.is_empty() => {
                // The end of a run, as a block shrinks.
                let i = input.below(self.runs.len() as u32) as usize;
                let (first, len) = self.runs[i];
                let keep = input.below(len + 1);
                match keep {
                    0 => drop(self.runs.swap_remove(i)),
                    _ => self.runs[i].1 = keep,
                }
                if keep == len { Ok(()) } else { self.give(first + keep, len - keep) }
            }
            6 => self.subrelease(u32::from(input.byte()) * 4),
            _ if !self.runs.is_empty() => {
                let i = input.below(self.runs.len() as u32) as usize;
                let (first, len) = self.runs.swap_remove(i);
                self.give(first, len)
            }
            _ => Ok(()),
        }
    }

    /// Runs of free pages of a hugepage: first page within it, and length.
    fn gaps(&self, huge: u32) -> Vec<(u32, u32)> {
        let mut gaps: Vec<(u32, u32)> = Vec::new();
        let used = &self.used[pages(huge * PER, PER)];
        for i in (0..PER).filter(|i| !used[*i as usize]) {
            match gaps.last_mut() {
                Some((first, len)) if *first + *len == i => *len += 1,
                _ => gaps.push((i, 1)),
            }
        }
        gaps
    }

    fn longest(&self, huge: u32) -> u32 {
        self.gaps(huge).iter().map(|(_, len)| *len).max().unwrap_or(0)
    }

    /// Notes pages as taken; whether none of them was dirty.
    fn claim(&mut self, first: u32, len: u32) -> Result<bool, String> {
        let end = first + len;
        check!(end <= HUGES * PER && first / PER == (end - 1) / PER, "{len} at {first}: no run");
        check!(self.held[(first / PER) as usize], "{len} at {first}: not the filler's");
        let pages = pages(first, len);
        check!(!self.used[pages.clone()].contains(&true), "{len} at {first}: handed out twice");
        let zero = !self.dirty[pages.clone()].contains(&true);
        self.used[pages.clone()].fill(true);
        self.dirty[pages].fill(true);
        self.runs.push((first, len));
        Ok(zero)
    }

    /// As the page heap takes pages: out of the filler, else of a new hugepage,
    /// whose memory is `warm` or went back before.
    fn take(&mut self, len: u32, align: u32, warm: bool) -> Result<(), String> {
        // Some runs are to grow.
        let room = if warm { len } else { len * 2 };
        let least = room + align - 1;
        let held = (0..HUGES).filter(|h| self.held[*h as usize]);
        let best = held.map(|h| self.longest(h)).filter(|longest| *longest >= least).min();
        let Some((page, zero)) = self.filler.take(&mut self.table, len, align, room) else {
            check!(best.is_none(), "{len} by {align} refused, a gap of {best:?} is there");
            return self.take_first(len, warm);
        };
        let mut first = page.0;
        match self.planted {
            "a run overlaps another" if first % PER > 0 => first -= 1,
            "a longer run is broken than needed" => {
                let gaps = self.gaps(first / PER);
                let other = gaps.iter().rev().find(|gap| gap.1 >= least);
                first = first / PER * PER + other.map_or(first % PER, |gap| gap.0);
            }
            _ => {}
        }
        let zero = zero || self.planted == "a dirty page is called zero";
        let huge = first / PER;
        check!(first % align == 0, "page {first} for an alignment of {align}");
        check!(huge < HUGES, "page {first} is outside");
        check!(Some(self.longest(huge)) == best, "{len} by {align} not where the least room is");
        // The shortest gap that has the room, the first of several.
        let fits = |gap: &&(u32, u32)| gap.0.next_multiple_of(align) + room <= gap.0 + gap.1;
        let gaps = self.gaps(huge);
        let due = gaps.iter().filter(fits).min_by_key(|gap| gap.1).map(|gap| gap.0);
        let due = due.map(|gap| huge * PER + gap.next_multiple_of(align));
        check!(due == Some(first), "{len} by {align} at page {first}, due at {due:?}");
        let clean = self.claim(first, len)?;
        check!(zero == clean, "{len} at {first}: known zero {zero}, is {clean}");
        Ok(())
    }

    fn take_first(&mut self, len: u32, warm: bool) -> Result<(), String> {
        let Some(huge) = (0..HUGES).find(|h| !self.held[*h as usize]) else { return Ok(()) };
        if !warm {
            self.table.at(huge).dirty = PageSet::EMPTY;
            self.dirty[pages(huge * PER, PER)].fill(false);
        }
        self.filler.add(&mut self.table, HugeId(huge));
        self.held[huge as usize] = true;
        self.compare()?;
        let (page, zero) = self.filler.take_first(&mut self.table, HugeId(huge), len);
        check!(page.0 == huge * PER, "the first of hugepage {huge} is page {}", page.0);
        let clean = self.claim(page.0, len)?;
        check!(zero == clean, "{len} at {}: known zero {zero}, is {clean}", page.0);
        Ok(())
    }

    fn take_at(&mut self, first: u32, len: u32) -> Result<bool, String> {
        let huge = first / PER;
        let due = self.held[huge as usize]
            && first % PER + len <= PER
            && !self.used[pages(first, len)].contains(&true);
        let done = self.filler.take_at(&mut self.table, PageId(first), len);
        check!(done == due, "{len} taken at {first}: {done}");
        if done {
            self.claim(first, len)?;
        }
        Ok(done)
    }

    fn give(&mut self, first: u32, len: u32) -> Result<(), String> {
        let huge = first / PER;
        let short = u32::from(self.planted == "the last page given is lost" && len > 1);
        let mut freed = self.filler.give(&mut self.table, PageId(first), len - short);
        self.used[pages(first, len)].fill(false);
        let empty = !self.used[pages(huge * PER, PER)].contains(&true);
        if self.planted == "an empty hugepage is kept" {
            freed = Freed::Partly;
        }
        check!((freed == Freed::Whole) == empty, "{len} at {first} given, and {freed:?} is free");
        if empty {
            self.held[huge as usize] = false;
            // Its next owner says so.
            self.table.at(huge).state = HugeState::Free;
        }
        Ok(())
    }

    /// As the page heap gives free pages back to the kernel.
    fn subrelease(&mut self, most: u32) -> Result<(), String> {
        let (mut done, mut visited) = (0, Vec::new());
        let planted = self.planted;
        let dirty = &mut self.dirty;
        self.filler.each_sparse(&mut self.table, |filler, table, id| {
            let page = table.at(id.0);
            visited.push((id.0, u32::from(page.longest)));
            for (first, len) in page.dirty.minus(&page.used).runs() {
                let short = u32::from(planted == "a page given back stays dirty");
                filler.forget_dirty(table, id, first, len - short);
                dirty[pages(id.0 * PER + first, len)].fill(false);
                done += len;
            }
            done < most
        });
        // Every hugepage with room, the one with the longest gap first.
        check!(visited.is_sorted_by_key(|v| std::cmp::Reverse(v.1)), "order of {visited:?}");
        if done < most {
            let mut found: Vec<u32> = visited.iter().map(|v| v.0).collect();
            found.sort_unstable();
            let due: Vec<u32> =
                (0..HUGES).filter(|h| self.held[*h as usize] && self.longest(*h) > 0).collect();
            check!(found == due, "subrelease visits {found:?}, room is in {due:?}");
        }
        Ok(())
    }

    fn compare(&mut self) -> Result<(), String> {
        let (mut totals, mut roomy) = (Totals::default(), 0);
        for huge in (0..HUGES).filter(|h| self.held[*h as usize]) {
            let longest = self.longest(huge);
            let record = self.table.at(huge);
            let all = pages(huge * PER, PER);
            let agrees = |set: &PageSet, model: &[bool]| {
                let holds = |(first, len)| !model[pages(first, len)].contains(&false);
                set.runs().all(holds) && set.len() as usize == model.iter().filter(|m| **m).count()
            };
            let (used_pages, dirty) = (&self.used[all.clone()], &self.dirty[all]);
            check!(agrees(&record.used, used_pages), "used of {huge}: {:?}", record.used);
            check!(agrees(&record.dirty, dirty), "dirty of {huge}: {:?}", record.dirty);
            check!(u32::from(record.longest) == longest, "longest run of hugepage {huge}");
            totals.hugepages += 1;
            totals.used_pages += record.used.len();
            totals.free_dirty_pages += record.dirty.minus(&record.used).len();
            roomy += u32::from(longest > 0);
        }
        // The layer's own look at its lists, and at the totals.
        let mut broken = NOTHING;
        self.filler.verify(&mut self.table, &totals, roomy, &mut broken);
        check!(broken.count() == 0, "{broken}");
        Ok(())
    }
}
