//! Commands of the project that are no tests: `cargo xtask bench` compares
//! cidalloc with other allocators, `cargo xtask vm` boots kernels and runs
//! commands in them.

mod bench;
mod commands;
mod places;
mod slice;
mod vm;

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
    /// Boot kernels under QEMU and run commands in them
    Vm(vm::Options),
    /// Compare time slice extensions with none, in a guest; writes docs/slice.md
    Slice(slice::Options),
}

fn main() {
    let done = match Arguments::parse().command {
        Command::Bench(options) => bench::run(&options).map(|()| 0),
        Command::Vm(options) => vm::run(&options),
        Command::Slice(options) => slice::run(&options),
    };
    match done {
        Ok(status) => std::process::exit(status),
        Err(why) => {
            eprintln!("xtask: {why}");
            std::process::exit(1);
        }
    }
}
