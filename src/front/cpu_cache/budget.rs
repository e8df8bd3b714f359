//! What slabs may keep, in bytes of slots and of the objects in them.
//!
//! Invariants, under a slab's lock: `used_bytes` = sum of the classes' slots × what
//! one takes, at most `budget_bytes`; `TAKEN_BYTES` = sum of the budgets.
//! Locks: the slab's own; another's is only tried.

use crate::back::page_heap::IN_USE_BYTES;
use crate::front::cpu_cache::{Access, OPEN_SLABS, Slab, state};
use crate::front::process::Process;
use crate::size_class;
use crate::units::{Cid, ClassId};
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

/// The slabs' budgets together.
pub(super) static TAKEN_BYTES: AtomicUsize = AtomicUsize::new(0);
/// A budget grows in these steps …
const BUDGET_STEP: usize = 64 << 10;
/// … and what the slabs may keep together is, for each of them, this plus what is in
/// use beside them, up to so much: a small program's caches stay small, and are no
/// reason to be larger …
const BUDGET_BASE: usize = 1 << 20;
const BUDGET_EACH: usize = 2 << 20;
/// … and this part of the heap: where blocks of many sizes come and go, how far
/// each class's number strays grows with the heap.
const BUDGET_SHARE: usize = 16;

/// What the slabs may keep together, now.
fn allowed_bytes(process: &Process) -> usize {
    let (open, heap) = (OPEN_SLABS.load(Relaxed), IN_USE_BYTES.load(Relaxed));
    let used = heap.saturating_sub(TAKEN_BYTES.load(Relaxed));
    let wished = (BUDGET_BASE + used).min(BUDGET_EACH) * open + heap / BUDGET_SHARE;
    wished.min(process.config.slab_bytes as usize * open)
}

/// What slots of a class and the objects in them take, in bytes.
pub(super) fn cost_of(slots: usize, class: ClassId) -> usize {
    slots * (size_class::info(class).size_bytes as usize + size_of::<usize>())
}

impl Slab {
    /// Makes `used_bytes + more` fit the budget by raising it; false where it
    /// cannot be raised.
    pub(super) fn find_budget(&mut self, process: &Process, cid: Cid, more: usize) -> bool {
        if self.used_bytes + more <= self.budget_bytes {
            return true;
        }
        let exact = self.used_bytes + more - self.budget_bytes;
        // A whole step while there is one, else as much as is needed.
        self.take_budget(process, exact.next_multiple_of(BUDGET_STEP), |_| false)
            || self.take_budget(process, exact, |slab| slab.steal_budget(process, cid, exact))
    }

    /// Raises the budget by `need` if all slabs' allow it, or `steal` finds as much.
    fn take_budget(
        &mut self,
        process: &Process,
        need: usize,
        steal: impl FnOnce(&mut Slab) -> bool,
    ) -> bool {
        let allowed = allowed_bytes(process);
        // Looked at before it is written: at the limit all slabs come here often.
        if TAKEN_BYTES.load(Relaxed) + need <= allowed {
            if TAKEN_BYTES.fetch_add(need, Relaxed) + need <= allowed {
                self.budget_bytes += need;
                return true;
            }
            TAKEN_BYTES.fetch_sub(need, Relaxed);
        }
        // What another gives up is counted already.
        let stolen = steal(self);
        if stolen {
            self.budget_bytes += need;
        }
        stolen
    }

    /// Takes `need` bytes of budget from a slab that does not
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
    pub(super) fn owe_excess(&mut self, process: &Process) {
        let excess = TAKEN_BYTES.load(Relaxed).saturating_sub(allowed_bytes(process));
        self.debt_bytes = self.debt_bytes.max(excess.min(self.budget_bytes / 4));
    }

    /// Gives up what another slab has asked for: only the thread that holds the
    /// cid can shrink classes without a fence.
    pub(super) fn pay_debt(&mut self, access: &Access, cid: Cid, class: ClassId) {
        let debt = core::mem::take(&mut self.debt_bytes);
        if debt == 0 {
            return;
        }
        // As much of it as the other classes can give.
        let own = self.bytes_of(class);
        let debt = debt.min(self.budget_bytes - own.min(self.budget_bytes));
        self.steal_slots(access, cid, class, debt, usize::MAX);
        let paid = debt.min(self.budget_bytes - self.used_bytes);
        self.budget_bytes -= paid;
        TAKEN_BYTES.fetch_sub(paid, Relaxed);
    }
}
