//! A thread's first slow path: seeing to its registration, so that from then
//! on its fast paths reach the slabs.

#![allow(unsafe_code)]

use crate::back::page_heap::PAGE_HEAP;
use crate::census::{Broken, Kind};
use crate::front::process::{Index, Process, Registration};
use crate::front::slab::SLABS;
use crate::front::take_over::{self, Outcome};
use crate::os::lock::{Lock, Rank};
use crate::os::rseq::{self, CPU_ID_AT, KernelRseq, MM_CID_AT, RseqArea};
use crate::os::thread::{self, State, ThreadWords};
use crate::os::{slice, sys};
use crate::units::ClassId;
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicU32, compiler_fence};

/// Threads taken in since start. A statistic, and who comes second.
pub static TAKEN_IN: AtomicU32 = AtomicU32::new(0);
static NEXT_SHARD: AtomicU32 = AtomicU32::new(0);

/// Gives this thread its words.
///
/// The order of the writes matters to a signal handler only: `slabs` is last,
/// and until then the handler's allocations take a slow path of their own.
#[cold]
pub fn take_in(process: &Process, words: &mut ThreadWords) {
    if TAKEN_IN.fetch_add(1, Relaxed) == 1 {
        // The second thread: from now on somebody may wait for a lock's holder.
        slice::offer(process.slices().unwrap_or(slice::Mode::Off));
    }
    let registered = process.in_sections() && registered(process, words);
    if !registered {
        let shard = NEXT_SHARD.fetch_add(1, Relaxed) % process.shards;
        words.shard = process.cids + shard;
        words.state = State::Shards;
        return;
    }
    words.shard = process.cids; // for the time the thread is lent
    words.index = words.rseq + if process.index == Index::MmCid { MM_CID_AT } else { CPU_ID_AT };
    words.state = State::Sections;
    compiler_fence(SeqCst);
    admit(process, words);
}

/// Lets a thread's fast paths reach the slabs, if it may.
pub fn admit(process: &Process, words: &mut ThreadWords) {
    if words.state == State::Sections && !process.config.sees_all() {
        words.slabs = SLABS.load(Relaxed); // published by the process's initialisation
    }
}

/// Finds or makes this thread's registration and sets `words.rseq`.
fn registered(process: &Process, words: &mut ThreadWords) -> bool {
    if words.rseq != 0 {
        return true; // registered by the process's initialisation
    }
    let Some(area) = rseq::libc_registered() else {
        return register_own(words, &process.kernel);
    };
    if process.registration == Registration::Taken {
        match take_over::take_over(words, &process.kernel, area) {
            Outcome::Taken => return true,
            Outcome::Kept => {}
            Outcome::Lost => return false,
        }
    }
    words.rseq = area as usize;
    true
}

/// Our own areas: permanent records that pass from dead threads to new ones.
///
/// The memory is never unmapped, so a thread needs no hook at its end: the
/// kernel forgets the area when the thread is gone, and never writes it again.
#[repr(C, align(128))]
struct OwnArea {
    /// `struct rseq`, as the kernel defines it, and room for it to grow.
    area: RseqArea,
    grown: [u8; 64],
    tid: u32,
    /// The next area ever made, as an address; 0 ends the list.
    next: usize,
}
const _: () = assert!(size_of::<OwnArea>() <= 128);

#[derive(Debug)]
struct OwnAreas {
    first: usize,
    count: u32,
    /// Look for areas of dead threads when there are this many.
    search_at: u32,
}

/// Ranked with the page heap's callers, as it takes records from it.
static AREAS: Lock<OwnAreas> =
    Lock::new(Rank::Slab, OwnAreas { first: 0, count: 0, search_at: 16 });

/// Registers this thread with an area of ours; false if the kernel refuses.
pub fn register_own(words: &mut ThreadWords, kernel: &KernelRseq) -> bool {
    Unregistered::get(kernel).is_some_and(|own| own.register(words, kernel))
}

/// An area of ours that this thread has got, to register it or to give it back.
#[derive(Debug)]
pub struct Unregistered(*mut OwnArea);

