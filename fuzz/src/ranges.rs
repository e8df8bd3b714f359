//! `back::huge_cache`, the warm and the cold ranges over one table, against a
//! list of hugepages.

use super::Target;
use super::input::Input;
use cidalloc::trial::NOTHING;
use cidalloc::trial::huge_cache::HugeRanges;
use cidalloc::trial::huge_page::{HugePage, HugeState, HugeTable};
use cidalloc::units::HugeId;

pub static TARGET: Target = Target {
    name: "ranges",
    run,
    faults: &[
        "a taken range overlaps",
        "a longer range is carved than needed",
        "the last hugepage put in is lost",
        "a hugepage goes to the other kind",
        "a range is taken that is not whole",
        "the low mark stays high",
    ],
};

/// So few that all ranges of two and more stand within the looks of a request:
/// then the best fit is exact.
const HUGES: u32 = 96;

/// A maximal range: first hugepage and length.
type Range = (u32, u32);

struct Trial<'a> {
    /// Cold and warm.
    sets: [HugeRanges; 2],
    table: HugeTable,
    /// Free, and then whether it is warm.
    free: [Option<bool>; HUGES as usize],
    /// The least total of each set since its mark.
    low: [u32; 2],
    planted: &'a str,
}

fn run(bytes: &[u8], planted: &str) -> Result<(), String> {
    // SAFETY: all zero bytes are a valid record.
    let mut records: Vec<HugePage> = (0..HUGES).map(|_| unsafe { std::mem::zeroed() }).collect();
    let mut trial = Trial {
        sets: [HugeRanges::new(false), HugeRanges::new(true)],
        // SAFETY: the vector outlives the table.
        table: unsafe { HugeTable::new(records.as_mut_ptr(), HUGES) },
        free: [None; HUGES as usize],
        low: [0; 2],
        planted,
    };
    trial.put(0, HUGES, false);
    let mut input = Input::new(bytes);
    while let Some(choice) = input.next() {
        trial.step(choice, &mut input).and_then(|()| trial.compare())?;
    }
    // Everything comes back, warm, so that one range is left of each kind.
    for i in 0..HUGES {
        if trial.free[i as usize].is_none() {
            trial.put(i, 1, true);
        }
    }
    trial.compare()
}

