//! The goals: what cidalloc is meant to reach beside the others, what it was
//! measured to, and whether that is reached.

use super::allocators::OURS;
use super::calls::{Calls, Interface};
use super::pace::Paced;
use super::statistics::{geometric_mean, least};
use super::tables::{Table, shown, table, to_best_peer};
use super::workloads::{Kind, Workload};

/// All that was measured.
pub struct Measured<'a> {
    pub names: &'a [&'a str],
    pub workloads: &'a [&'static Workload],
    pub time: &'a Table,
    pub paced: &'a Paced,
    pub peak: &'a Table,
    pub idle: &'a Table,
    pub lazy: &'a Table,
    pub live: &'a Table,
    pub copied: &'a Table,
    pub calls: &'a Calls<'a>,
}

/// One goal; not measured, if there is no value.
struct Goal {
    what: String,
    value: Option<f64>,
    bound: f64,
    /// The bound itself is not enough.
    is_strict: bool,
    digits: usize,
    unit: &'static str,
    /// With what it was compared, or where it was worst.
    remark: String,
}

impl Goal {
    fn ratio(what: impl Into<String>, value: Option<f64>, bound: f64) -> Self {
        let (what, remark) = (what.into(), String::new());
        Goal { what, value, bound, is_strict: false, digits: 2, unit: "", remark }
    }

    fn below(mut self) -> Self {
        self.is_strict = true;
        self
    }

    fn of(mut self, unit: &'static str, digits: usize) -> Self {
        (self.unit, self.digits) = (unit, digits);
        self
    }

    fn remark(mut self, remark: impl Into<String>) -> Self {
        self.remark = remark.into();
        self
    }

    fn is_reached(&self) -> Option<bool> {
        self.value.map(|v| if self.is_strict { v < self.bound } else { v <= self.bound })
    }

    fn row(&self) -> Vec<String> {
        let (digits, unit) = (self.digits, self.unit);
        let value = self.value.map_or("not measured".into(), |v| format!("{v:.digits$}{unit}"));
        let bound = if self.is_strict { "below" } else { "at most" };
        let reached = match self.is_reached() {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "-",
        };
        let bound = format!("{bound} {:.digits$}{unit}", self.bound);
        vec![self.what.clone(), value, bound, reached.into(), self.remark.clone()]
    }
}

/// Geometric mean over one kind of workloads.
fn mean_of(kind: Kind, ratios: &[(&Workload, f64)]) -> Option<f64> {
    let of = ratios.iter().filter(|(w, _)| w.kind == kind);
    geometric_mean(&of.map(|(_, r)| *r).collect::<Vec<_>>())
}

/// Those above `most`, the worst first; of a goal's own workloads none.
fn above(ratios: &[(&Workload, f64)], most: f64) -> String {
    let mut over: Vec<_> =
        ratios.iter().filter(|(w, r)| w.kind != Kind::Goal && *r > most).collect();
    over.sort_by(|a, b| b.1.total_cmp(&a.1));
    over.iter().map(|(w, r)| format!("{} {r:.2}", w.name)).collect::<Vec<_>>().join(", ")
}

