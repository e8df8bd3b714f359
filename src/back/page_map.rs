//! Page → size class (one byte, read by `free`) and page → span (slow paths).
//!
//! `classes[page]` is the class of the small span that the page belongs to, 0
//! for everything else. `spans[page]` is the unit of the span's record for
//! every page of a small span and for the first page of a large one, else 0.
//!
//! Written under the page heap's lock. Read without it, relaxed: whoever holds
//! a live block got it through locks or a hand-over of its own, which order
//! the entry's writing before; for other pointers any value is right, because
//! the slow path asks again under a lock.

#![allow(unsafe_code)]

use crate::units::{ClassId, PAGE_SHIFT, PageId, Pages};
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use core::sync::atomic::Ordering::{Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicUsize};

/// What `free` reads, in one cache line. All zero until initialised: then no
/// pointer is ours.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct PageMap {
    base: AtomicUsize,
    /// Bytes from the base whose pages have entries.
    len_bytes: AtomicUsize,
    /// Where a page at address 0 would have its class: so the entry of an address
    /// does not wait for the subtraction of the base.
    classes_at: AtomicUsize,
    spans: AtomicPtr<AtomicU32>,
}

pub static PAGE_MAP: PageMap = PageMap::empty();

impl PageMap {
    pub const fn empty() -> PageMap {
        PageMap {
            base: AtomicUsize::new(0),
            len_bytes: AtomicUsize::new(0),
            classes_at: AtomicUsize::new(0),
            spans: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// Sets the tables; once, before the first `grow`. `base` is a page's.
    pub fn start(&self, base: usize, classes: usize, spans: usize) {
        self.base.store(base, Relaxed); // published by `grow`
        self.classes_at.store(classes.wrapping_sub(base >> PAGE_SHIFT), Relaxed);
        self.spans.store(with_exposed_provenance_mut(spans), Relaxed);
    }

    /// Entries exist up to `pages` now.
    pub fn grow(&self, pages: usize) {
        // Release orders the tables' mapping before; readers depend on the
        // block's own hand-over, so their loads may be relaxed.
        self.len_bytes.store(pages << PAGE_SHIFT, Release);
    }

    /// The page of an address, or `None` outside the arena.
    #[inline(always)]
    pub fn page_of(&self, addr: usize) -> Option<PageId> {
        let offset = addr.wrapping_sub(self.base.load(Relaxed));
        (offset < self.len_bytes.load(Relaxed)).then_some(PageId((offset >> PAGE_SHIFT) as u32))
    }

    /// The class of the block at `addr`, NONE for large ones; `None` outside the
    /// arena.
    #[inline(always)]
    pub fn class_at(&self, addr: usize) -> Option<ClassId> {
        let offset = addr.wrapping_sub(self.base.load(Relaxed));
        // SAFETY: an address of the arena has an entry.
        (offset < self.len_bytes.load(Relaxed))
            .then(|| ClassId(unsafe { (*self.class_entry(addr)).load(Relaxed) }))
    }

    /// The same with NONE for foreign pointers, too.
    pub fn class_of(&self, addr: usize) -> ClassId {
        self.class_at(addr).unwrap_or(ClassId::NONE)
    }

    /// The class of the blocks in a page that [`PageMap::page_of`] has given.
    pub fn class_of_page(&self, page: PageId) -> ClassId {
        self.class_of(self.addr_of(page))
    }

    #[inline(always)]
    fn class_entry(&self, addr: usize) -> *const AtomicU8 {
        with_exposed_provenance(self.classes_at.load(Relaxed).wrapping_add(addr >> PAGE_SHIFT))
    }

    /// The unit of the span record of a page, 0 if it has none.
    pub fn span_unit(&self, page: PageId) -> u32 {
        // SAFETY: a PageId within the arena has an entry.
        unsafe { (*self.spans.load(Relaxed).add(page.0 as usize)).load(Relaxed) }
    }

    /// Pages that have entries.
    pub fn count(&self) -> usize {
        self.len_bytes.load(Relaxed) >> PAGE_SHIFT
    }

    pub fn addr_of(&self, page: PageId) -> usize {
        self.base.load(Relaxed) + ((page.0 as usize) << PAGE_SHIFT)
    }

    /// Enters a span's pages. Caller holds the page heap's lock.
    pub fn set(&self, first: PageId, pages: Pages, class: ClassId, unit: u32) {
        for page in first.0 as usize..(first.0 + pages.0) as usize {
            // SAFETY: the pages are within the arena.
            unsafe {
                (*self.spans.load(Relaxed).add(page)).store(unit, Relaxed);
                (*self.class_entry(self.addr_of(PageId(page as u32)))).store(class.0, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn pages_have_what_was_entered_for_them() {
        const PAGES: usize = 40;
        const BASE: usize = 5 << 40;
        let mut classes: Vec<u8> = std::vec![0; PAGES];
        let mut spans: Vec<u32> = std::vec![0; PAGES];
        let map = PageMap::empty();
        // Nothing is ours before the start, null and the last byte included.
        assert!([0, BASE, usize::MAX].iter().all(|addr| map.page_of(*addr).is_none()));
        let tables = (classes.as_mut_ptr(), spans.as_mut_ptr());
        map.start(BASE, tables.0.expose_provenance(), tables.1.expose_provenance());
        assert_eq!(map.page_of(BASE), None);
        map.grow(PAGES - 1);
        map.grow(PAGES);
        let end = BASE + (PAGES << PAGE_SHIFT);
        for addr in [BASE - 1, end, 0, usize::MAX] {
            assert_eq!((map.page_of(addr), map.class_of(addr)), (None, ClassId::NONE));
        }
        let mut model = [(ClassId::NONE, 0); PAGES];
        let mut seed = 9u32;
        for unit in 1..300u32 {
            seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
            let first = (seed >> 16) % PAGES as u32;
            let len = 1 + (seed >> 8) % (PAGES as u32 - first).min(6);
            let entry =
                if seed >> 30 == 0 { (ClassId::NONE, 0) } else { (ClassId(seed as u8), unit) };
            map.set(PageId(first), Pages(len), entry.0, entry.1);
            model[first as usize..(first + len) as usize].fill(entry);
            for (i, (class, unit)) in model.iter().enumerate() {
                let page = PageId(i as u32);
                let addr = map.addr_of(page);
                assert_eq!(addr, BASE + (i << PAGE_SHIFT));
                for within in [0, 8, (1 << PAGE_SHIFT) - 1] {
                    assert_eq!(map.page_of(addr + within), Some(page));
                    assert_eq!(map.class_of(addr + within), *class);
                }
                assert_eq!(map.span_unit(page), *unit);
            }
        }
    }
}
