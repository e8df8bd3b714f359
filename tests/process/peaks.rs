//! What is free or not asked for does not come on top of what is live.

use crate::{MODES, on_library, passed, program};

fn peaks_at(way: &str, more_mb: u64) {
    for mode in MODES {
        let said = passed(on_library(program("peaks"), mode).arg(way)).stdout;
        let numbers: Vec<u64> = said.split_whitespace().map(|n| n.parse().expect("MB")).collect();
        println!("{way} {mode:?}: {numbers:?}");
        let [live, peak] = numbers.try_into().expect("two numbers");
        assert!(peak <= live + more_mb, "{way}, {mode:?}: {peak} MB, {live} MB were live");
    }
}

#[test]
fn holes_between_blocks_go_back_for_a_large_one() {
    peaks_at("holes", 16);
}

#[test]
fn the_last_hugepage_of_a_block_costs_what_it_is_used_for() {
    peaks_at("tails", 12);
}
