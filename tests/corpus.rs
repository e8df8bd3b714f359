//! The fuzz targets (`fuzz/src/`) on the inputs that cargo-fuzz has found worth
//! keeping, `tests/corpus/<target>/`, and on pseudo-random ones from fixed seeds.
//!
//! An input that fails stays in the corpus: cargo-fuzz leaves it in
//! `fuzz/artifacts/`, and its copy here is its regression test.

#![cfg(target_os = "linux")]

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use fuzz::Target;
use std::path::Path;

/// Pseudo-random inputs for each target.
const RANDOM: u64 = 200;
const RANDOM_BYTES: u64 = 600;

/// The saved inputs of a target, by name.
fn saved(target: &Target) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target.name);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let paths = entries.map(|entry| entry.expect("readable").path());
    let read = |path: &Path| std::fs::read(path).expect("readable");
    let mut found: Vec<_> = paths.map(|path| (path.display().to_string(), read(&path))).collect();
    found.sort();
    found
}

/// The `n`th pseudo-random input (splitmix64).
fn random(n: u64) -> Vec<u8> {
    let mut state = n << 32;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let len = next() % RANDOM_BYTES;
    (0..len).map(|_| next() as u8).collect()
}

fn inputs(target: &Target) -> Vec<(String, Vec<u8>)> {
    let mut inputs = saved(target);
    assert!(inputs.len() >= 10, "{} inputs are saved for {}", inputs.len(), target.name);
    inputs.extend((0..RANDOM).map(|n| (format!("random {n}"), random(n))));
    inputs
}

fn holds(target: &Target) {
    for (name, input) in inputs(target) {
        if let Err(fault) = (target.run)(&input, "") {
            panic!("{}, {name}: {fault}", target.name);
        }
    }
}

/// The target's own defects, each of which the saved inputs must show.
fn finds_its_faults(target: &Target) {
    let inputs = saved(target);
    let missed = |fault: &&&str| inputs.iter().all(|(_, input)| (target.run)(input, fault).is_ok());
    let missed: Vec<_> = target.faults.iter().filter(missed).collect();
    assert!(missed.is_empty(), "{} does not see: {missed:?}", target.name);
    assert!(target.faults.len() >= 5);
}

macro_rules! targets {
    ($($target:ident)*) => {
        $(mod $target {
            use super::fuzz::$target::TARGET;

            #[test]
            fn holds() {
                super::holds(&TARGET);
            }

            #[test]
            fn finds_its_planted_faults() {
                super::finds_its_faults(&TARGET);
            }
        })*

        #[test]
        fn every_target_is_tested() {
            let tested = [$(stringify!($target)),*];
            assert_eq!(tested, fuzz::TARGETS.map(|target| target.name));
            // cargo-fuzz takes its targets from files, and the corpus from directories.
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            let package = std::fs::read_to_string(root.join("fuzz/Cargo.toml")).expect("readable");
            for name in tested {
                let entry = format!("[[bin]]\nname = \"{name}\"");
                assert!(package.contains(&entry), "no {name} in fuzz/Cargo.toml");
            }
            for (dir, suffix) in [("fuzz/fuzz_targets", ".rs"), ("tests/corpus", "")] {
                let mut found: Vec<_> = std::fs::read_dir(root.join(dir))
                    .expect(dir)
                    .map(|entry| entry.expect("readable").file_name().into_string().unwrap())
                    .collect();
                let mut due = tested.map(|name| format!("{name}{suffix}"));
                found.sort();
                due.sort();
                assert_eq!(found, due, "{dir}");
            }
        }
    };
}

targets! { history spans filler ranges page_map options }
