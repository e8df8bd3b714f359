//! The statistics as the allocator writes them with `CIDALLOC_STATS=json:PATH`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// One process's statistics; sizes in bytes unless the name says otherwise.
///
/// A library given by `--lib` may be of another version, so a missing field reads as zero and an
/// unknown one is passed over.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Statistics {
    pub version: String,
    pub pid: u32,
    /// "rseq" or "locked".
    pub mode: String,
    /// "mm_cid", "cpu_id" or "shard".
    pub index: String,
    /// "libc", "own", "taken" or "none".
    pub registration: String,
    /// "legacy", "V2" or "none".
    pub abi_mode: String,
    /// Why the allocator fell back; empty if it did not.
    pub reason: String,
    /// Length of the rseq area in use.
    pub rseq_size: u64,
    /// Names of the system calls that have failed, between blanks.
    pub refused: String,
    /// What MADV_DONTNEED leaves: "zeroes", "keeps" or "unknown".
    pub dontneed: String,
    /// Time slice extensions: "on", "offered" or "off", and then why.
    pub slices: String,
    pub slices_reason: String,
    pub live_bytes: u64,
    pub peak_bytes: u64,
    /// Counts, exact; absent unless the process ran with `CIDALLOC_COUNT=1`.
    pub allocations: Option<u64>,
    pub frees: Option<u64>,
    pub cid_bytes: u64,
    pub transfer_bytes: u64,
    pub central_bytes: u64,
    pub page_free_bytes: u64,
    pub page_returned_bytes: u64,
    pub metadata_bytes: u64,
    pub mapped_bytes: u64,
    /// Counts.
    pub cids_in_use: u64,
    pub hugepages: u64,
}

/// What the processes of one run left in the directory given to them.
#[derive(Debug, Default)]
pub struct Collected {
    pub by_pid: BTreeMap<u32, Statistics>,
    /// Files that are no complete statistics: their process was stopped while writing.
    pub unreadable: usize,
}

/// Reads every file of `directory`, which holds nothing but statistics.
pub fn collect(directory: &Path) -> std::io::Result<Collected> {
    let mut collected = Collected::default();
    for entry in std::fs::read_dir(directory)? {
        let text = std::fs::read_to_string(entry?.path()).unwrap_or_default();
        match serde_json::from_str::<Statistics>(&text) {
            Ok(statistics) => {
                collected.by_pid.insert(statistics.pid, statistics);
            }
            Err(_) => collected.unreadable += 1,
        }
    }
    Ok(collected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_may_be_null_and_fields_unknown() {
        let text = r#"{"pid":7,"mode":"rseq","allocations":null,"frees":3,"something_new":[1]}"#;
        let statistics: Statistics = serde_json::from_str(text).unwrap();
        assert_eq!((statistics.pid, statistics.mode.as_str()), (7, "rseq"));
        assert_eq!((statistics.allocations, statistics.frees), (None, Some(3)));
    }
}
