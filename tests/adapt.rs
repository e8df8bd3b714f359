//! What the allocator keeps follows what is used: capacities, idle slabs, free
//! memory. Each fact in a process of its own, because statistics are the
//! process's.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

use cidalloc::heap::{self, stats::Stats};
use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs an ignored test of this file alone in a child.
fn alone(test: &str) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env_remove("LD_PRELOAD")
        .status()
        .unwrap();
    assert!(status.success(), "{test}: {status}");
}

/// Confines the calling thread to one CPU; false where there is no such CPU.
fn pin(cpu: usize) -> bool {
    // SAFETY: a set of this thread's CPUs on the stack.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set) == 0
    }
}

/// Bytes of memory that the process has now.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Allocates and frees `count` blocks of `size` bytes, the frees in another order.
fn hold_and_free(count: usize, size: usize) {
    let mut blocks: Vec<*mut u8> = (0..count).map(|_| heap::allocate(size)).collect();
    blocks.rotate_left(count / 3);
    for block in black_box(blocks) {
        // SAFETY: allocated above, freed once.
        unsafe { heap::free(block) };
    }
}

/// Misses of all slabs during `work`.
fn misses_while(work: impl FnOnce()) -> u64 {
    let before = Stats::collect();
    work();
    let after = Stats::collect();
    after.refills + after.overflows - before.refills - before.overflows
}

/// Slow paths for a while: large blocks look at the clock.
fn slow_paths_for(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        for _ in 0..20 {
            let block = heap::allocate(300_000);
            // SAFETY: allocated above, freed once.
            unsafe { heap::free(block) };
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_thousand_blocks_soon_stay_in_the_slab() {
    alone("child_thousand_blocks");
}

#[test]
#[ignore = "runs in a child"]
fn child_thousand_blocks() {
    // Small ids change CPUs and slabs: one CPU, one slab.
    assert!(pin(0));
    for size in [16, 64, 256, 1000] {
        (0..40).for_each(|_| hold_and_free(1000, size));
        let misses = misses_while(|| (0..100).for_each(|_| hold_and_free(1000, size)));
        // Where ids are the kernel's, another thread of the harness may have
        // moved this one to a cold slab in between, once.
        assert!(misses < 100, "{size} bytes: {misses} misses in 200,000 operations");
    }
}

#[test]
fn blocks_of_all_sizes_come_and_go_in_the_slab() {
    alone("child_blocks_of_all_sizes");
}

/// What a slab may keep follows the heap: how far each class's number strays from
/// its mean does.
#[test]
#[ignore = "runs in a child"]
fn child_blocks_of_all_sizes() {
    const LIVE: usize = 4000;
    const ROUNDS: usize = 100_000;
    assert!(pin(0));
    let mut seed = 7u64;
    let mut random = move |below: usize| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize % below
    };
    let mut blocks: Vec<*mut u8> =
        (0..LIVE).map(|_| heap::allocate(1 + random(64 << 10))).collect();
    let mut replace = |count: usize| {
        for _ in 0..count {
            let block = &mut blocks[random(LIVE)];
            // SAFETY: a live block, replaced at once.
            unsafe { heap::free(*block) };
            *block = black_box(heap::allocate(1 + random(64 << 10)));
        }
    };
    replace(ROUNDS);
    let misses = misses_while(|| replace(ROUNDS));
    let after = Stats::collect();
    assert!(misses < ROUNDS as u64 / 10, "{misses} misses in {ROUNDS} rounds");
    let share = after.live_bytes / 8 + (4 << 20);
    assert!(after.cid_bytes < share, "{} bytes cached, {share} expected", after.cid_bytes);
    // SAFETY: live blocks, freed once.
    blocks.into_iter().for_each(|block| unsafe { heap::free(block) });
}

#[test]
fn large_blocks_needed_once_share_their_memory() {
    alone("child_large_once");
}

/// A program that reads files of all lengths, each into a buffer of its length.
#[test]
#[ignore = "runs in a child"]
fn child_large_once() {
    assert!(pin(0));
    let use_one = |size: usize| {
        let block = heap::allocate(size);
        // SAFETY: a block of that size; freed once.
        unsafe {
            block.write_bytes(1, size);
            heap::free(black_box(block));
        }
    };
    let start = (resident(), Stats::collect().cid_bytes);
    let sizes = (36 << 10..heap::CLASS_MAX_BYTES).step_by(4 << 10);
    sizes.for_each(use_one);
    let (grown, cached) = (resident() - start.0, Stats::collect().cid_bytes - start.1);
    assert!(cached < 256 << 10, "{cached} bytes cached");
    assert!(grown < 1 << 20, "{grown} bytes more are resident");
}

#[test]
fn large_blocks_needed_again_and_again_stay_in_the_slab() {
    alone("child_large_again");
}

#[test]
#[ignore = "runs in a child"]
fn child_large_again() {
    assert!(pin(0));
    let ways: [fn(usize) -> *mut u8; 2] = [heap::allocate, heap::allocate_zeroed];
    for (size, way) in [32, 48, 256].into_iter().flat_map(|kib| ways.map(|way| (kib << 10, way))) {
        let use_one = |_| {
            // SAFETY: freed once.
            unsafe { heap::free(black_box(way(size))) };
        };
        (0..10).for_each(use_one);
        let misses = misses_while(|| (0..1000).for_each(use_one));
        // Another thread of the harness may move this one to a cold slab, once.
        assert!(misses < 40, "{size} bytes: {misses} misses in 2,000 calls");
    }
}

#[test]
fn an_idle_slab_is_drained() {
    alone("child_idle_slab");
}

#[test]
#[ignore = "runs in a child"]
fn child_idle_slab() {
    if !pin(1) || !pin(0) {
        println!("SKIP: there is one CPU, and so one slab");
        return;
    }
    // Two threads at once hold two ids; one of them goes away.
    let (ready, wait) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        pin(1);
        hold_and_free(2000, 128);
        ready.send(()).unwrap();
        let end = Instant::now() + Duration::from_millis(300);
        while Instant::now() < end {
            hold_and_free(2000, 128);
        }
    });
    wait.recv().unwrap();
    let end = Instant::now() + Duration::from_millis(200);
    while Instant::now() < end {
        hold_and_free(10, 64);
    }
    other.join().unwrap();
    let before = Stats::collect();
    assert!(before.cid_bytes >= 2000 * 128, "{} bytes cached", before.cid_bytes);
    // Twice the decay time, and the beats that a busy machine loses.
    slow_paths_for(Duration::from_millis(2500));
    let after = Stats::collect();
    assert!(after.stops > before.stops, "no slab was stopped");
    assert!(after.cid_bytes < 2000 * 128 / 4, "{} bytes still cached", after.cid_bytes);
}

