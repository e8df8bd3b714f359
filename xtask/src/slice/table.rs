//! The tables in docs/slice.md: medians over the rounds.

use super::figures::{ARMS, Figures};
use crate::Result;
use std::path::Path;

/// The middle one of an odd number; of an even number the lower of both.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n => values[(n - 1) / 2],
    }
}

fn times(ns: f64) -> String {
    match ns {
        ns if ns < 10e3 => format!("{ns:.0} ns"),
        ns if ns < 10e6 => format!("{:.0} µs", ns / 1e3),
        ns => format!("{:.0} ms", ns / 1e6),
    }
}

/// A row for each arm and number of threads.
pub fn table(all: &[Figures], cpus: u32, seconds: f64) -> String {
    let plural = if cpus == 1 { "" } else { "s" };
    let mut text = format!("\n### {cpus} CPU{plural}\n\n");
    text += "| threads a CPU | `CIDALLOC_SLICE` | mallocs/s | p50 | p99 | p99.9 | max | \
             waits for locks/s | holders preempted/s | extensions/s | given back in time |\n";
    text += "|---|---|---|---|---|---|---|---|---|---|---|\n";
    let mut crowds: Vec<u64> = all.iter().map(|f| f.per_cpu).collect();
    crowds.sort();
    crowds.dedup();
    for per_cpu in crowds {
        for arm in ARMS {
            let is_of_row = |f: &&Figures| (f.arm.as_str(), f.per_cpu) == (arm, per_cpu);
            let rows: Vec<&Figures> = all.iter().filter(is_of_row).collect();
            text += &row(arm, per_cpu, seconds, &rows);
        }
    }
    text
}

fn row(arm: &str, per_cpu: u64, seconds: f64, rows: &[&Figures]) -> String {
    let middle = |name: &str| median(rows.iter().map(|f| f.of(name)).collect());
    let rate = |name: &str| format!("{:.0}", middle(name) / seconds);
    let (grants, yields) = (middle("slice_grants"), middle("slice_yields"));
    // Whose request was lost was preempted in its hold.
    let preempted = if arm == "off" { "-".into() } else { rate("slice_revocations") };
    let (extensions, in_time) = match arm {
        "auto" => (rate("slice_grants"), format!("{:.0} %", 100.0 * yields / grants)),
        _ => ("-".into(), "-".into()),
    };
    format!(
        "| {per_cpu} | {arm} | {:.0} | {} | {} | {} | {} | {} | {preempted} | {extensions} | {in_time} |\n",
        middle("per_second"),
        times(middle("p50_ns")),
        times(middle("p99_ns")),
        times(middle("p999_ns")),
        times(middle("max_ns")),
        rate("lock_waits"),
    )
}

const BEGIN: &str = "<!-- made by `cargo xtask slice` -->";
const END: &str = "<!-- end -->";

/// Puts the tables into the document, between its marks.
pub fn write(path: &Path, made: &str) -> Result<()> {
    let at = |why: std::io::Error| format!("{}: {why}", path.display());
    let text = std::fs::read_to_string(path).map_err(at)?;
    let (head, rest) = text.split_once(BEGIN).ok_or("the document has no place for tables")?;
    let (_, tail) = rest.split_once(END).ok_or("the document's tables have no end")?;
    std::fs::write(path, format!("{head}{BEGIN}\n{made}\n{END}{tail}")).map_err(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_times_are_told() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 1.0);
        assert!(median(Vec::new()).is_nan());
        assert_eq!([times(900.0), times(12e3), times(12e6)], ["900 ns", "12 µs", "12 ms"]);
    }

    #[test]
    fn a_row_is_the_median_of_its_arm() {
        let one = |arm: &str, per_second: f64| Figures {
            arm: arm.into(),
            per_cpu: 2,
            numbers: [("per_second".to_owned(), per_second)].into(),
        };
        let all = [one("off", 1.0), one("off", 7.0), one("off", 5.0), one("auto", 9.0)];
        let text = table(&all, 1, 1.0);
        assert!(
            text.contains("\n| 2 | off | 5 |") && text.contains("\n| 2 | auto | 9 |"),
            "{text}"
        );
    }
}