impl Measured<'_> {
    fn workload(&self, name: &str) -> Option<usize> {
        self.workloads.iter().position(|w| w.name == name)
    }

    fn value(&self, table: &Table, workload: &str, allocator: &str) -> Option<f64> {
        let a = self.names.iter().position(|n| *n == allocator)?;
        table.values[self.workload(workload)?][a]
    }

    fn ours(&self, table: &Table, workload: &str) -> Option<f64> {
        self.value(table, workload, OURS)
    }

    /// Workloads with a ratio to their best peer.
    fn ratios(&self, ratio: impl Fn(usize) -> Option<f64>) -> Vec<(&'static Workload, f64)> {
        let rows = self.workloads.iter().enumerate();
        rows.filter_map(|(w, workload)| Some((*workload, ratio(w)?))).collect()
    }

    fn times(&self, bounds: [(Kind, &str, f64); 2], most: f64) -> Vec<Goal> {
        let mut goals = self.means(self.time, "time", bounds, most);
        let paced = self.ratios(|w| to_best_peer(self.names, &self.paced.medians.values[w]));
        let held_out = self.ratios(|w| self.paced.held_out(self.names, w));
        for (goal, (kind, ..)) in goals.iter_mut().zip(bounds) {
            let [paced, held_out] = [&paced, &held_out].map(|r| shown(mean_of(kind, r), 2));
            goal.remark += &format!("; paced {paced}, held out {held_out}");
        }
        if let Some(worst) = goals.last_mut() {
            let over = above(&paced, most);
            let over = if over.is_empty() { "none".to_owned() } else { over };
            worst.remark += &format!("; paced: {over}");
        }
        goals
    }

    /// Means over a kind of workloads, and the worst of all.
    fn means(
        &self,
        table: &Table,
        what: &str,
        bounds: [(Kind, &str, f64); 2],
        most: f64,
    ) -> Vec<Goal> {
        let ratios = self.ratios(|w| to_best_peer(self.names, &table.values[w]));
        let mut goals: Vec<Goal> = bounds
            .map(|(kind, label, bound)| {
                let count = ratios.iter().filter(|(w, _)| w.kind == kind).count();
                let remark = format!("{count} workloads, against the best peer of each");
                let what = format!("{what}, {label}: geometric mean");
                Goal::ratio(what, mean_of(kind, &ratios), bound).remark(remark)
            })
            .into();
        let judged = ratios.iter().filter(|(w, _)| w.kind != Kind::Goal);
        let worst = judged.max_by(|a, b| a.1.total_cmp(&b.1));
        let over = above(&ratios, most);
        let remark = if over.is_empty() {
            worst.map_or(String::new(), |(w, _)| w.name.into())
        } else {
            over
        };
        let what = format!("{what}: the worst of all workloads");
        goals.push(Goal::ratio(what, worst.map(|(_, r)| *r), most).remark(remark));
        goals
    }

    fn small(&self) -> Vec<Goal> {
        let over = |table: &Table, workload: &str| {
            Some(self.ours(table, workload)? - self.value(table, workload, "glibc")?)
        };
        let peak_kb = over(self.peak, "small-program");
        let start_ms = over(self.time, "start-true-alone").map(|s| s * 1000.0 / 300.0);
        vec![
            Goal::ratio("peak of a C program with 300 blocks, over glibc's", peak_kb, 300.0)
                .of(" KB", 0),
            Goal::ratio("start of `true`, over glibc's", start_ms, 0.3).of(" ms", 3),
        ]
    }

    fn calls(&self) -> Vec<Goal> {
        let mut goals = Vec::new();
        for interface in Interface::ALL {
            for row in self.calls.rows(interface) {
                let kind = row.split('-').next().unwrap_or_default();
                let is_small = row.rsplit('-').next().and_then(|n| n.parse().ok()) <= Some(1024);
                let call = match (interface, kind) {
                    (Interface::C, _) => format!("preloaded, {row}"),
                    (Interface::Rust, _) => format!("GlobalAlloc, {row}"),
                };
                let mut values = self.calls.medians(interface, row);
                // The last one does nothing.
                let floor = values.pop().flatten();
                let ratio = to_best_peer(self.names, &values);
                let peers = values.iter().zip(self.names).filter(|(_, name)| **name != OURS);
                let best = peers
                    .filter_map(|(v, name)| Some(((*v)?, *name)))
                    .min_by(|a, b| a.0.total_cmp(&b.0));
                let of = |name: &str| values[self.names.iter().position(|n| *n == name)?];
                let remark = match (of(OURS), best, floor) {
                    (Some(ours), Some((best, name)), Some(floor)) => {
                        format!("{ours:.1} ns, {name} {best:.1} ns, doing nothing {floor:.1} ns")
                    }
                    _ => String::new(),
                };
                if matches!(kind, "pair" | "sized") && is_small {
                    let tcmalloc = of(OURS).zip(of("tcmalloc")).map(|(ours, theirs)| ours / theirs);
                    goals.push(Goal::ratio(format!("{call}: against tcmalloc"), tcmalloc, 0.6));
                    goals.push(
                        Goal::ratio(format!("{call}: against the best peer"), ratio, 0.8)
                            .remark(remark),
                    );
                } else if matches!(kind, "fifo" | "lifo") {
                    goals.push(Goal::ratio(call, ratio, 1.05).remark(remark));
                } else {
                    goals.push(Goal::ratio(call, ratio, 1.0).below().remark(remark));
                }
            }
        }
        goals
    }

    fn thousand_threads(&self) -> Vec<Goal> {
        const ROW: &str = "threads-1000";
        let mut goals = Vec::new();
        for peer in ["mimalloc", "jemalloc"] {
            let against =
                |table: &Table| Some(self.ours(table, ROW)? / self.value(table, ROW, peer)?);
            let what = |measure: &str| format!("1,000 threads, {measure} against {peer}'s");
            goals.push(Goal::ratio(what("peak memory"), against(self.peak), 0.5));
            goals.push(Goal::ratio(what("time"), against(self.time), 1.0));
        }
        goals
    }

    fn memory_left(&self) -> Vec<Goal> {
        let mut goals = Vec::new();
        for (row, how) in [
            ("free-4gb", "a heartbeat of small calls"),
            ("free-4gb-silent", "no call, background thread on"),
        ] {
            let mb = |table: &Table| self.ours(table, row).map(|kb| kb / 1024.0);
            // Without a run the bound is that of the 64 MB that the program keeps.
            let bound = 1.2 * mb(self.live).unwrap_or(64.0) + 8.0;
            let what = format!("resident after 4 GB were freed, {how}");
            let remark = "bound: 1.2 × live + 8 MB";
            goals.push(Goal::ratio(what, mb(self.idle), bound).of(" MB", 1).remark(remark));
            let what = format!("of that left to the kernel's discretion (LazyFree), {how}");
            goals.push(Goal::ratio(what, mb(self.lazy), 0.0).of(" MB", 1));
        }
        goals
    }

    fn growth(&self) -> Vec<Goal> {
        let mut goals = Vec::new();
        for (row, how) in [("realloc-doubling", "by doubling"), ("realloc-by-half", "by half")] {
            let copied = self.ours(self.copied, row).map(|kb| kb / 1024.0);
            let what = format!("1 GB grown {how}: copied");
            // Short copies cannot be told from short interruptions.
            let remark = "of blocks of 1 MB and more; below 16 MB is none";
            goals.push(Goal::ratio(what, copied, 16.0).below().of(" MB", 0).remark(remark));
            let copying: Vec<Option<f64>> = self
                .names
                .iter()
                .filter(|name| **name != OURS)
                .filter(|name| self.value(self.copied, row, name) > Some(102_400.0))
                .map(|name| self.value(self.time, row, name))
                .collect();
            let ratio = self.ours(self.time, row).zip(least(&copying)).map(|(o, best)| o / best);
            let what = format!("1 GB grown {how}: time against the best peer that copies");
            goals.push(Goal::ratio(what, ratio, 0.5));
        }
        goals
    }

    /// The section of the report.
    pub fn section(&self) -> String {
        let kinds = |real, synthetic| {
            [(Kind::Real, "real programs", real), (Kind::Synthetic, "synthetic", synthetic)]
        };
        let groups = [
            ("Time", self.times(kinds(1.0, 1.05), 1.15)),
            ("Peak memory", self.means(self.peak, "peak memory", kinds(1.05, 1.2), 1.5)),
            ("Small programs", self.small()),
            ("Single calls", self.calls()),
            ("A thousand threads", self.thousand_threads()),
            ("Memory that comes back", self.memory_left()),
            ("Growth of one block", self.growth()),
        ];
        let all: Vec<&Goal> = groups.iter().flat_map(|(_, goals)| goals).collect();
        let measured = all.iter().filter(|g| g.value.is_some()).count();
        let reached = all.iter().filter(|g| g.is_reached() == Some(true)).count();
        let peers = self.names.len().saturating_sub(1);
        let mut text = format!(
            "\n## Goals\nWhat cidalloc is meant to reach; ratios are cidalloc's to the peer's. \
             {reached} of {measured} that were measured are reached. Judged by medians. `paced`: each \
             time is divided by its round's pace (the median, over all allocators, of their times \
             in it to their own medians). `held out`: each round's paced time against that of the \
             peer that is best by all other rounds; the best of {peers} noisy medians is too good.\n"
        );
        for (title, goals) in groups.iter().filter(|(_, goals)| !goals.is_empty()) {
            let head = ["goal", "measured", "bound", "reached", ""];
            let rows: Vec<_> = goals.iter().map(Goal::row).collect();
            text += &format!("\n### {title}\n{}", table(&head, &rows));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::allocators::Allocator;
    use crate::bench::calls::Timing;
    use crate::bench::results::{Log, Run};
    use crate::bench::workloads::{self, Tools};

    /// What each goal says, by the begin of its line.
    fn reached<'a>(page: &'a str, goal: &str) -> Vec<&'a str> {
        let line = page.lines().find(|l| l.starts_with(&format!("| {goal} |")));
        line.map_or(Vec::new(), |l| l.split(" | ").skip(1).take(3).collect())
    }

    #[test]
    fn goals_are_computed_from_what_was_measured() {
        let names = [OURS, "mimalloc", "jemalloc", "glibc", "tcmalloc", "nothing"];
        let allocators = names.map(|name| Allocator::new(name, None, String::new()));
        let tools = Tools::default();
        let mut calls = Calls::new(&allocators, &tools);
        for (allocator, ns) in [5.0, 8.0, 7.0, 20.0, 10.0, 4.0].into_iter().enumerate() {
            let (interface, row) = (Interface::Rust, "pair-64".into());
            calls.timings.push(Timing { interface, row, allocator, round: 0, ns });
        }
        let chosen = ["threads-1000", "lua", "realloc-doubling", "small-program"];
        let chosen = workloads::named(&chosen.map(String::from));
        let names = &names[..5];
        let table = |rows: [(&str, [f64; 5]); 4]| {
            let row = |w: &&Workload| {
                let values = rows.iter().find(|(name, _)| *name == w.name).expect("a row").1;
                values.map(|v| (v > 0.0).then_some(v)).to_vec()
            };
            Table { values: chosen.iter().map(row).collect() }
        };
        let time = table([
            ("threads-1000", [1.0, 2.0, 0.5, 3.0, 1.0]),
            ("lua", [1.0, 2.0, 2.0, 1.25, 2.0]),
            ("realloc-doubling", [1.0, 0.5, 4.0, 1.0, 3.0]),
            ("small-program", [9.0, 1.0, 1.0, 1.0, 1.0]),
        ]);
        let peak = table([
            ("threads-1000", [10.0, 30.0, 19.0, 9.0, 40.0]),
            ("lua", [10.0, 10.0, 10.0, 10.0, 10.0]),
            ("realloc-doubling", [10.0, 10.0, 10.0, 10.0, 10.0]),
            ("small-program", [1200.0, 4000.0, 3000.0, 1000.0, 5000.0]),
        ]);
        let copied = table([
            ("threads-1000", [0.0; 5]),
            ("lua", [0.0; 5]),
            ("realloc-doubling", [1024.0, 1024.0, 1e6, 1024.0, 1e6]),
            ("small-program", [0.0; 5]),
        ]);
        let runs = |(workload, values): (usize, &Vec<Option<f64>>)| {
            let of = |(allocator, v): (usize, &Option<f64>)| {
                [0, 1].map(|round| Run::timed(workload, allocator, round, v.unwrap()))
            };
            values.iter().enumerate().flat_map(of).collect::<Vec<_>>()
        };
        let log = Log::of_runs(time.values.iter().enumerate().flat_map(runs).collect());
        let paced = Paced::new((4, 5), &log, |r| r.outcome.as_ref().ok()?.time_s());
        let none = Table { values: vec![vec![None; 5]; 4] };
        let page = Measured {
            names,
            workloads: &chosen,
            time: &time,
            paced: &paced,
            peak: &peak,
            idle: &none,
            lazy: &none,
            live: &none,
            copied: &copied,
            calls: &calls,
        }
        .section();
        let is = |goal: &str, value: &str, bound: &str, said: &str| {
            assert_eq!(reached(&page, goal), [value, bound, said], "{goal}\n{page}");
        };
        is("time, real programs: geometric mean", "0.80", "at most 1.00", "yes");
        let remark = "| 1 workloads, against the best peer of each; paced 0.80, held out 0.80 |";
        assert!(page.contains(remark), "{page}");
        // The small program is of a goal only.
        is("time: the worst of all workloads", "2.00", "at most 1.15", "**no**");
        is("1,000 threads, peak memory against mimalloc's", "0.33", "at most 0.50", "yes");
        is("1,000 threads, peak memory against jemalloc's", "0.53", "at most 0.50", "**no**");
        is("1,000 threads, time against jemalloc's", "2.00", "at most 1.00", "**no**");
        is("peak of a C program with 300 blocks, over glibc's", "200 KB", "at most 300 KB", "yes");
        is("GlobalAlloc, pair-64: against tcmalloc", "0.50", "at most 0.60", "yes");
        is("GlobalAlloc, pair-64: against the best peer", "0.71", "at most 0.80", "yes");
        is("1 GB grown by doubling: copied", "1 MB", "below 16 MB", "yes");
        // The peer that is faster does not copy.
        let what = "1 GB grown by doubling: time against the best peer that copies";
        is(what, "0.33", "at most 0.50", "yes");
        let what = "1 GB grown by half: copied";
        is(what, "not measured", "below 16 MB", "-");
    }

    #[test]
    fn bounds_are_inclusive_unless_strict() {
        let reached = |goal: Goal| goal.is_reached();
        assert_eq!(reached(Goal::ratio("", Some(1.0), 1.0)), Some(true));
        assert_eq!(reached(Goal::ratio("", Some(1.0), 1.0).below()), Some(false));
        assert_eq!(reached(Goal::ratio("", Some(1.01), 1.0)), Some(false));
        assert_eq!(reached(Goal::ratio("", None, 1.0)), None);
        let row = Goal::ratio("peak", Some(250.4), 300.0).of(" KB", 0).row();
        assert_eq!(row, ["peak", "250 KB", "at most 300 KB", "yes", ""]);
    }
}
