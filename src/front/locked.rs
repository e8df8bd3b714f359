//! The operations of `sections` behind the slab's lock: for threads without
//! rseq. Same layout, same results.

#![allow(unsafe_code)]

use crate::front::slab::Header;
use core::sync::atomic::Ordering::Relaxed;

/// Takes up to `out.len()` objects; how many. The caller holds the slab's lock,
/// which also orders everything: all accesses are relaxed.
pub fn pop_batch(header: &Header, out: &mut [usize]) -> usize {
    let mut cur = header.cur.load(Relaxed);
    let mut k = 0;
    for slot in out {
        if cur as u32 <= header.begin_lo.load(Relaxed) {
            break;
        }
        cur -= 8;
        // SAFETY: slots between the limits are mapped and hold objects.
        *slot = unsafe { *(cur as *const usize) };
        k += 1;
    }
    // A slab that was never used is not writable.
    if k > 0 {
        header.cur.store(cur, Relaxed);
    }
    k
}

/// Puts objects on top as far as there is room; how many. As [`pop_batch`].
pub fn push_batch(header: &Header, objects: &[usize]) -> usize {
    let mut cur = header.cur.load(Relaxed);
    let mut k = 0;
    for &object in objects {
        if cur as u32 >= header.end_lo.load(Relaxed) {
            break;
        }
        // SAFETY: slots between the limits are mapped and free.
        unsafe { *(cur as *mut usize) = object };
        cur += 8;
        k += 1;
    }
    // A slab that was never used is not writable.
    if k > 0 {
        header.cur.store(cur, Relaxed);
    }
    k
}
