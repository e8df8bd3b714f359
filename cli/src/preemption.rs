//! Sees whether the kernel aborts a section whose thread is preempted.
//!
//! A child of this process shares one CPU with a rival that does nothing but count. The child reads
//! the count inside a section and stays in there until the count has changed: then the rival has
//! run on that CPU, so the child was preempted inside. Either it finds itself at the abort
//! address, as the ABI has it, or it sees the change with its own eyes, and the kernel is at fault.
#![allow(unsafe_code)]

use std::arch::asm;
use std::mem::{size_of, zeroed};
use std::ptr::null_mut;

use libc::c_int;
use serde::Serialize;

use crate::sys::in_child;

/// What became of sections that were preempted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Seen {
    pub preempted: u32,
    pub aborted: u32,
}

const TRIES: u32 = 8;
/// Seconds, even of an emulated CPU: the rival has not come.
const MOST_LOOPS: u64 = 1 << 30;
/// Where its parent was gone before it could ask to be killed with it.
const RIVALS_SECONDS: u32 = 60;
/// The child's exit status where there was nothing to see; else it is how many were not aborted.
const NOTHING: c_int = 255;

/// Tries it with this thread's registered area. None if it could not be tried, or the kernel has
/// killed the child for it.
pub fn see(area: u64) -> Option<Seen> {
    let missed = in_child(|| missed_aborts(area).map_or(NOTHING, |missed| missed as c_int))?;
    let missed = u32::try_from(missed).ok().filter(|missed| *missed <= TRIES)?;
    Some(Seen { preempted: TRIES, aborted: TRIES - missed })
}

fn missed_aborts(area: u64) -> Option<u32> {
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let shared = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping; the set is plain data.
    let (count, pinned) = unsafe {
        let count = libc::mmap(null_mut(), size_of::<u64>(), rw, shared, -1, 0);
        let mut here: libc::cpu_set_t = zeroed();
        libc::CPU_SET(usize::try_from(libc::sched_getcpu()).ok()?, &mut here);
        (count, libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &here) == 0)
    };
    if count == libc::MAP_FAILED || !pinned {
        return None;
    }
    let count = count.cast::<u64>();
    // SAFETY: the rival calls only prctl and alarm, of which it dies at the latest.
    let rival = unsafe { libc::fork() };
    if rival == 0 {
        // SAFETY: no pointers.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong);
            libc::alarm(RIVALS_SECONDS);
        }
        loop {
            // SAFETY: the page of both.
            unsafe { count.write_volatile(count.read_volatile().wrapping_add(1)) };
        }
    }
    if rival < 0 {
        return None;
    }
    let mut missed = Some(0);
    for _ in 0..TRIES {
        // SAFETY: the area is this thread's registration, inherited from the parent.
        missed = match (unsafe { stay_until_preempted(area, count) }, missed) {
            (Some(true), so_far) => so_far,
            (Some(false), Some(so_far)) => Some(so_far + 1),
            _ => None,
        };
    }
    // SAFETY: a child of ours, not yet waited for.
    unsafe {
        libc::kill(rival, libc::SIGKILL);
        libc::waitpid(rival, null_mut(), 0);
    }
    missed
}

/// Stays in a section until the count changes. True if it was aborted, false if not, None if
/// the count has not changed.
///
/// # Safety
/// `area` is this thread's registration.
unsafe fn stay_until_preempted(area: u64, count: *const u64) -> Option<bool> {
    let mut left = MOST_LOOPS;
    let stayed: u32;
    // SAFETY: reads the count, and writes `rseq_cs`, which is user space's to write.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!(
            "xor {stayed:e}, {stayed:e}",
            "lea {seen}, [rip + 6f]",
            "mov qword ptr [{area} + 8], {seen}",
            "3:",
            "mov {seen}, qword ptr [{count}]",
            "8:",
            "cmp qword ptr [{count}], {seen}",
            "jne 4f",
            "dec {left}",
            "jnz 8b",
            "4:",
            "mov {stayed:e}, 2",
            "5:",
            ".pushsection .text.preempted, \"ax\", @progbits",
            ".byte 0x0f, 0xb9, 0x3d",
            ".long 0x53053053",
            "7:",
            "jmp 5b",
            ".popsection",
            ".pushsection __rseq_cs, \"aw\", @progbits",
            ".balign 32",
            "6:",
            ".long 0, 0",
            ".quad 3b, 4b - 3b, 7b",
            ".popsection",
            area = in(reg) area, count = in(reg) count, left = inout(reg) left,
            seen = out(reg) _, stayed = out(reg) stayed, options(nostack)
        );
        #[cfg(target_arch = "aarch64")]
        asm!(
            "mov {stayed:w}, wzr",
            "adrp {seen}, 6f",
            "add {seen}, {seen}, :lo12:6f",
            "str {seen}, [{area}, 8]",
            "3:",
            "ldr {seen}, [{count}]",
            "8:",
            "ldr {now}, [{count}]",
            "cmp {now}, {seen}",
            "b.ne 4f",
            "subs {left}, {left}, 1",
            "b.ne 8b",
            "4:",
            "mov {stayed:w}, 2",
            "5:",
            ".pushsection .text.preempted, \"ax\", @progbits",
            ".inst 0xd428bc00",
            "7:",
            "b 5b",
            ".popsection",
            ".pushsection __rseq_cs, \"aw\", @progbits",
            ".balign 32",
            "6:",
            ".long 0, 0",
            ".quad 3b, 4b - 3b, 7b",
            ".popsection",
            area = in(reg) area, count = in(reg) count, left = inout(reg) left,
            seen = out(reg) _, now = out(reg) _, stayed = out(reg) stayed, options(nostack)
        );
    }
    match (stayed, left) {
        (0, _) => Some(true),
        (_, 0) => None,
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a machine whose kernel keeps to the ABI; no area at all is as one that aborts nothing.
    #[test]
    fn preempted_sections_are_seen() {
        let nobodys: [u64; 16] = [0; 16];
        let blind = see(nobodys.as_ptr() as u64);
        assert_eq!(blind, Some(Seen { preempted: TRIES, aborted: 0 }));
        if let Some(registered) = crate::sys::rseq_registration().filter(|r| r.address != 0) {
            if cfg!(target_arch = "x86_64") {
                let seen = see(registered.address);
                assert_eq!(seen, Some(Seen { preempted: TRIES, aborted: TRIES }));
            }
        }
    }
}
