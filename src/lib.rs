//! cidalloc: a general-purpose memory allocator for Linux.
//!
//! Small objects are cached in slabs, one per *concurrency id*: a number below
//! the number of CPUs that the kernel gives each running thread and that no two
//! threads of a process hold at once. A slab is changed only inside restartable
//! sequences: short stretches of code that the kernel aborts when their thread
//! loses the id. No atomic operation and no lock is on the fast path, and what
//! is cached follows the CPUs in use, not the threads.
//!
//! ```no_run
//! #[global_allocator]
//! static A: cidalloc::CidAlloc = cidalloc::CidAlloc;
//! # fn main() {}
//! ```
//!
//! # Layers, bottom up
//! A layer uses only those before it; `tests/layers.rs` holds it to that.
//! - `units`, `size_class`, `census`, `config`: shared vocabulary.
//! - `os`: system calls, rseq, thread words, locks.
//! - `back`: address space, hugepages, pages, spans, large blocks.
//! - `middle`: central free lists and transfer caches, per class.
//! - `front`: slabs, sections, what a miss does, stopping, time.
//! - `check`: the checking mode, which serves all blocks itself.
//! - `watch`: statistics, the walk; reads every layer.
//! - `alloc`: the hot path; `heap`: the rest of the interface; `global`: Rust's.
//!
//! # Glossary
//! - *page*: 8 KiB, ours; an *OS page* is the kernel's; a *hugepage* is 2 MiB.
//! - *span*: a run of pages cut into objects of one class, or one large block.
//! - *slab*: the cache of one concurrency id (cid), CPU or shard.
//! - *section*: a restartable sequence; *COMMIT* its one visible store, the last
//!   instruction.
//! - *refill*, *overflow*: a pop or push that missed; *batch*: the objects moved.
//! - *stopped*: a slab header that turns every section away.
//! - *drain*: send a slab's objects home; *cool*, *subrelease*: give whole free
//!   hugepages, or free pages of used ones, back to the kernel.

#![no_std]
#![deny(unsafe_code)]
#![warn(missing_debug_implementations)]

#[cfg(any(test, not(cidalloc_native)))]
extern crate std;

#[cfg(cidalloc_native)]
pub mod alloc;
#[cfg(cidalloc_native)]
mod back;
#[cfg(cidalloc_native)]
pub mod census;
#[cfg(cidalloc_native)]
mod check;
#[cfg(cidalloc_native)]
pub mod config;
#[cfg(cidalloc_native)]
pub mod diagnosis;
#[cfg(cidalloc_native)]
pub mod fork;
#[cfg(cidalloc_native)]
mod front;
mod global;
#[cfg(cidalloc_native)]
pub mod heap;
#[cfg(cidalloc_native)]
mod middle;
#[cfg(cidalloc_native)]
mod os;
#[cfg(cidalloc_native)]
pub mod size_class;
#[cfg(all(feature = "__trial", cidalloc_native))]
#[doc(hidden)]
pub mod trial;
#[cfg(cidalloc_native)]
pub mod units;
#[cfg(cidalloc_native)]
mod watch;

pub use global::CidAlloc;
