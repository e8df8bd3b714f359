//! The results as a page: docs/bench/README.md.

use super::allocators::Allocator;
use super::calls::{Calls, Interface};
use super::goals::Measured;
use super::pace::Paced;
use super::results::{Log, Run};
use super::running::Plan;
use super::statistics::{geometric_mean, least, normalised};
use super::tables::{Table, is_clean, shown, table, to_best_peer};
use super::workloads::{Kind, Workload};
use super::{Result, machine, plots};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const LATENCIES: &[&str] = &["p50", "p99", "p999", "max"];

/// Writes the page and the plots.
pub fn write(
    out: &Path,
    workloads: &[&'static Workload],
    allocators: &[Allocator],
    plan: &Plan,
    log: &Log,
    calls: &Calls,
) -> Result<()> {
    let size = (workloads.len(), allocators.len());
    let seconds = |r: &Run| r.outcome.as_ref().ok().and_then(|s| s.time_s());
    let time = Table::new(size, log, seconds);
    let paced = Paced::new(size, log, seconds);
    let peak = Table::new(size, log, |r| r.outcome.as_ref().ok().and_then(|s| s.peak_kb()));
    let [end, idle, lazy, live, copied] =
        ["end_rss_kb", "idle_rss_kb", "idle_lazy_kb", "live_kb", "copied_kb"]
            .map(|name| Table::of(name, size, log));
    let names: Vec<&str> = allocators.iter().map(|a| a.name.as_str()).collect();
    let names = &names[..];

    let mut page = String::from(
        "# cidalloc beside other allocators\n\nWritten by `cargo xtask bench`. Every run is a row of \
         [runs.tsv](runs.tsv), every round of single calls one of [calls.tsv](calls.tsv).\n\n",
    );
    for line in machine::describe() {
        let _ = writeln!(page, "- {line}");
    }
    let _ = writeln!(page, "- {}\n", quality(log));
    let rows: Vec<_> = allocators.iter().map(|a| vec![a.name.clone(), a.note.clone()]).collect();
    page += &table(&["allocator", "what it is"], &rows);
    page += "\nC and C++ programs have them preloaded, Rust programs are built on their crates (on \
             the system's malloc for glibc and gperftools).\n";

    page += "\n## Geometric means\nRatios to the best allocator of each workload; 1.00 would be \
             the best everywhere. Only workloads that every allocator finished.\n\n";
    page += &means(names, workloads, &time, &paced, &peak);
    page +=
        "\n![time](time.svg)\n![peak memory](memory.svg)\n![time against memory](scatter.svg)\n";
    page += &Measured {
        names,
        workloads,
        time: &time,
        paced: &paced,
        peak: &peak,
        idle: &idle,
        lazy: &lazy,
        live: &live,
        copied: &copied,
        calls,
    }
    .section();

    page += "\n## Time\nMedians, divided by that of the best allocator. Time is the wall time, of \
             some workloads that of the work alone. A `~` marks medians of runs most of which \
             something else disturbed.\n\n";
    page += &ratios(names, workloads, &time, log, |v| format!("{v:.3} s"));
    page += "\n## Peak memory\nThe most resident memory of the largest process, divided by the \
             leanest allocator's.\n\n";
    page += &ratios(names, workloads, &peak, log, |v| format!("{:.1} MB", v / 1024.0));

    let phases: Vec<(String, Table)> = (1..=5)
        .map(|n| (format!("after phase {n}"), Table::of(&format!("phase{n}_rss_kb"), size, log)))
        .collect();
    let mut left: Vec<(&str, &Table)> = phases.iter().map(|(l, t)| (l.as_str(), t)).collect();
    left.extend([("end", &end), ("idle", &idle)]);
    page += &memory_left(names, workloads, &left, plan);
    page += &latencies(names, workloads, log);
    page += &single_calls(names, calls);
    page += &failures(names, workloads, log);
    fs::write(out.join("README.md"), &page).map_err(|e| format!("README.md: {e}"))?;
    plots::write(out, names, workloads, &time, &peak)?;
    eprintln!("\n{}\nwritten to {}", means(names, workloads, &time, &paced, &peak), out.display());
    Ok(())
}

fn memory_left(
    names: &[&str],
    workloads: &[&'static Workload],
    measures: &[(&str, &Table)],
    plan: &Plan,
) -> String {
    let mut rows = Vec::new();
    for (w, workload) in workloads.iter().enumerate().filter(|(_, w)| w.idles) {
        for (label, measure) in measures.iter().filter(|(_, measure)| !measure.is_empty(w)) {
            let name = format!("{}, {label}", workload.name);
            let cells = measure.values[w].iter().map(|v| shown(v.map(|v| v / 1024.0), 1));
            rows.push([vec![name], cells.collect()].concat());
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "\n## Memory left, MB\nResident at the end of the work and after {} s of idling, with a few \
         small calls every 20 to 100 ms; `silent` without any, and with the allocator's background \
         thread, if it has one. The `free` workloads hold 64 MB and have freed 4 GB.\n\n{}",
        plan.idle_s,
        table(&[&["workload"], names].concat(), &rows)
    )
}

fn latencies(names: &[&str], workloads: &[&'static Workload], log: &Log) -> String {
    let size = (workloads.len(), names.len());
    let mut rows = Vec::new();
    for call in ["malloc", "free"] {
        let points: Vec<Table> = LATENCIES
            .iter()
            .map(|point| Table::of(&format!("{call}_{point}_ns"), size, log))
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
        "\n## Latency of single calls in servers, ns\nEvery 16th call is timed, the clock's own \
         cost included: p50 / p99 / p99.9 / max, each the median of the runs.\n\n{}",
        table(&[&["workload"], names].concat(), &rows)
    )
}

fn single_calls(names: &[&str], calls: &Calls) -> String {
    let mut text = String::new();
    for (interface, title) in [
        (Interface::C, "malloc and free, preloaded; `sized` is operator new and sized delete"),
        (Interface::Rust, "through `GlobalAlloc`"),
    ] {
        let rows: Vec<Vec<String>> = calls
            .rows(interface)
            .into_iter()
            .map(|row| {
                let cells = calls.medians(interface, row).into_iter().map(|v| shown(v, 1));
                [vec![row.to_owned()], cells.collect()].concat()
            })
            .collect();
        if !rows.is_empty() {
            let head = [&["ns"], names, &["nothing"]].concat();
            text += &format!("\n### {title}\n{}", table(&head, &rows));
        }
    }
    if text.is_empty() {
        return text;
    }
    format!(
        "\n## Single calls\nNanoseconds of an allocation and its free; of `growth` those of a \
         block that grows from 16 bytes to 64 KiB, doubling. Allocators do a few milliseconds of \
         work in turns, each in a process of its own; medians. `fifo` and `lifo` hold 1,000 blocks, \
         `mixed` 10,000 of random sizes up to the number. `nothing` is a library that always \
         returns the same memory: what the calls themselves take.\n{text}"
    )
}

fn failures(names: &[&str], workloads: &[&'static Workload], log: &Log) -> String {
    let mut text = String::new();
    for run in &log.runs {
        if let Err(why) = &run.outcome {
            let (w, a) = (workloads[run.workload].name, names[run.allocator]);
            let _ = writeln!(text, "- {w} under {a}: {why}");
        }
    }
    if text.is_empty() { text } else { format!("\n## Failed\n{text}") }
}

fn quality(log: &Log) -> String {
    let rounds = log.runs.iter().map(|r| r.round + 1).max().unwrap_or(0);
    let disturbed = log.runs.iter().filter(|r| r.outcome.is_ok() && !is_clean(r)).count();
    format!(
        "runs: {rounds} of each workload under each allocator, interleaved; {} in all, {disturbed} \
         of them disturbed in spite of repetition",
        log.runs.len()
    )
}

/// The means of both measures over both kinds, and of cidalloc against the best peer.
fn means(
    names: &[&str],
    workloads: &[&'static Workload],
    time: &Table,
    paced: &Paced,
    peak: &Table,
) -> String {
    let mut rows = Vec::new();
    for (kind, label) in [(Kind::Real, "real programs"), (Kind::Synthetic, "synthetic")] {
        for (table, measure) in
            [(time, "time"), (&paced.medians, "time, paced"), (peak, "peak memory")]
        {
            let (means, count) = table.geometric_means(|w| workloads[w].kind == kind);
            if count > 0 {
                let cells = means.into_iter().map(|m| shown(m, 2)).collect();
                let ours = shown(against_best_peer(names, workloads, table, kind), 2);
                let name = format!("{measure}, {count} {label}");
                rows.push([vec![name], cells, vec![ours]].concat());
            }
        }
    }
    table(&[&["measure"], names, &["cidalloc / best peer"]].concat(), &rows)
}

fn against_best_peer(
    names: &[&str],
    workloads: &[&'static Workload],
    table: &Table,
    kind: Kind,
) -> Option<f64> {
    let rows = (0..workloads.len()).filter(|w| workloads[*w].kind == kind);
    geometric_mean(&rows.filter_map(|w| to_best_peer(names, &table.values[w])).collect::<Vec<_>>())
}

fn ratios(
    names: &[&str],
    workloads: &[&'static Workload],
    measured: &Table,
    log: &Log,
    show: impl Fn(f64) -> String,
) -> String {
    let rows: Vec<_> = (0..workloads.len())
        .filter(|w| !measured.is_empty(*w))
        .map(|w| {
            let values = &measured.values[w];
            let cell = |(a, ratio): (usize, Option<f64>)| {
                let Some(ratio) = ratio else { return "-".into() };
                let clean = log.of(w, a).filter(|r| is_clean(r)).count();
                let mark = if clean * 2 < log.of(w, a).count() { "~" } else { "" };
                let bold = if ratio < 1.005 { "**" } else { "" };
                format!("{bold}{mark}{ratio:.2}{bold}")
            };
            let best = least(values).map_or("-".into(), &show);
            let cells = normalised(values).into_iter().enumerate().map(cell).collect();
            let ours = shown(to_best_peer(names, values), 2);
            [vec![workloads[w].name.into(), best], cells, vec![ours]].concat()
        })
        .collect();
    table(&[&["workload", "best"], names, &["cidalloc / best peer"]].concat(), &rows)
}

/// Nanoseconds in three digits.
fn short(ns: f64) -> String {
    match ns {
        n if n < 1e3 => format!("{n:.0}"),
        n if n < 1e6 => format!("{:.1}k", n / 1e3),
        n => format!("{:.1}M", n / 1e6),
    }
}
