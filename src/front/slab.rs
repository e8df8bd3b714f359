//! The layout of slabs.
//!
//! ```text
//! slabs + (cid << SLAB_SHIFT):
//!   | header of class 0 | header of class 1 | … | slots of the classes … |
//! header, 16 bytes:
//!   0  cur       address one past the top object
//!   8  end_lo    low half of the address past the last slot
//!  12  begin_lo  low half of the address of the first slot
//! ```
//! A slab never crosses a 4 GiB line, so low halves compare as addresses do.
//!
//! | limits word | pop | push | meaning |
//! |---|---|---|---|
//! | all zero, cur zero | misses | misses | never touched |
//! | end_lo 0, begin_lo max | misses | misses | stopped ("poison") |
//! | begin_lo <= lo32(cur) <= end_lo | if cur > begin | if cur < end | in use |
//!
//! `cur` is written in sections by the thread that holds the cid, and plainly
//! under the slab's lock while the header is stopped. The limits are written
//! under the slab's lock: stopped by anybody, set again only by `set_limits`.
//! Raising `end_lo` alone is safe under the lock.

#![allow(unsafe_code)]

use crate::size_class;
use crate::units::{Cid, ClassId};
use core::mem::offset_of;
use core::ptr::{copy_nonoverlapping, with_exposed_provenance, with_exposed_provenance_mut};
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};

/// A slab's address space; touched only as far as it is used.
pub const SLAB_SHIFT: u32 = 20;
pub const SLAB_BYTES: usize = 1 << SLAB_SHIFT;

#[derive(Debug)]
#[repr(C, align(16))]
pub struct Header {
    pub cur: AtomicU64,
    pub end_lo: AtomicU32,
    pub begin_lo: AtomicU32,
}

pub const HEADER_BYTES: usize = size_of::<Header>();
pub const LIMITS_AT: usize = offset_of!(Header, end_lo);
pub const END_AT: usize = offset_of!(Header, end_lo);
pub const BEGIN_AT: usize = offset_of!(Header, begin_lo);
const _: () = assert!(HEADER_BYTES == 16 && LIMITS_AT == 8 && offset_of!(Header, cur) == 0);

/// Both limits as one little-endian word.
pub const fn limits(end_lo: u32, begin_lo: u32) -> u64 {
    end_lo as u64 | (begin_lo as u64) << 32
}
/// Neither check passes, whatever `cur` is.
pub const STOPPED: u64 = limits(0, u32::MAX);

/// The first slot lies behind the headers, on a cache line of its own.
pub const FIRST_SLOT: u32 = (size_class::COUNT * HEADER_BYTES).next_multiple_of(64) as u32 / 8;
/// The end of a slab's slots, counted from its base. One short of the slab's
/// end, whose low half may be zero: every limit stays within one 4 GiB line.
pub const SLOTS_END: u32 = (SLAB_BYTES / 8) as u32 - 1;

/// The base of the slabs, 0 before they are mapped.
pub static SLABS: AtomicUsize = AtomicUsize::new(0);

/// The offset of a class's header in a slab.
#[inline(always)]
pub fn class_at(class: ClassId) -> usize {
    class.index() * HEADER_BYTES
}

/// [`class_at`] of the classes of all sizes, in the order of `size_class::CLASS_OF`.
static CLASS_AT: [u16; size_class::CLASS_OF.len()] = {
    let mut table = [0; size_class::CLASS_OF.len()];
    let mut i = 0;
    while i < table.len() {
        table[i] = size_class::CLASS_OF[i] as u16 * HEADER_BYTES as u16;
        i += 1;
    }
    table
};

/// [`class_at`] of the class for `size` bytes, of the sizes of the fine table.
#[inline(always)]
pub fn class_at_fine(size: usize) -> Option<usize> {
    // SAFETY: the table has an entry for every such size.
    (size <= size_class::FINE_MAX_BYTES)
        .then(|| usize::from(unsafe { *CLASS_AT.get_unchecked(size_class::index_of(size)) }))
}

/// The same for all sizes that have a class, without a branch between small and larger
/// ones.
#[inline(always)]
pub fn class_at_any(size: usize) -> Option<usize> {
    // SAFETY: the table has an entry for every such size.
    (size <= size_class::MAX_BYTES)
        .then(|| usize::from(unsafe { *CLASS_AT.get_unchecked(size_class::index_of(size)) }))
}

pub fn slab_addr(cid: Cid) -> usize {
    SLABS.load(Relaxed) + ((cid.0 as usize) << SLAB_SHIFT) // set before any slab is used
}

/// The header of a class in a slab that exists.
pub fn header(cid: Cid, class: ClassId) -> &'static Header {
    // SAFETY: slabs are mapped readable for good, and all bytes are a valid header.
    unsafe { &*with_exposed_provenance(slab_addr(cid) + class_at(class)) }
}

/// The object in a slot; [`write_slot`] puts one there.
///
/// # Safety
/// `at` is a slot of an open slab, and no section changes it meanwhile.
pub unsafe fn read_slot(at: usize) -> usize {
    // SAFETY: the caller's duty.
    unsafe { *with_exposed_provenance(at) }
}

/// # Safety
/// As [`read_slot`]; the slot is free.
pub unsafe fn write_slot(at: usize, object: usize) {
    // SAFETY: the caller's duty.
    unsafe { *with_exposed_provenance_mut(at) = object }
}

/// # Safety
/// As [`read_slot`], for `count` slots each; they do not overlap.
pub unsafe fn copy_slots(from: usize, to: usize, count: usize) {
    let (from, to) = (with_exposed_provenance::<usize>(from), with_exposed_provenance_mut(to));
    // SAFETY: the caller's duty.
    unsafe { copy_nonoverlapping(from, to, count) }
}

impl Header {
    pub fn limits(&self) -> u64 {
        // Relaxed: read under the slab's lock, or as a statistic.
        limits(self.end_lo.load(Relaxed), self.begin_lo.load(Relaxed))
    }

    /// Writes both limits at once.
    pub fn store_limits(&self, word: u64) {
        // Through the header: a pointer to `end_lo` alone may not reach further.
        let at = (&raw const *self).cast_mut().cast::<u8>().wrapping_add(LIMITS_AT).cast();
        // SAFETY: `end_lo` and `begin_lo` are an aligned 8-byte word.
        // Relaxed: see the callers; the fence is membarrier, or the lock.
        unsafe { AtomicU64::from_ptr(at) }.store(word, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_stored_as_one_word_and_read_as_two() {
        let header = Header {
            cur: AtomicU64::new(7),
            end_lo: AtomicU32::new(0),
            begin_lo: AtomicU32::new(0),
        };
        header.store_limits(limits(3, 5));
        assert_eq!((header.end_lo.load(Relaxed), header.begin_lo.load(Relaxed)), (3, 5));
        assert_eq!((header.limits(), header.cur.load(Relaxed)), (limits(3, 5), 7));
        header.store_limits(STOPPED);
        for cur in [0, 1, u32::MAX - 1, u32::MAX] {
            // What `pop` and `push` ask before they go on.
            assert!(cur <= header.begin_lo.load(Relaxed) && cur >= header.end_lo.load(Relaxed));
        }
    }
}
