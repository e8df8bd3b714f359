//! The walk over all layers: right counts, and no fault, whatever other threads
//! do meanwhile. That it finds faults is shown beside it, in `src/watch`.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use cidalloc::heap::{self, Census, Kind};
use cidalloc::size_class;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Runs an ignored test of this file alone in a child, with options set.
fn alone(test: &str, options: &[(&str, &str)]) {
    let mut command = common::command(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    common::run_ok(command.envs(options.iter().copied()));
}

/// The ways in which threads reach the slabs.
const MODES: [&[(&str, &str)]; 4] =
    [&[], &[("CIDALLOC_INDEX", "cpu_id")], &[("CIDALLOC_RSEQ", "off")], &[("CIDALLOC_COUNT", "1")]];

/// Ends the process if it does not end itself: a deadlock must not last.
fn time_limit(seconds: u32) {
    // SAFETY: SIGALRM's default action ends the process.
    unsafe { libc::alarm(seconds) };
}

fn walked() -> Census {
    heap::walk().unwrap_or_else(|broken| panic!("the heap is inconsistent:\n{broken}"))
}

fn random(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*state >> 33) as usize
}

/// A block as an integer, which threads may pass on.
fn block(size: usize) -> usize {
    let block = heap::allocate(size) as usize;
    assert_ne!(block, 0);
    block
}

fn free(block: usize) {
    // SAFETY: blocks are freed once, by whoever holds them last.
    unsafe { heap::free(block as *mut u8) };
}

/// Mostly small sizes, a few large ones.
fn any_size(seed: &mut u64) -> usize {
    match random(seed) % 64 {
        0 => 40_000 + random(seed) % 3_000_000,
        1..8 => 1024 + random(seed) % 40_000,
        _ => 1 + random(seed) % 1024,
    }
}

#[test]
fn counts_are_right_in_every_mode() {
    MODES.iter().for_each(|options| alone("child_counts", options));
}

#[test]
#[ignore = "runs in a child"]
fn child_counts() {
    time_limit(60);
    let before = walked();
    let class_of = |size: usize| size_class::class_of(size).index();
    for size in [1, 8, 24, 100, 1000, 1025, 5000, 20_000, size_class::MAX_BYTES] {
        let blocks: Vec<usize> = (0..300).map(|_| block(size)).collect();
        let live = walked();
        let mut expected = before.classes.map(|c| c.live);
        expected[class_of(size)] += 300;
        assert_eq!(live.classes.map(|c| c.live), expected, "{size} bytes");
        assert_eq!(live.large_blocks, before.large_blocks);
        // The heap works on, on slabs that the walk has stopped, also half way.
        for (i, block) in blocks.iter().copied().enumerate() {
            free(block);
            if i == 100 {
                assert_eq!(walked().live(), before.live() + 199);
            }
        }
        let after = walked();
        assert_eq!(after.classes.map(|c| c.live), before.classes.map(|c| c.live), "{size} bytes");
        let kept = after.classes[class_of(size)];
        let objects = u64::from(size_class::info(size_class::class_of(size)).objects);
        assert_eq!(
            kept.central_free + kept.transfer + kept.cached,
            u64::from(kept.spans) * objects
        );
    }
    let sizes = [size_class::MAX_BYTES + 1, 700_000, 2 << 20, 5_000_000, 64 << 20];
    let blocks: Vec<usize> = sizes.iter().map(|size| block(*size)).collect();
    let pages: usize = sizes.iter().map(|size| size.next_multiple_of(8192)).sum();
    let live = walked();
    assert_eq!(live.large_blocks, before.large_blocks + sizes.len() as u64);
    assert_eq!(live.large_bytes, before.large_bytes + pages as u64);
    // Grown, shrunk, aligned.
    let mut blocks = blocks;
    for (block, size) in blocks.iter_mut().zip([1_200_000, 500_000, 9 << 20, 2_000_000, 128 << 20])
    {
        // SAFETY: a live block, whose new address takes its place.
        *block = unsafe { heap::reallocate(*block as *mut u8, size) } as usize;
        assert_ne!(*block, 0);
        walked();
    }
    for align in [1 << 14, 2 << 20, 16 << 20] {
        blocks.push(heap::allocate_aligned(3_000_000, align) as usize);
        walked();
    }
    blocks.into_iter().for_each(free);
    heap::trim();
    let after = walked();
    assert_eq!((after.live(), after.large_bytes), (before.live(), before.large_bytes));
    assert!(after.classes.iter().all(|c| c.transfer + c.cached == 0), "trim left blocks cached");
}

#[test]
fn busy_threads_break_nothing() {
    MODES.iter().for_each(|options| alone("child_busy", options));
}

