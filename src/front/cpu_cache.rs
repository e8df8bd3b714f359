//! What a miss does: refills and overflows, and how much a slab may keep.
//!
//! ```text
//! refill(class)        slab's lock: revive or grow the class ── steal room
//!   middle::take ────── no slab's lock held
//!   push_batch ──────── what does not fit (another cid by now) goes back
//! found_empty(class)   slab's lock: revive or grow; calloc fetches a large block itself
//! overflow(class, o)   slab's lock: revive or grow
//!   push, else pop_batch half of the class and middle::give
//! ```
//! A class has no slots at first, then a few; it gets twice as many when it was full
//! and is empty now, or the reverse (`class_slots`). A class of large blocks must have
//! turned so several times before it has its first: what a program needs once is of more
//! use in the page heap. A slab starts with a small budget and takes more from what all
//! slabs may keep together, at last from a slab that misses less (`budget`). When that is
//! used up, classes that have not missed lately give slots up, and the class gets a batch
//! more (`room`).
//!
//! Locks: the slab's (rank Slab), then the middle's.

#![allow(unsafe_code)]

mod budget;
mod class_slots;
mod room;
pub mod verify;

use crate::front::cpu_cache::budget::{TAKEN_BYTES, cost_of};
use crate::front::cpu_cache::class_slots::{ClassSlots, Miss};
use crate::front::cpu_cache::room::{ARRAY_SIZES, send_home};
use crate::front::process::Process;
use crate::front::slab::{self, FIRST_SLOT, Header, STOPPED, header, slab_addr};
use crate::front::{heartbeat, locked, sections};
use crate::middle::{self, batch::Batch};
use crate::os::lock::{Lock, Rank};
use crate::os::thread::{State, ThreadWords};
use crate::os::{slice, sys};
use crate::size_class;
use crate::units::{Cid, ClassId};
use core::ptr::with_exposed_provenance;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU64, AtomicUsize};

/// Since start; written in slow paths, read as statistics, so relaxed.
pub static REFILLS: AtomicU64 = AtomicU64::new(0);
pub static OVERFLOWS: AtomicU64 = AtomicU64::new(0);
/// Slabs in use.
pub static OPEN_SLABS: AtomicUsize = AtomicUsize::new(0);

/// Misses of a slab between two looks at the clock.
const HEARTBEAT_MISSES: u32 = 64;

/// What is known of a slab beside its memory. Zero bytes: unused.
#[derive(Debug)]
#[repr(C)]
pub struct Slab {
    /// The memory is writable, and objects may be in it.
    pub open: bool,
    /// Where stealing goes on.
    clock: u8,
    pub misses: u32,
    /// Misses when the heartbeat last looked, and what the slab held then.
    pub seen_misses: u32,
    pub seen_tops: u64,
    pub quiet_beats: u32,
    /// Misses when all slabs that miss little were drained last.
    pub round_misses: u32,
    next_slot: u32,
    /// Arrays that classes have left, by the power of two of their slots: the
    /// first one's number, 0 for none. Each begins with the number of the next.
    left: [u32; ARRAY_SIZES],
    budget_bytes: usize,
    used_bytes: usize,
    /// Budget that another slab needs more: given up at the next miss.
    debt_bytes: usize,
    classes: [ClassSlots; size_class::COUNT],
}

/// Separate lines, so that cids do not disturb each other.
#[repr(C, align(128))]
struct Padded(Lock<Slab>);

static STATES: AtomicUsize = AtomicUsize::new(0);

/// Maps the states of `count` slabs.
pub fn start(count: u32) -> Option<()> {
    const { assert!(Rank::Slab as u8 == 0, "zero bytes are an open lock of a slab") };
    let len = (count as usize).checked_mul(size_of::<Padded>())?;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping.
    let at = unsafe { sys::mmap(0, len, prot, libc::MAP_NORESERVE) }.ok()?;
    STATES.store(at, Relaxed); // published by the process's initialisation
    Some(())
}

/// The state of a slab. `cid` is below the process's number of slabs.
pub fn state(cid: Cid) -> &'static Lock<Slab> {
    let first = with_exposed_provenance::<Padded>(STATES.load(Relaxed));
    // SAFETY: mapped for every slab; zero bytes are a valid state.
    unsafe { &(*first.add(cid.0 as usize)).0 }
}

/// How the calling thread changes the slab it is on.
enum Access<'a> {
    Sections(&'a ThreadWords),
    /// The slab's lock is held throughout.
    Lock,
}

