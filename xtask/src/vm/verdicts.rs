//! Whether the steps of a cell are right: the script's output is taken apart, and
//! each step judged by what it said. A step whose end is not there has failed, so has
//! one that says something else than it must.

use super::cells::Expected;
use super::steps::{BEGIN, Column, END, Step};
use serde_json::Value;
use std::collections::BTreeMap;

/// When a step is right.
#[derive(Debug)]
pub enum Check {
    Surroundings {
        shape: Option<(u32, u32)>,
        is_strict: bool,
    },
    Doctor(Expected),
    /// The statistics of a program that has the allocator in it.
    Statistics(Expected),
    /// Exit code 0, and each of these is said.
    Says(&'static [&'static str]),
    /// Exit code 0; the step after it must say the same.
    Reference,
    AsBefore,
    /// A fault is planted, or known to be there, and must show: by one of these exit
    /// codes.
    Finds(&'static [i32]),
    /// Whatever comes is told.
    Noted,
}

/// A step that was run.
#[derive(Debug)]
pub struct Done {
    pub column: Column,
    pub name: &'static str,
    pub is_right: bool,
    /// What is told of it.
    pub said: String,
    pub seconds: f64,
    pub output: String,
}

/// Takes the script's output apart and judges every step.
pub fn judge(steps: &[Step], output: &str) -> Vec<Done> {
    let mut ran: BTreeMap<usize, Ran> = BTreeMap::new();
    let mut now = None;
    for line in output.lines() {
        if let Some(rest) = line.strip_prefix(BEGIN) {
            let mut words = rest.split(' ');
            now = words.next().and_then(|n| n.parse().ok());
            let began_s = words.next().and_then(|s| s.parse().ok()).unwrap_or(0.0);
            if let Some(number) = now {
                ran.insert(number, Ran { began_s, ..Ran::default() });
            }
        } else if let Some(rest) = line.strip_prefix(END) {
            let mut words = rest.split(' ').skip(1);
            if let Some(ran) = now.take().and_then(|n| ran.get_mut(&n)) {
                ran.status = words.next().and_then(|s| s.parse().ok());
                ran.ended_s = words.next().and_then(|s| s.parse().ok()).unwrap_or(0.0);
            }
        } else if let Some(ran) = now.and_then(|n| ran.get_mut(&n)) {
            ran.output += line;
            ran.output += "\n";
        }
    }
    let mut reference: Option<String> = None;
    let mut all = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let ran = ran.remove(&number).unwrap_or_default();
        let result = match ran.status {
            Some(status) => verdict(&step.check, status, ran.output.trim(), reference.as_deref()),
            None => Err("it did not end".into()),
        };
        let is_reference = matches!(step.check, Check::Reference) && result.is_ok();
        reference = is_reference.then(|| ran.output.trim().to_owned());
        let is_right = result.is_ok();
        all.push(Done {
            column: step.column,
            name: step.name,
            is_right,
            said: result.unwrap_or_else(|why| why),
            seconds: (ran.ended_s - ran.began_s).max(0.0),
            output: ran.output,
        });
    }
    all
}

#[derive(Default)]
struct Ran {
    began_s: f64,
    ended_s: f64,
    status: Option<i32>,
    output: String,
}

