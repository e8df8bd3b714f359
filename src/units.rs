//! Units as types: a page count never meets a byte count by accident.
//!
//! "Page" is ours (8 KiB, the unit of spans); "OS page" is the kernel's;
//! "hugepage" is 2 MiB, the unit in which memory is obtained and returned.

use crate::size_class;

/// Bytes of one page.
pub const PAGE_BYTES: usize = size_class::PAGE_BYTES;
pub const PAGE_SHIFT: u32 = PAGE_BYTES.trailing_zeros();
/// Bytes of one hugepage.
pub const HUGE_BYTES: usize = 2 << 20;
pub const HUGE_SHIFT: u32 = HUGE_BYTES.trailing_zeros();
/// Pages in a hugepage.
pub const PAGES_PER_HUGE: u32 = (HUGE_BYTES / PAGE_BYTES) as u32;

const _: () = assert!(PAGE_BYTES.is_power_of_two());

/// A number of pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Pages(pub u32);

/// A page's index from the arena's base.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PageId(pub u32);

/// A hugepage's index from the arena's base.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HugeId(pub u32);

/// A size class; 0 is "none".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ClassId(pub u8);

/// The index of a slab: a concurrency id, a CPU number, or a shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cid(pub u32);

impl Pages {
    /// The pages that hold `len_bytes`, or `None` where they cannot be counted.
    pub fn holding(len_bytes: usize) -> Option<Pages> {
        u32::try_from(len_bytes.div_ceil(PAGE_BYTES)).ok().map(Pages)
    }
    pub const fn bytes(self) -> usize {
        self.0 as usize * PAGE_BYTES
    }
}

impl PageId {
    pub fn huge(self) -> HugeId {
        HugeId(self.0 / PAGES_PER_HUGE)
    }
    /// Position within the hugepage.
    pub fn within(self) -> u32 {
        self.0 % PAGES_PER_HUGE
    }
    pub fn plus(self, n: u32) -> PageId {
        PageId(self.0 + n)
    }
}

impl HugeId {
    pub fn first_page(self) -> PageId {
        PageId(self.0 * PAGES_PER_HUGE)
    }
}

impl ClassId {
    pub const NONE: ClassId = ClassId(0);
    pub fn index(self) -> usize {
        self.0 as usize
    }
    /// Every class that holds objects.
    pub fn all() -> impl Iterator<Item = ClassId> {
        (1..size_class::COUNT as u8).map(ClassId)
    }
}
