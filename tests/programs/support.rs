//! Runs a program of the system twice, as it is and on cidalloc, and compares what it did.
//!
//! A `Side` is one of the two: its own directory, with the preload or without. Everything else (arguments,
//! environment, input, file names) is the same on both, so that a difference is the allocator's.
//! Each child has a time limit: one that hangs is a failure with its name.
//! A child on cidalloc must leave statistics that show that its memory came from there.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a child may take whose task names no limit of its own.
const LIMIT: Duration = Duration::from_secs(120);

/// How often a child is asked whether it has ended.
const POLL: Duration = Duration::from_millis(2);

/// Where programs are looked for: the distribution's, not what a developer has in front of them.
const PATH: &str = "/usr/bin:/bin";

/// Finds a program of the system. A missing one fails the test, or skips it on request.
pub fn installed(program: &str, package: &str) -> Option<PathBuf> {
    let found = PATH.split(':').map(|dir| Path::new(dir).join(program)).find(|path| path.exists());
    if found.is_none() {
        assert!(
            std::env::var_os("CIDALLOC_TEST_SKIP_MISSING").is_some_and(|value| value == "1"),
            "{program} is not in {PATH}: install the package {package}, or set CIDALLOC_TEST_SKIP_MISSING=1"
        );
        println!("SKIP: {program} (package {package}) is not installed");
    }
    found
}

/// A file beside this one.
pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}

/// The library to preload: `CIDALLOC_TEST_SO`, or the one that cargo builds.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let path = match std::env::var_os("CIDALLOC_TEST_SO") {
            Some(path) => PathBuf::from(path),
            None => crate::common::library(),
        };
        fs::canonicalize(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    })
}

/// Does `work` once without the preload and once with it. Both must return the same text.
pub fn same(name: &str, work: impl Fn(&Side) -> String) {
    let plain = work(&Side::new(name, false));
    let ours = work(&Side::new(name, true));
    assert_same(name, &plain, &ours);
}

/// Fails at the first line that differs.
pub fn assert_same(name: &str, plain: &str, ours: &str) {
    assert!(!plain.trim().is_empty(), "{name}: nothing to compare");
    let differing = plain.lines().zip(ours.lines()).position(|(plain, ours)| plain != ours);
    let number = differing.unwrap_or(plain.lines().count().min(ours.lines().count()));
    assert!(
        plain == ours,
        "{name}, line {}:\n  as it is:    {:?}\n  on cidalloc: {:?}",
        number + 1,
        plain.lines().nth(number),
        ours.lines().nth(number),
    );
}

/// Shortens what a program wrote to a line that two runs can be compared by.
pub fn digest(name: &str, content: &[u8]) -> String {
    // FNV-1a, 64 bits: a difference is to be noticed, not to be forged.
    let hash = content
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    format!("{name}: {} bytes, {hash:016x}\n", content.len())
}

/// One of the two runs.
pub struct Side {
    /// Where its children work: the same files have the same relative names on both sides.
    pub dir: PathBuf,
    /// Where its children's output and statistics go.
    logs: PathBuf,
    on_cidalloc: bool,
    tasks: AtomicU32,
}

impl Side {
    pub fn new(name: &str, on_cidalloc: bool) -> Self {
        let which = if on_cidalloc { "cidalloc" } else { "plain" };
        let root = crate::common::temp_dir(&format!("{name}/{which}"));
        let (dir, logs) = (root.join("work"), root.join("logs"));
        for dir in [&dir, &logs] {
            fs::create_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        }
        Self { dir, logs, on_cidalloc, tasks: AtomicU32::new(0) }
    }

    /// A child that runs with the preload on cidalloc's side.
    pub fn task(&self, program: impl AsRef<Path>) -> Task<'_> {
        let mut task = self.with_cidalloc(program, self.on_cidalloc);
        if self.on_cidalloc {
            task.command.env("LD_PRELOAD", library());
        }
        task
    }

    /// A child that has cidalloc in itself on cidalloc's side.
    pub fn linked(&self, program: impl AsRef<Path>) -> Task<'_> {
        self.with_cidalloc(program, self.on_cidalloc)
    }

    /// A child without the preload on both sides: a builder or a referee.
    pub fn helper(&self, program: impl AsRef<Path>) -> Task<'_> {
        self.with_cidalloc(program, false)
    }

    fn with_cidalloc(&self, program: impl AsRef<Path>, on_cidalloc: bool) -> Task<'_> {
        let program = program.as_ref();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", &self.dir)
            .env("TMPDIR", &self.dir)
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            // A group of its own, so that its children can be killed with it.
            .process_group(0);
        if on_cidalloc {
            // Lets the whole file run in another mode: CIDALLOC_RSEQ=off cargo test --test programs
            command.envs(std::env::vars_os().filter(|(name, _)| {
                let name = name.to_string_lossy();
                name.starts_with("CIDALLOC_") && !name.starts_with("CIDALLOC_TEST_")
            }));
            let mut stats = OsString::from("json:");
            stats.push(self.logs.join("%p.json"));
            command.env("CIDALLOC_STATS", stats);
        }
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
        let number = self.tasks.fetch_add(1, Ordering::Relaxed);
        let log = self.logs.join(format!("{number}-{name}"));
        Task { log, side: self, command, on_cidalloc, limit: LIMIT, least_peak: 1 }
    }

    /// A file that a child has written.
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// On cidalloc's side, at least `count` processes must have left statistics: a program's own children
    /// ran on it too.
    pub fn assert_processes(&self, count: usize) {
        if !self.on_cidalloc {
            return;
        }
        let found = fs::read_dir(&self.logs)
            .expect("the logs can be listed")
            .map(|entry| entry.expect("the logs can be listed").path())
            .filter(|path| path.extension() == Some(OsStr::new("json")))
            .inspect(|path| check_stats(path, 1))
            .count();
        assert!(found >= count, "{found} processes left statistics, {count} expected");
    }
}

