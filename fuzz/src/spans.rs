//! `back::span`, on spans of the real page heap that stand in no central list,
//! against a list of which objects are out.

use super::Target;
use super::input::Input;
use cidalloc::size_class::{self, ClassInfo};
use cidalloc::trial::page_map::PAGE_MAP;
use cidalloc::trial::span::{Span, span_of};
use cidalloc::trial::{Fault, PAGE_HEAP};
use cidalloc::units::{ClassId, PAGE_BYTES};

pub static TARGET: Target = Target {
    name: "spans",
    run,
    faults: &[
        "an object is handed out twice",
        "a higher object is handed out first",
        "a double give passes",
        "an interior give passes",
        "a give is not counted",
        "the last page belongs to no span",
    ],
};

const SPANS: usize = 6;

struct Held {
    at: *mut Span,
    start: usize,
    info: &'static ClassInfo,
    class: ClassId,
    /// Per object: handed out; and those that are.
    out: Vec<bool>,
    taken: Vec<usize>,
}

struct Trial<'a> {
    spans: Vec<Held>,
    planted: &'a str,
}

fn run(bytes: &[u8], planted: &str) -> Result<(), String> {
    let _alone = super::history::alone();
    let mut trial = Trial { spans: Vec::new(), planted };
    let mut input = Input::new(bytes);
    let mut result = Ok(());
    while let (Ok(()), Some(choice)) = (&result, input.next()) {
        result = trial.step(choice, &mut input);
    }
    while let (Ok(()), false) = (&result, trial.spans.is_empty()) {
        result = trial.give_all(0).and_then(|()| trial.retire(0));
    }
    // After a fault: nobody uses what is still out.
    for held in trial.spans.drain(..) {
        // SAFETY: ours, in no list, and struck from the trial.
        unsafe { PAGE_HEAP.lock().free_span(held.at) };
    }
    result
}

