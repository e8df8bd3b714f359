//! The C and C++ face of cidalloc: `libcidalloc.so` and `libcidalloc.a`.
//!
//! - `malloc`: C, POSIX and GNU allocation, errno included.
//! - `introspection`: mallinfo, malloc_info, mallopt and their like.
//! - `process`: vfork, clone and dlopen, which an allocator has to know of.
//! - `glibc`: blocks of the C library's own malloc that are freed here.
//! - `cxx`: operator new and delete; `cxx/new.cc` throws.
//!
//! The prototypes stand in `include/cidalloc.h`.

#![no_std]
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod cxx;
mod glibc;
mod introspection;
mod malloc;
mod process;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    core_alloc::diagnosis::abort()
}

// Frames of this library that an exception of operator new passes through name
// the personality of unwinding. They have nothing to clean up: it says "go on"
// (_URC_CONTINUE_UNWIND, 8). Weak and hidden: a Rust program's own wins.
macro_rules! personality {
    ($($instruction:literal),*) => {
        core::arch::global_asm!(
            ".pushsection .text.rust_eh_personality,\"ax\",@progbits",
            ".balign 16",
            ".weak rust_eh_personality",
            ".hidden rust_eh_personality",
            ".type rust_eh_personality, @function",
            "rust_eh_personality:",
            $($instruction,)*
            ".size rust_eh_personality, .-rust_eh_personality",
            ".popsection",
        );
    };
}
#[cfg(target_arch = "x86_64")]
personality!("mov eax, 8", "ret");
#[cfg(target_arch = "aarch64")]
personality!("mov w0, #8", "ret");
