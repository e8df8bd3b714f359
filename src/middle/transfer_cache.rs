//! Transfer caches: per class, a stack of objects between the slabs and the
//! central list, so that what one CPU frees another takes without touching spans.
//!
//! A class has no room here at first. Each batch that finds none makes room for
//! one more, up to a limit in bytes; what lies unused goes home at the
//! heartbeat, and the room with it.

#![allow(unsafe_code)]

use crate::census::{Broken, Kind};
use crate::middle::central_free_list;
use crate::os::lock::{Lock, Rank};
use crate::os::sys;
use crate::size_class::{self, BATCH_OBJECTS};
use crate::units::ClassId;
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

/// Slots of a class, at the most: a 16 KiB stretch of the table.
const SLOTS: usize = 2048;
/// What a class may keep here, in bytes of objects.
const KEEP_BYTES: usize = 512 << 10;
/// Batches that go straight to the central list before room is made: a program
/// that overflows a few times needs no transfer cache.
const PATIENCE: u32 = 4;

/// Invariant: `low <= len <= room`, and `room` is within the class's slots.
#[derive(Debug)]
pub struct Transfer {
    len: usize,
    room: usize,
    /// The least `len` since the last heartbeat.
    low: usize,
    refused: u32,
}

#[derive(Debug)]
#[repr(align(128))]
struct PerClass(Lock<Transfer>);

static TRANSFER: [PerClass; size_class::COUNT] =
    [const { PerClass(Lock::new(Rank::Transfer, Transfer::EMPTY)) }; size_class::COUNT];

/// The table of slots, mapped when the first class gets room: many programs need
/// none. 0 before, and while there is no memory for it: no transfer caches.
static SLOTS_BASE: AtomicUsize = AtomicUsize::new(0);

/// Maps the table of slots; touched only where a class uses it.
pub fn start() {
    let len = size_class::COUNT * SLOTS * size_of::<usize>();
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping.
    let Ok(at) = (unsafe { sys::mmap(0, len, prot, libc::MAP_NORESERVE) }) else { return };
    // Relaxed: a class has room only after a thread with its lock has seen the base.
    if SLOTS_BASE.compare_exchange(0, at, Relaxed, Relaxed).is_err() {
        // SAFETY: the mapping just made; another class was faster.
        let _ = unsafe { sys::munmap(at, len) };
    }
}

fn slots(class: ClassId) -> *mut usize {
    let base: *mut usize = with_exposed_provenance_mut(SLOTS_BASE.load(Relaxed));
    base.wrapping_add(class.index() * SLOTS)
}

/// The most objects a class keeps here.
fn most(class: ClassId) -> usize {
    (KEEP_BYTES / size_class::info(class).size_bytes as usize).min(SLOTS)
}

/// The lock of a class's cache.
pub fn of(class: ClassId) -> &'static Lock<Transfer> {
    // A ClassId is below COUNT.
    &TRANSFER[class.index()].0
}

/// Fills the start of `out` from the cache; how many.
pub fn take(class: ClassId, out: &mut [usize]) -> usize {
    let mut cache = of(class).lock();
    let count = out.len().min(cache.len);
    cache.len -= count;
    cache.low = cache.low.min(cache.len);
    // SAFETY: the slots from `len` on hold objects, and the lock is held.
    unsafe {
        let from = slots(class).add(cache.len);
        core::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), count);
    }
    count
}

/// Keeps the first objects as far as there is room; how many.
pub fn give(class: ClassId, objects: &[usize]) -> usize {
    let mut cache = of(class).lock();
    if cache.room - cache.len < objects.len() {
        cache.make_room(class, objects.len());
    }
    let count = objects.len().min(cache.room - cache.len);
    // SAFETY: `room` is within the class's slots, and the lock is held.
    unsafe {
        let to = slots(class).add(cache.len);
        core::ptr::copy_nonoverlapping(objects.as_ptr(), to, count);
    }
    cache.len += count;
    count
}

/// Sends home half of what nobody has needed since the last call, and gives up
/// the room for it.
pub fn release_idle(class: ClassId) {
    let idle = of(class).lock().low / 2;
    let sent = send_home(class, idle);
    let mut cache = of(class).lock();
    // Another release may have given the room up already.
    cache.room = cache.room.saturating_sub(sent).max(cache.len);
    cache.low = cache.len;
}

/// Sends everything home, and gives up all room.
pub fn release_all(class: ClassId) {
    send_home(class, usize::MAX);
    let mut cache = of(class).lock();
    cache.room = cache.len;
    cache.low = cache.len;
}

/// Sends up to `most` objects home; how many.
fn send_home(class: ClassId, most: usize) -> usize {
    let mut batch = [0; BATCH_OBJECTS / 4]; // the stack may hold a batch already
    let mut sent = 0;
    while sent < most {
        let wanted = (most - sent).min(batch.len());
        let got = take(class, batch.get_mut(..wanted).unwrap_or_default());
        if got == 0 {
            break;
        }
        central_free_list::give(class, batch.get(..got).unwrap_or_default());
        sent += got;
    }
    sent
}

impl Transfer {
    const EMPTY: Transfer = Transfer { len: 0, room: 0, low: 0, refused: 0 };

    /// Checks the counts.
    pub fn verify(&self, class: ClassId, found: &mut Broken) {
        let right = self.low <= self.len && self.len <= self.room && self.room <= most(class);
        found.check(right, Kind::TransferCounts, class, 0);
    }

    /// The objects that the cache of the class holds.
    pub fn objects(&self, class: ClassId) -> &[usize] {
        match SLOTS_BASE.load(Relaxed) {
            0 => &[],
            // SAFETY: that many slots hold objects, and the caller has the lock.
            _ => unsafe { core::slice::from_raw_parts(slots(class), self.len.min(SLOTS)) },
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// A fault for the walk's test: a call plants it, another takes it out.
    #[cfg(test)]
    pub fn plant(&mut self) {
        self.room ^= 1 << 20;
    }

    fn make_room(&mut self, class: ClassId, wanted: usize) {
        self.refused = self.refused.saturating_add(1);
        if self.refused <= PATIENCE {
            return;
        }
        if SLOTS_BASE.load(Relaxed) == 0 {
            start();
            if SLOTS_BASE.load(Relaxed) == 0 {
                return;
            }
        }
        let room = (self.room + wanted).min(most(class));
        self.room = room.max(self.room);
    }
}
