//! Medians of all runs, and tables of them.

use super::allocators::OURS;
use super::results::{Log, Run};
use super::statistics::{geometric_mean, least, median, normalised};
use std::fmt::Write as _;

/// Medians of one measure: a row for each workload, a column for each allocator.
pub struct Table {
    pub values: Vec<Vec<Option<f64>>>,
}

impl Table {
    /// Disturbed runs count only where they are more than half.
    pub fn new(size: (usize, usize), log: &Log, measure: impl Fn(&Run) -> Option<f64>) -> Self {
        let cell = |w, a| {
            let clean: Vec<f64> =
                log.of(w, a).filter(|r| is_clean(r)).filter_map(&measure).collect();
            let all: Vec<f64> = log.of(w, a).filter_map(&measure).collect();
            median(if clean.len() * 2 >= all.len() { &clean } else { &all })
        };
        Table { values: (0..size.0).map(|w| (0..size.1).map(|a| cell(w, a)).collect()).collect() }
    }

    /// Medians of a measure by its name.
    pub fn of(name: &str, size: (usize, usize), log: &Log) -> Self {
        Table::new(size, log, |r| r.outcome.as_ref().ok().and_then(|s| s.get(name)))
    }

    /// Geometric mean of the ratios to the best, over the rows that `chosen` picks
    /// and in which every allocator has a value: all are judged by the same rows.
    pub fn geometric_means(&self, chosen: impl Fn(usize) -> bool) -> (Vec<Option<f64>>, usize) {
        let rows: Vec<Vec<f64>> = (0..self.values.len())
            .filter(|w| chosen(*w))
            .filter_map(|w| normalised(&self.values[w]).into_iter().collect())
            .collect();
        let columns = self.values.first().map_or(0, Vec::len);
        let mean = |a| geometric_mean(&rows.iter().map(|r: &Vec<f64>| r[a]).collect::<Vec<_>>());
        ((0..columns).map(mean).collect(), rows.len())
    }

    pub fn is_empty(&self, w: usize) -> bool {
        self.values[w].iter().all(Option::is_none)
    }
}

pub fn is_clean(run: &Run) -> bool {
    run.outcome.as_ref().is_ok_and(|sample| sample.disturbed.is_none())
}

/// cidalloc's value divided by the best of all others.
pub fn to_best_peer(names: &[&str], values: &[Option<f64>]) -> Option<f64> {
    let ours = names.iter().position(|n| *n == OURS)?;
    let peers: Vec<_> =
        (0..values.len()).map(|a| if a == ours { None } else { values[a] }).collect();
    Some(values[ours]? / least(&peers)?)
}

/// In Markdown.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// A value, or a dash.
pub fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |v| format!("{v:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_take_only_rows_that_all_finished() {
        let table = Table {
            values: vec![
                vec![Some(1.0), Some(4.0)],
                vec![Some(9.0), Some(1.0)],
                vec![Some(5.0), None],
                vec![Some(7.0), Some(1.0)],
            ],
        };
        let (means, rows) = table.geometric_means(|w| w < 3);
        assert_eq!(rows, 2);
        assert!((means[0].unwrap() - 3.0).abs() < 1e-9);
        assert!((means[1].unwrap() - 2.0).abs() < 1e-9);
    }

    #[test]
    fn ours_is_compared_with_the_best_of_the_others() {
        let names = ["cidalloc", "a", "b"];
        assert_eq!(to_best_peer(&names, &[Some(1.0), Some(4.0), Some(2.0)]), Some(0.5));
        assert_eq!(to_best_peer(&names, &[Some(3.0), None, Some(2.0)]), Some(1.5));
        assert_eq!(to_best_peer(&names, &[None, Some(1.0), Some(2.0)]), None);
    }
}
