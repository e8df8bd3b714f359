//! The model is proven on heaps with a planted fault: each must be found, be
//! named for what it is, and be reduced to the few steps that show it.

use super::faulty::{Fault, Planted};
use super::run::{self, Failure, Pace};

fn search(fault: Fault, pace: Pace) -> Option<Failure> {
    run::search(7, 40, 2, 120, |history, _| run::run(&Planted::new(fault), pace, history))
}

/// Finds the fault in step, where its history must come down to `steps`.
fn found(fault: Fault, word: &str, steps: usize) {
    let failure = search(fault, Pace::InStep).expect("the planted fault is found");
    assert!(failure.fault.contains(word), "{fault:?} found as: {}", failure.fault);
    assert!(failure.history.len() <= steps, "{fault:?} not reduced: {:?}", failure.history);
}

#[test]
fn a_heap_without_fault_passes() {
    for pace in [Pace::InStep, Pace::Free] {
        let failure = search(Fault::None, pace);
        assert!(failure.is_none(), "{failure:?}");
    }
}

#[test]
fn overlapping_blocks_are_found() {
    found(Fault::Overlap, "overlap", 2);
}

#[test]
fn a_block_handed_out_twice_is_found() {
    found(Fault::HandedOutTwice, "overlap", 2);
}

#[test]
fn a_block_handed_out_twice_is_found_between_free_threads() {
    let failure = search(Fault::HandedOutTwice, Pace::Free).expect("found");
    assert!(failure.fault.contains("overlap"), "{}", failure.fault);
}

#[test]
fn content_lost_in_resizing_is_found() {
    found(Fault::LostTail, "lost content", 2);
}

#[test]
fn content_overwritten_by_others_is_found() {
    found(Fault::Scribble, "lost content", 3);
}

#[test]
fn a_missed_alignment_is_found() {
    found(Fault::HalfAligned, "not a multiple", 1);
}

#[test]
fn a_byte_that_is_not_zero_is_found() {
    found(Fault::NotZeroed, "not zeroed", 1);
}

#[test]
fn a_usable_size_that_changes_is_found() {
    found(Fault::UsableChanges, "usable size", 3);
}

#[test]
fn a_usable_size_too_small_is_found() {
    found(Fault::UsableShort, "usable size", 1);
}

#[test]
fn a_lost_block_is_found() {
    found(Fault::Leak, "not conserved", 2);
}
