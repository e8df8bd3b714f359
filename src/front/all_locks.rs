//! Every lock of the allocator, in rank order: for fork and for the walk, which
//! need all layers at rest.

#![allow(unsafe_code)]

use crate::back::page_heap::PAGE_HEAP;
use crate::front::cpu_cache::state;
use crate::front::process::Process;
use crate::front::take_in;
use crate::middle::{central_free_list, transfer_cache};
use crate::units::{Cid, ClassId};

/// Takes them all. The caller holds none.
pub fn acquire(process: &Process) {
    take_in::hold();
    (0..process.slabs()).for_each(|cid| state(Cid(cid)).acquire());
    ClassId::all().for_each(|class| transfer_cache::of(class).acquire());
    ClassId::all().for_each(|class| central_free_list::of(class).acquire());
    PAGE_HEAP.acquire();
}

/// Releases them all.
///
/// # Safety
/// [`acquire`] was called by this thread.
pub unsafe fn release(process: &Process) {
    // SAFETY: the caller's duty.
    unsafe {
        PAGE_HEAP.release();
        ClassId::all().for_each(|class| central_free_list::of(class).release());
        ClassId::all().for_each(|class| transfer_cache::of(class).release());
        (0..process.slabs()).for_each(|cid| state(Cid(cid)).release());
        take_in::unhold();
    }
}
