//! Runs as rows of a file: written as they happen, read again to go on.

use super::allocators::Allocator;
use super::measuring::Sample;
use super::workloads::Workload;
use super::{Result, machine};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// One run, by the indices of its workload and allocator.
pub struct Run {
    pub workload: usize,
    pub allocator: usize,
    pub round: usize,
    pub outcome: Result<Sample>,
}

#[cfg(test)]
impl Run {
    /// One that took so many seconds, and nothing else.
    pub fn timed(workload: usize, allocator: usize, round: usize, wall_s: f64) -> Run {
        let values = [("wall_s".to_owned(), wall_s)].into();
        let outcome = Ok(Sample { values, result: 0, disturbed: None });
        Run { workload, allocator, round, outcome }
    }
}

/// Columns after the workload's name and family, the allocator's, the round, the
/// state and the result.
const COLUMNS: &[&str] = &[
    "wall_s",
    "work_s",
    "user_s",
    "sys_s",
    "peak_kb",
    "peak_rss_kb",
    "end_rss_kb",
    "phase1_rss_kb",
    "phase2_rss_kb",
    "phase3_rss_kb",
    "phase4_rss_kb",
    "phase5_rss_kb",
    "idle_rss_kb",
    "idle_lazy_kb",
    "live_kb",
    "copied_kb",
    "minor",
    "major",
    "voluntary",
    "involuntary",
    "steal_s",
    "foreign_s",
    "waited_s",
    "malloc_p50_ns",
    "malloc_p99_ns",
    "malloc_p999_ns",
    "malloc_max_ns",
    "free_p50_ns",
    "free_p99_ns",
    "free_p999_ns",
    "free_max_ns",
];

/// What the rows mean: they name workloads and allocators.
pub struct Names<'a> {
    pub workloads: &'a [&'static Workload],
    pub allocators: &'a [Allocator],
}

impl Names<'_> {
    fn head(&self) -> String {
        let mut text = String::new();
        for line in machine::describe() {
            let _ = writeln!(text, "# {line}");
        }
        for a in self.allocators {
            let _ = writeln!(text, "# {}: {}", a.name, a.note);
        }
        let columns = COLUMNS.join("\t");
        let _ = writeln!(text, "workload\tfamily\tallocator\tround\tstate\tresult\t{columns}");
        text
    }

    fn row(&self, run: &Run) -> String {
        let w = self.workloads[run.workload];
        let allocator = &self.allocators[run.allocator].name;
        let mut text = format!("{}\t{}\t{allocator}\t{}", w.name, w.family, run.round + 1);
        match &run.outcome {
            Ok(sample) => {
                let state = sample.disturbed.as_ref().map_or("ok", |_| "disturbed");
                let _ = write!(text, "\t{state}\t{:016x}", sample.result);
                for name in COLUMNS {
                    let value = sample.get(name).map_or(String::new(), short);
                    let _ = write!(text, "\t{value}");
                }
            }
            Err(why) => {
                let _ = write!(text, "\tfailed\t{}", why.replace(['\t', '\n'], " "));
            }
        }
        text.push('\n');
        text
    }

    /// None for rows of what is not compared now.
    fn read(&self, row: &str) -> Option<Run> {
        let words: Vec<&str> = row.split('\t').collect();
        let [name, _, allocator, round, state, result, values @ ..] = &words[..] else {
            return None;
        };
        let outcome = match *state {
            "failed" => Err((*result).to_owned()),
            // Cut off in the middle.
            _ if values.len() != COLUMNS.len() => return None,
            _ => Ok(Sample {
                values: COLUMNS
                    .iter()
                    .zip(values)
                    .filter_map(|(name, v)| Some(((*name).to_owned(), v.parse().ok()?)))
                    .collect(),
                result: u64::from_str_radix(result, 16).ok()?,
                disturbed: (*state == "disturbed").then(|| "read again".to_owned()),
            }),
        };
        Some(Run {
            workload: self.workloads.iter().position(|w| w.name == *name)?,
            allocator: self.allocators.iter().position(|a| a.name == *allocator)?,
            round: round.parse::<usize>().ok()?.checked_sub(1)?,
            outcome,
        })
    }
}

/// No more digits than were measured.
fn short(value: f64) -> String {
    if value.fract() == 0.0 { value.to_string() } else { format!("{value:.6}") }
}

/// Keeps of each workload, allocator and round the last run, in the order of the rounds.
fn settled(runs: Vec<Run>) -> Vec<Run> {
    let by_key = runs.into_iter().map(|r| ((r.round, r.workload, r.allocator), r));
    by_key.collect::<BTreeMap<_, _>>().into_values().collect()
}

/// runs.tsv of one comparison.
pub struct Log<'a> {
    file: PathBuf,
    names: Names<'a>,
    pub runs: Vec<Run>,
}

