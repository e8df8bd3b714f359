//! Rounds of the driver with stops at points, and what a stop must lead to.

use crate::sections::{self, Part, Point, Section};
use crate::tracee::{Stop, Tracee};
use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

/// What is done at a point in one round, at the most: so many aborts or stops …
const MOST: u32 = 3;
/// … and so many in a loop. What is aborted begins anew, and the n-th abort is
/// that of the n-th turn.
const MOST_IN_LOOPS: u32 = 16;

/// What happens while the main thread is stopped at a point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Meanwhile {
    /// The other thread changes all classes of the slab.
    Rival,
    /// The thread comes to another CPU.
    Migration,
}

/// What is done at a point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum How {
    /// The kernel must abort the section.
    Abort,
    /// As `Abort`, but the thread goes on after the commit: a planted fault.
    Skip,
    /// The kernel must not abort.
    Stand,
    /// The thread goes on as the kernel likes.
    Stop,
}

/// What is wrong.
#[derive(Debug)]
pub enum Fault {
    /// The driver or the library itself says that the blocks are not right.
    Broken(String),
    /// The thread did not go on where it must.
    Astray(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        let (Fault::Broken(what) | Fault::Astray(what)) = self;
        out.write_str(what)
    }
}

type Outcome<T> = Result<T, Fault>;

/// A point in one round.
#[derive(Debug)]
pub struct Visit<'a> {
    pub section: &'a Section,
    pub point: &'a Point,
    how: How,
    pub arrivals: u32,
    /// Aborts, or stops that must lead to none.
    pub done: u32,
    pub most: u32,
    /// Stops right after the commit, beside those.
    pub stood: u32,
    pub is_in_loop: bool,
    /// The next abort comes after `due` arrivals. The n-th of a round comes
    /// after n more: each turn of a loop has its turn, and so has what begins
    /// anew after an abort.
    due: u32,
    since: u32,
    /// Its breakpoint stands; else, for `Stop`, those where the section ends.
    armed: bool,
}

impl<'a> Visit<'a> {
    pub fn new(section: &'a Section, point: &'a Point, how: How) -> Visit<'a> {
        Visit {
            section,
            point,
            how,
            arrivals: 0,
            done: 0,
            most: MOST,
            stood: 0,
            is_in_loop: false,
            due: 1,
            since: 0,
            armed: true,
        }
    }

    /// As the kernel must treat a stop there.
    pub fn as_due(section: &'a Section, point: &'a Point) -> Visit<'a> {
        let how = match point.part {
            Part::Before => How::Stop,
            Part::Inside => How::Abort,
            Part::After => How::Stand,
        };
        Visit::new(section, point, how)
    }

    fn aborts(&self) -> bool {
        matches!(self.how, How::Abort | How::Skip)
    }

    /// Counts an arrival. `passed`: the thread has passed the point in this
    /// very execution.
    fn arrive(&mut self, passed: bool) {
        self.arrivals += 1;
        self.since += 1;
        self.is_in_loop |= passed;
        if passed {
            self.most = self.most.max(MOST_IN_LOOPS);
        }
    }

    fn is_over(&self) -> bool {
        self.done >= self.most
    }

    /// Where the thread shall stop next.
    fn breakpoints(&self) -> Vec<u64> {
        match self.armed {
            _ if self.is_over() => Vec::new(),
            true => vec![self.point.address],
            false => self.section.exits().collect(),
        }
    }
}

pub struct Run {
    pub tracee: Tracee,
    pub sections: Vec<Section>,
    meanwhile: Meanwhile,
}

impl Run {
    pub fn start(command: Command, library: &Path, meanwhile: Meanwhile) -> Run {
        let mut tracee = Tracee::start(command);
        let sections = sections::read(library, tracee.pid(), &tracee.memory);
        // The first round has no stop: the driver finds out what must be in use.
        for _ in 0..2 {
            assert_eq!(tracee.go(), Stop::Sync, "{}", tracee.last_words());
        }
        Run { tracee, sections, meanwhile }
    }

    /// Lets the driver end, as it does by itself.
    pub fn finish(mut self) {
        self.order(b'q').unwrap();
        assert_eq!(self.tracee.go(), Stop::Sync);
        match self.tracee.go() {
            Stop::Exit(status) if status.success() => {}
            stop => panic!("{:?}", self.ended(stop)),
        }
    }

    /// One round of the driver.
    pub fn round(&mut self, visits: &mut [Visit]) -> Outcome<()> {
        loop {
            let wanted = visits.iter().flat_map(|v| v.breakpoints()).collect();
            let stop = match self.go(wanted)? {
                Some(stop) => stop,
                None => return self.check(),
            };
            for visit in &mut *visits {
                if visit.armed && visit.point.address == stop {
                    self.arrived(visit)?;
                } else if !visit.armed && visit.section.exits().any(|exit| exit == stop) {
                    visit.armed = true;
                }
            }
        }
    }

    /// Runs to a breakpoint, and takes that one away; none at the script's end.
    fn go(&mut self, wanted: BTreeSet<u64>) -> Outcome<Option<u64>> {
        self.tracee.set_breakpoints(&wanted);
        let stop = self.tracee.go();
        let address = match stop {
            Stop::Trap(ip) => self.tracee.breakpoint(ip),
            Stop::Sync => None,
            _ => return Err(self.ended(stop)),
        };
        match address {
            Some(address) => self.tracee.stand_on(address),
            None if stop == Stop::Sync => {}
            None => return Err(Fault::Astray(format!("stopped by {stop:x?}"))),
        }
        Ok(address)
    }

