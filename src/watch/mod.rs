//! Seeing inside: counters and statistics. May read every layer.

pub mod counters;
pub mod exit;
pub mod stats;
