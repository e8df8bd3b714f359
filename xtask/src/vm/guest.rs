//! One guest: a kernel booted under QEMU, with an initramfs of busybox, a C
//! library and copies of directories, in which one command runs as root.
//!
//! What the command writes leaves by a virtio port, or by a serial port where the
//! kernel has no driver for the other built in; `init.sh` says what else is told
//! there, and `transcript` understands it.

use super::cache::{Cache, told};
use super::emulator::Emulator;
use super::initramfs::Initramfs;
use super::kernels::Kernel;
use super::machine::{self, Running};
use super::transcript::{Stage, Transcript};
use super::{emulator, initramfs, kernels, libraries};
use crate::Result;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

/// The processor of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Arch {
    #[value(name = "x86_64")]
    X86_64,
    #[value(name = "aarch64")]
    Aarch64,
}

impl Arch {
    /// The host's; None if guests of it are not known.
    pub fn of_host() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Arch::X86_64),
            "aarch64" => Some(Arch::Aarch64),
            _ => None,
        }
    }

    /// As the kernel calls it.
    pub fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        }
    }

    /// As Debian calls it.
    pub fn debian(self) -> &'static str {
        match self {
            Arch::X86_64 => "amd64",
            Arch::Aarch64 => "arm64",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Guest {
    /// A series of Debian's kernels, such as "6.1" or "7.3", or "7.2-slice".
    pub kernel: String,
    pub arch: Arch,
    /// The version of glibc, such as "2.36"; without, the guest has no C library
    /// and only static programs run.
    pub libc: Option<String>,
    pub cpus: u32,
    pub memory_mib: u32,
    /// NUMA nodes among which CPUs and memory are divided; 1: plain.
    pub nodes: u32,
    /// More of the kernel's command line.
    pub parameters: Vec<String>,
    /// Emulated, interrupts fall between any two instructions.
    pub one_insn: bool,
    /// Emulated, and its clock counts its instructions, one a nanosecond: what it
    /// measures does not depend on what else the host does. Its CPUs take turns.
    pub counted: bool,
    /// From the start of QEMU to the command's end.
    pub timeout: Duration,
    pub environment: Vec<(String, String)>,
    /// Files and directories copied to the same absolute path; the first is the
    /// working directory.
    pub shares: Vec<PathBuf>,
    /// More Debian packages whose files the guest has, with what they depend on,
    /// from the release of the C library.
    pub packages: Vec<String>,
}

impl Default for Guest {
    fn default() -> Self {
        Guest {
            kernel: "7.2".into(),
            arch: Arch::X86_64,
            libc: Some("2.41".into()),
            cpus: 4,
            memory_mib: 1024,
            nodes: 1,
            parameters: Vec::new(),
            one_insn: false,
            counted: false,
            timeout: Duration::from_secs(300),
            environment: Vec::new(),
            shares: Vec::new(),
            packages: Vec::new(),
        }
    }
}

/// How a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The command's exit status; 128 + N if signal N killed it.
    Exit(i32),
    Timeout,
    /// QEMU ended before the command: the kernel panicked, or QEMU failed.
    Died,
}

#[derive(Debug)]
pub struct Outcome {
    pub end: End,
    /// What the command wrote to stdout and stderr.
    #[allow(dead_code)] // For callers that judge it.
    pub output: String,
    /// All that the kernel logged (dmesg); of a guest that did not end, what it put on
    /// its console: errors, and the last words of QEMU.
    pub kernel_log: String,
    /// From the start of QEMU to the command's end.
    pub wall: Duration,
}

/// What a guest needs and cannot be had, as text; None if everything is there.
/// What the cache lacks is downloaded or built first.
pub fn missing(guest: &Guest) -> Option<String> {
    Cache::open().and_then(|cache| Parts::obtain(guest, &cache)).err()
}

/// As `missing`, but nothing is downloaded or built.
pub fn not_in_cache(guest: &Guest) -> Option<String> {
    Cache::closed().and_then(|cache| Parts::obtain(guest, &cache)).err()
}

/// What the guest is made of: another text if a part is another, or was made anew.
pub fn made_of(guest: &Guest) -> Result<String> {
    let parts = Parts::obtain(guest, &Cache::closed()?)?;
    let mut text = format!("{guest:?} {} {:?}", parts.emulator.shown(), parts.kernel);
    let files = [Some(&parts.kernel.image), Some(&parts.base), parts.libraries.as_ref()];
    for file in files.into_iter().flatten() {
        let made = file.metadata().and_then(|is| is.modified()).map_err(|e| told(file, &e))?;
        text += &format!(" {made:?}");
    }
    Ok(text)
}

