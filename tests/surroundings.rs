//! Odd surroundings: limits on memory, system calls that the kernel refuses, file systems that are
//! not there, locked memory, hugepages switched off. `tests/c/refusals.c` uses the allocator in
//! every way and checks all of it; real programs do their work; and `cidalloc doctor` tells what
//! was refused.
//!
//! What a whole kernel must be told is tested in one that `cargo xtask vm` boots, if its cache has it.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use common::{
    build_cli, build_ffi, command, compiler, in_repository, preload, run, run_ok, temp_dir,
};
use serde_json::Value;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// Builds a program of `tests/c` as it is asked for, once.
fn built(name: &str, source: &str, arguments: &[String]) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    static BUILDING: Mutex<()> = Mutex::new(());
    let _guard = BUILDING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let program = DIRECTORY.get_or_init(|| temp_dir("programs")).join(name);
    if !program.exists() {
        let mut compile = compiler(false);
        compile.args(["-std=gnu11", "-O1", "-fno-builtin", "-Wall", "-Wextra", "-pthread"]);
        compile.arg("-I").arg(in_repository("ffi/include"));
        compile.arg("-o").arg(&program).arg(in_repository("tests/c").join(source)).args(arguments);
        run_ok(&mut compile);
    }
    program
}

/// The program that checks, linked with the library, which lies where the program is told.
fn refusals_at(name: &str, run_path: &str) -> PathBuf {
    let library = build_ffi();
    let arguments = [
        format!("-L{}", library.display()),
        format!("-Wl,-rpath,{run_path}"),
        "-lcidalloc".to_owned(),
    ];
    built(name, "refusals.c", &arguments)
}

fn refusals() -> PathBuf {
    refusals_at("refusals", &build_ffi().display().to_string())
}

/// The same without a dynamic loader, which must open files.
fn refusals_static() -> PathBuf {
    let archive = build_ffi().join("libcidalloc.a").display().to_string();
    built("refusals-static", "refusals.c", &[archive, "-static".to_owned()])
}

/// Where memory goes back at once.
fn eager(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = command(program);
    command.env("CIDALLOC_DECAY_MS", "0").env("CIDALLOC_THP_AFTER", "4M");
    command
}

/// A command that the kernel refuses the calls.
fn refused(error: &str, calls: &str, program: &Path) -> Command {
    let mut command = eager(built("launch", "launch.c", &[]));
    command.args([error, calls]).arg(program);
    command
}

/// Runs the command and returns its statistics.
fn statistics(name: &str, command: &mut Command) -> Value {
    let path = temp_dir(name).join("statistics");
    run_ok(command.env("CIDALLOC_STATS", format!("json:{}", path.display())));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// How many operations of the program that checks have failed.
fn failures(command: &mut Command) -> u64 {
    let text = run_ok(command);
    text.split_whitespace().nth(2).and_then(|word| word.parse().ok()).expect(&text)
}

/// Runs `prepare` in the child before the program starts.
fn before(command: &mut Command, prepare: fn() -> io::Result<()>) -> &mut Command {
    // SAFETY: the functions given here make system calls only.
    unsafe { command.pre_exec(prepare) }
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[allow(clippy::unnecessary_cast)]
fn limit<const RESOURCE: u32, const BYTES: u64>() -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: BYTES, rlim_max: BYTES };
    // SAFETY: reads the limit.
    checked(unsafe { libc::setrlimit(RESOURCE as _, &limit) })
}

const AS: u32 = libc::RLIMIT_AS as _;
const DATA: u32 = libc::RLIMIT_DATA as _;
const MEMLOCK: u32 = libc::RLIMIT_MEMLOCK as _;
const MIB: u64 = 1 << 20;

// ---- refused system calls

const MANY: &str = "rseq,membarrier,madvise,mremap,getrandom,sched_getaffinity,prlimit64,uname,tgkill,process_vm_readv";

