//! The comparison: every workload as a process of its own under every allocator,
//! interleaved and repeated.
//!
//! `allocators` and `peers` obtain the peers, `workloads` is the table of what is
//! run, `running` decides the order and repeats disturbed runs, `measuring` measures
//! one process, `disturbance` says what else ran, `calls` times single calls (asked of
//! a `server`), `results` keeps runs in a file, `statistics` and `tables` condense,
//! `report`, `goals` and `plots` write.

mod allocators;
mod calls;
mod disturbance;
mod goals;
mod machine;
mod measuring;
mod pace;
mod peers;
mod plots;
mod report;
mod results;
mod running;
mod server;
mod statistics;
mod tables;
mod workloads;

use crate::places::{root, target};
use crate::{Result, commands};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(clap::Args)]
pub struct Options {
    /// Three rounds and two seconds of idling: a first look, not a result
    #[arg(long)]
    quick: bool,
    /// Only workloads whose name or family contains PATTERN; `calls` are the single
    /// calls (repeatable)
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// One more allocator to compare (repeatable)
    #[arg(long, value_name = "NAME=PATH.so", value_parser = allocators::named)]
    alloc: Vec<allocators::Allocator>,
    /// Only these allocators, by name, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    peers: Vec<String>,
    /// Undisturbed runs of each workload under each allocator [default: 7]
    #[arg(long, value_name = "N")]
    repeat: Option<usize>,
    /// Where the results go [default: docs/bench, of a quick or partial comparison target/bench]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with an interrupted comparison: what its runs.tsv has is not run again
    #[arg(long)]
    resume: bool,
    /// Build everything, run nothing; benches/peers.rs uses what was built
    #[arg(long)]
    prepare: bool,
}

/// Names another cache.
const CACHE: &str = "CIDALLOC_BENCH_CACHE";

/// A pattern of --only that stands for the single calls.
const CALLS: &str = "calls";

/// Rounds in which workloads idle.
const IDLE_ROUNDS: usize = 3;

/// Where sources and libraries of the peers are kept between comparisons.
fn cache() -> Result<PathBuf> {
    let dir = match std::env::var_os(CACHE) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(
            std::env::var_os("HOME").ok_or("neither HOME nor CIDALLOC_BENCH_CACHE is set")?,
        )
        .join(".cache/cidalloc/bench"),
    };
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    Ok(dir)
}

/// google's tcmalloc as a library to preload, built if it is not in the cache, and
/// its version.
pub fn tcmalloc() -> Result<(PathBuf, String)> {
    allocators::tcmalloc(&cache()?)
}

/// The unpacked source of a crate.
pub fn crate_source(name: &str, version: &str) -> Result<PathBuf> {
    allocators::source(&cache()?, name, version)
}

/// Until it is dropped, no other comparison builds or measures what is in `cache`.
fn locked(cache: &Path) -> Result<File> {
    let path = cache.join("lock");
    let file = File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    // SAFETY: the file is open.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        return Err(format!("another comparison is using {}", cache.display()));
    }
    Ok(file)
}

pub fn run(options: &Options) -> Result<()> {
    let cache = cache()?;
    let _locked = locked(&cache)?;
    let is_whole = !options.quick && options.only.is_empty() && options.peers.is_empty();
    let usual = if is_whole { root().join("docs/bench") } else { target().join("bench") };
    let out = options.out.clone().unwrap_or(usual);
    let chosen = workloads::available(workloads::named(&options.only));
    let with_calls = options.only.is_empty() || options.only.iter().any(|p| p == CALLS);
    let with_rust = with_calls || chosen.iter().any(|w| w.is_rust());
    if chosen.is_empty() && !with_calls {
        return Err("no workload is left to run".into());
    }
    let tools = workloads::prepare(&cache, &chosen, with_calls)?;
    let allocators = allocators::obtain(&cache, &tools, &options.alloc, &options.peers, with_rust)?;
    let mut callers = allocators.clone();
    if with_calls {
        callers.push(allocators::nothing(&cache, &tools));
    }
    if options.prepare {
        return allocators::list(&cache, &callers, &tools);
    }

    let plan = running::Plan {
        repeat: options.repeat.unwrap_or(if options.quick { 3 } else { 7 }),
        idle_s: if options.quick { 2 } else { 10 },
        idle_rounds: IDLE_ROUNDS,
        patience: Duration::from_secs(if options.quick { 1 } else { 5 }),
    };
    running::estimate(&plan, &chosen, allocators.len(), with_calls);
    let names = results::Names { workloads: &chosen, allocators: &allocators };
    let mut log = results::Log::open(&out, names, options.resume)?;
    let mut calls = calls::Calls::new(&callers, &tools);
    if options.resume {
        calls.load(&out);
    }
    running::run(&plan, &chosen, &allocators, &tools, &mut log, |round, log| {
        if with_calls {
            calls.round(round)?;
            calls.save(&out)?;
        }
        report::write(&out, &chosen, &allocators, &plan, log, &calls)
    })?;
    report::write(&out, &chosen, &allocators, &plan, &log, &calls)
}
