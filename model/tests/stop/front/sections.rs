//! The sequences of `asm/README.md` over [`Rseq`].

use super::slab::{self, header, read_slot, write_slot};
use crate::kernel::{Cpu, Rseq};
use crate::os::thread::ThreadWords;
use crate::units::Cid;
use std::sync::atomic::Ordering::Relaxed;

fn rseq(words: &ThreadWords) -> &'static Cpu {
    // SAFETY: a thread of this execution.
    unsafe { &*(words.rseq as *const Cpu) }
}

/// # Safety
/// As the real one's.
pub unsafe fn pop_batch(
    words: &ThreadWords,
    _slabs: usize,
    class_at: usize,
    out: &mut [usize],
) -> usize {
    if out.is_empty() {
        return 0;
    }
    let rseq = rseq(words);
    loop {
        let (cid, section) = rseq.begin();
        let header = header(Cid(cid), slab::class_of(class_at));
        let cur = header.cur.load(Relaxed);
        let begin = header.begin_lo.load(Relaxed);
        if cur as u32 <= begin {
            return 0;
        }
        let k = out.len().min((cur as u32 - begin) as usize / 8);
        for (i, slot) in out.iter_mut().take(k).enumerate() {
            // SAFETY: the limits let it pass.
            *slot = unsafe { read_slot(cur as usize - (i + 1) * 8) };
        }
        if rseq.store(section, || header.cur.store(cur - k as u64 * 8, Relaxed)) {
            return k;
        }
    }
}

/// # Safety
/// As the real one's.
pub unsafe fn push_batch(
    words: &ThreadWords,
    _slabs: usize,
    class_at: usize,
    objects: &[usize],
) -> usize {
    if objects.is_empty() {
        return 0;
    }
    let rseq = rseq(words);
    loop {
        let (cid, section) = rseq.begin();
        let header = header(Cid(cid), slab::class_of(class_at));
        let cur = header.cur.load(Relaxed);
        let end = header.end_lo.load(Relaxed);
        if cur as u32 >= end {
            return 0;
        }
        let k = objects.len().min((end - cur as u32) as usize / 8);
        let slots = || {
            for (i, object) in objects.iter().take(k).enumerate() {
                // SAFETY: the limits let it pass.
                unsafe { write_slot(cur as usize + i * 8, *object) };
            }
        };
        if rseq.store(section, slots)
            && rseq.store(section, || header.cur.store(cur + k as u64 * 8, Relaxed))
        {
            return k;
        }
    }
}

/// # Safety
/// As the real one's.
pub unsafe fn set_limits(words: &ThreadWords, cid: u32, at: usize, limits: u64) -> bool {
    let rseq = rseq(words);
    // SAFETY: a header, which are statics.
    let header = unsafe { &*(at as *const slab::Header) };
    loop {
        let (now, section) = rseq.begin();
        if now != cid && crate::PLANTED.load(Relaxed) != crate::ANY_CID {
            return false;
        }
        if rseq.store(section, || header.store_limits(limits)) {
            return true;
        }
    }
}
