//! The end of a process whose heap can no longer be trusted.

use crate::os::output::Output;
use crate::os::refusal::{self, Refusals};
use crate::os::sys;
use core::fmt::{Arguments, Write};

/// What was wrong with a pointer or a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Not from this allocator.
    Foreign,
    /// Inside a block, or inside memory that holds no block.
    Interior,
    /// Freed before.
    DoubleFree,
    /// In memory of this allocator where no block starts: free, or inside a
    /// large block.
    NotAllocated,
    /// Freed or resized by functions that do not belong to it. This and what
    /// follows is seen in the checking mode only.
    WrongFamily,
    WrongSize,
    WrongAlign,
    /// Written behind its end, or before its start.
    Overflow,
    Underflow,
    /// Written after it was freed.
    WrittenFreed,
    /// An access to the guard page behind a block, or to a freed block.
    Access,
    AccessFreed,
    /// The allocator's own records contradict each other.
    Corrupt,
    /// A lock was taken while one of a higher rank was held; debug builds only.
    LockOrder,
    /// operator new failed, and there is no C++ library to throw bad_alloc.
    NoException,
}

impl Fault {
    fn text(self) -> &'static str {
        match self {
            Fault::Foreign => "invalid free: pointer was not allocated here",
            Fault::Interior => "invalid free: pointer is not the start of a block",
            Fault::DoubleFree => "double free: block is free already",
            Fault::NotAllocated => "invalid free: no block starts here",
            Fault::WrongFamily => "mismatched free: block comes from another allocation function",
            Fault::WrongSize => "mismatched free: wrong size",
            Fault::WrongAlign => "mismatched free: wrong alignment",
            Fault::Overflow => "overflow: memory after the block was written",
            Fault::Underflow => "underflow: memory before the block was written",
            Fault::WrittenFreed => "write after free: freed block was written",
            Fault::Access => "overflow: access behind a block",
            Fault::AccessFreed => "use after free: access to a freed block",
            Fault::Corrupt => "heap corruption",
            Fault::NoException => "operator new: out of memory, and no C++ library to throw, size",
            Fault::LockOrder => "lock taken out of order, rank",
        }
    }
}

/// Names the fault and the pointer in one line on stderr and aborts.
#[cold]
#[inline(never)]
pub fn die(fault: Fault, pointer: usize) -> ! {
    die_knowing(fault, pointer, format_args!(""))
}

/// [`die`], with what is known of the block, which follows on the line.
#[cold]
#[inline(never)]
pub fn die_knowing(fault: Fault, pointer: usize, known: Arguments<'_>) -> ! {
    refusal::set(Refusals::NONE);
    let mut out = Output::stderr();
    let _ = writeln!(out, "cidalloc: {}: {pointer:#x}{known}", fault.text());
    out.flush();
    abort()
}

/// Ends the process by SIGABRT: through its handler if it has one, else at once.
/// Without the C library's abort, which takes a lock.
pub fn abort() -> ! {
    sys::raise(libc::SIGABRT);
    sys::default_action(libc::SIGABRT);
    loop {
        sys::raise(libc::SIGABRT);
    }
}
