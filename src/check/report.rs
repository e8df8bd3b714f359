//! The lines that end a process in the checking mode.

use crate::check::block::{Block, trace};
use crate::check::told::Told;
use crate::os::fault::{Fault, die_knowing};
use crate::size_class::info;
use crate::units::ClassId;
use core::fmt::{Display, Formatter, Result};

/// What is known of a block, for the end of the line.
struct Known<'a>(&'a Block);

impl Display for Known<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Block { place, header } = self.0;
        let told = header.told();
        let (from, _) = told.family.names();
        write!(f, "a block of {} bytes at {:#x}, ", header.size, self.0.user())?;
        match place.class {
            ClassId::NONE => write!(f, "a span of its own, ")?,
            class => write!(f, "in the class of {} bytes, ", info(class).size_bytes)?,
        }
        write!(f, "from {from}")?;
        if told.is_aligned() {
            write!(f, " at a multiple of {}", told.align_bytes())?;
        }
        write!(f, ", allocated by thread {}", header.born)?;
        if self.0.is_freed() {
            write!(f, ", freed by thread {}", header.died)?;
        }
        Ok(())
    }
}

/// Where an address lies from a block.
struct Where<'a>(&'a Block, usize);

impl Display for Where<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (block, addr) = (self.0, self.1);
        match addr {
            _ if addr < block.user() => write!(f, "{} bytes before", block.user() - addr),
            _ if addr < block.user_end() => write!(f, "{} bytes into", addr - block.user()),
            _ => write!(f, "{} bytes after the end of", addr - block.user_end()),
        }
    }
}

/// A pointer that is no live block.
#[cold]
pub fn die_unknown(fault: Fault, pointer: usize) -> ! {
    match trace(pointer) {
        Some(block) => die_about(fault, pointer, &block),
        None => die_knowing(fault, pointer, format_args!("")),
    }
}

/// A pointer that is the start of `block`, or is told by its distance from it.
#[cold]
pub fn die_about(fault: Fault, pointer: usize, block: &Block) -> ! {
    let known = Known(block);
    if pointer == block.user() {
        die_knowing(fault, pointer, format_args!(": {known}"));
    }
    die_knowing(fault, pointer, format_args!(": {} {known}", Where(block, pointer)))
}

/// Memory that was written at `at`, in or around a block.
#[cold]
pub fn die_written(fault: Fault, at: usize, block: &Block) -> ! {
    let (what, known) = (Where(block, at), Known(block));
    die_knowing(fault, block.user(), format_args!(": first {what} {known}"))
}

/// A free or realloc that tells other than the allocation did.
#[cold]
pub fn die_told(fault: Fault, told: Told, block: &Block) -> ! {
    let (pointer, known) = (block.user(), Known(block));
    let (_, by) = told.family.names();
    match fault {
        Fault::WrongSize => {
            die_knowing(fault, pointer, format_args!(": {} bytes told by {by}: {known}", told.size))
        }
        Fault::WrongAlign if told.is_aligned() => {
            let align = told.align_bytes();
            die_knowing(fault, pointer, format_args!(": {align} told by {by}: {known}"))
        }
        Fault::WrongAlign => {
            die_knowing(fault, pointer, format_args!(": none told by {by}: {known}"))
        }
        _ => die_knowing(fault, pointer, format_args!(": freed by {by}: {known}")),
    }
}

/// Around a block whose header was overwritten, only its place is known.
#[cold]
pub fn die_damaged(pointer: usize, start: usize, class: ClassId) -> ! {
    let size = info(class).size_bytes;
    die_knowing(
        Fault::Underflow,
        pointer,
        format_args!(": the header at {start:#x} is damaged, class of {size} bytes"),
    )
}
