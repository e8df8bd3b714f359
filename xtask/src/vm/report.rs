//! What came of the cells: a table for the terminal, docs/kernels.md, and the log
//! of the run beside it.

use super::cells::{Libc, MACHINE};
use super::matrix::{Ended, Row};
use super::payload::Payload;
use super::steps::{self, Column};
use super::verdicts::{self, Done};
use crate::Result;
use crate::commands::text;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The matrix's columns after those that name the cell.
const COLUMNS: [(Column, &str); 7] = [
    (Column::Doctor, "doctor"),
    (Column::Stress, "stress"),
    (Column::Soak, "soak"),
    (Column::Twice, "twice"),
    (Column::Sections, "preempted sections"),
    (Column::OtherUser, "other rseq user"),
    (Column::Programs, "programs"),
];

/// Writes kernels.md and kernels.log into `out`.
pub fn write(out: &Path, rows: &[Row], payload: &Payload) -> Result<()> {
    let files = [("kernels.md", markdown(rows, payload)), ("kernels.log", log(rows))];
    for (name, content) in files {
        let path = out.join(name);
        fs::write(&path, content).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

/// A line for each cell, and the count.
pub fn summary(rows: &[Row]) -> String {
    let mut page = String::new();
    for row in rows {
        let _ = write!(page, "{:58} ", row.cell.name());
        let _ = match &row.end {
            Ended::Skipped(why) => writeln!(page, "SKIP {why}"),
            Ended::Early(why) => writeln!(page, "FAIL {why}"),
            Ended::Whole if row.is_right() => {
                writeln!(page, "ok   {} ({:.0} s)", reports(row), row.wall.as_secs_f64())
            }
            Ended::Whole => writeln!(page, "FAIL {}", wrong(row)),
        };
    }
    let _ = writeln!(page, "{}", count(rows));
    page
}

fn count(rows: &[Row]) -> String {
    let right = rows.iter().filter(|row| row.is_right()).count();
    let skipped = rows.iter().filter(|row| row.is_skipped()).count();
    let wrong = rows.len() - right - skipped;
    let mut text = format!("{right} of {} cells are right", rows.len());
    if wrong > 0 {
        let _ = write!(text, ", {wrong} are WRONG");
    }
    if skipped > 0 {
        let _ = write!(text, ", {skipped} were NOT RUN");
    }
    text
}

/// The steps that are not right.
fn wrong(row: &Row) -> String {
    let wrong = row.steps.iter().filter(|done| !done.is_right);
    wrong.map(|done| format!("{}: {}", done.name, done.said)).collect::<Vec<_>>().join("; ")
}

/// What the doctor said.
fn reports(row: &Row) -> &str {
    let mut of_doctor = row.steps.iter().filter(|done| done.column == Column::Doctor);
    of_doctor.next().map_or("", |done| &done.said)
}

fn surroundings(row: &Row) -> &str {
    let of = row.steps.iter().find(|done| done.column == Column::Surroundings);
    of.map_or("", |done| &done.output)
}

fn markdown(rows: &[Row], payload: &Payload) -> String {
    let mut page = String::from(INTRODUCTION);
    let said = |command: &mut Command| text(command).unwrap_or_default().trim().to_owned();
    let _ = writeln!(
        page,
        "Made on {} by `cargo xtask vm` in {:.0} minutes, of {}, on Linux {} with {} CPUs.\n\
         **{}.** What each step said: [kernels.log](kernels.log).\n",
        said(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"])),
        rows.iter().map(|row| row.wall).sum::<Duration>().as_secs_f64() / 60.0,
        said(Command::new("git").args(["describe", "--always", "--dirty"])),
        said(Command::new("uname").arg("-r")),
        std::thread::available_parallelism().map_or(1, usize::from),
        count(rows),
    );
    let kept = rows.iter().filter(|row| row.is_kept).count();
    if kept > 0 {
        let _ = writeln!(
            page,
            "{kept} cells were run before the others (`--resume`), with the same programs and steps.\n"
        );
    }
    matrix(&mut page, rows);
    versions(&mut page, rows);
    if let Some(version) = &payload.tcmalloc {
        tcmalloc(&mut page, rows, version);
    }
    page
}

const INTRODUCTION: &str = "\
# Kernels and C libraries

Every cell is a kernel booted under QEMU (the machine's own is not) in which the same programs run.
`cargo xtask vm` runs all of them and writes this file, `--short` those of the continuous
integration, `--only PATTERN` some; `--prepare` fills the cache. A cell that is not right fails the
command. *Strict*: booted with `rseq_debug=1`, under which the kernel kills a process that writes
what is not its own, in V2 and legacy mode alike.

- **doctor**: mode, index, registration and ABI mode that `cidalloc doctor --json` must report, and
  the reason for a fallback, by a table in `xtask/src/vm/cells.rs`; then the same with
  `glibc.pthread.rseq=0`, where the registration must be ours. In musl's cells: the statistics.
- **stress**: `tests/stress.rs`: up to 512 threads, migrations, signals, frees across threads; no
  block changes in its owner's hands, and each class has as many blocks out as before. With musl:
  `forks.c`.
- **soak**: `tests/c/soak.c`: threads that exchange blocks, signal handlers that allocate, fork and
  vfork, short threads, refused system calls; between the phases a walk over every layer, and the
  live blocks counted. Again with a registration of our own.
- **twice**: `tests/c/process/twice.c`: no block is handed out while somebody holds it, and the
  caches of all CPUs are emptied again and again.
- **preempted sections**: `tests/c/registration/preempted.c`, without the allocator: does the kernel
  abort a section whose thread is preempted? On aarch64 6.19 it must be seen not to.
- **other rseq user**: `tests/c/process/counters.c`: counters and lists per CPU in sections of its
  own, in the same threads and in signal handlers; every increment and block is there at the end.
  `tests/c/registration/taken.c`: what such a user relies on, by itself, in threads, over fork and
  exec. On aarch64 6.19 what comes is told: its kernel serves no user of sections right, and,
  strict, kills it, whatever allocator is beside it (docs/registration.md).
- **programs**: perl and sqlite3 of the Debian release that the C library is of; Lua with musl. The
  same output as without the library.

Where glibc's registration keeps the kernel out of V2 (before glibc 2.41, from Linux 7.0 on), doctor,
soak and the other user run once more with `CIDALLOC_RSEQ=take`.

QEMU's emulator takes interrupts between blocks of instructions, so that most cells say nothing of
a section interrupted in its middle. *Interrupted anywhere* makes each instruction a block. These
cells are slow and run `doctor`, `twice` and the other user only, then its counters with a fault
planted, which must lose increments: a cell that could not see a broken section fails.
On aarch64 6.19 it is the kernel that does not abort: there the allocator must fall back, and
sections forced upon it (`CIDALLOC_RSEQ=libc`) must be seen to hand blocks out twice, or the strict
kernel to kill for them.

";

fn matrix(page: &mut String, rows: &[Row]) {
    let names: Vec<_> = COLUMNS.iter().map(|(_, name)| *name).collect();
    let _ = writeln!(page, "## The matrix\n\n| cell | strict | {} | s |", names.join(" | "));
    let _ = writeln!(page, "|---|---|{}---|", "---|".repeat(COLUMNS.len()));
    for row in rows {
        let strict = if row.cell.is_strict() { "yes" } else { "" };
        // Whatever else it says, it says it of another cell.
        let elsewhere = match entry(row, Column::Surroundings) {
            ok if ok == "ok" || ok.is_empty() => String::new(),
            wrong => format!(" {wrong}"),
        };
        let _ = write!(page, "| {}{elsewhere} | {strict} |", row.cell.name());
        match &row.end {
            Ended::Skipped(why) => {
                let _ = write!(page, " NOT RUN: {why} |{}", " |".repeat(COLUMNS.len() - 1));
            }
            Ended::Whole | Ended::Early(_) => {
                for (column, _) in COLUMNS {
                    let _ = write!(page, " {} |", entry(row, column));
                }
            }
        }
        let _ = writeln!(page, " {:.0} |", row.wall.as_secs_f64());
    }
    page.push('\n');
}

/// What stands in a cell's column: what the doctor said, "ok", or what is wrong.
fn entry(row: &Row, column: Column) -> String {
    let of: Vec<&Done> = row.steps.iter().filter(|done| done.column == column).collect();
    let wrong: Vec<String> = of
        .iter()
        .filter(|done| !done.is_right)
        .map(|done| format!("{}: {}", done.name, done.said.replace('|', "/")))
        .collect();
    match (of.is_empty(), wrong.is_empty(), column) {
        (true, ..) => String::new(),
        (_, false, _) => format!("**WRONG**: {}", wrong.join("; ")),
        (_, _, Column::Doctor) => reports(row).into(),
        (_, _, Column::Sections) => of[0].said.clone(),
        // No user of sections is right here, whatever allocator is beside it.
        (_, _, Column::OtherUser) if row.cell.expected.mode == "locked" => of[0].said.clone(),
        (_, _, Column::Programs) => {
            let names = of.iter().filter(|done| !done.name.ends_with("as it is"));
            names.map(|done| done.name).collect::<Vec<_>>().join(", ")
        }
        _ => "ok".into(),
    }
}

fn versions(page: &mut String, rows: &[Row]) {
    page.push_str("## Versions\n\n| kernel | release | package |\n|---|---|---|\n");
    let mut told: Vec<String> = Vec::new();
    let mut tell = |page: &mut String, line: String| {
        if !told.contains(&line) {
            let _ = writeln!(page, "{line}");
            told.push(line);
        }
    };
    for row in rows {
        let Some(release) = verdicts::release(surroundings(row)) else { continue };
        let package = match verdicts::package(surroundings(row)) {
            Some(version) => format!("Debian {version}"),
            None if row.cell.kernel == MACHINE => String::new(),
            None => "built from Debian's linux-source".into(),
        };
        let kernel = format!("{} {}", row.cell.arch.name(), row.cell.kernel);
        tell(page, format!("| {kernel} | {release} | {package} |"));
    }
    page.push_str("\n| C library | version |\n|---|---|\n");
    for row in rows {
        let Some(version) = verdicts::libc_version(surroundings(row)) else { continue };
        if row.cell.kernel != MACHINE {
            tell(
                page,
                format!("| {} {} | {version} |", row.cell.arch.name(), row.cell.libc.name()),
            );
        }
    }
    if rows.iter().any(|row| row.cell.libc == Libc::Musl && !row.is_skipped()) {
        let musl = text(Command::new("dpkg-query").args(["-W", "-f", "${Version}", "musl-dev"]));
        let musl = musl.map_or("of unknown version".into(), |v| format!("Debian {}", v.trim()));
        tell(page, format!("| musl, static | {musl} |"));
    }
    page.push('\n');
}

/// The same program under google's tcmalloc.
fn tcmalloc(page: &mut String, rows: &[Row], version: &str) {
    let _ = write!(
        page,
        "## The same program under tcmalloc\n\n\
         google's tcmalloc ({version}) keeps its own pointer in `cpu_id_start`, which is the kernel's to \
         write. It needs a registration of its own for that; where glibc has registered first, it falls \
         back to caches per thread. `twice` under it, for three seconds, while the caches of all CPUs are \
         emptied (`ReleaseCpuMemory`), as seen in this run: as it is; with rseq left to it (`glibc.pthread.rseq=0`), by itself and strict. Under cidalloc no block was \
         handed out twice in any cell (above).\n\n\
         | cell | as it is | rseq left to it | rseq left to it, strict |\n|---|---|---|---|\n"
    );
    for row in rows {
        let said = |name: &str| {
            let done = row.steps.iter().find(|done| done.name == name);
            done.map_or("", |done| &done.said)
        };
        if !said(steps::AS_SHIPPED).is_empty() {
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} |",
                row.cell.name(),
                said(steps::AS_SHIPPED),
                said(steps::LEFT_TO_IT),
                said(steps::LEFT_TO_IT_STRICT)
            );
        }
    }
}

/// Lines of a step's output that the log keeps: the last ones, or all of a step that is
/// not right.
const LOGGED: usize = 6;

/// Lines of the kernel's log, of a cell that is not right.
const KERNEL_LINES: usize = 40;

fn log(rows: &[Row]) -> String {
    let mut page = String::new();
    for row in rows {
        let _ = writeln!(page, "== {}", row.cell.name());
        for done in &row.steps {
            let verdict = if done.is_right { "ok  " } else { "FAIL" };
            let _ =
                writeln!(page, "{verdict} {:42} {:6.1} s  {}", done.name, done.seconds, done.said);
            let lines: Vec<&str> = done.output.lines().filter(|l| !l.trim().is_empty()).collect();
            // A report is long and its summary says what matters.
            let is_long = matches!(done.column, Column::Doctor | Column::Programs);
            let kept = match (done.is_right, is_long) {
                (true, true) => 0,
                (true, false) => LOGGED,
                (false, _) => usize::MAX,
            };
            for line in &lines[lines.len().saturating_sub(kept)..] {
                let _ = writeln!(page, "       {line}");
            }
        }
        match &row.end {
            Ended::Whole => {}
            Ended::Skipped(why) => _ = writeln!(page, "NOT RUN: {why}"),
            Ended::Early(why) => _ = writeln!(page, "FAIL: {why}"),
        }
        if !row.is_skipped() && !row.is_right() {
            let lines: Vec<&str> = row.kernel_log.lines().collect();
            for line in &lines[lines.len().saturating_sub(KERNEL_LINES)..] {
                let _ = writeln!(page, "kernel {line}");
            }
        }
        let _ = writeln!(page, "   {:.1} s\n", row.wall.as_secs_f64());
    }
    let _ = writeln!(page, "{}", count(rows));
    page
}
