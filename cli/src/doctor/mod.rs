//! `cidalloc doctor`: what this machine offers the allocator, and what the allocator makes of it.
//!
//! The report is collected first and printed second: `Report` is the JSON of `doctor --json`,
//! field by field, and `text` prints the same facts. Sizes are in bytes; null means that the
//! kernel or the C library does not have it or does not tell.

mod aborts;
mod kernel;
mod memory;
mod rseq;
mod text;

use serde::Serialize;

use crate::core_api;
use crate::statistics::Statistics;

#[derive(Debug, Serialize)]
pub struct Report {
    pub allocator: Allocator,
    pub kernel: kernel::Kernel,
    pub libc: kernel::CLibrary,
    pub cpus: kernel::Cpus,
    pub rseq: rseq::Rseq,
    pub aborts: aborts::Aborts,
    pub slice_extension: rseq::SliceExtension,
    pub membarrier: rseq::Membarrier,
    pub memory: memory::Memory,
    /// Everything that is less than the best the allocator can do, with the reason.
    pub fallbacks: Vec<Fallback>,
}

/// The live state of the allocator in this process: what other programs will get, too.
#[derive(Debug, Serialize)]
pub struct Allocator {
    pub version: &'static str,
    /// "rseq" or "locked".
    pub mode: String,
    /// "mm_cid", "cpu_id" or "shard".
    pub index: String,
    /// "libc", "own", "taken" (its own, in place of the C library's) or "none".
    pub registration: String,
    /// How the kernel treats the registration: "legacy", "V2" or "none".
    pub abi_mode: String,
    /// The allocator's own reason for its fallback, or for another registration than the one
    /// asked for; empty without one.
    pub reason: String,
    /// Bytes of the rseq area that the allocator uses.
    pub rseq_size: u64,
    /// System calls that have failed for the allocator in this process.
    pub refused: Vec<String>,
    /// What MADV_DONTNEED leaves of memory: "zeroes", or "keeps".
    pub dontneed: String,
    /// Time slice extensions in this process: "on", "offered" to threads once they need
    /// them (unless the application uses them itself), or "off".
    pub slices: String,
    /// The allocator's reason why they are off; else empty.
    pub slices_reason: String,
    pub live_bytes: u64,
    pub peak_bytes: u64,
    pub mapped_bytes: u64,
}

#[derive(Debug, Serialize)]
pub struct Fallback {
    /// What is affected: "mode", "index", "registration", "abi_mode", "aborts", "slice_extension",
    /// "membarrier", "hugepages", "address_space", "data", "system_calls" or "dontneed".
    pub what: &'static str,
    /// What is in force instead of the best.
    pub in_force: String,
    pub reason: String,
}

/// Prints the report and returns the exit status.
pub fn doctor(json: bool) -> i32 {
    let report = match core_api::own_statistics() {
        Ok(own) => Report::collect(own),
        Err(error) => {
            eprintln!("cidalloc: the allocator's state cannot be read: {error}");
            return crate::OWN_FAILURE;
        }
    };
    if json {
        match serde_json::to_string_pretty(&report) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("cidalloc: {error}");
                return crate::OWN_FAILURE;
            }
        }
    } else {
        print!("{}", text::text(&report));
    }
    0
}

impl Report {
    fn collect(own: Statistics) -> Self {
        let kernel = kernel::Kernel::collect();
        let rseq = rseq::Rseq::collect(&kernel, &own);
        let aborts = aborts::Aborts::collect(&kernel, &own.mode, rseq.area);
        let slice_extension = rseq::SliceExtension::collect(rseq.abi_mode);
        let membarrier = rseq::Membarrier::collect();
        let memory = memory::Memory::collect();
        let libc = kernel::CLibrary::collect();
        let mut fallbacks = Vec::new();
        allocator_fallbacks(&own, &rseq, &mut fallbacks);
        rseq.fallbacks(&libc, &mut fallbacks);
        aborts.fallbacks(&mut fallbacks);
        slice_extension.fallbacks(&own, &mut fallbacks);
        membarrier.fallbacks(&mut fallbacks);
        memory.fallbacks(&mut fallbacks);
        Report {
            allocator: Allocator::from(own),
            kernel,
            libc,
            cpus: kernel::Cpus::collect(),
            rseq,
            aborts,
            slice_extension,
            membarrier,
            memory,
            fallbacks,
        }
    }
}

impl From<Statistics> for Allocator {
    fn from(own: Statistics) -> Self {
        Allocator {
            version: env!("CARGO_PKG_VERSION"),
            mode: own.mode,
            index: own.index,
            registration: own.registration,
            abi_mode: own.abi_mode,
            reason: own.reason,
            rseq_size: own.rseq_size,
            refused: own.refused.split_whitespace().map(str::to_owned).collect(),
            dontneed: own.dontneed,
            slices: own.slices,
            slices_reason: own.slices_reason,
            live_bytes: own.live_bytes,
            peak_bytes: own.peak_bytes,
            mapped_bytes: own.mapped_bytes,
        }
    }
}

/// The allocator's mode and index, where they are not the best there are; what it was refused.
fn allocator_fallbacks(own: &Statistics, rseq: &rseq::Rseq, fallbacks: &mut Vec<Fallback>) {
    // The allocator knows best; the rest covers what it leaves unsaid.
    let reason = |otherwise: &str| match own.reason.as_str() {
        "" => otherwise.to_owned(),
        reason => reason.to_owned(),
    };
    if own.mode != "rseq" {
        fallbacks.push(Fallback {
            what: "mode",
            in_force: own.mode.clone(),
            reason: reason("the allocator gives none"),
        });
    }
    if own.index != "mm_cid" {
        let otherwise = match (own.mode.as_str(), rseq.mm_cid) {
            ("rseq", false) => "the kernel provides no mm_cid (since 6.3)",
            ("rseq", true) => "chosen by CIDALLOC_INDEX",
            _ => "a cid may be used inside a restartable sequence only",
        };
        fallbacks.push(Fallback {
            what: "index",
            in_force: own.index.clone(),
            reason: reason(otherwise),
        });
    }
    if !own.refused.is_empty() {
        fallbacks.push(Fallback {
            what: "system_calls",
            in_force: "does without".into(),
            reason: format!("failed for the allocator in this process: {}", own.refused),
        });
    }
    if own.dontneed == "keeps" {
        fallbacks.push(Fallback {
            what: "dontneed",
            in_force: "free memory is kept".into(),
            reason: "MADV_DONTNEED does not clear memory here".into(),
        });
    }
}

/// Reads a file of /proc or /sys, without the final newline; None if it is not there.
fn read_line(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim_end().to_owned())
}

/// Reads a file that holds one number.
fn read_number(path: &str) -> Option<u64> {
    read_line(path)?.parse().ok()
}
