//! Memory that blocks will take when they are touched for the first time.
//!
//! A block that grows by a copy of the program's own is taken at twice the length,
//! say, and half filled from the old one, which is then freed. Kept warm, the old
//! one's memory would come on top of what the rest of the new one is about to take.
//! So as much warm memory goes back at that moment.
//!
//! Only blocks of cold memory count, and each hugepage once: no more goes back this
//! way than was taken from the kernel.
//! Guarded by the page heap's lock.

/// In hugepages.
#[derive(Debug)]
pub struct Expected {
    hugepages: u32,
    /// Looks since the last block was counted.
    age: u32,
}

impl Expected {
    pub const NONE: Expected = Expected { hugepages: 0, age: 0 };
    /// Less is not worth a call.
    const LEAST: u32 = 4;
    /// After so many looks blocks are thought to be touched as far as they ever
    /// will be.
    const LOOKS: u32 = 8;

    /// A block with so many cold hugepages was made.
    pub fn count(&mut self, whole: u32) {
        if whole >= Expected::LEAST {
            self.hugepages = self.hugepages.saturating_add(whole);
            self.age = 0;
        }
    }

    /// A block of so many hugepages is freed: its contents may have been copied,
    /// or it was the new one. Takes and returns what is still expected, `most` at
    /// the most.
    pub fn after_free(&mut self, whole: u32, most: u32) -> u32 {
        if whole < Expected::LEAST {
            return 0;
        }
        self.hugepages = self.hugepages.saturating_sub(whole);
        let taken = self.hugepages.min(most);
        self.hugepages -= taken;
        taken
    }

    /// Time passes: the heartbeat has looked.
    pub fn grow_older(&mut self) {
        self.age += 1;
        if self.age >= Expected::LOOKS {
            *self = Expected::NONE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_growing_block_leaves_makes_room_for_the_rest() {
        let mut expected = Expected::NONE;
        // 16 hugepages grow to 32: half of those are filled from the old ones.
        expected.count(32);
        assert_eq!(expected.after_free(16, 100), 16);
        assert_eq!(expected.after_free(16, 100), 0, "each once");
        // A new block that is freed itself expects nothing.
        expected.count(32);
        assert_eq!(expected.after_free(32, 100), 0);
        // Two grow at once, and there is less to give back.
        expected.count(8);
        expected.count(8);
        assert_eq!((expected.after_free(4, 4), expected.after_free(4, 4)), (4, 4));
        // Small blocks are of no matter, and old ones have been touched.
        expected.count(3);
        expected.count(100);
        assert_eq!(expected.after_free(3, 100), 0);
        (0..Expected::LOOKS).for_each(|_| expected.grow_older());
        assert_eq!(expected.after_free(10, 100), 0);
    }
}
