//! Raw system calls. Errors come back as `Err(errno)`.
//!
//! # Safety
//! The wrappers that change mappings are `unsafe`: the caller owns the range.

#![allow(unsafe_code)]

use crate::os::refusal::{self, Call};
#[cfg(not(miri))]
use core::arch::asm;
use libc::{c_int, c_long};

pub type Errno = i32;

/// Miri knows no system calls: each is refused.
#[cfg(miri)]
unsafe fn call(_number: c_long, _a: [usize; 6]) -> isize {
    -(libc::ENOSYS as isize)
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
unsafe fn call(number: c_long, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; rcx and r11 are overwritten.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result,
             in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
#[inline(always)]
unsafe fn call(number: c_long, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention.
    unsafe {
        asm!("svc #0", in("x8") number, inlateout("x0") a[0] as isize => result,
             in("x1") a[1], in("x2") a[2], in("x3") a[3], in("x4") a[4], in("x5") a[5],
             options(nostack));
    }
    result
}

fn check(result: isize) -> Result<usize, Errno> {
    if (-4095..0).contains(&result) { Err(-result as Errno) } else { Ok(result as usize) }
}

macro_rules! syscall {
    ($number:expr $(, $arg:expr)*) => {{
        let given = [$($arg as usize),*];
        let mut args = [0usize; 6];
        let mut i = 0;
        while i < given.len() { args[i] = given[i]; i += 1; }
        check(call($number, args))
    }};
}

/// A system call that may be refused, by the kernel or on purpose (`refusal`).
macro_rules! refusable {
    ($call:expr, $number:expr $(, $arg:expr)*) => {{
        let result = match refusal::ask($call) {
            Ok(()) => syscall!($number $(, $arg)*),
            Err(error) => Err(error),
        };
        result.inspect_err(|error| refusal::note($call, *error))
    }};
}

pub const MAP_FIXED_NOREPLACE: c_int = 0x10_0000;

/// Maps private anonymous memory. `addr` 0 lets the kernel choose.
///
/// # Safety
/// With MAP_FIXED the range must be the caller's own.
pub unsafe fn mmap(
    addr: usize,
    len_bytes: usize,
    prot: c_int,
    flags: c_int,
) -> Result<usize, Errno> {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: the caller's duty.
    unsafe { refusable!(Call::Mmap, libc::SYS_mmap, addr, len_bytes, prot, flags, usize::MAX, 0) }
}

/// # Safety
/// The range is the caller's and unused.
pub unsafe fn munmap(addr: usize, len_bytes: usize) -> Result<usize, Errno> {
    // SAFETY: the caller's duty.
    unsafe { refusable!(Call::Munmap, libc::SYS_munmap, addr, len_bytes) }
}

/// # Safety
/// The range is the caller's, and nobody relies on the old protection.
pub unsafe fn mprotect(addr: usize, len_bytes: usize, prot: c_int) -> Result<usize, Errno> {
    // SAFETY: the caller's duty.
    unsafe { refusable!(Call::Mprotect, libc::SYS_mprotect, addr, len_bytes, prot) }
}

/// # Safety
/// The range is the caller's; for MADV_DONTNEED its contents are given up.
pub unsafe fn madvise(addr: usize, len_bytes: usize, advice: c_int) -> Result<usize, Errno> {
    if advice == libc::MADV_DONTNEED && refusal::ask(Call::Keep).is_err() {
        return Ok(0);
    }
    // SAFETY: the caller's duty.
    unsafe { refusable!(Call::Madvise, libc::SYS_madvise, addr, len_bytes, advice) }
}

/// Moves the pages of a range onto another of the same length and leaves the
/// old range mapped and empty (Linux 5.7).
///
/// # Safety
/// Both ranges are the caller's; the contents at `to` are given up.
pub unsafe fn mremap_move(from: usize, to: usize, len_bytes: usize) -> Result<usize, Errno> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    // SAFETY: the caller's duty.
    unsafe { refusable!(Call::Mremap, libc::SYS_mremap, from, len_bytes, len_bytes, flags, to) }
}

/// # Safety
/// `area` stays valid until it is unregistered or the thread ends.
pub unsafe fn rseq(
    area: usize,
    len_bytes: u32,
    flags: c_int,
    signature: u32,
) -> Result<usize, Errno> {
    // SAFETY: the caller's duty.
    unsafe { refusable!(Call::Rseq, libc::SYS_rseq, area, len_bytes, flags, signature) }
}

pub fn membarrier(command: c_int) -> Result<usize, Errno> {
    // SAFETY: touches no memory of ours.
    unsafe { refusable!(Call::Membarrier, libc::SYS_membarrier, command, 0, 0) }
}

pub fn futex_wait(word: &core::sync::atomic::AtomicU32, expected: u32) {
    let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word outlives the call. A failure is a spurious wake-up.
    let _ = unsafe { syscall!(libc::SYS_futex, word.as_ptr(), op, expected, 0) };
}

pub fn futex_wake(word: &core::sync::atomic::AtomicU32, count: u32) {
    let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word outlives the call.
    let _ = unsafe { syscall!(libc::SYS_futex, word.as_ptr(), op, count) };
}

const PR_RSEQ_SLICE_EXTENSION: c_int = 79;
const PR_RSEQ_SLICE_EXTENSION_SET: c_int = 2;
const PR_RSEQ_SLICE_EXT_ENABLE: c_int = 1;
const SYS_RSEQ_SLICE_YIELD: c_long = 471;

/// Lets the kernel grant this thread time slice extensions (Linux 7.0).
pub fn enable_slices() -> Result<usize, Errno> {
    let (set, on) = (PR_RSEQ_SLICE_EXTENSION_SET, PR_RSEQ_SLICE_EXT_ENABLE);
    // SAFETY: the kernel writes the flags of this thread's own area.
    unsafe { refusable!(Call::Prctl, libc::SYS_prctl, PR_RSEQ_SLICE_EXTENSION, set, on, 0, 0) }
}

/// Whether a seccomp filter stands between this thread and the kernel, for all that
/// is known.
pub fn has_seccomp_filter() -> bool {
    // SAFETY: only asks.
    unsafe { syscall!(libc::SYS_prctl, libc::PR_GET_SECCOMP, 0, 0, 0, 0) != Ok(0) }
}

/// Gives the CPU away within a time slice extension: 1; 0 if there was none any more.
pub fn rseq_slice_yield() -> Result<usize, Errno> {
    // SAFETY: no arguments.
    unsafe { syscall!(SYS_RSEQ_SLICE_YIELD) }
}

pub fn gettid() -> u32 {
    // SAFETY: no arguments; cannot fail.
    unsafe { syscall!(libc::SYS_gettid) }.unwrap_or(0) as u32
}

pub fn getpid() -> u32 {
    // SAFETY: no arguments; cannot fail.
    unsafe { syscall!(libc::SYS_getpid) }.unwrap_or(0) as u32
}

/// Whether a thread of this process with this id exists, for all that is known.
pub fn thread_exists(tid: u32) -> bool {
    // Whoever may not ask takes it to be alive: what it has stays its own.
    // SAFETY: signal 0 only asks.
    let asked = unsafe { refusable!(Call::Tgkill, libc::SYS_tgkill, getpid(), tid, 0) };
    asked != Err(libc::ESRCH)
}

/// Copies this process's own memory through the kernel; how many bytes.
pub fn read_own_memory(addr: usize, words: &mut [usize]) -> Result<usize, Errno> {
    let len = size_of_val(words);
    let (local, remote) = ([words.as_mut_ptr() as usize, len], [addr, len]);
    // SAFETY: the kernel writes at most `len` bytes into the words, and answers
    // for the address.
    unsafe {
        refusable!(
            Call::Look,
            libc::SYS_process_vm_readv,
            getpid(),
            &raw const local,
            1,
            &raw const remote,
            1,
            0
        )
    }
}

/// Whether 8 bytes at an address can be read.
pub fn is_readable(addr: usize) -> bool {
    const NO_SUCH_CHANGE: c_int = 99;
    let mut resident = 0u8;
    let page = addr & !(os_page_bytes() - 1);
    // SAFETY: both only look: the signal mask is read, and then the change refused.
    unsafe {
        syscall!(libc::SYS_mincore, page, 1, &raw mut resident).is_ok()
            && syscall!(libc::SYS_rt_sigprocmask, NO_SUCH_CHANGE, addr, 0, SIGNAL_SET_BYTES)
                == Err(libc::EINVAL)
    }
}

/// Where the process's break is.
pub fn current_break() -> usize {
    // SAFETY: 0 changes nothing.
    unsafe { syscall!(libc::SYS_brk, 0) }.unwrap_or(0)
}

/// The kernel's signal sets are words of 64 bits.
const SIGNAL_SET_BYTES: usize = 8;

/// Blocks signals (a bit each, signal 1 lowest) in this thread; what was blocked.
pub fn block_signals(set: u64) -> u64 {
    change_signals(libc::SIG_BLOCK, set)
}

/// Blocks exactly these signals in this thread.
pub fn set_signals(set: u64) {
    change_signals(libc::SIG_SETMASK, set);
}

fn change_signals(how: c_int, set: u64) -> u64 {
    let mut before = 0u64;
    // SAFETY: the kernel reads and writes one word each.
    let _ = unsafe {
        syscall!(libc::SYS_rt_sigprocmask, how, &raw const set, &raw mut before, SIGNAL_SET_BYTES)
    };
    before
}

/// Sleeps, or less where a signal comes.
pub fn sleep_ms(ms: u64) {
    let time =
        libc::timespec { tv_sec: (ms / 1000) as i64, tv_nsec: (ms % 1000 * 1_000_000) as i64 };
    // SAFETY: the kernel reads the time.
    let _ = unsafe { syscall!(libc::SYS_nanosleep, &raw const time, 0) };
}

/// Sends a signal to this thread, which must not have it blocked.
pub fn raise(signal: c_int) {
    let set = 1u64 << (signal - 1);
    // SAFETY: reads the set; the signal does what the process wants it to.
    unsafe {
        let unblock = libc::SIG_UNBLOCK;
        let _ = syscall!(libc::SYS_rt_sigprocmask, unblock, &raw const set, 0, SIGNAL_SET_BYTES);
        let _ = syscall!(libc::SYS_tgkill, getpid(), gettid(), signal);
    }
}

/// Gives a signal its default action.
pub fn default_action(signal: c_int) {
    // Handler, flags, restorer, mask: zeros are SIG_DFL on every architecture.
    let action = [0u64; 4];
    // SAFETY: reads the action.
    let _ =
        unsafe { syscall!(libc::SYS_rt_sigaction, signal, &raw const action, 0, SIGNAL_SET_BYTES) };
}

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .text.cidalloc_restorer,\"ax\",@progbits",
    ".hidden cidalloc_restorer",
    ".globl cidalloc_restorer",
    ".type cidalloc_restorer, @function",
    "cidalloc_restorer:",
    "mov eax, {number}",
    "syscall",
    ".size cidalloc_restorer, .-cidalloc_restorer",
    ".popsection",
    number = const libc::SYS_rt_sigreturn,
);

