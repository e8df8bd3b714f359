//! The restartable sequences: thin wrappers of `asm/<arch>/*.s`, where each is
//! given as pseudocode. `asm/README.md` argues why they are right.
//!
//! # Safety
//! A section runs on the slab of the id that its thread holds: `slabs` in the
//! thread words, and `watched`, is 0 unless `index` and `rseq` belong to a registered
//! thread.

#![allow(unsafe_code)]

use crate::front::slab::{BEGIN_AT, END_AT, LIMITS_AT, SLAB_SHIFT};
use crate::os::rseq::{RSEQ_CS_AT, SIGNATURE};
use crate::os::thread::{INDEX_AT, RSEQ_AT, SLABS_AT, ThreadWords, WATCHED_AT};
use core::arch::asm;

#[cfg(target_arch = "x86_64")]
macro_rules! sequence {
    ($name:literal) => {
        concat!(
            include_str!(concat!("../../asm/x86_64/", $name)),
            include_str!("../../asm/x86_64/section.s")
        )
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! sequence {
    ($name:literal) => {
        concat!(
            include_str!(concat!("../../asm/aarch64/", $name)),
            include_str!("../../asm/aarch64/section.s")
        )
    };
}

macro_rules! pop {
    ($class_at:ident, $slabs_at:ident) => {{
        let object: usize;
        // SAFETY: the sequence writes `rseq_cs` and `cur`, as argued in asm/README.md.
        unsafe {
            asm!(
                sequence!("pop.s"),
                class_at = in(reg) $class_at,
                object = out(reg) object,
                slab = out(reg) _,
                cur = out(reg) _,
                rseq = out(reg) _,
                SLABS_AT = const $slabs_at,
                INDEX_AT = const INDEX_AT,
                RSEQ_AT = const RSEQ_AT,
                RSEQ_CS_AT = const RSEQ_CS_AT,
                SLAB_SHIFT = const SLAB_SHIFT,
                BEGIN_AT = const BEGIN_AT,
                SIGNATURE = const SIGNATURE,
                options(nostack)
            );
        }
        object
    }};
}

macro_rules! push {
    ($class_at:ident, $object:ident, $slabs_at:ident) => {{
        let done: usize;
        // SAFETY: the sequence writes `rseq_cs`, one free slot and `cur`, as argued
        // in asm/README.md; the object is the caller's to give up.
        unsafe {
            asm!(
                sequence!("push.s"),
                class_at = in(reg) $class_at,
                object = in(reg) $object,
                done = out(reg) done,
                slab = out(reg) _,
                rseq = out(reg) _,
                desc = out(reg) _,
                SLABS_AT = const $slabs_at,
                INDEX_AT = const INDEX_AT,
                RSEQ_AT = const RSEQ_AT,
                RSEQ_CS_AT = const RSEQ_CS_AT,
                SLAB_SHIFT = const SLAB_SHIFT,
                END_AT = const END_AT,
                SIGNATURE = const SIGNATURE,
                options(nostack)
            );
        }
        done != 0
    }};
}

/// Takes the top object of the class whose header is at `class_at`; 0 when the
/// slab is empty, stopped, or not for this thread.
#[inline(always)]
pub fn pop(class_at: usize) -> usize {
    pop!(class_at, SLABS_AT)
}

/// The same for a thread on watch; 0 for others.
#[inline(always)]
pub fn pop_watched(class_at: usize) -> usize {
    pop!(class_at, WATCHED_AT)
}

/// Puts an object on top of its class; false when the slab is full, stopped,
/// or not for this thread.
///
/// # Safety
/// `object` is a block of the class, the caller's to give up.
#[inline(always)]
pub unsafe fn push(class_at: usize, object: usize) -> bool {
    push!(class_at, object, SLABS_AT)
}

/// The same for a thread on watch; false for others.
///
/// # Safety
/// As [`push`].
#[inline(always)]
pub unsafe fn push_watched(class_at: usize, object: usize) -> bool {
    push!(class_at, object, WATCHED_AT)
}

/// A batch sequence: `$limit` is the limit that it compares with.
macro_rules! batch {
    ($name:literal, $limit:ident, $words:ident, $slabs:ident, $class_at:ident, $buffer:expr, $n:expr) => {{
        let k: usize;
        asm!(
            sequence!($name),
            slabs = in(reg) $slabs,
            index = in(reg) $words.index,
            rseq = in(reg) $words.rseq,
            class_at = in(reg) $class_at,
            buffer = in(reg) $buffer,
            n = in(reg) $n,
            k = out(reg) k,
            header = out(reg) _,
            cur = out(reg) _,
            i = out(reg) _,
            object = out(reg) _,
            RSEQ_CS_AT = const RSEQ_CS_AT,
            SLAB_SHIFT = const SLAB_SHIFT,
            $limit = const $limit,
            SIGNATURE = const SIGNATURE,
            options(nostack)
        );
        k
    }};
}

/// Takes up to `out.len()` objects into `out`; how many. What lies in `out`
/// beyond that count was not taken.
///
/// # Safety
/// `words` are this thread's, whose state is `Sections`; `slabs` the base.
#[inline(never)]
pub unsafe fn pop_batch(
    words: &ThreadWords,
    slabs: usize,
    class_at: usize,
    out: &mut [usize],
) -> usize {
    if out.is_empty() {
        return 0;
    }
    // SAFETY: as `pop`; the buffer is as long as it says.
    unsafe { batch!("pop_batch.s", BEGIN_AT, words, slabs, class_at, out.as_mut_ptr(), out.len()) }
}

/// Puts objects on top, the first ones first, as many as there is room for; how
/// many.
///
/// # Safety
/// As [`pop_batch`]; the objects are blocks of the class, the caller's to give up.
#[inline(never)]
pub unsafe fn push_batch(
    words: &ThreadWords,
    slabs: usize,
    class_at: usize,
    objects: &[usize],
) -> usize {
    if objects.is_empty() {
        return 0;
    }
    // SAFETY: as `push`; the buffer is as long as it says.
    unsafe {
        batch!("push_batch.s", END_AT, words, slabs, class_at, objects.as_ptr(), objects.len())
    }
}

/// Writes the limits of a header if this thread holds `cid`; whether it did.
///
/// # Safety
/// As [`pop_batch`]; the caller holds the slab's lock.
#[inline(never)]
pub unsafe fn set_limits(words: &ThreadWords, cid: u32, header: usize, limits: u64) -> bool {
    let done: usize;
    // SAFETY: the sequence writes `rseq_cs` and the limits of a slab whose cid
    // the thread holds.
    unsafe {
        asm!(
            sequence!("set_limits.s"),
            index = in(reg) words.index,
            rseq = in(reg) words.rseq,
            cid = in(reg) cid as usize,
            header = in(reg) header,
            limits = in(reg) limits,
            done = out(reg) done,
            RSEQ_CS_AT = const RSEQ_CS_AT,
            LIMITS_AT = const LIMITS_AT,
            SIGNATURE = const SIGNATURE,
            options(nostack)
        );
    }
    done != 0
}