/// Threads that allocate, hand blocks on by `queue` and free, until `stop`.
fn busy<'a>(
    scope: &'a std::thread::Scope<'a, '_>,
    threads: u64,
    queue: &'a Mutex<Vec<usize>>,
    stop: &'a AtomicBool,
) {
    for n in 0..threads {
        scope.spawn(move || {
            let mut seed = n + 1;
            let mut mine = Vec::new();
            while !stop.load(Relaxed) {
                for _ in 0..200 {
                    mine.push(block(any_size(&mut seed)));
                    if random(&mut seed) % 3 == 0 {
                        let at = random(&mut seed) % mine.len();
                        free(mine.swap_remove(at));
                    }
                }
                if random(&mut seed) % 20 == 0 {
                    heap::trim();
                }
                let given = mine.len() / 3;
                let others = {
                    let mut queue = queue.lock().unwrap();
                    let others = std::mem::take(&mut *queue);
                    queue.extend(mine.drain(..given));
                    others
                };
                others.into_iter().for_each(free);
                if mine.len() > 500 {
                    mine.drain(..).for_each(free);
                }
            }
            mine.into_iter().for_each(free);
        });
    }
}

#[test]
#[ignore = "runs in a child"]
fn child_busy() {
    time_limit(60);
    let before = walked();
    let (queue, stop) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let mut walks = 0;
    std::thread::scope(|scope| {
        busy(scope, 8, &queue, &stop);
        // Two walkers: walks wait for each other.
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                walked();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let end = Instant::now() + Duration::from_millis(700);
        while Instant::now() < end {
            walked();
            walks += 1;
        }
        stop.store(true, Relaxed);
    });
    assert!(walks >= 5, "{walks} walks");
    queue.into_inner().unwrap().into_iter().for_each(free);
    let after = walked();
    assert_eq!(after.classes.map(|c| c.live), before.classes.map(|c| c.live));
    assert_eq!(after.large_bytes, before.large_bytes);
}

#[test]
fn a_forked_childs_heap_is_consistent() {
    MODES[..3].iter().for_each(|options| alone("child_forks", options));
}

#[test]
#[ignore = "runs in a child"]
fn child_forks() {
    time_limit(60);
    let (queue, stop) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        busy(scope, 6, &queue, &stop);
        for _ in 0..20 {
            // SAFETY: the child calls only this allocator, and ends by _exit.
            match unsafe { libc::fork() } {
                0 => {
                    time_limit(20);
                    let first = heap::walk();
                    let blocks = [24, 500, 100_000].map(|size| heap::allocate(size) as usize);
                    let second = heap::walk();
                    blocks.into_iter().for_each(free);
                    let code = match (first, second) {
                        (Ok(a), Ok(b)) if b.live() == a.live() + 3 => 0,
                        (Ok(_), Ok(_)) => 3,
                        (Err(broken), _) | (_, Err(broken)) => {
                            broken.report(2);
                            2
                        }
                    };
                    // SAFETY: ends the child.
                    unsafe { libc::_exit(code) };
                }
                -1 => panic!("no fork"),
                child => {
                    walked();
                    let mut status = 0;
                    // SAFETY: our child.
                    unsafe { libc::waitpid(child, &mut status, 0) };
                    assert_eq!(status, 0, "the child's status");
                }
            }
        }
        stop.store(true, Relaxed);
    });
    walked();
}

#[test]
fn without_the_fence_nothing_is_claimed() {
    alone("child_no_fence", &[]);
}

/// From now on the calling thread's membarrier fails with EPERM.
fn refuse_membarrier() {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        op(LOAD, 0, 0, 0), // the call's number
        op(IF_EQUAL, 0, 1, libc::SYS_membarrier as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        op(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: a filter of that length.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &program), 0);
    }
}

#[test]
#[ignore = "runs in a child"]
fn child_no_fence() {
    let blocks: Vec<usize> = (0..100).map(|_| block(64)).collect();
    let before = walked();
    if heap::stats::Stats::collect().mode != "rseq" {
        println!("SKIP: no sections here, and no fence needed");
        return;
    }
    refuse_membarrier();
    let broken = heap::walk().expect_err("a walk without its fence");
    assert!(broken.has(Kind::NoFence) && broken.count() == 1, "{broken}");
    // The slabs are stopped and whole: the heap goes on.
    blocks.into_iter().for_each(free);
    (0..100).for_each(|_| free(block(64)));
    // A thread without the filter can walk; this thread's filter is its own.
    assert!(before.live() >= 100);
}

#[test]
fn c_programs_walk() {
    let program = common::temp_dir("c").join("walk");
    let mut cc = common::compiler(false);
    cc.args(["-std=gnu99", "-Wall", "-Wextra", "-Werror", "-fno-builtin", "-I"]);
    cc.arg(common::in_repository("ffi/include")).arg(common::in_repository("tests/c/walk.c"));
    common::run_ok(cc.arg("-o").arg(&program).arg("-ldl"));
    for options in MODES {
        let mut command: Command = common::command(&program);
        let text = common::run_ok(common::preload(&mut command).envs(options.iter().copied()));
        assert_eq!(text, "ok\n");
    }
}
