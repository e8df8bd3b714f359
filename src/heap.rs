//! The heap as C and Rust see it: everything but the hot path.
//!
//! All sizes and alignments are bytes. Nothing here sets errno or throws; the C
//! layer does.

#![allow(unsafe_code)]

use crate::alloc::{self, GROWN_BYTES, MOST_BYTES, large_block};
use crate::back::large;
use crate::back::page_map::PAGE_MAP;
use crate::check;
use crate::config::Config;
use crate::front::{heartbeat, process, stray};
use crate::middle::whole;
use crate::os::fault::{Fault, die};
use crate::os::refusal::{self, Refusals};
use crate::os::thread::Inside;
use crate::size_class::{self, class_of, class_of_aligned, info};
use crate::units::{ClassId, PAGE_BYTES, Pages};
use core::ptr::{null_mut, with_exposed_provenance_mut};

pub use crate::census::{Broken, Census, ClassCensus, Finding, Kind};
pub use crate::check::Told;
pub use crate::watch::stats;
pub use crate::watch::walk::walk;

/// A block of at least `size` bytes, at a multiple of 16 (8 for up to 8 bytes);
/// null when there is no memory.
#[inline(always)]
pub fn allocate(size: usize) -> *mut u8 {
    alloc::allocate(Told::C.sized(size))
}

/// Frees a block by its address alone.
///
/// # Safety
/// `ptr` is a live block, or null.
#[inline(always)]
pub unsafe fn free(ptr: *mut u8) {
    // SAFETY: the caller's duty.
    unsafe { alloc::free(ptr, Told::C) }
}

/// A hit of the sizes up to 1 KiB, in zeros; null else, when [`allocate_zeroed`]
/// must follow.
#[inline(always)]
pub fn allocate_zeroed_hit(size: usize) -> *mut u8 {
    match alloc::allocate_hit(size) {
        hit if hit.is_null() => hit,
        // SAFETY: a block of at least `size` bytes, just allocated.
        hit => unsafe { clear(hit, size) },
    }
}

/// A block of zeros; else as [`allocate`].
pub fn allocate_zeroed(size: usize) -> *mut u8 {
    zeroed(class_of(size), PAGE_BYTES, Told::C.sized(size))
}

/// A block of zeros at a multiple of `align`, a power of two.
pub fn allocate_zeroed_aligned(size: usize, align: usize) -> *mut u8 {
    allocate_zeroed_told(size, align, Told::C.aligned(align))
}

/// The same for a caller that tells more.
pub fn allocate_zeroed_told(size: usize, align: usize, told: Told) -> *mut u8 {
    zeroed(class_of_aligned(size, align), align.max(PAGE_BYTES), told.sized(size))
}

fn zeroed(class: ClassId, large_align: usize, told: Told) -> *mut u8 {
    let (size, told) = (told.size, told.zeroed());
    let (block, zero) = if class == ClassId::NONE {
        large_block(large_align, told)
    } else if whole::serves(class) {
        alloc::whole_object(class, told)
    } else {
        (alloc::allocate_class(class, told), false)
    };
    if block.is_null() || zero {
        return block;
    }
    // SAFETY: a block of at least `size` bytes, just allocated.
    unsafe { clear(block, size) }
}

/// Writes zeros and returns the block; small sizes in stores that overlap, as a
/// call costs more.
///
/// # Safety
/// `block` has `size` bytes.
#[inline(always)]
unsafe fn clear(block: *mut u8, size: usize) -> *mut u8 {
    const NARROW: usize = 16;
    // SAFETY: each store ends within `size` bytes.
    let store = |at: usize| unsafe { block.add(at).cast::<[u64; 2]>().write_unaligned([0; 2]) };
    if !(NARROW..=8 * NARROW).contains(&size) {
        // Its result is the block: no frame has to keep it.
        // SAFETY: the caller's duty.
        return unsafe { libc::memset(block.cast(), 0, size) }.cast();
    }
    // The first and the last bytes of as many stores as reach the middle.
    let ends = |n: usize| {
        store(n * NARROW);
        store(size - (n + 1) * NARROW);
    };
    ends(0);
    if size > 2 * NARROW {
        ends(1);
    }
    if size > 4 * NARROW {
        ends(2);
        ends(3);
    }
    block
}

/// A block at a multiple of `align`, a power of two; null when there is no
/// memory.
#[inline]
pub fn allocate_aligned(size: usize, align: usize) -> *mut u8 {
    allocate_told(size, align, Told::C.aligned(align))
}

