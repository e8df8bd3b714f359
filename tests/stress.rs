//! Many more threads than CPUs, forced migrations, storms of signals, and
//! frees across threads in every direction, in every mode; the allocator is
//! the program's own. Each block carries a pattern of its owner's, checked
//! before its free, which shows a block that was handed out twice. When all is
//! quiet again, each class has as many blocks out as before.
//!
//! `CIDALLOC_TEST_STRESS_SECONDS` is the time for each mode, 3 where it is not set.

#![cfg(target_os = "linux")]

#[path = "history/mode.rs"]
mod mode;

use cidalloc::heap::stats::Stats;
use mode::Mode;
use std::alloc::{GlobalAlloc, Layout};
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Barrier, Condvar, Mutex};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: cidalloc::CidAlloc = cidalloc::CidAlloc;

// ---- blocks that know their owner

/// A live block; its pattern is known to its holder alone.
struct Block {
    ptr: *mut u8,
    layout: Layout,
    pattern: u64,
}

// SAFETY: a block is plain memory, held by one thread at a time.
unsafe impl Send for Block {}

impl Block {
    fn new(random: &mut Random, size: usize) -> Block {
        let align = if random.one_in(16) { 1 << random.below(13) } else { 8 };
        let layout = Layout::from_size_align(size.max(1), align).unwrap();
        let zeroed = random.one_in(8);
        // SAFETY: the layout's size is above zero.
        let ptr = unsafe {
            match zeroed {
                true => ALLOCATOR.alloc_zeroed(layout),
                false => ALLOCATOR.alloc(layout),
            }
        };
        assert!(!ptr.is_null() && ptr.addr() % align == 0, "{layout:?} got {ptr:p}");
        let block = Block { ptr, layout, pattern: random.next() | 1 };
        if zeroed {
            block.each_word(|found, _| assert_eq!(found, 0, "{layout:?} at {ptr:p} not zeroed"));
        }
        block.fill();
        block
    }

    /// `n` blocks of random sizes up to `most`.
    fn several(random: &mut Random, n: usize, most: usize) -> Vec<Block> {
        let mut one = || {
            let size = random.size().min(most);
            Block::new(random, size)
        };
        (0..n).map(|_| one()).collect()
    }

    /// Calls `f` with the content and the due content of each whole word (of
    /// large blocks, one word in 512).
    fn each_word(&self, mut f: impl FnMut(u64, u64)) {
        for at in self.words() {
            // SAFETY: within the block.
            f(unsafe { self.ptr.add(at).cast::<u64>().read_unaligned() }, self.due(at));
        }
    }

    fn words(&self) -> impl Iterator<Item = usize> + use<> {
        let step = if self.layout.size() > 64 << 10 { 4096 } else { 8 };
        (0..self.layout.size() & !7).step_by(step)
    }

    fn due(&self, at: usize) -> u64 {
        self.pattern.rotate_left(at as u32 / 8).wrapping_add(at as u64)
    }

    fn fill(&self) {
        for at in self.words() {
            // SAFETY: within the block, which is ours.
            unsafe { self.ptr.add(at).cast::<u64>().write_unaligned(self.due(at)) };
        }
    }

    fn check(&self) {
        self.each_word(|found, due| {
            assert_eq!(found, due, "{:?} at {:p} was another's too", self.layout, self.ptr);
        });
    }

    fn resize(&mut self, size: usize) {
        self.check();
        // SAFETY: the block's layout; a size above zero.
        let ptr = unsafe { ALLOCATOR.realloc(self.ptr, self.layout, size) };
        assert!(!ptr.is_null(), "no memory for {size} bytes");
        let kept = size.min(self.layout.size());
        for at in self.words().take_while(|at| at + 8 <= kept) {
            // SAFETY: within the block.
            let found = unsafe { ptr.add(at).cast::<u64>().read_unaligned() };
            assert_eq!(found, self.due(at), "lost between {:p} and {ptr:p} at {at}", self.ptr);
        }
        self.ptr = ptr;
        self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        self.fill();
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.check();
        // SAFETY: the block's own layout; freed once, here.
        unsafe {
            match self.pattern & 2 {
                0 => ALLOCATOR.dealloc(self.ptr, self.layout),
                _ => cidalloc::heap::free(self.ptr),
            }
        }
    }
}

struct Random(u64);

