//! The environment, without `getenv`: other libraries wrap it, and allocate.

#![allow(unsafe_code)]

use crate::os::sys;
use core::ffi::{CStr, c_char};
use core::ptr::with_exposed_provenance_mut;

unsafe extern "C" {
    /// The C library's; null until it has initialised itself.
    static environ: *const *const c_char;
}

/// Calls `f` with each "NAME=value" entry whose name starts with `prefix`.
///
/// Before the C library is up (its loader already allocates) the entries come
/// from /proc/self/environ.
pub fn each(prefix: &[u8], mut f: impl FnMut(&[u8], &[u8])) {
    let mut visit = |entry: &[u8]| {
        if let Some((name, value)) = split(entry, prefix) {
            f(name, value);
        }
    };
    // SAFETY: the C library's own pointer to a null-terminated array of C strings.
    unsafe {
        let mut entry = environ;
        if entry.is_null() {
            return each_of_proc(visit);
        }
        while !(*entry).is_null() {
            visit(CStr::from_ptr(*entry).to_bytes());
            entry = entry.add(1);
        }
    }
}

/// Whether an entry starts with `prefix`.
pub fn has(prefix: &[u8]) -> bool {
    let mut found = false;
    each(prefix, |_, _| found = true);
    found
}

/// The name and the value of an entry whose name starts with `prefix`.
pub fn split<'a>(entry: &'a [u8], prefix: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = entry.iter().position(|&b| b == b'=').filter(|_| entry.starts_with(prefix))?;
    let (name, value) = entry.split_at(at);
    Some((name, value.get(1..).unwrap_or_default()))
}

/// As much of /proc/self/environ as this is looked at.
const PROC_BYTES: usize = 256 << 10;

fn each_of_proc(mut visit: impl FnMut(&[u8])) {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, unmapped below.
    let Ok(at) = (unsafe { sys::mmap(0, PROC_BYTES, prot, 0) }) else { return };
    // SAFETY: the mapping just made, used by nobody else.
    let buffer =
        unsafe { core::slice::from_raw_parts_mut(with_exposed_provenance_mut(at), PROC_BYTES) };
    let mut used = 0;
    if let Ok(fd) = sys::open_read(c"/proc/self/environ") {
        while let Some(rest) = buffer.get_mut(used..).filter(|r| !r.is_empty()) {
            match sys::read(fd, rest) {
                Ok(n) if n > 0 => used += n,
                _ => break,
            }
        }
        sys::close(fd);
    }
    buffer.get(..used).unwrap_or_default().split(|&b| b == 0).for_each(&mut visit);
    // SAFETY: nothing refers to the mapping any more.
    let _ = unsafe { sys::munmap(at, PROC_BYTES) };
}
