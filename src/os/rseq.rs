//! rseq: who has registered a thread, with what length, and our own
//! registration where nobody has.
//!
//! Of a registered `struct rseq` this project writes `rseq_cs`, and where the kernel
//! offers time slice extensions the byte of the request (`slice`). The kernel writes
//! the rest; every field is read and written by its own thread only.

#![allow(unsafe_code)]

use crate::os::weak::weak_address;
use crate::os::{sys, thread};
use core::mem::offset_of;
use core::ptr::with_exposed_provenance_mut;

/// The kernel's `struct rseq` (include/uapi/linux/rseq.h).
#[derive(Debug)]
#[repr(C, align(32))]
pub struct RseqArea {
    pub cpu_id_start: u32,
    /// The CPU, or a negative value while the thread is not registered.
    pub cpu_id: u32,
    /// Address of the descriptor of the section the thread is in. Ours to write.
    pub rseq_cs: u64,
    /// Whether time slice extensions can be had, and are turned on, from Linux 7.0.
    pub flags: u32,
    pub node_id: u32,
    /// The concurrency id, from Linux 6.3; 0 while not registered.
    pub mm_cid: u32,
    /// Request and grant of a time slice extension, see `slice`.
    pub slice_ctrl: u32,
}

pub const RSEQ_CS_AT: usize = offset_of!(RseqArea, rseq_cs);
pub const MM_CID_AT: usize = offset_of!(RseqArea, mm_cid);
pub const CPU_ID_AT: usize = offset_of!(RseqArea, cpu_id);
pub const FLAGS_AT: usize = offset_of!(RseqArea, flags);
pub const SLICE_CTRL_AT: usize = offset_of!(RseqArea, slice_ctrl);
/// The kernel offers `mm_cid` if its feature size reaches past the field.
pub const MM_CID_FEATURE_BYTES: usize = MM_CID_AT + 4;
/// It knows time slice extensions if its feature size is at least this.
pub const SLICE_FEATURE_BYTES: usize = SLICE_CTRL_AT + 4;

/// The four bytes before every abort address. glibc registers the same.
#[cfg(target_arch = "x86_64")]
pub const SIGNATURE: u32 = 0x5305_3053;
#[cfg(target_arch = "aarch64")]
pub const SIGNATURE: u32 = 0xd428_bc00;

const AT_RSEQ_FEATURE_SIZE: libc::c_ulong = 27;
const AT_RSEQ_ALIGN: libc::c_ulong = 28;
/// What kernels register that say nothing in the auxiliary vector. A longer
/// registration is what turns V2 on.
pub const ORIGINAL_BYTES: usize = 32;
const UNREGISTER: libc::c_int = 1;

/// The C library's `__rseq_size` and `__rseq_offset`, if it has them.
///
/// Returns None with a C library that knows nothing of rseq, and where the
/// tunable `glibc.pthread.rseq=0` has turned it off (size 0).
pub fn libc_area() -> Option<(u32, isize)> {
    let size = weak_address!("__rseq_size").cast::<u32>();
    let offset = weak_address!("__rseq_offset").cast::<isize>();
    // SAFETY: null, or the C library's constants.
    unsafe {
        if size.is_null() || offset.is_null() || *size == 0 {
            return None;
        }
        Some((*size, *offset))
    }
}

/// The length that the C library registers its areas with, 0 for none: the
/// original one, whatever smaller size it tells, or what it tells.
pub fn libc_bytes() -> usize {
    libc_area().map_or(0, |(size, _)| (size as usize).max(ORIGINAL_BYTES))
}

/// This thread's area as the C library registered it, if it did.
pub fn libc_registered() -> Option<*mut RseqArea> {
    let (_, offset) = libc_area()?;
    let area =
        with_exposed_provenance_mut::<RseqArea>(thread::pointer().wrapping_add_signed(offset));
    // SAFETY: the C library promises an area of every thread at this offset.
    let cpu = unsafe { (&raw const (*area).cpu_id).read_volatile() };
    ((cpu as i32) >= 0).then_some(area)
}

/// What the kernel says of its rseq.
#[derive(Clone, Copy, Debug)]
pub struct KernelRseq {
    /// Bytes of `struct rseq` that the kernel fills; 0 before Linux 6.3.
    pub feature_bytes: usize,
    pub align_bytes: usize,
}

impl KernelRseq {
    pub fn read() -> KernelRseq {
        KernelRseq {
            feature_bytes: sys::auxv(AT_RSEQ_FEATURE_SIZE),
            align_bytes: sys::auxv(AT_RSEQ_ALIGN).max(ORIGINAL_BYTES),
        }
    }

    pub fn has_mm_cid(&self) -> bool {
        self.feature_bytes >= MM_CID_FEATURE_BYTES
    }

    /// The length of our own registration: the original 32 bytes, or the
    /// feature size where it is larger, which is what turns V2 on.
    pub fn own_bytes(&self) -> usize {
        self.feature_bytes.max(ORIGINAL_BYTES)
    }

    /// Whether the kernel treats a registration of this length as V2. Those that
    /// have the mode tell of fields beyond the original length.
    pub fn is_v2(&self, len_bytes: usize) -> bool {
        self.feature_bytes > ORIGINAL_BYTES && len_bytes >= self.feature_bytes
    }
}

/// Registers `area` for the calling thread.
///
/// # Safety
/// `area` is `len_bytes` long, aligned as the kernel wants, used by no other
/// thread, and is never unmapped.
pub unsafe fn register(area: *mut RseqArea, len_bytes: usize) -> Result<(), sys::Errno> {
    // SAFETY: the caller's duty.
    unsafe {
        (&raw mut (*area).cpu_id).write_volatile(u32::MAX);
        (&raw mut (*area).rseq_cs).write_volatile(0);
        sys::rseq(area as usize, len_bytes as u32, 0, SIGNATURE).map(drop)
    }
}

/// Takes back the calling thread's registration of `area`. Then the area's ids
/// read as those of a thread that has none, but for `mm_cid`, see [`abandon`].
///
/// # Safety
/// Whoever uses the area looks at `cpu_id` first, as the ABI has it.
pub unsafe fn unregister(area: *mut RseqArea, len_bytes: usize) -> Result<(), sys::Errno> {
    // SAFETY: the kernel writes the ids of an area that it knows to be registered.
    unsafe { sys::rseq(area as usize, len_bytes as u32, UNREGISTER, SIGNATURE).map(drop) }
}

/// Marks an area that the calling thread has unregistered for good. The kernel
/// leaves 0 in `mm_cid`, which is somebody's id: a section of the area's other
/// user that has read 0 before, and compares now, must find that it is not so.
///
/// # Safety
/// The area is this thread's, and not registered.
pub unsafe fn abandon(area: *mut RseqArea) {
    // SAFETY: the caller's duty.
    unsafe { (&raw mut (*area).mm_cid).write_volatile(u32::MAX) }
}