/// Boots that fail before the command has begun are repeated: emulated, a kernel that
/// patches itself may die of it.
const BOOTS: u32 = 3;

/// How long the kernel's log may take after the command's end.
const LOG_PATIENCE: Duration = Duration::from_secs(20);

impl Guest {
    /// Boots it and runs the command, to which each line it writes is told at once.
    /// An error means that it could not be tried.
    pub fn run(&self, command: &[String], each_line: &mut dyn FnMut(&str)) -> Result<Outcome> {
        self.check()?;
        let parts = Parts::obtain(self, &Cache::open()?)?;
        let work = tempfile::Builder::new().prefix("cidalloc-vm-").tempdir();
        let work = work.map_err(|e| format!("no temporary directory: {e}"))?;
        let mark = mark()?;
        let initrd = work.path().join("initrd");
        let content = self.pack(&parts, command, &mark, &initrd)?;
        // The archive and the files made of it are there at once, and the files may
        // fill half of the memory.
        let needed_mib = (content * 22 / 10) >> 20;
        if needed_mib > u64::from(self.memory_mib) {
            return Err(format!(
                "what is copied into the guest needs {needed_mib} MiB of memory, and it has {}",
                self.memory_mib
            ));
        }
        let mut boot = 1;
        loop {
            let (stage, outcome) = self.boot(&parts, &mark, work.path(), each_line)?;
            if outcome.end != End::Died || stage != Stage::Booting || boot == BOOTS {
                return Ok(outcome);
            }
            eprintln!(
                "vm: the guest died while it booted ({}); again",
                reason(&outcome.kernel_log)
            );
            boot += 1;
        }
    }

    fn check(&self) -> Result<()> {
        if self.cpus == 0 || self.nodes == 0 || self.nodes > self.cpus {
            return Err(format!("{} CPUs on {} nodes", self.cpus, self.nodes));
        }
        if self.libc.is_none() && !self.packages.is_empty() {
            return Err("packages are of the release of a C library, and there is none".into());
        }
        Ok(())
    }

    /// Writes the initramfs. Returns the bytes of what is in it.
    fn pack(&self, parts: &Parts, command: &[String], mark: &str, to: &Path) -> Result<u64> {
        let failed = |e: io::Error| format!("{}: {e}", to.display());
        let mut out = BufWriter::new(File::create(to).map_err(failed)?);
        let mut content = 0;
        for archive in [Some(&parts.base), parts.libraries.as_ref()].into_iter().flatten() {
            let mut archive = File::open(archive).map_err(failed)?;
            content += io::copy(&mut archive, &mut out).map_err(failed)?;
        }
        let mut own = Initramfs::new(out);
        let mut directory = None;
        for share in &self.shares {
            let path = share.canonicalize().map_err(|e| format!("{}: {e}", share.display()))?;
            let text = path.to_str().ok_or_else(|| format!("{path:?} is not UTF-8"))?;
            own.tree(&path, text, &|path| path.file_name().is_none_or(|name| name != ".git"))?;
            if directory.is_none() {
                let around = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
                directory = around.and_then(Path::to_str).map(str::to_owned);
            }
        }
        let directory = quoted(directory.as_deref().unwrap_or("/root"));
        let port = machine::port(self, &parts.kernel);
        let settings = format!("MARK={mark}\nPORT='{port}'\nDIRECTORY={directory}\n");
        own.file("rig/settings", 0o644, settings.as_bytes())?;
        own.file("rig/command", 0o644, self.script(command).as_bytes())?;
        content += own.content_bytes();
        own.finish()?;
        Ok(content)
    }

    /// What the guest's shell runs.
    fn script(&self, command: &[String]) -> String {
        let mut script = String::new();
        for (name, value) in &self.environment {
            script += &format!("export {name}={}\n", quoted(value));
        }
        let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
        script + "exec " + &words.join(" ") + "\n"
    }

