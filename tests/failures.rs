//! System calls that fail, each in turn, all from one on, and at random: the program gets NULL and
//! ENOMEM or what it asked for, no block is lost or changed, and when the calls work again
//! everything does. `tests/c/refusals.c` is the program, and checks all of that.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use common::{build_ffi, command, compiler, in_repository, run, run_ok, shown, temp_dir};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// `tests/c/refusals.c`, linked with the library.
fn program() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let library = build_ffi();
        let program = temp_dir("program").join("refusals");
        let mut compile = compiler(false);
        compile.args([
            "-std=gnu11",
            "-O1",
            "-fno-builtin",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pthread",
        ]);
        compile.arg("-I").arg(in_repository("ffi/include"));
        compile.arg("-o").arg(&program).arg(in_repository("tests/c/refusals.c"));
        compile.arg(format!("-L{}", library.display()));
        compile.arg(format!("-Wl,-rpath,{}", library.display())).arg("-lcidalloc");
        run_ok(&mut compile);
        program
    };
    BUILT.get_or_init(build).clone()
}

/// The program, where memory goes back at once and hugepages are asked for.
fn refusals(mode: &str) -> Command {
    let mut command = command(program());
    command.env("CIDALLOC_RSEQ", mode);
    command.env("CIDALLOC_DECAY_MS", "0").env("CIDALLOC_THP_AFTER", "4M");
    command
}

/// What the program says: calls refused, and operations that failed with ENOMEM.
#[derive(Clone, Copy, Debug)]
struct Counts {
    refused: u64,
    failed: u64,
}

fn counts(command: &mut Command) -> Counts {
    let text = run_ok(command);
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [refused, failed] = numbers[..] else { panic!("{}: {text}", shown(command)) };
    Counts { refused, failed }
}

fn counts_with(mode: &str, how: &str) -> Counts {
    counts(refusals(mode).env("CIDALLOC_FAIL", how))
}

/// Refuses the calls number `first`, `first + step` and so on, each in a process of its own.
fn each_in_turn(mode: &str, first: u64, step: usize) {
    for nth in (first..).step_by(step) {
        let counts = counts_with(mode, &format!("nth:{nth}"));
        if counts.refused == 0 {
            println!("{mode}: {nth} calls");
            assert!(nth > 50, "only {nth} calls");
            break;
        }
        assert_eq!(counts.refused, 1);
    }
}

#[test]
fn each_call_may_fail() {
    each_in_turn("auto", 1, 2);
}

#[test]
fn each_other_call_may_fail() {
    each_in_turn("auto", 2, 2);
}

#[test]
fn calls_may_fail_in_turn_without_rseq() {
    each_in_turn("off", 1, 4);
}

#[test]
fn all_calls_may_fail_and_work_again() {
    // From initialisation itself, from its middle, and from the program's own need.
    for (mode, from) in [("auto", [1, 9, 17, 21, 26]), ("off", [2, 13, 19, 23, 40])] {
        for n in from {
            let counts = counts_with(mode, &format!("from:{n}"));
            assert!(counts.refused > 1, "from {n}: {counts:?}");
            assert!(n > 13 || counts.failed > 0, "from {n}: {counts:?}");
        }
    }
}

#[test]
fn calls_may_fail_at_random() {
    for mode in ["auto", "off"] {
        let mut failed = 0;
        for how in ["rate:2:1", "rate:2:2", "rate:3:3", "rate:10:4"] {
            let counts = counts_with(mode, how);
            assert!(counts.refused > 0, "{how}: {counts:?}");
            failed += counts.failed;
        }
        assert!(failed > 0, "no operation failed in mode {mode}");
    }
}

/// Each kind alone; the statistics name it. Those that are a matter of speed or of the mode make
/// no operation fail.
#[test]
fn every_kind_of_call_may_fail() {
    let kinds = [
        ("mmap", true),
        ("munmap", false),
        ("mprotect", false),
        ("madvise", false),
        ("mremap", false),
        ("rseq", false),
        ("membarrier", false),
        ("openat", false),
        ("read", false),
        ("getrandom", false),
        ("sched_getaffinity", false),
        ("prlimit64", false),
        ("uname", false),
        ("tgkill", false),
        ("process_vm_readv", false),
        ("prctl", false),
    ];
    let statistics = temp_dir("kinds").join("statistics");
    for (kind, fails) in kinds {
        let mut command = refusals("auto");
        command.env("CIDALLOC_FAIL", format!("from:1,{kind}"));
        command.env("CIDALLOC_STATS", format!("json:{}", statistics.display()));
        let counts = counts(&mut command);
        let text = std::fs::read_to_string(&statistics).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let due = if counts.refused > 0 { kind } else { "" };
        assert_eq!((&value["refused"], counts.failed > 0), (&due.into(), fails), "{kind}");
        assert_eq!(value["refusals"].as_u64().unwrap() > 0, counts.refused > 0, "{kind}");
        // The fence cannot be had, so sections are not used.
        if kind == "membarrier" {
            assert_eq!(value["mode"], "locked");
        }
    }
}

/// On a heap that is full of memory that was used before.
#[test]
fn calls_may_fail_in_a_process_that_has_run_for_a_while() {
    let how = ["from:1", "from:1,membarrier", "from:1,mprotect", "from:1,madvise", "from:1,mremap"];
    for mode in ["auto", "off"] {
        // Without sections there are no fences to refuse.
        let how = how.iter().filter(|how| mode == "auto" || !how.contains("membarrier"));
        counts(refusals(mode).args(how).args(["rate:2", "rate:5:3"]));
    }
}

/// Refusals that come and go under threads and forks.
#[test]
fn calls_may_fail_while_threads_work() {
    for mode in ["auto", "off"] {
        counts(refusals(mode).arg("busy"));
    }
}

/// It protects memory, and at exit looks at every block once more.
#[test]
fn calls_may_fail_in_the_checking_mode() {
    for how in ["from:1", "from:25", "rate:2:1", "rate:2:2", "rate:10:2", "from:1,mprotect"] {
        let mut command = refusals("auto");
        let counts = counts(command.env("CIDALLOC_CHECK", "1").env("CIDALLOC_FAIL", how));
        assert!(counts.refused > 0, "{how}");
    }
    counts(refusals("auto").env("CIDALLOC_CHECK", "1").args(["from:1,mprotect", "rate:2", "busy"]));
}

/// The kernel may have unmapped where a block was to move to, and refuse to map it again.
#[test]
fn a_move_that_ends_half_way_is_undone() {
    counts(refusals("auto").arg("half-way"));
    counts(refusals("off").arg("half-way"));
}

#[test]
fn memory_that_was_not_cleared_is_not_taken_for_zero() {
    let counts = counts_with("auto", "from:1,keep");
    assert!(counts.refused > 0 && counts.failed == 0, "{counts:?}");
    // The test of the test: from a time on when the allocator has looked already, the program must
    // find out.
    let output = run(refusals("auto").arg("from:1,keep"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("pointer[i] == 0"), "{errors}");
}
