//! Kernels booted under QEMU, and commands run in them.
//!
//! `guest` boots one kernel and runs one command; what it boots comes from
//! `kernels` (Debian's, unpacked by `image`) and `slice_kernel` (built here),
//! `libraries` (C libraries), `emulator` (QEMU, told by `machine` what to be) and
//! `initramfs` (what the guest sees). `packages` fetches Debian's packages, `cache`
//! keeps what was made of them. Nothing is installed, except, as root, the tools that
//! build a kernel.
//!
//! `matrix` runs the `cells` that the project promises to be right in: `payload` builds
//! what they are given, `steps` says what runs there, `verdicts` judges it, `report` tells;
//! `kept` remembers what was right.

mod boot;
mod cache;
mod cells;
mod emulator;
pub mod guest;
mod image;
mod initramfs;
mod kept;
mod kernels;
mod libraries;
mod machine;
mod matrix;
mod packages;
mod payload;
mod prepare;
mod report;
mod slice_kernel;
mod steps;
mod transcript;
mod verdicts;

use crate::Result;

/// The exit status of a command that was not run because something is missing.
pub const SKIPPED: i32 = 77;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    /// Download and build everything that is not in the cache yet; run nothing
    #[arg(long)]
    prepare: bool,
    #[command(flatten)]
    matrix: matrix::Options,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Run one command in a guest; exits with its status, or 124 if time ran out,
    /// 125 if the guest died, 77 if something is missing
    Boot(boot::Options),
}

/// Returns the exit status.
pub fn run(options: &Options) -> Result<i32> {
    match &options.action {
        Some(Action::Boot(options)) => boot::run(options),
        None if options.prepare => fill_cache(),
        None => matrix::run(&options.matrix),
    }
}

/// Fills the cache. What cannot be had is told, and the rest is there.
fn fill_cache() -> Result<i32> {
    let mut missing = prepare::all();
    missing.dedup();
    for why in &missing {
        eprintln!("SKIP: {why}");
    }
    Ok(if missing.is_empty() { 0 } else { SKIPPED })
}
