//! vfork, clone and dlopen: what a process does behind an allocator's back.
//!
//! - A child of vfork, or of clone with CLONE_VM, shares its parent's thread
//!   words: the thread is lent, see `core_alloc::fork`. Children made by the
//!   bare system call are not seen; they must not allocate.
//! - A library opened with RTLD_DEEPBIND would bind to the C library's malloc
//!   and free our blocks there: the flag is taken out (`CIDALLOC_DEEPBIND`).

use crate::malloc;
use core::arch::{asm, global_asm};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;
use core_alloc::diagnosis::{self, weak_address};
use core_alloc::{fork, heap};

#[cfg(target_arch = "x86_64")]
global_asm!(
    include_str!("../../asm/x86_64/vfork.s"),
    include_str!("../../asm/x86_64/clone.s"),
    include_str!("../../asm/x86_64/dlopen.s"),
    lend = sym fork::lend,
    take_back = sym fork::take_back,
    failed = sym failed,
    next_dlopen = sym next_dlopen,
    SYS_VFORK = const libc::SYS_vfork,
    SYS_CLONE = const libc::SYS_clone,
    SYS_EXIT = const libc::SYS_exit,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    include_str!("../../asm/aarch64/vfork.s"),
    include_str!("../../asm/aarch64/clone.s"),
    include_str!("../../asm/aarch64/dlopen.s"),
    lend = sym fork::lend,
    take_back = sym fork::take_back,
    failed = sym failed,
    next_dlopen = sym next_dlopen,
    VFORK_FLAGS = const libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
    SYS_CLONE = const libc::SYS_clone,
    SYS_EXIT = const libc::SYS_exit,
);

/// A function that is nothing but a jump: its arguments and its return address
/// are where the caller left them. `tests/process.rs` reads the code.
macro_rules! jumps {
    ($($name:ident => $target:literal;)*) => {$(
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name() {
            // SAFETY: nothing was pushed, and nothing is returned to.
            unsafe {
                #[cfg(target_arch = "x86_64")]
                asm!(concat!("jmp ", $target), options(noreturn, nostack));
                #[cfg(target_arch = "aarch64")]
                asm!(concat!("b ", $target), options(noreturn, nostack));
            }
        }
    )*};
}

jumps! {
    vfork => "cidalloc_vfork";
    dlopen => "cidalloc_dlopen";
}

/// The end of a vfork that the kernel refused: sets errno; -1.
extern "C" fn failed(result: c_int) -> c_int {
    malloc::fail(-result);
    -1
}

unsafe extern "C" {
    fn cidalloc_clone(
        function: usize,
        stack: usize,
        flags: c_int,
        argument: *mut c_void,
        parent_tid: usize,
        tls: usize,
        child_tid: usize,
    ) -> isize;
}

/// The last three arguments may be absent: then they are not looked at.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clone(
    function: usize,
    stack: usize,
    flags: c_int,
    argument: *mut c_void,
    parent_tid: usize,
    tls: usize,
    child_tid: usize,
) -> c_int {
    if function == 0 || stack == 0 {
        return failed(-libc::EINVAL);
    }
    let shares_words = flags & libc::CLONE_VM != 0 && flags & libc::CLONE_SETTLS == 0;
    let lent = shares_words.then(|| fork::lend());
    // SAFETY: the caller's duty.
    let result =
        unsafe { cidalloc_clone(function, stack, flags, argument, parent_tid, tls, child_tid) };
    // A child that runs on beside its parent keeps the thread lent for good.
    let gone = result < 0 || flags & libc::CLONE_VFORK != 0;
    if let Some(lent) = lent.filter(|_| gone) {
        fork::take_back(lent);
    }
    if result < 0 { failed(result as c_int) } else { result as c_int }
}

/// Where [`next_dlopen`] jumps to, and the flags that it lets through.
#[repr(C)]
struct Next {
    function: usize,
    flags: usize,
}

const RTLD_DEEPBIND: usize = 8;

extern "C" fn next_dlopen() -> Next {
    static FOUND: AtomicUsize = AtomicUsize::new(0);
    let mut function = FOUND.load(Relaxed);
    if function == 0 {
        function = symbol_after_ours(c"dlopen").unwrap_or(no_dlopen as *const () as usize);
        FOUND.store(function, Relaxed); // everybody finds the same
    }
    let keep = heap::config().is_some_and(|c| c.keep_deepbind);
    Next { function, flags: if keep { usize::MAX } else { !RTLD_DEEPBIND } }
}

/// A static program has no dlopen after ours, unless it is linked with glibc's
/// under its other name.
extern "C" fn no_dlopen(path: *const c_char, flags: c_int) -> *mut c_void {
    let other = weak_address!("___dlopen");
    if other.is_null() {
        diagnosis::complain("dlopen in a static program needs the linker's option -u,___dlopen");
        return malloc::fail(libc::ENOSYS);
    }
    // SAFETY: dlopen itself.
    unsafe {
        let dlopen: extern "C" fn(*const c_char, c_int) -> *mut c_void =
            core::mem::transmute(other);
        dlopen(path, flags)
    }
}

/// The address of a function in the libraries after this one.
fn symbol_after_ours(name: &CStr) -> Option<usize> {
    // A static program has none.
    let dlsym = weak_address!("dlsym");
    if dlsym.is_null() {
        return None;
    }
    // SAFETY: the C library's dlsym; it looks at the caller, which is this library.
    let found = unsafe {
        let dlsym: extern "C" fn(*mut c_void, *const c_char) -> *mut c_void =
            core::mem::transmute(dlsym);
        dlsym(libc::RTLD_NEXT, name.as_ptr())
    };
    (!found.is_null()).then_some(found as usize)
}
