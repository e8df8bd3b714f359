//! Looking at addresses of which nothing is known.

#![allow(unsafe_code)]

use crate::os::machine::read_file;
use crate::os::sys;

/// The two words at an address; `None` where they cannot be read.
pub fn peek(addr: usize) -> Option<[usize; 2]> {
    let mut words = [0; 2];
    match sys::read_own_memory(addr, &mut words) {
        Ok(n) if n == size_of_val(&words) => Some(words),
        // Sandboxes refuse the call: ask whether the address is good, then look.
        Err(libc::EPERM | libc::ENOSYS | libc::EACCES) if sys::is_readable(addr) => {
            // SAFETY: readable a moment ago; the words do not cross a page where
            // the address is aligned to both.
            (addr % size_of_val(&words) == 0).then(|| unsafe {
                core::ptr::with_exposed_provenance::<[usize; 2]>(addr).read_volatile()
            })
        }
        _ => None,
    }
}

/// Where the process's break is now.
pub fn current_break() -> usize {
    sys::current_break()
}

/// Where the process's break was at its start; `None` without /proc.
pub fn first_break() -> Option<usize> {
    /// Fields between the one behind the name, and start_brk; see proc(5).
    const FIELDS_BEFORE: usize = 44;
    let mut buffer = [0; 1024];
    let text = read_file(c"/proc/self/stat", &mut buffer)?;
    let name_end = text.iter().rposition(|b| *b == b')')?;
    let mut fields = text.get(name_end + 2..)?.split(|b| *b == b' ');
    let digits = fields.nth(FIELDS_BEFORE)?;
    digits.iter().try_fold(0usize, |n, b| {
        let digit = b.checked_sub(b'0').filter(|d| *d < 10)?;
        n.checked_mul(10)?.checked_add(digit as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel")]
    fn words_are_read_where_there_are_any() {
        let words = [3usize, 5];
        assert_eq!(peek(&raw const words as usize), Some(words));
        assert_eq!(peek(0), None);
        assert_eq!(peek(usize::MAX - 64), None);
        assert!(sys::is_readable(&raw const words as usize) && !sys::is_readable(16));
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel")]
    fn the_break_lies_where_the_maps_say() {
        let first = first_break().unwrap();
        assert!(first > 0 && first <= current_break());
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        if let Some(heap) = maps.lines().find(|line| line.ends_with("[heap]")) {
            let start = usize::from_str_radix(heap.split('-').next().unwrap(), 16).unwrap();
            assert_eq!(start, first);
        }
    }
}
