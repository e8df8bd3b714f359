//! Passes signals on to the command while this process waits for it.
//!
//! The signals are blocked before the command is started and then taken one by one with
//! sigwaitinfo(2), SIGCHLD among them: no handler runs, and none can be lost between a check and
//! a wait.
//!
//! Stop and continue signals keep their default effect: from a terminal they reach the command
//! as well, and a shell expects its job to stop as a whole.
//!
//! # Safety
//! Every unsafe block is one system call on memory that lives across it. The closure for the
//! child runs between fork and exec; it makes system calls only.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::ptr;

use libc::{c_int, pid_t, siginfo_t, sigset_t};

/// Sent on to the command. Faults of this process (SIGSEGV, SIGABRT …) are its own.
const PASSED_ON: [c_int; 8] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGWINCH,
];

/// Starts `command`, passes signals on until it ends, and returns its pid and how it ended.
///
/// The command starts with the signal mask and the SIGCHLD disposition that this process had.
/// The signals stay blocked here afterwards, so that a late one does not cut the report short.
pub fn run_to_end(command: &mut Command) -> io::Result<(u32, ExitStatus)> {
    let mut awaited = empty_set();
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    for signal in PASSED_ON.into_iter().chain(real_time).chain([libc::SIGCHLD]) {
        // SAFETY: `awaited` is an initialised set.
        unsafe { libc::sigaddset(&mut awaited, signal) };
    }
    let mut old_mask = empty_set();
    // SAFETY: both sets outlive the call.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &awaited, &mut old_mask) };
    // Where SIGCHLD is ignored, the kernel reaps children itself and their status is lost.
    // SAFETY: replaces one disposition, by the default; no handler is involved.
    let old_child_action = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    // SAFETY: the closure makes two system calls, both async-signal-safe, and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            libc::signal(libc::SIGCHLD, old_child_action);
            libc::pthread_sigmask(libc::SIG_SETMASK, &old_mask, ptr::null_mut());
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    let status = wait(&mut child, &awaited)?;
    Ok((child.id(), status))
}

fn wait(child: &mut Child, awaited: &sigset_t) -> io::Result<ExitStatus> {
    // Not yet waited for, so the pid cannot have been given to another process.
    let pid = pid_t::try_from(child.id()).map_err(io::Error::other)?;
    loop {
        let mut info = MaybeUninit::<siginfo_t>::uninit();
        // SAFETY: `awaited` is initialised and `info` is large enough.
        let signal = unsafe { libc::sigwaitinfo(awaited, info.as_mut_ptr()) };
        if signal < 0 {
            continue; // EINTR: stopped and continued.
        }
        if signal == libc::SIGCHLD {
            // Also sent when the command stops; then there is no status yet.
            match child.try_wait()? {
                Some(status) => return Ok(status),
                None => continue,
            }
        }
        // SAFETY: sigwaitinfo returned a signal, so it filled `info`.
        let code = unsafe { info.assume_init() }.si_code;
        // A terminal signals its whole foreground group: the command has that one already.
        // An alarm set before this process was executed is sent to this process alone.
        if code != libc::SI_KERNEL || signal == libc::SIGALRM {
            // SAFETY: the child has not been waited for.
            unsafe { libc::kill(pid, signal) };
        }
    }
}

fn empty_set() -> sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}
