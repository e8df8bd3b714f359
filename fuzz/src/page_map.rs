//! `back::page_map`, an instance over tables of the target's own, against an
//! array of (class, unit).

use super::Target;
use super::input::Input;
use cidalloc::trial::page_map::PageMap;
use cidalloc::units::{ClassId, PAGE_BYTES, PageId, Pages};

pub static TARGET: Target = Target {
    name: "page_map",
    run,
    faults: &[
        "the last page of a span is not entered",
        "an address belongs to the page before",
        "the page behind the last one is found",
        "growing is forgotten",
        "a foreign address has a class",
    ],
};

const PAGES: usize = 1 << 10;
const BYTES: usize = PAGES * PAGE_BYTES;

struct Trial<'a> {
    map: PageMap,
    base: usize,
    /// Pages that have entries, and what they hold.
    entries: Vec<(u8, u32)>,
    planted: &'a str,
}

fn run(bytes: &[u8], planted: &str) -> Result<(), String> {
    let mut input = Input::new(bytes);
    // At the ends of the address space, or anywhere.
    let base = match input.byte() % 4 {
        0 => PAGE_BYTES,
        1 => usize::MAX - BYTES - PAGE_BYTES + 1,
        2 => (32 << 40) + (usize::from(input.word()) << 30),
        _ => (input.long() as usize).min(usize::MAX - BYTES),
    };
    let base = base / PAGE_BYTES * PAGE_BYTES;
    let mut classes = vec![0u8; PAGES];
    let mut spans = vec![0u32; PAGES];
    let mut trial = Trial { map: PageMap::empty(), base, entries: Vec::new(), planted };
    trial.look_up(base)?;
    trial.map.start(base, classes.as_mut_ptr().addr(), spans.as_mut_ptr().addr());
    trial.look_up(base)?;
    while let Some(choice) = input.next() {
        trial.step(choice, &mut input)?;
    }
    (0..PAGES).try_for_each(|page| trial.look_up(base + page * PAGE_BYTES))
}

impl Trial<'_> {
    fn step(&mut self, choice: u8, input: &mut Input) -> Result<(), String> {
        let pages = self.entries.len();
        match choice % 4 {
            0 => {
                let most = PAGES - pages;
                let more = (input.below(200) as usize).min(most);
                self.entries.resize(pages + more, (0, 0));
                if self.planted != "growing is forgotten" {
                    self.map.grow(pages + more);
                }
                self.look_up(self.base + (pages + more) * PAGE_BYTES)
            }
            1 if pages > 0 => {
                let first = input.below(pages as u32);
                let len = (1 + input.below(40)).min(pages as u32 - first);
                let (class, unit) = (ClassId(input.byte()), input.word().into());
                let short = self.planted == "the last page of a span is not entered" && len > 1;
                let entered = Pages(len - u32::from(short));
                self.map.set(PageId(first), entered, class, unit);
                let range = first as usize..(first + len) as usize;
                self.entries[range.clone()].fill((class.0, unit));
                // What is around it is as it was.
                let around = range.start.saturating_sub(1)..range.end + 1;
                around.map(|page| self.base + page * PAGE_BYTES).try_for_each(|a| self.look_up(a))
            }
            2 => {
                // Anywhere in the arena, often at the edge of a page.
                let page = self.base + input.below(PAGES as u32) as usize * PAGE_BYTES;
                let offset = [0, 1, PAGE_BYTES / 2, PAGE_BYTES - 1][usize::from(choice >> 6)];
                self.look_up(page + offset)
            }
            _ => {
                let far = input.long() as usize;
                self.look_up(far)?;
                self.look_up(self.base.wrapping_sub(far % PAGE_BYTES + 1))?;
                self.look_up(self.base + pages * PAGE_BYTES + far % PAGE_BYTES)
            }
        }
    }

    fn look_up(&self, addr: usize) -> Result<(), String> {
        let asked = match self.planted {
            "an address belongs to the page before" => addr.wrapping_sub(1),
            "the page behind the last one is found" if addr > self.base => addr - PAGE_BYTES,
            _ => addr,
        };
        let due = addr.checked_sub(self.base).map(|offset| offset / PAGE_BYTES);
        let due = due.filter(|page| *page < self.entries.len());
        let page = self.map.page_of(asked);
        check!(page.map(|p| p.0 as usize) == due, "{addr:#x} is in page {page:?}, due {due:?}");
        let entry = due.map_or((0, 0), |page| self.entries[page]);
        let mut class = self.map.class_of(asked);
        if self.planted == "a foreign address has a class" && page.is_none() {
            class = ClassId(1);
        }
        check!(class.0 == entry.0, "{addr:#x} has {class:?}, due {}", entry.0);
        let Some(page) = page else { return Ok(()) };
        let found = (self.map.class_of_page(page).0, self.map.span_unit(page));
        check!(found == entry, "{page:?} holds {found:?}, due {entry:?}");
        let start = self.map.addr_of(page);
        check!(start == addr / PAGE_BYTES * PAGE_BYTES, "{page:?} starts at {start:#x}");
        Ok(())
    }
}
