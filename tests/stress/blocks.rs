//! Blocks that know their owner, and what they are drawn from.

use crate::ALLOCATOR;
use std::alloc::{GlobalAlloc, Layout};

/// A live block; its pattern is known to its holder alone.
pub struct Block {
    ptr: *mut u8,
    layout: Layout,
    pattern: u64,
}

// SAFETY: a block is plain memory, held by one thread at a time.
unsafe impl Send for Block {}

impl Block {
    pub fn new(random: &mut Random, size: usize) -> Block {
        let align = if random.one_in(16) { 1 << random.below(13) } else { 8 };
        let layout = Layout::from_size_align(size.max(1), align).unwrap();
        let zeroed = random.one_in(8);
        // SAFETY: the layout's size is above zero.
        let ptr = unsafe {
            match zeroed {
                true => ALLOCATOR.alloc_zeroed(layout),
                false => ALLOCATOR.alloc(layout),
            }
        };
        assert!(!ptr.is_null() && ptr.addr() % align == 0, "{layout:?} got {ptr:p}");
        let block = Block { ptr, layout, pattern: random.next() | 1 };
        if zeroed {
            block.each_word(|found, _| assert_eq!(found, 0, "{layout:?} at {ptr:p} not zeroed"));
        }
        block.fill();
        block
    }

    /// `n` blocks of random sizes up to `most`.
    pub fn several(random: &mut Random, n: usize, most: usize) -> Vec<Block> {
        let mut one = || {
            let size = random.size().min(most);
            Block::new(random, size)
        };
        (0..n).map(|_| one()).collect()
    }

    /// Calls `f` with the content and the due content of each whole word (of
    /// large blocks, one word in 512).
    fn each_word(&self, mut f: impl FnMut(u64, u64)) {
        for at in self.words() {
            // SAFETY: within the block.
            f(unsafe { self.ptr.add(at).cast::<u64>().read_unaligned() }, self.due(at));
        }
    }

    fn words(&self) -> impl Iterator<Item = usize> + use<> {
        let step = if self.layout.size() > 64 << 10 { 4096 } else { 8 };
        (0..self.layout.size() & !7).step_by(step)
    }

    fn due(&self, at: usize) -> u64 {
        self.pattern.rotate_left(at as u32 / 8).wrapping_add(at as u64)
    }

    fn fill(&self) {
        for at in self.words() {
            // SAFETY: within the block, which is ours.
            unsafe { self.ptr.add(at).cast::<u64>().write_unaligned(self.due(at)) };
        }
    }

    fn check(&self) {
        self.each_word(|found, due| {
            assert_eq!(found, due, "{:?} at {:p} was another's too", self.layout, self.ptr);
        });
    }

    pub fn resize(&mut self, size: usize) {
        self.check();
        // SAFETY: the block's layout; a size above zero.
        let ptr = unsafe { ALLOCATOR.realloc(self.ptr, self.layout, size) };
        assert!(!ptr.is_null(), "no memory for {size} bytes");
        let kept = size.min(self.layout.size());
        for at in self.words().take_while(|at| at + 8 <= kept) {
            // SAFETY: within the block.
            let found = unsafe { ptr.add(at).cast::<u64>().read_unaligned() };
            assert_eq!(found, self.due(at), "lost between {:p} and {ptr:p} at {at}", self.ptr);
        }
        self.ptr = ptr;
        self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        self.fill();
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.check();
        // SAFETY: the block's own layout; freed once, here.
        unsafe {
            match self.pattern & 2 {
                0 => ALLOCATOR.dealloc(self.ptr, self.layout),
                _ => cidalloc::heap::free(self.ptr),
            }
        }
    }
}

pub struct Random(u64);

impl Random {
    pub fn new(seed: usize) -> Random {
        Random((seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 32) as usize % bound
    }
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    /// Mostly 8 bytes to 1 KiB; now and then up to 64 KiB, seldom up to 2 MiB.
    pub fn size(&mut self) -> usize {
        let bits = match self.below(1000) {
            0 => 21,
            1..=10 => 16,
            11..=100 => 13,
            _ => 10,
        };
        let shift = 3 + self.below(bits - 2);
        (1 << shift) + self.below(1 << shift)
    }
}
