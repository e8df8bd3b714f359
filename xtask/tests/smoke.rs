//! The comparison works, on the C library alone: nothing is downloaded, no peer built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory of this test's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("it can be made");
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn bench(scratch: &Scratch, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["bench", "--quick", "--peers", "glibc", "--only", "start-true-alone"])
        .args(arguments)
        .arg("--out")
        .arg(scratch.0.join("out"))
        .env("CIDALLOC_BENCH_CACHE", scratch.0.join("cache"))
        .output()
        .expect("xtask runs");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn rows(scratch: &Scratch) -> Vec<Vec<String>> {
    let text = fs::read_to_string(scratch.0.join("out/runs.tsv")).expect("it was written");
    let row = |line: &str| line.split('\t').map(str::to_owned).collect();
    text.lines().filter(|line| line.starts_with("start-true-alone\t")).map(row).collect()
}

#[test]
fn a_small_comparison_is_run_and_gone_on_with() {
    let scratch = Scratch::new("bench-smoke");
    let (ok, said) = bench(&scratch, &["--repeat", "1"]);
    assert!(ok, "{said}");
    let first = rows(&scratch);
    assert_eq!(first.len(), 1, "{said}");
    assert_eq!(first[0][2..4], ["glibc", "1"]);
    let wall_s: f64 = first[0][6].parse().expect("seconds");
    assert!(wall_s > 0.0 && wall_s < 60.0);

    let (ok, said) = bench(&scratch, &["--repeat", "2", "--resume"]);
    assert!(ok, "{said}");
    assert!(said.contains("1 runs were there already"), "{said}");
    let both = rows(&scratch);
    assert_eq!(both.len(), 2);
    assert_eq!(both[0][..4], first[0][..4]);

    let page = fs::read_to_string(scratch.0.join("out/README.md")).expect("it was written");
    assert!(page.contains("| start-true-alone |") && page.contains("## Goals"), "{page}");
    for plot in ["time.svg", "memory.svg", "scatter.svg"] {
        let plot = fs::read_to_string(scratch.0.join("out").join(plot)).expect("it was written");
        assert!(plot.starts_with("<svg") && plot.ends_with("</svg>\n"));
    }
}

#[test]
fn what_does_not_exist_is_said() {
    let scratch = Scratch::new("bench-nothing");
    let (ok, said) = bench(&scratch, &["--alloc", "other=/no/such/library.so"]);
    assert!(!ok && said.contains("/no/such/library.so"), "{said}");
}
