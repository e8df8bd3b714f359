//! Single calls through `std::alloc`, timed by request: the twin of ../calls.cpp.
//!
//! A request is a line "ROW OPERATIONS", the answer the nanoseconds they took; the
//! line "rows" is answered by all names. What asks decides the order and takes
//! the medians, so that allocators can be compared in turns, each in a process
//! of its own. While rows run, nothing else allocates.

use crate::random::Random;
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::hint::{black_box, spin_loop};
use std::io::{Read, Write};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::*};
use std::sync::{Condvar, Mutex};
use std::time::Instant;

/// Takes a number of operations, returns nanoseconds.
type Row = (&'static str, fn(u64) -> u64);

const ROWS: &[Row] = &[
    ("pair-16", pair::<16, 8>),
    ("pair-64", pair::<64, 8>),
    ("pair-256", pair::<256, 8>),
    ("pair-1024", pair::<1024, 8>),
    ("pair-4096", pair::<4096, 8>),
    ("pair-32768", pair::<32768, 8>),
    ("pair-262144", pair::<262144, 8>),
    ("fifo-64", batch::<64, true>),
    ("fifo-512", batch::<512, true>),
    ("lifo-64", batch::<64, false>),
    ("lifo-512", batch::<512, false>),
    ("mixed-4096", mixed::<4096>),
    ("mixed-65536", mixed::<65536>),
    ("zeroed-64", zeroed::<64>),
    ("zeroed-1024", zeroed::<1024>),
    ("zeroed-32768", zeroed::<32768>),
    ("aligned-192-at-64", pair::<192, 64>),
    ("aligned-4096-at-4096", pair::<4096, 4096>),
    ("growth-65536", growth),
    ("producer-consumer", exchange),
];

const fn layout(size: usize, align: usize) -> Layout {
    match Layout::from_size_align(size, align) {
        Ok(layout) => layout,
        Err(_) => panic!("no layout"),
    }
}

fn ns(since: Instant) -> u64 {
    since.elapsed().as_nanos() as u64
}

/// Allocates and frees one block.
fn pair<const SIZE: usize, const ALIGN: usize>(operations: u64) -> u64 {
    let layout = const { layout(SIZE, ALIGN) };
    let start = Instant::now();
    for _ in 0..operations {
        // SAFETY: the layout is not empty; the block was just allocated with it.
        unsafe { dealloc(black_box(alloc(layout)), layout) };
    }
    ns(start)
}

/// As `pair`, of zeros.
fn zeroed<const SIZE: usize>(operations: u64) -> u64 {
    let layout = const { layout(SIZE, 8) };
    let start = Instant::now();
    for _ in 0..operations {
        // SAFETY: as above.
        unsafe { dealloc(black_box(alloc_zeroed(layout)), layout) };
    }
    ns(start)
}

/// 1,000 blocks, freed in the same or the opposite order.
fn batch<const SIZE: usize, const FIFO: bool>(operations: u64) -> u64 {
    const HELD: usize = 1000;
    let layout = const { layout(SIZE, 8) };
    let mut held = [null_mut::<u8>(); HELD];
    let start = Instant::now();
    for _ in 0..operations.div_ceil(HELD as u64) {
        for block in &mut held {
            // SAFETY: not empty; written at its begin.
            unsafe {
                *block = black_box(alloc(layout));
                (*block).cast::<usize>().write(1);
            }
        }
        for i in 0..HELD {
            // SAFETY: allocated above with this layout.
            unsafe { dealloc(held[if FIFO { i } else { HELD - 1 - i }], layout) };
        }
    }
    ns(start)
}

/// Replaces blocks, picked at random, among 10,000 of random sizes up to MOST.
fn mixed<const MOST: usize>(operations: u64) -> u64 {
    const HELD: usize = 10_000;
    static mut BLOCKS: [(*mut u8, usize); HELD] = [(null_mut(), 0); HELD];
    let mut random = Random::new(MOST as u64);
    // SAFETY: this thread alone runs rows that use it; blocks carry their sizes.
    unsafe {
        let held: &mut [(*mut u8, usize); HELD] = &mut *(&raw mut BLOCKS);
        let mut new = || {
            let size = 1 + random.below(MOST);
            let block = black_box(alloc(layout(size, 8)));
            block.write(1);
            (block, size)
        };
        for block in held.iter_mut() {
            *block = new();
        }
        let mut pick = Random::new(operations);
        let start = Instant::now();
        for _ in 0..operations {
            let block = &mut held[pick.below(HELD)];
            dealloc(block.0, layout(block.1, 8));
            *block = new();
        }
        let spent = ns(start);
        for block in held.iter_mut() {
            dealloc(block.0, layout(block.1, 8));
        }
        spent
    }
}

/// One operation is a growth from 16 bytes to 64 KiB, doubling as `Vec` does.
fn growth(operations: u64) -> u64 {
    let start = Instant::now();
    for _ in 0..operations {
        let mut size = 16;
        // SAFETY: a live block with its layout each time.
        unsafe {
            let mut block = black_box(alloc(layout(size, 8)));
            while size < 65536 {
                block.add(size - 1).write(1);
                block = black_box(realloc(block, layout(size, 8), size * 2));
                size *= 2;
            }
            dealloc(block, layout(size, 8));
        }
    }
    ns(start)
}

const SLOTS: usize = 1024;
const PASSED: Layout = layout(64, 8);
static RING: [AtomicPtr<u8>; SLOTS] = [const { AtomicPtr::new(null_mut()) }; SLOTS];
static WANTED: Mutex<u64> = Mutex::new(0);
static CHANGED: Condvar = Condvar::new();
static FREED: AtomicU64 = AtomicU64::new(0);

/// Spins a little, then gives the processor away, until `ready`.
fn wait(mut ready: impl FnMut() -> bool) {
    let mut turns = 0u32;
    while !ready() {
        turns += 1;
        if turns % 64 == 0 { std::thread::yield_now() } else { spin_loop() }
    }
}

/// Frees what comes through the ring.
fn consume() {
    let mut done = 0;
    loop {
        let wanted = CHANGED
            .wait_while(WANTED.lock().expect("no row panics"), |wanted| *wanted == done)
            .map(|wanted| *wanted)
            .expect("no row panics");
        while done < wanted {
            let slot = &RING[(done as usize) % SLOTS];
            wait(|| !slot.load(Acquire).is_null());
            let block = slot.load(Acquire);
            slot.store(null_mut(), Release);
            // SAFETY: handed over by `exchange`, which allocated it so.
            unsafe { dealloc(block, PASSED) };
            done += 1;
        }
        FREED.store(done, Release);
    }
}

/// This thread allocates, another one frees.
fn exchange(operations: u64) -> u64 {
    let begun = FREED.load(Acquire);
    let start = Instant::now();
    *WANTED.lock().expect("no row panics") += operations;
    CHANGED.notify_one();
    for i in begun..begun + operations {
        // SAFETY: not empty; written at its begin.
        let block = unsafe {
            let block = black_box(alloc(PASSED));
            block.write(1);
            block
        };
        let slot = &RING[(i as usize) % SLOTS];
        wait(|| slot.load(Acquire).is_null());
        slot.store(block, Release);
    }
    wait(|| FREED.load(Acquire) == begun + operations);
    ns(start)
}

fn answer(request: &str, out: &mut impl Write) {
    let (name, operations) = request.split_once(' ').unwrap_or((request, ""));
    let done = if name == "rows" {
        ROWS.iter().try_for_each(|(name, _)| write!(out, "{name} ")).and_then(|()| writeln!(out))
    } else {
        match (ROWS.iter().find(|(n, _)| *n == name), operations.parse()) {
            (Some((_, row)), Ok(operations)) => writeln!(out, "{}", row(operations)),
            _ => writeln!(out, "what is {request}?"),
        }
    };
    done.expect("the answer is read");
}

/// Answers requests until there are no more.
pub fn serve() {
    drop(std::thread::spawn(consume));
    let (mut input, mut out) = (std::io::stdin().lock(), std::io::stdout().lock());
    let (mut line, mut byte) = ([0u8; 100], [0u8; 1]);
    let mut length = 0;
    while input.read(&mut byte).is_ok_and(|n| n == 1) {
        if byte[0] == b'\n' {
            answer(std::str::from_utf8(&line[..length]).unwrap_or_default(), &mut out);
            out.flush().expect("the answer is read");
            length = 0;
        } else if length < line.len() {
            line[length] = byte[0];
            length += 1;
        }
    }
}
