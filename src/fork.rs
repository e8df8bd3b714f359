//! fork: the child gets the heap in a consistent state.
//!
//! Before fork every lock is taken, in rank order; parent and child release
//! them. Sections in flight in other threads at that moment do not exist in the
//! child, and had committed nothing. Blocks that another thread was moving
//! between layers are lost to the child, never handed out twice.
//!
//! Handlers that run while the locks are held, because they were registered
//! before ours, may allocate: that goes aside. A fork in a signal handler that
//! has interrupted a slow path of its own thread takes no locks: the handler
//! returns into the slow path, in the child as well.
//!
//! vfork and clone with CLONE_VM make a child that has its parent's memory,
//! thread words and registration, but to the kernel is no thread with one: its
//! sections would not be aborted. The thread is lent: turned away from sections
//! while the words are shared.

#![allow(unsafe_code)]

use crate::check;
use crate::front::{all_locks, background, heartbeat, process, take_in};
use crate::os::thread::{self, Inside, State};
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicBool, compiler_fence};

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
        if unsafe { pthread_atfork(prepare, parent, child) } != 0 {
            DONE.store(false, Relaxed); // no memory: the next slow path tries again
        }
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static INSTALL: extern "C" fn() = install;

extern "C" fn prepare() {
    if !Inside::enter_fork() {
        return;
    }
    // fork itself takes the list of streams after this, and who holds that list
    // (fflush, exit) may be about to allocate: so it comes before our locks.
    streams::lock();
    if let Some(process) = process::get_or_hold() {
        check::hold();
        all_locks::acquire(process);
    }
}

fn release(unlock_streams: fn()) {
    // SAFETY: `prepare` acquired the same in this thread: without a state nobody
    // else could make one.
    Inside::leave_fork(|| unsafe {
        match process::peek() {
            Some(process) => {
                all_locks::release(process);
                check::unhold();
            }
            None => process::unhold(),
        }
        unlock_streams();
    });
}

extern "C" fn parent() {
    release(streams::unlock);
}

extern "C" fn child() {
    // The locks are this thread's, and waiters did not come along: releasing
    // wakes nobody.
    release(streams::reset);
    // SAFETY: this thread's words.
    take_in::after_fork(unsafe { &*thread::words() });
    heartbeat::after_fork();
    background::after_fork();
}

/// glibc's lock of the list of all streams; other C libraries have none of the
/// kind. A thread may take it again, so fork's own taking does not wait for ours.
mod streams {
    use crate::os::weak::weak_address;

    macro_rules! weak {
        ($($name:ident => $symbol:literal;)*) => {$(
            pub fn $name() {
                let at = weak_address!($symbol);
                if !at.is_null() {
                    // SAFETY: glibc's function of that name.
                    unsafe { core::mem::transmute::<*const (), extern "C" fn()>(at)() }
                }
            }
        )*};
    }

    weak! {
        lock => "_IO_list_lock";
        unlock => "_IO_list_unlock";
        // In a child: the lock is open whoever held it, as fork itself leaves it.
        reset => "_IO_list_resetlock";
    }
}

/// How a lent thread reached the slabs.
#[derive(Debug)]
#[repr(C)]
pub struct Lent {
    slabs: usize,
    state: usize,
}

/// Turns the calling thread away from sections, until [`take_back`].
pub extern "C" fn lend() -> Lent {
    // SAFETY: this thread's words.
    let words = unsafe { &mut *thread::words() };
    if let (Some(_inside), true) = (Inside::enter(), words.state == State::Unseen) {
        // The child must not be taken in: it would find its parent's registration.
        if let Some(process) = process::get() {
            take_in::words(process);
        }
    }
    let lent = Lent { slabs: words.slabs, state: words.state as usize };
    // For a handler: no slabs before the state changes, nor after.
    (words.slabs, words.watched) = (0, 0);
    compiler_fence(SeqCst);
    if words.state == State::Sections {
        words.state = State::Shards;
    }
    lent
}

/// Undoes [`lend`], in the parent, once the child is gone from its memory.
pub extern "C" fn take_back(lent: Lent) {
    // SAFETY: this thread's words.
    let words = unsafe { &mut *thread::words() };
    if lent.state == State::Sections as usize {
        words.state = State::Sections;
    }
    compiler_fence(SeqCst);
    words.slabs = lent.slabs;
}
