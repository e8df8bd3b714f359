//! The comparison on the host: builds, boots the guests, writes the tables.

use super::figures::{ARMS, Figures};
use super::table;
use crate::Result;
use crate::commands::run_aloud;
use crate::places::{root, target};
use crate::vm::SKIPPED;
use crate::vm::guest::{End, Guest, missing};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

#[derive(clap::Args, Clone, Debug)]
pub struct Comparison {
    /// Rounds, in each of which every arm runs once with each number of threads
    #[arg(long, value_name = "N", default_value_t = 7)]
    rounds: usize,
    /// Seconds of each load, of the guest's time
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    seconds: f64,
    /// CPUs of the guests
    #[arg(long, value_name = "N,N...", value_delimiter = ',', default_values_t = [1, 2])]
    cpus: Vec<u32>,
    /// Threads for each CPU
    #[arg(long, value_name = "N,N...", value_delimiter = ',', default_values_t = [2, 4, 8])]
    per_cpu: Vec<u64>,
    /// The length of an extension in ns; the kernel takes 5000, its default, to 50000
    #[arg(long, value_name = "NS", default_value_t = 5000)]
    extension: u64,
    /// Write the tables to stdout, and leave docs/slice.md alone
    #[arg(long)]
    dry: bool,
}

/// Of the host's time, for a second of a guest's: emulated at the slowest.
const SLOWNESS: f64 = 60.0;

/// Returns the exit status.
pub fn run(options: &Comparison) -> Result<i32> {
    let (library, command) = build()?;
    let mut text = String::new();
    for &cpus in &options.cpus {
        let guest = guest(options, cpus, &[library.clone(), command.clone()]);
        if let Some(why) = missing(&guest) {
            eprintln!("SKIP: {why}");
            return Ok(SKIPPED);
        }
        let words = words(options, &library, &command);
        let outcome = guest.run(&words, &mut |line| println!("{line}"))?;
        if outcome.end != End::Exit(0) {
            return Err(format!("the guest ended with {:?}", outcome.end));
        }
        let figures = Figures::read(&outcome.output)?;
        text += &table::table(&figures, cpus, options.seconds);
        let (kernel, libc) = (&guest.kernel, guest.libc.as_deref().unwrap_or_default());
        text += &format!(
            "\nKernel {kernel}, glibc {libc}, extensions of {} µs; medians of {} rounds of {} s.\n",
            options.extension / 1000,
            options.rounds,
            options.seconds,
        );
    }
    if options.dry {
        print!("{text}");
        return Ok(0);
    }
    table::write(&root().join("docs/slice.md"), &text)?;
    Ok(0)
}

/// On its own clock: what else runs on the host lengthens no hold of a lock.
fn guest(options: &Comparison, cpus: u32, shares: &[PathBuf]) -> Guest {
    let loads = (ARMS.len() * options.rounds * options.per_cpu.len()) as f64;
    Guest {
        kernel: "7.2-slice".into(),
        libc: Some("2.41".into()),
        cpus,
        shares: shares.to_vec(),
        counted: true,
        timeout: Duration::from_secs_f64(300.0 + loads * options.seconds * SLOWNESS),
        ..Guest::default()
    }
}

fn words(options: &Comparison, library: &Path, command: &Path) -> Vec<String> {
    let crowds: Vec<String> = options.per_cpu.iter().map(u64::to_string).collect();
    vec![
        command.display().to_string(),
        "slice".into(),
        "inside".into(),
        format!("--library={}", library.display()),
        format!("--rounds={}", options.rounds),
        format!("--seconds={}", options.seconds),
        format!("--per-cpu={}", crowds.join(",")),
        format!("--extension={}", options.extension),
    ]
}

/// The library as users get it, and this command, optimised.
fn build() -> Result<(PathBuf, PathBuf)> {
    let cargo = || Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    run_aloud(cargo().args(["build", "--release", "-p", "cidalloc-ffi"]))?;
    run_aloud(cargo().args(["build", "--profile", "checked", "-p", "xtask"]))?;
    Ok((target().join("release/libcidalloc.so"), target().join("checked/xtask")))
}
