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
use core::sync::atomic::Ordering::{Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicUsize};

/// What `free` reads, in one cache line. All zero until initialised: then no
/// pointer is ours.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct PageMap {
    base: AtomicUsize,
    /// Pages from the base that have entries.
    pages: AtomicUsize,
    classes: AtomicPtr<AtomicU8>,
    spans: AtomicPtr<AtomicU32>,
}

pub static PAGE_MAP: PageMap = PageMap {
    base: AtomicUsize::new(0),
    pages: AtomicUsize::new(0),
    classes: AtomicPtr::new(core::ptr::null_mut()),
    spans: AtomicPtr::new(core::ptr::null_mut()),
};

impl PageMap {
    /// Sets the tables; once, before the first `grow`.
    pub fn start(&self, base: usize, classes: usize, spans: usize) {
        self.base.store(base, Relaxed); // published by `grow`
        self.classes.store(classes as *mut AtomicU8, Relaxed);
        self.spans.store(spans as *mut AtomicU32, Relaxed);
    }

    /// Entries exist up to `pages` now.
    pub fn grow(&self, pages: usize) {
        // Release orders the tables' mapping before; readers depend on the
        // block's own hand-over, so their loads may be relaxed.
        self.pages.store(pages, Release);
    }

    /// The page of an address, or `None` outside the arena.
    #[inline(always)]
    pub fn page_of(&self, addr: usize) -> Option<PageId> {
        let page = addr.wrapping_sub(self.base.load(Relaxed)) >> PAGE_SHIFT;
        (page < self.pages.load(Relaxed)).then_some(PageId(page as u32))
    }

    /// The class of the block at `addr`, NONE for large and foreign pointers.
    pub fn class_of(&self, addr: usize) -> ClassId {
        self.page_of(addr).map_or(ClassId::NONE, |page| self.class_of_page(page))
    }

    /// The class of the blocks in a page that [`PageMap::page_of`] has given.
    #[inline(always)]
    pub fn class_of_page(&self, page: PageId) -> ClassId {
        // SAFETY: a page of `page_of` has an entry.
        unsafe { ClassId((*self.classes.load(Relaxed).add(page.0 as usize)).load(Relaxed)) }
    }

    /// The unit of the span record of a page, 0 if it has none.
    pub fn span_unit(&self, page: PageId) -> u32 {
        // SAFETY: a PageId within the arena has an entry.
        unsafe { (*self.spans.load(Relaxed).add(page.0 as usize)).load(Relaxed) }
    }

    /// Pages that have entries.
    pub fn len(&self) -> usize {
        self.pages.load(Relaxed)
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
                (*self.classes.load(Relaxed).add(page)).store(class.0, Relaxed);
            }
        }
    }
}
