//! Runs histories: in step, free-running, or each in a process of its own,
//! and reduces a failing one to the least that still fails.

use super::heap::Heap;
use super::model::{Block, Fault, Model};
use super::op::{self, History, Op, Step};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::ScopedJoinHandle;

/// How a history's threads run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// One step at a time over all threads, in the history's order: what
    /// fails once fails again.
    InStep,
    /// Each thread does its own steps as fast as it can.
    Free,
    /// All steps on the calling thread.
    Alone,
}

/// A failing history and what is wrong with it.
#[derive(Debug)]
pub struct Failure {
    pub fault: Fault,
    pub history: History,
}

/// Draws `cases` histories of up to `steps` steps on `threads` threads from
/// `seed` and runs each; returns the first failure, reduced.
pub fn search(
    seed: u64,
    cases: u32,
    threads: u8,
    steps: usize,
    run: impl Fn(&History, bool) -> Result<(), Fault>,
) -> Option<Failure> {
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: 3000, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let reducing = AtomicBool::new(false);
    let result =
        TestRunner::new_with_rng(config, rng).run(&op::history(threads, steps), |history| {
            run(&history, reducing.load(Ordering::Relaxed)).map_err(|fault| {
                reducing.store(true, Ordering::Relaxed);
                TestCaseError::fail(fault)
            })
        });
    match result {
        Ok(()) => None,
        Err(TestError::Fail(fault, history)) => {
            Some(reduce(Failure { fault: fault.to_string(), history }, |h| run(h, true)))
        }
        Err(TestError::Abort(why)) => panic!("histories could not be drawn: {why}"),
    }
}

/// Leaves out steps and makes picks small for as long as that still fails:
/// proptest goes over the steps once only, and a step that became needless by
/// the loss of another would stay.
fn reduce(mut least: Failure, run: impl Fn(&History) -> Result<(), Fault>) -> Failure {
    let try_out = |least: &mut Failure, history: History| match run(&history) {
        Ok(()) => false,
        Err(fault) => {
            *least = Failure { fault, history };
            true
        }
    };
    loop {
        let mut smaller = false;
        for i in (0..least.history.len()).rev() {
            let mut without = least.history.clone();
            without.remove(i);
            smaller |= try_out(&mut least, without);
        }
        // In twos: an allocation and its free go together or not at all.
        for (i, j) in pairs(least.history.len()) {
            let mut without = least.history.clone();
            if j < without.len() {
                without.remove(j);
                without.remove(i);
                smaller |= try_out(&mut least, without);
            }
        }
        for i in 0..least.history.len() {
            for pick in 0..2 {
                let mut picked = least.history.clone();
                match picked[i].op.pick() {
                    Some(present) if *present > pick => *present = pick,
                    _ => continue,
                }
                smaller |= try_out(&mut least, picked);
            }
        }
        if !smaller {
            return least;
        }
    }
}

/// All `i < j` below `len`, for a history short enough to go through them.
fn pairs(len: usize) -> impl Iterator<Item = (usize, usize)> {
    let len = if len <= 12 { len } else { 0 };
    (0..len).flat_map(move |i| (i + 1..len).map(move |j| (i, j)))
}

/// Runs one history and checks that the heap has all its blocks back.
pub fn run(heap: &dyn Heap, pace: Pace, history: &[Step]) -> Result<(), Fault> {
    let before = heap.live_blocks();
    match pace {
        Pace::InStep => in_step(heap, history)?,
        Pace::Free => free_running(heap, history)?,
        Pace::Alone => alone(heap, history)?,
    }
    let after = heap.live_blocks();
    if before != after {
        return Err(format!("not conserved: {before:?} live blocks before, {after:?} after"));
    }
    Ok(())
}

fn alone(heap: &dyn Heap, history: &[Step]) -> Result<(), Fault> {
    let model = Model::default();
    let mut held = Vec::new();
    for (i, step) in history.iter().enumerate() {
        let handed = model.step(heap, &mut held, &step.op);
        let handed = handed.map_err(|fault| format!("step {} ({step}): {fault}", i + 1))?;
        held.extend(handed.map(|(_, block)| block));
    }
    release_all(heap, &model, held.into_iter())
}

type Job = (Op, Vec<Block>);
type Done = (Result<Option<(u8, Block)>, Fault>, Vec<Block>);
type Worker<'scope> = (mpsc::Sender<Job>, mpsc::Receiver<Done>, ScopedJoinHandle<'scope, ()>);

