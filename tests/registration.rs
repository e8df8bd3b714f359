//! Whose registration of rseq is in force, what it costs others, and whether the kernel keeps what
//! it promises: `CIDALLOC_RSEQ=take` beside another user of rseq (`tests/c/registration/taken.c`),
//! and sections that are preempted (`tests/c/registration/preempted.c`).

#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]

mod common;

use common::{build_cli, build_ffi, command, compiler, in_repository, run, run_ok, temp_dir};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

fn compiled(name: &str, arguments: &[String]) -> PathBuf {
    let output = temp_dir(name).join(name);
    let mut compile = compiler(false);
    compile.args(["-std=gnu11", "-O1", "-fno-builtin", "-Wall", "-Wextra", "-Werror", "-pthread"]);
    compile.arg("-I").arg(in_repository("ffi/include"));
    compile.arg(in_repository(&format!("tests/c/registration/{name}.c"))).arg("-o").arg(&output);
    run_ok(compile.args(arguments));
    output
}

/// The other user of rseq, linked with the library.
fn taken(environment: &[(&str, &str)]) -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let library = build_ffi().display().to_string();
        let link = [format!("-L{library}"), format!("-Wl,-rpath,{library}"), "-lcidalloc".into()];
        compiled("taken", &link)
    });
    let mut command = command(program);
    command.envs(environment.iter().copied());
    command
}

const TAKE: (&str, &str) = ("CIDALLOC_RSEQ", "take");

fn statistics(name: &str, command: &mut Command) -> Value {
    let path = temp_dir(name).join("statistics");
    run_ok(command.env("CIDALLOC_STATS", format!("json:{}", path.display())));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Bytes of `struct rseq` that the kernel fills.
fn feature_size() -> u64 {
    const AT_RSEQ_FEATURE_SIZE: u64 = 27;
    // SAFETY: reads the auxiliary vector.
    unsafe { libc::getauxval(AT_RSEQ_FEATURE_SIZE) }
}

/// Whether there is something to take: the C library registers the original length.
fn is_due() -> bool {
    // SAFETY: a look-up by name; the symbol is an `unsigned int` where it exists.
    let size = unsafe {
        let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()).cast::<u32>();
        if size.is_null() { 0 } else { *size }
    };
    let kernel_has_it = sections_work();
    if !kernel_has_it || !(1..=32).contains(&size) {
        println!("skip: the C library's size of rseq is {size}, sections: {kernel_has_it}");
        return false;
    }
    true
}

fn sections_work() -> bool {
    let doctor = command(build_cli()).args(["doctor", "--json"]).output().unwrap().stdout;
    let doctor: Value = serde_json::from_slice(&doctor).unwrap();
    doctor["allocator"]["mode"] == "rseq"
}

/// Whether this may be one of the kernels on which nobody's sections are safe.
fn is_doubted() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    let doubted = cfg!(target_arch = "aarch64") && ((6, 19)..(7, 1)).contains(&version);
    if doubted {
        println!("skip: {release} may have the fault, and may have the repair");
    }
    doubted
}

// ---- take

#[test]
fn another_user_of_rseq_is_right_beside_the_library() {
    if is_doubted() {
        return;
    }
    print!("{}", run_ok(&mut taken(&[])));
}

#[test]
fn another_user_of_rseq_is_right_where_its_registration_was_taken() {
    print!("{}", run_ok(&mut taken(&[TAKE])));
    print!("{}", run_ok(&mut taken(&[TAKE, ("CIDALLOC_INDEX", "cpu_id")])));
}

#[test]
fn the_statistics_tell_of_the_registration() {
    if !is_due() {
        return;
    }
    let found = statistics("statistics", taken(&[TAKE]).arg("threads"));
    let v2 = feature_size() > 32;
    assert_eq!(found["registration"], "taken", "{found}");
    assert_eq!(found["rseq_size"].as_u64(), Some(feature_size().max(32)));
    assert_eq!(found["abi_mode"], if v2 { "V2" } else { "legacy" });
    assert_eq!(found["mode"], "rseq");
    assert_eq!(found["reason"] == "", v2, "{found}");
    assert_eq!(found["refused"], "");
}

#[test]
fn doctor_tells_of_the_registration() {
    if !is_due() {
        return;
    }
    let doctor = |environment: &[(&str, &str)]| -> Value {
        let mut command = command(build_cli());
        let text = run_ok(command.args(["doctor", "--json"]).envs(environment.iter().copied()));
        serde_json::from_str(&text).unwrap()
    };
    let found = doctor(&[TAKE]);
    let mode = if feature_size() > 32 { "V2" } else { "legacy" };
    assert_eq!(found["allocator"]["registration"], "taken");
    assert_eq!(found["allocator"]["abi_mode"], mode);
    assert_eq!(found["rseq"]["registered_by"], "taken");
    assert_eq!(found["rseq"]["registered_length"].as_u64(), Some(feature_size().max(32)));
    assert_eq!(found["rseq"]["abi_mode"], mode);
    let default = doctor(&[]);
    assert_eq!(default["allocator"]["registration"], "libc", "off by default");
    assert_eq!(default["allocator"]["abi_mode"], default["rseq"]["abi_mode"]);
}

/// Which of the calls is refused, and what becomes of the thread. The process's first asks whether
/// there is rseq at all; then the first thread, and later another one, unregisters the C library's
/// area, registers ours and, if that is refused, the C library's again.
#[test]
fn a_refusal_loses_nothing() {
    if !is_due() {
        return;
    }
    for (calls, check, due, registration) in [
        ("nth:2,rseq", "refused", "kept", "libc"),
        ("nth:3,rseq", "refused", "kept", "libc"),
        ("from:3,rseq", "refused", "lost", "none"),
        ("nth:4,rseq", "refused-in-a-thread", "kept", "taken"),
        ("nth:5,rseq", "refused-in-a-thread", "kept", "taken"),
        ("from:5,rseq", "refused-in-a-thread", "lost", "taken"),
    ] {
        let mut command = taken(&[TAKE, ("CIDALLOC_FAIL", calls)]);
        let found = statistics("refused", command.args([check, due]));
        assert_eq!(found["registration"], registration, "{calls}: {found}");
        assert_eq!(found["refused"], "rseq", "{calls}");
        // One, or ours and the C library's both.
        assert_eq!(found["refusals"], if due == "lost" { 2 } else { 1 }, "{calls}: {found}");
        assert_eq!(found["reason"] == "", registration == "taken" && feature_size() > 32);
    }
}

// ---- what the kernel promises

/// The sections that are counted in, and what the program must find.
fn preempted(arguments: &[&str], due: i32) {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| compiled("preempted", &[]));
    let output = run(command(program as &Path).args(arguments));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{arguments:?}: {text}");
    if output.status.code() == Some(77) {
        return; // no registration to be had
    }
    assert_eq!(output.status.code(), Some(due), "{arguments:?}: {text}");
}

/// What of the kernel's version is not trusted is seen to be as the rule says.
#[test]
fn a_preempted_section_is_aborted() {
    if is_doubted() {
        return;
    }
    preempted(&[], 0);
    preempted(&["own"], 0);
}

/// A kernel that aborted none would be found out.
#[test]
fn sections_that_nobody_aborts_lose_counts() {
    preempted(&["blind"], 1);
}
