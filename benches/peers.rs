//! Single calls of cidalloc beside its peers: malloc and free of preloaded libraries
//! (`c/…`), and `std::alloc` on their crates (`rust/…`).
//!
//! Each allocator has a process of its own, which times as many operations as
//! criterion wants: allocators that meet in one process share its caches, its
//! rseq area and its page tables. `cargo xtask bench --prepare` builds them, and
//! is run if it has not been. One operation is an allocation and its free, of
//! `growth` the whole growth; `nothing` always returns the same memory: what
//! calls cost by themselves.
//!
//! Criterion times one allocator after the other; `cargo xtask bench --only calls`
//! lets them take turns.

#[path = "../xtask/src/bench/server.rs"]
mod server;

use criterion::{Criterion, Throughput};
use server::Server;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The list that `--prepare` writes.
fn callers() -> String {
    let cache = match std::env::var_os("CIDALLOC_BENCH_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").expect("HOME is set"))
            .join(".cache/cidalloc/bench"),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let prepared = Command::new("cargo")
        .args([
            "run",
            "--quiet",
            "--package",
            "xtask",
            "--",
            "bench",
            "--prepare",
            "--only",
            "calls",
        ])
        .current_dir(root)
        .status()
        .expect("cargo runs");
    assert!(prepared.success(), "cargo xtask bench --prepare has failed");
    std::fs::read_to_string(cache.join("callers.tsv")).expect("it was written just now")
}

/// Every allocator's server, by interface and name.
fn servers() -> Vec<(String, String, Server)> {
    let start = |line: &str| {
        let words: Vec<&str> = line.split('\t').collect();
        let [interface, name, program, library, environment] = words[..] else {
            panic!("not understood: {line}");
        };
        let library = Some(Path::new(library)).filter(|l| !l.as_os_str().is_empty());
        let environment = environment.split_whitespace().filter_map(|word| word.split_once('='));
        let server = Server::start(Path::new(program), library, environment);
        (interface.to_owned(), name.to_owned(), server.expect("it starts"))
    };
    callers().lines().map(start).collect()
}

fn main() {
    // `cargo test --benches` only wants to know whether this runs.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .sample_size(10)
        .configure_from_args();
    let mut servers = servers();
    for interface in ["c", "rust"] {
        let mut own: Vec<_> = servers.iter_mut().filter(|(i, ..)| i == interface).collect();
        let Some((_, _, first)) = own.first_mut() else { continue };
        for row in first.rows().expect("it answers") {
            let mut group = criterion.benchmark_group(format!("{interface}/{row}"));
            group.throughput(Throughput::Elements(1));
            for (_, name, server) in &mut own {
                group.bench_function(name.as_str(), |b| {
                    b.iter_custom(|operations| {
                        Duration::from_nanos(server.time_ns(&row, operations).expect("it answers"))
                    });
                });
            }
            group.finish();
        }
    }
    criterion.final_summary();
}
