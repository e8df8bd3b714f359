//! System calls that fail: those refused on purpose, so that tests see what
//! becomes of the heap, and a note of those that the kernel refused.
//!
//! `CIDALLOC_FAIL=WHEN[,CALL]...`; calls are counted from the process's
//! initialisation on, those of the named kinds only:
//!
//! | WHEN | refused |
//! |---|---|
//! | `off` | nothing |
//! | `nth:N` | the Nth call |
//! | `from:N` | the Nth and all that follow |
//! | `rate:P`, `rate:P:SEED` | one in P, at random |
//!
//! Without a CALL all kinds count but `keep`, which is no refusal: it makes
//! MADV_DONTNEED report success and leave the memory as it is.

use crate::os::sys::Errno;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

/// A system call that can fail. As an index into [`CALLS`], and as a bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Call {
    Mmap,
    Munmap,
    Mprotect,
    Madvise,
    Mremap,
    Rseq,
    Membarrier,
    Open,
    Read,
    Write,
    Duplicate,
    Random,
    Affinity,
    Limit,
    Release,
    Tgkill,
    Look,
    Prctl,
    /// Not a call: MADV_DONTNEED that does nothing.
    Keep,
}

/// Names as strace has them, and with what error each is refused.
const CALLS: [(&str, Errno); 19] = [
    ("mmap", libc::ENOMEM),
    ("munmap", libc::ENOMEM),
    ("mprotect", libc::ENOMEM),
    ("madvise", libc::EAGAIN),
    ("mremap", libc::ENOMEM),
    ("rseq", libc::EPERM),
    ("membarrier", libc::EPERM),
    ("openat", libc::EACCES),
    ("read", libc::EIO),
    ("write", libc::EIO),
    ("fcntl", libc::EMFILE),
    ("getrandom", libc::ENOSYS),
    ("sched_getaffinity", libc::EPERM),
    ("prlimit64", libc::EPERM),
    ("uname", libc::EPERM),
    ("tgkill", libc::EPERM),
    ("process_vm_readv", libc::EPERM),
    ("prctl", libc::EPERM),
    ("keep", 0),
];
const _: () = assert!(CALLS.len() == Call::Keep as usize + 1);

impl Call {
    const fn bit(self) -> u32 {
        1 << self as u8
    }
    fn errno(self) -> Errno {
        CALLS.get(self as usize).map_or(libc::ENOSYS, |call| call.1)
    }
}

/// Which calls are refused on purpose: of the `calls` counted those numbered
/// `first` to `last`, from 1, and of them one in `one_in`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusals {
    calls: u32,
    first: u64,
    last: u64,
    one_in: u64,
    seed: u64,
}

const ALL: u32 = Call::Keep.bit() - 1;

impl Refusals {
    pub const NONE: Refusals = Refusals { calls: 0, first: 0, last: 0, one_in: 1, seed: 0 };

    /// Reads the option's value; `None` where it is not understood.
    pub fn parse(text: &[u8]) -> Option<Refusals> {
        let mut words = text.split(|&b| b == b',');
        let mut when = words.next()?.split(|&b| b == b':');
        let name = when.next()?;
        let mut result = Refusals { calls: ALL, first: 1, last: u64::MAX, ..Refusals::NONE };
        match name {
            b"off" => result = Refusals::NONE,
            b"nth" => {
                result.first = number(when.next()?)?;
                result.last = result.first;
            }
            b"from" => result.first = number(when.next()?)?,
            b"rate" => {
                result.one_in = number(when.next()?)?;
                result.seed = when.next().map_or(Some(1), number)?;
            }
            _ => return None,
        }
        if when.next().is_some() {
            return None;
        }
        let mut named = 0;
        for word in words {
            let at = CALLS.iter().position(|call| call.0.as_bytes() == word)?;
            named |= 1 << at;
        }
        if named != 0 && result.calls != 0 {
            result.calls = named;
        }
        Some(result)
    }
}

/// A number of at least 1.
fn number(digits: &[u8]) -> Option<u64> {
    let text = core::str::from_utf8(digits).ok()?;
    // No sign, which parse takes.
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| plain && *n > 0)
}

