//! `#[global_allocator]`.

#![allow(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};

/// The allocator of a Rust program:
///
/// ```
/// #[global_allocator]
/// static A: cidalloc::CidAlloc = cidalloc::CidAlloc;
/// # fn main() {}
/// ```
///
/// Frees use the layout's size and never look the block up. On targets other
/// than 64-bit Linux on x86_64 and aarch64 it is [`std::alloc::System`].
#[derive(Clone, Copy, Debug, Default)]
pub struct CidAlloc;

#[cfg(cidalloc_native)]
mod native {
    use super::*;
    use crate::alloc;
    use crate::heap::{self, Told};

    #[inline(always)]
    fn told(layout: Layout) -> Told {
        Told::RUST.sized(layout.size()).aligned(layout.align())
    }

    // SAFETY: blocks are unique, as large and aligned as asked for, and keep
    // their class from allocation to the free with the same layout.
    unsafe impl GlobalAlloc for CidAlloc {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            if layout.align() <= 8 {
                return alloc::allocate_known(told(layout));
            }
            heap::allocate_told(layout.size(), layout.align(), told(layout))
        }

        unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
            // SAFETY: the caller's duty: the layout is the block's.
            unsafe { alloc::free_known(ptr, layout.align(), told(layout)) }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            heap::allocate_zeroed_told(layout.size(), layout.align(), told(layout))
        }

        unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
            // SAFETY: the caller's duty.
            unsafe { heap::reallocate_told(ptr, layout.align(), told(layout), new_size) }
        }
    }
}

#[cfg(not(cidalloc_native))]
mod other {
    use super::*;
    use std::alloc::System;

    // SAFETY: passes everything through.
    unsafe impl GlobalAlloc for CidAlloc {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller's duty, here and below.
            unsafe { System.alloc(layout) }
        }
        unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
            // SAFETY: as above.
            unsafe { System.dealloc(ptr, layout) }
        }
        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            // SAFETY: as above.
            unsafe { System.alloc_zeroed(layout) }
        }
        unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
            // SAFETY: as above.
            unsafe { System.realloc(ptr, layout, new_size) }
        }
    }
}
