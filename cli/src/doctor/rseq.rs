//! Restartable sequences: who registered the thread and how, the slice extension, membarrier.

use std::io;

use serde::Serialize;

use super::Fallback;
use super::kernel::{CLibrary, Kernel};
use crate::statistics::Statistics;
use crate::sys::{self, Registration};

// linux/auxvec.h, since 6.3.
const AT_RSEQ_FEATURE_SIZE: u64 = 27;
const AT_RSEQ_ALIGN: u64 = 28;
/// `struct rseq` up to and with `mm_cid`.
const SIZE_WITH_MM_CID: u64 = 28;
/// `struct rseq` of the first kernels with the optimised mode, up to and with `slice_ctrl`.
const SIZE_WITH_SLICE: u64 = 33;
/// What every kernel accepts, whatever its feature size.
const ORIGINAL_LENGTH: u32 = 32;

#[derive(Debug, Serialize)]
pub struct Rseq {
    /// Who registered this thread's area: "libc", "own" (the allocator), "taken" (the allocator,
    /// in place of the C library) or "none".
    pub registered_by: &'static str,
    /// Length given at registration.
    pub registered_length: Option<u32>,
    pub abi_mode: AbiMode,
    /// Whether the kernel writes `mm_cid`.
    pub mm_cid: bool,
    /// AT_RSEQ_FEATURE_SIZE.
    pub feature_size: Option<u64>,
    /// AT_RSEQ_ALIGN.
    pub align: Option<u64>,
    /// `__rseq_size` of the C library, whose meaning differs between its versions.
    pub libc_size: Option<u32>,
    /// `__rseq_offset`: of the C library's area, from the thread pointer.
    pub libc_offset: Option<isize>,
    /// Why the kernel refuses the system call; null if it does not.
    pub refused: Option<String>,
    /// Where the registered area is, if that is known.
    #[serde(skip)]
    pub area: Option<u64>,
}

/// How the kernel treats the area.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub enum AbiMode {
    /// Ids rewritten at each context switch.
    #[serde(rename = "legacy")]
    Legacy,
    /// Ids written when they change: registered with at least the feature size, kernel ≥ 7.0.
    V2,
    /// Nothing is registered.
    #[serde(rename = "none")]
    None,
}

impl Rseq {
    pub fn collect(kernel: &Kernel, allocator_says: &Statistics) -> Self {
        let feature_size = sys::auxiliary(AT_RSEQ_FEATURE_SIZE);
        let libc_size = sys::libc_word(c"__rseq_size");
        let libc_offset = sys::libc_offset(c"__rseq_offset");
        let libc_area = match (libc_size, libc_offset) {
            (Some(1..), Some(offset)) => Some(sys::thread_pointer().wrapping_add_signed(offset)),
            _ => None,
        };
        let by_allocator = if allocator_says.registration == "taken" { "taken" } else { "own" };
        let registration = sys::rseq_registration();
        let (registered_by, registered_length) = match registration {
            Some(Registration { address: 0, .. }) => ("none", None),
            Some(Registration { address, length }) => {
                let by_libc = libc_area.is_some_and(|area| area as u64 == address);
                (if by_libc { "libc" } else { by_allocator }, Some(length))
            }
            // Tracing is forbidden or unknown here: ask the registration call itself.
            None => match libc_area
                .and_then(|area| sys::rseq_length_by_refusal(area, &lengths(feature_size)))
            {
                Some(length) => ("libc", Some(length)),
                None if allocator_says.registration == by_allocator => {
                    (by_allocator, u32::try_from(allocator_says.rseq_size).ok())
                }
                None => ("none", None),
            },
        };
        let abi_mode = match (registered_by, registered_length) {
            ("none", _) => AbiMode::None,
            (_, Some(length)) if is_v2(length, feature_size, kernel.version()) => AbiMode::V2,
            _ => AbiMode::Legacy,
        };
        Rseq {
            registered_by,
            registered_length,
            abi_mode,
            mm_cid: feature_size.is_some_and(|size| size >= SIZE_WITH_MM_CID),
            feature_size,
            align: sys::auxiliary(AT_RSEQ_ALIGN),
            libc_size,
            libc_offset,
            refused: sys::rseq_refusal()
                .map(|error| io::Error::from_raw_os_error(error).to_string()),
            area: match registration {
                Some(told) => Some(told.address).filter(|address| *address != 0),
                None => libc_area.filter(|_| registered_by == "libc").map(|area| area as u64),
            },
        }
    }

