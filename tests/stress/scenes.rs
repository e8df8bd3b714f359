//! Scenes: what many threads do at once, in bad weather, to each other's blocks.

use crate::blocks::{Block, Random};
use crate::weather::{Exposed, Weather, storm};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// What the threads of a scene share.
pub struct Scene {
    stop: AtomicBool,
    bins: Vec<Bin>,
    blocks: AtomicU64,
}

/// Where blocks change hands.
#[derive(Default)]
struct Bin {
    blocks: Mutex<Vec<Block>>,
    changed: Condvar,
}

/// A full bin makes its producers wait.
const BIN_BLOCKS: usize = 2000;

impl Scene {
    fn put(&self, bin: usize, batch: &mut Vec<Block>) {
        let bin = &self.bins[bin % self.bins.len()];
        let mut blocks = bin.blocks.lock().unwrap();
        while blocks.len() >= BIN_BLOCKS && !self.stop.load(Relaxed) {
            blocks = bin.changed.wait_timeout(blocks, Duration::from_millis(10)).unwrap().0;
        }
        blocks.append(batch);
        bin.changed.notify_all();
    }

    fn take(&self, bin: usize, most: usize) -> Vec<Block> {
        let bin = &self.bins[bin % self.bins.len()];
        let mut blocks = bin.blocks.lock().unwrap();
        if blocks.is_empty() {
            blocks = bin.changed.wait_timeout(blocks, Duration::from_millis(1)).unwrap().0;
        }
        let from = blocks.len().saturating_sub(most);
        let taken = blocks.split_off(from);
        bin.changed.notify_all();
        taken
    }

    fn make(&self, random: &mut Random, n: usize) -> Vec<Block> {
        self.blocks.fetch_add(n as u64, Relaxed);
        Block::several(random, n, usize::MAX)
    }
}

pub type Part = fn(&Scene, usize);

/// A little of everything; any thread may free any other's blocks.
pub fn mixed(scene: &Scene, me: usize) {
    let mut random = Random::new(me);
    let mut held: Vec<Block> = Vec::new();
    while !scene.stop.load(Relaxed) {
        match random.below(20) {
            0..=9 if held.len() < 200 => held.append(&mut scene.make(&mut random, 1)),
            10..=15 if !held.is_empty() => drop(held.swap_remove(random.below(held.len()))),
            16 => {
                let size = random.size();
                if let Some(block) = held.last_mut() {
                    block.resize(size);
                }
            }
            17 => {
                let from = held.len() - random.below(held.len() + 1).min(10);
                scene.put(random.below(8), &mut held.split_off(from));
            }
            18 if held.len() < 200 => held.append(&mut scene.take(random.below(8), 10)),
            19 if random.one_in(20) => std::thread::yield_now(),
            _ => {}
        }
    }
}

/// Threads in pairs: each frees what the other allocates.
pub fn both_ways(scene: &Scene, me: usize) {
    let mut random = Random::new(me);
    while !scene.stop.load(Relaxed) {
        let mut made = scene.make(&mut random, 50);
        scene.put(me, &mut made);
        drop(scene.take(me ^ 1, 100));
    }
}

/// Thread 0 frees what all others allocate.
pub fn one_frees(scene: &Scene, me: usize) {
    let mut random = Random::new(me);
    while !scene.stop.load(Relaxed) {
        match me {
            0 => drop(scene.take(0, 1000)),
            _ => scene.put(0, &mut scene.make(&mut random, 64)),
        }
    }
}

/// Many blocks of about one size at once, then none, in any order.
pub fn bursts(scene: &Scene, me: usize) {
    let mut random = Random::new(me);
    while !scene.stop.load(Relaxed) {
        let size = random.size().min(16 << 10);
        let n = 1 + random.below(3000.min((1 << 20) / size));
        scene.blocks.fetch_add(n as u64, Relaxed);
        let mut burst: Vec<Block> = (0..n).map(|_| Block::new(&mut random, size)).collect();
        match random.below(3) {
            0 => burst.drain(..).for_each(drop),
            1 => while burst.pop().is_some() {},
            _ => {
                while !burst.is_empty() {
                    drop(burst.swap_remove(random.below(burst.len())));
                }
            }
        }
    }
}

/// Plays `part` on `threads` threads in bad weather for `time`; returns the
/// number of blocks made. All threads have ended when it returns.
pub fn play(part: Part, threads: usize, time: Duration) -> u64 {
    let scene = Scene {
        stop: AtomicBool::new(false),
        bins: (0..threads).map(|_| Bin::default()).collect(),
        blocks: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        let scene = &scene;
        let mut all: Vec<_> = (0..threads)
            .map(|me| {
                scope.spawn(move || {
                    let _exposed = Exposed::new();
                    part(scene, me);
                })
            })
            .collect();
        all.push(scope.spawn(|| storm(&scene.stop)));
        let (end, weather) = (Instant::now() + time, Weather::now());
        while (Instant::now() < end || !weather.was_enough())
            && !all.iter().any(|t| t.is_finished())
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        scene.stop.store(true, Relaxed);
        // Joined one by one: the scope's own wait ends before the threads have.
        all.into_iter().for_each(|thread| thread.join().expect("a thread of the scene"));
    });
    scene.blocks.load(Relaxed)
}
