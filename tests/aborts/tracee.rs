//! The driver under ptrace: breakpoints, its instruction pointer, its `rseq_cs`,
//! and the orders to its second thread, which is not traced.
//!
//! No breakpoint stands while the second thread runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

#[cfg(target_arch = "x86_64")]
const BREAKPOINT: &[u8] = &[0xcc];
#[cfg(target_arch = "aarch64")]
const BREAKPOINT: &[u8] = &0xd420_0000_u32.to_le_bytes(); // brk #0

/// After a breakpoint x86_64 stands behind it, aarch64 on it.
const BEHIND: u64 = if cfg!(target_arch = "x86_64") { 1 } else { 0 };

/// The offset of `rseq_cs` in `struct rseq`, by the kernel's ABI.
const RSEQ_CS_AT: u64 = 8;

/// No run takes longer, or the driver is killed.
const SECONDS: u32 = 600;

#[derive(Debug, PartialEq)]
pub enum Stop {
    /// SIGTRAP, with the instruction pointer as it stands.
    Trap(u64),
    /// The driver waits at the start or the end of its script.
    Sync,
    Signal(i32),
    Exit(ExitStatus),
}

pub struct Tracee {
    child: Child,
    pid: i32,
    pub memory: File,
    /// Where the main thread's `rseq_cs` is.
    rseq_cs: u64,
    /// Where breakpoints are, and the code that they replace.
    breakpoints: BTreeMap<u64, Vec<u8>>,
    cpus: Vec<usize>,
}

