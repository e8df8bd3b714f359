//! The comparison in the guest: loads of all arms in turn, each in a process of its own on
//! the preloaded library, so that whatever else disturbs the machine disturbs all arms.

use super::figures::{ARMS, Figures};
use crate::Result;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The library under test
    #[arg(long)]
    library: PathBuf,
    #[arg(long)]
    rounds: usize,
    #[arg(long)]
    seconds: f64,
    /// Threads for each CPU
    #[arg(long, value_delimiter = ',')]
    per_cpu: Vec<u64>,
    /// The length of an extension, in ns
    #[arg(long)]
    extension: u64,
}

const DEBUG: &str = "/sys/kernel/debug/rseq";

pub fn run(options: &Options) -> Result<()> {
    let file = format!("{DEBUG}/slice_ext_nsec");
    std::fs::write(&file, options.extension.to_string()).map_err(|why| format!("{file}: {why}"))?;
    for round in 0..options.rounds {
        for &per_cpu in &options.per_cpu {
            for i in 0..ARMS.len() {
                // Each arm is first as often as last.
                let arm = ARMS[(i + round) % ARMS.len()];
                let numbers = load(options, arm, per_cpu)?;
                println!("{}", Figures { arm: arm.to_owned(), per_cpu, numbers }.line());
            }
        }
    }
    Ok(())
}

fn load(options: &Options, arm: &str, per_cpu: u64) -> Result<BTreeMap<String, f64>> {
    let statistics = Path::new("/tmp/slice-statistics");
    let cpus = std::thread::available_parallelism().map_err(|why| why.to_string())?;
    let threads = per_cpu * cpus.get() as u64;
    let before = kernel_counts();
    let mut command = Command::new(std::env::current_exe().map_err(|why| why.to_string())?);
    command.args(["slice", "load", "--threads", &threads.to_string()]);
    command.args(["--seconds", &options.seconds.to_string()]);
    command.env("LD_PRELOAD", &options.library).env("CIDALLOC_SLICE", arm);
    command.env("CIDALLOC_SLAB_BYTES", "65536");
    command.env("CIDALLOC_STATS", format!("json:{}", statistics.display()));
    let output = command.output().map_err(|why| format!("{command:?}: {why}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}\n{text}{said}", output.status));
    }
    let words = text.split_whitespace().filter_map(|word| word.split_once('='));
    let mut numbers: BTreeMap<String, f64> =
        words.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect();
    let json = std::fs::read_to_string(statistics).map_err(|why| format!("statistics: {why}"))?;
    for name in [
        "refills",
        "overflows",
        "lock_waits",
        "slice_requests",
        "slice_grants",
        "slice_yields",
        "slice_revocations",
    ] {
        let number = of_json(&json, name).ok_or(format!("no {name} in {json}"))?;
        numbers.insert(name.to_owned(), number);
    }
    for ((name, before), (_, after)) in before.into_iter().zip(kernel_counts()) {
        numbers.insert(name, after - before);
    }
    Ok(numbers)
}

/// A number of the allocator's own flat JSON.
fn of_json(json: &str, name: &str) -> Option<f64> {
    let (_, rest) = json.split_once(&format!("\"{name}\":"))?;
    rest.split([',', '}']).next()?.parse().ok()
}

/// The kernel's counts of extensions, of all processes since boot.
fn kernel_counts() -> Vec<(String, f64)> {
    let text = std::fs::read_to_string(format!("{DEBUG}/stats")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let ours = lines.filter(|(name, _)| name.starts_with('s'));
    ours.filter_map(|(name, value)| Some((format!("kernel_{name}"), value.trim().parse().ok()?)))
        .collect()
}
