//! The load: threads that allocate bursts of blocks, hand each burst to whoever comes next,
//! and free one they get. Nothing but the allocator makes them wait: bursts change hands
//! by one exchange of a pointer. Each malloc is timed.
//!
//! Runs in a process of its own, whose malloc is the allocator under test.

use super::figures::Load;
use crate::Result;
use hdrhistogram::Histogram;
use std::ptr::null_mut;
use std::sync::Barrier;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicPtr};
use std::time::{Duration, Instant};

#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Options {
    #[arg(long)]
    threads: usize,
    #[arg(long)]
    seconds: f64,
}

/// Bytes of the blocks. Of the larger ones a cache of 64 KiB keeps few.
const SIZES: [usize; 4] = [256, 1024, 2048, 4096];
const BURST: usize = 48;
/// Bursts change hands in so many places.
const PLACES: usize = 4;

struct Burst([*mut libc::c_void; BURST]);

struct Shared {
    places: [AtomicPtr<Burst>; PLACES],
    start: Barrier,
    stop: AtomicBool,
}

/// The processor's own clock where it has one that costs nothing.
fn ticks(began: Instant) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        let _ = began;
        // SAFETY: every x86_64 processor has it.
        unsafe { std::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        began.elapsed().as_nanos() as u64
    }
}

fn work(shared: &Shared, me: usize, began: Instant) -> Histogram<u64> {
    let mut times = Histogram::new_with_bounds(1, 1 << 40, 3).expect("these bounds are good");
    let mut mine = Box::new(Burst([null_mut(); BURST]));
    let mut random = me as u64;
    shared.start.wait();
    while !shared.stop.load(Relaxed) {
        for block in &mut mine.0 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let size = SIZES[(random >> 40) as usize % SIZES.len()];
            let before = ticks(began);
            // SAFETY: no duties; the block is freed by whoever gets the burst.
            *block = unsafe { libc::malloc(size) };
            let after = ticks(began);
            times.saturating_record(after.saturating_sub(before).max(1));
            assert!(!block.is_null(), "no memory");
            // SAFETY: a block of at least one byte.
            unsafe { block.cast::<u8>().write_volatile(1) };
        }
        let place = &shared.places[(random >> 50) as usize % PLACES];
        let theirs = place.swap(Box::into_raw(mine), AcqRel);
        mine = match theirs.is_null() {
            true => Box::new(Burst([null_mut(); BURST])),
            // SAFETY: came from `into_raw` of a thread that does not touch it any more.
            false => unsafe { Box::from_raw(theirs) },
        };
        for block in &mut mine.0 {
            // SAFETY: a live block, or null; nobody else has it.
            unsafe { libc::free(std::mem::replace(block, null_mut())) };
        }
    }
    times
}

/// Plays it and returns what was measured.
pub fn play(options: &Options) -> Result<Load> {
    let shared = Shared {
        places: [const { AtomicPtr::new(null_mut()) }; PLACES],
        start: Barrier::new(options.threads + 1),
        stop: AtomicBool::new(false),
    };
    let began = Instant::now();
    let (times, ticked, took) = std::thread::scope(|scope| {
        let shared = &shared;
        let threads: Vec<_> =
            (0..options.threads).map(|me| scope.spawn(move || work(shared, me, began))).collect();
        shared.start.wait();
        let (started, first) = (Instant::now(), ticks(began));
        std::thread::sleep(Duration::from_secs_f64(options.seconds));
        shared.stop.store(true, Relaxed);
        let (took, ticked) = (started.elapsed(), ticks(began) - first);
        let mut all = Histogram::<u64>::new_with_bounds(1, 1 << 40, 3).expect("good bounds");
        for thread in threads {
            all.add(thread.join().expect("no thread fails")).expect("the same bounds");
        }
        (all, ticked, took)
    });
    let ns = |ticks: u64| ticks as f64 * took.as_nanos() as f64 / ticked as f64;
    let at = |quantile: f64| ns(times.value_at_quantile(quantile));
    Ok(Load {
        per_second: times.len() as f64 / took.as_secs_f64(),
        p50_ns: at(0.5),
        p99_ns: at(0.99),
        p999_ns: at(0.999),
        max_ns: ns(times.max()),
    })
}