/// The kernel's `struct sigaction`.
#[repr(C)]
struct KernelAction {
    handler: usize,
    flags: u64,
    /// Where a handler returns to; x86_64 asks for it, aarch64 has its own.
    restorer: usize,
    mask: u64,
}

pub type Handler = extern "C" fn(c_int, *const libc::siginfo_t, *const core::ffi::c_void);

/// Installs a handler for a signal that has the default action; whether it had.
pub fn handle_if_default(signal: c_int, handler: Handler) -> bool {
    #[cfg(target_arch = "x86_64")]
    let (restorer, extra) = {
        unsafe extern "C" {
            fn cidalloc_restorer();
        }
        const SA_RESTORER: u64 = 0x0400_0000;
        (cidalloc_restorer as *const () as usize, SA_RESTORER)
    };
    #[cfg(target_arch = "aarch64")]
    let (restorer, extra) = (0, 0);
    let flags = (libc::SA_SIGINFO | libc::SA_ONSTACK) as u64 | extra;
    let action = KernelAction { handler: handler as usize, flags, restorer, mask: 0 };
    let mut old = KernelAction { handler: 0, flags: 0, restorer: 0, mask: 0 };
    let (none, size) = (core::ptr::null::<KernelAction>(), SIGNAL_SET_BYTES);
    // SAFETY: the kernel writes the old action, and reads the new one, whose
    // functions stay where they are.
    unsafe {
        let asked = syscall!(libc::SYS_rt_sigaction, signal, none, &raw mut old, size);
        asked.is_ok()
            && old.handler == libc::SIG_DFL
            && syscall!(libc::SYS_rt_sigaction, signal, &raw const action, 0, size).is_ok()
    }
}

