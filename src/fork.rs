//! fork: the child gets the heap in a consistent state.
//!
//! Before fork every lock is taken, in rank order; parent and child release
//! them. Sections in flight in other threads at that moment do not exist in the
//! child, and had committed nothing. Blocks that another thread was moving
//! between layers are lost to the child, never handed out twice.

#![allow(unsafe_code)]

use crate::back::page_heap::PAGE_HEAP;
use crate::front::cpu_cache::state;
use crate::front::{process, take_in};
use crate::middle::{central_free_list, transfer_cache};
use crate::os::thread;
use crate::units::{Cid, ClassId};
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

// Linked by name: on aarch64 the function is in the part of glibc that is linked
// statically, and calls what the shared part exports.
#[link(name = "c")]
unsafe extern "C" {
    fn pthread_atfork(
        prepare: extern "C" fn(),
        parent: extern "C" fn(),
        child: extern "C" fn(),
    ) -> core::ffi::c_int;
}

/// Registers the handlers, once: in the first slow path or, where nothing has
/// allocated yet, in our constructor, whichever comes first.
///
/// Handlers of libraries that register later, and may allocate, then run before
/// ours take the locks, and after they are free again.
pub extern "C" fn install() {
    static DONE: AtomicBool = AtomicBool::new(false);
    // Relaxed: the exchange lets one caller through, and nothing else depends.
    if !DONE.load(Relaxed) && !DONE.swap(true, Relaxed) {
        // SAFETY: registers three functions. It may allocate, which works here.
        unsafe { pthread_atfork(prepare, parent, child) };
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static INSTALL: extern "C" fn() = install;

extern "C" fn prepare() {
    let Some(process) = process::get() else { return };
    take_in::hold();
    (0..process.slabs()).for_each(|cid| state(Cid(cid)).acquire());
    ClassId::all().for_each(|class| transfer_cache::of(class).acquire());
    ClassId::all().for_each(|class| central_free_list::of(class).acquire());
    PAGE_HEAP.acquire();
}

extern "C" fn parent() {
    let Some(process) = process::peek() else { return };
    // SAFETY: `prepare` acquired them all in this thread.
    unsafe {
        PAGE_HEAP.release();
        ClassId::all().for_each(|class| central_free_list::of(class).release());
        ClassId::all().for_each(|class| transfer_cache::of(class).release());
        (0..process.slabs()).for_each(|cid| state(Cid(cid)).release());
        take_in::unhold();
    }
}

extern "C" fn child() {
    // The locks are this thread's, and waiters did not come along: releasing
    // wakes nobody.
    parent();
    // SAFETY: this thread's words.
    take_in::after_fork(unsafe { &*thread::words() });
    crate::front::heartbeat::after_fork();
}
