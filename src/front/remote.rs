//! Stopping other cids: emptying slabs whose owners may be running.
//!
//! 1. Under the slabs' locks every header is stopped by one plain store; a
//!    stopped header turns every section away, whatever `cur` it has read.
//! 2. One fence for all aborts the sections that read the limits before.
//! 3. The slabs are quiet: their tops are true, and their objects go home.
//! 4. The headers stay stopped. The next thread to miss on the cid gives its
//!    classes slots again, in a section that has checked the cid.
//!
//! Locks: the slabs' in rising order, held together, then the middle's.

#![allow(unsafe_code)]

use crate::front::cpu_cache::{Slab, state};
use crate::front::process::{self, Process};
use crate::front::slab::{STOPPED, header};
use crate::units::{Cid, ClassId};
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

/// Slabs stopped since start.
pub static STOPS: AtomicU32 = AtomicU32::new(0);

/// Sends home what the wanted slabs hold; how many slabs.
pub fn drain(process: &Process, wanted: impl Fn(Cid, &Slab) -> bool) -> u32 {
    let mut stopped = 0;
    let mut held = Held::NONE;
    for cid in (0..process.slabs()).map(Cid) {
        let lock = state(cid);
        lock.acquire();
        // SAFETY: the lock is held.
        let slab = unsafe { &mut *lock.value() };
        if !slab.open || !wanted(cid, slab) {
            // SAFETY: acquired above.
            unsafe { lock.release() };
            continue;
        }
        if !held.insert(cid) {
            // SAFETY: acquired above.
            unsafe { lock.release() };
            break; // the rest another time
        }
        stopped += 1;
        stop_headers(cid);
    }
    if stopped == 0 {
        return 0;
    }
    STOPS.fetch_add(stopped, Relaxed); // a statistic
    // Without the fence nothing may be taken: the slabs stay stopped and whole,
    // and their owners revive them.
    let quiet = !process.in_sections() || process::fence();
    for cid in held.iter() {
        let lock = state(cid);
        // SAFETY: acquired above.
        let slab = unsafe { &mut *lock.value() };
        if quiet {
            slab.empty(cid);
        }
        // SAFETY: acquired above.
        unsafe { lock.release() };
    }
    if quiet { stopped } else { 0 }
}

/// Stops all headers in use and takes nothing, so that no fence is needed: the
/// next operation of each class misses once.
pub fn stop(process: &Process) {
    for cid in (0..process.slabs()).map(Cid) {
        let slab = state(cid).lock();
        if slab.open {
            stop_headers(cid);
        }
    }
}

/// Turns all sections away from a slab; the caller holds its lock.
fn stop_headers(cid: Cid) {
    for class in ClassId::all() {
        header(cid, class).store_limits(STOPPED);
    }
}

/// The slabs whose locks a drain holds: at most this many at once.
struct Held {
    cids: [u32; 64],
    len: usize,
}

impl Held {
    const NONE: Held = Held { cids: [0; 64], len: 0 };

    fn insert(&mut self, cid: Cid) -> bool {
        match self.cids.get_mut(self.len) {
            Some(slot) => {
                *slot = cid.0;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    fn iter(&self) -> impl Iterator<Item = Cid> + '_ {
        self.cids.iter().take(self.len).map(|cid| Cid(*cid))
    }
}