impl Access<'_> {
    fn of(words: &ThreadWords) -> Access<'_> {
        match words.state {
            State::Sections => Access::Sections(words),
            _ => Access::Lock,
        }
    }

    /// Writes a header's limits; false if the thread is on another slab now.
    fn set_limits(&self, cid: Cid, header: &Header, limits: u64) -> bool {
        match self {
            Access::Sections(words) => {
                let at = header as *const Header as usize;
                // SAFETY: this thread's words, in state Sections; the slab's lock
                // is held by every caller.
                unsafe { sections::set_limits(words, cid.0, at, limits) }
            }
            Access::Lock => {
                header.store_limits(limits);
                true
            }
        }
    }
}

/// The slab of this thread, as far as one can say outside a section.
fn current(words: &ThreadWords) -> Cid {
    match words.state {
        // SAFETY: a registered thread's id field, which the kernel writes.
        State::Sections => {
            Cid(unsafe { with_exposed_provenance::<u32>(words.index).read_volatile() })
        }
        _ => Cid(words.shard),
    }
}

/// Takes an object of a class without the middle; 0 if there is none. For
/// threads that the fast path turns away.
pub fn pop(words: &ThreadWords, class: ClassId) -> usize {
    let mut one = [0];
    // An aborted section may have left an object in the buffer that it did not
    // take: only the count says.
    if pop_some(words, class, &mut one) == 1 { one[0] } else { 0 }
}

/// Puts an object back without the middle; whether there was room.
///
/// # Safety
/// `object` is a block of the class, the caller's to give up.
pub unsafe fn push(words: &ThreadWords, class: ClassId, object: usize) -> bool {
    push_some(words, class, &[object]) == 1
}

/// Gets an object of a class from the middle, and some for the slab; 0 when
/// there is no memory.
pub fn refill(process: &Process, words: &ThreadWords, class: ClassId) -> usize {
    REFILLS.fetch_add(1, Relaxed);
    let asked = slice::ask();
    let cid = current(words);
    let access = Access::of(words);
    let (batch, beat) = {
        let mut slab = state(cid).lock();
        if slab.missed(process, &access, cid, class, Miss::Empty) {
            drop(slab);
            let object = pop(words, class);
            if object != 0 {
                return object;
            }
            slab = state(cid).lock();
        }
        (slab.next_batch(class), slab.beat())
    };
    let mut room = Batch::EMPTY;
    let objects = room.of(batch + 1);
    let got = middle::take(class, objects);
    let Some((&mut first, rest)) = objects.get_mut(..got).and_then(|o| o.split_first_mut()) else {
        return 0;
    };
    // The lowest address goes out first.
    rest.reverse();
    let kept = push_some(words, class, rest);
    middle::give(class, rest.get(kept..).unwrap_or_default());
    drop(asked);
    if beat {
        heartbeat::beat(process);
    }
    first
}

/// A miss of a class whose objects the caller gets from the middle by itself: the class
/// may have room for what is freed.
pub fn found_empty(process: &Process, words: &ThreadWords, class: ClassId) {
    REFILLS.fetch_add(1, Relaxed);
    let cid = current(words);
    state(cid).lock().missed(process, &Access::of(words), cid, class, Miss::Empty);
}

/// Puts back an object for which the slab had no room.
///
/// # Safety
/// `object` is a block of the class, the caller's to give up.
pub unsafe fn overflow(process: &Process, words: &ThreadWords, class: ClassId, object: usize) {
    OVERFLOWS.fetch_add(1, Relaxed);
    let asked = slice::ask();
    let cid = current(words);
    let access = Access::of(words);
    let (half, beat) = {
        let mut slab = state(cid).lock();
        slab.missed(process, &access, cid, class, Miss::Full);
        (slab.half(class), slab.beat())
    };
    // SAFETY: the caller's duty.
    if !unsafe { push(words, class, object) } {
        let mut room = Batch::EMPTY;
        let objects = room.of(half + 1);
        if let Some((first, rest)) = objects.split_first_mut() {
            *first = object;
            let got = pop_some(words, class, rest);
            middle::give(class, objects.get(..=got).unwrap_or_default());
        }
    }
    drop(asked);
    if beat {
        heartbeat::beat(process);
    }
}

fn push_some(words: &ThreadWords, class: ClassId, objects: &[usize]) -> usize {
    match words.state {
        // SAFETY: this thread's words; objects fresh from the middle.
        State::Sections => unsafe {
            sections::push_batch(words, slab_addr(Cid(0)), slab::class_at(class), objects)
        },
        _ => {
            let cid = current(words);
            let _slab = state(cid).lock();
            locked::push_batch(header(cid, class), objects)
        }
    }
}

