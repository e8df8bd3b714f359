//! C, POSIX and GNU allocation functions.
//!
//! Fast halves are `core_alloc::alloc`'s, inlined; misses go to a cold half
//! that sets errno. `free` leaves errno alone: nothing under it sets it.

use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use core_alloc::alloc::{self, Family, Told};
use core_alloc::diagnosis::os_page_bytes;
use core_alloc::heap;

/// Sets errno and returns null.
#[cold]
#[inline(never)]
pub fn fail(error: c_int) -> *mut c_void {
    // SAFETY: the C library's errno of this thread.
    unsafe { *libc::__errno_location() = error };
    null_mut()
}

#[inline]
fn or_enomem(block: *mut u8) -> *mut c_void {
    if block.is_null() { fail(libc::ENOMEM) } else { block.cast() }
}

#[unsafe(no_mangle)]
pub extern "C" fn malloc(size: usize) -> *mut c_void {
    match alloc::allocate_hit(size) {
        hit if hit.is_null() => malloc_rest(size),
        hit => hit.cast(),
    }
}

#[inline(never)]
fn malloc_rest(size: usize) -> *mut c_void {
    match alloc::allocate_hit_rest(size) {
        hit if hit.is_null() => malloc_miss(size),
        hit => hit.cast(),
    }
}

#[inline(never)]
fn malloc_miss(size: usize) -> *mut c_void {
    or_enomem(alloc::allocate_miss(size, Told::C.align, Family::C))
}

/// # Safety
/// As C says: `ptr` is null or a live block. So for all that take a block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(ptr: *mut c_void) {
    // SAFETY: the caller's duty.
    unsafe { alloc::free(ptr.cast(), Told::C) }
}

/// # Safety
/// See [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cfree(ptr: *mut c_void) {
    // SAFETY: the caller's duty.
    unsafe { alloc::free(ptr.cast(), Told::C) }
}

#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        Some(bytes) => match heap::allocate_zeroed_hit(bytes) {
            hit if hit.is_null() => calloc_rest(bytes),
            hit => hit.cast(),
        },
        None => fail(libc::ENOMEM),
    }
}

#[inline(never)]
fn calloc_rest(bytes: usize) -> *mut c_void {
    or_enomem(heap::allocate_zeroed(bytes))
}

/// # Safety
/// See [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(ptr: *mut c_void, size: usize) -> *mut c_void {
    // Many programs allocate by realloc alone: no frame for that.
    if ptr.is_null() {
        return malloc(size);
    }
    // SAFETY: the caller's duty.
    unsafe { resize(ptr, size) }
}

/// [`realloc`] of a block.
#[inline(never)]
unsafe fn resize(ptr: *mut c_void, size: usize) -> *mut c_void {
    if size == 0 {
        // As glibc: the block is freed.
        // SAFETY: the caller's duty.
        unsafe { alloc::free(ptr.cast(), Told::C) };
        return null_mut();
    }
    // SAFETY: the caller's duty.
    or_enomem(unsafe { heap::reallocate(ptr.cast(), size) })
}

/// # Safety
/// See [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(ptr: *mut c_void, count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: the caller's duty.
        Some(bytes) => unsafe { realloc(ptr, bytes) },
        None => fail(libc::ENOMEM),
    }
}

/// C17: any power of two; the size need not be a multiple of it.
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    aligned(size, align)
}

#[inline(always)]
fn aligned(size: usize, align: usize) -> *mut c_void {
    match alloc::allocate_aligned_hit(size, align) {
        hit if hit.is_null() => aligned_miss(size, align),
        hit => hit.cast(),
    }
}

#[inline(never)]
fn aligned_miss(size: usize, align: usize) -> *mut c_void {
    if !align.is_power_of_two() {
        return fail(libc::EINVAL);
    }
    or_enomem(heap::allocate_aligned_miss(size, align))
}

/// # Safety
/// `out` may be written. It is left alone on failure, as errno is always.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
    if !align.is_power_of_two() || align % size_of::<*mut c_void>() != 0 {
        return libc::EINVAL;
    }
    match alloc::allocate_aligned_hit(size, align) {
        // SAFETY: the caller's duty.
        hit if hit.is_null() => unsafe { posix_memalign_miss(out, align, size) },
        hit => {
            // SAFETY: the caller's duty.
            unsafe { *out = hit.cast() };
            0
        }
    }
}

/// # Safety
/// See [`posix_memalign`].
#[inline(never)]
unsafe fn posix_memalign_miss(out: *mut *mut c_void, align: usize, size: usize) -> c_int {
    let block = heap::allocate_aligned_miss(size, align);
    if block.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller's duty.
    unsafe { *out = block.cast() };
    0
}

/// As glibc: an alignment that is no power of two is rounded up to one.
#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    match align.checked_next_power_of_two() {
        Some(align) => aligned(size, align),
        None => fail(libc::EINVAL),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn valloc(size: usize) -> *mut c_void {
    aligned(size, os_page_bytes())
}

#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(size: usize) -> *mut c_void {
    match size.checked_next_multiple_of(os_page_bytes()) {
        Some(bytes) => aligned(bytes, os_page_bytes()),
        None => fail(libc::ENOMEM),
    }
}

/// # Safety
/// See [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(ptr: *mut c_void) -> usize {
    if ptr.is_null() {
        return 0;
    }
    // SAFETY: the caller's duty.
    unsafe { heap::usable_size(ptr.cast()) }
}

/// C23. The block is found by its address: realloc may have left it in a class
/// that its size alone would not give.
///
/// # Safety
/// See [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(ptr: *mut c_void, size: usize) {
    // SAFETY: the caller's duty.
    unsafe { alloc::free(ptr.cast(), Told::C.unaligned().sized(size)) }
}

/// C23. See [`free_sized`].
///
/// # Safety
/// See [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(ptr: *mut c_void, align: usize, size: usize) {
    // SAFETY: the caller's duty.
    unsafe { alloc::free(ptr.cast(), Told::C.aligned(align).sized(size)) }
}

/// jemalloc's sized free; the low six bits of `flags` are log2 of the alignment.
///
/// # Safety
/// See [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sdallocx(ptr: *mut c_void, size: usize, flags: c_int) {
    let told = match flags & 63 {
        0 => Told::C,
        log => Told::C.aligned(1 << log),
    };
    // SAFETY: the caller's duty.
    unsafe { alloc::free(ptr.cast(), told.sized(size)) }
}

/// The usable size that an allocation would have, 0 if it cannot be had; `flags`
/// as for [`sdallocx`].
#[unsafe(no_mangle)]
pub extern "C" fn nallocx(size: usize, flags: c_int) -> usize {
    heap::good_size(size, 1 << (flags & 63))
}
