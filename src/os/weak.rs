//! Functions and variables that the C library may lack.

/// The address of a symbol, null where nothing in the process defines it.
#[doc(hidden)]
#[macro_export]
macro_rules! __weak_address {
    ($symbol:literal) => {{
        let at: *const ();
        // SAFETY: loads the address of a weak symbol from the global offset table.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            core::arch::asm!(
                concat!(".weak ", $symbol),
                concat!("mov {at}, qword ptr [rip + ", $symbol, "@GOTPCREL]"),
                at = out(reg) at, options(nostack, readonly)
            );
            #[cfg(target_arch = "aarch64")]
            core::arch::asm!(
                concat!(".weak ", $symbol),
                concat!("adrp {at}, :got:", $symbol),
                concat!("ldr {at}, [{at}, :got_lo12:", $symbol, "]"),
                at = out(reg) at, options(nostack, readonly)
            );
        }
        at
    }};
}

pub use __weak_address as weak_address;
