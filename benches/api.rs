//! What a Rust program calls, through `GlobalAlloc`: `CidAlloc` and `System` (the
//! C library's malloc) on the same work.
//!
//! One operation is an allocation and its free, except for `grow`, where it is
//! the whole growth. Criterion times one allocator after the other; the table at
//! the end comes from alternating short rounds, so that whatever else the
//! machine does falls on both. The ratio in it is the median of the rounds'
//! ratios.

use cidalloc::CidAlloc;
use criterion::{Criterion, Throughput};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Blocks held at once by the batches and the mixed work.
const HELD: usize = 1000;

trait Allocator: GlobalAlloc + Default {}
impl<A: GlobalAlloc + Default> Allocator for A {}

const fn layout(size: usize, align: usize) -> Layout {
    match Layout::from_size_align(size, align) {
        Ok(layout) => layout,
        Err(_) => panic!("no layout"),
    }
}

fn allocate<A: Allocator>(a: &A, layout: Layout) -> *mut u8 {
    // SAFETY: no layout here is empty.
    let block = unsafe { a.alloc(layout) };
    assert!(!block.is_null());
    black_box(block)
}

/// Allocates and frees one block.
fn pair<A: Allocator, const SIZE: usize, const ALIGN: usize>(operations: u64) -> Duration {
    let a = A::default();
    let layout = const { layout(SIZE, ALIGN) };
    let start = Instant::now();
    for _ in 0..operations {
        let block = allocate(&a, layout);
        // SAFETY: just allocated.
        unsafe { a.dealloc(block, layout) };
    }
    start.elapsed()
}

/// As `pair`, of zeros.
fn zeroed<A: Allocator, const SIZE: usize>(operations: u64) -> Duration {
    let a = A::default();
    let layout = const { layout(SIZE, 8) };
    let start = Instant::now();
    for _ in 0..operations {
        // SAFETY: not empty; just allocated.
        unsafe {
            let block = black_box(a.alloc_zeroed(layout));
            a.dealloc(block, layout);
        }
    }
    start.elapsed()
}

/// Allocates and writes `HELD` blocks, frees them in the same or the opposite order.
fn batch<A: Allocator, const SIZE: usize, const FIFO: bool>(operations: u64) -> Duration {
    let a = A::default();
    let layout = const { layout(SIZE, 8) };
    let mut held = [std::ptr::null_mut::<u8>(); HELD];
    let start = Instant::now();
    for _ in 0..operations.div_ceil(HELD as u64) {
        for block in &mut held {
            *block = allocate(&a, layout);
            // SAFETY: just allocated, 8 bytes at least.
            unsafe { block.cast::<u64>().write(1) };
        }
        for i in 0..HELD {
            let i = if FIFO { i } else { HELD - 1 - i };
            // SAFETY: allocated above.
            unsafe { a.dealloc(held[i], layout) };
        }
    }
    start.elapsed()
}

/// Replaces blocks among `HELD` ones, picked at random, by ones of random sizes up
/// to `MOST` bytes, small ones more often.
fn mixed<A: Allocator, const MOST: usize>(operations: u64) -> Duration {
    let a = A::default();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let mut next = || {
        let bits = random();
        let most = MOST >> (bits % MOST.trailing_zeros() as usize);
        (bits >> 8 & 0xff_ffff) % most + 1
    };
    let mut held: Vec<(*mut u8, Layout)> = (0..HELD)
        .map(|_| {
            let layout = layout(next(), 8);
            (allocate(&a, layout), layout)
        })
        .collect();
    let start = Instant::now();
    for i in 0..operations as usize {
        let with = layout(next(), 8);
        let slot = &mut held[i.wrapping_mul(617) % HELD];
        // SAFETY: allocated with this layout.
        unsafe { a.dealloc(slot.0, slot.1) };
        *slot = (allocate(&a, with), with);
    }
    let elapsed = start.elapsed();
    for (block, layout) in held {
        // SAFETY: as above.
        unsafe { a.dealloc(block, layout) };
    }
    elapsed
}

/// Grows a block from 16 bytes to `SIZE`, doubling as `Vec` does, and frees it.
fn grow<A: Allocator, const SIZE: usize>(operations: u64) -> Duration {
    let a = A::default();
    let start = Instant::now();
    for _ in 0..operations {
        let mut size = 16;
        let mut block = allocate(&a, layout(size, 8));
        while size < SIZE {
            // SAFETY: a live block of this layout, grown to a size above zero.
            unsafe {
                block.wrapping_add(size - 1).write(1);
                block = black_box(a.realloc(block, layout(size, 8), size * 2));
            }
            size *= 2;
        }
        // SAFETY: a live block of this layout.
        unsafe { a.dealloc(block, layout(size, 8)) };
    }
    start.elapsed()
}

/// One kind of work: its name, operations in a round, and both allocators' times.
type Row = (&'static str, u64, [fn(u64) -> Duration; 2]);

macro_rules! row {
    ($name:literal, $operations:literal, $work:ident, $($arg:literal),*) => {
        ($name, $operations, [$work::<CidAlloc, $($arg),*>, $work::<System, $($arg),*>])
    };
}

const ALLOCATORS: [&str; 2] = ["cidalloc", "system"];
const ROWS: [Row; 19] = [
    row!("pair/16", 50_000, pair, 16, 8),
    row!("pair/64", 50_000, pair, 64, 8),
    row!("pair/256", 50_000, pair, 256, 8),
    row!("pair/1024", 50_000, pair, 1024, 8),
    row!("pair/4096", 20_000, pair, 4096, 8),
    row!("pair/32768", 20_000, pair, 32768, 8),
    row!("pair/1048576", 1_000, pair, 1048576, 8),
    row!("batch/64_lifo", 20_000, batch, 64, false),
    row!("batch/64_fifo", 20_000, batch, 64, true),
    row!("batch/512_lifo", 20_000, batch, 512, false),
    row!("batch/512_fifo", 20_000, batch, 512, true),
    row!("mixed/up_to_1024", 20_000, mixed, 1024),
    row!("mixed/up_to_65536", 20_000, mixed, 65536),
    row!("zeroed/64", 50_000, zeroed, 64),
    row!("zeroed/4096", 10_000, zeroed, 4096),
    row!("zeroed/1048576", 100, zeroed, 1048576),
    row!("grow/to_1048576", 100, grow, 1048576),
    row!("aligned/64_at_64", 50_000, pair, 64, 64),
    row!("aligned/4096_at_4096", 20_000, pair, 4096, 4096),
];

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn alternate((name, operations, work): Row) {
    const ROUNDS: usize = 31;
    let mut ns = [Vec::new(), Vec::new()];
    for turn in 0..2 * ROUNDS {
        // Who is first changes from round to round.
        let i = (turn + turn / 2) % 2;
        ns[i].push(work[i](operations).as_nanos() as f64 / operations as f64);
    }
    let [mut ours, mut theirs] = ns;
    let mut ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(o, t)| o / t).collect();
    println!(
        "{name:22} cidalloc {:10.2} ns   system {:10.2} ns   cidalloc/system {:.2}",
        median(&mut ours),
        median(&mut theirs),
        median(&mut ratios)
    );
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args();
    for (name, _, work) in ROWS {
        let mut group = criterion.benchmark_group(format!("api/{name}"));
        group.throughput(Throughput::Elements(1));
        for (allocator, time) in ALLOCATORS.iter().zip(work) {
            group.bench_function(*allocator, |b| b.iter_custom(time));
        }
        group.finish();
    }
    criterion.final_summary();

    println!("\nmedians of alternating rounds:");
    for row in ROWS {
        alternate(row);
    }
}
