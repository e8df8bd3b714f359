//! Random histories of allocations against a naive model, in every mode.
//!
//! The model (`history/model.rs`) checks that live blocks never overlap, that
//! addresses have the alignment asked for, that every block holds at each use
//! what was written into it, also through a resize, that zeroed blocks are,
//! and that the usable size suffices, never changes and is what `good_size`
//! said. Between histories no block may be left. A failing history is reduced
//! and printed as text, which `CIDALLOC_TEST_HISTORY=FILE` runs again:
//!
//!     CIDALLOC_TEST_HISTORY=FILE cargo test --test history -- --ignored replay --nocapture
//!
//! `CIDALLOC_TEST_PACE=alone` does so on one thread, as the fuzz target does.
//! `CIDALLOC_TEST_SEED` and `CIDALLOC_TEST_CASES` choose what is drawn, and how much.
//! This binary's own memory is the system allocator's: a broken heap does not
//! break the model.

#![cfg(target_os = "linux")]

#[path = "history/faulty.rs"]
mod faulty;
#[path = "history/heap.rs"]
mod heap;
#[path = "history/mode.rs"]
mod mode;
#[path = "history/model.rs"]
mod model;
#[path = "history/op.rs"]
mod op;
#[path = "history/planted.rs"]
mod planted;
#[path = "history/run.rs"]
mod run;

use heap::Cidalloc;
use mode::Mode;
use run::{Failure, Pace};
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

const CASES: u32 = 60;
const STEPS: usize = 400;
/// Runs of a candidate while a free-running history is reduced: what depends
/// on timing must show in one of them.
const REPEATS: u32 = 10;

fn variable<T: std::str::FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} makes no sense")))
}

fn pace() -> Pace {
    match variable::<String>("CIDALLOC_TEST_PACE").as_deref() {
        Some("free") => Pace::Free,
        Some("alone") => Pace::Alone,
        _ => Pace::InStep,
    }
}

fn fail(seed: u64, failure: &Failure) -> ! {
    let mode = std::env::var(mode::MODE).unwrap_or_default();
    panic!(
        "{}\nmode {mode:?}, {:?}, CIDALLOC_TEST_SEED={seed}; the history:\n{}",
        failure.fault,
        pace(),
        op::to_text(&failure.history)
    );
}

/// A parent's child: histories in the mode it was started in. Each is written
/// down before it runs, for the case that it ends the process.
#[test]
#[ignore = "started by the tests of each mode"]
fn child_runs_histories() {
    let seed = variable("CIDALLOC_TEST_SEED").unwrap_or(0);
    let cases = variable("CIDALLOC_TEST_CASES").unwrap_or(CASES);
    let note = variable::<PathBuf>("CIDALLOC_TEST_NOTE");
    let failure = run::search(seed, cases, op::THREADS, STEPS, |history, reducing| {
        if let Some(note) = &note {
            std::fs::write(note, op::to_text(history)).expect("note");
        }
        let repeats = if reducing && pace() == Pace::Free { REPEATS } else { 1 };
        (0..repeats).try_for_each(|_| run::run(&Cidalloc, pace(), history))
    });
    mode::verify();
    if let Some(failure) = failure {
        fail(seed, &failure);
    }
}

/// Runs the history in the file `CIDALLOC_TEST_HISTORY`.
#[test]
#[ignore = "runs the history in the file CIDALLOC_TEST_HISTORY"]
fn replay() {
    let path: PathBuf =
        variable("CIDALLOC_TEST_HISTORY").expect("CIDALLOC_TEST_HISTORY names a file");
    let text = std::fs::read_to_string(path).expect("the history's file");
    let history = op::from_text(&text).unwrap();
    let repeats = if pace() == Pace::Free { REPEATS } else { 1 };
    for _ in 0..repeats {
        if let Err(fault) = run::run(&Cidalloc, pace(), &history) {
            panic!("fault: {fault}");
        }
    }
    mode::verify();
}

/// Draws the same histories as a child that died, each in a process of its
/// own, and reduces the one that kills.
fn search_isolated(
    mode: Mode,
    pace_name: &str,
    seed: u64,
    cases: u32,
    scratch: &PathBuf,
) -> Option<Failure> {
    run::search(seed, cases, op::THREADS, STEPS, |history, _| {
        std::fs::write(scratch, op::to_text(history)).expect("scratch file");
        let mut child = mode::child(mode, "replay");
        child.env("CIDALLOC_TEST_HISTORY", scratch).env("CIDALLOC_TEST_PACE", pace_name);
        let output = mode::output(child, Duration::from_secs(10));
        if mode::passed(&output) { Ok(()) } else { Err(last_words(&output)) }
    })
}

