//! Rust programs of `cargo xtask bench`: built once for each `#[global_allocator]`.
//!
//!     programs NAME     runs it, checks its result, prints the measured lines
//!     programs which    prints the allocator it was built with, and its mode
//!     programs serve    times single calls by request (`calls`)

mod allocator;
mod calls;
mod collections;
mod documents;
mod pipeline;
mod random;
mod words;

use std::time::Instant;

/// A workload returns a checksum, the same in every run and under every allocator.
type Workload = (&'static str, fn() -> u64);

const WORKLOADS: [Workload; 6] = [
    ("rust-json", documents::json),
    ("rust-expressions", documents::expressions),
    ("rust-words", words::words),
    ("rust-maps", collections::maps),
    ("rust-vectors", collections::vectors),
    ("rust-pipeline", pipeline::pipeline),
];

fn resident_kb() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    // SAFETY: sysconf only reads.
    pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64 / 1024
}

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    match name.as_str() {
        "which" => return println!("{}", allocator::which()),
        "serve" => return calls::serve(),
        _ => {}
    }
    let Some((_, run)) = WORKLOADS.iter().find(|(n, _)| *n == name) else {
        eprintln!("no workload {name}");
        std::process::exit(2);
    };
    let start = Instant::now();
    let result = run();
    println!("end_rss_kb {}", resident_kb());
    println!("work_s {:.6}", start.elapsed().as_secs_f64());
    println!("result {result:016x}");
}
