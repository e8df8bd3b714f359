//! What a miss does: refills and overflows, and how much a slab may keep.
//!
//! ```text
//! refill(class)        slab's lock: revive or grow the class ── steal room
//!   middle::take ────── no slab's lock held
//!   push_batch ──────── what does not fit (another cid by now) goes back
//! overflow(class, o)   slab's lock: revive or grow
//!   push, else pop_batch half of the class and middle::give
//! ```
//! A class has no slots at first; each miss doubles them, or adds a batch where
//! the slab's budget has no more. A slab starts with a small budget and takes more from what all slabs
//! may keep together, at last from a slab that misses less. When a budget is
//! used up, classes that have not missed lately give room.
//!
//! Invariants, under a slab's lock: `used_bytes` = sum of slots × object size, at
//! most `budget_bytes`; `TAKEN_BYTES` = sum of budgets.
//! Locks: the slab's (rank Slab), then the middle's.

#![allow(unsafe_code)]

pub mod verify;

use crate::back::page_heap::IN_USE_BYTES;
use crate::front::process::Process;
use crate::front::slab::{self, FIRST_SLOT, Header, SLOTS_END, STOPPED, header, slab_addr};
use crate::front::{heartbeat, locked, sections};
use crate::middle::{self, batch::Batch};
use crate::os::lock::{Lock, Rank};
use crate::os::sys;
use crate::os::thread::{State, ThreadWords};
use crate::size_class::{self, BATCH_OBJECTS, ClassInfo};
use crate::units::{Cid, ClassId};
use core::ptr::with_exposed_provenance;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU64, AtomicUsize};

/// Since start; written in slow paths, read as statistics, so relaxed.
pub static REFILLS: AtomicU64 = AtomicU64::new(0);
pub static OVERFLOWS: AtomicU64 = AtomicU64::new(0);
/// The slabs' budgets together.
static TAKEN_BYTES: AtomicUsize = AtomicUsize::new(0);
/// Slabs in use.
pub static OPEN_SLABS: AtomicUsize = AtomicUsize::new(0);

/// A budget grows in these steps …
const BUDGET_STEP: usize = 64 << 10;
/// … and what the slabs may keep together is, for each of them, this plus the size
/// of the heap, up to so much: a small program's caches stay small …
const BUDGET_BASE: usize = 256 << 10;
const BUDGET_EACH: usize = 2 << 20;
/// … and this part of the heap: where blocks of many sizes come and go, how far
/// each class's number strays grows with the heap.
const BUDGET_SHARE: usize = 16;
/// A class's first slots hold this many bytes, within 2 and 8 slots.
const FIRST_BYTES: usize = 4 << 10;
const FIRST_SLOTS: core::ops::RangeInclusive<usize> = 2..=8;
/// The first batch holds this many bytes, up to 8 objects.
const FIRST_BATCH_BYTES: usize = 512;
/// Arrays have from 8 slots to these, in powers of two.
const ARRAY_MOST: usize = size_class::SLOTS_MAX.next_power_of_two();
const ARRAY_SIZES: usize = ARRAY_MOST.trailing_zeros() as usize + 1;
/// Classes that a miss looks at for slots to give up. Few: the hand must not come
/// round before classes in use have missed again.
const LOOKS: usize = 4;
/// Misses of a slab between two looks at the clock.
const HEARTBEAT_MISSES: u32 = 64;

/// How a class misses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Miss {
    /// It had no object.
    Empty = 0,
    /// It had no room.
    Full = 1,
}

/// The slots of one class in one slab. Zero bytes: none.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct ClassSlots {
    /// The array, in slots from the slab's base.
    begin: u32,
    array: u16,
    /// Slots in use of the array.
    slots: u16,
    /// Objects the next refill takes for the slab.
    batch: u8,
    /// Has missed since stealing last came by.
    missed: bool,
    last: Miss,
}

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
    if beat {
        heartbeat::beat(process);
    }
    first
}

