//! Pages, transparent hugepages, and the limits on memory.

use serde::{Serialize, Serializer};

use super::{Fallback, read_line, read_number};
use crate::sys::{self, Limit};

#[derive(Debug, Serialize)]
pub struct Memory {
    /// Of an OS page.
    pub page_size: u64,
    pub thp: HugePages,
    pub limits: Limits,
}

/// Transparent hugepages, from /sys/kernel/mm/transparent_hugepage; null if the kernel has none.
#[derive(Debug, Serialize)]
pub struct HugePages {
    /// "always", "madvise" or "never".
    pub enabled: Option<String>,
    /// When a fault may wait for compaction.
    pub defrag: Option<String>,
    pub hugepage_size: Option<u64>,
    /// By prctl(PR_SET_THP_DISABLE), for this process and those it starts.
    pub disabled: bool,
}

#[derive(Debug, Serialize)]
pub struct Limits {
    /// RLIMIT_AS.
    pub address_space: Bound,
    /// RLIMIT_DATA.
    pub data: Bound,
    /// RLIMIT_MEMLOCK.
    pub locked_memory: Bound,
    /// /proc/sys/vm/overcommit_memory: 0 heuristic, 1 always, 2 never.
    pub overcommit_memory: Option<u64>,
    /// /proc/sys/vm/max_map_count: mappings a process may have.
    pub max_map_count: Option<u64>,
}

/// A soft limit in bytes; None, in JSON "unlimited", if there is none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound(pub Option<u64>);

impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(bytes) => serializer.serialize_u64(bytes),
            None => serializer.serialize_str("unlimited"),
        }
    }
}

impl Memory {
    pub fn collect() -> Self {
        let thp = |file: &str| format!("/sys/kernel/mm/transparent_hugepage/{file}");
        let choice = |file: &str| read_line(&thp(file)).as_deref().and_then(chosen);
        Memory {
            page_size: sys::page_size(),
            thp: HugePages {
                enabled: choice("enabled"),
                defrag: choice("defrag"),
                hugepage_size: read_number(&thp("hpage_pmd_size")),
                disabled: sys::thp_is_disabled(),
            },
            limits: Limits {
                address_space: Bound(sys::limit(Limit::AddressSpace)),
                data: Bound(sys::limit(Limit::Data)),
                locked_memory: Bound(sys::limit(Limit::LockedMemory)),
                overcommit_memory: read_number("/proc/sys/vm/overcommit_memory"),
                max_map_count: read_number("/proc/sys/vm/max_map_count"),
            },
        }
    }

    pub fn fallbacks(&self, fallbacks: &mut Vec<Fallback>) {
        let no_hugepages = match self.thp.enabled.as_deref() {
            _ if self.thp.disabled => Some("prctl(PR_SET_THP_DISABLE) is in force"),
            None => Some("the kernel has no transparent hugepages"),
            Some("never") => Some("transparent_hugepage/enabled is never"),
            Some(_) => None,
        };
        if let Some(reason) = no_hugepages {
            fallbacks.push(Fallback {
                what: "hugepages",
                in_force: "OS pages".into(),
                reason: reason.into(),
            });
        }
        let counted = match (self.limits.address_space, self.limits.overcommit_memory) {
            (Bound(Some(bytes)), _) => Some(format!("RLIMIT_AS is {bytes} bytes")),
            (_, Some(2)) => Some("overcommit_memory is 2: mapped memory counts untouched".into()),
            _ => None,
        };
        let of_data = self.limits.data.0.map(|bytes| format!("RLIMIT_DATA is {bytes} bytes"));
        for (what, reason) in [("address_space", counted), ("data", of_data)] {
            let Some(reason) = reason else { continue };
            fallbacks.push(Fallback { what, in_force: "nothing is mapped ahead".into(), reason });
        }
    }
}

/// Returns the word in brackets: sysfs lists every choice and marks the one in force so.
fn chosen(line: &str) -> Option<String> {
    let (_, rest) = line.split_once('[')?;
    let (word, _) = rest.split_once(']')?;
    Some(word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_in_brackets_is_in_force() {
        assert_eq!(chosen("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(chosen("[never]").as_deref(), Some("never"));
        assert_eq!(chosen("never"), None);
    }

    #[test]
    fn limits_are_numbers_or_unlimited() {
        assert_eq!(serde_json::to_string(&Bound(Some(5))).unwrap(), "5");
        assert_eq!(serde_json::to_string(&Bound(None)).unwrap(), "\"unlimited\"");
    }
}
