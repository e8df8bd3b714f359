//! `slab.rs` over loom's atomics. Limits are two words here, stored one after
//! the other, which promises less than the real one word.

use crate::size_class::COUNT;
use crate::units::{Cid, ClassId};
use cidalloc_model::atomic::{AtomicU32, AtomicU64, AtomicUsize};
use std::sync::atomic::Ordering::Relaxed;

pub const SLAB_SHIFT: u32 = 12;
pub const SLAB_BYTES: usize = 1 << SLAB_SHIFT;
pub const FIRST_SLOT: u32 = 8;
pub const SLOTS_END: u32 = SLOTS as u32;
const SLOTS: usize = 24;
pub const CIDS: usize = 2;
const BASE: usize = 1 << 32;

#[derive(Debug)]
pub struct Header {
    pub cur: AtomicU64,
    pub end_lo: AtomicU32,
    pub begin_lo: AtomicU32,
}

static HEADERS: [[Header; COUNT]; CIDS] = [const {
    [const { Header { cur: AtomicU64::new(0), end_lo: AtomicU32::new(0), begin_lo: AtomicU32::new(0) } };
        COUNT]
}; CIDS];

static WORDS: [[AtomicUsize; SLOTS]; CIDS] =
    [const { [const { AtomicUsize::new(0) }; SLOTS] }; CIDS];

pub const STOPPED: u64 = limits(0, u32::MAX);

pub const fn limits(end_lo: u32, begin_lo: u32) -> u64 {
    end_lo as u64 | (begin_lo as u64) << 32
}

pub fn class_at(class: ClassId) -> usize {
    class.index()
}

pub fn class_of(class_at: usize) -> ClassId {
    ClassId(class_at as u8)
}

pub fn slab_addr(cid: Cid) -> usize {
    BASE + ((cid.0 as usize) << SLAB_SHIFT)
}

pub fn header(cid: Cid, class: ClassId) -> &'static Header {
    &HEADERS[cid.0 as usize][class.index()]
}

fn word(at: usize) -> &'static AtomicUsize {
    let offset = at - BASE;
    &WORDS[offset >> SLAB_SHIFT][offset % SLAB_BYTES / 8]
}

pub unsafe fn read_slot(at: usize) -> usize {
    word(at).load(Relaxed)
}

pub unsafe fn write_slot(at: usize, object: usize) {
    word(at).store(object, Relaxed)
}

pub unsafe fn copy_slots(from: usize, to: usize, count: usize) {
    for i in 0..count {
        word(to + i * 8).store(word(from + i * 8).load(Relaxed), Relaxed);
    }
}

impl Header {
    pub fn limits(&self) -> u64 {
        limits(self.end_lo.load(Relaxed), self.begin_lo.load(Relaxed))
    }

    pub fn store_limits(&self, word: u64) {
        self.end_lo.store(word as u32, Relaxed);
        self.begin_lo.store((word >> 32) as u32, Relaxed);
    }
}

/// What giving the header page back would do, of the slab around `addr`.
pub fn zero_headers(addr: usize) {
    for header in &HEADERS[(addr - BASE) >> SLAB_SHIFT] {
        header.store_limits(0);
        header.cur.store(0, Relaxed);
    }
}

/// The model's first thread makes everything.
pub fn touch() {
    for header in HEADERS.iter().flatten() {
        header.cur.load(Relaxed);
        header.limits();
    }
    for words in &WORDS {
        words.iter().skip(FIRST_SLOT as usize).for_each(|w| _ = w.load(Relaxed));
    }
}
