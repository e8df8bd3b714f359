//! Sections aborted at each of their instructions, in a running program: no
//! block is lost, and none is handed out twice.
//!
//! The driver (`c/abort_driver.c`), with the library preloaded, goes through a
//! script again and again, and counts its blocks each time. Under ptrace it is
//! stopped where it comes to a *point*: an instruction of a sequence of
//! `libcidalloc.so`, as the descriptors in the process and the disassembler name
//! them. All points are visited; one that the script does not come to is a
//! failure, so what is new is covered or seen. While the thread is stopped,
//! another one takes and gives back blocks of all classes on the same CPU: in the
//! slab that the first is about to change. Then, if the point is
//! - in the section, the thread must come to the abort address;
//! - the first after the commit, or after a miss, it must go on from there;
//! - before the section, it may go on as it likes: nothing was read yet.
//!
//! Every stop aborts, so that by itself a loop would never come to its second turn.
//! To let a thread pass a point, the tracer takes the word `rseq_cs` away before
//! the thread steps on, and puts it back where it shall be aborted. So each
//! turn of a loop is aborted, and what begins anew is aborted again.
//!
//! `set_limits` runs under the slab's lock, on which the other thread would wait
//! for ever: there the thread is only stopped, or moved to another CPU. The miss
//! of `set_limits` is reached by such a move alone, where slabs go by CPU.
//!
//! Planted faults (a section that ends or begins at a wrong instruction, an abort
//! that goes on behind the commit) are caught by the same rounds and the same
//! check, in every section but `set_limits`: there a lock keeps all others out.
//!
//! `CIDALLOC_TEST_STAGE` names a directory with library and driver built already.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;
#[path = "aborts/run.rs"]
mod run;
#[path = "aborts/sections.rs"]
mod sections;
#[path = "aborts/tracee.rs"]
mod tracee;

use run::{Fault, How, Meanwhile, Run, Visit};
use sections::{Part, Point, Section};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// How threads reach their slabs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    MmCid,
    CpuId,
    Own,
}

/// The library and the driver: built here, or brought along in a directory.
fn files() -> &'static (PathBuf, PathBuf) {
    static FILES: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    FILES.get_or_init(|| {
        if let Some(stage) = std::env::var_os("CIDALLOC_TEST_STAGE") {
            let stage = PathBuf::from(stage);
            return (stage.join("libcidalloc.so"), stage.join("abort_driver"));
        }
        let driver = common::temp_dir("driver").join("abort_driver");
        let mut compiler = common::compiler(false);
        compiler.args(["-std=gnu11", "-O1", "-fno-builtin", "-pthread", "-w", "-I"]);
        compiler.arg(common::in_repository("ffi/include"));
        compiler.arg(common::in_repository("tests/c/abort_driver.c")).arg("-o").arg(&driver);
        common::run_ok(&mut compiler);
        (common::library(), driver)
    })
}

impl Mode {
    fn command(self) -> Command {
        let (library, driver) = files();
        let mut command = common::command(driver);
        command.env("LD_PRELOAD", library);
        // Little room, so that classes give some up; no work by the clock.
        command.env("CIDALLOC_SLAB_BYTES", "131072").env("CIDALLOC_DECAY_MS", "3600000");
        // Named, so that it is used on kernels that are thought to be no good.
        command.env("CIDALLOC_RSEQ", self.registration());
        match self {
            Mode::MmCid => {}
            Mode::CpuId => {
                command.env("CIDALLOC_INDEX", "cpu_id");
            }
            Mode::Own => {
                command.env("GLIBC_TUNABLES", "glibc.pthread.rseq=0");
            }
        }
        command
    }

    /// Whose registration the library must find.
    fn registration(self) -> &'static str {
        // SAFETY: looks for a symbol of the C library.
        let libc_registers = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()) };
        if self == Mode::Own || libc_registers.is_null() { "own" } else { "libc" }
    }

    fn start(self, meanwhile: Meanwhile) -> Run {
        Run::start(self.command(), &files().0, meanwhile)
    }
}

/// Whether there is anything to abort; says so if not.
fn kernel_has_rseq() -> bool {
    // SAFETY: no area is registered at address 0.
    let got = unsafe { libc::syscall(libc::SYS_rseq, 0, 0, 0, 0) };
    let none = got == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS);
    if none {
        println!("skip: the kernel has no rseq");
    }
    !none
}