/// A child before it runs.
pub struct Task<'a> {
    side: &'a Side,
    command: Command,
    on_cidalloc: bool,
    limit: Duration,
    least_peak: u64,
    /// Where its output goes, less the extension.
    log: PathBuf,
}

impl<'a> Task<'a> {
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Standard input; without it the child reads nothing.
    pub fn input(mut self, path: impl AsRef<Path>) -> Self {
        let path = self.side.dir.join(path);
        let file = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        self.command.stdin(file);
        self
    }

    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The peak that its statistics must show at least: the work ran on cidalloc, not only the start.
    pub fn least_peak(mut self, bytes: u64) -> Self {
        self.least_peak = bytes;
        self
    }

    /// Runs it to a successful end. Returns what it wrote, standard error last.
    pub fn run(self) -> String {
        self.start().finish()
    }

    pub fn start(mut self) -> Running<'a> {
        // Files, not pipes: a grandchild that survives cannot keep the reader waiting.
        let create = |extension| {
            let path = self.log.with_extension(extension);
            File::create(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        self.command.stdout(create("out")).stderr(create("err"));
        let child = self.command.spawn().unwrap_or_else(|e| panic!("{self} does not start: {e}"));
        let deadline = Instant::now() + self.limit;
        Running { task: self, child, ended: false, deadline }
    }
}

impl fmt::Display for Task<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.command.get_program().to_string_lossy())?;
        self.command.get_args().try_for_each(|arg| write!(f, " {}", arg.to_string_lossy()))?;
        write!(f, " (in {}, ", self.side.dir.display())?;
        write!(f, "{})", if self.on_cidalloc { "on cidalloc" } else { "as it is" })
    }
}

/// A child that runs. Dropped, it is killed with all its children.
pub struct Running<'a> {
    task: Task<'a>,
    child: Child,
    ended: bool,
    deadline: Instant,
}

impl Running<'_> {
    /// Waits for a successful end and checks the statistics. Returns what it wrote.
    pub fn finish(mut self) -> String {
        let status = self.wait();
        let read = |extension| {
            let bytes =
                fs::read(self.task.log.with_extension(extension)).expect("the log is readable");
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (out, err) = (read("out"), read("err"));
        assert!(status.success(), "{}: {status}\n{}", self.task, tail(&err));
        if self.task.on_cidalloc {
            let stats = self.task.side.logs.join(format!("{}.json", self.child.id()));
            check_stats(&stats, self.task.least_peak);
        }
        out + &err
    }

    /// Fails if it has ended or its time is over; for loops that wait for a server.
    pub fn assert_runs(&mut self) {
        let ended = self.child.try_wait().expect("a child can be waited for");
        self.ended = ended.is_some();
        assert!(!self.ended, "{} has ended: {ended:?}", self.task);
        self.assert_in_time();
    }

    fn assert_in_time(&self) {
        assert!(
            Instant::now() < self.deadline,
            "{} hangs: killed after {:?}",
            self.task,
            self.task.limit
        );
        thread::sleep(POLL);
    }

    fn wait(&mut self) -> ExitStatus {
        loop {
            match self.child.try_wait().expect("a child can be waited for") {
                Some(status) => {
                    self.ended = true;
                    return status;
                }
                None => self.assert_in_time(),
            }
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let group = i32::try_from(self.child.id()).expect("a pid fits");
        // SAFETY: kill touches no memory; the group is the child's own, made by process_group(0).
        unsafe { libc::kill(-group, libc::SIGKILL) };
        let _ = self.child.wait();
    }
}

/// The statistics in `path` must be whole and show a peak of `least_peak` bytes or more.
fn check_stats(path: &Path, least_peak: u64) {
    let text = fs::read_to_string(path).unwrap_or_else(|e| {
        panic!("no statistics, so it did not run on cidalloc: {}: {e}", path.display())
    });
    let stats: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}: {text}", path.display()));
    let bytes = |name: &str| stats[name].as_u64().unwrap_or_else(|| panic!("{name} in {text}"));
    let (live, peak) = (bytes("live_bytes"), bytes("peak_bytes"));
    assert!(peak >= least_peak, "a peak of {peak} bytes, expected {least_peak}: {text}");
    assert!(live <= peak, "more live than at the peak: {text}");
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
