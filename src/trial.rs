//! The inside of the layers, for the targets of `fuzz/`, which tests/corpus.rs
//! runs, too. Not part of the interface: there with the feature `__trial` only,
//! and no other code knows that feature.

pub use crate::back::page_heap::{PAGE_HEAP, PageHeap};
pub use crate::back::{huge_cache, huge_filler, huge_page, page_map, span};
pub use crate::os::environment;
pub use crate::os::fault::Fault;

/// What a layer's `verify` adds its findings to.
pub const NOTHING: crate::census::Broken = crate::census::Broken::NOTHING;