#[test]
fn free_memory_goes_back_without_being_asked() {
    alone("child_free_memory");
}

#[test]
#[ignore = "runs in a child"]
fn child_free_memory() {
    let start = resident();
    let blocks: Vec<*mut u8> = (0..256)
        .map(|_| {
            let block = heap::allocate(1 << 20);
            // SAFETY: a block of that size.
            unsafe { block.write_bytes(1, 1 << 20) };
            block
        })
        .collect();
    let full = resident();
    assert!(full - start > 200 << 20);
    // SAFETY: allocated above, freed once.
    blocks.into_iter().for_each(|block| unsafe { heap::free(block) });
    slow_paths_for(Duration::from_secs(5));
    let left = resident() - start;
    assert!(left < 32 << 20, "{left} bytes of 256 MiB are still here");
}

#[test]
fn fresh_zeroed_memory_is_not_touched() {
    alone("child_fresh_zeroed");
}

#[test]
#[ignore = "runs in a child"]
fn child_fresh_zeroed() {
    const LEN: usize = 64 << 20;
    let start = resident();
    let block = heap::allocate_zeroed(LEN);
    assert!(resident() - start < 4 << 20, "{} bytes touched", resident() - start);
    // SAFETY: a block of LEN bytes.
    unsafe {
        assert!((0..LEN).step_by(4096).all(|i| *block.add(i) == 0));
        block.write_bytes(0xff, LEN);
        heap::free(block);
    }
    // The same memory, warm and dirty: cleared this time.
    let again = heap::allocate_zeroed(LEN);
    // SAFETY: as above.
    unsafe {
        assert!((0..LEN).all(|i| *again.add(i) == 0));
        heap::free(again);
    }
}

#[test]
fn a_growing_block_is_moved_not_copied() {
    alone("child_growing_block");
}

#[test]
#[ignore = "runs in a child"]
fn child_growing_block() {
    const STEP: usize = 8 << 20;
    let mut block = heap::allocate(STEP);
    // Something behind it, so that it cannot always grow in place.
    let mut others = Vec::new();
    for i in 1..16 {
        // SAFETY: the part that the last step added.
        unsafe { block.add((i - 1) * STEP).write_bytes(i as u8, STEP) };
        others.push(heap::allocate(3 << 20));
        let before = resident();
        // SAFETY: a live block.
        block = unsafe { heap::reallocate(block, (i + 1) * STEP) };
        assert!(!block.is_null());
        // A copy would have touched the whole new place.
        let touched = resident().saturating_sub(before);
        assert!(touched < 4 << 20, "step {i} touched {touched} bytes");
        // SAFETY: within the block.
        let kept = unsafe {
            (0..i * STEP).step_by(4096).all(|at| *block.add(at) as usize == at / STEP + 1)
        };
        assert!(kept, "step {i} lost contents");
    }
}