/// What is told of a step that is right, or what is wrong.
fn verdict(
    check: &Check,
    status: i32,
    output: &str,
    reference: Option<&str>,
) -> Result<String, String> {
    let last = output.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or_default();
    let ended = || format!("{}: {last}", end_of(status));
    match check {
        Check::Noted => Ok(noted(status, output)),
        Check::Finds(due) if due.contains(&status) => Ok(last.into()),
        Check::Finds(_) => Err(format!("the fault did not show; {}", ended())),
        _ if status != 0 => Err(ended()),
        Check::Surroundings { shape, is_strict } => surroundings(output, *shape, *is_strict),
        Check::Doctor(expected) => doctor(expected, output),
        Check::Statistics(expected) => statistics(expected, output),
        Check::Says(words) => match words.iter().find(|word| !output.contains(**word)) {
            None => Ok(short(output)),
            Some(word) => Err(format!("it does not say {word:?}; {last}")),
        },
        Check::Reference if output.is_empty() => Err("it says nothing".into()),
        Check::Reference => Ok(format!("{} bytes", output.len())),
        Check::AsBefore => match reference {
            None => Err("nothing to compare with".into()),
            Some(before) if before == output => Ok("as without".into()),
            Some(before) => {
                let lines = before.lines().zip(output.lines());
                let number = lines.take_while(|(a, b)| a == b).count();
                let line = output.lines().nth(number).unwrap_or("the end");
                Err(format!("line {} differs: {line}", number + 1))
            }
        },
    }
}

/// "status 1", "killed by signal 11".
fn end_of(status: i32) -> String {
    match status {
        // By the time limit, in two shells.
        137 | 124 => "ended by its time limit or SIGKILL".into(),
        139 => "killed by SIGSEGV".into(),
        134 => "ended by SIGABRT".into(),
        128.. => format!("killed by signal {}", status - 128),
        _ => format!("status {status}"),
    }
}

/// What a program did that may do anything.
fn noted(status: i32, output: &str) -> String {
    let line = |start: &str| output.lines().rev().find(|l| l.starts_with(start));
    let per_cpu = match line("per_cpu ") {
        Some("per_cpu on") => "caches per CPU; ",
        Some(_) => "caches per thread; ",
        None => "",
    };
    let counted = line("twice ").or(line("lost ")).or(line("ok "));
    let said = match (status, counted) {
        (0, Some(line)) => line.into(),
        (3, Some(line)) => format!("**{line}**"),
        _ => format!("**{}**", end_of(status)),
    };
    format!("{per_cpu}{said}")
}

/// The last line that counts something.
fn short(output: &str) -> String {
    let line = output.lines().rev().find(|line| {
        ["twice ", "soak: ok", "ok"].iter().any(|start| line.starts_with(start))
            || line.contains(" signals, ")
    });
    line.unwrap_or("ok").trim_start_matches("soak: ").into()
}

/// The shape is CPUs and NUMA nodes.
fn surroundings(
    output: &str,
    shape: Option<(u32, u32)>,
    is_strict: bool,
) -> Result<String, String> {
    let word = |name: &str| output.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    let number = |name: &str| word(name).and_then(|w| w.parse::<u32>().ok()).unwrap_or(0);
    // A kernel without NUMA has no list of nodes.
    let found = (number("cpus "), number("nodes ").max(1));
    if shape.is_some_and(|shape| shape != found) {
        return Err(format!("CPUs and nodes are {found:?} instead of {shape:?}"));
    }
    if is_strict && !matches!(word("strict "), Some("1" | "Y" | "on")) {
        return Err(format!("rseq_debug=1 is not in force: {:?}", word("strict ")));
    }
    Ok(release(output).unwrap_or("an unknown kernel").into())
}

/// The kernel's release, out of what the surroundings said.
pub fn release(output: &str) -> Option<&str> {
    output.lines().find_map(|l| l.strip_prefix("Linux version "))?.split(' ').next()
}

/// The version of the kernel's package: Debian's kernels say it.
pub fn package(output: &str) -> Option<&str> {
    let line = output.lines().find(|l| l.starts_with("Linux version "))?;
    line.rsplit_once(" Debian ")?.1.split(' ').next()
}

/// The C library's own line: "GNU C Library (Debian GLIBC 2.41-12) …".
pub fn libc_version(output: &str) -> Option<&str> {
    let line = output.lines().find(|l| l.starts_with("GNU C Library "))?;
    line.split_once('(')?.1.split_once(')').map(|(version, _)| version)
}

