//! Whether the kernel aborts sections as the ABI promises: by which rule the allocator has decided,
//! and what is seen here and now.

use serde::Serialize;

use super::Fallback;
use super::kernel::Kernel;
use crate::preemption::{self, Seen};

/// aarch64 kernels from the first to before the second do not abort a section whose thread is
/// preempted. The allocator's own rule is `aborts_are_missed` in src/front/process.rs.
const FAULTY: (Version, Version) = ((6, 19), (7, 1));
type Version = (u32, u32);

#[derive(Debug, PartialEq, Serialize)]
pub struct Aborts {
    /// Whether the allocator's sections may be used, as far as the rule tells.
    pub trusted: bool,
    /// The rule that decided.
    pub rule: String,
    /// How to decide otherwise, and whether to; null where there is no reason to.
    pub otherwise: Option<String>,
    /// Sections that this command was preempted in; null if it could not try.
    pub seen: Option<Seen>,
}

impl Aborts {
    pub fn collect(kernel: &Kernel, mode: &str, area: Option<u64>) -> Self {
        let option = std::env::var("CIDALLOC_RSEQ").ok();
        let seen = area.and_then(preemption::see);
        Aborts::decided(&kernel.machine, kernel.version(), option.as_deref(), mode, seen)
    }

    fn decided(
        machine: &str,
        version: Version,
        option: Option<&str>,
        mode: &str,
        seen: Option<Seen>,
    ) -> Self {
        let (first, repaired) = FAULTY;
        let (major, minor) = version;
        let doubted = machine == "aarch64" && (first..repaired).contains(&version);
        // Naming a registration overrides the rule.
        let named = option.filter(|value| ["libc", "own", "take"].contains(value));
        let named = named.filter(|_| mode == "rseq");
        let fault = "aarch64 kernels 6.19 to 7.0 do not abort preempted sections";
        let rule = match (doubted, named) {
            (false, _) => format!("trusted: no fault is known of {machine} {major}.{minor}"),
            (true, Some(value)) => format!("trusted: CIDALLOC_RSEQ={value} overrides that {fault}"),
            (true, None) => format!("not trusted, by version {major}.{minor}: {fault}"),
        };
        let whole = seen.map(|seen| seen.aborted == seen.preempted);
        let trusted = !doubted || named.is_some();
        let otherwise = match (trusted, whole) {
            (true, Some(false)) => Some("this kernel has the fault: use CIDALLOC_RSEQ=off"),
            (true, _) => None,
            (false, Some(true)) => Some(
                "this kernel seems to be repaired: CIDALLOC_RSEQ=libc (or own, take) overrides",
            ),
            (false, _) => Some("CIDALLOC_RSEQ=libc (or own, take) overrides, on a repaired kernel"),
        };
        Aborts { trusted, rule, otherwise: otherwise.map(str::to_owned), seen }
    }

    /// The allocator tells of its own rule; this is what it cannot know.
    pub fn fallbacks(&self, fallbacks: &mut Vec<Fallback>) {
        if let (true, Some(advice)) = (self.trusted, &self.otherwise) {
            fallbacks.push(Fallback {
                what: "aborts",
                in_force: "sections that are not always aborted".into(),
                reason: advice.clone(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(machine: &str, version: Version, option: Option<&str>) -> Aborts {
        Aborts::decided(machine, version, option, "rseq", None)
    }

    #[test]
    fn only_some_kernels_of_one_machine_are_not_trusted() {
        for version in [(6, 1), (6, 18), (7, 1), (8, 0)] {
            let found = decided("aarch64", version, None);
            assert!(found.trusted && found.otherwise.is_none(), "{found:?}");
        }
        for version in [(6, 19), (7, 0)] {
            assert!(decided("x86_64", version, None).trusted, "{version:?}");
            let found = decided("aarch64", version, None);
            assert!(!found.trusted && found.otherwise.is_some(), "{found:?}");
        }
    }

    #[test]
    fn a_registration_that_is_named_decides_otherwise() {
        for (value, trusted) in
            [("libc", true), ("own", true), ("take", true), ("auto", false), ("off", false)]
        {
            let found = decided("aarch64", (7, 0), Some(value));
            assert_eq!(found.trusted, trusted, "{found:?}");
        }
        // Named, and yet not had.
        assert!(!Aborts::decided("aarch64", (7, 0), Some("own"), "locked", None).trusted);
    }

    #[test]
    fn what_is_seen_is_advice() {
        let seen = |aborted| Some(Seen { preempted: 8, aborted });
        let decided = |version, option, aborted| {
            let found = Aborts::decided("aarch64", version, option, "rseq", seen(aborted));
            let mut fallbacks = Vec::new();
            found.fallbacks(&mut fallbacks);
            (found.otherwise.unwrap_or_default(), fallbacks.len())
        };
        assert_eq!(decided((7, 2), None, 8), (String::new(), 0));
        let (advice, fallbacks) = decided((7, 2), None, 3);
        assert!(advice.contains("CIDALLOC_RSEQ=off") && fallbacks == 1, "{advice}");
        let (advice, fallbacks) = decided((7, 0), Some("libc"), 0);
        assert!(advice.contains("CIDALLOC_RSEQ=off") && fallbacks == 1, "{advice}");
        assert!(decided((7, 0), None, 8).0.contains("seems to be repaired"));
        assert!(decided((7, 0), None, 0).0.contains("on a repaired kernel"));
    }
}
