//! What the models share. Each file in `tests/` is one model: a crate root
//! that puts sources of the allocator, included as they are, between parts
//! made here of loom's primitives.
//!
//! Mutants, that is sources with one planted defect, come from `build.rs`.

pub mod atomic;
pub mod explore;
pub mod fresh;
pub mod lock;

/// A source of the allocator, by its path below `src` with `_` for `/`, or a
/// mutant by its name: see `build.rs`.
#[macro_export]
macro_rules! source {
    ($name:expr) => {
        include!(concat!(env!("OUT_DIR"), "/", $name, ".rs"));
    };
}
