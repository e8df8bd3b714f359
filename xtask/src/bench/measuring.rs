//! One process: what it cost, what it says of itself, and whether something else
//! ran at the same time.
//!
//! `launch` (xtask/workloads/launch.c) starts it and reads wait4's account: times
//! and faults are of the program and all children it waited for, peak memory is
//! of the largest of them. The program may print lines of its own, "NAME NUMBER"
//! with a name that ends in its unit; `work_s` then replaces the wall time, and
//! `peak_rss_kb` the peak.

use super::Result;
use super::allocators::Allocator;
use super::disturbance::{self, Before};
use super::workloads::{Tools, Workload};
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

/// What one run cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// What launch counted and what the program measured itself, which goes first.
    pub values: BTreeMap<String, f64>,
    /// Of the rest of what it printed: its result.
    pub result: u64,
    /// Why this run is not to be trusted.
    pub disturbed: Option<String>,
}

impl Sample {
    /// Seconds that count: the work's, else the process's.
    pub fn time_s(&self) -> Option<f64> {
        self.get("work_s").or_else(|| self.get("wall_s"))
    }

    pub fn peak_kb(&self) -> Option<f64> {
        self.get("peak_rss_kb").or_else(|| self.get("peak_kb"))
    }

    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name).copied()
    }
}

/// FNV-1a.
fn hash(text: &str) -> u64 {
    let step = |h: u64, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The words NAME=NUMBER of launch's line.
pub fn costs(line: &str) -> Result<BTreeMap<String, f64>> {
    let mut costs = BTreeMap::new();
    for word in line.split_whitespace() {
        let (name, value) = word.split_once('=').ok_or_else(|| format!("launch said {word:?}"))?;
        let value = value.parse().map_err(|_| format!("launch said {word:?}"))?;
        costs.insert(name.to_owned(), value);
    }
    for name in ["status", "late", "wall_s", "user_s", "sys_s", "peak_kb", "steal_ticks"] {
        if !costs.contains_key(name) {
            return Err(format!("launch said nothing of {name}: {line:?}"));
        }
    }
    Ok(costs)
}

/// Measured lines, and all other lines of `output`.
pub fn measured(output: &str) -> (BTreeMap<String, f64>, String) {
    let (mut found, mut rest) = (BTreeMap::new(), String::new());
    for line in output.lines() {
        match measured_line(line) {
            Some((name, value)) => {
                found.insert(name.to_owned(), value);
            }
            None => {
                rest.push_str(line);
                rest.push('\n');
            }
        }
    }
    (found, rest)
}

fn measured_line(line: &str) -> Option<(&str, f64)> {
    let (name, value) = line.split_once(' ')?;
    let unit = name.rsplit_once('_')?.1;
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !plain || !["kb", "s", "ns"].contains(&unit) {
        return None;
    }
    let value: f64 = value.parse().ok()?;
    value.is_finite().then_some((name, value))
}

/// Runs `workload` once under `allocator`.
///
/// # Errors
/// It ended badly, too late, or launch did not work.
pub fn run(
    workload: &Workload,
    allocator: &Allocator,
    tools: &Tools,
    idle_s: u32,
) -> Result<Sample> {
    let words =
        workload.command(tools, allocator).ok_or("there is no Rust program on this allocator")?;
    // No name of ours begins with CIDALLOC_: what the allocator does not know, it says.
    let mut environment = format!("BENCH_IDLE_S={idle_s}\nPYTHONHASHSEED=0");
    if let Some(library) = allocator.preloaded(workload.is_rust()) {
        environment += &format!("\nLD_PRELOAD={}", library.display());
    }
    let background = allocator.background.iter().filter(|_| workload.in_background);
    for (name, value) in allocator.environment.iter().chain(workload.environment).chain(background)
    {
        environment += &format!("\n{name}={value}");
    }
    // launch's line comes on stderr's place; the program's own stderr goes to a file.
    let said = tools.scratch.join("stderr");
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg("exec 9>&2 2>\"$0\"; exec \"$@\"")
        .arg(&said)
        .arg(&tools.launch)
        .args(["9", "120"])
        .args(words)
        .env("BENCH_ENV", environment)
        .env_remove("LD_PRELOAD")
        .env_remove(super::CACHE)
        .current_dir(&tools.scratch)
        .stdin(Stdio::null());
    let before = Before::look();
    let output = command.output().map_err(|e| format!("launch: {e}"))?;
    let (foreign_s, waited_s) = before.since();
    let mut values = costs(&String::from_utf8_lossy(&output.stderr))?;
    let stderr = fs::read_to_string(&said).unwrap_or_default();
    let last = stderr.lines().last().unwrap_or_default();
    if values["late"] != 0.0 {
        return Err("took longer than 120 s".into());
    }
    if values["status"] != 0.0 {
        return Err(format!("ended with status {}: {last}", values["status"]));
    }
    if stderr.contains("cannot be preloaded") {
        return Err(last.into());
    }
    values.insert("steal_s".into(), values["steal_ticks"] / disturbance::ticks_per_second());
    values.insert("foreign_s".into(), foreign_s);
    values.extend(waited_s.map(|s| ("waited_s".to_owned(), s)));
    let (reported, result) = measured(&String::from_utf8_lossy(&output.stdout));
    values.extend(reported);
    let disturbed = disturbance::verdict(&values, workload);
    Ok(Sample { values, result: hash(&result), disturbed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_lines_are_told_from_results() {
        let output = "end_rss_kb 120\nresult 00ab\nmalloc_p999_ns 3.5\nkey_kb many\n\
                      work_s 2247e-3\nTotal_s 3\nan end_kb 5\nn_s NaN\n";
        let (found, rest) = measured(output);
        let found: Vec<_> = found.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        assert_eq!(found, [("end_rss_kb", 120.0), ("malloc_p999_ns", 3.5), ("work_s", 2.247)]);
        assert_eq!(rest, "result 00ab\nkey_kb many\nTotal_s 3\nan end_kb 5\nn_s NaN\n");
    }

    #[test]
    fn launch_is_understood_and_gaps_are_seen() {
        let line = "status=0 late=0 wall_s=0.25 user_s=0.2 sys_s=0.01 peak_kb=1000 steal_ticks=0";
        assert_eq!(costs(line).unwrap()["peak_kb"], 1000.0);
        assert!(costs("status=0 late=0").is_err());
        assert!(costs(&line.replace("0.25", "x")).is_err());
    }
}