impl Trial<'_> {
    fn step(&mut self, choice: u8, input: &mut Input) -> Result<(), String> {
        if choice % 8 == 0 && self.spans.len() < SPANS || self.spans.is_empty() {
            let class = 1 + input.below(size_class::COUNT as u32 - 1) as u8;
            return self.begin(ClassId(class));
        }
        let i = input.below(self.spans.len() as u32) as usize;
        match choice % 8 {
            0 | 1 => self.take(i, input.below(80) as usize),
            2 => {
                let most = self.spans[i].out.len();
                self.take(i, input.below(most as u32 + 1) as usize)
            }
            3 | 4 => self.give(i, input.word().into()),
            5 => self.give_wrong(i, input.word().into(), input.word().into()),
            6 => self.look_up(i, input.word().into()),
            _ => {
                if choice >= 128 {
                    self.give_all(i)?;
                }
                self.retire(i)
            }
        }
    }

    fn begin(&mut self, class: ClassId) -> Result<(), String> {
        // The process's heap lays itself out in its first allocation.
        let first = cidalloc::heap::allocate(1);
        // SAFETY: just allocated.
        unsafe { cidalloc::heap::free(first) };
        let info = size_class::info(class);
        let made = PAGE_HEAP.lock().new_span(class);
        let Some(at) = made else { return Err("no memory for a span".into()) };
        // SAFETY: ours from here to `retire`.
        let span = unsafe { &*at };
        let found = (span.class, span.pages, span.free, span.objects());
        let due = (class, info.span_pages(), info.objects, info.objects);
        check!(found == due, "a new span is {found:?}, due {due:?}");
        let (start, end) = (span.addr(), span.addr() + span.pages.bytes());
        let overlaps = |held: &&Held| held.start < end && start < held.end();
        if let Some(other) = self.spans.iter().find(overlaps) {
            return Err(format!("span {start:#x} to {end:#x} overlaps that at {:#x}", other.start));
        }
        check!(start % PAGE_BYTES == 0, "a span at {start:#x}");
        let out = vec![false; info.objects.into()];
        self.spans.push(Held { at, start, info, class, out, taken: Vec::new() });
        (0..info.span_pages.into())
            .try_for_each(|page| self.look_up(self.spans.len() - 1, page * PAGE_BYTES))
    }

    fn take(&mut self, i: usize, most: usize) -> Result<(), String> {
        let held = &mut self.spans[i];
        let mut objects = vec![0; most];
        let mut taken = held.span().take(&mut objects);
        check!(taken <= most, "{taken} taken, {most} asked for");
        match self.planted {
            "an object is handed out twice" if taken > 1 => objects[1] = objects[0],
            "a higher object is handed out first" if taken > 1 => objects.swap(0, 1),
            "a give is not counted" if taken > 3 => taken -= 1,
            _ => {}
        }
        // The lowest that are not out.
        let due: Vec<usize> = (0..held.out.len()).filter(|n| !held.out[*n]).take(most).collect();
        check!(taken == due.len(), "{taken} of {} taken, {most} asked for", due.len());
        for (addr, n) in objects.into_iter().zip(due) {
            check!(addr == held.object(n), "{addr:#x} taken, due {:#x}", held.object(n));
            held.out[n] = true;
            held.taken.push(n);
        }
        held.compare()
    }

    /// Gives back one of the objects that are out.
    fn give(&mut self, i: usize, pick: usize) -> Result<(), String> {
        let held = &mut self.spans[i];
        if held.taken.is_empty() {
            return Ok(());
        }
        let n = held.taken.swap_remove(pick % held.taken.len());
        let addr = held.object(n);
        // One alone, and a run of one, which ends behind it.
        let result = match pick % 2 {
            0 => held.give(addr),
            _ => held.give_run(&[addr, held.end()]),
        };
        check!(result == Ok(()), "object {n}, which is out: {result:?}");
        held.out[n] = false;
        if self.planted == "a give is not counted" {
            held.span().free -= 1;
        }
        held.compare()
    }

    /// Gives what is no object that is out: it must be refused, and change nothing.
    fn give_wrong(&mut self, i: usize, pick: usize, offset: usize) -> Result<(), String> {
        let held = &mut self.spans[i];
        let size = held.info.size_bytes as usize;
        let n = pick % held.out.len();
        let inside = held.object(n) + 1 + offset % (size - 1);
        let result = held.give(inside);
        let passes = self.planted == "an interior give passes";
        check!(result == Err(Fault::Interior) && !passes, "{inside:#x} inside {n}: {result:?}");
        let tail = held.object(held.out.len());
        if tail < held.end() {
            let addr = tail + offset % (held.end() - tail);
            let result = held.give(addr);
            check!(result == Err(Fault::Interior), "{addr:#x} behind the objects: {result:?}");
        }
        if !held.out[n] {
            let addr = held.object(n);
            let result = held.give(addr);
            let passes = self.planted == "a double give passes";
            check!(result == Err(Fault::DoubleFree) && !passes, "{n}, which is free: {result:?}");
        }
        held.compare()
    }

    fn give_all(&mut self, i: usize) -> Result<(), String> {
        while !self.spans[i].taken.is_empty() {
            self.give(i, 0)?;
        }
        Ok(())
    }

    /// Ends a span that has all its objects.
    fn retire(&mut self, i: usize) -> Result<(), String> {
        if !self.spans[i].taken.is_empty() {
            return Ok(());
        }
        let held = self.spans.swap_remove(i);
        // SAFETY: ours, in no list, and struck from the trial.
        unsafe { PAGE_HEAP.lock().free_span(held.at) };
        for addr in (held.start..held.end()).step_by(PAGE_BYTES) {
            let found = span_of(addr);
            check!(found == Err(Fault::NotAllocated), "{addr:#x} of an ended span: {found:?}");
            check!(PAGE_MAP.class_of(addr) == ClassId::NONE, "{addr:#x} of an ended span: a class");
        }
        Ok(())
    }

    fn look_up(&self, i: usize, offset: usize) -> Result<(), String> {
        let held = &self.spans[i];
        let addr = held.start + offset % (held.end() - held.start);
        let mut found = span_of(addr);
        if self.planted == "the last page belongs to no span" && held.end() - addr <= PAGE_BYTES {
            found = Err(Fault::NotAllocated);
        }
        // Of a span of one object only the first page is entered.
        let one = size_class::info(held.class).objects == 1 && addr - held.start >= PAGE_BYTES;
        let (due, class) = match one {
            true => (Err(Fault::NotAllocated), ClassId::NONE),
            false => (Ok(held.at), held.class),
        };
        check!(found == due, "{addr:#x} of span {:p}: {found:?}", held.at);
        check!(PAGE_MAP.class_of(addr) == class, "{addr:#x} is not of {class:?}");
        Ok(())
    }
}

impl Held {
    fn span(&mut self) -> &mut Span {
        // SAFETY: ours alone until the trial ends it.
        unsafe { &mut *self.at }
    }

    fn give(&mut self, addr: usize) -> Result<(), Fault> {
        let info = self.info;
        self.span().give(info, addr).map_err(|wrong| wrong.fault)
    }

    /// Gives the first of `addrs`, which alone lies in the span.
    fn give_run(&mut self, addrs: &[usize]) -> Result<(), Fault> {
        let info = self.info;
        let given = self.span().give_run(info, addrs).map_err(|wrong| wrong.fault)?;
        if given == 1 { Ok(()) } else { Err(Fault::Corrupt) }
    }

    fn end(&self) -> usize {
        self.start + self.info.span_pages().bytes()
    }

    fn object(&self, n: usize) -> usize {
        self.start + n * self.info.size_bytes as usize
    }

    fn compare(&mut self) -> Result<(), String> {
        let due = self.out.len() - self.taken.len();
        let found = self.span().free as usize;
        check!(found == due, "{found} objects counted free, {due} are");
        let (free, beyond) = self.span().bits();
        check!((free as usize, beyond) == (due, 0), "{free} and {beyond} bits, {due} are free");
        Ok(())
    }
}
