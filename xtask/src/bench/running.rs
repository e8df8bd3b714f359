//! The order of the runs: rounds over all workloads, in each round and workload all
//! allocators one after the other, beginning with another one each time, so that
//! whatever changes on the machine falls on all of them.

use super::allocators::Allocator;
use super::disturbance::{Patience, amount};
use super::measuring::{self, Sample};
use super::results::{self, Log, Run};
use super::workloads::{Kind, Tools, Workload};
use super::{Result, root};
use std::time::{Duration, Instant};

pub struct Plan {
    pub repeat: usize,
    pub idle_s: u32,
    /// Workloads idle in the first rounds only: it takes long, and what is left
    /// afterwards differs little.
    pub idle_rounds: usize,
    /// How long a repetition waits for a quiet machine.
    pub patience: Duration,
}

impl Plan {
    fn idle_s(&self, workload: &Workload, round: usize) -> u32 {
        if workload.idles && round < self.idle_rounds { self.idle_s } else { 0 }
    }

    /// What is run for its idling only is not run without.
    fn has(&self, workload: &Workload, round: usize) -> bool {
        !(workload.kind == Kind::Goal && workload.idles) || round < self.idle_rounds
    }
}

/// A disturbed run is repeated at once, at most so often, and once more at the end;
/// the least disturbed one is kept, and marked.
const ATTEMPTS: usize = 3;

/// Of the time spent, what may be added to repeat at the end what was disturbed.
const MORE: f64 = 0.2;

/// All runs that `log` does not have yet. What fails is not run again in later
/// rounds. `after_round` is given each round's number and all runs.
pub fn run(
    plan: &Plan,
    workloads: &[&'static Workload],
    allocators: &[Allocator],
    tools: &Tools,
    log: &mut Log,
    mut after_round: impl FnMut(usize, &Log) -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    let total: usize =
        (0..plan.repeat).map(|round| workloads.iter().filter(|w| plan.has(w, round)).count()).sum();
    let (mut done, mut run_now) = (0, 0);
    let mut patience = Patience::new(plan.patience);
    for round in 0..plan.repeat {
        for (w, workload) in workloads.iter().enumerate().filter(|(_, w)| plan.has(w, round)) {
            let mut times = vec!["-".to_owned(); allocators.len()];
            let mut is_new = false;
            for a in order(allocators.len(), round + w) {
                if log.of(w, a).any(|r| r.round == round || r.outcome.is_err()) {
                    continue;
                }
                is_new = true;
                let idle_s = plan.idle_s(workload, round);
                let outcome = undisturbed(workload, &allocators[a], tools, idle_s, &mut patience)
                    .and_then(|sample| agrees(sample, log, w));
                times[a] = match &outcome {
                    Ok(sample) => format!("{:.2}", sample.time_s().unwrap_or_default()),
                    Err(_) => "failed".into(),
                };
                if let Err(why) = &outcome {
                    eprintln!("FAILED: {} under {}: {why}", workload.name, allocators[a].name);
                }
                log.add(Run { workload: w, allocator: a, round, outcome })?;
            }
            done += 1;
            run_now += usize::from(is_new);
            if is_new {
                let per_row_s = start.elapsed().as_secs_f64() / run_now as f64;
                let left_min = (per_row_s * (total - done) as f64 / 60.0).ceil();
                let (round, name, times) = (round + 1, workload.name, times.join(" "));
                eprintln!("[{done}/{total}, {left_min} min left] round {round}, {name}: {times}");
            }
        }
        after_round(round, log)?;
    }
    repeat_disturbed(plan, workloads, allocators, tools, log, start.elapsed().mul_f64(MORE))?;
    log.save()
}

/// Every run of a workload has the same result.
fn agrees(sample: Sample, log: &Log, workload: usize) -> Result<Sample> {
    let mut others = log.runs.iter().filter(|r| r.workload == workload);
    match others.find_map(|r| r.outcome.as_ref().ok()) {
        Some(first) if first.result != sample.result => {
            Err("its result differs from the first run's".into())
        }
        _ => Ok(sample),
    }
}

/// The indices below `count`, beginning with another one for each `turn`.
fn order(count: usize, turn: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |i| (i + turn) % count)
}

/// Runs it until nothing disturbs it, but not too often.
fn undisturbed(
    workload: &Workload,
    allocator: &Allocator,
    tools: &Tools,
    idle_s: u32,
    patience: &mut Patience,
) -> Result<Sample> {
    let mut best: Option<Sample> = None;
    for attempt in 1..=ATTEMPTS {
        let sample = measuring::run(workload, allocator, tools, idle_s)?;
        let Some(why) = &sample.disturbed else { return Ok(sample) };
        eprintln!("disturbed: {} under {}: {why}", workload.name, allocator.name);
        if best.as_ref().is_none_or(|best| amount(&sample.values) < amount(&best.values)) {
            best = Some(sample);
        }
        // Idling costs more than it would tell.
        if idle_s > 2 || attempt == ATTEMPTS || !patience.wait_for_quiet() {
            break;
        }
    }
    best.ok_or_else(|| "no attempt was made".into())
}

/// Once more what is still disturbed, as far as `limit` allows.
fn repeat_disturbed(
    plan: &Plan,
    workloads: &[&'static Workload],
    allocators: &[Allocator],
    tools: &Tools,
    log: &mut Log,
    limit: Duration,
) -> Result<()> {
    let disturbed = |r: &&Run| r.outcome.as_ref().is_ok_and(|s| s.disturbed.is_some());
    let runs: Vec<_> =
        log.runs.iter().filter(disturbed).map(|r| (r.workload, r.allocator, r.round)).collect();
    let (start, mut patience) = (Instant::now(), Patience::new(plan.patience));
    for (w, a, round) in runs {
        if start.elapsed() > limit || !patience.wait_for_quiet() {
            eprintln!("no time, or no quiet, to repeat all that was disturbed");
            break;
        }
        let idle_s = plan.idle_s(workloads[w], round);
        let again = measuring::run(workloads[w], &allocators[a], tools, idle_s)
            .and_then(|sample| agrees(sample, log, w));
        if again.as_ref().is_ok_and(|sample| sample.disturbed.is_none()) {
            log.add(Run { workload: w, allocator: a, round, outcome: again })?;
        }
    }
    Ok(())
}

/// Says how long `plan` will take, going by the last whole comparison.
pub fn estimate(plan: &Plan, workloads: &[&'static Workload], allocators: usize, with_calls: bool) {
    /// Of a workload that was never run, and of a round of single calls.
    const UNKNOWN_S: f64 = 1.0;
    const CALLS_S: f64 = 30.0;
    let earlier = results::earlier(&root().join("docs/bench/runs.tsv"));
    let mut seconds = 0.0;
    for round in 0..plan.repeat {
        for w in workloads.iter().filter(|w| plan.has(w, round)) {
            // Means over all rounds hold the idling already.
            let idle_s = f64::from(plan.idle_s(w, round));
            seconds += earlier.get(w.name).copied().unwrap_or(UNKNOWN_S + idle_s);
        }
    }
    let rounds = plan.repeat;
    let calls_s = if with_calls { CALLS_S * rounds as f64 } else { 0.0 };
    let minutes = (seconds * allocators as f64 + calls_s) / 60.0;
    let known = if earlier.is_empty() { "a guess" } else { "going by docs/bench/runs.tsv" };
    eprintln!(
        "{} workloads, {allocators} allocators, {rounds} rounds: about {:.0} minutes ({known}), \
         and what is disturbed once more",
        workloads.len(),
        minutes.ceil()
    );
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
