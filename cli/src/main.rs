//! The `cidalloc` command: runs programs on the allocator (`run`) and reports what the machine
//! offers it (`doctor`).
//!
//! ```text
//! main ─ arguments
//!  ├ run         starts the command            ├ doctor       collects the report
//!  │  ├ library  finds libcidalloc.so          │  ├ kernel    release, C library, CPUs
//!  │  ├ command  finds and examines CMD        │  ├ rseq      registration, slice, membarrier
//!  │  ├ signals  passes signals on             │  ├ aborts    whether sections can be trusted
//!  │  └ summary  prints the statistics         │  ├ memory    pages, hugepages, limits
//!  │                                           │  └ text      prints it for people
//!  └ below both: statistics (the JSON), core_api (the allocator), sys (system calls), preemption
//! ```
//!
//! The command runs on the allocator itself, so `doctor` reads the state of its own process.
#![deny(unsafe_code)]

#[cfg(cidalloc_native)]
mod command;
#[cfg(cidalloc_native)]
mod core_api;
#[cfg(cidalloc_native)]
mod doctor;
#[cfg(cidalloc_native)]
mod library;
#[cfg(cidalloc_native)]
mod preemption;
#[cfg(cidalloc_native)]
mod run;
#[cfg(cidalloc_native)]
mod signals;
#[cfg(cidalloc_native)]
mod statistics;
#[cfg(cidalloc_native)]
mod summary;
#[cfg(cidalloc_native)]
mod sys;

/// Exit status when the command itself fails, as with env(1): no status of CMD means this.
const OWN_FAILURE: i32 = 125;

#[cfg(cidalloc_native)]
mod arguments {
    use std::ffi::OsString;
    use std::path::PathBuf;

    use clap::{Args, Parser, Subcommand};

    use crate::core_api;

    #[derive(Parser)]
    #[command(name = "cidalloc", version, about = "Runs programs on the cidalloc allocator")]
    pub struct Arguments {
        #[command(subcommand)]
        pub action: Action,
    }

    #[derive(Subcommand)]
    pub enum Action {
        /// Run a command on the allocator (by LD_PRELOAD)
        #[command(after_help = core_api::options_help())]
        Run(RunArguments),
        /// Report what this machine offers the allocator, and what it makes of it
        Doctor(DoctorArguments),
    }

    #[derive(Args)]
    pub struct RunArguments {
        /// Count all allocations and print a summary to stderr when CMD has ended
        #[arg(long)]
        pub stats: bool,
        /// Library [default: $CIDALLOC_LIB, else beside this binary, else ../lib]
        #[arg(long, value_name = "PATH")]
        pub lib: Option<PathBuf>,
        /// Set an option of the table below; its CIDALLOC_ may be left out
        #[arg(long = "option", value_name = "NAME=VALUE", value_parser = parse_setting)]
        pub options: Vec<Setting>,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
        pub command: Vec<OsString>,
    }

    #[derive(Args)]
    pub struct DoctorArguments {
        /// Print JSON instead of text
        #[arg(long)]
        pub json: bool,
    }

    /// One `--option NAME=VALUE`, its name completed to the environment variable's.
    #[derive(Clone)]
    pub struct Setting {
        pub variable: String,
        pub value: String,
    }

    /// `rseq=off`, `RSEQ=off` and `CIDALLOC_RSEQ=off` all name `CIDALLOC_RSEQ`.
    fn parse_setting(text: &str) -> Result<Setting, String> {
        let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
        if name.is_empty() {
            return Err("the name before '=' is empty".into());
        }
        let upper = name.to_ascii_uppercase();
        let variable = match upper.strip_prefix("CIDALLOC_") {
            Some(_) => upper,
            None => format!("CIDALLOC_{upper}"),
        };
        Ok(Setting { variable, value: value.to_owned() })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn option_names_are_completed() {
            for text in ["rseq=off", "RSEQ=off", "CIDALLOC_RSEQ=off", "cidalloc_rseq=off"] {
                let setting = parse_setting(text).unwrap();
                assert_eq!(
                    (setting.variable.as_str(), setting.value.as_str()),
                    ("CIDALLOC_RSEQ", "off")
                );
            }
            assert_eq!(parse_setting("stats=json:/tmp/a=b").unwrap().value, "json:/tmp/a=b");
            assert!(parse_setting("rseq").is_err());
            assert!(parse_setting("=off").is_err());
        }

        #[test]
        fn the_command_keeps_its_own_flags() {
            let parsed =
                Arguments::parse_from(["cidalloc", "run", "--stats", "--", "ls", "--stats", "-l"]);
            let Action::Run(run) = parsed.action else { panic!("not run") };
            assert!(run.stats);
            assert_eq!(run.command, ["ls", "--stats", "-l"]);
        }
    }
}

#[cfg(cidalloc_native)]
fn main() {
    use arguments::{Action, Arguments};
    use clap::Parser;

    // std ignores SIGPIPE; `cidalloc doctor | head` must end quietly instead of failing.
    sys::default_sigpipe();
    match Arguments::parse().action {
        // Leaves without exit handlers: with CIDALLOC_STATS set, they would print the statistics
        // of this process beside those of the command.
        Action::Run(run) => sys::exit_now(run::run(&run)),
        Action::Doctor(doctor) => std::process::exit(doctor::doctor(doctor.json)),
    }
}

#[cfg(not(cidalloc_native))]
fn main() {
    eprintln!(
        "cidalloc: works on 64-bit Linux on x86 and ARM only; elsewhere the allocator is the system's"
    );
    std::process::exit(OWN_FAILURE);
}
