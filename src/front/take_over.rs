//! `CIDALLOC_RSEQ=take`: a thread that the C library has registered with the
//! original 32 bytes, which keep the kernel in legacy mode, is registered anew
//! with an area of ours, of the full size.
//!
//! Each thread does this for itself, in its first slow path: a thread has one
//! registration, and nobody else can change it. From then on it is a thread with
//! an area of ours like any other (`take_in`): nothing is undone at its end, as
//! the kernel forgets a dead thread's area and no C library takes its own back;
//! fork's child inherits the registration, exec and children that share memory
//! begin with none. glibc registers a new thread only if its creator's area says
//! that it is registered: threads made by one that was taken over have no
//! registration, and get an area of ours at once.
//!
//! # What may come between the two registrations
//! - *Its own sections*: it has none. `words.slabs` is 0 until it is taken in, and
//!   `words.index` points nowhere: least of all at the abandoned area, whose
//!   `mm_cid` of 0 is somebody else's id.
//! - *A signal handler*: none, signals are blocked. It could make sections of
//!   another library's, which looks at `cpu_id` and does without, but also
//!   register an area of its own, so that ours and the C library's were both
//!   refused.
//! - *Preemption, migration, another thread's fence*: to a thread in no section
//!   they are nothing. The kernel writes ids into no area meanwhile.
//! - *No memory*: our area is had before anything is given up.
//! - *Refusal*: of the first call, and the thread stays as it was; of the second,
//!   and the C library's area is registered again; of that too, and the thread
//!   goes behind the locks of the shards. Nothing is lost in any case but speed.
//!
//! # Sections of others that use the C library's area
//! The thread is in `malloc`, so in no section, unless a handler's `malloc` has
//! interrupted one. The kernel aborts a section before it delivers the signal:
//! when the handler returns, the thread goes on at the abort address, and looks
//! at the ids anew. Where it had read them but not yet entered, it goes on with
//! the old ones, and enters a section that nothing aborts; the ABI has it compare
//! them inside. `cpu_id` is -1 by then. `mm_cid` is made to be no id at all, as the
//! 0 that the kernel leaves there could be what was read. So sections of this
//! thread and of this kind end without a commit from then on.

#![allow(unsafe_code)]

use crate::front::take_in::Unregistered;
use crate::os::rseq::{self, KernelRseq, RseqArea};
use crate::os::sys;
use crate::os::thread::ThreadWords;

/// What has become of a thread's registration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is ours now, and `words.rseq` names it.
    Taken,
    /// It is the C library's, as before.
    Kept,
    /// The kernel has refused both: the thread has none.
    Lost,
}

/// Whether the C library's areas are such that ours would be better.
pub fn is_due() -> bool {
    rseq::libc_bytes() == rseq::ORIGINAL_BYTES
}

/// Registers this thread with an area of ours instead of `theirs`, its
/// registered area of the C library's.
pub fn take_over(words: &mut ThreadWords, kernel: &KernelRseq, theirs: *mut RseqArea) -> Outcome {
    let Some(own) = Unregistered::get(kernel) else { return Outcome::Kept };
    let signals = sys::block_signals(u64::MAX);
    let outcome = exchange(own, words, kernel, theirs);
    sys::set_signals(signals);
    outcome
}

fn exchange(
    own: Unregistered,
    words: &mut ThreadWords,
    kernel: &KernelRseq,
    theirs: *mut RseqArea,
) -> Outcome {
    let len = rseq::libc_bytes();
    // SAFETY: the C library promises that others use the area by the ABI.
    if unsafe { rseq::unregister(theirs, len) }.is_err() {
        own.give_back();
        return Outcome::Kept;
    }
    let taken = own.register(words, kernel);
    // SAFETY: the area and the length that the C library has registered.
    if !taken && unsafe { rseq::register(theirs, len) }.is_ok() {
        return Outcome::Kept;
    }
    // SAFETY: this thread's area, unregistered above.
    unsafe { rseq::abandon(theirs) };
    if taken { Outcome::Taken } else { Outcome::Lost }
}
