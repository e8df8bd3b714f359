//! From the first constructor to the last destructor, and threads that come and go.

use crate::common::{build_ffi, library, run_ok};
use crate::{MODES, Mode, OWN, built, check, command, directory, on_library, passed, program};
use std::time::{Duration, Instant};

/// `tests/conformance.rs` runs the same stages linked in every way; here they run in every mode.
#[test]
fn every_stage_of_a_process_allocates_in_every_mode() {
    for mode in MODES {
        let lifecycle = built("../lifecycle.c", "lifecycle", &["-rdynamic"]);
        for (way, stages) in
            [("exit", "pcdmtknxyz\n"), ("quick", "pcdmtknq\n"), ("thread", "pcdmtknkjxyz\n")]
        {
            assert_eq!(passed(on_library(&lifecycle, mode).arg(way)).stdout, stages, "{mode:?}");
        }
    }
}

#[test]
fn a_threads_end_allocates_in_every_round_of_destructors() {
    for mode in MODES {
        check(&mut on_library(built("rounds.cc", "rounds", &[]), mode));
    }
}

/// A hook would show as a symbol that it needs; `loading.rs` holds the list of all that are used.
#[test]
fn no_hook_waits_for_the_end_of_a_thread() {
    let symbols = run_ok(command("nm").args(["-D", "--undefined-only"]).arg(library()));
    for hook in ["thread_atexit", "pthread_key", "pthread_setspecific", "tss_create"] {
        assert!(!symbols.contains(hook), "{symbols}");
    }
}

/// Live bytes more at the end, the peak of resident memory in KiB, and the statistics.
fn come_and_go(threads: u32, mode: Mode) -> (i64, i64, serde_json::Value) {
    let path = directory().join(format!("come-and-go-{threads}-{}.json", mode.len()));
    let mut command = on_library(program("come_and_go"), mode);
    command.arg(threads.to_string()).env("CIDALLOC_STATS", format!("json:{}", path.display()));
    let said = passed(&mut command).stdout;
    let mut numbers = said.split_whitespace().map(|word| word.parse().expect("a number"));
    let text = std::fs::read_to_string(&path).expect("statistics");
    let statistics = serde_json::from_str(&text).expect("statistics in JSON");
    (numbers.next().unwrap(), numbers.next().unwrap(), statistics)
}

/// What so many threads take on the C library's own malloc, here and now.
fn time_without(threads: u32) -> Duration {
    let mut command = command(program("come_and_go"));
    let start = Instant::now();
    passed(command.arg(threads.to_string()).env("CIDALLOC_TEST_WITHOUT", "1"));
    start.elapsed()
}

fn leaves_nothing(threads: u32, mode: Mode) {
    let without = time_without(threads);
    let (_, few_peak, few) = come_and_go(1000, mode);
    let start = Instant::now();
    let (more, peak, many) = come_and_go(threads, mode);
    let time = start.elapsed();
    println!(
        "{threads} threads in {time:?} (without {without:?}), {more} bytes more, peak {peak} KiB ({few_peak})"
    );
    assert_eq!(more, 0, "live bytes");
    // What grows with the threads that are gone would show; the machine may be busy.
    assert!(time < without * 4 + Duration::from_secs(4), "{time:?}, without {without:?}");
    // Thread stacks and the C library's own account for some hundred KiB, whatever the number.
    assert!(peak < few_peak + 2048, "{peak} KiB, with 1000 threads {few_peak}");
    for key in ["live_bytes", "metadata_bytes", "mapped_bytes", "large_blocks"] {
        let (few, many) = (few[key].as_u64().unwrap(), many[key].as_u64().unwrap());
        assert!(many <= few + 8192, "{key}: {many} after {threads} threads, {few} after 1000");
    }
    assert!(many["threads_taken_in"].as_u64().unwrap() >= u64::from(threads));
}

#[test]
fn a_hundred_thousand_threads_leave_nothing_behind() {
    leaves_nothing(100_000, &[]);
}

/// Where the threads' registrations are records of ours.
#[test]
fn twenty_thousand_threads_with_own_registrations_leave_nothing_behind() {
    leaves_nothing(20_000, OWN);
}

#[test]
fn a_static_program_forks_and_its_threads_end() {
    let archive = build_ffi().join("libcidalloc.a").display().to_string();
    let rounds = built("rounds.cc", "rounds-static", &[&archive, "-static"]);
    check(&mut command(rounds));
    let forks = built("forks.c", "forks-static", &[&archive, "-static"]);
    check(command(forks).args(["8", "4"]));
}
