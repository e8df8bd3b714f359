//! Slots: arrays of a slab that classes get, leave and give up.
//!
//! ```text
//! slab: | headers | array | array | left array | array | … never used … |
//!                                    └─ number of the next left one of its size
//! ```
//! An array changes hands only while its class's header is stopped and quiet: then
//! no section writes to it.
//! Locks: the slab's; giving objects up, the middle's.

#![allow(unsafe_code)]

use crate::front::cpu_cache::budget::cost_of;
use crate::front::cpu_cache::{Access, Slab};
use crate::front::process::Process;
use crate::front::slab::{self, FIRST_SLOT, Header, SLOTS_END, STOPPED, header, slab_addr};
use crate::middle;
use crate::os::sys;
use crate::size_class::{self, BATCH_OBJECTS, ClassInfo};
use crate::units::{Cid, ClassId};
use core::sync::atomic::Ordering::Relaxed;

/// A class's first slots hold this many bytes, within 2 and 8 slots.
const FIRST_BYTES: usize = 4 << 10;
const FIRST_SLOTS: core::ops::RangeInclusive<usize> = 2..=8;
/// Arrays have from 8 slots to these, in powers of two.
const ARRAY_MOST: usize = size_class::SLOTS_MAX.next_power_of_two();
pub(super) const ARRAY_SIZES: usize = ARRAY_MOST.trailing_zeros() as usize + 1;
/// Classes that a miss looks at for slots to give up, unless its class has none
/// at all. Few: the hand must not come round before classes in use have missed again.
const LOOKS: usize = 4;

impl Slab {
    /// Gives a class more slots, as far as budget and address space allow.
    pub(super) fn grow(&mut self, process: &Process, access: &Access, cid: Cid, class: ClassId) {
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
        let looks = if slots == 0 { usize::MAX } else { LOOKS };
        let target = if wished > slots && self.find_budget(process, cid, bytes(wished)) {
            wished
        } else if least > slots
            && (self.find_budget(process, cid, bytes(least))
                || self.steal_slots(access, cid, class, bytes(least), looks))
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
        let mut new = old;
        (new.begin, new.array, new.slots) = (begin, array as u16, slots as u16);
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

    /// Halves classes that have not missed since the last time round, until the
    /// budget has room or so many were looked at.
    pub(super) fn steal_slots(
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
        let mut looks = looks;
        for _ in 0..2 * size_class::COUNT {
            if looks == 0 || self.used_bytes + more <= self.budget_bytes {
                break;
            }
            self.clock = (self.clock + 1) % size_class::COUNT as u8;
            let victim = ClassId(self.clock);
            let slots = self.class(victim);
            if victim == class || slots.slots == 0 {
                continue;
            }
            looks -= 1;
            if core::mem::take(&mut slots.missed) {
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
    pub(super) fn shrink(&mut self, access: &Access, cid: Cid, class: ClassId, slots: u16) -> bool {
        let header = header(cid, class);
        if !access.set_limits(cid, header, STOPPED) {
            return false;
        }
        // Quiet, as in `move_array`.
        let old = *self.class(class);
        self.used_bytes -= cost_of((old.slots - slots).into(), class);
        let mut new = old;
        (new.slots, new.batch) = (slots, 0);
        *self.class(class) = new;
        let end = new.begin_addr(cid) + slots as usize * 8;
        send_home(header, class, end);
        access.set_limits(cid, header, new.limits(cid));
        true
    }

    /// Gives the slots' memory back, but for the page with the headers: a zero
    /// header is not a stopped one to a section that has read `cur` already.
    pub(super) fn give_pages_back(&self, cid: Cid) {
        let page = sys::os_page_bytes();
        let first = (FIRST_SLOT as usize * 8).next_multiple_of(page);
        let end = (self.next_slot as usize * 8).next_multiple_of(page).min(slab::SLAB_BYTES);
        if first < end {
            // SAFETY: slots of a stopped slab; no object is in them any more.
            let _ =
                unsafe { sys::madvise(slab_addr(cid) + first, end - first, libc::MADV_DONTNEED) };
        }
    }
}

/// Sends home the objects of a quiet class above `floor` (an address in its
/// slots).
pub(super) fn send_home(header: &Header, class: ClassId, floor: usize) {
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
