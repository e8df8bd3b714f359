//! The front: slabs of objects, one per concurrency id.
//!
//! Bottom up: `slab` (layout), `sections` (the restartable sequences),
//! `locked` (the same operations behind a lock), `process` (initialisation:
//! which of the two, and why), `take_in` (a thread's first slow path),
//! `take_over` (a registration of ours in place of the C library's, an option),
//! `cpu_cache` (what a miss does), `remote` (stopping another cid),
//! `heartbeat` (what time does), `vigil` (time for threads that only hit),
//! `background` (the same in a thread of its own, an option),
//! `deferred` (frees that had to wait), `stray` (pointers outside the arena),
//! `all_locks` (the whole allocator at rest).

pub mod all_locks;
pub mod background;
pub mod cpu_cache;
pub mod deferred;
pub mod heartbeat;
pub mod locked;
pub mod process;
pub mod remote;
pub mod sections;
pub mod slab;
pub mod stray;
pub mod take_in;
pub mod take_over;
pub mod vigil;