impl<'a> Log<'a> {
    /// Begins anew, or goes on with what `out` has.
    ///
    /// # Errors
    /// What is there was measured on something else.
    pub fn open(out: &Path, names: Names<'a>, goes_on: bool) -> Result<Self> {
        fs::create_dir_all(out).map_err(|e| format!("{}: {e}", out.display()))?;
        let mut log = Log { file: out.join("runs.tsv"), names, runs: Vec::new() };
        if goes_on {
            let text = fs::read_to_string(&log.file).unwrap_or_default();
            let same = |line: &&str| line.starts_with("# ") && !line.starts_with("# date");
            let head = log.names.head();
            let differ = head.lines().filter(same).find(|line| !text.lines().any(|l| l == *line));
            if let (Some(line), false) = (differ, text.is_empty()) {
                let file = log.file.display();
                return Err(format!("--resume: {file} has been measured without {line:?}"));
            }
            log.runs = settled(text.lines().filter_map(|row| log.names.read(row)).collect());
            eprintln!("{} runs were there already", log.runs.len());
        }
        log.save()?;
        Ok(log)
    }

    #[cfg(test)]
    pub fn of_runs(runs: Vec<Run>) -> Log<'static> {
        Log { file: PathBuf::new(), names: Names { workloads: &[], allocators: &[] }, runs }
    }

    pub fn add(&mut self, run: Run) -> Result<()> {
        let row = self.names.row(&run);
        self.runs.push(run);
        fs::OpenOptions::new()
            .append(true)
            .open(&self.file)
            .and_then(|mut file| file.write_all(row.as_bytes()))
            .map_err(|e| format!("{}: {e}", self.file.display()))
    }

    /// Writes the file anew: a repeated run in its first one's place.
    pub fn save(&mut self) -> Result<()> {
        self.runs = settled(std::mem::take(&mut self.runs));
        let rows: String = self.runs.iter().map(|run| self.names.row(run)).collect();
        let unfinished = self.file.with_extension("unfinished");
        fs::write(&unfinished, self.names.head() + &rows)
            .and_then(|()| fs::rename(&unfinished, &self.file))
            .map_err(|e| format!("{}: {e}", self.file.display()))
    }

    pub fn of(&self, workload: usize, allocator: usize) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |r| r.workload == workload && r.allocator == allocator)
    }
}

/// Mean wall time, by workload, of the runs in a file of an earlier comparison.
pub fn earlier(file: &Path) -> BTreeMap<String, f64> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut found: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for row in text.lines() {
        let words: Vec<&str> = row.split('\t').collect();
        if let Some(wall_s) = words.get(6).and_then(|word| word.parse::<f64>().ok()) {
            let (sum, count) = found.entry(words[0].to_owned()).or_default();
            *sum += wall_s;
            *count += 1.0;
        }
    }
    found.into_iter().map(|(name, (sum, count))| (name, sum / count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{allocators, workloads};

    #[test]
    fn what_is_written_is_read_again() {
        let out = std::env::temp_dir().join(format!("xtask-results-{}", std::process::id()));
        let chosen = workloads::named(&["trees".into()]);
        let allocators = [allocators::Allocator::new("glibc", None, "as it is".into())];
        let names = || Names { workloads: &chosen, allocators: &allocators };
        let sample = Sample {
            values: [("wall_s".to_owned(), 0.25), ("peak_kb".to_owned(), 1000.0)].into(),
            result: 7,
            disturbed: None,
        };
        let run = |round, outcome| Run { workload: 0, allocator: 0, round, outcome };
        let mut log = Log::open(&out, names(), false).unwrap();
        let disturbed = Sample { disturbed: Some("noise".into()), ..sample.clone() };
        log.add(run(0, Ok(disturbed))).unwrap();
        log.add(run(1, Err("it\tfailed".into()))).unwrap();
        log.add(run(0, Ok(sample.clone()))).unwrap();
        // What an interrupted write leaves.
        let mut file = fs::OpenOptions::new().append(true).open(out.join("runs.tsv")).unwrap();
        file.write_all(b"trees\tcompute\tglibc\t3\tok\t00").unwrap();
        drop(log);

        let again = Log::open(&out, names(), true).unwrap();
        assert_eq!(again.runs.len(), 2);
        assert_eq!(again.runs[0].outcome, Ok(sample));
        assert_eq!(again.runs[1].outcome, Err("it failed".into()));
        assert_eq!(earlier(&out.join("runs.tsv"))["trees"], 0.25);

        let other = [allocators::Allocator::new("glibc", None, "another".into())];
        let other = Names { workloads: &chosen, allocators: &other };
        assert!(Log::open(&out, other, true).is_err());
        fs::remove_dir_all(out).unwrap();
    }
}
