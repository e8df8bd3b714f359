//! Many more threads than CPUs, forced migrations, storms of signals, and
//! frees across threads in every direction, in every mode; the allocator is
//! the program's own. Each block carries a pattern of its owner's, checked
//! before its free, which shows a block that was handed out twice. When all is
//! quiet again, each class has as many blocks out as before.
//!
//! `CIDALLOC_TEST_STRESS_SECONDS` is the time for each mode, 3 where it is not set.

#![cfg(target_os = "linux")]

#[path = "stress/blocks.rs"]
mod blocks;
#[path = "history/mode.rs"]
mod mode;
#[path = "stress/scenes.rs"]
mod scenes;
#[path = "stress/weather.rs"]
mod weather;

use blocks::{Block, Random};
use cidalloc::heap::stats::Stats;
use mode::Mode;
use scenes::{Part, both_ways, bursts, mixed, one_frees, play};
use std::os::unix::process::CommandExt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Barrier, Mutex};
use std::time::Duration;
use weather::{EXPOSED, MOVES, SIGNALS, cpus, install_handler, set_affinity};

#[global_allocator]
static ALLOCATOR: cidalloc::CidAlloc = cidalloc::CidAlloc;

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
    let all: [(&str, Part, usize); 4] = [
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
    for (name, part, threads) in all.into_iter().filter(|s| s.0.contains(&only)) {
        let before = Stats::collect();
        let time = Duration::from_secs_f64(seconds / all.len() as f64);
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
    // New arena comes in steps of four hugepages, and the slabs may be near one still.
    assert!(after.mapped_bytes <= before.mapped_bytes + (8 << 20), "mappings grow");
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

fn conserved(mode: Mode) {
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
    conserved:
        blocks_are_conserved_by_mm_cid MmCid,
        blocks_are_conserved_by_cpu_id CpuId,
        blocks_are_conserved_with_own_registration Own,
        blocks_are_conserved_with_registrations_taken_over Take,
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
        threads_leave_nothing_with_registrations_taken_over Take,
        threads_leave_nothing_behind_locks Locked;
}
