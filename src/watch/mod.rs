//! Seeing inside: counters, statistics, the walk. May read every layer.

pub mod counters;
pub mod exit;
pub mod stats;
pub mod walk;
