//! The operating system: raw system calls, rseq registration, thread words, locks.
//!
//! The bottom layer. It calls no C library function that could allocate or
//! lock, so that it works before `main`, inside `fork`, and under shims that
//! allocate from their own wrappers of `mmap` or `open`.

pub mod environment;
pub mod fault;
pub mod fetch;
pub mod lock;
pub mod machine;
pub mod output;
pub mod probe;
pub mod refusal;
pub mod rseq;
pub mod slice;
pub mod sync;
pub mod sys;
pub mod thread;
pub mod weak;