/// Opens a file for reading; `path` ends in NUL.
pub fn open_read(path: &core::ffi::CStr) -> Result<i32, Errno> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: `path` is a C string.
    unsafe { refusable!(Call::Open, libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags) }
        .map(|fd| fd as i32)
}

/// Creates or truncates a file for writing; `path` ends in NUL.
pub fn open_write(path: &core::ffi::CStr) -> Result<i32, Errno> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
    // SAFETY: `path` is a C string.
    unsafe { refusable!(Call::Open, libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0o644) }
        .map(|fd| fd as i32)
}

pub fn read(fd: i32, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `len` bytes into the buffer.
    unsafe { refusable!(Call::Read, libc::SYS_read, fd, buffer.as_mut_ptr(), buffer.len()) }
}

pub fn write(fd: i32, bytes: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel only reads.
    unsafe { refusable!(Call::Write, libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) }
}

/// A copy of a descriptor, numbered 100 or above and closed on exec.
pub fn duplicate(fd: i32) -> Result<i32, Errno> {
    // SAFETY: makes a descriptor of our own.
    unsafe { refusable!(Call::Duplicate, libc::SYS_fcntl, fd, libc::F_DUPFD_CLOEXEC, 100) }
        .map(|fd| fd as i32)
}

pub fn close(fd: i32) {
    // SAFETY: the caller's descriptor.
    let _ = unsafe { syscall!(libc::SYS_close, fd) };
}

