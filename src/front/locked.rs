//! The operations of `sections` behind the slab's lock: for threads without
//! rseq. Same layout, same results.

#![allow(unsafe_code)]

use crate::front::slab::{Header, read_slot, write_slot};
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
        *slot = unsafe { read_slot(cur as usize) };
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
        unsafe { write_slot(cur as usize, object) };
        cur += 8;
        k += 1;
    }
    // A slab that was never used is not writable.
    if k > 0 {
        header.cur.store(cur, Relaxed);
    }
    k
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::slab::{STOPPED, copy_slots, limits};
    use core::sync::atomic::{AtomicU32, AtomicU64};
    use std::vec::Vec;

    /// Sixteen slots within one 4 GiB line.
    #[repr(align(4096))]
    struct Slots([usize; 16]);

    #[test]
    fn a_class_is_a_stack_within_its_limits() {
        let mut slots = Slots([0; 16]);
        let begin = slots.0.as_mut_ptr().expose_provenance();
        let header = Header {
            cur: AtomicU64::new(begin as u64),
            end_lo: AtomicU32::new(0),
            begin_lo: AtomicU32::new(0),
        };
        header.store_limits(limits(begin as u32 + 10 * 8, begin as u32));
        let (mut model, mut seed) = (Vec::new(), 5u32);
        for i in 1..500usize {
            seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
            let count = (seed >> 16) as usize % 5;
            if seed >> 31 == 0 {
                let objects: Vec<usize> = (0..count).map(|n| i * 8 + n).collect();
                let k = push_batch(&header, &objects);
                assert_eq!(k, count.min(10 - model.len()));
                model.extend_from_slice(&objects[..k]);
            } else {
                let mut out = [0; 5];
                let k = pop_batch(&header, &mut out[..count]);
                assert_eq!(k, count.min(model.len()));
                assert!(out[..k].iter().all(|object| Some(*object) == model.pop()));
            }
            assert_eq!(header.cur.load(Relaxed) as usize, begin + model.len() * 8);
        }
        header.store_limits(STOPPED);
        assert_eq!((pop_batch(&header, &mut [0]), push_batch(&header, &[8])), (0, 0));
        // SAFETY: slots of this test, apart.
        unsafe { copy_slots(begin, begin + 12 * 8, 4) };
        assert_eq!(slots.0[..4], slots.0[12..]);
    }
}
