//! Time slice extensions (Linux 7.0): a thread that takes a refill's locks asks the
//! kernel for some microseconds more, should its time slice end while it holds them.
//!
//! ```text
//! ask       request = 1                      one for all locks of a slow path
//!   (the kernel, instead of preempting: request = 0, granted = 1, a timer of 5 µs)
//!   (the timer, another interrupt, any system call: granted = 0, another thread runs)
//! withdraw  request = 0; if the kernel had taken it: rseq_slice_yield
//! ```
//! `asm/README.md` says what may come between any two of these steps. Of the two
//! bytes the kernel writes both and we `request` alone, on the CPU of this thread:
//! plain accesses, in order for the compiler.
//!
//! Extensions need a registration in V2 mode, which the kernel tells by a bit in the
//! area. A thread turns them on by prctl after some requests only: one that refills
//! little never pays for the call. A process of one thread never asks: nobody waits.

#![allow(unsafe_code)]

use crate::os::rseq::{self, FLAGS_AT, SLICE_CTRL_AT};
use crate::os::sys;
use crate::os::thread::{self, State, ThreadWords};
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, compiler_fence};

/// What the process's threads do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mode {
    /// Nobody asks.
    Off = 0,
    Auto = 1,
    /// Requests are written and not turned on: those that are gone afterwards tell
    /// how often a holder was preempted.
    Count = 2,
}

static MODE: AtomicU8 = AtomicU8::new(Mode::Off as u8);

/// Since start; the threads that have turned extensions on, and the requests they
/// made. Statistics, so relaxed.
pub static THREADS: AtomicU32 = AtomicU32::new(0);
pub static REQUESTED: AtomicU64 = AtomicU64::new(0);
/// Requests that the kernel took: each was either yielded or revoked.
pub static GRANTED: AtomicU64 = AtomicU64::new(0);
/// The thread was done within its extension.
pub static YIELDED: AtomicU64 = AtomicU64::new(0);
/// It was not: another thread ran before the locks were free, after the extension
/// or without one; or a system call under a lock ended it.
pub static REVOKED: AtomicU64 = AtomicU64::new(0);
/// The last error with which the kernel refused to turn them on, else 0.
static REFUSED: AtomicI32 = AtomicI32::new(0);

/// The kernel's `struct rseq_slice_ctrl` (include/uapi/linux/rseq.h).
#[derive(Debug)]
#[repr(C)]
struct Control {
    /// Ours to write; the kernel clears it.
    request: AtomicU8,
    /// The kernel's.
    granted: AtomicU8,
    reserved: [u8; 2],
}
const _: () = assert!(size_of::<Control>() == 4);

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    /// The thread was not to be preempted.
    None,
    /// It runs in an extension.
    Granted,
    /// It was preempted, or ended its extension by a system call.
    Gone,
}

impl Control {
    /// Asks, unless the application has asked, or runs in an extension.
    fn ask(&self) -> bool {
        if self.request.load(Relaxed) | self.granted.load(Relaxed) != 0 {
            return false;
        }
        self.request.store(1, Relaxed);
        compiler_fence(SeqCst);
        true
    }

    /// Takes a request back. One instruction reads and clears it: whatever the
    /// kernel does with it is seen, or does not happen.
    fn withdraw(&self) -> Answer {
        compiler_fence(SeqCst);
        if self.request.swap(0, Relaxed) != 0 {
            return Answer::None;
        }
        match self.granted.load(Relaxed) {
            0 => Answer::Gone,
            _ => Answer::Granted,
        }
    }
}

// ---- what a thread has decided: its word `slice`

/// Requests before a thread turns extensions on: the call costs less than one refill,
/// so a sixteenth of what these have cost.
const PATIENCE: u8 = 16;
/// From here on not a count.
const TURNED_ON: u8 = 0xff;
/// The same below a seccomp filter, which may know nothing of rseq_slice_yield.
const FILTERED: u8 = 0xfe;
const COUNTING: u8 = 0xfd;
const WITHOUT: u8 = 0xfc;

/// Bits of `struct rseq`'s flags.
const AVAILABLE: u32 = 1 << 4;
const ENABLED: u32 = 1 << 5;

/// Threads ask from now on, as `mode` says. Relaxed: a thread that sees it late asks
/// later.
pub fn offer(mode: Mode) {
    MODE.store(mode as u8, Relaxed);
}

/// A request, if the thread made one: it ends with this.
#[derive(Debug)]
#[must_use]
pub struct Asked(bool);

/// Asks for more time, if that is to be had. Before the locks are taken; when the
/// result is dropped they must be free.
#[inline]
pub fn ask() -> Asked {
    Asked(MODE.load(Relaxed) != Mode::Off as u8 && ask_offered())
}