/// How a process ended, with the line that says why.
fn last_words(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let line = stderr.lines().find(|l| l.starts_with("fault:") || l.starts_with("cidalloc"));
    format!("{}; {}", output.status, line.or(stderr.lines().next_back()).unwrap_or("no words"))
}

/// Runs histories in `mode` in a child process. A child that panics has
/// reduced its failure already; what killed a child is searched for again.
fn histories_hold(mode: Mode, pace_name: &str) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = variable("CIDALLOC_TEST_SEED").unwrap_or(now.as_nanos() as u64);
    let cases = variable("CIDALLOC_TEST_CASES").unwrap_or(CASES);
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let note = scratch.join(format!("history.{}.{mode:?}.{pace_name}", std::process::id()));
    let mut child = mode::child(mode, "child_runs_histories");
    child
        .env("CIDALLOC_TEST_SEED", seed.to_string())
        .env("CIDALLOC_TEST_CASES", cases.to_string())
        .env("CIDALLOC_TEST_PACE", pace_name)
        .env("CIDALLOC_TEST_NOTE", &note);
    let output = mode::output(child, Duration::from_secs(60 + cases as u64));
    let last = std::fs::read_to_string(&note).unwrap_or_default();
    let _ = std::fs::remove_file(&note);
    if mode::passed(&output) {
        return;
    }
    let mut report =
        format!("{mode:?}, {pace_name}, CIDALLOC_TEST_SEED={seed}: {}", mode::report(&output));
    if output.status.code().is_none() {
        match search_isolated(mode, pace_name, seed, cases, &note) {
            Some(Failure { fault, history }) => {
                report +=
                    &format!("\nalone, {fault}; the least history:\n{}", op::to_text(&history));
            }
            None => report += &format!("\nno history does it alone; the last was\n{last}"),
        }
    }
    panic!("{report}");
}

macro_rules! modes {
    ($($name:ident: $mode:ident, $pace:literal;)*) => {$(
        #[test]
        fn $name() {
            histories_hold(Mode::$mode, $pace);
        }
    )*};
}

modes! {
    histories_hold_by_mm_cid: MmCid, "step";
    histories_hold_by_cpu_id: CpuId, "step";
    histories_hold_with_own_registration: Own, "step";
    histories_hold_with_registrations_taken_over: Take, "step";
    histories_hold_behind_locks: Locked, "step";
    histories_hold_while_counting: Counting, "step";
    histories_hold_while_checking: Checking, "step";
    free_threads_hold_by_mm_cid: MmCid, "free";
    free_threads_hold_by_cpu_id: CpuId, "free";
    free_threads_hold_with_own_registration: Own, "free";
    free_threads_hold_with_registrations_taken_over: Take, "free";
    free_threads_hold_behind_locks: Locked, "free";
    free_threads_hold_while_counting: Counting, "free";
    free_threads_hold_while_checking: Checking, "free";
}

#[test]
fn counts_are_exact() {
    let output = mode::output(mode::child(Mode::Counting, "child_counts"), Duration::from_secs(60));
    assert!(mode::passed(&output), "{}", mode::report(&output));
}

/// Every allocation and every free is counted, on every path.
#[test]
#[ignore = "started by counts_are_exact"]
fn child_counts() {
    use cidalloc::heap;
    let counts = || {
        let stats = heap::stats::Stats::collect();
        (stats.allocations.expect("counted"), stats.frees.expect("counted"))
    };
    let before = counts();
    let threads = 3;
    let sizes = [0, 8, 24, 1000, 70_000, 1 << 20];
    let rounds = 500;
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for round in 0..rounds {
                    for size in sizes {
                        let ptr = heap::allocate(size);
                        // SAFETY: just allocated, freed once.
                        match round % 2 {
                            0 => unsafe { heap::free(ptr) },
                            _ => unsafe { heap::free_sized(ptr, size, 1) },
                        }
                    }
                }
            });
        }
    });
    let after = counts();
    let due = (threads * rounds * sizes.len()) as u64;
    assert_eq!((after.0 - before.0, after.1 - before.1), (due, due));
}

#[test]
fn a_history_survives_its_text() {
    let failure = run::search(3, 50, op::THREADS, STEPS, |history, _| {
        match op::from_text(&op::to_text(history)) {
            Ok(back) if back == *history => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert!(failure.is_none(), "{failure:?}");
}