impl Unregistered {
    /// `None` without memory, and where the kernel wants more than an area has.
    pub fn get(kernel: &KernelRseq) -> Option<Unregistered> {
        if kernel.own_bytes() > size_of::<RseqArea>() + 64 || kernel.align_bytes > 128 {
            return None;
        }
        AREAS.lock().get(sys::gettid()).map(Unregistered)
    }

    /// False if the kernel refuses; then the area is given back.
    pub fn register(self, words: &mut ThreadWords, kernel: &KernelRseq) -> bool {
        // SAFETY: a permanent record, this thread's alone.
        let area = unsafe { &raw mut (*self.0).area };
        // SAFETY: the area is long and aligned enough, and is never unmapped.
        if unsafe { rseq::register(area, kernel.own_bytes()) }.is_err() {
            self.give_back();
            return false;
        }
        words.rseq = area as usize;
        true
    }

    pub fn give_back(self) {
        // SAFETY: a permanent record, this thread's alone until now.
        unsafe { (*self.0).tid = 0 };
    }
}

/// Checks the list of areas.
///
/// # Safety
/// The caller holds the areas' lock.
pub unsafe fn verify(found: &mut Broken) {
    // SAFETY: the caller's duty.
    let areas = unsafe { &*AREAS.value() };
    let (mut at, mut count) = (areas.first, 0);
    while at != 0 && at % align_of::<OwnArea>() == 0 && count < areas.count {
        count += 1;
        // SAFETY: a permanent record.
        at = unsafe { (*with_exposed_provenance_mut::<OwnArea>(at)).next };
    }
    found.check(at == 0, Kind::RseqAreas, ClassId::NONE, at);
    found.same(Kind::RseqAreas, ClassId::NONE, 0, areas.count as usize, count as usize);
}

/// A fault for the walk's test: a call plants it, another takes it out.
#[cfg(test)]
pub fn plant() {
    AREAS.lock().count ^= 1;
}

/// Takes the areas' lock around fork.
pub fn hold() {
    AREAS.acquire();
}

/// # Safety
/// [`hold`] was called by this thread.
pub unsafe fn unhold() {
    // SAFETY: the caller's duty.
    unsafe { AREAS.release() }
}

/// After fork: the area of the child's only thread belongs to its new id. Takes
/// no lock: there is no other thread, and this one may hold it.
pub fn after_fork(words: &ThreadWords) {
    // SAFETY: as said; the list is only ever added to, at its front.
    let mut at = unsafe { (*AREAS.value()).first };
    while at != 0 {
        let own: *mut OwnArea = with_exposed_provenance_mut(at);
        // SAFETY: a permanent record.
        unsafe {
            if &raw const (*own).area as usize == words.rseq {
                (*own).tid = sys::gettid();
            }
            at = (*own).next;
        }
    }
}

impl OwnAreas {
    /// An area for the thread: one it left behind under the same id, one of a
    /// dead thread, or a new one.
    fn get(&mut self, tid: u32) -> Option<*mut OwnArea> {
        if self.count >= self.search_at {
            if let Some(own) = self.find_dead(tid) {
                return Some(own);
            }
            self.search_at = self.count * 2;
        }
        let own: *mut OwnArea = with_exposed_provenance_mut(PAGE_HEAP.lock().permanent_record()?);
        // SAFETY: a fresh zero record of that size and alignment.
        unsafe {
            (*own).tid = tid;
            (*own).next = self.first;
        }
        self.first = own as usize;
        self.count += 1;
        Some(own)
    }

    fn find_dead(&mut self, tid: u32) -> Option<*mut OwnArea> {
        let mut at = self.first;
        while at != 0 {
            let own: *mut OwnArea = with_exposed_provenance_mut(at);
            // SAFETY: a permanent record; its thread does not touch `tid`.
            unsafe {
                // This very id asks, so its last thread with an area is dead.
                if (*own).tid == tid || (*own).tid == 0 || !sys::thread_exists((*own).tid) {
                    (*own).tid = tid;
                    return Some(own);
                }
                at = (*own).next;
            }
        }
        None
    }
}

/// This thread's words, taken in.
#[inline]
pub fn words(process: &Process) -> &'static mut ThreadWords {
    // SAFETY: the thread's own words; they live as long as it does.
    let words = unsafe { &mut *thread::words() };
    if words.state == State::Unseen {
        take_in(process, words);
    }
    words
}