/// Milliseconds of the coarse monotonic clock (resolution: a tick, 1-10 ms).
pub fn now_ms() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills `t`.
    let _ = unsafe { syscall!(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC_COARSE, &raw mut t) };
    t.tv_sec as u64 * 1000 + t.tv_nsec as u64 / 1_000_000
}

/// The soft limit of a resource, `None` when unlimited or unknown.
pub fn soft_limit(resource: u32) -> Option<u64> {
    let mut limit = [0u64; 2];
    // SAFETY: the kernel fills both words.
    unsafe { refusable!(Call::Limit, libc::SYS_prlimit64, 0, resource, 0, &raw mut limit) }.ok()?;
    (limit[0] != u64::MAX).then_some(limit[0])
}

/// Fills the buffer from the kernel's random source; false if it refuses.
pub fn random(buffer: &mut [u8]) -> bool {
    // SAFETY: the kernel writes at most `len` bytes into the buffer.
    let got = unsafe {
        refusable!(
            Call::Random,
            libc::SYS_getrandom,
            buffer.as_mut_ptr(),
            buffer.len(),
            libc::GRND_NONBLOCK
        )
    };
    got == Ok(buffer.len())
}

/// The CPUs this thread may run on, at least 1, and a number above every CPU's:
/// the bits of the kernel's mask.
pub fn cpus_allowed() -> (u32, u32) {
    let mut mask = [0u64; 128];
    // SAFETY: the kernel writes at most the mask's size.
    let got = unsafe {
        refusable!(
            Call::Affinity,
            libc::SYS_sched_getaffinity,
            0,
            size_of_val(&mask),
            mask.as_mut_ptr()
        )
    };
    match got {
        Ok(bytes) => (mask.iter().map(|w| w.count_ones()).sum::<u32>().max(1), bytes as u32 * 8),
        Err(_) => (1, size_of_val(&mask) as u32 * 8),
    }
}

/// The kernel's release as (major, minor), as far as it can be read.
pub fn kernel_release() -> Option<(u32, u32)> {
    // SAFETY: zero bytes are a valid utsname, and the kernel fills it.
    let names = unsafe {
        let mut names: libc::utsname = core::mem::zeroed();
        refusable!(Call::Release, libc::SYS_uname, &raw mut names).ok()?;
        names
    };
    let mut numbers = names.release.iter().map(|c| *c as u8).scan(true, |going, byte| {
        *going &= byte.is_ascii_digit() || byte == b'.';
        going.then_some(byte)
    });
    let mut next = || {
        let mut number: Option<u32> = None;
        for byte in numbers.by_ref().take_while(|b| *b != b'.') {
            let shifted = number.unwrap_or(0).checked_mul(10)?;
            number = shifted.checked_add(u32::from(byte - b'0'));
        }
        number
    };
    Some((next()?, next()?))
}

/// Bytes of an OS page: 4, 16 or 64 KiB.
pub fn os_page_bytes() -> usize {
    let page = auxv(libc::AT_PAGESZ);
    if page.is_power_of_two() { page } else { 4096 }
}

/// The value of an auxiliary vector entry, 0 if absent. Leaves errno alone.
pub fn auxv(kind: libc::c_ulong) -> usize {
    // SAFETY: getauxval reads memory set up before any code of ours runs; for an
    // absent entry it sets errno, which the first malloc must not.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let value = libc::getauxval(kind) as usize;
        *errno = before;
        value
    }
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel")]
    fn the_kernels_release_is_what_proc_says() {
        let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut parts = text.split(['.', '-']).map(|p| p.trim().parse::<u32>());
        let expected = (parts.next().unwrap().unwrap(), parts.next().unwrap().unwrap());
        assert_eq!(super::kernel_release(), Some(expected));
    }
}