    /// Runs to the breakpoint at `due`.
    fn go_to(&mut self, due: u64, others: &[u64], what: &str) -> Outcome<()> {
        match self.go(others.iter().copied().chain([due]).collect())? {
            Some(address) if address == due => Ok(()),
            other => Err(Fault::Astray(format!("not at {what}, {due:#x}, but at {other:x?}"))),
        }
    }

    /// Does what is to be done at a point.
    fn arrived(&mut self, visit: &mut Visit) -> Outcome<()> {
        let section = visit.section;
        // Behind the section may also be a thread that was turned away before it:
        // on watch, the first copy is passed by for another.
        if visit.aborts() && visit.point.part != Part::Inside && self.is_of_another(section) {
            visit.armed = false;
            return Ok(());
        }
        // To pass the point the descriptor was taken away.
        visit.arrive(visit.aborts() && self.tracee.rseq_cs() == 0);
        if visit.aborts() && visit.since < visit.due {
            return self.pass(visit);
        }
        visit.done += 1;
        match visit.how {
            How::Stop => {
                self.meanwhile(section)?;
                // A step would be a second stop: the next one is behind.
                visit.armed = false;
                Ok(())
            }
            How::Stand => self.stand(section),
            How::Abort | How::Skip => {
                visit.due += 1;
                visit.since = 0;
                self.abort(section)?;
                if visit.how == How::Skip {
                    self.tracee.set_ip(section.end);
                }
                Ok(())
            }
        }
    }

    /// A section that its thread must miss, as it has come to another slab: one
    /// round, in which the thread is moved while it is in `section`.
    pub fn round_of_lost_id(&mut self, visit: &mut Visit) -> Outcome<()> {
        let (start, end) = (visit.section.start, visit.section.end);
        self.go_to(start, &[], "the section")?;
        self.tracee.migrate();
        self.go_to(visit.point.address, &[end], "the miss")?;
        visit.arrive(false);
        visit.done += 1;
        self.stand(visit.section)?;
        match self.go(BTreeSet::new())? {
            None => self.check(),
            stop => Err(Fault::Astray(format!("stopped at {stop:x?}"))),
        }
    }

    /// At the end of the script: has the driver check, and come round.
    fn check(&mut self) -> Outcome<()> {
        self.tracee.set_breakpoints(&BTreeSet::new());
        self.order(b'f')?;
        match self.tracee.go() {
            Stop::Sync => Ok(()),
            stop => Err(self.ended(stop)),
        }
    }

    fn order(&mut self, order: u8) -> Outcome<()> {
        self.tracee.order(order).map_err(|stop| self.ended(stop))
    }

    fn ended(&mut self, stop: Stop) -> Fault {
        let Stop::Exit(status) = stop else {
            return Fault::Astray(format!("stopped by {stop:x?}"));
        };
        let words = self.tracee.last_words();
        let begin = match (status.code(), status.signal()) {
            (Some(3), _) => "BROKEN: ",
            (_, Some(libc::SIGABRT)) => "cidalloc: ",
            _ => "\n", // in no line
        };
        match words.lines().find(|line| line.starts_with(begin)) {
            Some(line) => Fault::Broken(line.to_string()),
            None => Fault::Astray(format!("the driver ended: {status}; {words}")),
        }
    }

    fn meanwhile(&mut self, section: &Section) -> Outcome<()> {
        match self.meanwhile {
            Meanwhile::Rival if section.is_locked() => {}
            Meanwhile::Rival => self.order(b'r')?,
            Meanwhile::Migration => self.tracee.migrate(),
        }
        Ok(())
    }

    /// Goes on in the section as if there had been no stop: without descriptor
    /// the kernel aborts nothing, and meanwhile nothing happens. After the commit
    /// the thread stands, with descriptor.
    fn pass(&mut self, visit: &mut Visit) -> Outcome<()> {
        let section = visit.section;
        self.check_descriptor(section)?;
        self.tracee.set_rseq_cs(0);
        match self.tracee.step() {
            Stop::Trap(ip) if ip == section.end && visit.point.address == section.commit => {
                visit.stood += 1;
                self.tracee.set_rseq_cs(section.descriptor);
                self.stand(section)
            }
            Stop::Trap(_) => Ok(()),
            stop => Err(self.ended(stop)),
        }
    }

    /// The kernel must abort: the thread, in the section, comes to the abort
    /// address at once.
    fn abort(&mut self, section: &Section) -> Outcome<()> {
        self.check_descriptor(section)?;
        self.tracee.set_rseq_cs(section.descriptor);
        self.meanwhile(section)?;
        self.go_to(section.abort, &[], "the abort address")
    }

    fn is_of_another(&mut self, section: &Section) -> bool {
        let at = self.tracee.rseq_cs();
        at != 0 && at != section.descriptor
    }

    /// In a section `rseq_cs` names its descriptor, unless we took it away.
    fn check_descriptor(&mut self, section: &Section) -> Outcome<()> {
        match self.tracee.rseq_cs() {
            0 => Ok(()),
            at if at == section.descriptor => Ok(()),
            at => Err(Fault::Astray(format!("rseq_cs is {at:#x}, not {:#x}", section.descriptor))),
        }
    }

    /// The kernel must not abort: the thread executes the instruction.
    fn stand(&mut self, section: &Section) -> Outcome<()> {
        self.meanwhile(section)?;
        match self.tracee.step() {
            Stop::Trap(ip) if !(section.abort..section.abort + 8).contains(&ip) => Ok(()),
            Stop::Trap(ip) => Err(Fault::Astray(format!("aborted, to {ip:#x}"))),
            stop => Err(self.ended(stop)),
        }
    }
}