#[inline(never)]
fn ask_offered() -> bool {
    // SAFETY: the thread's own words.
    let words = unsafe { &*thread::words() };
    // A lent thread shares its area with a child to which the kernel grants nothing.
    if words.state != State::Sections || words.asking.load(Relaxed) != 0 {
        return false;
    }
    let asks = match words.slice.load(Relaxed) {
        WITHOUT => false,
        TURNED_ON | FILTERED => true,
        // Until the application turns them on: then requests are granted.
        COUNTING if flags(words.rseq) & ENABLED == 0 => true,
        COUNTING => {
            words.slice.store(WITHOUT, Relaxed);
            false
        }
        count if count < PATIENCE => {
            words.slice.store(count + 1, Relaxed);
            false
        }
        _ => decide(words),
    };
    asks && ask_now(words)
}

fn ask_now(words: &ThreadWords) -> bool {
    if !control(words).ask() {
        // The application's request, or its extension: see `decide`.
        words.slice.store(WITHOUT, Relaxed);
        return false;
    }
    words.asking.store(1, Relaxed);
    REQUESTED.fetch_add(1, Relaxed);
    true
}

fn control(words: &ThreadWords) -> &Control {
    // SAFETY: the area that the thread has registered, whose bits have said that it
    // has this field, or one of a test; all bytes are valid.
    unsafe { &*with_exposed_provenance(words.rseq + SLICE_CTRL_AT) }
}

fn flags(rseq: usize) -> u32 {
    // SAFETY: a registered area; the kernel writes the field.
    unsafe { with_exposed_provenance_mut::<u32>(rseq + FLAGS_AT).read_volatile() }
}

/// Whether the kernel offers this thread extensions: it was registered with the
/// kernel's whole length, and the kernel has them. `None` while it is not registered.
pub fn is_offered() -> Option<bool> {
    // SAFETY: the thread's own words.
    let area = match unsafe { (*thread::words()).rseq } {
        0 => rseq::libc_registered()? as usize,
        area => area,
    };
    Some(flags(area) & AVAILABLE != 0)
}

/// The error with which the kernel has refused last, 0 if it never did.
pub fn refused() -> i32 {
    REFUSED.load(Relaxed)
}

/// Turns the thread's extensions on, if they can be had; whether it may ask.
///
/// Where they are on already, be it by the C library, the application asks, and nobody
/// else may: after an extension of its own that ran out, a kernel in debug mode kills
/// the process for a request before the thread's next call (`settle`). And in the mode
/// that only counts, requests would be granted.
#[cold]
fn decide(words: &ThreadWords) -> bool {
    let decided = if flags(words.rseq) & (AVAILABLE | ENABLED) != AVAILABLE {
        WITHOUT
    } else if MODE.load(Relaxed) == Mode::Count as u8 {
        COUNTING
    } else {
        turn_on()
    };
    words.slice.store(decided, Relaxed);
    decided != WITHOUT
}

fn turn_on() -> u8 {
    if let Err(error) = sys::enable_slices() {
        REFUSED.store(error, Relaxed);
        return WITHOUT;
    }
    THREADS.fetch_add(1, Relaxed);
    if sys::has_seccomp_filter() { FILTERED } else { TURNED_ON }
}

impl Drop for Asked {
    #[inline]
    fn drop(&mut self) {
        if self.0 {
            withdraw();
        }
    }
}

/// Before a thread sleeps for a lock: it needs no time meanwhile. Whether it had
/// asked.
pub fn pause() -> bool {
    withdraw()
}

/// After [`pause`], which returned `asked`: the thread has its lock.
pub fn resume(asked: bool) {
    if asked {
        // SAFETY: the thread's own words.
        ask_now(unsafe { &*thread::words() });
    }
}

/// Ends the thread's request, if it has one; whether it had.
#[inline(never)]
fn withdraw() -> bool {
    // SAFETY: the thread's own words.
    let words = unsafe { &*thread::words() };
    if words.asking.load(Relaxed) == 0 {
        return false;
    }
    words.asking.store(0, Relaxed);
    match control(words).withdraw() {
        Answer::None => {}
        answer => settle(words, answer),
    }
    true
}

/// The kernel has taken the request: gives the CPU away if that is still due.
#[cold]
fn settle(words: &ThreadWords, answer: Answer) {
    GRANTED.fetch_add(1, Relaxed);
    let in_time = match words.slice.load(Relaxed) {
        // Not granted, unless the application has turned extensions on meanwhile: the
        // thread was preempted.
        COUNTING if answer == Answer::Gone => false,
        // Any call ends an extension; this one every allocator's filter lets pass.
        FILTERED => {
            sys::futex_wake(&AtomicU32::new(0), 0);
            answer == Answer::Granted
        }
        // Without an extension, too. After one that ran out, the kernel looks at the
        // area once more in the thread's next call; if it is in debug mode and finds
        // a new request there, it kills the process. Now it finds none.
        _ => match sys::rseq_slice_yield() {
            Ok(yielded) => yielded == 1,
            Err(_) => answer == Answer::Granted,
        },
    };
    if in_time { &YIELDED } else { &REVOKED }.fetch_add(1, Relaxed);
}

#[cfg(test)]
mod tests;