/// Puts back an object for which the slab had no room.
///
/// # Safety
/// `object` is a block of the class, the caller's to give up.
pub unsafe fn overflow(process: &Process, words: &ThreadWords, class: ClassId, object: usize) {
    OVERFLOWS.fetch_add(1, Relaxed);
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

/// What the slabs may keep together, now.
fn allowed_bytes(process: &Process) -> usize {
    let (open, heap) = (OPEN_SLABS.load(Relaxed), IN_USE_BYTES.load(Relaxed));
    let wished = (BUDGET_BASE + heap).min(BUDGET_EACH) * open + heap / BUDGET_SHARE;
    wished.min(process.config.slab_bytes as usize * open)
}

/// What slots of a class and the objects in them take, in bytes.
fn cost_of(slots: usize, class: ClassId) -> usize {
    slots * (size_class::info(class).size_bytes as usize + size_of::<usize>())
}

impl ClassSlots {
    const NONE: ClassSlots =
        ClassSlots { begin: 0, array: 0, slots: 0, batch: 0, missed: false, last: Miss::Empty };

    fn begin_addr(&self, cid: Cid) -> usize {
        slab_addr(cid) + self.begin as usize * 8
    }

    fn limits(&self, cid: Cid) -> u64 {
        let begin = self.begin_addr(cid);
        slab::limits((begin + self.slots as usize * 8) as u32, begin as u32)
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

    /// The objects a refill takes beside the caller's; twice as many next time.
    fn next_batch(&mut self, class: ClassId) -> usize {
        let info = size_class::info(class);
        let slots = self.class(class);
        let first = (FIRST_BATCH_BYTES / info.size_bytes as usize).min(8);
        let batch = (slots.batch as usize).max(first);
        let most = (info.batch_max as usize - 1).min(slots.slots as usize);
        slots.batch = (batch * 2).clamp(1, info.batch_max as usize - 1) as u8;
        batch.min(most)
    }

    /// The objects that an overflow sends home beside the caller's.
    fn half(&mut self, class: ClassId) -> usize {
        let most = size_class::info(class).batch_max as usize - 1;
        (self.class(class).slots as usize / 2).min(most)
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
        // More slots serve a class that was full and is empty now, or the other way
        // round: with them it would have missed less. One that only allocates, or
        // only frees, needs no more than a batch.
        let slots = self.class(class);
        let wants = slots.slots == 0 || slots.last != miss || slots.slots < slots.batch.into();
        slots.last = miss;
        if wants {
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

    /// Gives a class more slots, as far as budget and address space allow.
    fn grow(&mut self, process: &Process, access: &Access, cid: Cid, class: ClassId) {
        let info = size_class::info(class);
        let now = *self.class(class);
        let slots = now.slots as usize;
        let most = info.slots_max as usize;
        // Doubled if the budget has it for the asking; else one batch more, for
        // which other classes may have to give room.
        let (wished, least) = match slots {
            0 => {
                let first = (FIRST_BYTES / info.size_bytes as usize)
                    .clamp(*FIRST_SLOTS.start(), *FIRST_SLOTS.end());
                // Of the largest classes two would be more than some slabs may keep.
                let first = if info.objects == 1 { 1 } else { first };
                (first, first)
            }
            n if info.objects == 1 => ((n * 2).min(most), (n + 1).min(most)),
            n => ((n * 2).min(most), (n + info.batch_max as usize).min(most)),
        };
        let bytes = |target: usize| cost_of(target - slots, class);
        let target = if wished > slots && self.find_budget(process, cid, bytes(wished)) {
            wished
        } else if least > slots
            && (self.find_budget(process, cid, bytes(least))
                || self.steal_slots(access, cid, class, bytes(least), LOOKS))
        {
            least
        } else {
            return;
        };
        let more_bytes = bytes(target);
        if target <= now.array as usize {
            let slots = self.class(class);
            slots.slots = target as u16;
            // Raising the end alone is safe under the lock.
            let end = slots.begin_addr(cid) + target * 8;
            let header = header(cid, class);
            if header.limits() != STOPPED {
                header.end_lo.store(end as u32, Relaxed);
            }
        } else if !self.move_array(access, cid, class, info, target) {
            return;
        }
        self.used_bytes += more_bytes;
    }

    /// Gives a class a longer array, with its objects; false if that cannot be.
    fn move_array(
        &mut self,
        access: &Access,
        cid: Cid,
        class: ClassId,
        info: &ClassInfo,
        slots: usize,
    ) -> bool {
        // Twice what is needed, so that every second growth only moves a limit.
        let most = (info.slots_max as usize).next_power_of_two();
        let array = (slots * 2).next_power_of_two().max(8).min(most).max(slots);
        let Some(begin) = self.find_array(cid, array) else { return false };
        let header = header(cid, class);
        if !access.set_limits(cid, header, STOPPED) {
            self.leave_array(cid, begin, array);
            return false;
        }
        // The class is quiet: sections that start now see the stop, and none was
        // in flight, as this thread held the cid.
        let old = *self.class(class);
        let from = old.begin_addr(cid);
        let count = if old.array == 0 { 0 } else { (header.cur.load(Relaxed) as usize - from) / 8 };
        let new = ClassSlots { begin, array: array as u16, slots: slots as u16, ..old };
        let to = new.begin_addr(cid);
        // SAFETY: both arrays are the slab's, apart, and long enough.
        unsafe { slab::copy_slots(from, to, count) };
        header.cur.store((to + count * 8) as u64, Relaxed);
        // No section that is in flight writes to the old array: the class is quiet.
        self.leave_array(cid, old.begin, old.array.into());
        *self.class(class) = new;
        // If the cid is another's by now, its next miss revives the class.
        access.set_limits(cid, header, new.limits(cid));
        true
    }

    /// An array of so many slots: one that a class has left, or a new one.
    fn find_array(&mut self, cid: Cid, slots: usize) -> Option<u32> {
        if let Some(left) = self.left_of(slots).filter(|left| **left != 0) {
            let begin = *left;
            // SAFETY: the first slot of an array that is nobody's, where
            // `leave_array` has put the number of the next.
            *left = unsafe { slab::read_slot(slab_addr(cid) + begin as usize * 8) } as u32;
            return Some(begin);
        }
        let begin = self.next_slot;
        let end = begin + slots as u32;
        (end <= SLOTS_END).then(|| {
            self.next_slot = end;
            begin
        })
    }

    /// Keeps an array that is no class's any more.
    fn leave_array(&mut self, cid: Cid, begin: u32, slots: usize) {
        if let Some(left) = self.left_of(slots) {
            // SAFETY: the array's first slot.
            unsafe { slab::write_slot(slab_addr(cid) + begin as usize * 8, *left as usize) };
            *left = begin;
        }
    }

    /// The arrays of so many slots that classes have left; none for other numbers
    /// than powers of two.
    fn left_of(&mut self, slots: usize) -> Option<&mut u32> {
        if slots.is_power_of_two() { self.left.get_mut(slots.ilog2() as usize) } else { None }
    }

    /// Makes `used_bytes + more` fit the budget by raising it; false where it
    /// cannot be raised.
    fn find_budget(&mut self, process: &Process, cid: Cid, more: usize) -> bool {
        if self.used_bytes + more <= self.budget_bytes {
            return true;
        }
        let need = (self.used_bytes + more - self.budget_bytes).next_multiple_of(BUDGET_STEP);
        let taken = TAKEN_BYTES.fetch_add(need, Relaxed) + need;
        if taken <= allowed_bytes(process) || self.steal_budget(process, cid, need) {
            self.budget_bytes += need;
            return true;
        }
        TAKEN_BYTES.fetch_sub(need, Relaxed);
        false
    }

    /// Takes `need` bytes of budget (already counted) from a slab that does not
    /// use them. A slab that uses its own and misses less will give some up.
    fn steal_budget(&mut self, process: &Process, cid: Cid, need: usize) -> bool {
        if OPEN_SLABS.load(Relaxed) < 2 {
            return false;
        }
        let mut asked = false;
        for other in 0..process.slabs() {
            if other == cid.0 {
                continue;
            }
            // Never waits: the other's lock may be held for long.
            let Some(mut victim) = state(Cid(other)).try_lock() else { continue };
            if victim.budget_bytes - victim.used_bytes >= need {
                victim.budget_bytes -= need;
                victim.debt_bytes = victim.debt_bytes.saturating_sub(need);
                TAKEN_BYTES.fetch_sub(need, Relaxed);
                return true;
            }
            let calm = victim.misses.wrapping_sub(victim.seen_misses)
                < self.misses.wrapping_sub(self.seen_misses) / 2;
            if calm && !asked && victim.open {
                victim.debt_bytes = need.min(victim.budget_bytes);
                asked = true;
            }
        }
        false
    }

    /// Where all slabs have more than they may keep now, as the heap has shrunk, this
    /// one gives some up.
    fn owe_excess(&mut self, process: &Process) {
        let excess = TAKEN_BYTES.load(Relaxed).saturating_sub(allowed_bytes(process));
        self.debt_bytes = self.debt_bytes.max(excess.min(self.budget_bytes / 4));
    }

    /// Gives up what another slab has asked for: only the thread that holds the
    /// cid can shrink classes without a fence.
    fn pay_debt(&mut self, access: &Access, cid: Cid, class: ClassId) {
        let debt = core::mem::take(&mut self.debt_bytes);
        if debt == 0 {
            return;
        }
        // As much of it as the other classes can give.
        let own = self.bytes_of(class);
        let debt = debt.min(self.budget_bytes - own.min(self.budget_bytes));
        self.steal_slots(access, cid, class, debt, 2 * size_class::COUNT);
        let paid = debt.min(self.budget_bytes - self.used_bytes);
        self.budget_bytes -= paid;
        TAKEN_BYTES.fetch_sub(paid, Relaxed);
    }

    /// Halves classes that have not missed since the last time round, until the
    /// budget has room or so many were looked at.
    fn steal_slots(
        &mut self,
        access: &Access,
        cid: Cid,
        class: ClassId,
        more: usize,
        looks: usize,
    ) -> bool {
        // The class itself gives nothing.
        if self.bytes_of(class) + more > self.budget_bytes {
            return false;
        }
        for _ in 0..looks {
            if self.used_bytes + more <= self.budget_bytes {
                return true;
            }
            self.clock = (self.clock + 1) % size_class::COUNT as u8;
            let victim = ClassId(self.clock);
            let slots = self.class(victim);
            if victim == class || slots.slots == 0 || core::mem::take(&mut slots.missed) {
                continue;
            }
            let fewer = slots.slots / 2;
            if !self.shrink(access, cid, victim, fewer) {
                return false;
            }
        }
        self.used_bytes + more <= self.budget_bytes
    }

    /// Lowers a class's slots; the objects above go home. False if the thread
    /// is on another slab now.
    fn shrink(&mut self, access: &Access, cid: Cid, class: ClassId, slots: u16) -> bool {
        let header = header(cid, class);
        if !access.set_limits(cid, header, STOPPED) {
            return false;
        }
        // Quiet, as in `move_array`.
        let old = *self.class(class);
        self.used_bytes -= cost_of((old.slots - slots).into(), class);
        let new = ClassSlots { slots, batch: 0, ..old };
        *self.class(class) = new;
        let end = new.begin_addr(cid) + slots as usize * 8;
        send_home(header, class, end);
        access.set_limits(cid, header, new.limits(cid));
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

    /// Gives the slots' memory back, but for the page with the headers: a zero
    /// header is not a stopped one to a section that has read `cur` already.
    fn give_pages_back(&self, cid: Cid) {
        let page = sys::os_page_bytes();
        let first = (FIRST_SLOT as usize * 8).next_multiple_of(page);
        let end = (self.next_slot as usize * 8).next_multiple_of(page).min(slab::SLAB_BYTES);
        if first < end {
            // SAFETY: slots of a stopped slab; no object is in them any more.
            let _ =
                unsafe { sys::madvise(slab_addr(cid) + first, end - first, libc::MADV_DONTNEED) };
        }
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

/// Sends home the objects of a quiet class above `floor` (an address in its
/// slots).
fn send_home(header: &Header, class: ClassId, floor: usize) {
    let mut batch = [0; BATCH_OBJECTS / 4]; // the stack may hold a batch already
    let mut cur = header.cur.load(Relaxed) as usize;
    while cur > floor {
        let count = ((cur - floor) / 8).min(batch.len());
        cur -= count * 8;
        let Some(part) = batch.get_mut(..count) else { break };
        for (i, slot) in part.iter_mut().enumerate() {
            // SAFETY: slots below the top hold objects.
            *slot = unsafe { slab::read_slot(cur + i * 8) };
        }
        middle::give(class, part);
    }
    header.cur.store(cur as u64, Relaxed);
}
