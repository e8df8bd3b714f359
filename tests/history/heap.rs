//! What a history runs on: the allocator, or one with a planted fault.

use std::alloc::{GlobalAlloc, Layout};

/// The operations of `cidalloc::heap`, with the duties of their callers: the
/// model, the only caller, passes live blocks and the sizes they were asked with.
pub trait Heap: Sync {
    fn allocate(&self, size: usize) -> *mut u8;
    fn allocate_zeroed(&self, size: usize) -> *mut u8;
    fn allocate_aligned(&self, size: usize, align: usize) -> *mut u8;
    fn alloc(&self, layout: Layout, zeroed: bool) -> *mut u8;
    fn free(&self, ptr: *mut u8);
    fn free_sized(&self, ptr: *mut u8, size: usize, align: usize);
    fn dealloc(&self, ptr: *mut u8, layout: Layout);
    fn reallocate(&self, ptr: *mut u8, new_size: usize) -> *mut u8;
    fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8;
    fn usable_size(&self, ptr: *mut u8) -> usize;
    fn good_size(&self, size: usize, align: usize) -> usize;
    fn trim(&self);
    /// Blocks that are handed out, or `None` where the heap cannot tell.
    fn live_blocks(&self) -> Option<u64>;
}

/// The allocator under test.
pub struct Cidalloc;

// SAFETY of every block below: `Heap`'s caller passes live blocks of this
// heap, with the sizes and layouts they were allocated with.
impl Heap for Cidalloc {
    fn allocate(&self, size: usize) -> *mut u8 {
        cidalloc::heap::allocate(size)
    }
    fn allocate_zeroed(&self, size: usize) -> *mut u8 {
        cidalloc::heap::allocate_zeroed(size)
    }
    fn allocate_aligned(&self, size: usize, align: usize) -> *mut u8 {
        cidalloc::heap::allocate_aligned(size, align)
    }
    fn alloc(&self, layout: Layout, zeroed: bool) -> *mut u8 {
        match zeroed {
            true => unsafe { cidalloc::CidAlloc.alloc_zeroed(layout) },
            false => unsafe { cidalloc::CidAlloc.alloc(layout) },
        }
    }
    fn free(&self, ptr: *mut u8) {
        unsafe { cidalloc::heap::free(ptr) }
    }
    fn free_sized(&self, ptr: *mut u8, size: usize, align: usize) {
        unsafe { cidalloc::heap::free_sized(ptr, size, align) }
    }
    fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        unsafe { cidalloc::CidAlloc.dealloc(ptr, layout) }
    }
    fn reallocate(&self, ptr: *mut u8, new_size: usize) -> *mut u8 {
        unsafe { cidalloc::heap::reallocate(ptr, new_size) }
    }
    fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        unsafe { cidalloc::CidAlloc.realloc(ptr, layout, new_size) }
    }
    fn usable_size(&self, ptr: *mut u8) -> usize {
        unsafe { cidalloc::heap::usable_size(ptr) }
    }
    fn good_size(&self, size: usize, align: usize) -> usize {
        cidalloc::heap::good_size(size, align)
    }
    fn trim(&self) {
        cidalloc::heap::trim();
    }
    fn live_blocks(&self) -> Option<u64> {
        if super::mode::Mode::current() == Some(super::mode::Mode::Checking) {
            self.trim(); // freed blocks that are kept are in use to the statistics
        }
        let stats = cidalloc::heap::stats::Stats::collect();
        Some(super::mode::live_objects(&stats).iter().sum::<u64>() + stats.large_blocks as u64)
    }
}