fn pop_some(words: &ThreadWords, class: ClassId, out: &mut [usize]) -> usize {
    match words.state {
        // SAFETY: this thread's words.
        State::Sections => unsafe {
            sections::pop_batch(words, slab_addr(Cid(0)), slab::class_at(class), out)
        },
        _ => {
            let cid = current(words);
            let _slab = state(cid).lock();
            locked::pop_batch(header(cid, class), out)
        }
    }
}

impl Slab {
    fn class(&mut self, class: ClassId) -> &mut ClassSlots {
        // A ClassId is below COUNT.
        &mut self.classes[class.index()]
    }

    /// What a class's slots may hold, in bytes.
    fn bytes_of(&mut self, class: ClassId) -> usize {
        cost_of(self.class(class).slots.into(), class)
    }

    /// Whether it is time to look at the clock.
    fn beat(&self) -> bool {
        self.misses % HEARTBEAT_MISSES == 0
    }

    /// The objects that a refill takes beside the caller's.
    fn next_batch(&mut self, class: ClassId) -> usize {
        let slots = self.class(class);
        let batch = slots.grow_batch(size_class::info(class));
        batch.min(slots.slots.into())
    }

    /// The objects that an overflow sends home beside the caller's.
    fn half(&mut self, class: ClassId) -> usize {
        let slots = self.class(class);
        slots.grow_batch(size_class::info(class));
        let most = size_class::info(class).batch_max as usize - 1;
        (slots.slots as usize / 2).min(most)
    }

    /// A miss of a class: revives it if it was stopped, else may give it room.
    /// Whether it was revived: then it may have what was missed.
    fn missed(
        &mut self,
        process: &Process,
        access: &Access,
        cid: Cid,
        class: ClassId,
        miss: Miss,
    ) -> bool {
        self.misses = self.misses.wrapping_add(1);
        if !self.open && !self.open_up(cid) {
            return false;
        }
        if self.beat() {
            self.owe_excess(process);
        }
        self.class(class).missed = true;
        self.pay_debt(access, cid, class);
        let header = header(cid, class);
        if header.limits() == STOPPED && self.class(class).array > 0 {
            let limits = self.class(class).limits(cid);
            return access.set_limits(cid, header, limits);
        }
        if self.class(class).wants_more(size_class::info(class), miss) {
            self.grow(process, access, cid, class);
        }
        false
    }

    /// Makes a slab's memory writable; false if the kernel refuses.
    fn open_up(&mut self, cid: Cid) -> bool {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the slab's own memory; write access takes nothing from anyone.
        if unsafe { sys::mprotect(slab_addr(cid), slab::SLAB_BYTES, prot) }.is_err() {
            return false;
        }
        self.open = true;
        self.next_slot = FIRST_SLOT;
        if OPEN_SLABS.fetch_add(1, Relaxed) > 0 {
            middle::SHARED.store(true, Relaxed);
        }
        true
    }

    /// Sends home everything in the slab, whose headers are all stopped and
    /// quiet, and forgets its slots.
    pub fn empty(&mut self, cid: Cid) {
        for class in ClassId::all() {
            let slots = *self.class(class);
            if slots.array > 0 {
                send_home(header(cid, class), class, slots.begin_addr(cid));
            }
            *self.class(class) = ClassSlots::NONE;
        }
        TAKEN_BYTES.fetch_sub(self.budget_bytes, Relaxed);
        (self.budget_bytes, self.used_bytes, self.debt_bytes) = (0, 0, 0);
        self.give_pages_back(cid);
        self.next_slot = FIRST_SLOT;
        self.left = [0; ARRAY_SIZES];
        self.open = false;
        OPEN_SLABS.fetch_sub(1, Relaxed);
    }

    /// Bytes of objects that the slab holds (a snapshot).
    pub fn held(&self, cid: Cid, class: ClassId) -> u32 {
        match self.classes.get(class.index()) {
            Some(slots) if slots.array > 0 => {
                let top = header(cid, class).cur.load(Relaxed) as usize;
                (top.saturating_sub(slots.begin_addr(cid)) / 8) as u32
            }
            _ => 0,
        }
    }

    /// Changes when any class's top has moved.
    pub fn tops(&self, cid: Cid) -> u64 {
        ClassId::all()
            .fold(0, |sum, class| sum.rotate_left(7) ^ header(cid, class).cur.load(Relaxed))
    }
}
