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
use crate::size_class::{self, ClassInfo};
use crate::units::{ClassId, PageId, Pages};
use core::mem::offset_of;
use core::ptr::with_exposed_provenance_mut;
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
        with_exposed_provenance_mut(unit_addr(unit))
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

    /// The bitmap's words run on into the record's further units, so they are
    /// reached through the units' region, not through the struct.
    #[inline(always)]
    fn first_word(&mut self) -> *mut u64 {
        with_exposed_provenance_mut(self as *mut Span as usize + offset_of!(Span, bitmap))
    }

    fn words(&mut self) -> &mut [u64] {
        let count = words_for(self.objects() as usize);
        // SAFETY: the record has that many words, and `self` is borrowed.
        unsafe { core::slice::from_raw_parts_mut(self.first_word(), count) }
    }

    /// Takes free objects, lowest address first, until `out` is full; how many.
    pub fn take(&mut self, out: &mut [usize]) -> usize {
        let (base, size) = (self.addr(), size_class::info(self.class).size_bytes as usize);
        let mut slots = out.iter_mut();
        let mut taken = 0;
        for (i, word) in self.words().iter_mut().enumerate() {
            let (mut rest, first) = (*word, base + i * 64 * size);
            while rest != 0 {
                let Some(slot) = slots.next() else { break };
                *slot = first + rest.trailing_zeros() as usize * size;
                rest &= rest - 1;
                taken += 1;
            }
            *word = rest;
        }
        self.free -= taken;
        taken as usize
    }

    /// Takes an object back, or fails with what is wrong with it. `info` is the
    /// class's.
    #[inline]
    pub fn give(&mut self, info: &ClassInfo, addr: usize) -> Result<(), Wrong> {
        let index = info.object_index(addr.wrapping_sub(self.addr()));
        let index = index.ok_or(Wrong { fault: Fault::Interior, addr })? as usize;
        // SAFETY: a word that has objects.
        let set = unsafe { set_bits(self.first_word(), index / 64, 1 << (index % 64)) };
        set.map_err(|_| Wrong { fault: Fault::DoubleFree, addr })?;
        self.free += 1;
        Ok(())
    }

    /// Takes back those at the start of `objects` that lie in this span; how many.
    /// Fails with what is wrong with one of them. `info` is the class's.
    #[inline]
    pub fn give_run(&mut self, info: &ClassInfo, objects: &[usize]) -> Result<usize, Wrong> {
        let (base, len_bytes) = (self.addr(), self.pages.bytes());
        let words = self.first_word();
        // Objects freed one after the other are often neighbours: the bits of one
        // word are gathered, and the word is changed once. `at` is the first
        // object's word from the start: whether it is the bitmap's first is any
        // branch's guess.
        let mut at = match objects.first().and_then(|a| info.object_index(a.wrapping_sub(base))) {
            Some(index) => index as usize / 64,
            None => 0,
        };
        let mut bits = 0;
        let mut given = 0;
        for &addr in objects {
            let offset = addr.wrapping_sub(base);
            if offset >= len_bytes {
                break;
            }
            let Some(index) = info.object_index(offset) else {
                return Err(Wrong { fault: Fault::Interior, addr });
            };
            let bit = 1 << (index % 64);
            if index as usize / 64 != at {
                // SAFETY: a word that has objects.
                unsafe { set_bits(words, at, bits) }.map_err(|index| self.double(index))?;
                (at, bits) = (index as usize / 64, 0);
            }
            if bits & bit != 0 {
                return Err(Wrong { fault: Fault::DoubleFree, addr });
            }
            bits |= bit;
            given += 1;
        }
        // SAFETY: as above, or the first word with no bits.
        unsafe { set_bits(words, at, bits) }.map_err(|index| self.double(index))?;
        self.free += given;
        Ok(given as usize)
    }

    #[cold]
    fn double(&self, index: usize) -> Wrong {
        let size = size_class::info(self.class).size_bytes as usize;
        Wrong { fault: Fault::DoubleFree, addr: self.addr() + index * size }
    }
}

/// An object that cannot be taken back, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wrong {
    pub fault: Fault,
    pub addr: usize,
}