fn json(output: &str) -> Result<Value, String> {
    let start = output.find("\n{").map(|at| at + 1).or(output.starts_with('{').then_some(0));
    let text = &output[start.ok_or("no JSON in what it says")?..];
    serde_json::from_str(text).map_err(|e| format!("its JSON: {e}"))
}

fn doctor(expected: &Expected, output: &str) -> Result<String, String> {
    let report = json(output)?;
    let (own, rseq) = (&report["allocator"], &report["rseq"]);
    let mut wrong = differences(expected, own);
    let mut same = |what: &str, found: &Value, due: Value| {
        if *found != due {
            wrong.push(format!("{what} is {found} instead of {due}"));
        }
    };
    same("registered_by", &rseq["registered_by"], expected.registered_by.into());
    let length = match expected.length {
        0 => Value::Null,
        length => length.into(),
    };
    same("registered_length", &rseq["registered_length"], length);
    same("abi_mode", &rseq["abi_mode"], expected.abi.into());
    same("membarrier", &report["membarrier"]["private_expedited_rseq"], true.into());
    same("mm_cid", &rseq["mm_cid"], (!expected.reason.contains("no mm_cid")).into());
    let slice = report["slice_extension"]["state"].as_str().unwrap_or_default();
    if !expected.slice.contains(&slice) {
        wrong.push(format!("the slice extension is {slice:?} instead of {:?}", expected.slice));
    }
    match wrong.is_empty() {
        true => Ok(format!("{}, {slice}", summary(expected))),
        false => Err(wrong.join("; ")),
    }
}

fn statistics(expected: &Expected, output: &str) -> Result<String, String> {
    let found = json(output)?;
    let mut wrong = differences(expected, &found);
    if found["rseq_size"] != expected.length {
        wrong.push(format!("rseq_size is {} instead of {}", found["rseq_size"], expected.length));
    }
    match wrong.is_empty() {
        true => Ok(summary(expected)),
        false => Err(wrong.join("; ")),
    }
}

/// What the allocator says of itself, in a report or in statistics.
fn differences(expected: &Expected, found: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, due) in [
        ("mode", expected.mode),
        ("index", expected.index),
        ("registration", expected.registration),
    ] {
        if found[name] != due {
            wrong.push(format!("{name} is {} instead of {due}", found[name]));
        }
    }
    let reason = found["reason"].as_str().unwrap_or("missing");
    let is_due = match expected.reason {
        "" => reason.is_empty(),
        due => reason.contains(due),
    };
    if !is_due {
        wrong.push(format!("the reason is {reason:?} instead of {:?}", expected.reason));
    }
    wrong
}

