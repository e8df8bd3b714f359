//! Threads that allocate, hand blocks to each other and free them, for
//! ThreadSanitizer and AddressSanitizer: run with CIDALLOC_RSEQ=off, so that
//! what orders the threads are locks, which a sanitizer sees.
//!
//! std is not instrumented here, so hand-overs are atomics of this file, not
//! channels. CIDALLOC_TEST_PLANT plants a fault that must be reported:
//! `race`, a block that is written after its free; `overflow`, a write past
//! the end of memory of the system's allocator.

use cidalloc::{CidAlloc, heap};
use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const THREADS: usize = 6;
const ROUNDS: usize = 20_000;

/// Where threads leave blocks for each other: addresses, 0 for none.
static SHELF: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];
static STOP: AtomicBool = AtomicBool::new(false);

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}

/// Most sizes are small; the first word of a block is its size.
fn allocate(random: &mut Random) -> usize {
    let size = match random.below(40) {
        0 => 300_000 + random.below(3 << 20),
        1..6 => 1024 + random.below(40_000),
        _ => 16 + random.below(500),
    };
    let layout = Layout::from_size_align(size, 8).unwrap();
    // SAFETY: the size is not zero.
    let block = unsafe { CidAlloc.alloc(layout) };
    assert!(!block.is_null());
    // SAFETY: a new block, longer than a word and than 16 bytes.
    unsafe {
        block.cast::<usize>().write(size);
        block.add(size - 8).write_bytes(1, 8);
    }
    block.expose_provenance()
}

fn free(addr: usize) {
    let block = std::ptr::with_exposed_provenance_mut::<u8>(addr);
    // SAFETY: a live block of `allocate`, this thread's.
    unsafe {
        let size = block.cast::<usize>().read();
        CidAlloc.dealloc(block, Layout::from_size_align(size, 8).unwrap());
    }
}

fn work(seed: usize) {
    let mut random = Random(seed as u64);
    let mut mine = Vec::new();
    for _ in 0..ROUNDS {
        mine.push(allocate(&mut random));
        let i = random.below(mine.len());
        let place = &SHELF[random.below(SHELF.len())];
        match random.below(3) {
            // Release and Acquire hand the block's contents over.
            0 => match place.swap(mine.swap_remove(i), Ordering::AcqRel) {
                0 => {}
                other => mine.push(other),
            },
            1 => free(mine.swap_remove(i)),
            _ if mine.len() > 100 => mine.drain(..90).for_each(free),
            _ => {}
        }
    }
    mine.into_iter().for_each(free);
}

fn plant(what: &str) {
    match what {
        "race" => {
            let addr = allocate(&mut Random(1));
            // Relaxed: whoever takes it is not ordered after the write below.
            SHELF[0].store(addr, Ordering::Relaxed);
            let late = std::thread::spawn(move || {
                free(SHELF[0].swap(0, Ordering::Relaxed));
                STOP.store(true, Ordering::Relaxed);
            });
            while !STOP.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            // SAFETY: none, which is the point.
            unsafe { std::ptr::with_exposed_provenance_mut::<usize>(addr).write(1) };
            late.join().unwrap();
        }
        "overflow" => {
            let block = vec![0u8; 40];
            let at = std::hint::black_box(block.as_ptr().cast_mut());
            // SAFETY: none, which is the point.
            unsafe { at.add(std::hint::black_box(40)).write(1) };
            std::hint::black_box(&block);
        }
        _ => panic!("cannot plant {what}"),
    }
}

fn main() {
    if let Ok(what) = std::env::var("CIDALLOC_TEST_PLANT") {
        return plant(&what);
    }
    let threads: Vec<_> =
        (1..=THREADS).map(|seed| std::thread::spawn(move || work(seed))).collect();
    // Meanwhile, what other threads have cached goes home, and is counted.
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(5));
        heap::trim();
        heap::walk().expect("a sound heap");
    }
    threads.into_iter().for_each(|t| t.join().unwrap());
    SHELF.iter().map(|place| place.swap(0, Ordering::Acquire)).filter(|a| *a != 0).for_each(free);
    let census = heap::walk().expect("a sound heap");
    // In the checking mode, freed blocks are live while they are in quarantine.
    if std::env::var_os("CIDALLOC_CHECK").is_none() {
        assert_eq!(census.live(), 0, "blocks were lost");
    }
    println!("churn: every block is home");
}
