//! The hot path: allocation and free of one block.
//!
//! ```text
//! allocate ─ class_of ─ pop ── hit: the instructions are counted by a golden file
//!   └ allocate_slow ─ take_in │ pop │ refill │ large::allocate │ check
//! free ─ PageMap ─ push ────── hit
//!   └ free_slow ─ take_in │ push │ overflow │ large::free │ stray │ check
//! ```
//! A slow path that finds its own thread inside another one (a signal handler
//! interrupted it) takes no lock: it allocates aside, and defers frees.
//! In the checking mode every operation misses, and its slow half goes to `check`.
//! The fast halves have no state of their own: a thread that is not taken in, a
//! stopped slab, an empty one, a large size and a foreign pointer all end in
//! the same miss.

#![allow(unsafe_code)]

use crate::back::aside;
use crate::back::large::{self, Room};
use crate::back::page_map::PAGE_MAP;
use crate::check;
use crate::front::process::{self, Process};
use crate::front::{cpu_cache, deferred, heartbeat, sections, slab, stray, take_in, vigil};
use crate::middle::whole;
use crate::os::fault::{Fault, die, die_knowing};
use crate::os::thread::{Inside, ThreadWords};
use crate::size_class::{self, class_of};
use crate::units::ClassId;
use crate::watch::counters;
use core::ptr::{null_mut, with_exposed_provenance_mut};

pub use crate::check::{Family, Told};

/// The largest block: no object may be larger than the address range's half.
pub const MOST_BYTES: usize = isize::MAX as usize;

/// A block that realloc makes longer than this is a large one, with room to grow
/// in place: its class does not follow from its size.
pub const GROWN_BYTES: usize = 16 << 10;

/// A block of at least as many bytes as told, at a multiple of 16 (8 for up to 8
/// bytes); null when there is no memory.
#[inline(always)]
pub fn allocate(told: Told) -> *mut u8 {
    match allocate_hit(told.size) {
        hit if hit.is_null() => allocate_rest(told.size, told.align, told.family),
        hit => hit,
    }
}

/// A hit of the sizes up to 1 KiB; null else, when [`allocate_rest`] must follow.
#[inline(always)]
pub fn allocate_hit(size: usize) -> *mut u8 {
    match slab::class_at_fine(size) {
        Some(class_at) => with_exposed_provenance_mut(sections::pop(class_at)),
        None => null_mut(),
    }
}

/// As [`allocate`] for callers whose size the compiler mostly knows, or knows nothing
/// of: the classes above 1 KiB are in line, too, and no branch is between them and the
/// small ones, which sizes at random would have guessed wrong.
#[inline(always)]
pub fn allocate_known(told: Told) -> *mut u8 {
    let hit = match slab::class_at_any(told.size) {
        Some(class_at) => sections::pop(class_at),
        None => 0,
    };
    if hit == 0 {
        return allocate_miss(told.size, told.align, told.family);
    }
    with_exposed_provenance_mut(hit)
}

/// A hit of any class that has multiples of `align`; null else, and if `align` is no
/// power of two, when `heap::allocate_aligned_miss` must follow.
#[inline(always)]
pub fn allocate_aligned_hit(size: usize, align: usize) -> *mut u8 {
    let class = size_class::class_of_any_align(size, align);
    if class == ClassId::NONE {
        return null_mut();
    }
    with_exposed_provenance_mut(sections::pop(slab::class_at(class)))
}

/// What follows when [`allocate_hit`] had nothing: a hit of the larger classes;
/// null else, when [`allocate_miss`] must follow. To be called out of line, so that
/// the way to the small ones is short.
#[inline(always)]
pub fn allocate_hit_rest(size: usize) -> *mut u8 {
    if size <= size_class::FINE_MAX_BYTES || size > size_class::MAX_BYTES {
        return null_mut();
    }
    with_exposed_provenance_mut(sections::pop(slab::class_at(class_of(size))))
}

/// What follows when neither had anything.
#[inline(always)]
pub fn allocate_miss(size: usize, align: usize, family: Family) -> *mut u8 {
    allocate_slow(size, align, family, class_of(size))
}

#[inline(never)]
fn allocate_rest(size: usize, align: usize, family: Family) -> *mut u8 {
    match allocate_hit_rest(size) {
        hit if hit.is_null() => allocate_miss(size, align, family),
        hit => hit,
    }
}

/// As [`allocate`], of a class known already; what is told is used where it is
/// NONE.
#[inline(always)]
pub fn allocate_class(class: ClassId, told: Told) -> *mut u8 {
    match sections::pop(slab::class_at(class)) {
        0 => allocate_slow(told.size, told.align, told.family, class),
        object => with_exposed_provenance_mut(object),
    }
}

/// Frees a block by its address alone.
///
/// # Safety
/// `ptr` is a live block, or null.
#[inline(always)]
pub unsafe fn free(ptr: *mut u8, told: Told) {
    match PAGE_MAP.class_at(ptr as usize) {
        // SAFETY: a live block of the class that its page says. The header of
        // class NONE is never in use: large pointers miss.
        Some(class) => unsafe { free_class(class, ptr, told) },
        // SAFETY: the caller's duty.
        None => unsafe { free_slow(ptr, told.size, told.align, told.family, ClassId::NONE) },
    }
}