/// The same for a caller that tells more.
#[inline]
pub fn allocate_told(size: usize, align: usize, told: Told) -> *mut u8 {
    let class = class_of_aligned(size, align);
    if class == ClassId::NONE {
        return large_block(align.max(PAGE_BYTES), told.sized(size)).0;
    }
    alloc::allocate_class(class, told.sized(size))
}

/// What follows when `alloc::allocate_aligned_hit` had nothing.
pub fn allocate_aligned_miss(size: usize, align: usize) -> *mut u8 {
    let told = Told::C.aligned(align).sized(size);
    match class_of_aligned(size, align) {
        ClassId::NONE => large_block(align.max(PAGE_BYTES), told).0,
        class => alloc::allocate_slow(size, align, told.family, class),
    }
}

/// Frees a block whose size and alignment the caller knows.
///
/// # Safety
/// `ptr` is a live block that was allocated, or last reallocated by
/// [`reallocate_aligned`], with this size and alignment.
#[inline]
pub unsafe fn free_sized(ptr: *mut u8, size: usize, align: usize) {
    // Every block is at a multiple of the default alignment: that is not told.
    let told = if align > 16 { Told::C.aligned(align) } else { Told::C };
    // SAFETY: the same arguments gave the block its class.
    unsafe { alloc::free_layout(ptr, align, told.sized(size)) }
}

/// Makes a block hold `size` bytes, as C's realloc: it may keep a class that
/// its new size would not get, so it must be freed by address. Null when there
/// is no memory: the block is unchanged.
///
/// # Safety
/// `ptr` is a live block; it is given up unless null is returned.
pub unsafe fn reallocate(ptr: *mut u8, size: usize) -> *mut u8 {
    let class = PAGE_MAP.class_of(ptr as usize);
    if PAGE_MAP.page_of(ptr as usize).is_none() {
        if let Some(block) = stray::reallocate(ptr as usize, size) {
            return block;
        }
    } else if check::is_on() {
        let old_bytes = check::size_of_block(ptr as usize, Told::C);
        // SAFETY: a live block of that size.
        return unsafe { replace(ptr, class, old_bytes, Told::C, 1, Told::C.sized(size)) };
    }
    // SAFETY: the caller's duty.
    let old = unsafe { usable_size(ptr) };
    // Shrinking to more than half is not worth a copy.
    if class != ClassId::NONE && size <= old && size > old / 2 {
        return ptr;
    }
    // SAFETY: the caller's duty.
    unsafe { resize(ptr, class, old, Told::C, 1, Told::C.sized(size)) }
}

/// As [`reallocate`] for a caller that frees by size: the block gets the class
/// that the new size and the alignment have.
///
/// # Safety
/// As [`reallocate`]; the block was allocated with `old_size` and `align`.
pub unsafe fn reallocate_aligned(
    ptr: *mut u8,
    old_size: usize,
    align: usize,
    size: usize,
) -> *mut u8 {
    // SAFETY: the caller's duty.
    unsafe { reallocate_told(ptr, align, Told::C.sized(old_size).aligned(align), size) }
}

/// The same for a caller that tells more, the old size too.
///
/// # Safety
/// As [`reallocate_aligned`].
pub unsafe fn reallocate_told(ptr: *mut u8, align: usize, old: Told, size: usize) -> *mut u8 {
    let old_class = if old.size > GROWN_BYTES {
        PAGE_MAP.class_of(ptr as usize)
    } else {
        class_of_aligned(old.size, align)
    };
    if check::is_on() && PAGE_MAP.page_of(ptr as usize).is_some() {
        check::size_of_block(ptr as usize, old);
        // SAFETY: a live block of the size told.
        return unsafe { replace(ptr, old_class, old.size, old, align, old.sized(size)) };
    }
    let class = class_of_aligned(size, align);
    if old_class == class && class != ClassId::NONE {
        return ptr;
    }
    // SAFETY: the caller's duty.
    unsafe { resize(ptr, old_class, old.size, old, align, old.sized(size)) }
}

/// Resizes to another class, or a large block: `old` is what a free tells of the
/// block, which has `old_bytes`, and `new` what an allocation does.
unsafe fn resize(
    ptr: *mut u8,
    old_class: ClassId,
    old_bytes: usize,
    old: Told,
    align: usize,
    new: Told,
) -> *mut u8 {
    if new.size > MOST_BYTES {
        return null_mut();
    }
    // A move keeps no alignment above a page.
    if align > PAGE_BYTES || new.size <= GROWN_BYTES {
        // SAFETY: the caller's duty.
        return unsafe { replace(ptr, old_class, old_bytes, old, align, new) };
    }
    // What is cut down to less than half goes to a place of its size: where it grew,
    // it would stand in the way of the next block that grows.
    let cut = new.size < old_bytes / 2 && new.size <= size_class::MAX_BYTES;
    if old_class == ClassId::NONE && !cut {
        if let Some(moved) = resize_large(ptr, new.size) {
            return moved;
        }
    }
    if new.size <= old_bytes {
        // SAFETY: the caller's duty.
        return unsafe { replace(ptr, old_class, old_bytes, old, align, new) };
    }
    // What has grown may grow again.
    // SAFETY: the caller's duty.
    unsafe { copy_into(alloc::growing_block(new), ptr, old_class, old_bytes, old, new) }
}

