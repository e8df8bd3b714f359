//! The system calls that neither std nor serde offers, each behind a safe function.
//!
//! # Safety
//! Each unsafe block is one call. Pointers handed to the kernel point to locals that outlive it.
//! What is registered, enabled or traced is so in a short-lived forked child only; a registration
//! attempt in this process can at most fail (see `rseq_length_by_refusal`).
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsString, c_void};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::ptr;

use libc::{c_int, c_long, c_uint, c_ulong, pid_t};

/// Gives SIGPIPE its default effect back, which std's start-up took from it.
pub fn default_sigpipe() {
    // SAFETY: sets a default disposition; no handler is involved.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Ends the process without running exit handlers. stderr is unbuffered; nothing else was written.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit may be called in any state.
    unsafe { libc::_exit(code) }
}

/// Tells whether execve(2) may execute the file, with the effective ids that it will use.
pub fn is_executable(path: &Path) -> bool {
    let Some(path) = c_path(path) else { return false };
    // SAFETY: `path` is a C string.
    unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) == 0 }
}

/// Returns the real user and group id.
pub fn real_ids() -> (u32, u32) {
    // SAFETY: these calls cannot fail.
    unsafe { (libc::getuid(), libc::getgid()) }
}

/// Tells whether set-id bits and file capabilities have no effect on a program at `path`:
/// the process gave them up, or the file system is mounted nosuid.
pub fn elevation_is_off(path: &Path) -> bool {
    // SAFETY: no pointers.
    if unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) } == 1 {
        return true;
    }
    let Some(path) = c_path(path) else { return false };
    let mut info = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` is a C string, `info` has the type the call fills.
    if unsafe { libc::statvfs(path.as_ptr(), info.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: the call succeeded.
    unsafe { info.assume_init() }.f_flag & libc::ST_NOSUID != 0
}

/// Tells whether the file carries capabilities.
pub fn has_capabilities(path: &Path) -> bool {
    let Some(path) = c_path(path) else { return false };
    // SAFETY: two C strings; a size of zero asks for the attribute's length only.
    unsafe {
        libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), ptr::null_mut(), 0) > 0
    }
}

/// Makes a directory for this user only; the last six characters of `template` are XXXXXX.
pub fn make_temporary_directory(template: &Path) -> io::Result<PathBuf> {
    let template = c_path(template).ok_or(io::ErrorKind::InvalidInput)?;
    let mut bytes = template.into_bytes_with_nul();
    // SAFETY: a C string in memory of our own, changed in place.
    if unsafe { libc::mkdtemp(bytes.as_mut_ptr().cast()) }.is_null() {
        return Err(io::Error::last_os_error());
    }
    bytes.pop();
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

/// Makes a file that exists in memory only.
pub fn memory_file(name: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: `name` is a C string.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> Option<CString> {
    CString::new(path.as_os_str().as_bytes()).ok()
}

/// Returns an entry of the auxiliary vector; None if the kernel did not give it.
pub fn auxiliary(kind: c_ulong) -> Option<u64> {
    // SAFETY: no pointers. All entries asked for here are positive where they exist.
    let value = unsafe { libc::getauxval(kind) };
    (value != 0).then_some(value)
}

/// Returns an unsigned 32-bit variable of the C library, such as `__rseq_size`.
pub fn libc_word(name: &CStr) -> Option<u32> {
    let address = symbol(name).cast::<u32>();
    // SAFETY: the C library's ABI gives the variable this type; it lives for ever.
    (!address.is_null()).then(|| unsafe { address.read() })
}

/// Returns a pointer-sized variable of the C library, such as `__rseq_offset`.
pub fn libc_offset(name: &CStr) -> Option<isize> {
    let address = symbol(name).cast::<isize>();
    // SAFETY: as above.
    (!address.is_null()).then(|| unsafe { address.read() })
}

/// Returns glibc's version; None where the C library is another.
pub fn glibc_version() -> Option<String> {
    let function = symbol(c"gnu_get_libc_version");
    if function.is_null() {
        return None;
    }
    // SAFETY: glibc declares it as `const char *(void)`.
    let function: extern "C" fn() -> *const libc::c_char = unsafe { std::mem::transmute(function) };
    // SAFETY: a constant string of the C library.
    let version = unsafe { CStr::from_ptr(function()) };
    Some(version.to_string_lossy().into_owned())
}

/// Looks a symbol up at run time, so that the command also starts where it does not exist.
fn symbol(name: &CStr) -> *mut c_void {
    // SAFETY: a C string.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// Returns this thread's thread pointer, from which `__rseq_offset` counts.
pub fn thread_pointer() -> usize {
    let pointer: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reads the first word of the thread control block, which by the ABI holds its address.
    unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: reads a register.
    unsafe {
        std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, preserves_flags, nomem));
    }
    pointer
}

/// The kernel's release, and the machine's architecture.
pub struct Release {
    pub release: String,
    pub machine: String,
}

pub fn release() -> Release {
    let mut names = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: the call fills `names`.
    unsafe { libc::uname(names.as_mut_ptr()) };
    // SAFETY: uname fails for a bad address only; all-zero bytes are valid, too.
    let names = unsafe { names.assume_init() };
    let text = |field: &[libc::c_char]| {
        let bytes: Vec<u8> = field.iter().map(|&c| c as u8).take_while(|&byte| byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Release { release: text(&names.release), machine: text(&names.machine) }
}

/// Returns the size of an OS page in bytes.
pub fn page_size() -> u64 {
    // SAFETY: no pointers.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0)
}

/// The limits that the report names.
#[derive(Clone, Copy)]
pub enum Limit {
    AddressSpace,
    Data,
    LockedMemory,
}

/// Returns the soft limit in bytes; None if there is none.
pub fn limit(which: Limit) -> Option<u64> {
    let which = match which {
        Limit::AddressSpace => libc::RLIMIT_AS,
        Limit::Data => libc::RLIMIT_DATA,
        Limit::LockedMemory => libc::RLIMIT_MEMLOCK,
    };
    let mut limits = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the call fills `limits`.
    unsafe { libc::getrlimit(which, &mut limits) };
    (limits.rlim_cur != libc::RLIM_INFINITY).then_some(limits.rlim_cur)
}

/// Tells whether transparent hugepages are off for this process.
pub fn thp_is_disabled() -> bool {
    let none: c_ulong = 0;
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, none, none, none, none) == 1 }
}

/// Calls membarrier(2); an error is its errno.
pub fn membarrier(command: c_int) -> Result<c_long, i32> {
    // SAFETY: no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if result < 0 { Err(errno()) } else { Ok(result) }
}

pub const PR_RSEQ_SLICE_EXTENSION: c_int = 79;
const PR_RSEQ_SLICE_EXTENSION_GET: c_ulong = 1;
const PR_RSEQ_SLICE_EXTENSION_SET: c_ulong = 2;
const PR_RSEQ_SLICE_EXT_ENABLE: c_ulong = 1;

/// Tells whether this thread has the time slice extension on; an error is its errno.
pub fn slice_extension_enabled() -> Result<bool, i32> {
    let none: c_ulong = 0;
    // SAFETY: no pointers.
    let result = unsafe {
        libc::prctl(PR_RSEQ_SLICE_EXTENSION, PR_RSEQ_SLICE_EXTENSION_GET, none, none, none)
    };
    if result < 0 { Err(errno()) } else { Ok(result != 0) }
}

/// Tries to turn the time slice extension on, in a child that inherits this thread's registration.
/// Returns 0 or the errno; None if no child could be had.
pub fn try_slice_extension() -> Option<i32> {
    // An exit status holds 8 bits, ENOTSUPP (524) needs more: it is sent as 255.
    let attempt = || {
        let none: c_ulong = 0;
        // SAFETY: no pointers.
        let result = unsafe {
            libc::prctl(
                PR_RSEQ_SLICE_EXTENSION,
                PR_RSEQ_SLICE_EXTENSION_SET,
                PR_RSEQ_SLICE_EXT_ENABLE,
                none,
                none,
            )
        };
        if result == 0 { 0 } else { errno().min(255) }
    };
    match in_child(attempt)? {
        255 => Some(ENOTSUPP),
        code => Some(code),
    }
}

/// The kernel's internal "not supported", which reaches user space here.
pub const ENOTSUPP: i32 = 524;

/// Runs `work` in a forked child and returns its result, 0 to 255. `work` makes system calls only.
pub fn in_child(work: impl FnOnce() -> c_int) -> Option<c_int> {
    // SAFETY: the child calls nothing but `work` and _exit.
    let pid = unsafe { libc::fork() };
    match pid {
        ..0 => None,
        0 => exit_now(work()),
        _ => {
            let status = wait_for(pid)?;
            libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))
        }
    }
}

fn wait_for(pid: pid_t) -> Option<c_int> {
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call; `pid` is a child not yet waited for.
        if unsafe { libc::waitpid(pid, &mut status, 0) } == pid {
            return Some(status);
        }
        if errno() != libc::EINTR {
            return None;
        }
    }
}

/// The rseq registration of this thread, as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Registration {
    /// 0 if nothing is registered.
    pub address: u64,
    pub length: u32,
}

/// Asks the kernel for this thread's registration; None if it does not tell.
///
/// Only a tracer is told, so a child, which inherits the registration, stops for its parent.
pub fn rseq_registration() -> Option<Registration> {
    // SAFETY: the child makes two system calls and leaves.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return None;
    }
    if pid == 0 {
        // SAFETY: these requests take no pointer.
        if unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } == 0 {
            // SAFETY: stops this child until the parent has asked.
            unsafe { libc::raise(libc::SIGSTOP) };
        }
        exit_now(0);
    }
    let status = wait_for(pid)?;
    if !libc::WIFSTOPPED(status) {
        return None;
    }
    let registration = ask_tracee(pid);
    // SAFETY: the child has not been waited for to its end.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    wait_for(pid);
    registration
}

fn ask_tracee(pid: pid_t) -> Option<Registration> {
    // linux/ptrace.h, since 5.13.
    const PTRACE_GET_RSEQ_CONFIGURATION: c_uint = 0x420f;
    #[repr(C)]
    struct Configuration {
        address: u64,
        length: u32,
        signature: u32,
        flags: u32,
        padding: u32,
    }
    let mut configuration = MaybeUninit::<Configuration>::zeroed();
    let size = size_of::<Configuration>();
    // SAFETY: the kernel writes at most `size` bytes.
    let copied = unsafe {
        libc::ptrace(PTRACE_GET_RSEQ_CONFIGURATION as _, pid, size, configuration.as_mut_ptr())
    };
    if copied < size as c_long {
        return None;
    }
    // SAFETY: filled by the kernel, and zero bytes were valid before.
    let configuration = unsafe { configuration.assume_init() };
    Some(Registration { address: configuration.address, length: configuration.length })
}

/// Finds the length with which `address` is registered, by trying to register it once more: the
/// kernel refuses the right length with EBUSY and a wrong one with EINVAL. None if no length is.
///
/// The caller knows the area to be the C library's, which is never unmapped; should it not be
/// registered after all, an attempt succeeds and is undone at once.
pub fn rseq_length_by_refusal(address: usize, candidates: &[u32]) -> Option<u32> {
    const UNREGISTER: c_int = 1;
    const SIGNATURE: u32 = if cfg!(target_arch = "aarch64") { 0xd428_bc00 } else { 0x5305_3053 };
    candidates.iter().copied().find(|&length| {
        // SAFETY: the C library reserved at least `__rseq_size` bytes there for this very use.
        let result = unsafe { libc::syscall(libc::SYS_rseq, address, length, 0, SIGNATURE) };
        if result == 0 {
            // SAFETY: undoes the registration just made.
            unsafe { libc::syscall(libc::SYS_rseq, address, length, UNREGISTER, SIGNATURE) };
            return false;
        }
        errno() == libc::EBUSY
    })
}

/// Returns the error with which the kernel refuses rseq(2) itself; None if it does not.
pub fn rseq_refusal() -> Option<i32> {
    // SAFETY: registers nothing: an area of no length is invalid to every kernel.
    let result = unsafe { libc::syscall(libc::SYS_rseq, 0, 0, 0, 0) };
    let error = errno();
    (result != 0 && error != libc::EINVAL).then_some(error)
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