/// Frees a block whose class is known from its size.
///
/// # Safety
/// `ptr` is a live block of the class (NONE: a large one).
#[inline(always)]
pub unsafe fn free_class(class: ClassId, ptr: *mut u8, told: Told) {
    // SAFETY: the caller's duty.
    if !unsafe { sections::push(slab::class_at(class), ptr as usize) } {
        // SAFETY: the caller's duty.
        unsafe { free_slow(ptr, told.size, told.align, told.family, class) }
    }
}

/// Frees a block whose size, as told, and alignment are known.
///
/// # Safety
/// `ptr` is a live block that got its class from this size and alignment.
#[inline(always)]
pub unsafe fn free_layout(ptr: *mut u8, align: usize, told: Told) {
    match size_class::class_of_fine(told.size) {
        // SAFETY: the caller's duty.
        Some(class) if align <= 8 => unsafe { free_class(class, ptr, told) },
        // SAFETY: the caller's duty.
        _ => unsafe { free_layout_rest(ptr, told.size, align, told.align, told.family) },
    }
}

/// [`free_layout`] for callers as those of [`allocate_known`].
///
/// # Safety
/// As [`free_layout`].
#[inline(always)]
pub unsafe fn free_known(ptr: *mut u8, align: usize, told: Told) {
    let class_at = slab::class_at_any(told.size).filter(|_| told.size <= GROWN_BYTES && align <= 8);
    let Some(class_at) = class_at else {
        // SAFETY: the caller's duty.
        return unsafe { free_layout_rest(ptr, told.size, align, told.align, told.family) };
    };
    // SAFETY: the caller's duty.
    if !unsafe { sections::push(class_at, ptr as usize) } {
        // SAFETY: the caller's duty.
        unsafe { free_slow(ptr, told.size, told.align, told.family, class_of(told.size)) }
    }
}

/// [`free_layout`] of larger classes and alignments, out of line.
#[inline(never)]
unsafe fn free_layout_rest(
    ptr: *mut u8,
    size: usize,
    align: usize,
    told_align: usize,
    family: Family,
) {
    let told = Told::of(size, told_align, family);
    if size > GROWN_BYTES {
        // SAFETY: the caller's duty.
        return unsafe { free_grown(ptr, told) };
    }
    let class = size_class::class_of_aligned(size, align);
    if class == ClassId::NONE {
        // SAFETY: the caller's duty.
        return unsafe { free_slow(ptr, size, told_align, family, class) };
    }
    // SAFETY: the caller's duty.
    unsafe { free_class(class, ptr, told) }
}

/// Frees a block that realloc may have made a large one. Out of line: one copy of
/// the section for all that come here.
#[inline(never)]
unsafe fn free_grown(ptr: *mut u8, told: Told) {
    // SAFETY: the caller's duty.
    unsafe { free(ptr, told) }
}

/// The arguments of the slow halves stand in the order in which callers have
/// them in registers.
#[cold]
#[inline(never)]
pub fn allocate_slow(size: usize, align: usize, family: Family, class: ClassId) -> *mut u8 {
    let told = Told::of(size, align, family);
    if class == ClassId::NONE {
        return large_block(size_class::PAGE_BYTES, told).0;
    }
    match vigil::pop(class) {
        0 => allocate_missed(class, told),
        object => with_exposed_provenance_mut(object),
    }
}

#[inline(never)]
fn allocate_missed(class: ClassId, told: Told) -> *mut u8 {
    let (size, align) = size_and_align(class);
    allocate_inside(size, align, told, |process, words| {
        // A thread just taken in, or one that never uses the fast path, has not
        // looked into the slab yet; for others the look is cheap beside a refill.
        match cpu_cache::pop(words, class) {
            0 => (cpu_cache::refill(process, words, class), false),
            object => (object, false),
        }
    })
    .0
}

fn size_and_align(class: ClassId) -> (usize, usize) {
    (size_class::info(class).size_bytes as usize, size_class::align_of(class))
}

/// The slow halves' common way: `take` finds a block, 0 for none, and whether it is
/// zero. Where the thread is inside already, the block of `size` bytes at a
/// multiple of `align` comes from aside; in the checking mode, from there.
#[inline(always)]
fn allocate_inside(
    size: usize,
    align: usize,
    told: Told,
    take: impl FnOnce(&Process, &ThreadWords) -> (usize, bool),
) -> (*mut u8, bool) {
    crate::fork::install();
    let Some(_inside) = Inside::enter() else { return (aside::allocate(size, align), false) };
    let Some(process) = process::get() else { return (null_mut(), false) };
    let words = take_in::words(process);
    free_deferred(process, words);
    let (object, zero) = match process.config.check {
        true => checked_block(process, told),
        false => take(process, words),
    };
    if object != 0 {
        counters::count_allocation(process);
    }
    vigil::look(process, words);
    (with_exposed_provenance_mut(object), zero)
}

