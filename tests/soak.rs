//! Everything at once (`tests/c/soak.c`) on the library, with one set of options after another,
//! and a walk over every layer between the phases.
//!
//! Short here; `tests/soak` runs it for ten minutes. `CIDALLOC_TEST_SOAK_SECONDS` is the time for
//! all sets of options together.

#![cfg(target_os = "linux")]

mod common;

use common::{command, compiler, in_repository, preload, run_ok, temp_dir};

/// What users set, and what surroundings come to the same.
const OPTIONS: &[&[(&str, &str)]] = &[
    &[],
    &[("CIDALLOC_DECAY_MS", "0")],
    &[("CIDALLOC_RSEQ", "off")],
    &[("GLIBC_TUNABLES", "glibc.pthread.rseq=0"), ("CIDALLOC_SLAB_BYTES", "64K")],
    &[("CIDALLOC_INDEX", "cpu_id"), ("CIDALLOC_THP_AFTER", "0")],
    &[("CIDALLOC_COUNT", "1"), ("CIDALLOC_DECAY_MS", "20")],
    &[("CIDALLOC_CHECK", "1")],
    &[("CIDALLOC_THP", "0"), ("CIDALLOC_DECAY_MS", "50"), ("CIDALLOC_SLAB_BYTES", "1G")],
];

#[test]
fn everything_at_once_with_every_option() {
    let seconds = std::env::var("CIDALLOC_TEST_SOAK_SECONDS")
        .map_or(12.0, |text| text.parse::<f64>().expect("a number of seconds"));
    let program = temp_dir("soak").join("soak");
    run_ok(
        compiler(false)
            .args(["-O2", "-g", "-fno-builtin", "-pthread", "-Wall", "-Wextra", "-Werror"])
            .args(["-Wno-error=infinite-recursion", "-std=gnu11"])
            .arg("-I")
            .arg(in_repository("ffi/include"))
            .arg(in_repository("tests/c/soak.c"))
            .arg("-o")
            .arg(&program),
    );
    let each = seconds / OPTIONS.len() as f64;
    for (seed, options) in (1..).zip(OPTIONS) {
        // A hang is a failure.
        let mut soak = command("timeout");
        soak.args(["-k", "5", &format!("{}", each + 90.0)]);
        soak.arg(&program).args([format!("{each}"), format!("{seed}")]);
        preload(&mut soak).envs(options.iter().copied());
        let said = run_ok(&mut soak);
        println!("{options:?}\n{said}");
        assert!(said.contains("walks between phases") && said.contains("soak: ok"), "{said}");
    }
}