#[test]
fn refused_system_calls_are_done_without() {
    let sections_work = doctor(&mut command(build_cli()))["allocator"]["mode"] == "rseq";
    for error in ["EPERM", "ENOSYS"] {
        for calls in
            ["rseq", "membarrier", "madvise", "mremap", "getrandom,sched_getaffinity", MANY]
        {
            let program = refusals();
            let statistics = statistics("refused", &mut refused(error, calls, &program));
            let locked = calls.contains("rseq") || calls.contains("membarrier");
            let mode = if locked || !sections_work { "locked" } else { "rseq" };
            assert_eq!(statistics["mode"], mode, "{error} {calls}");
            // Every process makes the first six calls; but blocks do not move where rseq is unknown,
            // as under emulators.
            let named = statistics["refused"].as_str().unwrap();
            for call in calls.split(',').take(6) {
                let made = call != "mremap" || !calls.contains("rseq") || error == "EPERM";
                assert_eq!(named.contains(call), made, "{error} {calls}: {named}");
            }
        }
    }
}

#[test]
fn registrations_of_our_own_may_be_refused() {
    for error in ["EPERM", "ENOSYS"] {
        let mut command = refused(error, "rseq", &refusals());
        command.env("GLIBC_TUNABLES", "glibc.pthread.rseq=0").env("CIDALLOC_RSEQ", "own");
        assert_eq!(statistics("own", &mut command)["mode"], "locked");
    }
}

/// A program that uses much of an interpreter: containers, threads, a child.
const PYTHON: &str = "
import json, subprocess, sys, threading
def work(seed):
    table = {str(i * seed): [i] * (i % 50) for i in range(3000)}
    assert json.loads(json.dumps(table)) == table
threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
[t.start() for t in threads]; [t.join() for t in threads]
assert subprocess.run([sys.executable, '-c', 'print(sum(range(1000)))'], capture_output=True).stdout == b'499500\\n'
print('done')";
const PERL: &str = "my %t = map { $_ => 'x' x ($_ % 300) } 1..20000; delete $t{$_} for 1..10000; \
                    print join(',', scalar keys %t), qq(\\n)";

#[test]
fn programs_run_with_system_calls_refused() {
    for error in ["EPERM", "ENOSYS"] {
        for (program, script, due) in [("python3", PYTHON, "done\n"), ("perl", PERL, "10000\n")] {
            let flag = if program == "perl" { "-e" } else { "-c" };
            let mut command = refused(error, MANY, Path::new(program));
            assert_eq!(run_ok(preload(command.args([flag, script]))), due, "{program} {error}");
        }
    }
}

