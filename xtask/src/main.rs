//! Commands of the project that are no tests: `cargo xtask bench` compares
//! cidalloc with other allocators.

mod bench;
mod commands;
mod places;

use clap::{Parser, Subcommand};

/// What may go wrong is told to a person and never handled.
type Result<T> = std::result::Result<T, String>;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Commands of the project that are no tests")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compare time and memory with other allocators; writes docs/bench/
    Bench(bench::Options),
}

fn main() {
    let done = match Arguments::parse().command {
        Command::Bench(options) => bench::run(&options),
    };
    if let Err(why) = done {
        eprintln!("xtask: {why}");
        std::process::exit(1);
    }
}
