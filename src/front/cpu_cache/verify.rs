//! Checks the slabs: headers against records, records against the sums.
//!
//! Limits change under the slab's lock only, tops while their owners run: so
//! limits are checked and stopped first, and the rest after a fence.

#![allow(unsafe_code)]

use crate::census::{Broken, Kind};
use crate::front::cpu_cache::budget::{TAKEN_BYTES, cost_of};
use crate::front::cpu_cache::class_slots::ClassSlots;
use crate::front::cpu_cache::{OPEN_SLABS, Slab, state};
use crate::front::process::Process;
use crate::front::slab::{FIRST_SLOT, SLOTS_END, STOPPED, header};
use crate::units::{Cid, ClassId};
use core::sync::atomic::Ordering::Relaxed;

/// Checks all headers' limits, and stops those of slabs changed in sections.
///
/// # Safety
/// The caller holds all slabs' locks.
pub unsafe fn stop(process: &Process, found: &mut Broken) {
    for cid in (0..process.slabs()).map(Cid) {
        // SAFETY: the caller's duty.
        let slab = unsafe { &*state(cid).value() };
        let none = header(cid, ClassId::NONE);
        let zero = none.limits() == 0 && none.cur.load(Relaxed) == 0;
        found.check(zero, Kind::ClassZeroHeader, ClassId::NONE, cid.0 as usize);
        for class in ClassId::all() {
            let (header, slots) = (header(cid, class), slab.slots(class));
            let limits = header.limits();
            let right = match slots.array {
                0 => limits == 0 || limits == STOPPED,
                _ => limits == STOPPED || limits == slots.limits(cid),
            };
            found.check(right, Kind::HeaderLimits, class, cid.0 as usize);
            // A header nobody has used may lie in memory that is not writable.
            if limits != 0 && limits != STOPPED && cid.0 < process.cids {
                header.store_limits(STOPPED);
            }
        }
    }
}

/// Checks the slabs, which are quiet, but for the objects in them.
///
/// # Safety
/// As [`stop`].
pub unsafe fn verify(process: &Process, found: &mut Broken) {
    let (mut budgets, mut open) = (0, 0);
    for cid in (0..process.slabs()).map(Cid) {
        // SAFETY: the caller's duty.
        let slab = unsafe { &*state(cid).value() };
        slab.verify(cid, found);
        budgets += slab.budget_bytes;
        open += usize::from(slab.open);
    }
    // Both are changed under slabs' locks: relaxed.
    let taken = TAKEN_BYTES.load(Relaxed);
    found.same(Kind::BudgetSum, ClassId::NONE, 0, taken, budgets);
    found.same(Kind::OpenSlabs, ClassId::NONE, 0, OPEN_SLABS.load(Relaxed), open);
}

/// The objects of a class in a quiet slab; none where its record is broken.
///
/// # Safety
/// As [`stop`], and the slab stays quiet while the slice is used.
pub unsafe fn objects(cid: Cid, class: ClassId) -> &'static [usize] {
    // SAFETY: the caller's duty.
    let slab = unsafe { &*state(cid).value() };
    let slots = slab.slots(class);
    let Some(len) = slab.filled(cid, class).filter(|_| slots.inside()) else { return &[] };
    // SAFETY: slots of the slab, below its top.
    unsafe {
        core::slice::from_raw_parts(core::ptr::with_exposed_provenance(slots.begin_addr(cid)), len)
    }
}

impl ClassSlots {
    fn inside(&self) -> bool {
        let (begin, end) = (self.begin, self.begin.saturating_add(self.array.into()));
        self.array > 0 && begin >= FIRST_SLOT && end <= SLOTS_END && self.slots <= self.array
    }

    fn overlaps(&self, other: &ClassSlots) -> bool {
        let end = |of: &ClassSlots| of.begin.saturating_add(of.array.into());
        self.begin < end(other) && other.begin < end(self)
    }
}

impl Slab {
    fn slots(&self, class: ClassId) -> &ClassSlots {
        // A ClassId is below COUNT.
        &self.classes[class.index()]
    }

    /// How many slots of a class hold objects; `None` if its top is elsewhere.
    fn filled(&self, cid: Cid, class: ClassId) -> Option<usize> {
        let slots = self.slots(class);
        let top = header(cid, class).cur.load(Relaxed) as usize;
        let bytes = top.checked_sub(slots.begin_addr(cid))?;
        (bytes % 8 == 0 && bytes / 8 <= usize::from(slots.slots)).then_some(bytes / 8)
    }

    fn verify(&self, cid: Cid, found: &mut Broken) {
        let at = cid.0 as usize;
        if !self.open {
            let empty = self.classes.iter().all(|slots| slots.array == 0)
                && (self.budget_bytes, self.used_bytes) == (0, 0);
            found.check(empty, Kind::ClosedSlab, ClassId::NONE, at);
            return;
        }
        let mut used = 0;
        for class in ClassId::all() {
            let slots = self.slots(class);
            used += cost_of(slots.slots.into(), class);
            if slots.array == 0 {
                found.check(slots.slots == 0, Kind::SlotsOutside, class, at);
                continue;
            }
            let end = slots.begin.saturating_add(slots.array.into());
            let inside = slots.inside() && end <= self.next_slot;
            found.check(inside, Kind::SlotsOutside, class, at);
            let alone = (class.0 + 1..).map_while(|other| self.classes.get(other as usize));
            let alone = alone.filter(|o| o.array > 0).all(|other| !slots.overlaps(other));
            found.check(alone, Kind::SlotsOverlap, class, at);
            found.check(self.filled(cid, class).is_some(), Kind::TopOutside, class, at);
        }
        found.same(Kind::SlabUsed, ClassId::NONE, at, self.used_bytes, used);
        let within = self.used_bytes <= self.budget_bytes;
        found.check(within, Kind::SlabBudget, ClassId::NONE, at);
    }
}

/// Faults for the walk's test: each call plants one, or takes it out.
#[cfg(test)]
impl Slab {
    pub fn plant_array(&mut self, class: ClassId) {
        self.class(class).array ^= 0x8000;
    }

    pub fn plant_begin(&mut self, class: ClassId, other: ClassId) {
        let begin = self.slots(other).begin;
        static OLD: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);
        let old = OLD.swap(0, Relaxed);
        let slots = self.class(class);
        if old == 0 {
            OLD.store(slots.begin, Relaxed);
        }
        slots.begin = if old == 0 { begin } else { old };
    }

    pub fn plant_used(&mut self, bits: usize) {
        self.used_bytes ^= bits;
    }

    pub fn plant_budget(&mut self) {
        self.budget_bytes ^= 1 << 40;
    }
}