impl Random {
    fn new(seed: usize) -> Random {
        Random((seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 32) as usize % bound
    }
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    /// Mostly 8 bytes to 1 KiB; now and then up to 64 KiB, seldom up to 2 MiB.
    fn size(&mut self) -> usize {
        let bits = match self.below(1000) {
            0 => 21,
            1..=10 => 16,
            11..=100 => 13,
            _ => 10,
        };
        let shift = 3 + self.below(bits - 2);
        (1 << shift) + self.below(1 << shift)
    }
}

// ---- weather: signals and migrations

/// Signals handled, and threads moved to another CPU or the same.
static SIGNALS: AtomicUsize = AtomicUsize::new(0);
static MOVES: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_signal(_: i32) {
    SIGNALS.fetch_add(1, Relaxed);
}

/// Threads that the weather may hit.
static EXPOSED: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// While it lives, this thread is hit by the weather.
struct Exposed(i32);

impl Exposed {
    fn new() -> Exposed {
        // SAFETY: no arguments.
        let tid = unsafe { libc::gettid() };
        EXPOSED.lock().unwrap().push(tid);
        Exposed(tid)
    }
}

impl Drop for Exposed {
    fn drop(&mut self) {
        EXPOSED.lock().unwrap_or_else(|e| e.into_inner()).retain(|tid| *tid != self.0);
    }
}

/// The CPUs this process may run on.
fn cpus() -> Vec<usize> {
    // SAFETY: a zeroed set is an empty one; the call fills it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        assert_eq!(libc::sched_getaffinity(0, size_of_val(&set), &mut set), 0);
        (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &set)).collect()
    }
}

fn set_affinity(tid: i32, cpus: &[usize]) -> bool {
    // SAFETY: a zeroed set is an empty one.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        cpus.iter().for_each(|cpu| libc::CPU_SET(*cpu, &mut set));
        libc::sched_setaffinity(tid, size_of_val(&set), &set) == 0
    }
}

fn install_handler() {
    // SAFETY: the handler adds to an atomic and nothing else.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(i32) as usize;
        action.sa_flags = libc::SA_RESTART;
        for signal in [libc::SIGUSR1, libc::SIGALRM] {
            assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
        }
    }
}

/// An alarm each `us` microseconds; none at 0.
fn set_alarm(us: i64) {
    let every = libc::timeval { tv_sec: 0, tv_usec: us };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: passes a value.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
}

/// Sends signals to, and moves, one exposed thread after another.
fn storm(stop: &AtomicBool) {
    let cpus = cpus();
    let mut random = Random::new(0);
    set_alarm(700);
    while !stop.load(Relaxed) {
        std::thread::sleep(Duration::from_micros(100));
        // Under the lock the chosen thread cannot end.
        let exposed = EXPOSED.lock().unwrap();
        for _ in 0..exposed.len().min(4) {
            let tid = exposed[random.below(exposed.len())];
            // SAFETY: a live thread of this process; the handler is installed.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, libc::SIGUSR1) };
            if cpus.len() > 1 {
                let tid = exposed[random.below(exposed.len())];
                let moved = set_affinity(tid, &[cpus[random.below(cpus.len())]]);
                MOVES.fetch_add(moved as usize, Relaxed);
            }
        }
    }
    set_alarm(0);
}

// ---- the scenes