/// # Safety
/// `ptr` is a live block of the class, or null; anything else is diagnosed as
/// far as the records tell.
#[cold]
#[inline(never)]
pub unsafe fn free_slow(ptr: *mut u8, size: usize, align: usize, family: Family, class: ClassId) {
    let told = Told::of(size, align, family);
    if ptr.is_null() {
        return;
    }
    let addr = ptr as usize;
    // SAFETY: the caller's duty.
    if unsafe { vigil::push(class, addr) } {
        return;
    }
    free_missed(addr, class, told);
}

#[inline(never)]
fn free_missed(addr: usize, class: ClassId, told: Told) {
    if PAGE_MAP.page_of(addr).is_none() {
        if !stray::free(addr) {
            die(Fault::Foreign, addr);
        }
        return;
    }
    let Some(_inside) = Inside::enter() else { return put_off(addr, told) };
    let Some(process) = process::get() else { die(Fault::Foreign, addr) };
    let words = take_in::words(process);
    free_deferred(process, words);
    if check::is_on() {
        counters::count_free(process);
        heartbeat::count_large(process);
        return check::free(addr, told);
    }
    free_inside(process, words, class, addr);
    vigil::look(process, words);
}

/// Frees later what cannot be freed now: the thread is inside already.
fn put_off(addr: usize, told: Told) {
    deferred::put(if check::is_on() { check::defer(addr, told) } else { addr });
}

/// Frees a pointer into the arena; the thread is inside.
fn free_inside(process: &Process, words: &ThreadWords, class: ClassId, addr: usize) {
    counters::count_free(process);
    if class == ClassId::NONE {
        heartbeat::count_large(process);
        if let Err(fault) = large::free(addr) {
            die(fault, addr);
        }
        return;
    }
    check_small(addr, class);
    // SAFETY: a block of the class, as checked.
    unsafe {
        if !cpu_cache::push(words, class, addr) {
            cpu_cache::overflow(process, words, class, addr);
        }
    }
}

/// Frees what was freed where it could not be done.
pub fn free_deferred(process: &Process, words: &ThreadWords) {
    deferred::each(|addr| match check::is_on() {
        true => {
            counters::count_free(process);
            check::free_deferred(addr);
        }
        false => free_inside(process, words, PAGE_MAP.class_of(addr), addr),
    });
}

/// Dies if `addr` is no object of the class, as far as can be told unlocked.
fn check_small(addr: usize, class: ClassId) {
    let span = crate::back::span::span_of(addr).unwrap_or_else(|fault| die(fault, addr));
    // SAFETY: the record of a live block's span does not change under it.
    let (base, of) = unsafe { ((*span).addr(), (*span).class) };
    let fault = if of != class {
        Fault::NotAllocated
    } else if size_class::info(class).object_index(addr.wrapping_sub(base)).is_none() {
        Fault::Interior
    } else {
        return;
    };
    let size = size_class::info(of).size_bytes;
    die_knowing(fault, addr, format_args!(", in the class of {size} bytes"));
}

/// A block above the classes, and whether it is zero; null when there is no
/// memory. `align` is a power of two, at least a page.
#[cold]
pub fn large_block(align: usize, told: Told) -> (*mut u8, bool) {
    large_block_at(align, told, Room::Any)
}

/// An object of a class whose spans are one object, and whether it is zero; null
/// when there is no memory. What the slab has comes first: it is warm.
pub fn whole_object(class: ClassId, told: Told) -> (*mut u8, bool) {
    match sections::pop(slab::class_at(class)) {
        0 => whole_object_slow(class, told),
        object => (with_exposed_provenance_mut(object), false),
    }
}

#[cold]
fn whole_object_slow(class: ClassId, told: Told) -> (*mut u8, bool) {
    let (size, align) = size_and_align(class);
    allocate_inside(size, align, told, |process, words| {
        heartbeat::count_large(process);
        match cpu_cache::pop(words, class) {
            0 => {
                cpu_cache::found_empty(process, words, class);
                whole::take_one(class).unwrap_or((0, false))
            }
            object => (object, false),
        }
    })
}

/// As [`large_block`], with room to grow if there is any.
#[cold]
pub fn growing_block(told: Told) -> *mut u8 {
    large_block_at(size_class::PAGE_BYTES, told, Room::Behind).0
}

fn large_block_at(align: usize, told: Told, room: Room) -> (*mut u8, bool) {
    allocate_inside(told.size, align, told, |process, _| {
        heartbeat::count_large(process);
        if told.size > MOST_BYTES {
            return (0, false);
        }
        large::allocate(told.size, align, room).unwrap_or((0, false))
    })
}

/// A block of any size in the checking mode, 0 for none, and whether it is zero.
fn checked_block(process: &Process, told: Told) -> (usize, bool) {
    heartbeat::count_large(process);
    let made = if told.size > MOST_BYTES { None } else { check::allocate(told) };
    made.unwrap_or((0, false))
}