/// The CPUs this process may run on.
fn cpus_allowed() -> Vec<usize> {
    // SAFETY: an all-zero set is a value of this type.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is as long as it says.
    let got = unsafe { libc::sched_getaffinity(libc::getpid(), size_of_val(&set), &mut set) };
    assert_eq!(got, 0);
    // SAFETY: within the set.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

fn pin(pid: i32, cpu: usize) -> i32 {
    // SAFETY: an all-zero set is a value of this type.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: a CPU's number is within the set, which is as long as it says.
    unsafe {
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(pid, size_of_val(&set), &set)
    }
}

impl Tracee {
    /// Starts the driver, all on one CPU so that its threads share a slab, and
    /// lets it come to its first stop. This thread moves there, too: waking
    /// another CPU at every stop takes longer than all the rest.
    pub fn start(mut command: Command) -> Tracee {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let mut cpus = cpus_allowed();
        let turn = STARTED.fetch_add(1, Relaxed) % cpus.len();
        cpus.rotate_left(turn);
        // No more: slabs may keep more together, and the script would not fill one.
        cpus.truncate(2);
        let cpu = cpus[0];
        assert_eq!(pin(0, cpu), 0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: only system calls.
        unsafe {
            command.pre_exec(move || {
                pin(0, cpu);
                libc::alarm(SECONDS);
                match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let child = command.spawn().expect("the driver starts");
        let pid = child.id() as i32;
        let mut tracee = Tracee {
            pid,
            memory: File::open("/dev/null").expect("/dev/null"),
            rseq_cs: 0,
            breakpoints: BTreeMap::new(),
            child,
            cpus,
        };
        assert!(matches!(tracee.wait(), Stop::Trap(_)), "the driver was started");
        tracee.ptrace(libc::PTRACE_SETOPTIONS, 0, libc::PTRACE_O_EXITKILL as usize);
        // Only now it is the driver's memory.
        let memory =
            std::fs::OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"));
        tracee.memory = memory.expect("the driver's memory");
        assert_eq!(tracee.go(), Stop::Sync, "{}", tracee.last_words());
        tracee.rseq_cs = tracee.registration() + RSEQ_CS_AT;
        tracee
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    fn ptrace(&self, request: libc::c_uint, address: usize, data: usize) -> i64 {
        // SAFETY: data, where it is a pointer, is the callers' own memory.
        let got = unsafe { libc::ptrace(request as _, self.pid, address, data) };
        assert_ne!(got, -1, "ptrace {request:#x}: {}", std::io::Error::last_os_error());
        got as i64
    }

    /// The address of the main thread's `struct rseq`.
    fn registration(&self) -> u64 {
        const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
        let mut configuration = [0_u64; 3];
        let len = size_of_val(&configuration);
        let at = configuration.as_mut_ptr() as usize;
        self.ptrace(PTRACE_GET_RSEQ_CONFIGURATION, len, at);
        configuration[0]
    }

    // ---- running

    fn wait(&mut self) -> Stop {
        let mut status = 0;
        // SAFETY: the status is this function's own.
        let got = unsafe { libc::waitpid(self.pid, &mut status, libc::__WALL) };
        assert_eq!(got, self.pid, "waitpid: {}", std::io::Error::last_os_error());
        if !libc::WIFSTOPPED(status) {
            return Stop::Exit(ExitStatus::from_raw(status));
        }
        match libc::WSTOPSIG(status) {
            libc::SIGSTOP => Stop::Sync,
            libc::SIGTRAP => Stop::Trap(self.ip()),
            // The driver must die of it as it would without us.
            signal => Stop::Signal(signal),
        }
    }

    /// Lets the main thread go on to its next stop.
    pub fn go(&mut self) -> Stop {
        self.ptrace(libc::PTRACE_CONT, 0, 0);
        let mut stop = self.wait();
        while let Stop::Signal(signal) = stop {
            self.ptrace(libc::PTRACE_CONT, 0, signal as usize);
            stop = self.wait();
        }
        stop
    }

    /// Lets the main thread execute one instruction.
    pub fn step(&mut self) -> Stop {
        self.ptrace(libc::PTRACE_SINGLESTEP, 0, 0);
        self.wait()
    }

    pub fn can_migrate(&self) -> bool {
        self.cpus.len() > 1
    }

    /// Takes the main thread to another CPU: its slab is another one then, where
    /// slabs are CPUs'.
    pub fn migrate(&mut self) {
        self.cpus.rotate_left(1);
        assert_eq!(pin(self.pid, self.cpus[0]), 0);
    }

    /// Has the second thread do something, which it has done when this returns;
    /// the end of the driver if it died of it.
    pub fn order(&mut self, order: u8) -> Result<(), Stop> {
        self.set_breakpoints(&BTreeSet::new());
        // A driver that is dead does not listen, and does not answer.
        let _ = self.child.stdin.as_mut().unwrap().write_all(&[order]);
        let answers = self.child.stdout.as_mut().unwrap();
        let mut ready = libc::pollfd { fd: answers.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, this function's own.
        let got = unsafe { libc::poll(&mut ready, 1, 20_000) };
        let mut answer = [0];
        assert_eq!(got, 1, "the driver's second thread hangs");
        match answers.read(&mut answer) {
            Ok(1) => Ok(()),
            _ => Err(self.wait()),
        }
    }

    /// What the driver, ended, wrote to stderr.
    pub fn last_words(&mut self) -> String {
        let mut text = String::new();
        let _ = self.child.stderr.as_mut().unwrap().read_to_string(&mut text);
        text
    }

    // ---- state

    fn registers<R>(&self, edit: impl FnOnce(&mut libc::user_regs_struct) -> R, set: bool) -> R {
        const NT_PRSTATUS: usize = 1;
        // SAFETY: all-zero registers are a value of this type.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        let mut all = libc::iovec {
            iov_base: (&raw mut registers).cast(),
            iov_len: size_of::<libc::user_regs_struct>(),
        };
        self.ptrace(libc::PTRACE_GETREGSET, NT_PRSTATUS, &raw mut all as usize);
        let result = edit(&mut registers);
        if set {
            self.ptrace(libc::PTRACE_SETREGSET, NT_PRSTATUS, &raw mut all as usize);
        }
        result
    }

    fn ip(&self) -> u64 {
        self.registers(|r| *ip_of(r), false)
    }

    pub fn set_ip(&mut self, ip: u64) {
        self.registers(|r| *ip_of(r) = ip, true);
    }

    pub fn read(&self, address: u64) -> u64 {
        let mut word = [0; 8];
        self.memory.read_exact_at(&mut word, address).expect("the driver's memory");
        u64::from_le_bytes(word)
    }

    pub fn write(&self, address: u64, word: u64) {
        self.memory.write_all_at(&word.to_le_bytes(), address).expect("the driver's memory");
    }

    pub fn rseq_cs(&self) -> u64 {
        self.read(self.rseq_cs)
    }

    pub fn set_rseq_cs(&self, descriptor: u64) {
        self.write(self.rseq_cs, descriptor);
    }

    // ---- breakpoints

    /// Has breakpoints at these addresses and nowhere else.
    pub fn set_breakpoints(&mut self, wanted: &BTreeSet<u64>) {
        self.breakpoints.retain(|address, code| {
            let stays = wanted.contains(address);
            if !stays {
                self.memory.write_all_at(code, *address).expect("the code");
            }
            stays
        });
        for address in wanted {
            self.breakpoints.entry(*address).or_insert_with(|| {
                let mut code = BREAKPOINT.to_vec();
                self.memory.read_exact_at(&mut code, *address).expect("the code");
                self.memory.write_all_at(BREAKPOINT, *address).expect("a breakpoint");
                code
            });
        }
    }

    /// Takes a breakpoint away that the main thread has come to, so that it can
    /// go on there.
    pub fn stand_on(&mut self, address: u64) {
        if let Some(code) = self.breakpoints.remove(&address) {
            self.memory.write_all_at(&code, address).expect("the code");
        }
        self.set_ip(address);
    }

    /// The breakpoint that a trap with this instruction pointer comes from.
    pub fn breakpoint(&self, ip: u64) -> Option<u64> {
        let address = ip - BEHIND;
        self.breakpoints.contains_key(&address).then_some(address)
    }
}

#[cfg(target_arch = "x86_64")]
fn ip_of(registers: &mut libc::user_regs_struct) -> &mut u64 {
    &mut registers.rip
}
#[cfg(target_arch = "aarch64")]
fn ip_of(registers: &mut libc::user_regs_struct) -> &mut u64 {
    &mut registers.pc
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