/// What the threads of a scene share.
struct Scene {
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

type Part = fn(&Scene, usize);

/// A little of everything; any thread may free any other's blocks.
fn mixed(scene: &Scene, me: usize) {
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
fn both_ways(scene: &Scene, me: usize) {
    let mut random = Random::new(me);
    while !scene.stop.load(Relaxed) {
        let mut made = scene.make(&mut random, 50);
        scene.put(me, &mut made);
        drop(scene.take(me ^ 1, 100));
    }
}

/// Thread 0 frees what all others allocate.
fn one_frees(scene: &Scene, me: usize) {
    let mut random = Random::new(me);
    while !scene.stop.load(Relaxed) {
        match me {
            0 => drop(scene.take(0, 1000)),
            _ => scene.put(0, &mut scene.make(&mut random, 64)),
        }
    }
}

/// Many blocks of about one size at once, then none, in any order.
fn bursts(scene: &Scene, me: usize) {
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
fn play(part: Part, threads: usize, time: Duration) -> u64 {
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
        let end = Instant::now() + time;
        while Instant::now() < end && !all.iter().any(|t| t.is_finished()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        scene.stop.store(true, Relaxed);
        // Joined one by one: the scope's own wait ends before the threads have.
        all.into_iter().for_each(|thread| thread.join().expect("a thread of the scene"));
    });
    scene.blocks.load(Relaxed)
}

/// Checks that no class has more or fewer blocks out than `before`.
fn check_conserved(before: &Stats, what: &str) {
    let after = Stats::collect();
    let (live_before, live_after) = (mode::live_objects(before), mode::live_objects(&after));
    for (class, (b, a)) in live_before.iter().zip(&live_after).enumerate() {
        assert_eq!(a, b, "{what}: blocks out of the class in row {class} now and before");
    }
    assert_eq!(after.large_blocks, before.large_blocks, "{what}: large blocks");
}

/// More threads than CPUs by far, and enough to outnumber the cids.
fn crowd() -> usize {
    (32 * cpus().len()).clamp(64, 512)
}

#[test]
#[ignore = "started by the tests of each mode"]
fn child_scenes() {
    install_handler();
    let seconds: f64 = std::env::var(SECONDS).map_or(3.0, |s| s.parse().expect("seconds"));
    let scenes: [(&str, Part, usize); 4] = [
        ("mixed", mixed, crowd()),
        ("both_ways", both_ways, 32),
        ("one_frees", one_frees, 17),
        ("bursts", bursts, crowd() / 2),
    ];
    // What this test, the harness and the standard library keep is made now.
    EXPOSED.lock().unwrap().reserve(2 * crowd());
    play(mixed, 8, Duration::from_millis(50));
    mode::verify();
    // One scene alone, to look into a failure.
    let only = std::env::var("CIDALLOC_TEST_SCENE").unwrap_or_default();
    for (name, part, threads) in scenes.into_iter().filter(|s| s.0.contains(&only)) {
        let before = Stats::collect();
        let time = Duration::from_secs_f64(seconds / scenes.len() as f64);
        let blocks = play(part, threads, time);
        check_conserved(&before, name);
        println!("{name}: {blocks} blocks");
        assert!(blocks > 1000, "{name} made {blocks} blocks only");
    }
    let (signals, moves) = (SIGNALS.load(Relaxed), MOVES.load(Relaxed));
    println!("{signals} signals, {moves} moves");
    assert!(signals > 100 && (moves > 100 || cpus().len() == 1), "no weather");
    mode::verify();
}

/// 1,000 threads at once on two CPUs keep no more than two slabs may (behind
/// locks, four).
#[test]
#[ignore = "started by the tests of each mode"]
fn child_thousand_threads() {
    const THREADS: usize = 1000;
    assert!(cpus().len() <= 2, "the parent leaves two CPUs");
    let budget: u64 = std::env::var("CIDALLOC_SLAB_BYTES").unwrap().parse().unwrap();
    let (busy, quiet, done) =
        (Barrier::new(THREADS), Barrier::new(THREADS + 1), Barrier::new(THREADS + 1));
    let stats = std::thread::scope(|scope| {
        for me in 0..THREADS {
            let (busy, quiet, done) = (&busy, &quiet, &done);
            let use_some = move || {
                let mut random = Random::new(me);
                busy.wait();
                for _ in 0..4 {
                    let held = Block::several(&mut random, 100, 4 << 10);
                    std::thread::yield_now();
                    drop(held);
                }
                quiet.wait();
                done.wait();
            };
            let small = std::thread::Builder::new().stack_size(64 << 10);
            small.spawn_scoped(scope, use_some).expect("a thread");
        }
        quiet.wait();
        let stats = Stats::collect();
        done.wait();
        stats
    });
    println!("{} bytes kept by {} slabs", stats.cid_bytes, stats.cids_in_use);
    // Behind locks there are two shards for each CPU.
    let slabs = if stats.mode == "locked" { 4 } else { 2 };
    assert!(stats.cid_bytes > 0, "nothing kept: the figure is not taken");
    assert!(
        stats.cid_bytes <= slabs * budget,
        "{} slabs keep {} bytes, {budget} each are allowed",
        stats.cids_in_use,
        stats.cid_bytes
    );
    // The kernel may hand out one id more while threads move.
    assert!(u64::from(stats.cids_in_use) <= slabs + 1, "{} slabs", stats.cids_in_use);
    mode::verify();
}

/// Threads that come, exchange a few blocks and go leave nothing behind.
#[test]
#[ignore = "started by the tests of each mode"]
fn child_coming_and_going() {
    const AT_ONCE: usize = 8;
    let left: Mutex<Vec<Block>> = Mutex::new(Vec::with_capacity(64));
    let generation = |number: usize| {
        let threads: [_; AT_ONCE] = std::array::from_fn(|i| {
            let left = &left;
            move || {
                let mut random = Random::new(number * AT_ONCE + i);
                let mut held = Block::several(&mut random, 12, 4 << 10);
                let before = left.lock().unwrap().pop();
                left.lock().unwrap().push(held.swap_remove(random.below(12)));
                drop((before, held));
            }
        });
        std::thread::scope(|scope| {
            let threads = threads.map(|t| scope.spawn(t));
            threads.into_iter().for_each(|t| t.join().expect("a thread"));
        });
        left.lock().unwrap().clear();
    };
    let resident_kb = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap()
    };
    (0..1250).for_each(generation);
    let (before, resident) = (Stats::collect(), resident_kb());
    (1250..20_000 / AT_ONCE).for_each(generation);
    check_conserved(&before, "coming and going");
    let (after, grown) = (Stats::collect(), resident_kb() - resident);
    println!(
        "metadata {} -> {}, resident +{grown} KiB",
        before.metadata_bytes, after.metadata_bytes
    );
    assert!(after.metadata_bytes <= before.metadata_bytes + (64 << 10), "metadata grows");
    assert!(after.mapped_bytes <= before.mapped_bytes + (2 << 20), "mappings grow");
    assert!(grown <= 4096, "{grown} KiB more are resident");
    mode::verify();
}

// ---- the parents

/// Handed down to the children.
const SECONDS: &str = "CIDALLOC_TEST_SECONDS";

/// A child that takes this much longer than its scenes hangs.
const TIMEOUT: Duration = Duration::from_secs(100);

/// One child at a time: each is a load of its own.
static TURN: Mutex<()> = Mutex::new(());

fn run_child(mode: Mode, name: &str, prepare: impl FnOnce(&mut std::process::Command)) {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let mut child = mode::child(mode, name);
    let mut time = TIMEOUT;
    if let Ok(seconds) = std::env::var("CIDALLOC_TEST_STRESS_SECONDS") {
        time += Duration::from_secs_f64(seconds.parse().expect("seconds"));
        child.env(SECONDS, seconds);
    }
    prepare(&mut child);
    let output = mode::output(child, time);
    assert!(mode::passed(&output), "{mode:?}: {}", mode::report(&output));
}

fn scenes(mode: Mode) {
    run_child(mode, "child_scenes", |_| {});
}

fn thousand_threads(mode: Mode) {
    let two: Vec<usize> = cpus().into_iter().take(2).collect();
    run_child(mode, "child_thousand_threads", |child| {
        child.env("CIDALLOC_SLAB_BYTES", "1048576");
        // SAFETY: one system call between fork and exec.
        unsafe {
            child.pre_exec(move || match set_affinity(0, &two) {
                true => Ok(()),
                false => Err(std::io::Error::last_os_error()),
            })
        };
    });
}

fn coming_and_going(mode: Mode) {
    run_child(mode, "child_coming_and_going", |_| {});
}

macro_rules! in_each_mode {
    ($($run:ident: $($name:ident $mode:ident),*;)*) => {$($(
        #[test]
        fn $name() {
            $run(Mode::$mode);
        }
    )*)*};
}

in_each_mode! {
    scenes:
        blocks_are_conserved_by_mm_cid MmCid,
        blocks_are_conserved_by_cpu_id CpuId,
        blocks_are_conserved_with_own_registration Own,
        blocks_are_conserved_behind_locks Locked,
        blocks_are_conserved_while_counting Counting;
    thousand_threads:
        a_thousand_threads_keep_two_slabs_by_mm_cid MmCid,
        a_thousand_threads_keep_two_slabs_by_cpu_id CpuId,
        a_thousand_threads_keep_two_slabs_with_own_registration Own,
        a_thousand_threads_keep_four_slabs_behind_locks Locked;
    coming_and_going:
        threads_leave_nothing_by_mm_cid MmCid,
        threads_leave_nothing_by_cpu_id CpuId,
        threads_leave_nothing_with_own_registration Own,
        threads_leave_nothing_behind_locks Locked;
}
