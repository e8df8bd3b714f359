//! Freed memory goes back while the program waits, with hardly a call or none.

use crate::{LOCKED, MODES, Mode, on_library, passed, program};

const BACKGROUND: (&str, &str) = ("CIDALLOC_BACKGROUND", "on");

/// MB that are live, resident after the free, and after the wait.
fn waited(way: &str, mode: Mode, background: bool) -> [u64; 3] {
    let mut command = on_library(program("returns"), mode);
    if background {
        command.env(BACKGROUND.0, BACKGROUND.1);
    }
    // A quarter of the usual decay time, and eight times that to wait.
    command.env("CIDALLOC_DECAY_MS", "250");
    let said = passed(command.args([way, "2"])).stdout;
    let numbers: Vec<u64> = said.split_whitespace().map(|n| n.parse().expect("MB")).collect();
    println!("{way} {mode:?} {background}: {numbers:?}");
    numbers.try_into().expect("three numbers")
}

fn goes_back(way: &str, mode: Mode, background: bool) {
    let [live, before, after] = waited(way, mode, background);
    assert!(before > 2 * live + 100, "{way}, {mode:?}: {before} MB of which {live} are live");
    assert!(after <= live * 6 / 5 + 8, "{way}, {mode:?}: {after} MB, {live} are live");
}

#[test]
fn a_few_calls_that_hit_are_enough() {
    for mode in MODES {
        goes_back("same", mode, false);
    }
    goes_back("busy", &[], false);
}

#[test]
fn calls_of_another_thread_are_enough() {
    for mode in MODES {
        goes_back("other", mode, false);
    }
}

#[test]
fn the_background_thread_needs_no_call() {
    for mode in [&[][..], LOCKED] {
        for way in ["none", "fork"] {
            goes_back(way, mode, true);
        }
    }
    // Without it nothing can happen.
    let [live, _, after] = waited("none", &[], false);
    assert!(after > 2 * live, "{after} MB stay without a call");
}
