//! Facts about the machine, read once at initialisation.

#![allow(unsafe_code)]

use crate::os::sys;
use core::ffi::CStr;

/// How the kernel hands out transparent hugepages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Thp {
    /// To every mapping, asked or not.
    Always,
    /// To mappings that ask by MADV_HUGEPAGE.
    Madvise,
    Never,
}

#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Bytes of an OS page: 4, 16 or 64 KiB.
    pub os_page_bytes: usize,
    /// Ids of CPUs, and so concurrency ids, are below this.
    pub cpus_possible: u32,
    /// CPUs that this process may run on.
    pub cpus_allowed: u32,
    pub thp: Thp,
    /// RLIMIT_AS in bytes, `None` when unlimited.
    pub address_limit_bytes: Option<u64>,
    /// RLIMIT_DATA, which counts private writable mappings, is not unlimited.
    pub data_limited: bool,
    /// Mappings can be moved and leave an empty one behind. Kernels that can know
    /// rseq; qemu's user mode does not, and forgets what stays mapped.
    pub moves_mappings: bool,
    /// vm.overcommit_memory is 2: mapped memory is counted before it is touched.
    pub strict_overcommit: bool,
}

impl Machine {
    pub fn read() -> Machine {
        let (allowed, mask_bits) = sys::cpus_allowed();
        Machine {
            os_page_bytes: sys::os_page_bytes(),
            cpus_possible: cpus_possible().unwrap_or(mask_bits).max(allowed),
            cpus_allowed: allowed,
            thp: thp(),
            // The constant's type differs between C libraries.
            #[allow(clippy::unnecessary_cast)]
            address_limit_bytes: sys::soft_limit(libc::RLIMIT_AS as u32),
            #[allow(clippy::unnecessary_cast)]
            data_limited: sys::soft_limit(libc::RLIMIT_DATA as u32).is_some(),
            // SAFETY: nothing to register, so every kernel refuses; the error says why.
            moves_mappings: unsafe { sys::rseq(0, 0, 0, 0) } != Err(libc::ENOSYS),
            strict_overcommit: first_byte(c"/proc/sys/vm/overcommit_memory") == Some(b'2'),
        }
    }
}

/// Reads the start of a small file; the part of `buffer` that was filled.
pub fn read_file<'a>(path: &CStr, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let fd = sys::open_read(path).ok()?;
    let got = sys::read(fd, buffer);
    sys::close(fd);
    buffer.get(..got.ok()?)
}

fn first_byte(path: &CStr) -> Option<u8> {
    read_file(path, &mut [0; 8])?.first().copied()
}

/// One more than the highest possible CPU: the last number of "0-3,8-11".
fn cpus_possible() -> Option<u32> {
    let mut buffer = [0; 256];
    let text = read_file(c"/sys/devices/system/cpu/possible", &mut buffer)?;
    let mut last = None;
    let mut number: Option<u32> = None;
    for &b in text {
        if b.is_ascii_digit() {
            let digit = u32::from(b - b'0');
            number = number.unwrap_or(0).checked_mul(10)?.checked_add(digit).map(Some)?;
            last = number;
        } else {
            number = None;
        }
    }
    last?.checked_add(1)
}

fn thp() -> Thp {
    let mut buffer = [0; 64];
    let text = read_file(c"/sys/kernel/mm/transparent_hugepage/enabled", &mut buffer);
    let chosen = text.and_then(|t| {
        let at = t.iter().position(|&b| b == b'[')?;
        t.get(at + 1..at + 3)
    });
    match chosen {
        Some(b"al") => Thp::Always,
        Some(b"ma") => Thp::Madvise,
        _ => Thp::Never,
    }
}
