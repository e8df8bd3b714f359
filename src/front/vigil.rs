//! Time for threads whose operations all hit.
//!
//! Fast paths look at no clock: in a program that needs nothing new the heartbeat
//! would stand still, and what was freed would stay. While much free memory
//! waits to go back, threads are *on watch*: their words have no slabs, so every
//! operation misses. The miss does it in a section all the same, and after a
//! number of them the thread looks at the clock. Threads whose operations come
//! rarely look each time.
//!
//! A thread goes on watch in a slow path of its own, as only it may write its
//! words. Others are brought to one by stopping all headers once a beat.

#![allow(unsafe_code)]

use crate::back::page_heap::MEMORY_WAITS;
use crate::front::process::Process;
use crate::front::{background, cpu_cache, heartbeat, remote, take_in};
use crate::os::sys;
use crate::os::thread::{self, State, ThreadWords};
use crate::units::ClassId;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

/// Operations of a busy thread between two looks at the clock, and what a miss
/// counts for.
const BUSY_LEFT: u16 = 64;
const MISS_LEFT: u16 = 8;
/// A thread that has not looked for so long does not work much.
const RARE_MS: u16 = 8;
/// The headers were stopped since memory began to wait.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Takes an object for a thread on watch; 0 if it is not, if it should look at
/// the clock, or if there is none.
#[inline]
pub fn pop(class: ClassId) -> usize {
    match on_watch(class) {
        Some(words) => cpu_cache::pop(words, class),
        None => 0,
    }
}

/// Puts an object back for a thread on watch; whether that was done.
///
/// # Safety
/// `object` is a block of the class, the caller's to give up.
#[inline]
pub unsafe fn push(class: ClassId, object: usize) -> bool {
    // SAFETY: the caller's duty.
    on_watch(class).is_some_and(|words| unsafe { cpu_cache::push(words, class, object) })
}

#[inline]
fn on_watch(class: ClassId) -> Option<&'static ThreadWords> {
    // SAFETY: the thread's own words; they live as long as it does. A handler
    // that comes in between makes the count wrong by its own operations.
    let words = unsafe { &mut *thread::words() };
    if words.left == 0 || class == ClassId::NONE {
        return None;
    }
    words.left -= 1;
    Some(words)
}

/// At the end of a slow path: puts the thread on watch, or takes it off. The
/// caller holds no lock.
#[inline]
pub fn look(process: &Process, words: &mut ThreadWords) {
    if MEMORY_WAITS.load(Relaxed) {
        watch(process, words);
    } else if words.slabs == 0 {
        words.left = 0;
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
    words.left = words.left.saturating_sub(MISS_LEFT);
    if words.left > 0 {
        return;
    }
    let now = sys::now_ms();
    let since_ms = (now as u16).wrapping_sub(words.looked_ms);
    words.looked_ms = now as u16;
    words.left = if since_ms < RARE_MS { BUSY_LEFT } else { 0 };
    if !STOPPED.swap(true, Relaxed) {
        remote::stop(process);
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
