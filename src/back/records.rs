//! Memory for span records: units of 64 bytes, in pages that go back to the
//! kernel when no record is left in them.
//!
//! ```text
//! record page, 4 KiB: | header | unit 1 | unit 2 | … | unit 63 |
//! group, 64 pages: the first one's header says which of the others went back
//! ```
//! A page whose header reads as zero is not in use: never touched, or given
//! back. The first page of a group stays, so that its header does.
//!
//! Invariants: `roomy` lists exactly the pages in use with a free unit; `groups`
//! exactly the groups with a page that went back.

#![allow(unsafe_code)]

use crate::back::region::Region;
use crate::back::span::{UNIT_BYTES, unit_addr};
use crate::census::{Broken, Kind};
use crate::units::ClassId;
use core::ptr::with_exposed_provenance_mut;

const PAGE_BYTES: usize = 4096;
const PAGE_UNITS: u32 = (PAGE_BYTES / UNIT_BYTES) as u32;
const GROUP_PAGES: u32 = 64;
/// The roomy pages that a request looks at.
const LOOKS: usize = 4;
/// Empty pages that stay.
const KEPT_EMPTY: u32 = 16;
/// Units at even places, for records of two that must not lie across.
const EVEN: u64 = 0x5555_5555_5555_5555;
/// The header's own unit.
const EMPTY: u64 = 1;

/// Pages are named by their index and 1, so that zero bytes name none.
type PageName = u32;

#[derive(Debug)]
#[repr(C)]
struct Header {
    /// Bit n: unit n is in use.
    used: u64,
    /// Of a group's first page, bit n: page n of the group went back.
    returned: u64,
    /// Neighbours in the list of roomy pages, and, of a group's first page, in the
    /// list of groups.
    links: [Links; 2],
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Links {
    next: PageName,
    prev: PageName,
}
const _: () = assert!(size_of::<Header>() <= UNIT_BYTES);

/// A list through the headers of its pages.
#[derive(Debug)]
struct PageList {
    first: PageName,
    /// Which of a header's links are this list's.
    which: usize,
}

#[derive(Debug)]
pub struct Records {
    /// Pages from here on were never used.
    next_page: u32,
    roomy: PageList,
    groups: PageList,
    /// Roomy pages without a record, and pages that went back.
    empty: u32,
    returned: u32,
    /// Units that will never be free again.
    permanent: u32,
}

fn header(page: u32) -> &'static mut Header {
    let at: *mut Header = with_exposed_provenance_mut(unit_addr(page * PAGE_UNITS));
    // SAFETY: pages below `next_page` are mapped for good, zero bytes are a
    // valid header, and the page heap's lock is held: no other reference lives.
    unsafe { &mut *at }
}

/// A place for so many units in a row where these are used.
fn place(used: u64, units: u32, even: bool) -> Option<u32> {
    let mut fits = !used;
    for i in 1..units {
        fits &= !used >> i;
    }
    if even {
        fits &= EVEN;
    }
    (fits != 0).then(|| fits.trailing_zeros())
}

fn mask(at: u32, units: u32) -> u64 {
    ((1 << units) - 1) << at
}

impl PageList {
    fn links(&self, page: u32) -> &'static mut Links {
        let [roomy, group] = &mut header(page).links;
        if self.which == 0 { roomy } else { group }
    }

    fn put(&mut self, page: u32) {
        let next = core::mem::replace(&mut self.first, page + 1);
        if let Some(next) = next.checked_sub(1) {
            self.links(next).prev = page + 1;
        }
        *self.links(page) = Links { next, prev: 0 };
    }

    fn take_out(&mut self, page: u32) {
        let Links { next, prev } = *self.links(page);
        if let Some(next) = next.checked_sub(1) {
            self.links(next).prev = prev;
        }
        match prev.checked_sub(1) {
            Some(prev) => self.links(prev).next = next,
            None => self.first = next,
        }
    }
}

impl Records {
    pub const NONE: Records = Records {
        next_page: 0,
        roomy: PageList { first: 0, which: 0 },
        groups: PageList { first: 0, which: 1 },
        empty: 0,
        returned: 0,
        permanent: 0,
    };

    /// The first of so many units in a row, whose bytes are any.
    pub fn take(&mut self, region: &mut Region, units: u8) -> Option<u32> {
        self.take_at(region, u32::from(units), false)
    }

    /// Two units at a multiple of two, zero, for good.
    pub fn take_permanent(&mut self, region: &mut Region) -> Option<u32> {
        let at = self.take_at(region, 2, true)?;
        self.permanent += 2;
        let bytes: *mut u8 = with_exposed_provenance_mut(unit_addr(at));
        // SAFETY: two units just taken.
        unsafe { bytes.write_bytes(0, 2 * UNIT_BYTES) };
        Some(at)
    }

    fn take_at(&mut self, region: &mut Region, units: u32, even: bool) -> Option<u32> {
        let mut name = self.roomy.first;
        for _ in 0..LOOKS {
            let Some(page) = name.checked_sub(1) else { break };
            if let Some(unit) = self.mark(page, units, even) {
                return Some(unit);
            }
            name = self.roomy.links(page).next;
        }
        let page = self.fresh_page(region)?;
        self.mark(page, units, even)
    }

