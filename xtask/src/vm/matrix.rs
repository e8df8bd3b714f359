//! The matrix: runs every cell that is asked for, one after another, and tells what
//! came of each.
//!
//! A cell whose kernel, C library or programs cannot be had is skipped and said; a
//! cell that is not right, or did not end, fails the command.

use super::cells::{self, CELLS, Cell, MACHINE};
use super::guest::{self, End};
use super::kept::{Kept, Run};
use super::payload::{self, Payload};
use super::steps::{self, Step};
use super::verdicts::{self, Done};
use super::{SKIPPED, report};
use crate::Result;
use crate::commands::text;
use crate::places::{root, target};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
#[group(id = "matrix")]
pub struct Options {
    /// The cells that continuous integration runs
    #[arg(long)]
    short: bool,
    /// Only cells whose name contains PATTERN (repeatable)
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// List the cells and what is expected of each; run nothing
    #[arg(long)]
    list: bool,
    /// Go on after the cells that were right before, with the same programs and steps
    #[arg(long)]
    resume: bool,
    /// Where the report goes [default: docs, of a part of the matrix target/vm]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What came of a cell.
pub struct Row {
    pub cell: Cell,
    pub end: Ended,
    pub steps: Vec<Done>,
    pub wall: Duration,
    /// Run by a command before this one.
    pub is_kept: bool,
    /// The guest's kernel's, where it did not end well.
    pub kernel_log: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    Whole,
    /// Not run, and why.
    Skipped(String),
    /// The guest timed out or died.
    Early(&'static str),
}

impl Row {
    pub fn is_right(&self) -> bool {
        self.end == Ended::Whole && self.steps.iter().all(|done| done.is_right)
    }

    pub fn is_skipped(&self) -> bool {
        matches!(self.end, Ended::Skipped(_))
    }
}

/// Returns the exit status.
pub fn run(options: &Options) -> Result<i32> {
    let chosen = chosen(options);
    if options.list {
        list(&chosen);
        return Ok(0);
    }
    if chosen.is_empty() {
        return Err("no cell has such a name; --list names them".into());
    }
    let is_whole = !options.short && options.only.is_empty();
    let usual = if is_whole { root().join("docs") } else { target().join("vm") };
    let out = options.out.clone().unwrap_or(usual);
    fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;

    let payload = Payload::build(&chosen, !options.short);
    let mut rows = Vec::new();
    for (number, cell) in chosen.iter().enumerate() {
        eprintln!("[{}/{}] {}", number + 1, chosen.len(), cell.name());
        rows.push(run_cell(cell, &payload, options.resume));
        report::write(&out, &rows, &payload)?;
    }
    print!("{}", report::summary(&rows));
    println!("written: {}", out.join("kernels.md").display());
    Ok(status(&rows))
}

/// 1 if a cell is not right, SKIPPED if none was run.
fn status(rows: &[Row]) -> i32 {
    if rows.iter().any(|row| !row.is_skipped() && !row.is_right()) {
        return 1;
    }
    if rows.iter().all(Row::is_skipped) { SKIPPED } else { 0 }
}

fn chosen(options: &Options) -> Vec<Cell> {
    let all = machine().into_iter().chain(CELLS.iter().copied());
    all.filter(|cell| !options.short || cell.short)
        .filter(|cell| {
            let name = cell.name();
            options.only.is_empty() || options.only.iter().any(|p| name.contains(p))
        })
        .collect()
}

/// The machine that this runs on, as a cell.
fn machine() -> Option<Cell> {
    let release = text(Command::new("uname").arg("-r")).ok()?;
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let glibc = cells::version(&payload::glibc()?)?;
    cells::machine(cells::version(&release)?, glibc, cpus)
}

fn list(cells: &[Cell]) {
    for cell in cells {
        let short = if cell.short { "short" } else { "" };
        println!("{:58} {short:6} {}", cell.name(), verdicts::summary(&cell.expected));
    }
}

fn run_cell(cell: &Cell, payload: &Payload, resume: bool) -> Row {
    let began = Instant::now();
    let row = |end, steps, kernel_log| {
        let wall = began.elapsed();
        Row { cell: *cell, end, steps, wall, is_kept: false, kernel_log }
    };
    let skipped = |why: String| {
        eprintln!("  SKIP: {why}");
        row(Ended::Skipped(why), Vec::new(), String::new())
    };
    let directory = match payload.directory(cell) {
        Ok(directory) => directory,
        Err(why) => return skipped(why),
    };
    let steps = steps::of(cell, payload.tcmalloc.is_some());
    let script = directory.join("steps");
    if let Err(e) = fs::write(&script, steps::script(&steps)) {
        return skipped(format!("{}: {e}", script.display()));
    }
    let kept = || Kept::of(cell, directory);
    let before = if resume { kept().and_then(|kept| kept.run()) } else { None };
    if let Some(Run { output, wall }) = before {
        let steps = verdicts::judge(&steps, &output);
        let row = Row { wall, is_kept: true, ..row(Ended::Whole, steps, String::new()) };
        if row.is_right() {
            eprintln!("  as before");
            return row;
        }
    }
    let mut progress = Progress::new(&steps);
    let outcome = if cell.kernel == MACHINE {
        on_machine(directory, &mut |line| progress.line(line))
            .map(|output| (Ended::Whole, output, String::new()))
    } else {
        let mut guest = cell.guest();
        guest.shares = vec![directory.to_path_buf()];
        if let Some(why) = guest::missing(&guest) {
            return skipped(why);
        }
        let command = ["sh".to_owned(), "./steps".to_owned()];
        guest.run(&command, &mut |line| progress.line(line)).map(|outcome| {
            let end = match outcome.end {
                End::Exit(_) => Ended::Whole,
                End::Timeout => Ended::Early("time ran out"),
                End::Died => Ended::Early("the guest died"),
            };
            (end, outcome.output, outcome.kernel_log)
        })
    };
    let (end, output, kernel_log) = match outcome {
        Ok(all) => all,
        // QEMU could not be started: nothing is known of the cell.
        Err(why) => return skipped(why),
    };
    let row = row(end, verdicts::judge(&steps, &output), kernel_log);
    for done in row.steps.iter().filter(|done| !done.is_right) {
        eprintln!("  FAIL {}: {}", done.name, done.said);
    }
    if let Ended::Early(why) = row.end {
        eprintln!("  FAIL: {why}");
    }
    if row.is_right() {
        let run = Run { output, wall: row.wall };
        if let Some(Err(why)) = kept().map(|kept| kept.keep(&run)) {
            eprintln!("  not kept for --resume: {why}");
        }
    }
    row
}

/// A line for each step on the terminal, when it has ended.
struct Progress<'a> {
    steps: &'a [Step],
    began: Instant,
}

impl<'a> Progress<'a> {
    fn new(steps: &'a [Step]) -> Self {
        Progress { steps, began: Instant::now() }
    }

