//! What runs in a cell, one step after another in one boot.
//!
//! The steps are one shell script; between them it writes marks, by which
//! `verdicts` takes the output apart again.

use super::cells::{Cell, Libc, MACHINE};
use super::guest::Arch;
use super::verdicts::Check;

/// A column of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    /// Kernel, C library and shape are those of the cell.
    Surroundings,
    Doctor,
    Stress,
    Soak,
    Twice,
    /// Whether the kernel aborts what is preempted.
    Sections,
    OtherUser,
    Programs,
    Tcmalloc,
}

#[derive(Debug)]
pub struct Step {
    pub column: Column,
    pub name: &'static str,
    /// For the shell: busybox's, or the machine's own.
    command: String,
    limit_s: u32,
    pub check: Check,
}

pub const BEGIN: &str = "@@begin ";
pub const END: &str = "@@end ";

const PRELOAD: &str = "LD_PRELOAD=$PWD/libcidalloc.so";
const NO_RSEQ: &str = "GLIBC_TUNABLES=glibc.pthread.rseq=0";
const TCMALLOC: &str = "LD_PRELOAD=$PWD/tcmalloc.so";
/// What `soak` and `taken` say where all is right.
const IS_SOUND: &[&str] = &["walks between phases", "soak: ok"];
const BESIDE: &[&str] = &["ok beside", "ok exec"];
/// By SIGSEGV, in a shell's words.
const KILLED: i32 = 139;
/// How `preempted` ends on a kernel that aborts no section: strict, such a kernel also
/// kills it.
const FAULTY: &[i32] = &[1, KILLED];
const STRICT: &str = "/sys/kernel/debug/rseq/debug";

/// The steps of a cell; under tcmalloc, too, if it is there.
pub fn of(cell: &Cell, with_tcmalloc: bool) -> Vec<Step> {
    let mut steps =
        Steps { limit_s: if cell.one_insn || cell.cpus > 4 { 600 } else { 300 }, all: Vec::new() };
    steps.surroundings(cell);
    match cell.libc {
        Libc::Musl => steps.static_programs(cell),
        Libc::Glibc(_) if cell.one_insn => steps.interrupted_anywhere(cell),
        Libc::Glibc(_) => steps.everything(cell),
    }
    let has_tcmalloc = cell.arch == Arch::X86_64 && cell.libc != Libc::Musl && !cell.one_insn;
    if with_tcmalloc && has_tcmalloc && cell.cpus <= 4 {
        steps.tcmalloc(cell);
    }
    steps.all
}

struct Steps {
    limit_s: u32,
    all: Vec<Step>,
}

impl Steps {
    fn add(&mut self, column: Column, name: &'static str, command: String, check: Check) {
        self.all.push(Step { column, name, command, limit_s: self.limit_s, check });
    }

