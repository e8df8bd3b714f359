//! The statistics of a run, for people.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use crate::statistics::{Collected, Statistics};

/// How a command ended and what was found of its statistics.
pub struct Outcome<'a> {
    pub name: &'a OsStr,
    /// The process that was started; its descendants have others.
    pub pid: u32,
    pub status: ExitStatus,
    /// Why the preload was expected to fail, if it was.
    pub obstacle: Option<String>,
    pub collected: Collected,
}

/// Returns the summary, ending in a newline.
pub fn text(outcome: &Outcome) -> String {
    let name = outcome.name.to_string_lossy();
    let mut out = String::new();
    match outcome.collected.by_pid.get(&outcome.pid) {
        Some(own) => {
            line(
                &mut out,
                format_args!(
                    "cidalloc: {name} (process {}) ran on cidalloc {}",
                    outcome.pid, own.version
                ),
            );
            process(&mut out, own);
        }
        None => {
            line(
                &mut out,
                format_args!(
                    "cidalloc: {name} (process {}) wrote no statistics: {}",
                    outcome.pid,
                    why_none(outcome)
                ),
            );
            // A shell that ends by _exit, say, around the program that does the work.
            if let Some(busiest) =
                outcome.collected.by_pid.values().max_by_key(|other| other.allocations)
            {
                line(
                    &mut out,
                    format_args!("cidalloc: its busiest descendant (process {}):", busiest.pid),
                );
                process(&mut out, busiest);
            }
        }
    }
    processes(&mut out, outcome);
    out
}

fn process(out: &mut String, own: &Statistics) {
    line(
        out,
        format_args!("  mode          {}, index {}, {}", own.mode, own.index, registrar(own)),
    );
    if !own.reason.is_empty() {
        line(out, format_args!("  fallback      {}", own.reason));
    }
    line(out, format_args!("  allocations   {}", count(own.allocations)));
    line(out, format_args!("  frees         {}", count(own.frees)));
    line(out, format_args!("  peak          {}", bytes(own.peak_bytes)));
    line(out, format_args!("  live at exit  {}", bytes(own.live_bytes)));
    line(
        out,
        format_args!(
            "  layers        cids {} ({} in use), transfer {}, central {},",
            bytes(own.cid_bytes),
            own.cids_in_use,
            bytes(own.transfer_bytes),
            bytes(own.central_bytes)
        ),
    );
    line(
        out,
        format_args!(
            "                pages free {}, pages returned {}, metadata {}",
            bytes(own.page_free_bytes),
            bytes(own.page_returned_bytes),
            bytes(own.metadata_bytes)
        ),
    );
}

fn registrar(own: &Statistics) -> &str {
    match own.registration.as_str() {
        "libc" => "rseq registered by the C library",
        "own" => "rseq registered by cidalloc",
        "taken" => "rseq taken over from the C library",
        _ => "no rseq registration used",
    }
}

const UNEXPLAINED: &str = "it ended without exit handlers (_exit), executed another program that does not run \
                           on cidalloc, or the dynamic loader could not load the library";

/// Says why the command's own process left no file.
fn why_none(outcome: &Outcome) -> String {
    if let Some(obstacle) = &outcome.obstacle {
        return format!("it {obstacle}");
    }
    match outcome.status.signal() {
        Some(signal) => format!("it was killed by signal {signal}, and they are written at exit"),
        None => UNEXPLAINED.into(),
    }
}

fn processes(out: &mut String, outcome: &Outcome) {
    let collected = &outcome.collected.by_pid;
    let others = || collected.values().filter(|other| other.pid != outcome.pid);
    let mut text = match collected.len() {
        0 => String::from("none wrote statistics"),
        1 => String::from("1 ran on cidalloc"),
        number => format!("{number} ran on cidalloc"),
    };
    if others().next().is_some() {
        let allocations = others().map(|other| other.allocations).sum::<Option<u64>>();
        let peak = others().map(|other| other.peak_bytes).max().unwrap_or(0);
        let _ = write!(
            text,
            "; descendants: {} allocations in all, largest peak {}",
            count(allocations),
            bytes(peak)
        );
    }
    if outcome.collected.unreadable > 0 {
        let _ = write!(text, "; {} stopped while writing", outcome.collected.unreadable);
    }
    line(out, format_args!("  processes     {text}"));
}

fn line(out: &mut String, text: std::fmt::Arguments) {
    let _ = writeln!(out, "{text}");
}

/// Formats a count with its thousands apart.
pub fn count(value: Option<u64>) -> String {
    let Some(value) = value else { return "not counted".into() };
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Formats bytes in the largest binary unit of which there is at least one.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if value < 1024 {
        return format!("{value} B");
    }
    let mut amount = value as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be printed as 1024.0.
    while amount >= 1023.95 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(1024 * 1024 - 1), "1.0 MiB");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(count(None), "not counted");
        assert_eq!(count(Some(0)), "0");
        assert_eq!(count(Some(999)), "999");
        assert_eq!(count(Some(1000)), "1,000");
        assert_eq!(count(Some(1234567)), "1,234,567");
    }

    fn outcome(status: i32, obstacle: Option<&str>) -> Outcome<'static> {
        Outcome {
            name: OsStr::new("prog"),
            pid: 7,
            status: ExitStatus::from_raw(status),
            obstacle: obstacle.map(str::to_owned),
            collected: Collected::default(),
        }
    }

    #[test]
    fn silence_is_explained() {
        assert!(text(&outcome(9, None)).contains("killed by signal 9"));
        assert!(
            text(&outcome(0, Some("is statically linked"))).contains("it is statically linked")
        );
        assert!(text(&outcome(0, None)).contains("_exit"));
    }

    #[test]
    fn descendants_are_added_up() {
        let mut run = outcome(0, None);
        for (pid, allocations) in [(7, 1), (8, 1000), (9, 234)] {
            let statistics = Statistics {
                pid,
                allocations: Some(allocations),
                peak_bytes: 2048,
                ..Default::default()
            };
            run.collected.by_pid.insert(pid, statistics);
        }
        let text = text(&run);
        assert!(text.contains("allocations   1\n"), "{text}");
        assert!(
            text.contains(
                "3 ran on cidalloc; descendants: 1,234 allocations in all, largest peak 2.0 KiB"
            ),
            "{text}"
        );
    }
}
