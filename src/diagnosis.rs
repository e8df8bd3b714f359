//! What the C layer needs to know of strange pointers, and ends of a process that
//! it asks for.

use crate::os::fault::{Fault, die};
use crate::os::output::Output;
use core::fmt::Write;

pub use crate::os::probe::{current_break, first_break, peek};
pub use crate::os::sys::os_page_bytes;
pub use crate::os::weak::weak_address;

/// For operator new without memory in a process that has no C++ library.
pub fn cannot_throw(size: usize) -> ! {
    die(Fault::NoException, size)
}

/// Ends the process by SIGABRT, without a lock of the C library.
pub fn abort() -> ! {
    crate::os::fault::abort()
}

/// A line on stderr.
pub fn complain(text: &str) {
    let _ = writeln!(Output::stderr(), "cidalloc: {text}");
}
