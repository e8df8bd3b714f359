//! Freed blocks, kept for a while so that a use of them is seen.
//!
//! A queue of the starts of objects. Small blocks are filled; large ones cannot
//! be accessed, but for their first unit, which has the header and is filled.
//! What leaves the queue is looked at and goes home.

#![allow(unsafe_code)]

use crate::back::large;
use crate::check::block::{Block, HEADER_BYTES, Place, place_of, unit_bytes};
use crate::check::report;
use crate::middle;
use crate::os::fault::{Fault, die};
use crate::os::sys;
use crate::units::ClassId;

/// Blocks, and bytes of objects and spans, that are kept; the block freed last is
/// kept however large it is.
const ENTRIES: usize = 1 << 16;
const KEPT_BYTES: usize = 64 << 20;

#[derive(Debug)]
pub struct Quarantine {
    /// A ring of `ENTRIES` words; 0 where it could not be mapped.
    ring: usize,
    first: usize,
    len: usize,
    bytes: usize,
}

const READ_WRITE: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

impl Quarantine {
    pub const EMPTY: Quarantine = Quarantine { ring: 0, first: 0, len: 0, bytes: 0 };

    pub fn start(&mut self) {
        let len = ENTRIES * size_of::<usize>();
        // SAFETY: a new mapping.
        self.ring = unsafe { sys::mmap(0, len, READ_WRITE, libc::MAP_NORESERVE) }.unwrap_or(0);
    }

    /// Keeps a block that has just been freed.
    pub fn put(&mut self, mut block: Block) {
        block.bury();
        let keeps = conceal(&block) && self.ring != 0;
        if !keeps {
            return give_back(&block.place);
        }
        if self.len == ENTRIES {
            self.evict();
        }
        self.len += 1;
        self.bytes += bytes_of(&block.place);
        // SAFETY: the ring's own words.
        unsafe { *self.slot(self.first + self.len - 1) = block.place.start };
        while self.bytes > KEPT_BYTES && self.len > 1 {
            self.evict();
        }
    }

    /// Lets all go; whether there were any.
    pub fn empty(&mut self) -> bool {
        let any = self.len > 0;
        while self.len > 0 {
            self.evict();
        }
        any
    }

    fn slot(&self, i: usize) -> *mut usize {
        core::ptr::with_exposed_provenance_mut::<usize>(self.ring).wrapping_add(i % ENTRIES)
    }

    fn evict(&mut self) {
        // SAFETY: the ring's own words.
        let start = unsafe { *self.slot(self.first) };
        self.first = (self.first + 1) % ENTRIES;
        self.len -= 1;
        let place = place_of(start).unwrap_or_else(|fault| die(fault, start));
        self.bytes -= bytes_of(&place);
        let block = inhabitant(place);
        verify(&block);
        give_back(&block.place);
    }
}

fn bytes_of(place: &Place) -> usize {
    place.end - place.start
}

/// The block at a place that was handed out; dies if its header is damaged.
pub fn inhabitant(place: Place) -> Block {
    // Most blocks begin right behind the header.
    let user = place.start + HEADER_BYTES;
    place.inhabitant().unwrap_or_else(|_| report::die_damaged(user, place.start, place.class))
}

/// Where the filled part of a freed block ends.
fn filled_end(block: &Block) -> usize {
    match block.place.class {
        ClassId::NONE => block.place.start + unit_bytes(),
        _ => block.place.end,
    }
}

/// Dies if a freed block was written.
pub fn verify(block: &Block) {
    if let Some(at) = block.first_written(filled_end(block)) {
        report::die_written(Fault::WrittenFreed, at, block);
    }
}

/// Fills a freed block, and makes a large one inaccessible; false if the kernel
/// refuses.
fn conceal(block: &Block) -> bool {
    let end = filled_end(block);
    block.fill_freed(end);
    if block.place.class != ClassId::NONE || end == block.place.end {
        return true;
    }
    let len = block.place.end - end;
    // SAFETY: the span is the quarantine's now, its contents given up.
    unsafe {
        // Refused where memory is locked: then it stays.
        let _ = sys::madvise(end, len, libc::MADV_DONTNEED);
        sys::mprotect(end, len, libc::PROT_NONE).is_ok()
    }
}

/// Makes the guard behind a large block; a kernel that refuses leaves it without.
pub fn guard(place: &Place) {
    // SAFETY: the last unit of a span of ours.
    let _ = unsafe { sys::mprotect(place.end, unit_bytes(), libc::PROT_NONE) };
}

/// Gives memory that was handed out to the layers below.
pub fn give_back(place: &Place) {
    let Place { start, end, class } = *place;
    if class != ClassId::NONE {
        return middle::give_home(class, &[start]);
    }
    // SAFETY: a span of ours. Where the kernel refuses, the span is lost: nobody
    // may get memory that cannot be accessed.
    let open = unsafe { sys::mprotect(start, end + unit_bytes() - start, READ_WRITE) };
    if open.is_ok() {
        if let Err(fault) = large::free(start) {
            die(fault, start);
        }
    }
}
