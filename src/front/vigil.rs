//! Time for threads whose operations all hit.
//!
//! Fast paths look at no clock: in a program that needs nothing new the heartbeat
//! would stand still, and what was freed would stay. While much free memory
//! waits to go back, threads are *on watch*: their words have no slabs, so every
//! operation misses. The miss does it in a section all the same, and after a
//! number of them the thread looks at the clock. Threads whose operations come
//! rarely look each time; one that does very many without a miss needs nothing
//! of what waits, and it goes back at once.
//!
//! A thread goes on watch in a slow path of its own, as only it may write its
//! words. Others are brought to one by stopping all headers once a beat.

#![allow(unsafe_code)]

use crate::back::page_heap::release::MEMORY_WAITS;
use crate::front::process::Process;
use crate::front::slab::{self, SLABS};
use crate::front::{background, heartbeat, remote, sections, take_in};
use crate::os::sys;
use crate::os::thread::{self, State, ThreadWords};
use crate::units::ClassId;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

/// The looks of a busy thread from which on 2 to their power operations pass
/// between two.
const BUSY_FULL: u16 = 7;
/// A thread that has not looked for so long does not work much.
const RARE_MS: u16 = 8;
/// A thread that has looked so often in a row, busy and without a miss, needs
/// nothing of what waits: it goes back at once.
const BUSY_LOOKS: u16 = 512;
/// The headers were stopped since memory began to wait.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Takes an object for a thread on watch; 0 if it is not, if it should look at
/// the clock, or if there is none.
#[inline(always)]
pub fn pop(class: ClassId) -> usize {
    if on_watch() { sections::pop_watched(slab::class_at(class)) } else { 0 }
}

/// Puts an object back for a thread on watch; whether that was done.
///
/// # Safety
/// `object` is a block of the class, the caller's to give up.
#[inline(always)]
pub unsafe fn push(class: ClassId, object: usize) -> bool {
    // SAFETY: the caller's duty.
    on_watch() && unsafe { sections::push_watched(slab::class_at(class), object) }
}

#[inline(always)]
fn on_watch() -> bool {
    // SAFETY: the thread's own words; they live as long as it does. A handler
    // that comes in between makes the count wrong by its own operations.
    let words = unsafe { &mut *thread::words() };
    let more = words.left != 0;
    words.left = words.left.saturating_sub(1);
    more
}

/// At the end of a slow path: puts the thread on watch, or takes it off. The
/// caller holds no lock.
#[inline]
pub fn look(process: &Process, words: &mut ThreadWords) {
    if MEMORY_WAITS.load(Relaxed) {
        watch(process, words);
    } else if words.slabs == 0 {
        (words.left, words.watched) = (0, 0);
        take_in::admit(process, words);
    }
}

#[cold]
fn watch(process: &Process, words: &mut ThreadWords) {
    if background::takes_over() {
        return;
    }
    if words.state != State::Sections || process.config.sees_all() {
        return heartbeat::count_large(process);
    }
    words.slabs = 0;
    words.watched = SLABS.load(Relaxed); // published by the process's initialisation
    if words.left > 0 {
        // A miss: the thread may need what waits.
        words.busy = words.busy.min(BUSY_FULL);
        return;
    }
    let now = sys::now_ms();
    let since_ms = (now as u16).wrapping_sub(words.looked_ms);
    words.looked_ms = now as u16;
    // Ever more from look to look: a few calls in a row are not yet work.
    words.busy = if since_ms < RARE_MS { words.busy + 1 } else { 0 };
    words.left = (1 << words.busy.min(BUSY_FULL)) - 1;
    if !STOPPED.swap(true, Relaxed) {
        remote::stop(process);
    }
    if words.busy >= BUSY_LOOKS {
        words.busy = 0;
        heartbeat::release_soon(process, now);
    }
    heartbeat::beat_at(process, now);
}

/// After a beat: threads that are not on watch will miss once, while memory
/// waits.
pub fn after_beat(process: &Process) {
    let waits = MEMORY_WAITS.load(Relaxed);
    STOPPED.store(waits, Relaxed);
    if waits {
        remote::stop(process);
    }
}
