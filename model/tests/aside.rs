//! What works without locks: blocks beside the heap (`aside.rs`) and the list
//! of deferred frees (`deferred.rs`). No block is out twice, and whoever gets
//! one is ordered after whoever had it.

#![allow(dead_code, unused_imports)]

use cidalloc_model::explore::{explore, must_fail};
use cidalloc_model::fresh::Fresh;
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

mod os {
    pub mod fault {
        #[derive(Debug)]
        pub enum Fault {
            DoubleFree,
            NotAllocated,
        }

        pub fn die(fault: Fault, addr: usize) -> ! {
            panic!("died of {fault:?}: {addr:#x}")
        }
    }

    pub mod sys {
        /// # Safety
        /// None needed here.
        pub unsafe fn mmap(
            _addr: usize,
            len: usize,
            _prot: i32,
            _flags: i32,
        ) -> Result<usize, i32> {
            Ok(crate::chunk(len))
        }

        /// # Safety
        /// None needed here.
        pub unsafe fn madvise(_addr: usize, _len: usize, _advice: i32) -> Result<usize, i32> {
            Ok(0)
        }
    }
}

mod aside {
    cidalloc_model::source!("back_aside");
}
mod deferred {
    cidalloc_model::source!("front_deferred");
}

const CHUNKS: usize = 4;
const CHUNK_BYTES: usize = 1 << 20;
static USED: AtomicUsize = AtomicUsize::new(0);

/// Memory of all chunks, which executions have in turn.
fn memory() -> usize {
    static MEMORY: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    let layout = std::alloc::Layout::from_size_align(CHUNKS * CHUNK_BYTES, 1 << 20).unwrap();
    // SAFETY: the layout has a size.
    *MEMORY.get_or_init(|| unsafe { std::alloc::alloc_zeroed(layout).expose_provenance() })
}

fn chunk(len: usize) -> usize {
    let n = USED.fetch_add(1, Relaxed);
    assert!(len == CHUNK_BYTES && n < CHUNKS, "too many chunks");
    memory() + n * CHUNK_BYTES
}

/// What loom watches, one for each block of 16 bytes at the start of a chunk.
const WATCHED: usize = 8;

fn touch(addr: usize) {
    let offset = addr - memory();
    let (chunk, within) = (offset / CHUNK_BYTES, offset % CHUNK_BYTES);
    let block = (within - 80) / 32;
    assert!(within >= 80 && block < WATCHED, "no block starts at {within}");
    watched()[chunk * WATCHED + block].with_mut(|_| ());
}

fn watched() -> &'static [UnsafeCell<()>] {
    static CELLS: Fresh<Vec<UnsafeCell<()>>> = Fresh::new();
    let make = || (0..CHUNKS * WATCHED).map(|_| UnsafeCell::new(())).collect();
    // SAFETY: values of an execution live as long as it does.
    unsafe { &*CELLS.get(make) }
}

fn begin() {
    USED.store(0, Relaxed);
    memory();
    watched();
}

/// The models of one `aside`.
macro_rules! models {
    ($aside:path) => {
        use super::*;
        use $aside as the;

        fn take_and_free() {
            let block = the::allocate(16, 16) as usize;
            assert!(block != 0, "no memory");
            touch(block);
            assert!(the::usable_size(block).unwrap() >= 16);
            touch(block);
            assert!(the::free(block));
        }

        /// Three threads and one chunk.
        pub fn threads() {
            begin();
            take_and_free();
            let others = [thread::spawn(take_and_free), thread::spawn(take_and_free)];
            take_and_free();
            others.into_iter().for_each(|t| t.join().unwrap());
            assert_eq!(the::live(), 0);
        }

        /// Two threads, each of which may make a chunk.
        pub fn new_chunks() {
            begin();
            assert!(!the::free(1));
            let other = thread::spawn(take_and_free);
            take_and_free();
            other.join().unwrap();
            assert_eq!(the::live(), 0);
        }

        /// A block is freed by another thread than the one that got it.
        pub fn handed_over() {
            begin();
            let block = the::allocate(16, 16) as usize;
            assert!(block != 0, "no memory");
            touch(block);
            let other = thread::spawn(move || {
                touch(block);
                assert!(the::free(block));
            });
            take_and_free();
            take_and_free();
            other.join().unwrap();
            assert_eq!(the::live(), 0);
        }
    };
}

mod real {
    models!(crate::aside);
}

#[test]
fn blocks_aside() {
    explore(2, real::threads);
}

#[test]
fn blocks_aside_and_new_chunks() {
    explore(4, real::new_chunks);
}

#[test]
fn blocks_aside_are_handed_over() {
    explore(3, real::handed_over);
}

/// A mutant of `aside`, and the test that a model finds it.
macro_rules! mutant {
    ($name:ident, $model:ident, $expected:literal) => {
        mod $name {
            mod with_defect {
                cidalloc_model::source!(stringify!($name));
            }
            models!(with_defect);

            #[test]
            fn is_found() {
                must_fail(&[$expected], 3, $model);
            }
        }
    };
}

mutant!(aside_starts_anew_unordered, threads, "Causality violation");
mutant!(aside_publishes_unordered, new_chunks, "Causality violation");
mutant!(aside_publishes_first, new_chunks, "no memory");
mutant!(aside_stays_open, threads, "DoubleFree");

/// Three blocks are put by two threads, while the first takes what there is.
macro_rules! deferral {
    ($deferred:path) => {
        use super::*;
        use $deferred as the;

        pub fn blocks_are_found_once() {
            begin();
            the::each(|_| unreachable!());
            let block = |n: usize| memory() + 80 + n * 32;
            let put = move |n: usize| {
                touch(block(n));
                the::put(block(n));
            };
            let others = [
                thread::spawn(move || put(0)),
                thread::spawn(move || [1, 2].into_iter().for_each(put)),
            ];
            let mut found = Vec::new();
            let mut take = || {
                the::each(|addr| {
                    touch(addr);
                    found.push(addr);
                })
            };
            take();
            take();
            others.into_iter().for_each(|t| t.join().unwrap());
            take();
            found.sort_unstable();
            assert_eq!(found, [block(0), block(1), block(2)]);
        }
    };
}

mod deferred_real {
    deferral!(crate::deferred);

    #[test]
    fn blocks_are_found() {
        explore(3, blocks_are_found_once);
    }
}

macro_rules! deferred_mutant {
    ($name:ident, $expected:literal) => {
        mod $name {
            mod with_defect {
                cidalloc_model::source!(stringify!($name));
            }
            deferral!(with_defect);

            #[test]
            fn is_found() {
                must_fail(&[$expected], 3, blocks_are_found_once);
            }
        }
    };
}

deferred_mutant!(deferred_puts_unordered, "Causality violation");
deferred_mutant!(deferred_takes_by_load_and_store, "left == right");
