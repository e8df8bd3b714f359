//! How much stack the library uses, measured by paint.

use crate::{MODES, Mode, check_modes, on_library, passed, program};
use std::collections::BTreeMap;

fn measured(way: &str, mode: Mode, options: &[(&str, &str)]) -> BTreeMap<String, u32> {
    let mut command = on_library(program("stack"), mode);
    let said = passed(command.arg(way).envs(options.iter().copied())).stdout;
    let parts = said.lines().filter_map(|line| line.split_once(' '));
    parts.map(|(name, bytes)| (name.to_string(), bytes.parse().expect("bytes"))).collect()
}

/// What every entry stays below; statistics collect a table of all classes.
const ENTRY_BYTES: u32 = 4096;
const STATISTICS_BYTES: u32 = 12 << 10;

#[test]
fn slow_paths_use_at_most_four_kib_of_stack() {
    for mode in MODES {
        let found = measured("all", mode, &[("CIDALLOC_DECAY_MS", "8")]);
        println!("{mode:?}: {found:?}");
        assert!(found.len() >= 13, "{found:?}");
        // The paint shows something: a miss cannot do with less.
        assert!(found["malloc-and-free"] > 200, "{found:?}");
        for (name, bytes) in found {
            let statistics = name == "malloc_stats" || name == "mallinfo2";
            let most = if statistics { STATISTICS_BYTES } else { ENTRY_BYTES };
            assert!(bytes <= most, "{name} uses {bytes} bytes of stack in {mode:?}");
        }
    }
}

#[test]
fn the_first_allocation_uses_at_most_eight_kib_of_stack() {
    let options = [
        ("CIDALLOC_STATS", "json:/dev/null"),
        ("CIDALLOC_DECAY_MS", "500"),
        ("CIDALLOC_SLAB_BYTES", "not a number, so that a line is written about it"),
    ];
    for mode in MODES {
        let plain = measured("first", mode, &[])["first"];
        let with_options = measured("first", mode, &options)["first"];
        println!(
            "{mode:?}: the first allocation uses {plain} bytes of stack, {with_options} with options"
        );
        assert!(plain.max(with_options) <= 8 << 10, "{plain}, {with_options} in {mode:?}");
    }
}

#[test]
fn threads_with_16_kib_of_stack_go_through_every_slow_path() {
    check_modes("stack", &["threads"]);
}
