//! Where the kernel is asked for hugepages.
//!
//! A hugepage is whole from its first touch on: six times cheaper a byte than
//! single pages, but memory that nobody asked for where only a part is used. So
//! a small heap asks for none, and the last hugepage of a large block, which the
//! block may use a few pages of, is asked for only where the rest is little
//! beside the block.

#![allow(unsafe_code)]

use crate::back::huge_page::Advice;
use crate::back::page_heap::{PageHeap, huge_addr};
use crate::os::machine::Thp;
use crate::os::sys;
use crate::units::{HUGE_SHIFT, HugeId, PAGE_BYTES, PAGES_PER_HUGE, Pages};

/// What a hugepage's unused rest may be of its block: one part of so many.
const REST_PARTS: u32 = 16;

impl PageHeap {
    /// Tells the kernel about the hugepages of a block of `pages`, from `first`
    /// on, that it is about to touch first.
    pub(in crate::back) fn advise_block(
        &mut self,
        first: HugeId,
        whole: u32,
        tail: u32,
        pages: Pages,
    ) {
        let rest = PAGES_PER_HUGE - tail;
        if tail == 0 || rest <= pages.0 / REST_PARTS {
            return self.advise(first, whole + u32::from(tail > 0), true);
        }
        self.advise(first, whole, true);
        self.advise(HugeId(first.0 + whole), 1, false);
    }

    /// Tells the kernel about hugepages for memory about to be touched first:
    /// whether they are wanted.
    pub(super) fn advise(&mut self, first: HugeId, len: u32, wanted: bool) {
        let heap = self.counts.in_use_pages * PAGE_BYTES + ((len as usize) << HUGE_SHIFT);
        let wanted = wanted && heap >= self.policy.thp_after_bytes;
        let untold = self.advised(first, len, Advice::Nothing);
        let (advice, call) = match self.policy.thp {
            Thp::Never => return,
            _ if wanted => (Advice::Huge, libc::MADV_HUGEPAGE),
            // Unasked, this kernel makes none.
            Thp::Madvise if untold => return,
            _ => (Advice::NoHuge, libc::MADV_NOHUGEPAGE),
        };
        if self.advised(first, len, advice) {
            return;
        }
        // SAFETY: our own arena; a refusal costs nothing but speed.
        let _ = unsafe { sys::madvise(huge_addr(first), (len as usize) << HUGE_SHIFT, call) };
        for id in first.0..first.0 + len {
            self.table.at(id).advice = advice;
        }
        if advice == Advice::Huge {
            self.counts.advised += len;
        }
    }

    /// Whether all these hugepages were told so.
    fn advised(&mut self, first: HugeId, len: u32, advice: Advice) -> bool {
        (first.0..first.0 + len).all(|id| self.table.at(id).advice == advice)
    }
}