/// Copies a block into a new one, and frees it if there is one. Out of line: in the
/// checking mode, whose calls have nothing else, no section ever runs, and
/// copies of them there could not be tested.
#[inline(never)]
unsafe fn replace(
    ptr: *mut u8,
    old_class: ClassId,
    old_bytes: usize,
    old: Told,
    align: usize,
    new: Told,
) -> *mut u8 {
    let block = allocate_told(new.size, align, new);
    // SAFETY: the caller's duty.
    unsafe { copy_into(block, ptr, old_class, old_bytes, old, new) }
}

/// Copies a block into a new one and frees it, unless the new one is null;
/// returns the new one.
unsafe fn copy_into(
    block: *mut u8,
    ptr: *mut u8,
    old_class: ClassId,
    old_bytes: usize,
    old: Told,
    new: Told,
) -> *mut u8 {
    if !block.is_null() {
        // SAFETY: two live blocks, each at least this long.
        unsafe {
            core::ptr::copy_nonoverlapping(ptr, block, old_bytes.min(new.size));
            alloc::free_class(old_class, ptr, old);
        }
    }
    block
}

/// Resizes a large block without copying; `None` if it must be copied.
fn resize_large(ptr: *mut u8, size: usize) -> Option<*mut u8> {
    let addr = ptr as usize;
    PAGE_MAP.page_of(addr)?;
    let _inside = Inside::enter()?;
    match large::resize(addr, size) {
        Ok(moved) => moved.map(with_exposed_provenance_mut),
        Err(fault) => die(fault, addr),
    }
}

/// The bytes of a block that its owner may use: constant while it lives.
///
/// # Safety
/// `ptr` is a live block.
pub unsafe fn usable_size(ptr: *mut u8) -> usize {
    if check::is_on() && PAGE_MAP.page_of(ptr as usize).is_some() {
        return check::size_of_block(ptr as usize, Told::NOTHING);
    }
    match PAGE_MAP.class_of(ptr as usize) {
        ClassId::NONE => match large::usable_size(ptr as usize) {
            Ok(len_bytes) => len_bytes,
            Err(fault) => stray::usable_size(ptr as usize)
                .filter(|_| fault == Fault::Foreign)
                .unwrap_or_else(|| die(fault, ptr as usize)),
        },
        class => info(class).size_bytes as usize,
    }
}

/// What [`usable_size`] would say of a block of this size and alignment; 0 for
/// a size that cannot be had.
pub fn good_size(size: usize, align: usize) -> usize {
    match class_of_aligned(size, align) {
        ClassId::NONE if size > MOST_BYTES => 0,
        _ if check::is_on() => size,
        ClassId::NONE => Pages::holding(size.max(1)).map_or(0, Pages::bytes),
        class => info(class).size_bytes as usize,
    }
}

/// In the checking mode, looks at every block, live or freed and kept, and ends
/// the process if one is damaged. Else nothing.
pub fn check() {
    check::verify_all();
}

/// Gives all free memory back to the kernel now; whether there was any. In the
/// checking mode freed blocks are kept no longer.
pub fn trim() -> bool {
    let Some(_inside) = Inside::enter() else { return false };
    check::let_go();
    process::get().is_some_and(heartbeat::release_all)
}

/// The options in force, `None` where there was no memory even for that, or in a
/// handler that interrupts the initialisation.
pub fn config() -> Option<&'static Config> {
    let start = || {
        let _inside = Inside::enter()?;
        process::get()
    };
    process::peek().or_else(start).map(|process| &process.config)
}

pub use crate::front::stray::{Neighbour, set_neighbour};

/// Refuses system calls as the option `CIDALLOC_FAIL` does, whose value `how` is;
/// how many the refusals before have refused. `None` if it is not understood.
///
/// For tests, in this process and from now on.
#[doc(hidden)]
pub fn fail(how: &[u8]) -> Option<u64> {
    Refusals::parse(how).map(refusal::set)
}

/// The largest size served from classes, in bytes.
pub const CLASS_MAX_BYTES: usize = size_class::MAX_BYTES;
