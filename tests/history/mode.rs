//! The modes of the allocator, each in a process of its own: what chooses it,
//! what the statistics must then say, and how a test runs itself again in it.
//!
//! A mode is fixed when the process first allocates, so the tests re-execute
//! their binary with the mode's environment. What the mode looks like here is
//! worked out from the kernel and the C library, not from the allocator.

#![allow(dead_code)] // each test binary uses its part

use cidalloc::heap::stats::Stats;
use std::ffi::CStr;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Tells a child which mode it must find itself in.
pub const MODE: &str = "CIDALLOC_TEST_MODE";

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    MmCid,
    CpuId,
    Own,
    Take,
    Locked,
    Counting,
    Checking,
}

pub const MODES: [Mode; 7] =
    [Mode::MmCid, Mode::CpuId, Mode::Own, Mode::Take, Mode::Locked, Mode::Counting, Mode::Checking];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::MmCid => "mm_cid",
            Mode::CpuId => "cpu_id",
            Mode::Own => "own",
            Mode::Take => "take",
            Mode::Locked => "locked",
            Mode::Counting => "counting",
            Mode::Checking => "checking",
        }
    }

    fn environment(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Mode::MmCid => &[],
            Mode::CpuId => &[("CIDALLOC_INDEX", "cpu_id")],
            Mode::Own => &[("GLIBC_TUNABLES", "glibc.pthread.rseq=0")],
            Mode::Take => &[("CIDALLOC_RSEQ", "take")],
            Mode::Locked => &[("CIDALLOC_RSEQ", "off")],
            Mode::Counting => &[("CIDALLOC_COUNT", "1")],
            Mode::Checking => &[("CIDALLOC_CHECK", "1")],
        }
    }

    /// The mode this process was started to be in; none outside of a child.
    pub fn current() -> Option<Mode> {
        let name = std::env::var(MODE).ok()?;
        Some(*MODES.iter().find(|m| m.name() == name).expect("a mode's name"))
    }
}

/// What the statistics must say.
#[derive(Debug, PartialEq)]
pub struct Expected {
    pub mode: &'static str,
    pub index: &'static str,
    pub registration: &'static str,
}

/// Works out what `mode` must look like on this kernel and C library.
pub fn expected(mode: Mode) -> Expected {
    if mode == Mode::Locked || !kernel_has_rseq() || !kernel_has_fence() {
        return Expected { mode: "locked", index: "shard", registration: "none" };
    }
    let registration = match libc_registers() {
        0 => "own",
        _ if mode == Mode::Own => "own",
        // With the original 32 bytes, of which it tells no more than it knows.
        ..=32 if mode == Mode::Take => "taken",
        _ => "libc",
    };
    let index = match mode != Mode::CpuId && feature_size() >= 28 {
        true => "mm_cid",
        false => "cpu_id",
    };
    Expected { mode: "rseq", index, registration }
}

fn kernel_has_rseq() -> bool {
    // SAFETY: a null area of length 0 is refused by every kernel that knows the call.
    let result = unsafe { libc::syscall(libc::SYS_rseq, 0usize, 0u32, 0i32, 0u32) };
    result == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

fn kernel_has_fence() -> bool {
    const QUERY: i32 = 0;
    const PRIVATE_EXPEDITED_RSEQ: i64 = 1 << 7;
    // SAFETY: a query changes nothing.
    let commands = unsafe { libc::syscall(libc::SYS_membarrier, QUERY, 0, 0) };
    commands > 0 && commands & PRIVATE_EXPEDITED_RSEQ != 0
}

fn feature_size() -> u64 {
    const AT_RSEQ_FEATURE_SIZE: u64 = 27;
    // SAFETY: reads the auxiliary vector.
    unsafe { libc::getauxval(AT_RSEQ_FEATURE_SIZE) }
}

/// The size that the C library tells of what it registers; 0 if it does not.
fn libc_registers() -> u32 {
    const NAME: &CStr = c"__rseq_size";
    // SAFETY: a look-up by name; the symbol is an `unsigned int` where it exists.
    unsafe {
        let size = libc::dlsym(libc::RTLD_DEFAULT, NAME.as_ptr()).cast::<u32>();
        if size.is_null() { 0 } else { *size }
    }
}

/// Checks that this process is in the mode it was started for.
pub fn verify() {
    let Some(mode) = Mode::current() else { return };
    let stats = Stats::collect();
    let found = Expected { mode: stats.mode, index: stats.index, registration: stats.registration };
    assert_eq!(found, expected(mode), "started for {mode:?}; the reason given: {:?}", stats.reason);
    // Whatever is not the best there is says why.
    let is_best = match mode {
        Mode::Take if found.registration == "taken" => stats.abi_mode == "V2",
        Mode::Take if found.registration == "libc" => false,
        _ => found.index == "mm_cid",
    };
    assert_eq!(stats.reason.is_empty(), is_best, "reason: {:?}", stats.reason);
    assert_eq!(stats.allocations.is_some(), mode == Mode::Counting);
}

/// Objects of each class that are handed out, in an array because a vector
/// would be one itself.
pub fn live_objects(stats: &Stats) -> [u64; 256] {
    let mut live = [0; 256];
    for (live, c) in live.iter_mut().zip(stats.classes.iter()) {
        let kept = c.central_free + c.transfer + c.cached;
        let objects = c.objects;
        assert!(kept <= objects, "class of {} bytes: {kept} kept of {objects}", c.size_bytes);
        *live = objects - kept;
    }
    live
}

/// This binary again, for its ignored test `name` alone, in `mode`.
pub fn child(mode: Mode, name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        if name.starts_with("CIDALLOC_") && !name.starts_with("CIDALLOC_TEST_") {
            command.env_remove(&variable);
        }
    }
    command
        .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
        .env_remove("GLIBC_TUNABLES")
        .env("RUST_BACKTRACE", "0")
        .env(MODE, mode.name())
        .envs(mode.environment().iter().copied());
    command
}

/// Runs a child to its end, or kills it after `time`: a hang is a failure.
pub fn output(mut child: Command, time: Duration) -> Output {
    let child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("own binary");
    let pid = child.id() as i32;
    let (done, dones) = mpsc::channel();
    let wait = std::thread::spawn(move || done.send(child.wait_with_output()));
    let result = dones.recv_timeout(time).or_else(|_| {
        eprintln!("child {pid} hangs for {time:?}: killed");
        // SAFETY: our child, not yet waited for.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        dones.recv()
    });
    wait.join().expect("a thread").expect("both ends live");
    result.expect("an end").expect("the child's output")
}

/// What a child wrote and how it ended.
pub fn report(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Tells whether the child ran its one test and the test held.
pub fn passed(output: &Output) -> bool {
    output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed")
}
