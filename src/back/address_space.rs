//! Where everything lies: five regions side by side in one window of address
//! space, the arena last.
//!
//! ```text
//! | page classes | page spans | hugepage records | span records | arena … |
//!      1 B/page      4 B/page      128 B/2 MiB        64 B units   8 KiB pages
//! ```
//! The window is not reserved: a random place far from where the kernel puts
//! mappings is claimed bit by bit, so that limits on address space, strict
//! overcommit and locked memory count what is used. Where that fails (a narrow
//! address space) a smaller window is reserved wherever the kernel has room.

#![allow(unsafe_code)]

use crate::back::huge_page::HugePage;
use crate::back::region::Region;
use crate::os::machine::Machine;
use crate::os::sys;
use crate::units::{HUGE_BYTES, PAGE_BYTES};

#[derive(Debug)]
pub struct AddressSpace {
    pub page_classes: Region,
    pub page_spans: Region,
    pub huge_pages: Region,
    /// 64-byte units, see `span`.
    pub units: Region,
    pub arena: Region,
}

/// The arena where nothing limits it.
const WINDOW_BYTES: usize = 4 << 40;
/// The smallest arena worth trying.
const LEAST_BYTES: usize = 64 << 20;
/// Places from 32 TiB to 80 TiB: above what Go and V8 take by hint, below
/// where x86_64 loads programs and libraries.
const PLACE_FIRST: usize = 32 << 40;
const PLACE_SPREAD: usize = 48 << 40;
const TRIES: usize = 16;
/// Records are mapped in steps of this many bytes.
const STEP_BYTES: usize = 64 << 10;
/// Bytes of arena for one byte of span records: a 64-byte unit per page, twice.
const ARENA_PER_UNIT_BYTE: usize = PAGE_BYTES / 128;

impl AddressSpace {
    pub const EMPTY: AddressSpace = AddressSpace {
        page_classes: Region::EMPTY,
        page_spans: Region::EMPTY,
        huge_pages: Region::EMPTY,
        units: Region::EMPTY,
        arena: Region::EMPTY,
    };

    /// Finds a window; `None` where not even the smallest can be had.
    pub fn find(machine: &Machine) -> Option<AddressSpace> {
        // An address limit counts what is mapped, so the window may be twice
        // the limit and never be the reason for a refusal.
        let limited = machine.address_limit_bytes.map(|b| (b as usize).saturating_mul(2));
        let window = limited
            .map_or(WINDOW_BYTES, |b| b.clamp(LEAST_BYTES, WINDOW_BYTES))
            .next_multiple_of(HUGE_BYTES);
        for _ in 0..TRIES {
            let base = PLACE_FIRST + random_below(PLACE_SPREAD) / HUGE_BYTES * HUGE_BYTES;
            let mut space = Self::at(base, window, false);
            if space.start() {
                return Some(space);
            }
        }
        Self::find_reserved(machine)
    }

    /// Reserves a window, halving it until the kernel agrees.
    fn find_reserved(machine: &Machine) -> Option<AddressSpace> {
        let most = machine.address_limit_bytes.map_or(1 << 36, |b| b as usize / 2);
        let mut window = most.clamp(LEAST_BYTES, 1 << 36).next_power_of_two();
        while window >= LEAST_BYTES {
            let total = Self::at(0, window, true).end() + HUGE_BYTES;
            let flags = libc::MAP_NORESERVE;
            // SAFETY: a new mapping.
            if let Ok(at) = unsafe { sys::mmap(0, total, libc::PROT_NONE, flags) } {
                let mut space = Self::at(at.next_multiple_of(HUGE_BYTES), window, true);
                if space.start() {
                    return Some(space);
                }
                // Memory is short, not address space: a smaller window is no help now,
                // and would be too small later.
                // SAFETY: nothing was handed out of it.
                let _ = unsafe { sys::munmap(at, total) };
                return None;
            }
            window /= 2;
        }
        None
    }

    fn at(base: usize, window: usize, reserved: bool) -> AddressSpace {
        let pages = window / PAGE_BYTES;
        let mut next = base;
        let mut region = |limit: usize, step: usize| {
            let limit = limit.next_multiple_of(STEP_BYTES);
            let r = Region::new(next, limit, step, reserved);
            // A gap, so that a record array never runs into the next.
            next = (next + limit + STEP_BYTES).next_multiple_of(HUGE_BYTES);
            r
        };
        AddressSpace {
            page_classes: region(pages, STEP_BYTES),
            page_spans: region(pages * 4, STEP_BYTES),
            huge_pages: region(window / HUGE_BYTES * size_of::<HugePage>(), STEP_BYTES),
            units: region(window / ARENA_PER_UNIT_BYTE, STEP_BYTES),
            arena: region(window, HUGE_BYTES),
        }
    }

    fn end(&self) -> usize {
        self.arena.base + self.arena.limit_bytes()
    }

    /// Maps the first step of every region; false and all undone otherwise.
    fn start(&mut self) -> bool {
        let arena_start = self.arena.ensure(HUGE_BYTES);
        let done = arena_start && self.ensure_records(HUGE_BYTES) && self.units.ensure(1);
        if !done {
            for region in [
                &mut self.page_classes,
                &mut self.page_spans,
                &mut self.huge_pages,
                &mut self.units,
                &mut self.arena,
            ] {
                region.unmap();
            }
        }
        done
    }

    /// Makes the records for the first `arena_bytes` of the arena usable.
    pub fn ensure_records(&mut self, arena_bytes: usize) -> bool {
        let pages = arena_bytes / PAGE_BYTES;
        self.page_classes.ensure(pages)
            && self.page_spans.ensure(pages * 4)
            && self.huge_pages.ensure(arena_bytes / HUGE_BYTES * size_of::<HugePage>())
    }
}

/// A number below `limit` from the kernel, or one from an address (which the
/// kernel has randomised) where it has no randomness yet.
fn random_below(limit: usize) -> usize {
    let mut bytes = [0; 8];
    if !sys::random(&mut bytes) {
        bytes = (&raw const bytes as usize).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    }
    usize::from_le_bytes(bytes) % limit
}
