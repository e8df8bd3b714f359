//! The fuzz targets: each turns bytes into operations on one layer and compares
//! every answer with a naive model.
//!
//! cargo-fuzz runs them through `fuzz_targets/`; `tests/corpus.rs` includes this
//! file and runs them on the saved inputs of `tests/corpus/`. Any bytes are an
//! input: what they do not decide is zero, and they end the run by their end.

/// Leaves the function with what is wrong, in words.
macro_rules! check {
    ($condition:expr, $($why:tt)+) => {
        if !$condition { return Err(format!($($why)+)); }
    };
}

pub mod filler;
pub mod history;
mod input;
pub mod options;
pub mod page_map;
pub mod ranges;
pub mod spans;

/// One layer under test.
pub struct Target {
    /// Also the name of its directory of saved inputs.
    pub name: &'static str,
    /// Runs one input with one of `faults` planted, or "" for none; what is
    /// wrong, in words.
    pub run: fn(input: &[u8], planted: &str) -> Result<(), String>,
    /// Defects that the target can put between the layer and its model.
    pub faults: &'static [&'static str],
}

pub static TARGETS: [&Target; 6] = [
    &history::TARGET,
    &spans::TARGET,
    &filler::TARGET,
    &ranges::TARGET,
    &page_map::TARGET,
    &options::TARGET,
];