/// "mm_cid, libc 33 V2".
pub fn summary(expected: &Expected) -> String {
    match expected.mode {
        "locked" => "locks".into(),
        _ => {
            let Expected { index, registration, length, abi, .. } = expected;
            format!("{index}, {registration} {length} {abi}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cells::{CELLS, Cell};
    use super::super::steps::of;
    use super::*;

    fn cell(name: &str) -> Cell {
        *CELLS.iter().find(|c| c.name() == name).expect("the cell")
    }

    const STRICT_CELL: &str = "x86_64 7.2, glibc 2.41";

    /// A report as `expected` has it.
    fn report(expected: &Expected) -> Value {
        let length = (expected.length > 0).then_some(expected.length);
        serde_json::json!({
            "allocator": {
                "mode": expected.mode, "index": expected.index,
                "registration": expected.registration, "reason": expected.reason,
            },
            "rseq": {
                "registered_by": expected.registered_by, "registered_length": length,
                "abi_mode": expected.abi, "mm_cid": !expected.reason.contains("no mm_cid"),
            },
            "slice_extension": { "state": expected.slice[0] },
            "membarrier": { "private_expedited_rseq": true },
        })
    }

    #[test]
    fn each_difference_in_a_report_is_seen() {
        for cell in CELLS {
            let right = report(&cell.expected);
            assert!(doctor(&cell.expected, &right.to_string()).is_ok(), "{}", cell.name());
            for (part, field) in [
                ("allocator", "mode"),
                ("allocator", "index"),
                ("allocator", "registration"),
                ("allocator", "reason"),
                ("rseq", "registered_by"),
                ("rseq", "registered_length"),
                ("rseq", "abi_mode"),
                ("rseq", "mm_cid"),
                ("slice_extension", "state"),
                ("membarrier", "private_expedited_rseq"),
            ] {
                let mut wrong = right.clone();
                wrong[part][field] = "else".into();
                assert!(doctor(&cell.expected, &wrong.to_string()).is_err(), "{part}.{field}");
            }
        }
    }

    #[test]
    fn a_step_without_an_end_has_failed() {
        let steps = of(&cell(STRICT_CELL), true);
        let done = judge(&steps, "\n@@begin 0 1.00\nLinux version 7.2 x\n");
        assert_eq!(done.len(), steps.len());
        assert!(done.iter().all(|d| !d.is_right));
    }

    #[test]
    fn output_is_taken_apart() {
        let steps = of(&cell("x86_64 7.2, musl"), false);
        let number = |name: &str| steps.iter().position(|s| s.name == name).unwrap();
        let (plain, ours, twice) = (number("lua, as it is"), number("lua"), number("twice"));
        let says = |n: usize, status: i32, text: &str| {
            format!("\n@@begin {n} 5.00\n{text}\n\n@@end {n} {status} 7.50\n")
        };
        let all = |ours_says: &str, status: i32, found: u32| {
            let text = says(plain, 0, "a\nb")
                + &says(ours, 0, ours_says)
                + &says(twice, status, &format!("twice {found} of 10 blocks"));
            let done = judge(&steps, &text);
            [plain, ours, twice].map(|n| done[n].is_right)
        };
        assert_eq!(all("a\nb", 0, 0), [true, true, true]);
        assert_eq!(all("a\nc", 0, 0), [true, false, true]);
        assert_eq!(all("a\nb", 3, 1), [true, true, false]);
        assert_eq!(all("a\nb", 0, 1), [true, true, false]);
        let done = judge(&steps, &says(twice, 0, "twice 0 of 9 blocks"));
        assert_eq!((done[twice].seconds, done[twice].said.as_str()), (2.5, "twice 0 of 9 blocks"));
    }

    #[test]
    fn a_guest_of_another_shape_is_seen() {
        let text = "Linux version 7.2.1+deb14-cloud-amd64 (x) #1 SMP Debian 7.2.1-1 (2026)\n\
            cpus 4\nnodes 1\nstrict 1\nGNU C Library (Debian GLIBC 2.41-12) stable";
        assert_eq!(
            surroundings(text, Some((4, 1)), true).as_deref(),
            Ok("7.2.1+deb14-cloud-amd64")
        );
        assert!(surroundings(text, Some((16, 1)), true).is_err());
        assert!(surroundings(text, Some((4, 2)), true).is_err());
        assert!(surroundings(&text.replace("strict 1", "strict 0"), Some((4, 1)), true).is_err());
        assert_eq!(
            (package(text), libc_version(text)),
            (Some("7.2.1-1"), Some("Debian GLIBC 2.41-12"))
        );
    }

    #[test]
    fn what_a_planted_fault_does_must_show() {
        assert!(verdict(&Check::Finds(&[3]), 3, "lost 5 of 10 increments", None).is_ok());
        assert!(verdict(&Check::Finds(&[3]), 0, "ok 10 increments", None).is_err());
        assert_eq!(noted(139, "per_cpu on"), "caches per CPU; **killed by SIGSEGV**");
        assert_eq!(
            noted(3, "per_cpu on\ntwice 5 of 9 blocks"),
            "caches per CPU; **twice 5 of 9 blocks**"
        );
        assert_eq!(
            noted(0, "per_cpu off\ntwice 0 of 9 blocks"),
            "caches per thread; twice 0 of 9 blocks"
        );
    }
}