    fn line(&mut self, line: &str) {
        let Some((step, is_end)) = steps::mark(line, self.steps) else { return };
        if is_end {
            eprintln!("  {:42} {:6.1} s", step.name, self.began.elapsed().as_secs_f64());
        }
        self.began = Instant::now();
    }
}

/// Runs the script here, in a copy of the directory, as it does in a guest.
fn on_machine(directory: &Path, each_line: &mut dyn FnMut(&str)) -> Result<String> {
    let copy = payload::copied(directory, "machine")?;
    let mut command = Command::new("sh");
    command.arg("./steps").current_dir(copy).env_remove("LD_PRELOAD");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CIDALLOC_") || name == "GLIBC_TUNABLES" {
            command.env_remove(&name);
        }
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("sh: {e}"))?;
    let mut output = String::new();
    let mut lines = BufReader::new(child.stdout.take().ok_or("no pipe")?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).map_err(|e| e.to_string())? > 0 {
        let text = String::from_utf8_lossy(&line).into_owned();
        each_line(text.trim_end_matches('\n'));
        output += &text;
        line.clear();
    }
    child.wait().map_err(|e| e.to_string())?;
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(end: Ended, is_right: &[bool]) -> Row {
        let step = |&is_right: &bool| Done {
            column: steps::Column::Stress,
            name: "stress",
            is_right,
            said: String::new(),
            seconds: 0.0,
            output: String::new(),
        };
        Row {
            cell: CELLS[0],
            end,
            steps: is_right.iter().map(step).collect(),
            wall: Duration::ZERO,
            is_kept: false,
            kernel_log: String::new(),
        }
    }

    #[test]
    fn what_is_not_right_fails_the_command() {
        let good = || row(Ended::Whole, &[true, true]);
        let skipped = || row(Ended::Skipped("no QEMU".into()), &[]);
        assert_eq!(status(&[good(), skipped()]), 0);
        assert_eq!(status(&[good(), row(Ended::Whole, &[true, false])]), 1);
        assert_eq!(status(&[good(), row(Ended::Early("time ran out"), &[true])]), 1);
        assert_eq!(status(&[skipped(), skipped()]), SKIPPED);
    }
}
