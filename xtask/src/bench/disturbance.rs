//! Whether something else ran while a workload did.
//!
//! Three things are looked at: time that the hypervisor gave to others, CPU time
//! of all processes that are not of the run, and, for workloads of one thread,
//! time in which something that was ready had to wait for a processor. Clocks of
//! processes are exact; the kernel's own sums go by ticks and would accuse short
//! runs of what they did themselves.

use super::workloads::Workload;
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// What the machine had counted when a run began.
pub struct Before {
    processes: Processes,
    waited_s: Option<f64>,
}

impl Before {
    pub fn look() -> Self {
        Before { processes: processes(), waited_s: waited_s() }
    }

    /// What else happened since then: CPU time of others, and waiting for a processor,
    /// in seconds.
    pub fn since(&self) -> (f64, Option<f64>) {
        let waited_s = waited_s().zip(self.waited_s).map(|(now, then)| now - then);
        (foreign_s(&self.processes, &processes()), waited_s)
    }
}

/// A process: its parent, and the CPU time of itself and of children it waited for.
type Processes = BTreeMap<u32, (u32, f64, f64)>;

/// All but this one, whose children are the runs.
fn processes() -> Processes {
    let mut found = Processes::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if pid != std::process::id() {
            found.extend(process(&stat).map(|process| (pid, process)));
        }
    }
    found
}

/// Reads /proc/PID/stat: "PID (NAME) STATE PPID …", times in ticks. None of a thread
/// of the kernel: most of what these do, they do for the run.
fn process(stat: &str) -> Option<(u32, f64, f64)> {
    const KERNEL_THREAD: u64 = 0x20_0000;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    if fields.get(6)?.parse::<u64>().ok()? & KERNEL_THREAD != 0 {
        return None;
    }
    let time = |i: usize| fields.get(i)?.parse::<f64>().ok();
    let (own, children) = (time(11)? + time(12)?, time(13)? + time(14)?);
    let tick_s = 1.0 / ticks_per_second();
    Some((fields.get(1)?.parse().ok()?, own * tick_s, children * tick_s))
}

/// CPU time used between two looks by all processes in them.
fn foreign_s(before: &Processes, after: &Processes) -> f64 {
    let mut used = 0.0;
    for (pid, (_, own, children)) in after {
        let (_, own_before, children_before) = before.get(pid).copied().unwrap_or_default();
        // The parent of one that has ended is charged for all of its life.
        let ended =
            before.iter().filter(|(p, (parent, ..))| parent == pid && !after.contains_key(p));
        let known: f64 = ended.map(|(_, (_, own, children))| own + children).sum();
        used += own - own_before + (children - children_before - known).max(0.0);
    }
    used
}

/// Time, since the machine started, in which a task that could run had to wait.
fn waited_s() -> Option<f64> {
    let text = fs::read_to_string("/proc/pressure/cpu").ok()?;
    let total = text.lines().find(|l| l.starts_with("some"))?.rsplit_once("total=")?.1;
    Some(total.trim().parse::<f64>().ok()? * 1e-6)
}

pub fn ticks_per_second() -> f64 {
    // SAFETY: sysconf only reads.
    (unsafe { libc::sysconf(libc::_SC_CLK_TCK) }) as f64
}

/// Why a run is not to be trusted, if it is not.
pub fn verdict(values: &BTreeMap<String, f64>, workload: &Workload) -> Option<String> {
    let get = |name: &str| values.get(name).copied().unwrap_or(0.0);
    let wall_s = get("wall_s");
    // Ticks are 10 ms; a quiet machine's own work is about a hundredth.
    let much = 0.02 + 0.03 * wall_s;
    if get("steal_s") > much {
        return Some(format!("{:.2} s stolen by the hypervisor", get("steal_s")));
    }
    if get("foreign_s") > much {
        return Some(format!("{:.2} s of CPU time used by others", get("foreign_s")));
    }
    if workload.is_sequential && get("waited_s") > much {
        return Some(format!("it waited {:.2} s for a processor", get("waited_s")));
    }
    if get("major") > 50.0 {
        return Some(format!("{} pages were read from disk", get("major")));
    }
    None
}

/// How much a run was disturbed, to choose the least.
pub fn amount(values: &BTreeMap<String, f64>) -> f64 {
    ["steal_s", "foreign_s", "waited_s"].iter().filter_map(|name| values.get(*name)).sum()
}

/// Waits for a quiet machine, but not for ever: on a machine that never is quiet
/// nothing would be gained.
pub struct Patience {
    limit: Duration,
    in_vain: u32,
    not_before: Instant,
}

impl Patience {
    const LOOK: Duration = Duration::from_millis(500);
    /// After so many times in vain in a row there is none for a while.
    const TIMES: u32 = 2;
    const PAUSE: Duration = Duration::from_secs(120);

    /// Of so long each time.
    pub fn new(limit: Duration) -> Self {
        Patience { limit, in_vain: 0, not_before: Instant::now() }
    }

    /// Waits until others use less than a tenth of a CPU; whether they do.
    pub fn wait_for_quiet(&mut self) -> bool {
        let start = Instant::now();
        if start < self.not_before {
            return false;
        }
        while start.elapsed() < self.limit {
            let before = Before::look();
            std::thread::sleep(Self::LOOK);
            if before.since().0 < 0.1 * Self::LOOK.as_secs_f64() {
                self.in_vain = 0;
                return true;
            }
        }
        self.in_vain += 1;
        if self.in_vain >= Self::TIMES {
            eprintln!("the machine does not become quiet: disturbed runs are kept, and marked");
            self.not_before = Instant::now() + Self::PAUSE;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "12 (a ) b) S 7 1 1 0 -1 4 1 2 3 4 150 50 30 20 20 0 1 0";
        let (parent, own, children) = process(stat).unwrap();
        let tick_s = 1.0 / ticks_per_second();
        assert_eq!(parent, 7);
        assert!((own - 200.0 * tick_s).abs() < 1e-9 && (children - 50.0 * tick_s).abs() < 1e-9);
        assert_eq!(process(""), None);
        assert_eq!(process("3 (kworker) I 2 0 0 0 -1 69238880 0 0 0 0 9 9 0 0 20 0 1 0"), None);
        assert!(processes().values().any(|(_, own, _)| *own > 0.0), "the first process has run");
    }

    #[test]
    fn only_what_was_used_meanwhile_counts() {
        let before =
            Processes::from([(1, (0, 5.0, 9.0)), (2, (1, 100.0, 1.0)), (3, (1, 1.0, 0.0))]);
        // 2 ended, having used 0.5 more; 3 used 0.25; 4 is new.
        let after =
            Processes::from([(1, (0, 5.0, 110.5)), (3, (1, 1.25, 0.0)), (4, (3, 0.5, 0.0))]);
        assert!((foreign_s(&before, &after) - 1.25).abs() < 1e-9);
        assert_eq!(foreign_s(&before, &before), 0.0);
    }
}
