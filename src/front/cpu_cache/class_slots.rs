//! The slots of a class in a slab: how many it has, and whether it should have more.
//!
//! Locks: the slab's, held by every caller.

use crate::front::slab::{self, slab_addr};
use crate::size_class::ClassInfo;
use crate::units::Cid;

/// The first batch holds this many bytes, up to 8 objects.
const FIRST_BATCH_BYTES: usize = 512;
/// A class may have its first slots when it has turned from full to empty or back once for
/// so many bytes of its size; and again once it has lost them, or there was no room.
const TURN_BYTES: usize = 16 << 10;

/// How a class misses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Miss {
    /// It had no object.
    Empty = 0,
    /// It had no room.
    Full = 1,
}

/// The slots of one class in one slab. Zero bytes: none.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct ClassSlots {
    /// The array, in slots from the slab's base.
    pub(super) begin: u32,
    pub(super) array: u16,
    /// Slots in use of the array.
    pub(super) slots: u16,
    /// Objects the next refill takes for the slab.
    pub(super) batch: u8,
    /// Has missed since stealing last came by.
    pub(super) missed: bool,
    last: Miss,
    /// How often it was full and then empty, or the reverse, since it might have had its
    /// first slots.
    turns: u8,
}

impl ClassSlots {
    pub(super) const NONE: ClassSlots = ClassSlots {
        begin: 0,
        array: 0,
        slots: 0,
        batch: 0,
        missed: false,
        last: Miss::Empty,
        turns: 0,
    };

    /// Whether the class should have more slots, as it has missed. More serve one that
    /// was full and is empty now, or the other way round: with them it would have missed
    /// less. One that only allocates, or only frees, needs no more than a batch, and as
    /// much again to keep.
    pub(super) fn wants_more(&mut self, info: &ClassInfo, miss: Miss) -> bool {
        let turned = core::mem::replace(&mut self.last, miss) != miss;
        if self.slots > 0 {
            return turned || self.slots < u16::from(self.batch) * 2;
        }
        self.turns = self.turns.saturating_add(turned.into());
        let enough = usize::from(self.turns) >= info.size_bytes as usize / TURN_BYTES;
        if enough {
            self.turns = 0;
        }
        enough
    }

    /// How many objects the batch of this miss is for; twice as many next time.
    pub(super) fn grow_batch(&mut self, info: &ClassInfo) -> usize {
        let most = info.batch_max as usize - 1;
        let first = (FIRST_BATCH_BYTES / info.size_bytes as usize).min(8);
        let batch = (self.batch as usize).max(first).min(most);
        self.batch = (batch * 2).clamp(1, most) as u8;
        batch
    }

    pub(super) fn begin_addr(&self, cid: Cid) -> usize {
        slab_addr(cid) + self.begin as usize * 8
    }

    pub(super) fn limits(&self, cid: Cid) -> u64 {
        let begin = self.begin_addr(cid);
        slab::limits((begin + self.slots as usize * 8) as u32, begin as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size_class::{class_of, info};

    /// Calls of `malloc` and `free` in turns until the class may have slots.
    fn misses_until_slots(size: usize) -> usize {
        let mut slots = ClassSlots::NONE;
        let turns = [Miss::Empty, Miss::Full].into_iter().cycle();
        let info = info(class_of(size));
        turns.take(1000).take_while(|miss| !slots.wants_more(info, *miss)).count()
    }

    #[test]
    fn large_classes_wait_for_their_first_slots_by_their_size() {
        assert_eq!([16, 1024, 8192].map(misses_until_slots), [0; 3]);
        assert_eq!(
            [16 << 10, 32 << 10, 64 << 10, 256 << 10].map(misses_until_slots),
            [1, 2, 4, 16]
        );
    }

    #[test]
    fn a_class_that_only_allocates_never_turns() {
        let (mut slots, info) = (ClassSlots::NONE, info(class_of(256 << 10)));
        assert!((0..1000).all(|_| !slots.wants_more(info, Miss::Empty)));
    }
}
