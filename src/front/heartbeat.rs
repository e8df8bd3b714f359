//! What time does, driven by slow paths: memory that lies unused goes home, and
//! at last to the kernel, without any call by the application.
//!
//! A beat comes every eighth of the decay time at the most. Idle slabs are
//! drained after eight beats; of what else lay unused since the last beat an
//! eighth (transfer caches: half) goes one layer down. While much memory waits to
//! go back, slabs that miss little are drained too: what they keep may be the
//! last blocks of many spans.

use crate::back::page_heap::PAGE_HEAP;
use crate::back::page_heap::release::MEMORY_WAITS;
use crate::front::cpu_cache::state;
use crate::front::process::Process;
use crate::front::{remote, vigil};
use crate::middle::transfer_cache;
use crate::os::sys;
use crate::units::{Cid, ClassId};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

/// Beats in the decay time.
const BEATS: u32 = 8;
/// When the last beat was.
static LAST_MS: AtomicU64 = AtomicU64::new(0);
static BEATING: AtomicBool = AtomicBool::new(false);
/// Large allocations and frees look at the clock now and then: so many until the
/// next look, and when the last one was.
static LARGE_LEFT: AtomicU32 = AtomicU32::new(0);
static LARGE_LOOKED_MS: AtomicU64 = AtomicU64::new(0);
const LARGE_PER_LOOK: u32 = 16;
/// The same where the clock stood still since the last look: the call costs as much
/// as two pairs of large blocks.
const LARGE_PER_BUSY_LOOK: u32 = 64;
/// Beats between two drains of all slabs that miss little, while memory waits,
/// and the misses between them that are little.
const CALM_BEATS: u32 = 4;
const CALM_MISSES: u32 = 64;
/// Beats while memory waited.
static WAITING: AtomicU32 = AtomicU32::new(0);

/// A large allocation or free happened.
pub fn count_large(process: &Process) {
    // Two at once may count as one: a look comes a little later.
    let left = LARGE_LEFT.load(Relaxed);
    if left > 0 {
        return LARGE_LEFT.store(left - 1, Relaxed);
    }
    let now = sys::now_ms();
    let busy = LARGE_LOOKED_MS.load(Relaxed) == now;
    LARGE_LOOKED_MS.store(now, Relaxed);
    let next = if busy { LARGE_PER_BUSY_LOOK } else { LARGE_PER_LOOK };
    LARGE_LEFT.store(next - 1, Relaxed);
    beat_at(process, now);
}

/// Does what is due. The caller holds no lock.
pub fn beat(process: &Process) {
    beat_at(process, sys::now_ms());
}

/// The same for a caller that has looked at the clock.
pub fn beat_at(process: &Process, now: u64) {
    let due = due_ms(process);
    // Relaxed: a wrong answer makes a beat early or late.
    let last = LAST_MS.load(Relaxed);
    if last == 0 {
        // The first look has nothing to compare with; most programs end before
        // the next, and touch no class that they do not use.
        LAST_MS.store(now, Relaxed);
        return;
    }
    if now.saturating_sub(last) < due {
        return;
    }
    // Acquire pairs with the Release below: one beat sees the last one's work.
    if BEATING.swap(true, Acquire) {
        return;
    }
    LAST_MS.store(now, Relaxed);
    let waits = MEMORY_WAITS.load(Relaxed);
    drain_idle(process, waits && WAITING.fetch_add(1, Relaxed) % CALM_BEATS == CALM_BEATS - 1);
    for class in ClassId::all() {
        transfer_cache::release_idle(class);
    }
    let parts = if process.config.decay_ms == 0 { 1 } else { BEATS };
    PAGE_HEAP.lock().look_for_idle(parts);
    while PAGE_HEAP.lock().release_slice() {}
    if waits && !MEMORY_WAITS.load(Relaxed) && drain_idle(process, true) {
        // What was cached may have been the last of many spans.
        ClassId::all().for_each(transfer_cache::release_all);
        PAGE_HEAP.lock().wait_for_rest();
    }
    vigil::after_beat(process);
    BEATING.store(false, Release);
}

/// The time between two beats.
pub fn due_ms(process: &Process) -> u64 {
    u64::from(process.config.decay_ms / BEATS)
}

/// Gives back all that waits, but not more than once in the decay time: it may be
/// needed again.
pub fn release_soon(process: &Process, now: u64) {
    static LAST_MS: AtomicU64 = AtomicU64::new(0);
    // Relaxed: a wrong answer releases once more.
    if now.saturating_sub(LAST_MS.load(Relaxed)) < u64::from(process.config.decay_ms) {
        return;
    }
    LAST_MS.store(now, Relaxed);
    // What is cached may be the last of many spans.
    empty_caches(process);
    PAGE_HEAP.lock().release_all_soon();
    while PAGE_HEAP.lock().release_slice() {}
    vigil::after_beat(process);
}

/// In a forked child: a beat that another thread was in will never end.
pub fn after_fork() {
    BEATING.store(false, Release);
}

/// Empties slabs on which nothing has moved for the decay time, and, when asked,
/// those that have missed little since the last time; whether there were any.
fn drain_idle(process: &Process, calm_too: bool) -> bool {
    let mut idle = 0;
    for cid in (0..process.slabs()).map(Cid) {
        let Some(mut slab) = state(cid).try_lock() else { continue };
        if !slab.open {
            continue;
        }
        let tops = slab.tops(cid);
        if slab.misses == slab.seen_misses && tops == slab.seen_tops {
            slab.quiet_beats += 1;
        } else {
            slab.quiet_beats = 0;
        }
        (slab.seen_misses, slab.seen_tops) = (slab.misses, tops);
        if calm_too {
            if slab.misses.wrapping_sub(slab.round_misses) < CALM_MISSES {
                slab.quiet_beats = BEATS;
            }
            slab.round_misses = slab.misses;
        }
        idle += u32::from(slab.quiet_beats >= BEATS);
    }
    idle > 0 && remote::drain(process, |_, slab| slab.quiet_beats >= BEATS) > 0
}

/// Sends everything free home and back to the kernel, now; whether anything was.
pub fn release_all(process: &Process) -> bool {
    let drained = empty_caches(process);
    let mut heap = PAGE_HEAP.lock();
    let cooled = heap.cool(u32::MAX);
    let released = heap.subrelease(u32::MAX);
    heap.nothing_waits();
    drained + cooled + released > 0
}

/// Sends home what slabs and transfer caches hold; how many slabs held something.
fn empty_caches(process: &Process) -> u32 {
    let drained = remote::drain(process, |_, _| true);
    for class in ClassId::all() {
        transfer_cache::release_all(class);
    }
    drained
}