    fn boot(
        &self,
        parts: &Parts,
        mark: &str,
        work: &Path,
        each_line: &mut dyn FnMut(&str),
    ) -> Result<(Stage, Outcome)> {
        let (console, said) = (work.join("console"), work.join("said"));
        let started = Instant::now();
        let errors = File::create(&said).map_err(|e| format!("{}: {e}", said.display()))?;
        let mut qemu = Running::start(
            parts
                .emulator
                .command()
                .args(machine::arguments(self, &parts.kernel, &work.join("initrd"), &console))
                .stderr(errors),
        )?;
        let pieces = qemu.pieces();
        let mut transcript = Transcript::new(mark);
        let mut deadline = started + self.timeout;
        let mut wall = None;
        let mut end = End::Died;
        let mut is_single = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match pieces.recv_timeout(left) {
                Ok(piece) => transcript.take(&piece, each_line),
                Err(RecvTimeoutError::Timeout) => {
                    if wall.is_none() {
                        end = End::Timeout;
                    }
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            // From the first word of the command to its last.
            let is_running = transcript.stage() == Stage::Running;
            if machine::is_single(self) && is_single != is_running {
                machine::single(work, is_running)?;
                is_single = is_running;
            }
            if let Stage::Ended(status) | Stage::Off(status) = transcript.stage() {
                end = End::Exit(status);
                if wall.is_none() {
                    wall = Some(started.elapsed());
                    deadline = Instant::now() + LOG_PATIENCE;
                }
            }
            if let Stage::Off(_) = transcript.stage() {
                break;
            }
        }
        drop(qemu);
        let stage = transcript.stage();
        let (output, mut kernel_log) = transcript.finish(each_line);
        if !matches!(stage, Stage::Off(_)) {
            // The log did not come, or not all of it.
            for file in [&console, &said] {
                let text = fs::read(file).unwrap_or_default();
                kernel_log += &String::from_utf8_lossy(&text).replace('\r', "");
            }
        }
        let wall = wall.unwrap_or_else(|| started.elapsed());
        Ok((stage, Outcome { end, output, kernel_log, wall }))
    }
}

/// What a guest is made of.
struct Parts {
    emulator: Emulator,
    kernel: Kernel,
    base: PathBuf,
    libraries: Option<PathBuf>,
}

impl Parts {
    fn obtain(guest: &Guest, cache: &Cache) -> Result<Self> {
        let emulator = emulator::obtain(cache, guest.arch)?;
        let kernel = kernels::obtain(cache, &guest.kernel, guest.arch)?;
        let base = initramfs::base(cache, guest.arch)?;
        let libraries = match &guest.libc {
            Some(version) => Some(libraries::obtain(cache, version, guest.arch, &guest.packages)?),
            None => None,
        };
        Ok(Parts { emulator, kernel, base, libraries })
    }
}

/// What no command writes by chance.
fn mark() -> Result<String> {
    let mut bytes = [0; 12];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|e| format!("/dev/urandom: {e}"))?;
    Ok(bytes.iter().fold("@".to_owned(), |text, byte| format!("{text}{byte:02x}")))
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The line of a log that says why a guest died, if there is one, else the last.
pub fn reason(log: &str) -> &str {
    let says_why = |line: &&str| ["Kernel panic", "BUG:", "Oops"].iter().any(|w| line.contains(w));
    let last = || log.lines().rev().find(|line| !line.trim().is_empty());
    log.lines().find(says_why).or_else(last).unwrap_or("it said nothing")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn words_reach_the_guests_shell_as_they_are() {
        let guest = Guest {
            environment: vec![("A".into(), "it's $1".into()), ("B".into(), String::new())],
            ..Guest::default()
        };
        let command = ["printf", "%s|", "a b", "$A", "\\", "", "*", "x'y\n"].map(String::from);
        let script = guest.script(&command);
        let output = Command::new("sh").arg("-c").arg(&script).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "a b|$A|\\||*|x'y\n|");
        let script = script.replace("exec ", "printf '%s/' \"$A\" \"$B\"; : ");
        let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "it's $1//");
    }

    #[test]
    fn the_reason_of_a_death_is_found() {
        let log = "[1] Linux\n[2] BUG: kernel NULL pointer\n[3] Kernel panic\n[4] ---[ end\n\n";
        assert_eq!(reason(log), "[2] BUG: kernel NULL pointer");
        assert_eq!(reason("qemu: no memory\n\n"), "qemu: no memory");
        assert_eq!(reason(""), "it said nothing");
    }

    #[test]
    fn impossible_guests_are_refused() {
        let guests = [
            Guest { cpus: 0, ..Guest::default() },
            Guest { cpus: 2, nodes: 3, ..Guest::default() },
            Guest { nodes: 0, ..Guest::default() },
            Guest { libc: None, packages: vec!["lua5.4".into()], ..Guest::default() },
        ];
        for guest in guests {
            assert!(guest.check().is_err(), "{guest:?}");
        }
        assert!(Guest::default().check().is_ok());
    }
}
