//! Large blocks just freed, kept as they are for the next request of the same
//! length: a program that allocates and frees one block in turn changes nothing
//! but the page map's entry.
//!
//! A kept block is no block to anybody else: it is out of the page map, its pages
//! are not in use, and its record is here alone. It becomes free pages as soon as
//! those would be of use to anybody: before other memory is taken for a request
//! that has found no room, and at the next beat.
//! Guarded by the page heap's lock.

use crate::units::Pages;

/// Blocks kept at once.
const BLOCKS: usize = 4;
/// The longest block that is kept: 4 MiB.
const PAGES_MOST: u32 = 512;

#[derive(Clone, Copy, Debug)]
struct Kept {
    /// The record's unit; 0 for none.
    unit: u32,
    pages: Pages,
}

#[derive(Debug)]
pub struct KeptBlocks {
    blocks: [Kept; BLOCKS],
    /// Where the next block goes.
    next: usize,
    /// The sum of the blocks' pages.
    pub pages: u32,
}

impl KeptBlocks {
    pub const EMPTY: KeptBlocks =
        KeptBlocks { blocks: [Kept { unit: 0, pages: Pages(0) }; BLOCKS], next: 0, pages: 0 };

    /// Keeps a block; returns the one that must be freed instead: the oldest,
    /// this one if it is too long, or none.
    pub fn put(&mut self, unit: u32, pages: Pages) -> Option<u32> {
        let Some(place) = self.blocks.get_mut(self.next).filter(|_| pages.0 <= PAGES_MOST) else {
            return Some(unit);
        };
        let old = core::mem::replace(place, Kept { unit, pages });
        self.next = (self.next + 1) % BLOCKS;
        self.pages += pages.0;
        self.pages -= old.pages.0;
        (old.unit != 0).then_some(old.unit)
    }

    /// Takes out a block of exactly so many pages; its record's unit.
    pub fn take(&mut self, pages: Pages) -> Option<u32> {
        let i = self.blocks.iter().position(|kept| kept.pages == pages)?;
        self.take_out(i)
    }

    /// Takes out any block.
    pub fn take_any(&mut self) -> Option<u32> {
        let i = self.blocks.iter().position(|kept| kept.unit != 0)?;
        self.take_out(i)
    }

    fn take_out(&mut self, i: usize) -> Option<u32> {
        let place = self.blocks.get_mut(i)?;
        let kept = core::mem::replace(place, Kept { unit: 0, pages: Pages(0) });
        self.pages -= kept.pages.0;
        // The place is the next one to be filled.
        self.next = i;
        Some(kept.unit)
    }

    /// The records' units.
    pub fn units(&self) -> impl Iterator<Item = u32> + '_ {
        self.blocks.iter().map(|kept| kept.unit).filter(|unit| *unit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn kept_blocks_agree_with_a_list() {
        let mut kept = KeptBlocks::EMPTY;
        let mut model: Vec<(u32, u32)> = Vec::new();
        let mut seed = 5u32;
        for unit in 1..3_000 {
            seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
            let pages = 1 + (seed >> 20) % 6 + if seed >> 29 == 0 { PAGES_MOST } else { 0 };
            match (seed >> 8) % 4 {
                0 => {
                    let taken = kept.take(Pages(pages));
                    assert_eq!(taken.is_some(), model.iter().any(|m| m.1 == pages));
                    model.retain(|m| Some(m.0) != taken);
                }
                1 => {
                    let taken = kept.take_any();
                    assert_eq!(taken.is_some(), !model.is_empty());
                    model.retain(|m| Some(m.0) != taken);
                }
                _ => {
                    let freed = kept.put(unit, Pages(pages));
                    assert_eq!(freed == Some(unit), pages > PAGES_MOST);
                    model.push((unit, pages));
                    model.retain(|m| Some(m.0) != freed);
                }
            }
            assert!(model.len() <= BLOCKS);
            let mut units: Vec<u32> = kept.units().collect();
            units.sort();
            assert_eq!(units, model.iter().map(|m| m.0).collect::<Vec<_>>());
            assert_eq!(kept.pages, model.iter().map(|m| m.1).sum());
        }
    }
}
