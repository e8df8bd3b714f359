//! fork, vfork, clone, and what is built from them.

use crate::common::{build_ffi, in_repository, run_ok};
use crate::{
    DEFAULT, LOCKED, MODES, Mode, OWN, beside, check, check_modes, command, directory, ended,
    on_library, passed, program, shared_library,
};

#[test]
fn descendants_of_64_busy_threads_allocate_and_free_what_they_inherit() {
    check(on_library(program("forks"), DEFAULT).args(["64", "20"]));
    for mode in &MODES[1..] {
        check(on_library(program("forks"), mode).args(["64", "4"]));
    }
}

/// The median and the longest time of a fork in microseconds, with 1,000 threads.
fn latency(mode: Option<Mode>) -> (f64, f64) {
    let mut command = match mode {
        Some(mode) => on_library(program("forks"), mode),
        None => command(program("forks")),
    };
    if mode.is_none() {
        command.env("CIDALLOC_TEST_WITHOUT", "1");
    }
    let said = passed(command.args(["latency", "1000"])).stdout;
    let mut times = said.split_whitespace().map(|word| word.parse().expect("microseconds"));
    (times.next().unwrap(), times.next().unwrap())
}

/// Most of the time is the kernel's copy of the mappings and the wait for a CPU.
#[test]
fn fork_with_a_thousand_threads_takes_bounded_time() {
    let without = latency(None);
    for mode in [DEFAULT, LOCKED] {
        let with = latency(Some(mode));
        println!("fork at 1,000 threads, µs: {with:?} {mode:?}, without the library {without:?}");
        assert!(with.0 < without.0 * 3.0 + 20e3, "median {} µs, {} without", with.0, without.0);
        assert!(with.1 < without.1 * 5.0 + 500e3, "longest {} µs, {} without", with.1, without.1);
    }
}

#[test]
fn a_stream_that_allocates_while_it_is_flushed_does_not_stop_fork() {
    check_modes("streams", &["300"]);
}

#[test]
fn fork_handlers_allocate_whether_registered_before_ours_or_after() {
    let handlers = shared_library("atfork_handlers");
    for mode in [DEFAULT, LOCKED, OWN] {
        for before in [true, false] {
            let mut command = on_library(program("forks"), mode);
            beside(&mut command, &handlers, before);
            check(command.args(["8", "4"]));
        }
    }
}

/// The handler of a signal that comes between fork's own handlers forks as well: once, it released
/// the locks of the outer fork, and children hung.
#[test]
fn a_fork_inside_a_fork_leaves_the_locks_alone() {
    check_modes("fork_handlers", &["8"]);
}

#[test]
fn vfork_children_allocate_beside_busy_threads() {
    check_modes("children", &["vfork", "200"]);
}

#[test]
fn nested_vfork_children_allocate() {
    check_modes("children", &["nested", "100"]);
}

#[test]
fn clone_children_on_their_parents_memory_allocate() {
    check_modes("children", &["clone-vfork", "100"]);
}

/// Side by side with their parent, in the same thread's words.
#[test]
fn clone_children_that_run_beside_their_parent_allocate() {
    check_modes("children", &["clone-vm", "25"]);
}

#[test]
fn posix_spawn_system_and_popen_work_beside_busy_threads() {
    check_modes("children", &["spawn", "12"]);
}

/// The test of these tests: a vfork that the library does not see hands blocks out twice, since nobody
/// aborts the child's sections. If this ever passes, the tests above show nothing.
#[test]
fn children_made_behind_the_librarys_back_are_noticed() {
    let path = directory().join("bare.json");
    let option = format!("json:{}", path.display());
    passed(on_library(program("forks"), DEFAULT).args(["1", "1"]).env("CIDALLOC_STATS", option));
    let statistics = std::fs::read_to_string(path).expect("statistics");
    if !statistics.contains("\"mode\":\"rseq\"") {
        return; // behind locks nothing can break
    }
    let breaks = || {
        let ended = ended(on_library(program("children"), DEFAULT).args(["bare", "100"]));
        !ended.status.success()
    };
    assert!((0..10).any(|_| breaks()), "children of the bare call did no harm");
}

#[test]
fn a_musl_program_forks_with_busy_threads() {
    if !ended(command("sh").args(["-c", "command -v musl-gcc"])).status.success() {
        assert!(
            std::env::var_os("CIDALLOC_TEST_SKIP_MISSING").is_some(),
            "musl-gcc is missing (Debian: musl-tools); CIDALLOC_TEST_SKIP_MISSING=1 skips this test"
        );
        return;
    }
    let forks = directory().join("forks-musl");
    let mut compile = command("musl-gcc");
    compile.args(["-static", "-O2", "-fno-builtin", "-pthread", "-w"]);
    compile.arg(in_repository("tests/c/process/forks.c"));
    run_ok(compile.arg(build_ffi().join("libcidalloc.a")).arg("-o").arg(&forks));
    check(command(&forks).args(["16", "5"]));
    check(command(&forks).args(["16", "3"]).env("CIDALLOC_RSEQ", "off"));
}