fn in_step(heap: &dyn Heap, history: &[Step]) -> Result<(), Fault> {
    let model = &Model::default();
    let threads = op::THREADS as usize;
    let mut held = vec![Vec::new(); threads];
    std::thread::scope(|scope| {
        let start = || {
            let (job, jobs) = mpsc::channel::<Job>();
            let (done, dones) = mpsc::channel::<Done>();
            let thread = scope.spawn(move || {
                for (op, mut held) in jobs {
                    let result = model.step(heap, &mut held, &op);
                    if done.send((result, held)).is_err() {
                        return;
                    }
                }
            });
            (job, dones, thread)
        };
        let mut workers: Vec<Option<Worker>> = (0..threads).map(|_| None).collect();
        for (i, step) in history.iter().enumerate() {
            let thread = step.thread as usize % threads;
            if step.op == Op::Respawn {
                if let Some((job, _, thread)) = workers[thread].take() {
                    drop(job);
                    thread.join().expect("a worker");
                }
                continue;
            }
            let (job, dones, _) = workers[thread].get_or_insert_with(start);
            job.send((step.op.clone(), std::mem::take(&mut held[thread]))).expect("a worker");
            let (result, now_held) = dones.recv().expect("a worker");
            held[thread] = now_held;
            match result {
                Ok(None) => {}
                Ok(Some((to, block))) => held[to as usize % threads].push(block),
                Err(fault) => return Err(format!("step {} ({step}): {fault}", i + 1)),
            }
        }
        Ok(())
    })?;
    release_all(heap, model, held.into_iter().flatten())
}

fn free_running(heap: &dyn Heap, history: &[Step]) -> Result<(), Fault> {
    let model = &Model::default();
    let threads = op::THREADS as usize;
    let mail: &[Mutex<Vec<Block>>] = &(0..threads).map(|_| Mutex::default()).collect::<Vec<_>>();
    let fault = &Mutex::new(None::<Fault>);
    let mut steps = vec![Vec::new(); threads];
    for (i, step) in history.iter().enumerate() {
        steps[step.thread as usize % threads].push((i, step.op.clone()));
    }
    std::thread::scope(|scope| {
        for (thread, steps) in steps.into_iter().enumerate() {
            let work = Work { heap, model, mail, fault, thread };
            if !steps.is_empty() {
                scope.spawn(move || work.go_on(steps, Vec::new()));
            }
        }
    });
    if let Some(fault) = fault.lock().unwrap().take() {
        return Err(fault);
    }
    release_all(heap, model, mail.iter().flat_map(|m| std::mem::take(&mut *m.lock().unwrap())))
}

#[derive(Clone, Copy)]
struct Work<'a> {
    heap: &'a dyn Heap,
    model: &'a Model,
    mail: &'a [Mutex<Vec<Block>>],
    fault: &'a Mutex<Option<Fault>>,
    thread: usize,
}

impl Work<'_> {
    /// Does `steps`, in a thread of its own from each `Respawn` on; mails
    /// itself at the end what it still holds.
    fn go_on(self, steps: Vec<(usize, Op)>, mut held: Vec<Block>) {
        for (n, (i, op)) in steps.iter().enumerate() {
            held.append(&mut self.mail[self.thread].lock().unwrap());
            if *op == Op::Respawn {
                // A scope inside, so that this thread outlives its successor
                // only by its own exit: both then run down at once.
                let rest = steps[n + 1..].to_vec();
                return std::thread::scope(|scope| {
                    scope.spawn(move || self.go_on(rest, held));
                });
            }
            match self.model.step(self.heap, &mut held, op) {
                Ok(None) => {}
                Ok(Some((to, block))) => {
                    self.mail[to as usize % self.mail.len()].lock().unwrap().push(block)
                }
                Err(fault) => {
                    let fault = format!("step {} ({} {op:?}): {fault}", i + 1, self.thread);
                    self.fault.lock().unwrap().get_or_insert(fault);
                    return;
                }
            }
            if self.fault.lock().unwrap().is_some() {
                return;
            }
        }
        self.mail[self.thread].lock().unwrap().append(&mut held);
    }
}

fn release_all(
    heap: &dyn Heap,
    model: &Model,
    blocks: impl Iterator<Item = Block>,
) -> Result<(), Fault> {
    for (i, block) in blocks.enumerate() {
        model.release(heap, &block, i % 2 == 0).map_err(|f| format!("at the end: {f}"))?;
    }
    Ok(())
}