/// What is read of /proc and /sys is not there: by a filter, and by other file systems in their
/// places.
#[test]
fn files_of_the_kernel_are_not_needed() {
    let mut static_program = refused("EACCES", "openat", &refusals_static());
    let output = run(static_program.env("CIDALLOC_STATS", "1"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("refused openat"), "{text}");

    let mut hidden = eager("unshare");
    // SAFETY: a system call without arguments.
    if unsafe { libc::geteuid() } != 0 {
        hidden.arg("--map-root-user");
    }
    let script =
        "mount -t tmpfs none /proc && mount -t tmpfs none /sys && ! ls /proc/self && exec \"$@\"";
    let program = hidden.args(["--mount", "sh", "-c", script, "sh"]).arg(refusals());
    let output = run(program);
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("unshare failed") || text.contains("permission denied") {
        println!("SKIP: no file system can be hidden here: {text}");
        return;
    }
    assert!(output.status.success(), "{text}");
}

// ---- limits

#[test]
fn memory_may_be_limited() {
    type Limit = (&'static str, fn() -> io::Result<()>, Option<bool>);
    let limits: [Limit; 8] = [
        ("address space 20 MiB", limit::<AS, { 20 * MIB }>, Some(true)),
        ("address space 32 MiB", limit::<AS, { 32 * MIB }>, Some(true)),
        ("address space 64 MiB", limit::<AS, { 64 * MIB }>, None),
        ("address space 512 MiB", limit::<AS, { 512 * MIB }>, Some(false)),
        ("data 8 MiB", limit::<DATA, { 8 * MIB }>, Some(true)),
        ("data 16 MiB", limit::<DATA, { 16 * MIB }>, Some(true)),
        ("data 48 MiB", limit::<DATA, { 48 * MIB }>, None),
        ("data 512 MiB", limit::<DATA, { 512 * MIB }>, Some(false)),
    ];
    for mode in ["auto", "off"] {
        for (what, prepare, short) in limits {
            let mut program = eager(refusals());
            program.arg("limited").env("CIDALLOC_RSEQ", mode);
            let failed = failures(before(&mut program, prepare));
            // In between it depends on what the C library takes.
            assert!(short.is_none_or(|short| short == (failed > 0)), "{what}: {failed} failed");
        }
    }
}

/// Runs out of memory, and goes on when it has given up what it had.
const GREEDY: &str = "
kept = []
try:
    while True: kept.append(bytearray(3000000)); kept.append([i for i in range(50000)])
except MemoryError: pass
had, kept = len(kept), None
again = [bytearray(3000000) for _ in range(had // 4)]
print('had some' if had > 10 else had)";

#[test]
fn a_program_outlives_its_memory() {
    let limits: [fn() -> io::Result<()>; 2] =
        [limit::<AS, { 200 * MIB }>, limit::<DATA, { 100 * MIB }>];
    for prepare in limits {
        let mut program = command("python3");
        preload(program.args(["-c", GREEDY]));
        assert_eq!(run_ok(before(&mut program, prepare)), "had some\n");
    }
}

/// Root's right to lock what it likes is given up for the program.
fn bounded_locking<const BYTES: u64>() -> io::Result<()> {
    const CAP_IPC_LOCK: libc::c_ulong = 14;
    // SAFETY: no pointers. A user without rights has none to drop.
    unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0) };
    limit::<MEMLOCK, BYTES>()
}

#[test]
fn memory_may_be_locked() {
    // More than 8 MiB cannot be locked, so not be had; then enough of it.
    let mut small = eager(refusals());
    small.args(["limited", "locked"]);
    let failed = failures(before(&mut small, bounded_locking::<{ 8 * MIB }>));
    assert!(failed > 0);
    let mut large = eager(refusals());
    let text = statistics(
        "locked",
        before(large.arg("locked"), || limit::<MEMLOCK, { 4096 * MIB }>().or(Ok(()))),
    );
    // Locked memory is not given back.
    assert_eq!((&text["refused"], &text["dontneed"]), (&"madvise".into(), &"unknown".into()));
}

#[test]
fn hugepages_may_be_off() {
    let mut program = eager(refusals());
    run_ok(before(&mut program, without_hugepages));
}

fn without_hugepages() -> io::Result<()> {
    // SAFETY: no pointers.
    checked(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) })
}

// ---- doctor

fn doctor(command: &mut Command) -> Value {
    serde_json::from_str(&run_ok(command.args(["doctor", "--json"]))).unwrap()
}

/// The reason that the report gives for doing without something.
fn reason(report: &Value, what: &str) -> String {
    let fallbacks = report["fallbacks"].as_array().unwrap().iter();
    let found = fallbacks.filter(|f| f["what"] == what).map(|f| f["reason"].as_str().unwrap());
    found.collect()
}

#[test]
fn doctor_names_what_is_refused() {
    for (error, words) in [("EPERM", "not permitted"), ("ENOSYS", "not implemented")] {
        let report = doctor(&mut refused(error, "rseq,membarrier,madvise", &build_cli()));
        assert_eq!(report["kernel"]["seccomp"], true);
        assert_eq!(report["allocator"]["mode"], "locked");
        for call in ["rseq", "membarrier", "madvise"] {
            let names = report["allocator"]["refused"].as_array().unwrap();
            assert!(names.contains(&call.into()), "{call}: {names:?}");
            assert!(reason(&report, "system_calls").contains(call), "{report}");
        }
        for (what, named) in [("registration", "refuses rseq"), ("membarrier", "membarrier fails")]
        {
            let reason = reason(&report, what);
            assert!(reason.contains(named) && reason.contains(words), "{what}: {reason}");
        }
        let text = run_ok(refused(error, "rseq,madvise", &build_cli()).arg("doctor"));
        assert!(text.contains(words) && text.contains("madvise, rseq"), "{text}");
    }
    // Nothing is said of what works.
    let report = doctor(&mut command(build_cli()));
    assert_eq!(report["allocator"]["dontneed"], "zeroes");
    assert_eq!((reason(&report, "dontneed"), reason(&report, "data")), Default::default());
    if report["rseq"]["registered_by"] != "none" {
        assert_eq!(reason(&report, "system_calls"), "");
    }
}