    pub fn fallbacks(&self, libc: &CLibrary, fallbacks: &mut Vec<Fallback>) {
        if self.registered_by != "libc" {
            fallbacks.push(Fallback {
                what: "registration",
                in_force: self.registered_by.into(),
                reason: self.why_not_libc(libc),
            });
        }
        if self.abi_mode != AbiMode::V2 {
            fallbacks.push(Fallback {
                what: "abi_mode",
                in_force: if self.abi_mode == AbiMode::None { "none" } else { "legacy" }.into(),
                reason: self.why_not_v2(),
            });
        }
    }

    fn why_not_libc(&self, libc: &CLibrary) -> String {
        if let Some(error) = &self.refused {
            return format!("the kernel refuses rseq: {error}");
        }
        match (self.libc_size, libc.glibc()) {
            (None, Some((major, minor))) if (major, minor) < (2, 35) => {
                format!("glibc {major}.{minor} does not register threads (2.35 and later do)")
            }
            (None, _) => "the C library does not register threads".into(),
            (Some(0), _) => {
                "the C library registered nothing (__rseq_size is 0): the kernel refused, or \
                 GLIBC_TUNABLES has glibc.pthread.rseq=0"
                    .into()
            }
            (Some(_), _) => "CIDALLOC_RSEQ=take: the allocator has replaced the C library's".into(),
        }
    }

    fn why_not_v2(&self) -> String {
        let offered = self.feature_size.unwrap_or(0);
        match (self.abi_mode, self.registered_length) {
            (AbiMode::None, _) => "nothing is registered".into(),
            (_, _) if offered < SIZE_WITH_SLICE => {
                "the kernel has no optimised mode (since 7.0)".into()
            }
            (_, Some(length)) => format!(
                "registered with {length} bytes; the optimised mode takes at least {offered}\
                 {}",
                if self.registered_by == "libc" { " (CIDALLOC_RSEQ=take)" } else { "" }
            ),
            (_, None) => "the registered length is not known".into(),
        }
    }
}

fn is_v2(length: u32, feature_size: Option<u64>, kernel: (u32, u32)) -> bool {
    let feature_size = feature_size.unwrap_or(0);
    feature_size >= SIZE_WITH_SLICE && u64::from(length) >= feature_size && kernel >= (7, 0)
}

/// Lengths a C library may have registered: the original one, the kernel's feature size, and that
/// rounded up to what an area is aligned to.
fn lengths(feature_size: Option<u64>) -> Vec<u32> {
    let mut lengths = vec![ORIGINAL_LENGTH];
    if let Some(size) = feature_size.and_then(|size| u32::try_from(size).ok()) {
        lengths.push(size);
    }
    lengths.extend((64..=512).step_by(32));
    lengths
}

#[derive(Debug, Serialize)]
pub struct SliceExtension {
    /// "available", "enabled" (on in this process already), or the error's name.
    pub state: &'static str,
    /// Why it cannot be had; empty if it can.
    pub reason: &'static str,
}

impl SliceExtension {
    pub fn collect(abi_mode: AbiMode) -> Self {
        let asked = sys::slice_extension_enabled();
        if asked == Ok(true) {
            return SliceExtension { state: "enabled", reason: "" };
        }
        // Asking shows only whether it is on. Whether it can be had, an attempt shows: a kernel
        // that has it still refuses a legacy registration.
        match asked.err().or_else(sys::try_slice_extension) {
            Some(0) => SliceExtension { state: "available", reason: "" },
            Some(libc::ENXIO) => SliceExtension { state: "ENXIO", reason: "nothing is registered" },
            Some(sys::ENOTSUPP | libc::EOPNOTSUPP) if abi_mode != AbiMode::V2 => {
                SliceExtension { state: "ENOTSUPP", reason: "it takes a registration in V2 mode" }
            }
            Some(sys::ENOTSUPP | libc::EOPNOTSUPP) => SliceExtension {
                state: "ENOTSUPP",
                reason: "the kernel is built without it or started with rseq_slice_ext=0",
            },
            Some(libc::EINVAL) => {
                SliceExtension { state: "EINVAL", reason: "the kernel has none (since 7.0)" }
            }
            Some(libc::EPERM) => {
                SliceExtension { state: "EPERM", reason: "forbidden, probably by seccomp" }
            }
            Some(libc::ENOSYS) => {
                SliceExtension { state: "ENOSYS", reason: "prctl is not implemented here" }
            }
            Some(_) => {
                SliceExtension { state: "error", reason: "prctl failed with an undocumented error" }
            }
            None => SliceExtension {
                state: "unknown",
                reason: "no child process could be had for the attempt",
            },
        }
    }

