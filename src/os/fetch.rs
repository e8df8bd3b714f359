//! Asking for memory ahead of its use.

#![allow(unsafe_code)]

#[cfg(not(miri))]
use core::arch::asm;

/// Asks for the cache line at `addr`, to be written soon. Any address will do:
/// what is not mapped is not fetched.
#[inline(always)]
pub fn fetch(addr: usize) {
    // SAFETY: a hint; it reads and writes nothing that a program could see.
    #[cfg(not(miri))]
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!("prefetcht0 [{}]", in(reg) addr, options(nostack, readonly, preserves_flags));
        #[cfg(target_arch = "aarch64")]
        asm!("prfm pstl1keep, [{}]", in(reg) addr, options(nostack, readonly, preserves_flags));
    }
    #[cfg(miri)]
    let _ = addr;
}
