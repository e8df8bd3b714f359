//! The library in the life of a process: from before main to the last destructor, under every loader, beside libraries
//! that wrap what it calls, through fork, vfork and clone, in signal handlers, on small stacks, and given blocks of
//! the C library's own malloc.
//!
//! The programs under test are `tests/c/process/*`. One by hand, after any test here has built it:
//! `LD_PRELOAD=target/release/libcidalloc.so target/tmp/process/programs/storm kill`.

#![cfg(all(target_os = "linux", target_env = "gnu"))]

#[path = "process/children.rs"]
mod children;
mod common;
#[path = "process/deepbind.rs"]
mod deepbind;
#[path = "process/life.rs"]
mod life;
#[path = "process/loading.rs"]
mod loading;
#[path = "process/other_user.rs"]
mod other_user;
#[path = "process/peaks.rs"]
mod peaks;
#[path = "process/returns.rs"]
mod returns;
#[path = "process/signals.rs"]
mod signals;
#[path = "process/stack.rs"]
mod stack;

use common::{command, compiler, in_repository, preload, run_ok, shown, temp_dir};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

type Mode = &'static [(&'static str, &'static str)];

const DEFAULT: Mode = &[];
const LOCKED: Mode = &[("CIDALLOC_RSEQ", "off")];
const OWN: Mode = &[("GLIBC_TUNABLES", "glibc.pthread.rseq=0")];
const TAKE: Mode = &[("CIDALLOC_RSEQ", "take")];
const CPU_ID: Mode = &[("CIDALLOC_INDEX", "cpu_id")];
const MODES: [Mode; 5] = [DEFAULT, LOCKED, OWN, TAKE, CPU_ID];

fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| temp_dir("programs"))
}

/// Compiles a source of `tests/c/process` once; `extra` is for the linker.
fn built(source: &str, output: &str, extra: &[&str]) -> PathBuf {
    static DONE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let path = directory().join(output);
    // Tests run side by side, and one may be running what another would write.
    let mut done = DONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !done.contains(&path) {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("it can be made");
        let mut compile = compiler(source.ends_with(".cc"));
        // Without -fno-builtin the compiler removes pairs of malloc and free.
        compile.args(["-O2", "-g", "-fno-builtin", "-pthread", "-w"]);
        compile.arg(in_repository("tests/c/process").join(source)).arg("-o").arg(&path);
        run_ok(compile.args(extra).args(["-Wl,-z,now", "-ldl"]));
        done.insert(path.clone());
    }
    path
}

fn program(name: &str) -> PathBuf {
    built(&format!("{name}.c"), name, &[])
}

fn shared_library(name: &str) -> PathBuf {
    built(&format!("{name}.c"), &format!("lib{name}.so"), &["-shared", "-fPIC"])
}

/// A program on the library, in a mode.
fn on_library(program: impl AsRef<std::ffi::OsStr>, mode: Mode) -> Command {
    let mut command = command(program);
    preload(&mut command).envs(mode.iter().copied());
    command
}

/// Preloads another library, before ours or after it.
fn beside(command: &mut Command, other: &Path, before: bool) {
    let (ours, other) = (common::library().display().to_string(), other.display().to_string());
    let list = if before { [other, ours] } else { [ours, other] };
    command.env("LD_PRELOAD", list.join(":"));
}

struct Ended {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

/// Runs a command that may hang, and whose descendants may: its whole process group is killed at the
/// end, or after three minutes, which fails the test.
fn ended(command: &mut Command) -> Ended {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let what = shown(command);
    let at = directory().join(format!("run-{}", COUNT.fetch_add(1, Relaxed)));
    let file = |kind: &str| at.with_extension(kind);
    let create = |kind: &str| File::create(file(kind)).expect("a file for output");
    command.stdin(Stdio::null()).stdout(create("out")).stderr(create("err")).process_group(0);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
    let deadline = Instant::now() + Duration::from_secs(180);
    let status = loop {
        match child.try_wait().expect("a child of ours") {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => break None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    // SAFETY: signals the group that the child leads, or led and others still are in.
    unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
    let read = |kind: &str| {
        let text = std::fs::read(file(kind)).expect("the output");
        let _ = std::fs::remove_file(file(kind));
        String::from_utf8_lossy(&text).into_owned()
    };
    let (stdout, stderr) = (read("out"), read("err"));
    let Some(status) = status else {
        let _ = child.wait();
        panic!("{what} hangs\n{stdout}{stderr}");
    };
    Ended { status, stdout, stderr }
}

/// The output of a command that must succeed.
fn passed(command: &mut Command) -> Ended {
    let ended = ended(command);
    let (what, Ended { status, stdout, stderr }) = (shown(command), &ended);
    assert!(status.success(), "{what}: {status}\n{stdout}{stderr}");
    ended
}

/// Runs a program that says `ok` at its end.
fn check(command: &mut Command) {
    let said = passed(command).stdout;
    assert!(said.starts_with("ok"), "{}: {said}", shown(command));
}

/// Runs a program in every mode.
fn check_modes(name: &str, arguments: &[&str]) {
    for mode in MODES {
        check(on_library(program(name), mode).args(arguments));
    }
}
