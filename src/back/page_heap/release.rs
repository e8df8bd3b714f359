//! How free memory goes back to the kernel: what is due, in which steps, and when
//! so much is free that it waits to go.
//!
//! What has lain idle from one look to the next goes in equal steps over the decay
//! time, a slice under each hold of the lock. A kernel that refuses (all memory
//! is locked) is not asked again before something else was given.

#![allow(unsafe_code)]

use crate::back::page_heap::{PageHeap, huge_addr};
use crate::back::page_map::PAGE_MAP;
use crate::os::sys;
use crate::units::{HUGE_SHIFT, PAGE_BYTES, PAGES_PER_HUGE, Pages};
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

/// Much more memory is free than the heap may need soon, and waits to go back.
/// Written under the lock, read anywhere (a hint, so relaxed).
pub static MEMORY_WAITS: AtomicBool = AtomicBool::new(false);

/// Hugepages given back under one hold of the lock.
pub const SLICE_HUGEPAGES: u32 = 16;

/// A pass over free pages ends after so many that the kernel did not take: where
/// all memory is locked, no other would be.
const REFUSALS_MOST: u32 = 16;

/// What goes back until the next look, and how it goes on after that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Release {
    due_hugepages: u32,
    due_pages: u32,
    /// The share of the last looks: what stays idle goes in equal steps.
    step_hugepages: u32,
    step_pages: u32,
    /// The kernel has refused: nothing waits for it any more.
    pub(super) refused: bool,
    /// MADV_DONTNEED leaves zeros behind; `None` until it was tried.
    zeroes: Option<bool>,
}

impl Release {
    pub(super) const NONE: Release = Release {
        due_hugepages: 0,
        due_pages: 0,
        step_hugepages: 0,
        step_pages: 0,
        refused: false,
        zeroes: None,
    };

    /// Gives free memory of ours back to the kernel; whether it took it, so that it
    /// reads as zero now.
    ///
    /// The first time shows in `zeroes` whether it does: emulators have reported
    /// success and done nothing. From then on nothing goes back there.
    pub(super) fn give_back(&mut self, addr: usize, len_bytes: usize) -> bool {
        if self.zeroes == Some(false) {
            return false;
        }
        let first: *mut u8 = with_exposed_provenance_mut(addr);
        if self.zeroes.is_none() {
            // SAFETY: free memory of the caller's.
            unsafe { first.write_volatile(0xa5) };
        }
        // SAFETY: as above.
        if unsafe { sys::madvise(addr, len_bytes, libc::MADV_DONTNEED) }.is_err() {
            return false;
        }
        if self.zeroes.is_none() {
            // SAFETY: as above.
            self.zeroes = Some(unsafe { first.read_volatile() } == 0);
        }
        self.zeroes == Some(true)
    }
}

/// An amount that follows the heap: `1 / share` of the pages in use, and some.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    share: usize,
    more_pages: usize,
}

impl Patience {
    /// Above this memory waits to go back as soon as it is free, where that costs
    /// all threads time, …
    pub(super) const WATCH: Patience = Patience { share: 4, more_pages: (64 << 20) / PAGE_BYTES };
    /// … or only the background thread's; …
    pub(super) const THREAD: Patience = Patience { share: 16, more_pages: (2 << 20) / PAGE_BYTES };
    /// … above this when it has lain idle from one look to the next: programs that
    /// take again what they have freed do not wait for anything; …
    const IDLE: Patience = Patience { share: 4, more_pages: (8 << 20) / PAGE_BYTES };
    /// … and up to this it waits no more.
    const CALM: Patience = Patience { share: 16, more_pages: (1 << 20) / PAGE_BYTES };

    fn pages(self, in_use: usize) -> usize {
        in_use / self.share + self.more_pages
    }
}

/// The next step of a release in equal steps: a share of the most that was idle.
fn next_step(step: u32, idle: u32, parts: u32) -> u32 {
    if idle == 0 { 0 } else { step.max(idle.div_ceil(parts)) }
}

impl PageHeap {
    /// Gives up to `most` warm hugepages back to the kernel; how many.
    pub fn cool(&mut self, most: u32) -> u32 {
        self.free_all_kept();
        let mut done = 0;
        while done < most {
            let Some((first, len)) = self.warm.take_any(&mut self.table, most - done) else {
                break;
            };
            let bytes = (len as usize) << HUGE_SHIFT;
            if !self.release.give_back(huge_addr(first), bytes) {
                // Locked memory, or a kernel that clears nothing: it stays warm.
                self.warm.put(&mut self.table, first, len);
                break;
            }
            self.mark_clean(first, len);
            self.cold.put(&mut self.table, first, len);
            self.counts.returned_pages += u64::from(len * PAGES_PER_HUGE);
            done += len;
        }
        done
    }

