//! `cargo xtask vm boot`: one command in one guest.

use super::SKIPPED;
use super::guest::{Arch, End, Guest, missing, not_in_cache, reason};
use crate::Result;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

const TIMED_OUT: i32 = 124;
const DIED: i32 = 125;

#[derive(clap::Args)]
pub struct Options {
    /// A series of Debian's kernels, such as 6.1 or 7.3, or 7.2-slice, which is built here
    #[arg(long)]
    kernel: String,
    #[arg(long, value_enum, default_value = "x86_64")]
    arch: Arch,
    /// The version of glibc, or none for static programs alone
    #[arg(long, value_name = "VERSION", default_value = "2.41")]
    libc: String,
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    cpus: u32,
    /// In MiB, or with G in GiB
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = mebibytes)]
    memory: u32,
    /// NUMA nodes among which CPUs and memory are divided
    #[arg(long, value_name = "NODES", default_value_t = 1)]
    numa: u32,
    /// More of the kernel's command line
    #[arg(long, value_name = "PARAMETERS", default_value = "", allow_hyphen_values = true)]
    append: String,
    /// Emulated, let interrupts fall between any two instructions (60 to 100 times slower)
    #[arg(long)]
    one_insn: bool,
    /// Emulated, the guest's clock counts its instructions, one a nanosecond
    #[arg(long)]
    counted: bool,
    /// A directory copied to the same path; the first is the working directory (repeatable)
    #[arg(long, value_name = "DIR")]
    share: Vec<PathBuf>,
    /// A variable of the command's environment (repeatable)
    #[arg(long, value_name = "NAME=VALUE", value_parser = assignment)]
    env: Vec<(String, String)>,
    /// A Debian package that the guest has besides, with what it depends on (repeatable)
    #[arg(long, value_name = "NAME")]
    package: Vec<String>,
    /// Seconds that the guest may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// Skip if something is not in the cache, instead of fetching or building it
    #[arg(long)]
    cached: bool,
    /// Write the kernel's log to this file
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// What is run
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Returns the command's exit status.
pub fn run(options: &Options) -> Result<i32> {
    let guest = Guest {
        kernel: options.kernel.clone(),
        arch: options.arch,
        libc: Some(options.libc.clone()).filter(|version| version != "none"),
        cpus: options.cpus,
        memory_mib: options.memory,
        nodes: options.numa,
        parameters: options.append.split_whitespace().map(str::to_owned).collect(),
        one_insn: options.one_insn,
        counted: options.counted,
        timeout: Duration::from_secs(options.timeout),
        environment: options.env.clone(),
        shares: options.share.clone(),
        packages: options.package.clone(),
    };
    let why = if options.cached { not_in_cache(&guest) } else { missing(&guest) };
    if let Some(why) = why {
        let (kernel, arch) = (&guest.kernel, guest.arch.name());
        eprintln!("SKIP: NOT RUN on kernel {kernel} for {arch}: {why}");
        return Ok(SKIPPED);
    }
    let outcome = guest.run(&options.command, &mut |line| {
        let mut out = std::io::stdout().lock();
        // Who does not listen any more does not want to be told.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    })?;
    if let Some(path) = &options.log {
        let written = std::fs::write(path, &outcome.kernel_log);
        written.map_err(|e| format!("{}: {e}", path.display()))?;
    }
    let seconds = outcome.wall.as_secs();
    Ok(match outcome.end {
        End::Exit(status) => status,
        End::Timeout => {
            eprintln!("vm: not done after {seconds} s; the guest's console:");
            tell_end(&outcome.kernel_log);
            TIMED_OUT
        }
        End::Died => {
            let why = reason(&outcome.kernel_log);
            eprintln!("vm: the guest died after {seconds} s ({why}); its console:");
            tell_end(&outcome.kernel_log);
            DIED
        }
    })
}

fn tell_end(log: &str) {
    let lines: Vec<&str> = log.lines().collect();
    for line in &lines[lines.len().saturating_sub(40)..] {
        eprintln!("  {line}");
    }
}

fn mebibytes(text: &str) -> Result<u32> {
    let (number, factor) = match text.strip_suffix(['G', 'g']) {
        Some(number) => (number, 1024),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
    };
    let number: Option<u32> = number.parse().ok();
    let mebibytes = number.and_then(|number| number.checked_mul(factor));
    mebibytes.filter(|&m| m > 0).ok_or_else(|| "such as 512, 512M or 2G".into())
}

fn assignment(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE")?;
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match !name.is_empty() && name.chars().all(is_of_name) {
        true => Ok((name.to_owned(), value.to_owned())),
        false => Err("a name of a variable has letters, digits and underscores".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_mebibytes() {
        for (text, due) in [("512", 512), ("512M", 512), ("2G", 2048), ("1g", 1024)] {
            assert_eq!(mebibytes(text), Ok(due));
        }
        for text in ["", "0", "G", "1T", "5000000G", "-1"] {
            assert!(mebibytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn variables_are_assigned() {
        let pair = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(assignment("A_1=b=c d"), pair("A_1", "b=c d"));
        assert_eq!(assignment("A="), pair("A", ""));
        for text in ["A", "=b", "A;B=c", "A B=c"] {
            assert!(assignment(text).is_err(), "{text}");
        }
    }
}
