//! The checking mode, `CIDALLOC_CHECK=1`: every block is made, found, compared
//! and freed here, and the first misuse ends the process. `docs/misuse.md` says
//! what is seen.
//!
//! ```text
//! allocate ─ central list │ large ── header, canaries, pattern, guard
//! free ─ find ─ compare what is told ─ canaries ── quarantine ── pattern ─ home
//! ```
//! No slab and no transfer cache is used, so the spans' bitmaps say exactly
//! which objects are handed out. Headers lie in front of blocks and may be
//! overwritten: a seal tells.
//! Locks: one over everything, of rank Slab, and below it those of the layers
//! that it calls. With it held, no span comes or goes.

#![allow(unsafe_code)]

mod access;
mod block;
mod quarantine;
mod report;
mod told;

pub use told::{Family, Told};

use crate::back::large;
use crate::check::block::{Block, CANARY_BYTES, Place, find, front_bytes, place_of, unit_bytes};
use crate::check::quarantine::Quarantine;
use crate::middle;
use crate::os::fault::{Fault, die};
use crate::os::lock::{Lock, Rank};
use crate::os::thread::Inside;
use crate::size_class;
use crate::units::ClassId;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

/// The mode is in force: all blocks of the arena are checked ones.
static ON: AtomicBool = AtomicBool::new(false);
static CHECK: Lock<Quarantine> = Lock::new(Rank::Slab, Quarantine::EMPTY);

/// Whether blocks are checked ones.
#[inline]
pub fn is_on() -> bool {
    // Relaxed: whoever has a block has seen it made, or got it by a hand-over.
    ON.load(Relaxed)
}

/// Takes the lock around fork.
pub fn hold() {
    CHECK.acquire();
}

/// # Safety
/// [`hold`] was called by this thread.
pub unsafe fn unhold() {
    // SAFETY: the caller's duty.
    unsafe { CHECK.release() }
}

/// A block as told, and whether it is known to be zero; `None` when there is no
/// memory. The caller is inside, and the mode was asked for.
pub fn allocate(told: Told) -> Option<(usize, bool)> {
    let mut kept = CHECK.lock();
    if !is_on() {
        block::start();
        access::start();
        kept.start();
        ON.store(true, Relaxed); // see `is_on`
    }
    match make(told) {
        // What is kept of freed blocks is memory that can be had.
        None if kept.empty() => make(told),
        made => made,
    }
}

fn make(told: Told) -> Option<(usize, bool)> {
    let align = told.align_bytes();
    let need = told.size.checked_add(front_bytes(align))?;
    let class = size_class::class_of_aligned(need.checked_add(CANARY_BYTES)?, align);
    if class == ClassId::NONE {
        return make_large(told, need);
    }
    let mut object = [0];
    if middle::take_home(class, &mut object) == 0 {
        return None;
    }
    let [start] = object;
    let place = Place { start, end: start + size_class::info(class).size_bytes as usize, class };
    Some((Block::make(place, told, false).user(), false))
}

/// A span of its own: the block ends at the guard, as far as its alignment
/// allows.
fn make_large(told: Told, need: usize) -> Option<(usize, bool)> {
    let unit = unit_bytes();
    let len = need.checked_next_multiple_of(unit)?.checked_add(unit)?;
    let (start, zero) = large::allocate(len, told.align_bytes().max(unit), large::Room::Any)?;
    let place = Place { start, end: start + len - unit, class: ClassId::NONE };
    quarantine::guard(&place);
    let zero = zero && told.is_zeroed();
    Some((Block::make(place, told, zero).user(), zero))
}

/// Frees a block; dies if it is none, or not as told, or damaged.
pub fn free(addr: usize, told: Told) {
    let mut kept = CHECK.lock();
    bury(&mut kept, live(addr, told));
}

/// A word of a block by which it can wait for [`free_deferred`]: for a signal
/// handler that has interrupted the mode. Dies as [`free`] does, but for damage.
pub fn defer(addr: usize, told: Told) -> usize {
    // Without the lock: the handler's own block does not change.
    live(addr, told).link()
}

/// Frees a block of [`defer`].
pub fn free_deferred(link: usize) {
    let mut kept = CHECK.lock();
    match find(link) {
        Ok(block) => {
            let block = live(block.user(), Told::NOTHING);
            bury(&mut kept, block);
        }
        Err(fault) => report::die_unknown(fault, link),
    }
}

fn bury(kept: &mut Quarantine, block: Block) {
    if let Err((fault, at)) = block.verify() {
        report::die_written(fault, at, &block);
    }
    kept.put(block);
}

/// The live block at `addr`, which is as told; dies else.
fn live(addr: usize, told: Told) -> Block {
    let block = match find(addr) {
        Ok(block) => block,
        Err(Fault::Underflow) => match place_of(addr) {
            Ok(place) => report::die_damaged(addr, place.start, place.class),
            Err(fault) => die(fault, addr),
        },
        Err(fault) => report::die_unknown(fault, addr),
    };
    if block.user() != addr {
        report::die_about(Fault::Interior, addr, &block);
    }
    if block.is_freed() {
        report::die_about(Fault::DoubleFree, addr, &block);
    }
    let made = block.header.told();
    if told.family != Family::Unknown && told.family != made.family {
        report::die_told(Fault::WrongFamily, told, &block);
    }
    if told.size != Told::NO_SIZE && told.size != made.size {
        report::die_told(Fault::WrongSize, told, &block);
    }
    if !told.agrees_on_align(made) {
        report::die_told(Fault::WrongAlign, told, &block);
    }
    block
}

/// The bytes asked for of a live block of the arena; dies if it is none, or is
/// not as told.
pub fn size_of_block(addr: usize, told: Told) -> usize {
    // A signal handler that has interrupted the mode reads without its lock: the
    // handler's own block does not change.
    let inside = Inside::enter();
    let _lock = inside.as_ref().map(|_| CHECK.lock());
    live(addr, told).header.size
}

/// Lets freed blocks go that are kept. The caller is inside.
pub fn let_go() {
    if is_on() {
        CHECK.lock().empty();
    }
}

/// Looks at every block, live or freed and kept; dies if one is damaged.
pub fn verify_all() {
    let Some(_inside) = Inside::enter() else { return };
    if !is_on() {
        return;
    }
    let _lock = CHECK.lock();
    block::each(|place| {
        let block = quarantine::inhabitant(place);
        if block.is_freed() {
            return quarantine::verify(&block);
        }
        if let Err((fault, at)) = block.verify() {
            report::die_written(fault, at, &block);
        }
    });
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;

extern "C" fn at_exit() {
    if is_on() {
        verify_all();
    }
}
