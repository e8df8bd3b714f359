//! A range of address space that is mapped from its base upwards as it is used.

#![allow(unsafe_code)]

use crate::os::sys;

/// The range `[base, base + limit)`, mapped up to `base + mapped`.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    pub base: usize,
    pub mapped_bytes: usize,
    limit_bytes: usize,
    step_bytes: usize,
    /// The range is reserved, so that mapping over it hits nobody.
    reserved: bool,
}

/// How many foreign mappings in the way are stepped over, each step twice the last.
const HOLES: usize = 24;
const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

impl Region {
    pub const EMPTY: Region =
        Region { base: 0, mapped_bytes: 0, limit_bytes: 0, step_bytes: 1, reserved: false };

    pub fn new(base: usize, limit_bytes: usize, step_bytes: usize, reserved: bool) -> Region {
        Region { base, mapped_bytes: 0, limit_bytes, step_bytes, reserved }
    }

    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// Makes the first `len_bytes` usable; false when there is no memory or
    /// the place is taken.
    pub fn ensure(&mut self, len_bytes: usize) -> bool {
        if len_bytes <= self.mapped_bytes {
            return true;
        }
        if len_bytes > self.limit_bytes {
            return false;
        }
        let target = len_bytes.next_multiple_of(self.step_bytes).min(self.limit_bytes);
        let (from, len) = (self.base + self.mapped_bytes, target - self.mapped_bytes);
        let done = map_at(from, len, self.reserved).is_ok();
        if done {
            self.mapped_bytes = target;
        }
        done
    }

    /// Maps `len_bytes` more, past whatever somebody else has mapped in the way,
    /// and returns their offset. Holes that this leaves are never used.
    pub fn extend(&mut self, len_bytes: usize) -> Option<usize> {
        let mut offset = self.mapped_bytes;
        let mut hole = self.step_bytes;
        for _ in 0..HOLES {
            let end = offset.checked_add(len_bytes).filter(|end| *end <= self.limit_bytes)?;
            match map_at(self.base + offset, len_bytes, self.reserved) {
                Ok(()) => {
                    self.mapped_bytes = end;
                    return Some(offset);
                }
                Err(libc::EEXIST) => {
                    offset = offset.checked_add(hole)?;
                    hole = hole.checked_mul(2)?;
                }
                Err(_) => return None,
            }
        }
        None
    }

    /// Undoes the last [`Region::extend`], to `offset` from where it was `before`.
    /// A reservation stays mapped, for whoever made it to give back whole: a hole
    /// in it could become somebody else's, and be mapped over later.
    pub fn retract(&mut self, before: usize, offset: usize) {
        if self.mapped_bytes > offset && !self.reserved {
            // SAFETY: mapped by this region, and nobody has used it yet.
            let _ = unsafe { sys::munmap(self.base + offset, self.mapped_bytes - offset) };
        }
        self.mapped_bytes = before;
    }

    /// Gives all back; for a layout that could not be completed.
    pub fn unmap(&mut self) {
        self.retract(0, 0);
    }
}

fn map_at(addr: usize, len_bytes: usize, reserved: bool) -> Result<(), sys::Errno> {
    let fixed = if reserved { libc::MAP_FIXED } else { sys::MAP_FIXED_NOREPLACE };
    // SAFETY: over our own reservation, or where nothing is mapped.
    match unsafe { sys::mmap(addr, len_bytes, READ_WRITE, fixed | libc::MAP_NORESERVE) } {
        Ok(at) if at == addr => Ok(()),
        Ok(elsewhere) => {
            // A kernel before 4.17 takes the address as a hint only.
            // SAFETY: the mapping just made.
            let _ = unsafe { sys::munmap(elsewhere, len_bytes) };
            Err(libc::EEXIST)
        }
        Err(error) => Err(error),
    }
}
