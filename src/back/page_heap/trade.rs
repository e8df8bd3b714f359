//! Free pages of partly used hugepages for new memory.
//!
//! Blocks that were freed leave holes between others, backed and too short for
//! what comes next. Where new hugepages would make the heap larger than it ever
//! was, as many of these pages go back to the kernel first. A heap that has had
//! its size before keeps them: giving back and faulting in again would go on for
//! ever.

use crate::back::page_heap::PageHeap;
use crate::units::PAGES_PER_HUGE;

/// So large a part of the heap is worth the holes at once; for a smaller one they
/// must have lain idle since the last look, as others may fill them.
const LARGE_PARTS: usize = 8;
/// Holes of up to such a part of the heap are left …
const KEPT_PARTS: u32 = 8;
/// … and so are a few of them, in pages.
const TRADE_LEAST: u32 = PAGES_PER_HUGE / 8;

impl PageHeap {
    /// Gives back free pages for up to `new` ones that are about to be taken, and for
    /// `gone` of which other memory has gone back just now.
    pub(super) fn trade_pages(&mut self, new: u32, gone: u32) {
        let in_use = self.counts.in_use_pages;
        let backed = in_use + self.idle_pages() + new as usize;
        if backed <= self.most_backed_pages || self.release.refused {
            return;
        }
        let large = new as usize >= in_use / LARGE_PARTS;
        let free = if large { self.filler.free_dirty_pages } else { self.filler_low_pages };
        let spare = free.saturating_sub(in_use as u32 / KEPT_PARTS).min(new - gone);
        let mut done = 0;
        if spare >= TRADE_LEAST {
            done = self.subrelease(spare);
            self.filler_low_pages = self.filler_low_pages.saturating_sub(done);
        }
        self.most_backed_pages = self.most_backed_pages.max(backed - done as usize);
    }

    /// Notes that holes were filled.
    pub(super) fn note_backed(&mut self) {
        let backed = self.counts.in_use_pages + self.idle_pages();
        self.most_backed_pages = self.most_backed_pages.max(backed);
    }
}
