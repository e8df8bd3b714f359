//! The order of the runs: rounds over all workloads, in each round and workload all
//! allocators one after the other, beginning with another one each time, so that
//! whatever changes on the machine falls on all of them.

use super::allocators::Allocator;
use super::measuring::{self, Sample};
use super::workloads::{Tools, Workload};
use std::time::{Duration, Instant};

pub struct Plan {
    pub repeat: usize,
    pub idle_s: u32,
}

/// One run, by the indices of its workload and allocator.
pub struct Run {
    pub workload: usize,
    pub allocator: usize,
    pub round: usize,
    pub outcome: Result<Sample, String>,
}

/// A disturbed run is repeated so often; the last one is kept and marked.
const ATTEMPTS: usize = 4;

/// How long a repetition waits for a quiet machine; if it never is, there is none.
const PATIENCE: Duration = Duration::from_secs(5);

/// All runs; what fails is not run again in later rounds. `after_round` is given
/// what there is so far, so that an interrupted comparison leaves something.
pub fn run(
    plan: &Plan,
    workloads: &[&Workload],
    allocators: &[Allocator],
    tools: &Tools,
    mut after_round: impl FnMut(&[Run]) -> Result<(), String>,
) -> Result<(), String> {
    let mut runs: Vec<Run> = Vec::new();
    let mut expected: Vec<Option<String>> = vec![None; workloads.len()];
    let start = Instant::now();
    let total = plan.repeat * workloads.len();
    for round in 0..plan.repeat {
        for (w, workload) in workloads.iter().enumerate() {
            let mut times = vec!["-".to_owned(); allocators.len()];
            for a in order(allocators.len(), round + w) {
                let allocator = &allocators[a];
                let failed =
                    runs.iter().any(|r| r.workload == w && r.allocator == a && r.outcome.is_err());
                if failed {
                    continue;
                }
                let mut outcome = undisturbed(workload, allocator, tools, plan.idle_s);
                if let Ok(sample) = &outcome {
                    let first = expected[w].get_or_insert_with(|| sample.result.clone());
                    if *first != sample.result {
                        outcome = Err("its result differs from the first run's".into());
                    }
                }
                match &outcome {
                    Ok(sample) => times[a] = format!("{:.2}", sample.time_s()),
                    Err(why) => {
                        eprintln!("FAILED: {} under {}: {why}", workload.name, allocator.name);
                        times[a] = "failed".into();
                    }
                }
                runs.push(Run { workload: w, allocator: a, round, outcome });
            }
            let done = round * workloads.len() + w + 1;
            let spent_s = start.elapsed().as_secs_f64();
            let left_s = spent_s / done as f64 * (total - done) as f64;
            eprintln!(
                "[{done}/{total}, {:.0} min left] round {}, {}: {}",
                (left_s / 60.0).ceil(),
                round + 1,
                workload.name,
                times.join(" ")
            );
        }
        after_round(&runs)?;
    }
    Ok(())
}

/// The indices below `count`, beginning with another one for each `turn`.
fn order(count: usize, turn: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |i| (i + turn) % count)
}

fn undisturbed(
    workload: &Workload,
    allocator: &Allocator,
    tools: &Tools,
    idle_s: u32,
) -> Result<Sample, String> {
    let mut attempt = 1;
    loop {
        let sample = measuring::run(workload, allocator, tools, idle_s)?;
        let Some(why) = &sample.disturbed else { return Ok(sample) };
        eprintln!("disturbed: {} under {}: {why}", workload.name, allocator.name);
        if attempt == ATTEMPTS {
            return Ok(sample);
        }
        attempt += 1;
        if !measuring::wait_for_quiet(PATIENCE) {
            eprintln!("the machine does not become quiet: kept, and marked");
            return Ok(sample);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_allocator_has_every_place_in_turn() {
        for place in 0..3 {
            let mut seen: Vec<usize> =
                (0..3).map(|turn| order(3, turn).nth(place).unwrap()).collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 1, 2]);
        }
    }
}
