//! The walk: every layer checked against the others at one moment, and every
//! block counted.
//!
//! ```text
//! all locks ─ stop all headers ─ fence ── nothing moves
//!   page map, spans, blocks, hugepages │ central lists │ slabs, transfer caches
//!   each cached object: marked in its span's bitmap, and unmarked
//! release: the slabs stay stopped, and their owners' next misses revive them
//! ```
//! Needs no memory but the stack's. Locks: all. Blocks that other threads move
//! between layers at that moment count as live.

#![allow(unsafe_code)]

#[cfg(test)]
mod planted;

use crate::alloc::free_deferred;
use crate::back::aside;
use crate::back::page_heap::{PAGE_HEAP, PageHeap};
use crate::census::{Broken, Census, Finding, Kind};
use crate::front::process::{self, Process};
use crate::front::{all_locks, cpu_cache, take_in};
use crate::middle::{central_free_list, transfer_cache};
use crate::os::output::Output;
use crate::os::thread::Inside;
use crate::size_class::info;
use crate::units::{Cid, ClassId, PAGE_BYTES};
use core::fmt::Write;

/// Objects of a class that are remembered as free or cached twice.
const DOUBLES_MOST: usize = 16;

/// Checks every layer and counts every block. Callable at any time from outside
/// the allocator; other threads wait in their next miss until it is done.
#[allow(clippy::result_large_err)] // an allocator has nothing to box it in
pub fn walk() -> Result<Census, Broken> {
    let mut found = Broken::NOTHING;
    let Some(_inside) = Inside::enter() else {
        found.check(false, Kind::Inside, ClassId::NONE, 0);
        return Err(found);
    };
    let Some(process) = process::get() else { return Ok(Census::EMPTY) };
    free_deferred(process, take_in::words(process));
    let mut census = Census::EMPTY;
    all_locks::acquire(process);
    // SAFETY: all locks are held until the release below, and no reference to
    // what they guard lives longer.
    unsafe {
        cpu_cache::verify::stop(process, &mut found);
        if process.in_sections() && !process::fence() {
            found.check(false, Kind::NoFence, ClassId::NONE, 0);
        } else {
            take_in::verify(&mut found);
            cpu_cache::verify::verify(process, &mut found);
            count(process, &mut *PAGE_HEAP.value(), &mut census, &mut found);
        }
        all_locks::release(process);
    }
    if found.count() == 0 { Ok(census) } else { Err(found) }
}

/// Checks and counts all blocks.
///
/// # Safety
/// The caller holds all locks and the slabs are quiet.
unsafe fn count(process: &Process, heap: &mut PageHeap, census: &mut Census, found: &mut Broken) {
    let tally = heap.verify(found);
    census.large_blocks = u64::from(tally.large_blocks);
    census.large_bytes = (tally.large_pages * PAGE_BYTES) as u64;
    census.aside_blocks = aside::live();
    for (class, counts) in ClassId::all().zip(census.classes.iter_mut().skip(1)) {
        let asides;
        // SAFETY: the caller's duty.
        unsafe {
            (*central_free_list::of(class).value()).verify(class, heap, &tally, found);
            (*transfer_cache::of(class).value()).verify(class, found);
            asides = verify_cached(process, heap, class, found);
            counts.transfer = (*transfer_cache::of(class).value()).objects(class).len() as u64;
            let slabs = (0..process.slabs()).map(Cid);
            counts.cached =
                slabs.map(|cid| cpu_cache::verify::objects(cid, class).len() as u64).sum();
        }
        census.aside_blocks = census.aside_blocks.saturating_sub(asides);
        counts.size_bytes = info(class).size_bytes;
        counts.spans = tally.spans[class.index()];
        counts.central_free = tally.free[class.index()];
        let elsewhere = counts.central_free + counts.transfer + counts.cached - asides;
        let objects = u64::from(counts.spans) * u64::from(info(class).objects);
        // More elsewhere than there are is found above.
        counts.live = objects.saturating_sub(elsewhere);
    }
}

/// The objects of a class in slabs and transfer cache, in a fixed order.
///
/// # Safety
/// As [`count`].
unsafe fn cached(process: &Process, class: ClassId) -> impl Iterator<Item = usize> {
    let slabs = (0..process.slabs()).map(Cid);
    // SAFETY: the caller's duty.
    let in_slabs = slabs.flat_map(move |cid| unsafe { cpu_cache::verify::objects(cid, class) });
    // SAFETY: as above.
    let in_transfer = unsafe { (*transfer_cache::of(class).value()).objects(class) };
    in_slabs.chain(in_transfer).copied()
}

/// Checks that each cached object of a class is one, is not free in its span,
/// and is cached once: each is marked as free in its span's bitmap, so that a
/// mark met again is a double, and unmarked afterwards. Returns how many are
/// blocks from aside that were freed by their size.
///
/// # Safety
/// As [`count`].
unsafe fn verify_cached(
    process: &Process,
    heap: &PageHeap,
    class: ClassId,
    found: &mut Broken,
) -> u64 {
    let mut asides = 0;
    // The places of objects found marked.
    let mut doubles = [usize::MAX; DOUBLES_MOST];
    let mut count = 0;
    let mut end = usize::MAX;
    // SAFETY: the caller's duty; `object` gives records that can be changed.
    unsafe {
        for (i, addr) in cached(process, class).enumerate() {
            match heap.object(class, addr) {
                Err(Kind::ObjectForeign) if aside::usable_size(addr).is_some() => asides += 1,
                Err(kind) => found.check(false, kind, class, addr),
                Ok((span, index)) if (*span).is_free(index) => {
                    let Some(place) = doubles.get_mut(count) else {
                        end = i;
                        break;
                    };
                    *place = i;
                    count += 1;
                }
                Ok((span, index)) => (*span).flip(index),
            }
        }
        let is_double = |i: &usize| doubles.binary_search(i).is_ok();
        for (i, addr) in cached(process, class).enumerate().take(end) {
            if let Ok((span, index)) = heap.object(class, addr) {
                if !is_double(&i) {
                    (*span).flip(index);
                }
            }
        }
        if count == 0 {
            return asides;
        }
        // The bitmaps are as they were: they tell one fault from the other.
        for (_, addr) in cached(process, class).enumerate().filter(|(i, _)| is_double(i)) {
            if let Ok((span, index)) = heap.object(class, addr) {
                let free = (*span).is_free(index);
                let kind = if free { Kind::ObjectFree } else { Kind::ObjectTwice };
                found.add(Finding { kind, class, at: addr, found: 0, expected: 0 });
            }
        }
    }
    asides
}

impl Broken {
    /// Writes the findings to a file descriptor, a line each. Allocates nothing.
    pub fn report(&self, fd: i32) {
        let mut out = Output::new(fd);
        let _ = write!(out, "{self}");
    }
}