/// Sets bits of a bitmap's word; fails with the number of one that was set before.
///
/// # Safety
/// The bitmap at `words` has this word.
#[inline(always)]
unsafe fn set_bits(words: *mut u64, at: usize, bits: u64) -> Result<(), usize> {
    // SAFETY: the caller's duty.
    let word = unsafe { &mut *words.add(at) };
    let before = *word & bits;
    *word |= bits;
    if before == 0 { Ok(()) } else { Err(at * 64 + before.trailing_zeros() as usize) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::{Layout, alloc_zeroed};
    use std::vec::Vec;

    const BASE: usize = 5 << 40;

    /// Zero memory for good, which addresses may lead to.
    fn memory(len: usize) -> usize {
        let layout = Layout::from_size_align(len, UNIT_BYTES).unwrap();
        // SAFETY: the layout has a size.
        unsafe { alloc_zeroed(layout) }.expose_provenance()
    }

    fn random(state: &mut u32) -> usize {
        *state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (*state >> 8) as usize
    }

    /// The units' base and the page map are statics, which other tests' heap
    /// uses: so in a process of its own (Miri has one, and no such tests).
    #[test]
    fn spans_agree_with_a_list_of_free_objects() {
        const ALONE: &str = "CIDALLOC_TEST_ALONE";
        if cfg!(miri) || std::env::var_os(ALONE).is_some() {
            return compare();
        }
        let this = std::env::current_exe().unwrap();
        let name = "back::span::tests::spans_agree_with_a_list_of_free_objects";
        let mut alone = std::process::Command::new(this);
        let status = alone.args(["--exact", name]).env(ALONE, "1").status().unwrap();
        assert!(status.success());
    }

    fn compare() {
        UNITS_BASE.store(memory(64 * UNIT_BYTES), Relaxed);
        PAGE_MAP.start(BASE, memory(128), memory(128 * 4));
        PAGE_MAP.grow(128);
        assert_eq!(span_of(BASE - 1), Err(Fault::Foreign));
        assert_eq!(span_of(BASE), Err(Fault::NotAllocated));
        let mut unit = 1;
        for class in ClassId::all().step_by(if cfg!(miri) { 9 } else { 1 }) {
            let info = size_class::info(class);
            // Records lie side by side: one that wrote past its end would be seen.
            for page in [PageId(3), PageId(64)] {
                PAGE_MAP.set(page, info.span_pages(), class, unit);
                // SAFETY: the units are this test's.
                unsafe { Span::init(Span::at(unit), page, info.span_pages(), class) };
                unit = unit % 32 + u32::from(units_for(info.objects.into()));
                assert_eq!(
                    span_of(PAGE_MAP.addr_of(page) + 5),
                    Ok(Span::at(PAGE_MAP.span_unit(page)))
                );
            }
            for page in [PageId(3), PageId(64)] {
                // SAFETY: a record made above, nobody else's.
                let span = unsafe { &mut *span_of(PAGE_MAP.addr_of(page)).unwrap() };
                assert_eq!((span.page, span.class, span.list), (page, class, 0));
                exercise(span, info);
            }
        }
    }

    fn exercise(span: &mut Span, info: &size_class::ClassInfo) {
        let (base, size, objects) = (span.addr(), info.size_bytes as usize, info.objects as usize);
        let mut free = std::vec![true; objects];
        let mut seed = objects as u32;
        for _ in 0..if cfg!(miri) { 10 } else { 60 } {
            let mut out = std::vec![0; random(&mut seed) % (objects + 2)];
            let taken = span.take(&mut out);
            // The lowest free ones, in order.
            let lowest = free.iter().enumerate().filter(|f| *f.1).map(|(i, _)| base + i * size);
            assert_eq!(out[..taken], lowest.take(out.len()).collect::<Vec<_>>()[..]);
            out[..taken].iter().for_each(|addr| free[(addr - base) / size] = false);
            for _ in 0..random(&mut seed) % (objects + 1) {
                let i = random(&mut seed) % objects;
                let addr = base + i * size;
                let double = Err(Wrong { fault: Fault::DoubleFree, addr });
                // One alone and a run of one are the same.
                let given = match random(&mut seed) % 2 {
                    0 => span.give(info, addr).map(|()| 1),
                    _ => span.give_run(info, &[addr]),
                };
                assert_eq!(given, if free[i] { double } else { Ok(1) });
                free[i] = true;
            }
            assert_eq!(span.free as usize, free.iter().filter(|f| **f).count());
        }
        for bad in [base + 1, base + size / 2, base + objects * size] {
            let inside = bad - base < span.pages.bytes();
            let interior = Err(Wrong { fault: Fault::Interior, addr: bad });
            assert_eq!(span.give(info, bad), interior.map(|_: usize| ()));
            assert_eq!(span.give_run(info, &[bad]), if inside { interior } else { Ok(0) });
        }
        give_in_batches(span, info, &mut free, &mut seed);
        // All are out again at the end, each once.
        let mut out = std::vec![0; objects + 1];
        let taken = span.take(&mut out);
        assert_eq!((taken, span.free), (free.iter().filter(|f| **f).count(), 0));
    }

    /// Several at once: those up to the first that lies elsewhere, none twice.
    fn give_in_batches(
        span: &mut Span,
        info: &size_class::ClassInfo,
        free: &mut [bool],
        seed: &mut u32,
    ) {
        let (base, size) = (span.addr(), info.size_bytes as usize);
        let mut away: Vec<usize> = (0..free.len()).filter(|i| !free[*i]).collect();
        // Neighbours, every third, and no order.
        for step in [1, 3, 7] {
            let count = (random(seed) % 70).min(away.len() / 2);
            let mut batch: Vec<usize> = (0..count).map(|i| away[i * step % away.len()]).collect();
            batch.dedup();
            batch.sort_by_key(|i| i % step);
            batch.dedup();
            let mut seen = std::collections::BTreeSet::new();
            batch.retain(|i| seen.insert(*i));
            away.retain(|i| !seen.contains(i));
            let mut addrs: Vec<usize> = batch.iter().map(|i| base + i * size).collect();
            addrs.push(base + span.pages.bytes());
            assert_eq!(span.give_run(info, &addrs), Ok(batch.len()));
            batch.iter().for_each(|i| free[*i] = true);
            assert_eq!(span.free as usize, free.iter().filter(|f| **f).count());
            assert!((0..free.len()).all(|i| span.is_free(i as u32) == free[i]));
        }
    }
}
