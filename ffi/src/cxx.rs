//! operator new and operator delete, in every form of C++23.
//!
//! A miss goes to C++ (`cxx/new.cc`), which asks back for memory, runs the
//! new-handler, and throws. An exception passes only through frames of C++ and
//! the forwarding frame here, which has nothing to clean up.

use crate::malloc;
use core::ffi::c_void;

use core_alloc::alloc::{self, Told};
use core_alloc::{diagnosis, heap};

/// `std::nothrow_t`, of which only the type matters.
type Nothrow = *const c_void;

/// For operator new without an alignment: the class follows from the size alone,
/// as in a sized delete, and is aligned as malloc aligns.
const DEFAULT_ALIGN: usize = 1;

unsafe extern "C-unwind" {
    fn cidalloc_new_slow(size: usize, align: usize, told: u32) -> *mut c_void;
}
unsafe extern "C" {
    fn cidalloc_new_nothrow_slow(size: usize, align: usize, told: u32) -> *mut c_void;
}

/// Memory for C++; null when there is none.
#[unsafe(no_mangle)]
extern "C" fn cidalloc_allocate_for_new(size: usize, align: usize, told: u32) -> *mut c_void {
    if !align.is_power_of_two() {
        return malloc::fail(libc::EINVAL);
    }
    let told = Told::of_word(told);
    let told = if told.is_default_aligned() { told } else { told.aligned(align) };
    heap::allocate_told(size, align, told).cast()
}

/// Ends a process that wants an exception and has no C++ library to throw it.
#[unsafe(no_mangle)]
extern "C" fn cidalloc_cannot_throw(size: usize) -> ! {
    diagnosis::cannot_throw(size)
}

macro_rules! new {
    ($($name:ident, $nothrow:ident: $told:expr;)*) => {$(
        /// # Safety
        /// Called as C++ calls it; may throw.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(size: usize) -> *mut c_void {
            match alloc::allocate_hit(size) {
                // SAFETY: C++ code of this library.
                hit if hit.is_null() => unsafe { cidalloc_new_slow(size, DEFAULT_ALIGN, $told.unaligned().word()) },
                hit => hit.cast(),
            }
        }
        #[unsafe(no_mangle)]
        pub extern "C" fn $nothrow(size: usize, _: Nothrow) -> *mut c_void {
            match alloc::allocate_hit(size) {
                // SAFETY: C++ code of this library, which throws nothing here.
                hit if hit.is_null() => unsafe {
                    cidalloc_new_nothrow_slow(size, DEFAULT_ALIGN, $told.unaligned().word())
                },
                hit => hit.cast(),
            }
        }
    )*};
}

new! {
    _Znwm, _ZnwmRKSt9nothrow_t: Told::NEW;
    _Znam, _ZnamRKSt9nothrow_t: Told::NEW_ARRAY;
}

macro_rules! new_aligned {
    ($($name:ident, $nothrow:ident: $told:expr;)*) => {$(
        /// # Safety
        /// Called as C++ calls it; may throw.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(size: usize, align: usize) -> *mut c_void {
            match alloc::allocate_aligned_hit(size, align) {
                // SAFETY: C++ code of this library.
                hit if hit.is_null() => unsafe { cidalloc_new_slow(size, align, $told.word()) },
                hit => hit.cast(),
            }
        }
        #[unsafe(no_mangle)]
        pub extern "C" fn $nothrow(size: usize, align: usize, _: Nothrow) -> *mut c_void {
            match alloc::allocate_aligned_hit(size, align) {
                // SAFETY: C++ code of this library, which throws nothing here.
                hit if hit.is_null() => unsafe { cidalloc_new_nothrow_slow(size, align, $told.word()) },
                hit => hit.cast(),
            }
        }
    )*};
}

new_aligned! {
    _ZnwmSt11align_val_t, _ZnwmSt11align_val_tRKSt9nothrow_t: Told::NEW;
    _ZnamSt11align_val_t, _ZnamSt11align_val_tRKSt9nothrow_t: Told::NEW_ARRAY;
}

macro_rules! delete {
    ($($name:ident($($rest:ident: $type:ty),*): $told:expr;)*) => {$(
        /// # Safety
        /// `ptr` is null or a live block.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(ptr: *mut c_void $(, $rest: $type)*) {
            $(let _ = $rest;)*
            // SAFETY: the caller's duty.
            unsafe { alloc::free(ptr.cast(), $told) }
        }
    )*};
}

const ONE: Told = Told::NEW;
const ARRAY: Told = Told::NEW_ARRAY;

// Aligned and sized forms too: the address says all, and aligned blocks are rare.
// What they tell is for the checking mode.
delete! {
    _ZdlPv(): ONE.unaligned();
    _ZdaPv(): ARRAY.unaligned();
    _ZdlPvRKSt9nothrow_t(tag: Nothrow): ONE.unaligned();
    _ZdaPvRKSt9nothrow_t(tag: Nothrow): ARRAY.unaligned();
    _ZdlPvSt11align_val_t(align: usize): ONE.aligned(align);
    _ZdaPvSt11align_val_t(align: usize): ARRAY.aligned(align);
    _ZdlPvmSt11align_val_t(size: usize, align: usize): ONE.aligned(align).sized(size);
    _ZdaPvmSt11align_val_t(size: usize, align: usize): ARRAY.aligned(align).sized(size);
    _ZdlPvSt11align_val_tRKSt9nothrow_t(align: usize, tag: Nothrow): ONE.aligned(align);
    _ZdaPvSt11align_val_tRKSt9nothrow_t(align: usize, tag: Nothrow): ARRAY.aligned(align);
}

macro_rules! delete_sized {
    ($($name:ident: $told:expr;)*) => {$(
        /// # Safety
        /// `ptr` is null or a live block of `size` bytes from the matching new.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(ptr: *mut c_void, size: usize) {
            if !ptr.is_null() {
                let told = $told.unaligned().sized(size);
                // SAFETY: the caller's duty: `size` gave the block its class.
                unsafe { alloc::free_layout(ptr.cast(), DEFAULT_ALIGN, told) }
            }
        }
    )*};
}

delete_sized! {
    _ZdlPvm: ONE;
    _ZdaPvm: ARRAY;
}