    fn surroundings(&mut self, cell: &Cell) {
        let mut command = String::from(
            "cat /proc/version; nproc | sed 's/^/cpus /'
            ls -d /sys/devices/system/node/node[0-9]* | wc -l | sed 's/^/nodes /'
            for libc in /lib/*-linux-gnu/libc.so.6; do [ ! -e $libc ] || $libc | head -n 1; done",
        );
        if cell.is_strict() {
            command += &format!(
                "\n[ -e {STRICT} ] || mount -t debugfs debugfs /sys/kernel/debug
                sed 's/^/strict /' {STRICT}"
            );
        }
        let shape = (cell.kernel != MACHINE).then_some((cell.cpus, cell.nodes));
        let check = Check::Surroundings { shape, is_strict: cell.is_strict() };
        self.add(Column::Surroundings, "surroundings", command, check);
    }

    fn doctor(&mut self, cell: &Cell) {
        let ask = "./cidalloc doctor --json";
        self.add(Column::Doctor, "doctor", ask.into(), Check::Doctor(cell.expected));
        let own = Check::Doctor(cell.expected_own);
        self.add(Column::Doctor, "doctor, own registration", format!("{NO_RSEQ} {ask}"), own);
    }

    fn everything(&mut self, cell: &Cell) {
        self.doctor(cell);
        let stress = "CIDALLOC_TEST_SECONDS=4 ./stress --exact child_scenes --ignored \
            --nocapture --test-threads=1";
        self.add(Column::Stress, "stress", stress.into(), Check::Says(&["1 passed", " moves"]));
        let soak = format!("{PRELOAD} ./soak 5 1");
        self.add(Column::Soak, "soak", soak, Check::Says(IS_SOUND));
        let own = format!("{NO_RSEQ} {PRELOAD} ./soak 3 2");
        self.add(Column::Soak, "soak, own registration", own, Check::Says(IS_SOUND));
        self.twice(2, 16);
        self.sections(cell);
        self.counters(cell, 3, 16);
        self.beside(cell);
        self.taken_over(cell);
        self.same("perl", "LC_ALL=C perl work.pl");
        self.same("sqlite3", "sqlite3 :memory: <work.sql");
    }

    fn interrupted_anywhere(&mut self, cell: &Cell) {
        // Each program that starts here takes seconds.
        let ask = "./cidalloc doctor --json".to_owned();
        self.add(Column::Doctor, "doctor", ask, Check::Doctor(cell.expected));
        self.twice(10, 6);
        if cell.expected.mode == "locked" {
            // Sections that the allocator would use: the kernel's fault must show.
            let command = format!("CIDALLOC_RSEQ=libc {PRELOAD} ./twice 20 6");
            let check = Check::Finds(&[3, KILLED]);
            self.add(Column::Twice, "twice, in spite of the kernel", command, check);
        }
        self.counters(cell, 10, 6);
        if cell.expected.mode != "locked" {
            // What this cell could not see it could not clear.
            let planted = format!("{PRELOAD} ./counters 10 6 planted");
            self.add(Column::OtherUser, "counters, a fault planted", planted, Check::Finds(&[3]));
        }
    }

    fn static_programs(&mut self, cell: &Cell) {
        let command = "CIDALLOC_STATS=json:statistics.json ./twice 2 16 && cat statistics.json";
        let check = Check::Statistics(cell.expected);
        self.add(Column::Doctor, "statistics", command.into(), check);
        self.add(Column::Soak, "soak", "./soak 5 1".into(), Check::Says(IS_SOUND));
        self.add(Column::Stress, "forks", "./forks 16 2".into(), Check::Says(&["ok"]));
        self.add(Column::Twice, "twice", "./twice 2 16".into(), Check::Says(&["twice 0 of"]));
        let lua = |with: &str| format!("PART=15 ./lua{with} tables.lua");
        self.add(Column::Programs, "lua, as it is", lua("-plain"), Check::Reference);
        self.add(Column::Programs, "lua", lua(""), Check::AsBefore);
    }

    fn twice(&mut self, seconds: u32, threads: u32) {
        let command = format!("{PRELOAD} ./twice {seconds} {threads}");
        self.add(Column::Twice, "twice", command, Check::Says(&["twice 0 of"]));
    }

    fn counters(&mut self, cell: &Cell, seconds: u32, threads: u32) {
        let command = format!("{PRELOAD} ./counters {seconds} {threads}");
        let is_right = &["ok ", " 0 unregistered,"];
        self.other_user(cell, "counters", command, is_right, &[0, 3, KILLED]);
    }

    /// A kernel that serves no user of sections right may lose what is the user's own, or,
    /// strict, kill it: `lost` are the exit codes that are told then.
    fn other_user(
        &mut self,
        cell: &Cell,
        name: &'static str,
        command: String,
        says: &'static [&'static str],
        lost: &'static [i32],
    ) {
        let check = match cell.expected.mode {
            "locked" => Check::Finds(lost),
            _ => Check::Says(says),
        };
        self.add(Column::OtherUser, name, command, check);
    }

    /// Sections long enough to be preempted, without the allocator.
    fn sections(&mut self, cell: &Cell) {
        let aborts = |name, command: &str| match cell.expected.mode {
            "locked" => (name, command.to_owned(), Check::Finds(FAULTY)),
            _ => (name, command.to_owned(), Check::Says(&[" 0 lost"])),
        };
        let blind = "./preempted blind 600".to_owned();
        for (name, command, check) in [
            aborts("preempted", "./preempted 600"),
            aborts("preempted, own registration", "./preempted own 600"),
            // What a kernel that does not look would do.
            ("preempted, not announced", blind, Check::Finds(&[1])),
        ] {
            self.add(Column::Sections, name, command, check);
        }
    }

    /// The checks of another user on the C library's registration.
    fn beside(&mut self, cell: &Cell) {
        self.other_user(cell, "taken", "./taken".into(), BESIDE, &[0, 1, KILLED]);
    }

    /// The same, and the allocator, where `CIDALLOC_RSEQ=take` reaches V2.
    fn taken_over(&mut self, cell: &Cell) {
        let Some(expected) = cell.expected_taken() else { return };
        let take = |command: &str| format!("CIDALLOC_RSEQ=take {command}");
        let ask = take("./cidalloc doctor --json");
        self.add(Column::Doctor, "doctor, taken over", ask, Check::Doctor(expected));
        let soak = take(&format!("{PRELOAD} ./soak 3 3"));
        self.add(Column::Soak, "soak, taken over", soak, Check::Says(IS_SOUND));
        let mut other = |name, command: &str, check| {
            self.add(Column::OtherUser, name, take(command), check);
        };
        other("taken, taken over", "./taken", Check::Says(BESIDE));
        // It finds no registration in any thread, and goes its way without.
        let counters = format!("{PRELOAD} ./counters 3 16");
        other("counters, taken over", &counters, Check::Says(&["ok ", " on 0 CPUs,"]));
    }

    /// A program of the system, as it is and on the library.
    fn same(&mut self, program: &'static str, command: &str) {
        let (plain, ours) = match program {
            "perl" => ("perl, as it is", "perl"),
            _ => ("sqlite3, as it is", "sqlite3"),
        };
        self.add(Column::Programs, plain, command.into(), Check::Reference);
        // Without statistics it has not run on the library, whatever it says.
        let command = format!(
            "rm -f statistics.json
            {PRELOAD} CIDALLOC_STATS=json:statistics.json {command}
            status=$?
            grep -q '\"mode\"' statistics.json || echo 'not on cidalloc'
            exit $status"
        );
        self.add(Column::Programs, ours, command, Check::AsBefore);
    }

    /// The same program, under an allocator that writes what is the kernel's.
    fn tcmalloc(&mut self, cell: &Cell) {
        let mut add = |name, command| self.add(Column::Tcmalloc, name, command, Check::Noted);
        add(AS_SHIPPED, format!("{TCMALLOC} ./twice 3 16"));
        let left_to_it = format!("{NO_RSEQ} {TCMALLOC} ./twice 3 16");
        if cell.is_strict() {
            add(LEFT_TO_IT_STRICT, left_to_it.clone());
            // Back to what the kernel does by itself.
            let lax = format!("echo 0 >{STRICT}; {left_to_it}");
            add(LEFT_TO_IT, format!("{lax}; status=$?; echo 1 >{STRICT}; exit $status"));
        } else {
            add(LEFT_TO_IT, left_to_it);
        }
    }
}

/// glibc has registered rseq before tcmalloc can.
pub const AS_SHIPPED: &str = "tcmalloc";
/// tcmalloc registers rseq itself, which it needs for its caches per CPU.
pub const LEFT_TO_IT: &str = "tcmalloc, rseq left to it";
pub const LEFT_TO_IT_STRICT: &str = "tcmalloc, rseq left to it, rseq_debug=1";

/// The script that runs the steps in its working directory.
pub fn script(steps: &[Step]) -> String {
    let mut text = String::from("#!/bin/sh\nuptime_s() { cut -d' ' -f1 /proc/uptime; }\n");
    for (number, step) in steps.iter().enumerate() {
        // Quoted for the shell, which runs it in one of its own under a time limit.
        let command = step.command.replace('\'', "'\\''");
        text += &format!(
            "printf '\\n{BEGIN}{number} %s\\n' $(uptime_s)\n\
             timeout -s KILL {} sh -c '{command}' </dev/null 2>&1\n\
             printf '\\n{END}{number} %s %s\\n' $? $(uptime_s)\n",
            step.limit_s
        );
    }
    text
}

/// The step that a line of the script's output begins or ends.
pub fn mark<'a>(line: &str, steps: &'a [Step]) -> Option<(&'a Step, bool)> {
    let (number, is_end) = match (line.strip_prefix(BEGIN), line.strip_prefix(END)) {
        (Some(rest), _) => (rest, false),
        (_, Some(rest)) => (rest, true),
        _ => return None,
    };
    let number: usize = number.split(' ').next()?.parse().ok()?;
    Some((steps.get(number)?, is_end))
}

#[cfg(test)]
mod tests {
    use super::super::cells::CELLS;
    use super::*;

    #[test]
    fn the_script_is_quoted() {
        let cell = CELLS.iter().find(|cell| cell.is_strict()).expect("a strict cell");
        let text = script(&of(cell, true));
        assert!(text.contains("sed '\\''s/^/cpus /'\\''"));
        let checked = std::process::Command::new("sh").args(["-n", "-c", &text]).status();
        assert!(checked.expect("sh").success());
    }
}
