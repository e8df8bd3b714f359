//! The results: every run as a row of runs.tsv, medians as tables in README.md,
//! plots beside them.

use super::allocators::{Allocator, OURS};
use super::running::{Plan, Run};
use super::statistics::{geometric_mean, least, median, normalised};
use super::workloads::{Kind, Workload};
use super::{Result, plots};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// Columns of runs.tsv after the names.
const COLUMNS: &[&str] = &[
    "wall_s",
    "work_s",
    "user_s",
    "sys_s",
    "peak_kb",
    "peak_rss_kb",
    "end_rss_kb",
    "idle_rss_kb",
    "minor",
    "major",
    "voluntary",
    "involuntary",
    "malloc_p50_ns",
    "malloc_p99_ns",
    "malloc_p999_ns",
    "malloc_max_ns",
    "free_p50_ns",
    "free_p99_ns",
    "free_p999_ns",
    "free_max_ns",
];

const LATENCIES: &[&str] = &["p50", "p99", "p999", "max"];

/// Medians of one measure: a row for each workload, a column for each allocator.
pub struct Table {
    pub values: Vec<Vec<Option<f64>>>,
}

impl Table {
    fn new(size: (usize, usize), runs: &[Run], measure: impl Fn(&Run) -> Option<f64>) -> Self {
        let cell = |w, a| {
            let of = runs.iter().filter(|r| r.workload == w && r.allocator == a);
            median(&of.filter_map(&measure).collect::<Vec<_>>())
        };
        Table { values: (0..size.0).map(|w| (0..size.1).map(|a| cell(w, a)).collect()).collect() }
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

    /// Medians of a measure by its name.
    fn of(name: &str, size: (usize, usize), runs: &[Run]) -> Self {
        Table::new(size, runs, |r| r.outcome.as_ref().ok().and_then(|s| s.get(name)))
    }

    fn is_empty(&self, w: usize) -> bool {
        self.values[w].iter().all(Option::is_none)
    }
}

pub fn write(
    out: &Path,
    machine: &[String],
    workloads: &[&Workload],
    allocators: &[Allocator],
    plan: &Plan,
    runs: &[Run],
) -> Result<()> {
    let rounds = runs.iter().map(|r| r.round + 1).max().unwrap_or(0);
    fs::create_dir_all(out).map_err(|e| format!("{}: {e}", out.display()))?;
    let size = (workloads.len(), allocators.len());
    let time = Table::new(size, runs, |r| r.outcome.as_ref().ok().map(|s| s.time_s()));
    let peak = Table::new(size, runs, |r| r.outcome.as_ref().ok().map(|s| s.peak_kb()));
    let names: Vec<&str> = allocators.iter().map(|a| a.name.as_str()).collect();

    let mut page = String::from(
        "# cidalloc beside other allocators\n\nWritten by `cargo xtask bench`; \
         every run is a row of [runs.tsv](runs.tsv).\n\n",
    );
    for line in machine {
        let _ = writeln!(page, "- {line}");
    }
    let _ = writeln!(
        page,
        "- runs: {rounds} of each workload under each allocator, interleaved; {}\n",
        quality(runs)
    );
    let rows: Vec<_> = allocators.iter().map(|a| vec![a.name.clone(), a.note.clone()]).collect();
    page += &table(&["allocator", "what it is"], &rows);

    page += "\n## Geometric means\nRatios to the best allocator of each workload; 1.00 would be \
             the best everywhere. Only workloads that every allocator finished.\n\n";
    page += &means(&names, workloads, &time, &peak);
    page +=
        "\n![time](time.svg)\n![peak memory](memory.svg)\n![time against memory](scatter.svg)\n";

    let _ = writeln!(
        page,
        "\n## Time\nMedian of {rounds} runs divided by that of the best allocator. Time is the wall \
         time, of servers and phases that of the work alone.\n"
    );
    page += &ratios(&names, workloads, &time, |v| format!("{v:.3} s"));
    page += "\n## Peak memory\nThe most resident memory of the largest process, divided by the \
             leanest allocator's.\n\n";
    page += &ratios(&names, workloads, &peak, |v| format!("{:.1} MB", v / 1024.0));

    page += &memory_left(&names, workloads, runs, plan.idle_s);
    page += &latencies(&names, workloads, runs);
    let failures: Vec<_> =
        runs.iter().filter_map(|r| Some((r, r.outcome.as_ref().err()?))).collect();
    if !failures.is_empty() {
        page += "\n## Failed\n";
        for (run, why) in failures {
            let (w, a) = (workloads[run.workload].name, names[run.allocator]);
            let _ = writeln!(page, "- {w} under {a}: {why}");
        }
    }
    let save = |name: &str, text: &str| {
        fs::write(out.join(name), text).map_err(|e| format!("{name}: {e}"))
    };
    save("README.md", &page)?;
    save("runs.tsv", &tsv(machine, workloads, allocators, runs))?;
    plots::write(out, &names, workloads, &time, &peak)?;
    eprintln!("\n{}\nwritten to {}", means(&names, workloads, &time, &peak), out.display());
    Ok(())
}

fn memory_left(names: &[&str], workloads: &[&Workload], runs: &[Run], idle_s: u32) -> String {
    let size = (workloads.len(), names.len());
    let measures = ["end_rss_kb", "idle_rss_kb"].map(|name| Table::of(name, size, runs));
    let mut rows = Vec::new();
    for (w, workload) in workloads.iter().enumerate() {
        for (label, measure) in ["end", "idle"].iter().zip(&measures) {
            if !measure.is_empty(w) {
                let mb = |v: &Option<f64>| v.map_or("-".into(), |v| format!("{:.1}", v / 1024.0));
                let name = format!("{}, {label}", workload.name);
                rows.push([vec![name], measure.values[w].iter().map(mb).collect()].concat());
            }
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "\n## Memory left, MB\nResident at the end of the work and after {idle_s} s of idling, with \
         a few small calls every 20 ms.\n\n{}",
        table(&[&["workload"], names].concat(), &rows)
    )
}

fn latencies(names: &[&str], workloads: &[&Workload], runs: &[Run]) -> String {
    let size = (workloads.len(), names.len());
    let mut rows = Vec::new();
    for call in ["malloc", "free"] {
        let points: Vec<Table> = LATENCIES
            .iter()
            .map(|point| Table::of(&format!("{call}_{point}_ns"), size, runs))
            .collect();
        for w in (0..size.0).filter(|w| !points[0].is_empty(*w)) {
            let cell = |a: usize| {
                let four = points.iter().map(|p| p.values[w][a]);
                four.map(|v| v.map_or("-".into(), short)).collect::<Vec<_>>().join(" / ")
            };
            let name = vec![format!("{}, {call}", workloads[w].name)];
            rows.push([name, (0..size.1).map(cell).collect()].concat());
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "\n## Latency of single calls, ns\nEvery 16th call is timed, the clock's own cost included: \
         p50 / p99 / p99.9 / max, each the median of the runs.\n\n{}",
        table(&[&["workload"], names].concat(), &rows)
    )
}

fn quality(runs: &[Run]) -> String {
    let kept = runs.iter().filter_map(|r| r.outcome.as_ref().ok());
    let disturbed = kept.filter(|s| s.disturbed.is_some()).count();
    format!("{} runs kept, {disturbed} of them disturbed in spite of repetition", runs.len())
}

/// The means of both measures over both kinds, and of cidalloc against the best peer.
fn means(names: &[&str], workloads: &[&Workload], time: &Table, peak: &Table) -> String {
    let mut rows = Vec::new();
    for (kind, label) in [(Kind::Real, "real programs"), (Kind::Synthetic, "synthetic")] {
        for (table, measure) in [(time, "time"), (peak, "peak memory")] {
            let (means, count) = table.geometric_means(|w| workloads[w].kind == kind);
            if count > 0 {
                let cells = means.iter().map(|m| m.map_or("-".into(), |m| format!("{m:.2}")));
                let ours = against_best_peer(names, workloads, table, kind);
                let ours = ours.map_or("-".into(), |m| format!("{m:.2}"));
                let name = format!("{measure}, {count} {label}");
                rows.push([vec![name], cells.collect(), vec![ours]].concat());
            }
        }
    }
    table(&[&["measure"], names, &["cidalloc / best peer"]].concat(), &rows)
}

fn against_best_peer(
    names: &[&str],
    workloads: &[&Workload],
    table: &Table,
    kind: Kind,
) -> Option<f64> {
    let rows = (0..workloads.len()).filter(|w| workloads[*w].kind == kind);
    geometric_mean(&rows.filter_map(|w| to_best_peer(names, &table.values[w])).collect::<Vec<_>>())
}

/// cidalloc's value divided by the best of all others.
fn to_best_peer(names: &[&str], values: &[Option<f64>]) -> Option<f64> {
    let ours = names.iter().position(|n| *n == OURS)?;
    let peers: Vec<_> =
        (0..values.len()).map(|a| if a == ours { None } else { values[a] }).collect();
    Some(values[ours]? / least(&peers)?)
}

fn ratios(
    names: &[&str],
    workloads: &[&Workload],
    measured: &Table,
    show: impl Fn(f64) -> String,
) -> String {
    let rows: Vec<_> = (0..workloads.len())
        .filter(|w| !measured.is_empty(*w))
        .map(|w| {
            let values = &measured.values[w];
            let ratio = |r: Option<f64>| match r {
                Some(r) if r < 1.005 => format!("**{r:.2}**"),
                Some(r) => format!("{r:.2}"),
                None => "-".into(),
            };
            let ours = to_best_peer(names, values).map_or("-".into(), |r| format!("{r:.2}"));
            let best = least(values).map_or("-".into(), &show);
            let cells = normalised(values).into_iter().map(ratio).collect();
            [vec![workloads[w].name.into(), best], cells, vec![ours]].concat()
        })
        .collect();
    table(&[&["workload", "best"], names, &["cidalloc / best peer"]].concat(), &rows)
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// Nanoseconds in three digits.
fn short(ns: f64) -> String {
    match ns {
        n if n < 1e3 => format!("{n:.0}"),
        n if n < 1e6 => format!("{:.1}k", n / 1e3),
        n => format!("{:.1}M", n / 1e6),
    }
}

fn tsv(
    machine: &[String],
    workloads: &[&Workload],
    allocators: &[Allocator],
    runs: &[Run],
) -> String {
    let mut text = String::new();
    for line in machine {
        let _ = writeln!(text, "# {line}");
    }
    for a in allocators {
        let _ = writeln!(text, "# {}: {}", a.name, a.note);
    }
    let _ = writeln!(
        text,
        "workload\tfamily\tallocator\tround\tstate\tforeign_s\t{}",
        COLUMNS.join("\t")
    );
    for run in runs {
        let w = workloads[run.workload];
        let _ = write!(
            text,
            "{}\t{}\t{}\t{}",
            w.name,
            w.family,
            allocators[run.allocator].name,
            run.round + 1
        );
        match &run.outcome {
            Ok(sample) => {
                let state = sample.disturbed.as_ref().map_or("ok", |_| "disturbed");
                let _ = write!(text, "\t{state}\t{:.2}", sample.foreign_s);
                for name in COLUMNS {
                    let value = sample.get(name).map_or(String::new(), |v| v.to_string());
                    let _ = write!(text, "\t{value}");
                }
            }
            Err(_) => text += "\tfailed",
        }
        text.push('\n');
    }
    text
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