    /// What is known of MADV_DONTNEED, for the statistics.
    pub fn dontneed(&self) -> &'static str {
        match self.release.zeroes {
            None => "unknown",
            Some(true) => "zeroes",
            Some(false) => "keeps",
        }
    }

    /// Gives back up to `most` free pages of partly used hugepages, the
    /// sparsest hugepages first; how many.
    pub fn subrelease(&mut self, most: u32) -> u32 {
        let unit = self.policy.os_page_bytes.div_ceil(PAGE_BYTES) as u32;
        let (mut done, mut refused) = (0, 0);
        let release = &mut self.release;
        self.filler.each_sparse(&mut self.table, |filler, table, id| {
            let page = table.at(id.0);
            for (first, len) in page.dirty.minus(&page.used).runs() {
                // Whole OS pages only.
                let from = first.next_multiple_of(unit);
                let len = (first + len).saturating_sub(from) / unit * unit;
                if len == 0 {
                    continue;
                }
                let addr = PAGE_MAP.addr_of(id.first_page().plus(from));
                let bytes = Pages(len).bytes();
                if release.give_back(addr, bytes) {
                    filler.forget_dirty(table, id, from, len);
                    done += len;
                } else {
                    refused += 1;
                }
            }
            done < most && refused < REFUSALS_MOST
        });
        self.counts.returned_pages += u64::from(done);
        done
    }

    /// Looks at what has lain idle since the last look: a share of it, `1 / parts`
    /// of the most there was, is due to go back in [`PageHeap::release_slice`].
    pub fn look_for_idle(&mut self, parts: u32) {
        self.free_all_kept();
        self.expected.grow_older();
        let release = &mut self.release;
        let idle = self.warm.low;
        release.step_hugepages = next_step(release.step_hugepages, idle, parts);
        release.due_hugepages = release.step_hugepages.min(idle);
        // Breaking hugepages for a few pages costs more than it gives.
        let idle = Some(self.filler_low_pages).filter(|n| *n >= PAGES_PER_HUGE / 2).unwrap_or(0);
        release.step_pages = next_step(release.step_pages, idle, parts);
        release.due_pages = release.step_pages.min(idle);
        let idle = (self.warm.low * PAGES_PER_HUGE + self.filler_low_pages) as usize;
        if idle > Patience::IDLE.pages(self.counts.in_use_pages) && !self.release.refused {
            MEMORY_WAITS.store(true, Relaxed);
        }
        self.warm.low = self.warm.total;
        self.filler_low_pages = self.filler.free_dirty_pages;
    }

    /// Makes all that is free due.
    pub fn release_all_soon(&mut self) {
        self.release.due_hugepages = self.warm.total;
        self.release.due_pages = self.filler.free_dirty_pages;
    }

    /// After a release that has ended: more has come in since, and waits too.
    pub fn wait_for_rest(&mut self) {
        let much = self.idle_pages() > Patience::CALM.pages(self.counts.in_use_pages);
        if much && !self.release.refused {
            MEMORY_WAITS.store(true, Relaxed);
        }
    }

    /// All has gone back that can.
    pub fn nothing_waits(&mut self) {
        MEMORY_WAITS.store(false, Relaxed);
    }

    /// Gives back some of what is due; whether more is. Not all at once: others
    /// wait for the lock.
    pub fn release_slice(&mut self) -> bool {
        let (hugepages, pages) = (self.release.due_hugepages, self.release.due_pages);
        let (due, done) = if hugepages > 0 {
            let due = hugepages.min(SLICE_HUGEPAGES).min(self.warm.total);
            self.release.due_hugepages -= hugepages.min(SLICE_HUGEPAGES);
            (due, self.cool(due))
        } else {
            self.release.due_pages = 0;
            // Others may have used them since: that is no refusal.
            let due = pages.min(self.filler.free_dirty_pages);
            (due, self.subrelease(due))
        };
        if due > 0 {
            self.release.refused = done == 0;
        }
        let more = self.release.due_hugepages > 0 || self.release.due_pages > 0;
        let little = self.idle_pages() <= Patience::CALM.pages(self.counts.in_use_pages);
        if self.release.refused || (little && !more) {
            MEMORY_WAITS.store(false, Relaxed);
        }
        more && !self.release.refused
    }

    /// Free pages that cost memory.
    pub(super) fn idle_pages(&self) -> usize {
        (self.warm.total * PAGES_PER_HUGE + self.filler.free_dirty_pages + self.kept.pages) as usize
    }

    /// Notes after a free whether much memory waits to go back.
    pub(super) fn note_idle(&self) {
        if self.idle_pages() > self.policy.patience.pages(self.counts.in_use_pages)
            && !self.release.refused
            && !MEMORY_WAITS.load(Relaxed)
        {
            MEMORY_WAITS.store(true, Relaxed);
        }
    }
}