    /// They can be had and the allocator goes without, or they cannot.
    pub fn fallbacks(&self, own: &Statistics, fallbacks: &mut Vec<Fallback>) {
        let why = match self.reason {
            "" => own.slices_reason.as_str(),
            reason => reason,
        };
        if !why.is_empty() {
            fallbacks.push(Fallback {
                what: "slice_extension",
                in_force: "off".into(),
                reason: why.into(),
            });
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Membarrier {
    /// MEMBARRIER_CMD_QUERY's bits, each a supported command; null if the call fails.
    pub commands: Option<i64>,
    /// PRIVATE_EXPEDITED_RSEQ works: the allocator can stop other threads' sequences.
    pub private_expedited_rseq: bool,
    /// It was registered before this report tried it, so by the allocator.
    pub registered_by_allocator: bool,
    /// Why it does not work; empty if it does.
    pub reason: String,
}

impl Membarrier {
    pub fn collect() -> Self {
        // linux/membarrier.h
        const QUERY: i32 = 0;
        const PRIVATE_EXPEDITED_RSEQ: i32 = 1 << 7;
        const REGISTER_PRIVATE_EXPEDITED_RSEQ: i32 = 1 << 8;
        let commands = sys::membarrier(QUERY);
        // Without registration the fence fails with EPERM.
        let first = sys::membarrier(PRIVATE_EXPEDITED_RSEQ);
        let worked = first.or_else(|_| {
            sys::membarrier(REGISTER_PRIVATE_EXPEDITED_RSEQ)
                .and_then(|_| sys::membarrier(PRIVATE_EXPEDITED_RSEQ))
        });
        let reason = match (commands, worked) {
            (_, Ok(_)) => String::new(),
            (Err(error), _) => format!("membarrier fails: {}", io::Error::from_raw_os_error(error)),
            (Ok(bits), Err(_)) if bits & i64::from(PRIVATE_EXPEDITED_RSEQ) == 0 => {
                "the kernel does not have it (since 5.10)".into()
            }
            (Ok(_), Err(error)) => io::Error::from_raw_os_error(error).to_string(),
        };
        Membarrier {
            commands: commands.ok(),
            private_expedited_rseq: worked.is_ok(),
            registered_by_allocator: first.is_ok(),
            reason,
        }
    }

    pub fn fallbacks(&self, fallbacks: &mut Vec<Fallback>) {
        if !self.private_expedited_rseq {
            fallbacks.push(Fallback {
                what: "membarrier",
                in_force: "none".into(),
                reason: self.reason.clone(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_takes_length_and_kernel() {
        assert!(is_v2(33, Some(33), (7, 0)));
        assert!(is_v2(64, Some(33), (7, 2)));
        assert!(!is_v2(32, Some(33), (7, 2)));
        assert!(!is_v2(33, Some(40), (7, 2)));
        assert!(!is_v2(33, Some(28), (6, 19)));
        assert!(!is_v2(33, Some(33), (6, 19)));
        assert!(!is_v2(32, None, (6, 1)));
    }

    #[test]
    fn the_kernel_and_the_refusal_agree() {
        let (Some(1..), Some(offset)) =
            (sys::libc_word(c"__rseq_size"), sys::libc_offset(c"__rseq_offset"))
        else {
            return; // The C library registered nothing.
        };
        let area = sys::thread_pointer().wrapping_add_signed(offset);
        // Another registration than the C library's is in force: nothing to compare.
        let Some(told) = sys::rseq_registration().filter(|told| told.address == area as u64) else {
            return;
        };
        let feature_size = sys::auxiliary(AT_RSEQ_FEATURE_SIZE);
        assert_eq!(sys::rseq_length_by_refusal(area, &lengths(feature_size)), Some(told.length));
    }
}