    fn mark(&mut self, page: u32, units: u32, even: bool) -> Option<u32> {
        let h = header(page);
        let at = place(h.used, units, even)?;
        self.empty -= u32::from(h.used == EMPTY);
        h.used |= mask(at, units);
        if h.used == u64::MAX {
            self.roomy.take_out(page);
        }
        Some(page * PAGE_UNITS + at)
    }

    /// Takes units back; `release` gives a page back to the kernel, or says that
    /// this cannot be.
    pub fn put(&mut self, unit: u32, units: u8, release: impl FnOnce(usize, usize) -> bool) {
        let page = unit / PAGE_UNITS;
        if header(page).used == u64::MAX {
            self.roomy.put(page);
        }
        let h = header(page);
        h.used &= !mask(unit % PAGE_UNITS, u32::from(units));
        if h.used != EMPTY {
            return;
        }
        self.empty += 1;
        if self.empty <= KEPT_EMPTY || page % GROUP_PAGES == 0 {
            return;
        }
        // Its header goes, too: out of the list first.
        self.roomy.take_out(page);
        if !release(unit_addr(page * PAGE_UNITS), PAGE_BYTES) {
            self.roomy.put(page);
            return;
        }
        self.empty -= 1;
        self.returned += 1;
        let group = page - page % GROUP_PAGES;
        if header(group).returned == 0 {
            self.groups.put(group);
        }
        header(group).returned |= 1 << (page % GROUP_PAGES);
    }

    /// A page that is not in use, made a roomy one.
    fn fresh_page(&mut self, region: &mut Region) -> Option<u32> {
        let page = match self.groups.first.checked_sub(1) {
            Some(group) => {
                let h = header(group);
                let at = h.returned.trailing_zeros();
                h.returned &= h.returned - 1;
                if h.returned == 0 {
                    self.groups.take_out(group);
                }
                self.returned -= 1;
                group + at
            }
            None => {
                let page = self.next_page;
                let end = page.checked_add(1)?.checked_mul(PAGE_UNITS)?;
                if !region.ensure(end as usize * UNIT_BYTES) {
                    return None;
                }
                self.next_page += 1;
                page
            }
        };
        header(page).used = EMPTY;
        self.empty += 1;
        self.roomy.put(page);
        Some(page)
    }

    /// Bytes of the pages that are in use.
    pub fn bytes(&self) -> usize {
        (self.next_page - self.returned) as usize * PAGE_BYTES
    }

    /// Whether all of these units are in use, as far as they are units at all.
    pub fn holds(&self, unit: u32, units: u32) -> bool {
        let (page, at) = (unit / PAGE_UNITS, unit % PAGE_UNITS);
        let within = page < self.next_page && at > 0 && units > 0 && at + units <= PAGE_UNITS;
        within && header(page).used & mask(at, units) == mask(at, units)
    }

    /// Checks the pages and the lists against `live` units of records.
    pub fn verify(&self, live: u32, found: &mut Broken) {
        let none = ClassId::NONE;
        let (mut used, mut roomy, mut empty, mut returned) = (0, 0, 0, 0);
        for page in 0..self.next_page {
            let h = header(page);
            let group = page - page % GROUP_PAGES;
            let went = header(group).returned >> (page % GROUP_PAGES) & 1 == 1;
            found.check((h.used == 0) == went, Kind::UnitList, none, page as usize);
            used += h.used.count_ones().saturating_sub(1);
            roomy += u32::from(h.used != 0 && h.used != u64::MAX);
            empty += u32::from(h.used == EMPTY);
            returned += u32::from(went);
        }
        found.same(Kind::UnitSum, none, 0, (live + self.permanent) as usize, used as usize);
        found.same(Kind::UnitSum, none, 0, self.empty as usize, empty as usize);
        found.same(Kind::UnitSum, none, 0, self.returned as usize, returned as usize);
        // No loop: a page met again would have another one before it.
        let (mut name, mut before, mut listed) = (self.roomy.first, 0, 0);
        while let Some(page) = name.checked_sub(1) {
            if page >= self.next_page || self.roomy.links(page).prev != before {
                break;
            }
            listed += 1;
            (before, name) = (name, self.roomy.links(page).next);
        }
        found.same(Kind::UnitList, none, 0, roomy as usize, listed);
    }

    /// Faults for the walk's test: a call plants one, another takes it out.
    #[cfg(test)]
    pub fn plant(&mut self, kind: Kind) {
        match kind {
            Kind::UnitSum => self.permanent ^= 1,
            _ => self.roomy.links(0).prev ^= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_the_first_that_fit() {
        assert_eq!(place(0b1, 1, false), Some(1));
        assert_eq!(place(0b1011, 2, false), Some(4));
        assert_eq!(place(0b101, 2, true), Some(4));
        assert_eq!(place(u64::MAX >> 2, 2, false), Some(62));
        assert_eq!(place(u64::MAX >> 1, 2, false), None);
        assert_eq!(place(u64::MAX, 1, false), None);
    }
}
