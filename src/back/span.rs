//! Span records: a run of pages that is one large block, or is cut into the
//! objects of one class.
//!
//! A record is one to three 64-byte units of the `units` region. The free
//! objects of a small span are a bitmap in the record, never a list in the
//! objects: freed memory is not touched, blocks are handed out in address
//! order, and a block that is freed twice is seen.
//!
//! ```text
//!  0 next  4 prev  8 page  12 pages  16 class  17 list  18 units  19 flags
//! 20 free  22 (unused)  24 bitmap: 5 words in the first unit, 8 in each other
//! ```
//! Small spans: written under their class's central lock. Large spans: under
//! the page heap's lock.

#![allow(unsafe_code)]

use crate::back::page_map::PAGE_MAP;
use crate::os::fault::Fault;
use crate::size_class;
use crate::units::{ClassId, PageId, Pages};
use core::mem::offset_of;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

#[derive(Debug)]
#[repr(C, align(64))]
pub struct Span {
    /// Neighbours in the central list, as units; 0 ends the list.
    pub next: u32,
    pub prev: u32,
    pub page: PageId,
    pub pages: Pages,
    /// NONE for a large span.
    pub class: ClassId,
    /// The central list it stands in.
    pub list: u8,
    units: u8,
    /// Objects that are free, that is, in no slab and no transfer cache.
    pub free: u16,
    bitmap: [u64; FIRST_WORDS],
}

pub const UNIT_BYTES: usize = 64;
const FIRST_WORDS: usize = 5;
const UNIT_WORDS: usize = UNIT_BYTES / 8;
const _: () = assert!(size_of::<Span>() == UNIT_BYTES && offset_of!(Span, bitmap) == 24);

/// The units region's base, set once.
pub static UNITS_BASE: AtomicUsize = AtomicUsize::new(0);

fn words_for(objects: usize) -> usize {
    objects.div_ceil(64)
}

/// The units of a record for a span with so many objects.
pub fn units_for(objects: usize) -> u8 {
    (1 + words_for(objects).saturating_sub(FIRST_WORDS).div_ceil(UNIT_WORDS)) as u8
}

/// The address of a unit.
pub fn unit_addr(unit: u32) -> usize {
    UNITS_BASE.load(Relaxed) + unit as usize * UNIT_BYTES // set before any unit exists
}

impl Span {
    /// The record at a unit.
    pub fn at(unit: u32) -> *mut Span {
        unit_addr(unit) as *mut Span
    }

    /// The unit of this record.
    pub fn unit(&self) -> u32 {
        ((self as *const Span as usize - UNITS_BASE.load(Relaxed)) / UNIT_BYTES) as u32
    }

    /// Makes a record: every object free.
    ///
    /// # Safety
    /// `at` has `units_for(objects)` units that are the caller's.
    pub unsafe fn init(at: *mut Span, page: PageId, pages: Pages, class: ClassId) {
        let objects = size_class::info(class).objects as usize;
        // SAFETY: the caller's duty.
        unsafe {
            at.write(Span {
                next: 0,
                prev: 0,
                page,
                pages,
                class,
                list: 0,
                units: units_for(objects),
                free: objects as u16,
                bitmap: [0; FIRST_WORDS],
            });
            for (i, word) in (*at).words().iter_mut().enumerate() {
                let rest = objects - i * 64;
                *word = if rest >= 64 { u64::MAX } else { (1 << rest) - 1 };
            }
        }
    }

    pub fn units(&self) -> u8 {
        self.units
    }

    pub fn addr(&self) -> usize {
        PAGE_MAP.addr_of(self.page)
    }

    pub fn objects(&self) -> u16 {
        size_class::info(self.class).objects
    }

    /// Whether the object is free.
    pub fn is_free(&mut self, index: u32) -> bool {
        self.words().get(index as usize / 64).is_some_and(|word| *word >> (index % 64) & 1 == 1)
    }

    /// Says the contrary of the object, but leaves the count: for a mark that the
    /// walk takes back.
    pub fn flip(&mut self, index: u32) {
        if let Some(word) = self.words().get_mut(index as usize / 64) {
            *word ^= 1 << (index % 64);
        }
    }

    /// The objects that the bitmap says are free, and the bits that stand for
    /// none.
    pub fn bits(&mut self) -> (u32, u32) {
        let objects = u32::from(self.objects());
        let all: u32 = self.words().iter().map(|word| word.count_ones()).sum();
        let beyond = match (objects % 64, self.words().last()) {
            (0, _) | (_, None) => 0,
            (rest, Some(last)) => (last >> rest).count_ones(),
        };
        (all - beyond, beyond)
    }

    fn words(&mut self) -> &mut [u64] {
        let count = words_for(self.objects() as usize);
        // The words run on into the record's further units, so they are reached
        // through the units' region, not through the struct.
        let first = (self as *mut Span as usize + offset_of!(Span, bitmap)) as *mut u64;
        // SAFETY: the record has that many words, and `self` is borrowed.
        unsafe { core::slice::from_raw_parts_mut(first, count) }
    }

    /// Takes free objects, lowest address first, until `out` is full; how many.
    pub fn take(&mut self, out: &mut [usize]) -> usize {
        let (base, size) = (self.addr(), size_class::info(self.class).size_bytes as usize);
        let mut taken = 0;
        for (i, word) in self.words().iter_mut().enumerate() {
            while *word != 0 {
                let Some(slot) = out.get_mut(taken) else { break };
                *slot = base + (i * 64 + word.trailing_zeros() as usize) * size;
                *word &= *word - 1;
                taken += 1;
            }
        }
        self.free -= taken as u16;
        taken
    }

    /// Takes an object back.
    pub fn give(&mut self, addr: usize) -> Result<(), Fault> {
        let offset = addr.wrapping_sub(self.addr());
        let index = size_class::info(self.class).object_index(offset).ok_or(Fault::Interior)?;
        let word = self.words().get_mut(index as usize / 64).ok_or(Fault::Corrupt)?;
        let bit = 1 << (index % 64);
        if *word & bit != 0 {
            return Err(Fault::DoubleFree);
        }
        *word |= bit;
        self.free += 1;
        Ok(())
    }
}

/// The record of the span that `addr` lies in, or what is wrong with `addr`.
///
/// The record is the caller's to read while it may rely on the span: because
/// it owns a block in it, or holds the lock that guards it.
pub fn span_of(addr: usize) -> Result<*mut Span, Fault> {
    let page = PAGE_MAP.page_of(addr).ok_or(Fault::Foreign)?;
    match PAGE_MAP.span_unit(page) {
        0 => Err(Fault::NotAllocated),
        unit => Ok(Span::at(unit)),
    }
}