impl Trial<'_> {
    fn step(&mut self, choice: u8, input: &mut Input) -> Result<(), String> {
        let warm = choice >= 128;
        let kind = usize::from(warm);
        let len = 1 + input.below(if choice & 64 == 0 { 6 } else { HUGES });
        match choice % 8 {
            0 | 1 => self.take(len, warm),
            2 => {
                let at = input.below(HUGES);
                let due = at + len <= HUGES && self.all(at, len, warm);
                let done = self.sets[kind].take_at(&mut self.table, HugeId(at), len);
                let due = due || self.planted == "a range is taken that is not whole";
                check!(done == due, "{len} taken at {at}: {done}");
                if done { self.claim(at, len, warm) } else { Ok(()) }
            }
            3 => self.take_any(len, warm),
            4 => {
                self.sets[kind].low = self.sets[kind].total;
                self.low[kind] = self.total(warm);
                let at = input.below(HUGES);
                let len = len.min(HUGES - at);
                let has = self.sets[kind].has(&mut self.table, HugeId(at), len);
                check!(has == self.all(at, len, warm), "{len} at {at}: has says {has}");
                Ok(())
            }
            _ => {
                let at = input.below(HUGES);
                let room = (at..HUGES).take_while(|i| self.free[*i as usize].is_none()).count();
                if room > 0 {
                    self.put(at, len.min(room as u32), warm);
                }
                Ok(())
            }
        }
    }

    fn all(&self, at: u32, len: u32, warm: bool) -> bool {
        self.free[at as usize..(at + len) as usize].iter().all(|f| *f == Some(warm))
    }

    fn total(&self, warm: bool) -> u32 {
        self.free.iter().filter(|f| **f == Some(warm)).count() as u32
    }

    fn ranges(&self, warm: bool) -> Vec<Range> {
        let mut ranges: Vec<Range> = Vec::new();
        for i in (0..HUGES).filter(|i| self.free[*i as usize] == Some(warm)) {
            match ranges.last_mut() {
                Some((first, len)) if *first + *len == i => *len += 1,
                _ => ranges.push((i, 1)),
            }
        }
        ranges
    }

    fn put(&mut self, at: u32, len: u32, warm: bool) {
        let short = u32::from(self.planted == "the last hugepage put in is lost" && len > 1);
        let other = self.planted == "a hugepage goes to the other kind" && len > 3;
        self.sets[usize::from(warm != other)].put(&mut self.table, HugeId(at), len - short);
        self.free[at as usize..(at + len) as usize].fill(Some(warm));
    }

    /// Notes hugepages as taken.
    fn claim(&mut self, at: u32, len: u32, warm: bool) -> Result<(), String> {
        check!(at + len <= HUGES, "{len} at {at}: outside");
        check!(self.all(at, len, warm), "{len} at {at}: not free, or not of this kind");
        self.free[at as usize..(at + len) as usize].fill(None);
        for id in at..at + len {
            let state = self.table.at(id).state;
            check!(state == HugeState::Absent, "hugepage {id} is taken and {state:?}");
        }
        let low = self.total(warm);
        let mark = &mut self.low[usize::from(warm)];
        if self.planted != "the low mark stays high" {
            *mark = low.min(*mark);
        }
        Ok(())
    }

    fn take(&mut self, len: u32, warm: bool) -> Result<(), String> {
        let ranges = self.ranges(warm);
        let best = ranges.iter().map(|r| r.1).filter(|room| *room >= len).min();
        let taken = self.sets[usize::from(warm)].take(&mut self.table, len);
        let Some(mut id) = taken.map(|id| id.0) else {
            check!(best.is_none(), "{len} refused, a range of {best:?} is there");
            return Ok(());
        };
        match self.planted {
            "a taken range overlaps" if id > 0 => id -= 1,
            "a longer range is carved than needed" => {
                id = ranges.iter().rev().find(|r| r.1 >= len).map_or(id, |r| r.0);
            }
            _ => {}
        }
        let due = |r: &&Range| r.0 == id && Some(r.1) == best;
        check!(ranges.iter().any(|r| due(&r)), "{len} at {id}: no best fit in {ranges:?}");
        self.claim(id, len, warm)
    }

    fn take_any(&mut self, most: u32, warm: bool) -> Result<(), String> {
        let ranges = self.ranges(warm);
        let Some((id, len)) = self.sets[usize::from(warm)].take_any(&mut self.table, most) else {
            check!(ranges.is_empty(), "nothing taken of {ranges:?}");
            return Ok(());
        };
        // The end of a range that is, but for less than its half, the longest.
        let from = ranges.iter().find(|r| r.0 + r.1 == id.0 + len);
        let Some(from) = from else {
            return Err(format!("{len} at {}: not the end of one of {ranges:?}", id.0));
        };
        let longest = ranges.iter().map(|r| r.1).max().unwrap_or(0);
        check!(from.1.ilog2() == longest.ilog2(), "{from:?} taken of {ranges:?}");
        check!(len == most.min(from.1), "{len} taken of {from:?}, up to {most}");
        self.claim(id.0, len, warm)
    }

    fn compare(&mut self) -> Result<(), String> {
        for warm in [false, true] {
            let (set, total) = (&self.sets[usize::from(warm)], self.total(warm));
            // The layer's own look at its lists, and at the total.
            let mut broken = NOTHING;
            set.verify(&mut self.table, total, &mut broken);
            check!(broken.count() == 0, "warm {warm}: {broken}");
            let due = self.low[usize::from(warm)];
            check!(set.low == due, "warm {warm}: the low mark is at {}, due {due}", set.low);
            for (first, len) in self.ranges(warm) {
                for id in first..first + len {
                    let record = self.table.at(id);
                    let due = (HugeState::Free, warm);
                    check!((record.state, record.warm) == due, "hugepage {id}: {record:?}");
                }
                let ends =
                    [self.table.at(first).range_len, self.table.at(first + len - 1).range_len];
                check!(ends == [len; 2], "range of {len} at {first} is marked {ends:?}");
            }
        }
        Ok(())
    }
}
