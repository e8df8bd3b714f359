//! Single calls, allocator beside allocator: each waits in a process of its own and
//! does a few milliseconds of one kind of work in turn, so that whatever the
//! machine does falls on all of them.

use super::allocators::Allocator;
use super::server::Server;
use super::statistics::median;
use super::workloads::Tools;
use super::{Result, machine};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// How calls are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interface {
    /// malloc, free and their like, and C++'s operators, of a preloaded library.
    C,
    /// std::alloc, on the allocator's crate.
    Rust,
}

impl Interface {
    pub const ALL: [Interface; 2] = [Interface::C, Interface::Rust];

    fn name(self) -> &'static str {
        match self {
            Interface::C => "c",
            Interface::Rust => "rust",
        }
    }
}

/// The median of one round's turns.
pub struct Timing {
    pub interface: Interface,
    pub row: String,
    pub allocator: usize,
    pub round: usize,
    pub ns: f64,
}

/// Turns of each allocator in a round, of each about so many nanoseconds.
const TURNS: usize = 9;
const TURN_NS: f64 = 3e6;

pub struct Calls<'a> {
    /// The last one does nothing.
    allocators: &'a [Allocator],
    tools: &'a Tools,
    pub timings: Vec<Timing>,
}

impl<'a> Calls<'a> {
    pub fn new(allocators: &'a [Allocator], tools: &'a Tools) -> Self {
        Calls { allocators, tools, timings: Vec::new() }
    }

    /// Times all rows of both interfaces with new processes.
    pub fn round(&mut self, round: usize) -> Result<()> {
        if self.timings.iter().any(|t| t.round == round) {
            return Ok(());
        }
        eprintln!("single calls, round {}", round + 1);
        for interface in Interface::ALL {
            let mut servers: Vec<(usize, Server)> = Vec::new();
            for (a, allocator) in self.allocators.iter().enumerate() {
                servers.extend(start(allocator, interface, self.tools)?.map(|server| (a, server)));
            }
            let Some((_, first)) = servers.first_mut() else { continue };
            for (r, row) in first.rows()?.iter().enumerate() {
                for (allocator, ns) in compare(&mut servers, row, round + r)? {
                    let row = row.clone();
                    self.timings.push(Timing { interface, row, allocator, round, ns });
                }
            }
        }
        Ok(())
    }

    /// Names of the rows, in the order in which they were timed.
    pub fn rows(&self, interface: Interface) -> Vec<&str> {
        let mut rows: Vec<&str> = Vec::new();
        for timing in self.timings.iter().filter(|t| t.interface == interface) {
            if !rows.contains(&timing.row.as_str()) {
                rows.push(&timing.row);
            }
        }
        rows
    }

    /// Nanoseconds an operation, by allocator: the medians of the rounds.
    pub fn medians(&self, interface: Interface, row: &str) -> Vec<Option<f64>> {
        let of = |a| {
            let mine =
                move |t: &&Timing| t.allocator == a && t.interface == interface && t.row == row;
            median(&self.timings.iter().filter(mine).map(|t| t.ns).collect::<Vec<_>>())
        };
        (0..self.allocators.len()).map(of).collect()
    }

    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, out: &Path) -> Result<()> {
        let mut text = String::new();
        for line in machine::describe() {
            let _ = writeln!(text, "# {line}");
        }
        text += "interface\trow\tallocator\tround\tns\n";
        for t in &self.timings {
            let (interface, name) = (t.interface.name(), &self.allocators[t.allocator].name);
            let _ = writeln!(text, "{interface}\t{}\t{name}\t{}\t{:.3}", t.row, t.round + 1, t.ns);
        }
        fs::write(out.join("calls.tsv"), text).map_err(|e| format!("calls.tsv: {e}"))
    }

    /// Takes over what `save` wrote.
    pub fn load(&mut self, out: &Path) {
        let text = fs::read_to_string(out.join("calls.tsv")).unwrap_or_default();
        self.timings.extend(text.lines().filter_map(|line| {
            let words: Vec<&str> = line.split('\t').collect();
            let [interface, row, allocator, round, ns] = words[..] else { return None };
            Some(Timing {
                interface: Interface::ALL.into_iter().find(|i| i.name() == interface)?,
                row: row.into(),
                allocator: self.allocators.iter().position(|a| a.name == allocator)?,
                round: round.parse::<usize>().ok()?.checked_sub(1)?,
                ns: ns.parse().ok()?,
            })
        }));
    }
}

fn start(allocator: &Allocator, interface: Interface, tools: &Tools) -> Result<Option<Server>> {
    let is_rust = interface == Interface::Rust;
    let program = if is_rust { allocator.rust.as_deref() } else { Some(tools.calls.as_path()) };
    let Some(program) = program else { return Ok(None) };
    let environment = allocator.environment.iter().copied();
    Server::start(program, allocator.preloaded(is_rust), environment).map(Some)
}

/// Nanoseconds an operation for each of `servers`, in turns.
fn compare(servers: &mut [(usize, Server)], row: &str, turn: usize) -> Result<Vec<(usize, f64)>> {
    // Each does as much as takes it a turn, found out while it warms up.
    let mut operations = Vec::new();
    for (_, server) in servers.iter_mut() {
        let mut count = 100;
        let mut ns = server.time_ns(row, count)?;
        while ns < 500_000 && count < 100_000_000 {
            count *= 4;
            ns = server.time_ns(row, count)?;
        }
        operations.push(((count as f64 * TURN_NS / ns.max(1) as f64) as u64).max(1));
    }
    let mut ns = vec![Vec::new(); servers.len()];
    for t in 0..TURNS {
        for i in 0..servers.len() {
            let i = (i + t + turn) % servers.len();
            let spent = servers[i].1.time_ns(row, operations[i])?;
            ns[i].push(spent as f64 / operations[i] as f64);
        }
    }
    let timed = servers.iter().zip(&ns);
    Ok(timed.filter_map(|((a, _), ns)| Some((*a, median(ns)?))).collect())
}
