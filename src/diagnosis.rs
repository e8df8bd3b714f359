//! Ends of a process that the C layer asks for.

use crate::os::fault::{Fault, die};

/// For operator new without memory in a process that has no C++ library.
pub fn cannot_throw(size: usize) -> ! {
    die(Fault::NoException, size)
}

/// Ends the process by SIGABRT, without a lock of the C library.
pub fn abort() -> ! {
    crate::os::fault::abort()
}
