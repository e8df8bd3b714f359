//! Room for a batch of objects on the stack.

#![allow(unsafe_code)]

use crate::size_class::BATCH_OBJECTS;
use core::mem::MaybeUninit;

/// Room on the stack for the objects of a batch, cleared only as far as it is
/// used: most batches are short.
#[derive(Debug)]
pub struct Batch(MaybeUninit<[usize; BATCH_OBJECTS]>);

impl Batch {
    pub const EMPTY: Batch = Batch(MaybeUninit::uninit());

    /// Room for `count` objects, BATCH_OBJECTS at the most.
    #[inline(always)]
    pub fn of(&mut self, count: usize) -> &mut [usize] {
        let (first, count) = (self.0.as_mut_ptr().cast::<usize>(), count.min(BATCH_OBJECTS));
        // SAFETY: that many words are there, they are written first, and borrowed.
        unsafe {
            first.write_bytes(0, count);
            core::slice::from_raw_parts_mut(first, count)
        }
    }
}