#[test]
fn doctor_names_what_is_limited() {
    let with = |prepare| doctor(before(&mut command(build_cli()), prepare));
    let report = with(limit::<DATA, { 1024 * MIB }>);
    assert_eq!(report["memory"]["limits"]["data"], 1024 * MIB);
    assert!(reason(&report, "data").contains("RLIMIT_DATA"));
    let report = with(limit::<AS, { 1024 * MIB }>);
    assert!(reason(&report, "address_space").contains("RLIMIT_AS"));
    let report = with(bounded_locking::<{ 2 * MIB }>);
    assert_eq!(report["memory"]["limits"]["locked_memory"], 2 * MIB);
    let report = with(without_hugepages);
    assert_eq!(report["memory"]["thp"]["disabled"], true);
    assert!(reason(&report, "hugepages").contains("PR_SET_THP_DISABLE"));
    let report = doctor(command(build_cli()).env("CIDALLOC_FAIL", "from:1,keep"));
    assert_eq!(report["allocator"]["dontneed"], "keeps");
    assert!(reason(&report, "dontneed").contains("MADV_DONTNEED"));
}

// ---- a whole kernel

/// Runs in the guest. The limit leaves so many kilobytes beside what is committed already.
const STEPS: &str = r#"#!/bin/sh
export CIDALLOC_DECAY_MS=0 CIDALLOC_THP_AFTER=4M
for thp in always madvise never; do
	echo $thp >/sys/kernel/mm/transparent_hugepage/enabled && ./refusals && echo "ok hugepages $thp"
done
echo 2 >/proc/sys/vm/overcommit_memory
for left in 14000 28000 400000; do
	used=$(sed -n 's/^Committed_AS: *\([0-9]*\).*/\1/p' /proc/meminfo)
	echo $((used + left)) >/proc/sys/vm/overcommit_kbytes
	./refusals limited && echo "ok overcommit $left"
done
./cidalloc doctor | grep overcommit_memory
"#;

#[test]
fn kernels_may_count_memory_strictly() {
    if std::env::consts::ARCH != "x86_64" {
        println!("SKIP: strict overcommit is NOT TESTED: the programs are not for x86_64");
        return;
    }
    let stage = temp_dir("stage");
    for file in [build_ffi().join("libcidalloc.so"), build_cli(), refusals_at("guest", "$ORIGIN")] {
        let name = file.file_name().unwrap();
        let name = if name == "guest" { "refusals".as_ref() } else { name };
        std::fs::copy(&file, stage.join(name)).unwrap();
    }
    std::fs::write(stage.join("steps"), STEPS).unwrap();
    let mut guest = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    guest.current_dir(in_repository("")).args(["xtask", "vm", "boot", "--cached"]);
    guest.args(["--kernel", "6.1", "--libc", "2.36", "--memory", "1G", "--timeout", "300"]);
    guest.arg("--share").arg(&stage).args(["--", "sh", "./steps"]);
    for name in ["CIDALLOC_TEST_CACHE", "CIDALLOC_VM_CACHE"] {
        guest.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    let output = run(&mut guest);
    let (text, said) =
        [output.stdout, output.stderr].map(|t| String::from_utf8_lossy(&t).into_owned()).into();
    if output.status.code() == Some(77) {
        println!("SKIP: strict overcommit is NOT TESTED: {said}");
        return;
    }
    assert!(output.status.success(), "{text}{said}");
    let said: Vec<&str> = text.lines().filter(|line| line.starts_with("ok ")).collect();
    let due = [
        "ok hugepages always",
        "ok hugepages madvise",
        "ok hugepages never",
        "ok overcommit 14000",
        "ok overcommit 28000",
        "ok overcommit 400000",
    ];
    assert_eq!(said, due, "{text}");
    let failed = |line: &&str| !line.contains(" 0 failed");
    let counts: Vec<&str> = text.lines().filter(|line| line.contains("failed")).collect();
    // Only where there is little is there too little.
    let short: Vec<bool> = counts.iter().map(failed).collect();
    assert_eq!(short, [false, false, false, true, true, false], "{text}");
    assert!(text.contains("overcommit_memory is 2"), "{text}");
}
