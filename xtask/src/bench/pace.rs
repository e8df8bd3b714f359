//! Two figures beside plain medians that a machine of changing speed, and the choice
//! of the best of many, mislead less.
//!
//! - Paced times: each divided by the pace of its round, which is the median, over all
//!   allocators, of a time in this round to the same allocator's median. What slows a
//!   whole round, whoever's turn it is, is the machine.
//! - Held out: the least of several noisy medians is below what its allocator takes on
//!   average, so even an equal of all would measure above 1.00 of the best peer. Here the
//!   peer that is best by all other rounds is compared in this one.

use super::allocators::OURS;
use super::results::{Log, Run};
use super::statistics::{geometric_mean, median};
use super::tables::{Table, is_clean};

/// Times of one comparison, paced.
pub struct Paced {
    /// By workload, allocator and round, of undisturbed runs.
    times: Vec<Vec<Vec<Option<f64>>>>,
    /// Medians of all runs.
    pub medians: Table,
}

impl Paced {
    /// `size`: workloads and allocators.
    pub fn new(size: (usize, usize), log: &Log, time: impl Fn(&Run) -> Option<f64>) -> Self {
        let plain = Table::new(size, log, &time);
        let rounds = log.runs.iter().map(|r| r.round + 1).max().unwrap_or(0);
        let mut to_own_median = vec![vec![Vec::new(); rounds]; size.0];
        for run in &log.runs {
            if let Some((t, m)) = time(run).zip(plain.values[run.workload][run.allocator]) {
                to_own_median[run.workload][run.round].push(t / m);
            }
        }
        let paced = |run: &Run| Some(time(run)? / median(&to_own_median[run.workload][run.round])?);
        let mut times = vec![vec![vec![None; rounds]; size.1]; size.0];
        for run in log.runs.iter().filter(|run| is_clean(run)) {
            times[run.workload][run.allocator][run.round] = paced(run);
        }
        Paced { times, medians: Table::new(size, log, paced) }
    }

    /// cidalloc's time to that of the best peer of all other rounds: the geometric mean
    /// over the rounds of workload `w`.
    pub fn held_out(&self, names: &[&str], w: usize) -> Option<f64> {
        let times = &self.times[w];
        let ours = names.iter().position(|n| *n == OURS)?;
        let in_round = |round: usize| {
            let others = |a: usize| {
                let rounds = times[a].iter().enumerate().filter(|(r, _)| *r != round);
                median(&rounds.filter_map(|(_, t)| *t).collect::<Vec<_>>())
            };
            let best = (0..times.len())
                .filter(|a| *a != ours)
                .filter_map(|a| Some((others(a)?, a)))
                .min_by(|a, b| a.0.total_cmp(&b.0))?
                .1;
            Some(times[ours][round]? / times[best][round]?)
        };
        geometric_mean(&(0..times[ours].len()).filter_map(in_round).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One workload, a row for each round.
    fn paced<const N: usize>(rounds: &[[f64; N]]) -> (Table, Paced) {
        let of_round = |(round, times): (usize, &[f64; N])| {
            times.iter().enumerate().map(|(a, t)| Run::timed(0, a, round, *t)).collect::<Vec<_>>()
        };
        let log = Log::of_runs(rounds.iter().enumerate().flat_map(of_round).collect());
        let wall = |run: &Run| run.outcome.as_ref().ok()?.time_s();
        (Table::new((1, N), &log, wall), Paced::new((1, N), &log, wall))
    }

    fn is_near(value: Option<f64>, expected: f64) -> bool {
        value.is_some_and(|v| (v - expected).abs() < 1e-9)
    }

    #[test]
    fn a_slow_round_slows_all_alike() {
        // The last allocator has one bad run of its own.
        let (plain, paced) = paced(&[[1.0, 2.0, 4.0], [1.5, 3.0, 6.0], [2.0, 4.0, 80.0]]);
        assert_eq!(plain.values, [[1.5, 3.0, 6.0].map(Some)]);
        let values = &paced.medians.values[0];
        assert!(values.iter().zip([1.5, 3.0, 6.0]).all(|(v, e)| is_near(*v, e)), "{values:?}");
    }

    #[test]
    fn one_is_slower_in_the_middle_round_only() {
        let (plain, paced) = paced(&[[1.0, 2.0, 4.0], [1.1, 3.3, 6.6], [3.0, 6.0, 12.0]]);
        assert_eq!(plain.values, [[1.1, 3.3, 6.6].map(Some)]);
        let values = &paced.medians.values[0];
        assert!(is_near(values[1].zip(values[0]).map(|(b, a)| b / a), 2.0), "{values:?}");
    }

    #[test]
    fn the_best_peer_is_chosen_by_the_other_rounds() {
        // Peers that are equals but for luck: the best of them by all rounds has 1.0.
        let rounds = [[2.0, 1.0, 3.0], [2.0, 3.0, 1.0], [2.0, 1.0, 3.0], [2.0, 3.0, 1.0]];
        let names = [OURS, "a", "b"];
        // By the other rounds it is always the one that is slow in this one.
        assert!(is_near(paced(&rounds).1.held_out(&names, 0), 2.0 / 3.0));
        // One that is the best in each round is the best by the others.
        let rounds = [[2.0, 1.0, 3.0]; 3];
        assert!(is_near(paced(&rounds).1.held_out(&names, 0), 2.0));
        assert_eq!(paced(&rounds).1.held_out(&["x", "a", "b"], 0), None);
    }
}
