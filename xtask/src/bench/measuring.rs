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
use super::workloads::{Tools, Workload};
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What one run cost.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What launch counted, by the names it gives.
    pub cost: BTreeMap<String, f64>,
    /// What the program measured itself.
    pub reported: BTreeMap<String, f64>,
    /// The rest of what it printed: its result.
    pub result: String,
    /// Seconds of CPU time that others used meanwhile.
    pub foreign_s: f64,
    /// Why this run is not to be trusted.
    pub disturbed: Option<String>,
}

impl Sample {
    /// Seconds that count: the work's, else the process's.
    pub fn time_s(&self) -> f64 {
        self.get("work_s").unwrap_or_else(|| self.cost["wall_s"])
    }

    pub fn peak_kb(&self) -> f64 {
        self.get("peak_rss_kb").unwrap_or_else(|| self.cost["peak_kb"])
    }

    /// A measure by name, from either source.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.reported.get(name).or_else(|| self.cost.get(name)).copied()
    }
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

/// CPU time used by everything on the machine since it started, in seconds.
fn machine_cpu_s() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<f64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    // user nice system (idle iowait) irq softirq
    let busy: f64 = [0, 1, 2, 5, 6].iter().filter_map(|i| ticks.get(*i)).sum();
    busy / ticks_per_second()
}

/// Waits until others use less than a tenth of a CPU for half a second, but at
/// most `limit`; whether it became quiet.
pub fn wait_for_quiet(limit: Duration) -> bool {
    const LOOK: Duration = Duration::from_millis(500);
    let start = Instant::now();
    while start.elapsed() < limit {
        let before_s = machine_cpu_s();
        std::thread::sleep(LOOK);
        if machine_cpu_s() - before_s < 0.1 * LOOK.as_secs_f64() {
            return true;
        }
    }
    false
}

fn ticks_per_second() -> f64 {
    // SAFETY: sysconf only reads.
    (unsafe { libc::sysconf(libc::_SC_CLK_TCK) }) as f64
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
    let mut environment = format!("CIDALLOC_BENCH_IDLE_S={idle_s}\nPYTHONHASHSEED=0");
    if let Some(library) = &allocator.library {
        environment += &format!("\nLD_PRELOAD={}", library.display());
    }
    for (name, value) in allocator.environment.iter().chain(workload.environment) {
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
        .args(workload.command(tools))
        .env("CIDALLOC_BENCH_ENV", environment)
        .env_remove("LD_PRELOAD")
        .current_dir(&tools.scratch)
        .stdin(Stdio::null());
    let before_s = machine_cpu_s();
    let output = command.output().map_err(|e| format!("launch: {e}"))?;
    let machine_s = machine_cpu_s() - before_s;
    let cost = costs(&String::from_utf8_lossy(&output.stderr))?;
    let stderr = fs::read_to_string(&said).unwrap_or_default();
    let last = stderr.lines().last().unwrap_or_default();
    if cost["late"] != 0.0 {
        return Err("took longer than 120 s".into());
    }
    if cost["status"] != 0.0 {
        return Err(format!("ended with status {}: {last}", cost["status"]));
    }
    if stderr.contains("cannot be preloaded") {
        return Err(last.into());
    }
    let (reported, result) = measured(&String::from_utf8_lossy(&output.stdout));
    let foreign_s = (machine_s - cost["user_s"] - cost["sys_s"]).max(0.0);
    let disturbed = disturbance(&cost, foreign_s, workload);
    Ok(Sample { cost, reported, result, foreign_s, disturbed })
}

/// Limits above what a quiet machine shows: ticks are 10 ms, launch and the
/// kernel's own threads take a little.
fn disturbance(
    cost: &BTreeMap<String, f64>,
    foreign_s: f64,
    workload: &Workload,
) -> Option<String> {
    let wall_s = cost["wall_s"];
    let steal_s = cost["steal_ticks"] / ticks_per_second();
    if steal_s > 0.02 + 0.02 * wall_s {
        return Some(format!("{steal_s:.2} s stolen by the hypervisor"));
    }
    if foreign_s > 0.05 + 0.05 * wall_s {
        return Some(format!("{foreign_s:.2} s of CPU time used by others"));
    }
    let switches = cost.get("involuntary").copied().unwrap_or(0.0);
    if workload.is_sequential && switches > 20.0 + 40.0 * wall_s {
        return Some(format!("{switches} involuntary switches"));
    }
    None
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