/// What the driver, run to its end, says of the mode it was in.
fn check_mode(mode: Mode, test: &str) {
    let json = common::temp_dir(test).join("stats.json");
    let mut command = mode.command();
    command.env("CIDALLOC_STATS", format!("json:{}", json.display()));
    Run::start(command, &files().0, Meanwhile::Rival).finish();
    let text = std::fs::read_to_string(&json).expect("statistics");
    let registration = mode.registration();
    // SAFETY: reads the auxiliary vector; AT_RSEQ_FEATURE_SIZE.
    let has_mm_cid = unsafe { libc::getauxval(27) } >= 28;
    let index = if mode == Mode::CpuId || !has_mm_cid { "cpu_id" } else { "mm_cid" };
    for due in [format!("\"index\":\"{index}\""), format!("\"registration\":\"{registration}\"")] {
        assert!(text.contains(&due), "{mode:?} is not {due}: {text}");
    }
}

/// Numbers of a section and of a point in it: each process has them at other
/// addresses.
type At = (usize, usize);

/// What was seen of some points.
#[derive(Default)]
struct Seen {
    points: usize,
    aborts: u32,
    /// Functions whose sections were aborted in a loop.
    loops: BTreeSet<String>,
}

impl Seen {
    fn add(&mut self, more: Seen) {
        self.points += more.points;
        self.aborts += more.aborts;
        self.loops.extend(more.loops);
    }
}

/// Goes one round with these points, all of different sections.
fn round(run: &mut Run, points: &[At]) -> Result<Seen, Fault> {
    let sections = run.sections.clone();
    let section = |at: &At| &sections[at.0];
    let visit = |at: &At| Visit::as_due(section(at), &section(at).points[at.1]);
    let mut visits: Vec<Visit> = points.iter().map(visit).collect();
    match &mut *visits {
        [visit] if visit.section.needs_lost_id(visit.point) => run.round_of_lost_id(visit)?,
        visits => run.round(visits)?,
    }
    were_visited(&visits)
}

/// Whether all was done that is due at each point.
fn were_visited(visits: &[Visit]) -> Result<Seen, Fault> {
    let mut seen = Seen { points: visits.len(), ..Seen::default() };
    for visit in visits {
        let name = &visit.point.name;
        if visit.arrivals == 0 {
            return Err(Fault::Astray(format!("{name}: the script does not come there")));
        }
        assert!(visit.done > 0, "{name}");
        let is_commit = visit.point.address == visit.section.commit;
        assert!(visit.stood > 0 || !is_commit, "{name}");
        if visit.point.part == Part::Inside {
            seen.aborts += visit.done;
        }
        if visit.is_in_loop {
            seen.loops.insert(visit.section.function.clone());
        }
    }
    Ok(seen)
}

/// The points of each round: one of each section. The miss of a thread that has
/// lost its id has a round of its own, where threads can lose theirs.
fn rounds(run: &Run, meanwhile: Meanwhile) -> Vec<Vec<At>> {
    let mut rounds: Vec<Vec<At>> = Vec::new();
    let mut alone = Vec::new();
    for (i, section) in run.sections.iter().enumerate() {
        let (lost, common): (Vec<usize>, Vec<usize>) =
            (0..section.points.len()).partition(|j| section.needs_lost_id(&section.points[*j]));
        rounds.resize_with(rounds.len().max(common.len()), Vec::new);
        for (round, j) in rounds.iter_mut().zip(common) {
            round.push((i, j));
        }
        alone.extend(lost.into_iter().map(|j| vec![(i, j)]));
    }
    if meanwhile == Meanwhile::Migration {
        rounds.append(&mut alone);
    }
    rounds
}

/// All points. After a fault, each point of the round has a round of its own.
fn nothing_is_lost(mode: Mode, meanwhile: Meanwhile) {
    if !kernel_has_rseq() {
        return;
    }
    check_mode(mode, &format!("{mode:?} {meanwhile:?}"));
    let mut run = mode.start(meanwhile);
    if meanwhile == Meanwhile::Migration && !run.tracee.can_migrate() {
        return println!("skip: there is one CPU only");
    }
    let rounds = rounds(&run, meanwhile);
    let mut all = Seen::default();
    let mut faults = Vec::new();
    for points in &rounds {
        let Err(fault) = round(&mut run, points).map(|seen| all.add(seen)) else { continue };
        let before = faults.len();
        let name = |at: &At| run.sections[at.0].points[at.1].name.clone();
        let names: Vec<String> = points.iter().map(name).collect();
        for (at, name) in points.iter().zip(&names) {
            run = mode.start(meanwhile);
            if let Err(fault) = round(&mut run, &[*at]) {
                faults.push(format!("{name}: {fault}"));
            }
        }
        if faults.len() == before {
            faults.push(format!("one of {names:?}, but none of them alone: {fault}"));
        }
        assert!(faults.len() < 20, "{faults:#?}");
        run = mode.start(meanwhile);
    }
    assert!(faults.is_empty(), "{faults:#?}");
    for batch in ["pop_batch", "push_batch"] {
        let turned = all.loops.iter().any(|function| function.contains(batch));
        // After a move the thread may find a slab that has less.
        assert!(turned || meanwhile == Meanwhile::Migration, "{batch} has no second turn");
    }
    let (sections, Seen { points, aborts, .. }) = (run.sections.len(), all);
    println!("{mode:?}, {meanwhile:?}: {sections} sections, {points} points, {aborts} aborts");
}

