//! A load that refills without end: four threads for each CPU, blocks that pass between them,
//! large ones among them; signal handlers that allocate, and forks. Each block carries its owner's
//! pattern, and in the end each class has as many blocks out as before.

use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Bytes of blocks; the last ones are no objects of a class, or alone in their span.
const SIZES: [usize; 8] = [48, 200, 900, 2000, 4000, 12 << 10, 40 << 10, 700 << 10];

/// Allocates and frees so many times what a cache holds: each time misses.
pub fn churn(times: usize) {
    for _ in 0..times {
        let held: Vec<Vec<u8>> = (0..40).map(|i| vec![i; 4000]).collect();
        assert!(black_box(&held).iter().zip(0..).all(|(block, i)| block[3999] == i));
    }
}

type Block = Box<[u8]>;

fn block(random: &mut usize) -> Block {
    *random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    let pick = *random >> 33;
    // One in 64 is a large one.
    let size = SIZES[if pick % 64 == 0 { 5 + pick / 64 % 3 } else { pick / 64 % 5 }];
    let mut block = vec![0; size].into_boxed_slice();
    let mark = pick as u8;
    (block[0], block[size / 2], block[size - 1]) = (mark, mark, mark);
    block
}

fn check(block: &[u8]) {
    let mark = block[0];
    let size = block.len();
    assert!(block[size / 2] == mark && block[size - 1] == mark, "a block was handed out twice");
}

struct Bins {
    bins: Vec<Mutex<Vec<Block>>>,
    stop: AtomicBool,
    made: AtomicUsize,
}

fn work(bins: &Bins, me: usize) {
    let mut random = me;
    let mut held = Vec::with_capacity(200);
    while !bins.stop.load(Relaxed) {
        held.extend((0..150).map(|_| block(&mut random)));
        bins.made.fetch_add(150, Relaxed);
        // Half of them to a neighbour, whose blocks end here.
        let bin = (me + random % 3) % bins.bins.len();
        let theirs = {
            let mut bin = bins.bins[bin].lock().unwrap();
            std::mem::replace(&mut *bin, held.split_off(75))
        };
        held.iter().chain(&theirs).for_each(|block| check(block));
        held.clear();
    }
}

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_signal(_: i32) {
    SIGNALS.fetch_add(1, Relaxed);
    // Wherever it interrupts: in a slow path, these come from beside the heap.
    drop(black_box(vec![1u8; 300]));
    drop(black_box(vec![1u8; 3000]));
}

fn alarm_each(us: i64) {
    let every = libc::timeval { tv_sec: 0, tv_usec: us };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: the handler may allocate, as promised; passes values.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(i32) as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut()), 0);
        libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut());
    }
}

/// A child that refills, beside threads that are in the middle of it.
fn fork_and_churn() {
    // SAFETY: the child allocates, as promised, and ends.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            churn(100);
            libc::_exit(42);
        }
        assert!(child > 0);
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 42, "{status:#x}");
    }
}

fn play(seconds: f64) -> usize {
    alarm_each(2000);
    let cpus = std::thread::available_parallelism().expect("CPUs").get();
    let threads = 4 * cpus;
    let bins = Bins {
        bins: (0..threads).map(|_| Mutex::new(Vec::new())).collect(),
        stop: AtomicBool::new(false),
        made: AtomicUsize::new(0),
    };
    std::thread::scope(|scope| {
        let bins = &bins;
        let threads: Vec<_> = (0..threads).map(|me| scope.spawn(move || work(bins, me))).collect();
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
            fork_and_churn();
        }
        bins.stop.store(true, Relaxed);
        // The scope would not wait for the very end of each.
        threads.into_iter().for_each(|thread| thread.join().expect("no thread fails"));
    });
    alarm_each(0);
    // The last handler, in whatever thread, has come to its end.
    std::thread::sleep(Duration::from_millis(20));
    bins.bins.iter().flat_map(|bin| bin.lock().unwrap().split_off(0)).for_each(|b| check(&b));
    bins.made.load(Relaxed)
}

pub fn run() {
    let seconds = std::env::var("CIDALLOC_TEST_SLICE_SECONDS");
    let seconds = seconds.map_or(2.0, |s| s.parse().expect("seconds"));
    play(0.1); // what the standard library keeps is made now
    // The walk frees what a handler could not free, and finds every layer whole.
    let before = cidalloc::heap::walk().expect("a whole heap");
    let made = play(seconds);
    let after = cidalloc::heap::walk().expect("a whole heap");
    for (b, a) in before.classes.iter().zip(&after.classes) {
        assert_eq!(a.live, b.live, "blocks of {} bytes out now and before", a.size_bytes);
    }
    assert_eq!(after.large_blocks, before.large_blocks);
    println!("{made} blocks, {} signals", SIGNALS.load(Relaxed));
    assert!(made > 1000 && SIGNALS.load(Relaxed) > 10, "{made} blocks: no load");
}
