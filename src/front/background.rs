//! The background thread, an option: the heartbeat for programs that make no
//! call at all for long.
//!
//! It sleeps until much memory waits to go back, then beats until that is done.
//! It is made by our constructor, as a thread made in a slow path could wait for
//! locks that the slow path's caller holds; and again in a forked child.

#![allow(unsafe_code)]

use crate::back::page_heap::release::MEMORY_WAITS;
use crate::front::heartbeat;
use crate::front::process::{self, Process};
use crate::os::thread::Inside;
use crate::os::weak::weak_address;
use crate::os::{environment, sys};
use core::ffi::{c_int, c_void};
use core::ptr::{null, null_mut};
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicU32, fence};

const OPTION: &[u8] = b"CIDALLOC_BACKGROUND=";
static RUNNING: AtomicBool = AtomicBool::new(false);
/// The futex that the thread sleeps on: 1 while it does, or is about to.
static ASLEEP: AtomicU32 = AtomicU32::new(0);

/// Signals that the C libraries keep for themselves (setuid, cancellation), by
/// bit: they must reach every thread. All others stay away from this one.
const OF_THE_LIBRARY: u64 = 0b111 << 31;

type Start = extern "C" fn(*mut c_void) -> *mut c_void;
type PthreadCreate = extern "C" fn(*mut usize, *const c_void, Start, *mut c_void) -> c_int;

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

/// Makes the thread, if the option asks for it and there is none.
pub extern "C" fn start() {
    // A program that makes no block is not initialised for the question alone.
    let asked = process::peek().is_some() || environment::has(OPTION);
    let wanted = asked && process::get().is_some_and(|process| process.config.background);
    let create = weak_address!("pthread_create");
    if !wanted || create.is_null() || RUNNING.swap(true, Relaxed) {
        return;
    }
    // SAFETY: the C library's function of that name.
    let create = unsafe { core::mem::transmute::<*const (), PthreadCreate>(create) };
    let before = sys::block_signals(!OF_THE_LIBRARY);
    let mut id = 0;
    if create(&raw mut id, null(), run, null_mut()) != 0 {
        RUNNING.store(false, Relaxed);
    }
    sys::set_signals(before);
}

/// In a forked child, where the thread has not come along.
pub fn after_fork() {
    if RUNNING.swap(false, Relaxed) {
        start();
    }
}

/// Whether there is a thread; and wakes it if it sleeps.
#[inline]
pub fn takes_over() -> bool {
    if !RUNNING.load(Relaxed) {
        return false;
    }
    // With the fence in `run`: either the thread sees that memory waits, or we
    // see that it sleeps.
    fence(SeqCst);
    if ASLEEP.load(Relaxed) == 1 && ASLEEP.swap(0, Relaxed) == 1 {
        sys::futex_wake(&ASLEEP, 1);
    }
    true
}

extern "C" fn run(_: *mut c_void) -> *mut c_void {
    let Some(process) = process::get() else { return null_mut() };
    loop {
        ASLEEP.store(1, Relaxed);
        fence(SeqCst);
        while !MEMORY_WAITS.load(Relaxed) && ASLEEP.load(Relaxed) == 1 {
            sys::futex_wait(&ASLEEP, 1);
        }
        ASLEEP.store(0, Relaxed);
        while MEMORY_WAITS.load(Relaxed) {
            pause(process);
            if let Some(_inside) = Inside::enter() {
                heartbeat::beat(process);
            }
        }
    }
}

/// Sleeps until the next beat is due.
fn pause(process: &Process) {
    sys::sleep_ms(heartbeat::due_ms(process).max(1));
}