#[test]
fn nothing_is_lost_by_mm_cid() {
    nothing_is_lost(Mode::MmCid, Meanwhile::Rival);
}

#[test]
fn nothing_is_lost_by_cpu_id() {
    nothing_is_lost(Mode::CpuId, Meanwhile::Rival);
}

#[test]
fn nothing_is_lost_with_own_registration() {
    nothing_is_lost(Mode::Own, Meanwhile::Rival);
}

#[test]
fn nothing_is_lost_by_migration() {
    nothing_is_lost(Mode::CpuId, Meanwhile::Migration);
}

// ---- planted faults

#[derive(Clone, Copy, Debug)]
enum Planted {
    /// The section ends an instruction too late: what was committed is done again.
    Replayed,
    /// An abort at the commit goes on behind it.
    Skipped,
    /// The section begins too late: nothing aborts what was read before.
    Late,
    /// The section ends before the commit.
    Early,
}

/// Plants a fault in a running driver, and lets it show.
fn plant(run: &mut Run, section: &Section, planted: Planted) -> Result<(), Fault> {
    let inside: Vec<&Point> = section.points.iter().filter(|p| p.part == Part::Inside).collect();
    let after = section.points.iter().find(|p| p.address == section.end).unwrap();
    let [.., before, commit] = inside[..] else { panic!("a section has two instructions") };
    assert_eq!(commit.address, section.commit);
    let set = |run: &Run, start: u64, end: u64| {
        run.tracee.write(section.descriptor + 8, start);
        run.tracee.write(section.descriptor + 16, end - start);
    };
    let (point, how) = match planted {
        Planted::Replayed => {
            set(run, section.start, section.next);
            (after, How::Abort)
        }
        Planted::Skipped => (commit, How::Skip),
        Planted::Late => {
            set(run, section.commit, section.end);
            (before, How::Stop)
        }
        Planted::Early => {
            set(run, section.start, section.commit);
            (commit, How::Stop)
        }
    };
    let mut visit = Visit::new(section, point, how);
    visit.most = 40;
    run.round(&mut [visit])
}

/// Every fault in every section but `set_limits`, whose store may be repeated,
/// and which nobody else competes with while the lock is held.
fn planted_faults_are_caught(mode: Mode) {
    if !kernel_has_rseq() {
        return;
    }
    let mut run = mode.start(Meanwhile::Rival);
    let mut missed = Vec::new();
    for i in 0..run.sections.len() {
        for planted in [Planted::Replayed, Planted::Skipped, Planted::Late, Planted::Early] {
            let section = run.sections[i].clone();
            if section.is_locked() {
                continue;
            }
            match plant(&mut run, &section, planted) {
                Err(Fault::Broken(_)) => {}
                other => missed.push(format!("{}: {planted:?}: {other:?}", section.function)),
            }
            run = mode.start(Meanwhile::Rival);
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

/// The miss of `set_limits` stands for an instruction that no script reaches: no
/// thread loses its id here.
#[test]
fn a_point_out_of_reach_is_a_fault() {
    if !kernel_has_rseq() {
        return;
    }
    let mut run = Mode::MmCid.start(Meanwhile::Rival);
    let section = run.sections.iter().find(|section| section.is_locked()).unwrap().clone();
    let point = section.points.iter().find(|point| section.needs_lost_id(point)).unwrap();
    let mut visits = [Visit::as_due(&section, point)];
    run.round(&mut visits).unwrap();
    let fault = were_visited(&visits).err().expect("nobody was there").to_string();
    assert!(fault.contains("set_limits") && fault.contains("does not come"), "{fault}");
}

#[test]
fn planted_faults_are_caught_by_mm_cid() {
    planted_faults_are_caught(Mode::MmCid);
}

#[test]
fn planted_faults_are_caught_by_cpu_id() {
    planted_faults_are_caught(Mode::CpuId);
}

#[test]
fn planted_faults_are_caught_with_own_registration() {
    planted_faults_are_caught(Mode::Own);
}
