//! An access to memory that the checking mode has made inaccessible: the same
//! line as for other faults, instead of a bare SIGSEGV.
//!
//! The handler is there if the process had none when the mode began; a program
//! that installs its own replaces it.

#![allow(unsafe_code)]

use crate::check::block::trace;
use crate::check::report;
use crate::os::fault::Fault;
use crate::os::sys;
use crate::units::ClassId;
use libc::c_int;

pub fn start() {
    sys::handle_if_default(libc::SIGSEGV, on_fault);
}

extern "C" fn on_fault(
    signal: c_int,
    info: *const libc::siginfo_t,
    _context: *const core::ffi::c_void,
) {
    // SAFETY: the kernel's, of a signal that has an address if it comes from it.
    let (by_kernel, addr) = unsafe { ((*info).si_code > 0, (*info).si_addr() as usize) };
    if by_kernel {
        explain(addr);
    }
    // Not ours: what would have happened without the handler. An instruction
    // that faults does so again; a signal that was sent is sent again.
    sys::default_action(signal);
    if !by_kernel {
        sys::raise(signal);
    }
}

/// Ends the process if `addr` lies in a freed large block, or in a guard.
fn explain(addr: usize) {
    let Some(block) = trace(addr).filter(|block| block.place.class == ClassId::NONE) else {
        return;
    };
    if block.is_freed() {
        report::die_about(Fault::AccessFreed, addr, &block);
    }
    if addr >= block.place.end {
        report::die_about(Fault::Access, addr, &block);
    }
}