/// What is in force. A reader may see a mixture while it changes: tests change
/// it, and a refusal more or less is no matter. So everything is relaxed.
static ASKED: AtomicU32 = AtomicU32::new(0);
static FIRST: AtomicU64 = AtomicU64::new(0);
static LAST: AtomicU64 = AtomicU64::new(0);
static ONE_IN: AtomicU64 = AtomicU64::new(1);
static SEED: AtomicU64 = AtomicU64::new(0);
/// Calls counted, and calls refused on purpose, since the last change.
static COUNTED: AtomicU64 = AtomicU64::new(0);
static REFUSED: AtomicU64 = AtomicU64::new(0);
/// Whether anything has been said: the environment comes too late then.
static SAID: AtomicBool = AtomicBool::new(false);

/// Since start: calls that failed for whatever reason, as bits, and their number.
static FAILED: AtomicU32 = AtomicU32::new(0);
static FAILURES: AtomicU32 = AtomicU32::new(0);

/// Puts other refusals in force; how many calls the last ones have refused.
pub fn set(refusals: Refusals) -> u64 {
    SAID.store(true, Relaxed);
    ASKED.store(0, Relaxed);
    FIRST.store(refusals.first, Relaxed);
    LAST.store(refusals.last, Relaxed);
    ONE_IN.store(refusals.one_in, Relaxed);
    SEED.store(refusals.seed, Relaxed);
    COUNTED.store(0, Relaxed);
    let refused = REFUSED.swap(0, Relaxed);
    ASKED.store(refusals.calls, Relaxed);
    refused
}

/// Puts the environment's refusals in force, unless others were before.
pub fn start(refusals: Refusals) {
    if !SAID.load(Relaxed) {
        set(refusals);
    }
}

/// The error with which this call is to fail, if it is.
#[inline(always)]
pub fn ask(call: Call) -> Result<(), Errno> {
    match ASKED.load(Relaxed) {
        0 => Ok(()),
        asked => ask_counted(asked, call),
    }
}

#[cold]
#[inline(never)]
fn ask_counted(asked: u32, call: Call) -> Result<(), Errno> {
    if asked & call.bit() == 0 {
        return Ok(());
    }
    let number = COUNTED.fetch_add(1, Relaxed) + 1;
    let in_range = (FIRST.load(Relaxed)..=LAST.load(Relaxed)).contains(&number);
    let chosen = mixed(number ^ SEED.load(Relaxed) << 32) % ONE_IN.load(Relaxed).max(1) == 0;
    if !in_range || !chosen {
        return Ok(());
    }
    REFUSED.fetch_add(1, Relaxed);
    Err(call.errno())
}

/// Spreads a number's bits over all of the result (a round of SplitMix64).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Notes that a call failed.
#[cold]
pub fn note(call: Call, error: Errno) {
    // Answers that are no refusal: the place is taken, the file, the thread or the
    // memory is not there, and the question what rseq says to nothing.
    let answer = match call {
        Call::Mmap => error == libc::EEXIST,
        Call::Open => error == libc::ENOENT,
        Call::Tgkill => error == libc::ESRCH,
        Call::Look => error == libc::EFAULT,
        Call::Rseq => error == libc::EINVAL,
        Call::Read | Call::Write => error == libc::EINTR,
        _ => false,
    };
    if !answer {
        FAILED.fetch_or(call.bit(), Relaxed);
        FAILURES.fetch_add(1, Relaxed);
    }
}

/// How many system calls have failed since start.
pub fn failures() -> u32 {
    FAILURES.load(Relaxed)
}

/// Names the calls that have failed since start.
pub fn each_failed(mut f: impl FnMut(&'static str)) {
    let failed = FAILED.load(Relaxed);
    for (at, (name, _)) in CALLS.iter().enumerate() {
        if failed >> at & 1 != 0 {
            f(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read() {
        let parse = |text: &str| Refusals::parse(text.as_bytes());
        assert_eq!(parse("off"), Some(Refusals::NONE));
        let all = Refusals { calls: ALL, first: 3, last: 3, one_in: 1, seed: 0 };
        assert_eq!(parse("nth:3"), Some(all));
        assert_eq!(parse("from:3"), Some(Refusals { last: u64::MAX, ..all }));
        let rate = Refusals { calls: ALL, first: 1, last: u64::MAX, one_in: 10, seed: 1 };
        assert_eq!(parse("rate:10"), Some(rate));
        assert_eq!(parse("rate:10:7"), Some(Refusals { seed: 7, ..rate }));
        let two = Call::Mmap.bit() | Call::Keep.bit();
        assert_eq!(parse("nth:3,mmap,keep"), Some(Refusals { calls: two, ..all }));
        for bad in
            ["", "nth", "nth:", "nth:0", "nth:x", "nth:1:2", "rate:1:2:3", "from:1,fork", "from:1,"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
