//! Time slice extensions compared: `CIDALLOC_SLICE=off` with `auto`, and with `count`,
//! which is `off` but tells how many holders of locks were preempted, in a guest whose
//! kernel has extensions. Writes the tables of docs/slice.md.
//!
//! `host` builds and boots, `inside` runs each arm in the guest, `load` is what threads
//! do and see, `figures` go from the guest to the host, `table` condenses them.

mod figures;
mod host;
mod inside;
mod load;
mod table;

use crate::Result;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(flatten)]
    host: host::Comparison,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(clap::Subcommand)]
enum Part {
    /// The comparison, in the guest
    #[command(hide = true)]
    Inside(inside::Options),
    /// One load, in a process of its own
    #[command(hide = true)]
    Load(load::Options),
}

/// Returns the exit status.
pub fn run(options: &Options) -> Result<i32> {
    match &options.part {
        Some(Part::Inside(options)) => inside::run(options).map(|()| 0),
        Some(Part::Load(options)) => {
            let load = load::play(options)?;
            load.named().iter().for_each(|(name, number)| println!("{name}={number}"));
            Ok(0)
        }
        None => host::run(&options.host),
    }
}
