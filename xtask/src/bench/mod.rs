//! The comparison: every workload as a process of its own under every allocator,
//! interleaved and repeated.
//!
//! `allocators` obtains the peers, `workloads` is the table of what is run,
//! `running` decides the order and repeats disturbed runs, `measuring` measures
//! one process, `statistics` condenses, `report` and `plots` write.

mod allocators;
mod machine;
mod measuring;
mod plots;
mod report;
mod running;
mod statistics;
mod workloads;

use std::path::{Path, PathBuf};

/// What may go wrong is told to a person and never handled.
pub type Result<T> = std::result::Result<T, String>;

#[derive(clap::Args)]
pub struct Options {
    /// Three runs of each and two seconds of idling: a first look, not a result
    #[arg(long)]
    quick: bool,
    /// Only workloads whose name or family contains PATTERN (repeatable)
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
}

/// The repository's root.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository")
}

/// Where cargo builds.
fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Where sources and libraries of the peers are kept between comparisons.
fn cache() -> Result<PathBuf> {
    let dir = match std::env::var_os("CIDALLOC_BENCH_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => {
            PathBuf::from(std::env::var_os("HOME").ok_or("neither HOME nor CIDALLOC_BENCH_CACHE")?)
                .join(".cache/cidalloc/bench")
        }
    };
    std::fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    Ok(dir)
}

pub fn run(options: &Options) -> Result<()> {
    let cache = cache()?;
    let is_whole = !options.quick && options.only.is_empty() && options.peers.is_empty();
    let usual = if is_whole { root().join("docs/bench") } else { target().join("bench") };
    let out = options.out.clone().unwrap_or(usual);
    let tools = workloads::prepare(&cache)?;
    let workloads = workloads::selected(&options.only)?;
    let allocators = allocators::obtain(&cache, &tools, &options.alloc, &options.peers)?;
    let plan = running::Plan {
        repeat: options.repeat.unwrap_or(if options.quick { 3 } else { 7 }),
        idle_s: if options.quick { 2 } else { 10 },
    };
    let machine = machine::describe();
    running::run(&plan, &workloads, &allocators, &tools, |runs| {
        report::write(&out, &machine, &workloads, &allocators, &plan, runs)
    })
}
