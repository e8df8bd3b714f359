//! The process's initialisation: which way threads reach the slabs, and why.
//!
//! Runs in whichever thread allocates first, with raw system calls only. Where
//! there is no memory for it, everything so far is undone or kept for the next
//! allocation, which tries again. What was refused then stays as it was decided:
//! the registration, the index, the slabs.

#![allow(unsafe_code)]

use crate::back::page_heap::PAGE_HEAP;
use crate::config::{Config, IndexChoice, RseqChoice, SliceChoice, StatsChoice};
use crate::front::slab::{SLAB_BYTES, SLABS};
use crate::front::take_over::{self, Outcome};
use crate::front::{cpu_cache, take_in};
use crate::os::lock::{Lock, Rank};
use crate::os::machine::Machine;
use crate::os::rseq::{self, KernelRseq, SLICE_FEATURE_BYTES};
use crate::os::{refusal, slice, sys, thread};
use core::sync::atomic::Ordering::Relaxed;
use spin::once::Once;

/// What picks a thread's slab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Index {
    /// The kernel's compact concurrency id.
    MmCid,
    /// The CPU number, on kernels without concurrency ids.
    CpuId,
    /// A shard, behind its lock.
    Shard,
}

/// Who registers threads for rseq.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Registration {
    Libc,
    Own,
    /// Our own, in threads of the C library's in place of its own.
    Taken,
    None,
}

#[derive(Debug)]
pub struct Process {
    pub config: Config,
    pub kernel: KernelRseq,
    pub index: Index,
    pub registration: Registration,
    /// Why the index or the registration is not the best there is; else empty.
    pub reason: &'static str,
    /// Where statistics go as text: programs may close stderr before they end.
    pub stderr: i32,
    /// Slabs indexed by id: ids are below this.
    pub cids: u32,
    /// Slabs behind locks, after those.
    pub shards: u32,
}

static PROCESS: Once<Process> = Once::new();

/// Held by whoever initialises, so that nobody ever waits for the `Once`; and
/// across a fork in a process that is not initialised.
static STARTING: Lock<()> = Lock::new(Rank::Slab, ());

/// The process's state, initialised by the first caller; `None` while there is
/// no memory even for that.
#[inline]
pub fn get() -> Option<&'static Process> {
    PROCESS.get().or_else(get_slow)
}

#[cold]
fn get_slow() -> Option<&'static Process> {
    let _starting = STARTING.lock();
    PROCESS.try_call_once(|| start().ok_or(())).ok()
}

/// The process's state if it is initialised already.
pub fn peek() -> Option<&'static Process> {
    PROCESS.get()
}

/// Before fork: the process's state; where that cannot be had it stays so until
/// [`unhold`].
pub fn get_or_hold() -> Option<&'static Process> {
    if get().is_none() {
        STARTING.acquire();
        if peek().is_some() {
            // SAFETY: acquired above.
            unsafe { STARTING.release() };
        }
    }
    peek()
}

/// # Safety
/// [`get_or_hold`] has found no state, in this thread.
pub unsafe fn unhold() {
    // SAFETY: the caller's duty.
    unsafe { STARTING.release() }
}

impl Process {
    pub fn slabs(&self) -> u32 {
        self.cids + self.shards
    }

    pub fn in_sections(&self) -> bool {
        self.index != Index::Shard
    }

    /// The length of the registrations, 0 for none.
    pub fn registered_bytes(&self) -> usize {
        match self.registration {
            Registration::Libc => rseq::libc_bytes(),
            Registration::Own | Registration::Taken => self.kernel.own_bytes(),
            Registration::None => 0,
        }
    }

    /// Whether the kernel treats the registrations as V2.
    pub fn is_v2(&self) -> bool {
        self.kernel.is_v2(self.registered_bytes())
    }

    /// How threads ask for longer time slices, if theirs are offered any; else why
    /// they do not.
    pub fn slices(&self) -> Result<slice::Mode, &'static str> {
        match self.config.slice {
            SliceChoice::Off => Err("CIDALLOC_SLICE=off"),
            _ if !self.in_sections() => Err("threads use no rseq"),
            _ if self.kernel.feature_bytes < SLICE_FEATURE_BYTES => {
                Err("the kernel has none (since Linux 7.0)")
            }
            SliceChoice::Auto => Ok(slice::Mode::Auto),
            SliceChoice::Count => Ok(slice::Mode::Count),
        }
    }
}

const MEMBARRIER_PRIVATE_EXPEDITED_RSEQ: i32 = 1 << 7;
const MEMBARRIER_REGISTER_PRIVATE_EXPEDITED_RSEQ: i32 = 1 << 8;
/// Of a limited address space the slabs take one part of so many, at the most.
const SLABS_PART: u64 = 8;
/// Shards for threads that cannot register while others can.
const SPARE_SHARDS: u32 = 2;
const SHARDS_MOST: u32 = 64;

/// Aborts every section in flight in any thread of the process; false if the
/// kernel refused. The caller is in no section.
pub fn fence() -> bool {
    sys::membarrier(MEMBARRIER_PRIVATE_EXPEDITED_RSEQ).is_ok()
}

fn start() -> Option<Process> {
    let config = Config::read();
    refusal::start(config.fail);
    let machine = Machine::read();
    if !PAGE_HEAP.lock().start(&machine, &config) {
        return None;
    }
    let kernel = KernelRseq::read();
    let (index, registration, reason) = choose(&config, &kernel);
    let shards = match index {
        Index::Shard => (machine.cpus_allowed * 2).min(SHARDS_MOST),
        _ => SPARE_SHARDS,
    };
    let cids = if index == Index::Shard { 0 } else { machine.cpus_possible };
    let mut process =
        Process { config, kernel, index, registration, reason, stderr: 2, cids, shards };
    // A slab is large address space, and ids go up to the CPUs that may ever be.
    let most = machine.address_limit_bytes.map_or(u64::MAX, |b| b / SLABS_PART);
    let fits = u64::from(process.slabs()) * SLAB_BYTES as u64 <= most;
    if !fits || map_slabs(process.slabs()).is_none() {
        (process.index, process.registration) = (Index::Shard, Registration::None);
        (process.cids, process.shards) = (0, SPARE_SHARDS);
        process.reason = "no address space for the slabs of all ids";
        map_slabs(process.slabs())?;
    }
    // Last: what fails before leaves no descriptor behind.
    if process.config.stats == StatsChoice::Text {
        process.stderr = sys::duplicate(2).unwrap_or(2);
    }
    Some(process)
}

/// Maps the slabs, readable only: a slab becomes writable at its first use, so
/// that strict overcommit counts what is used.
fn map_slabs(count: u32) -> Option<()> {
    let len = (count as usize).checked_mul(SLAB_BYTES)?;
    // SAFETY: a new mapping.
    let at =
        unsafe { sys::mmap(0, len + SLAB_BYTES, libc::PROT_READ, libc::MAP_NORESERVE) }.ok()?;
    if cpu_cache::start(count).is_none() {
        // SAFETY: the mapping just made.
        let _ = unsafe { sys::munmap(at, len + SLAB_BYTES) };
        return None;
    }
    SLABS.store(at.next_multiple_of(SLAB_BYTES), Relaxed); // published by PROCESS
    Some(())
}

/// On aarch64, kernels from 6.19 to 7.0 do not abort a section whose thread is
/// preempted by another on the same core: seen on 6.19.14 and 7.0.13, gone in
/// 7.1.13. A distribution's kernel with the repair is used by naming a
/// registration in CIDALLOC_RSEQ.
fn aborts_are_missed() -> bool {
    cfg!(target_arch = "aarch64")
        && sys::kernel_release().is_some_and(|at| ((6, 19)..(7, 1)).contains(&at))
}

const ABORTS_ARE_MISSED: &str = "aarch64 kernels 6.19 to 7.0 do not abort every section; CIDALLOC_RSEQ=libc, own or take uses them";

/// Which way to go, and why not the best one.
fn choose(config: &Config, kernel: &KernelRseq) -> (Index, Registration, &'static str) {
    let locked = |reason| (Index::Shard, Registration::None, reason);
    if config.rseq == RseqChoice::Off {
        return locked("CIDALLOC_RSEQ=off");
    }
    if config.index == IndexChoice::Shard {
        return locked("CIDALLOC_INDEX=shard");
    }
    if config.rseq == RseqChoice::Auto && aborts_are_missed() {
        return locked(ABORTS_ARE_MISSED);
    }
    if sys::membarrier(MEMBARRIER_REGISTER_PRIVATE_EXPEDITED_RSEQ).is_err() {
        return locked("the kernel refuses membarrier for rseq");
    }
    let (registration, reason) = match register(config.rseq, kernel) {
        Ok(done) => done,
        Err(reason) => return locked(reason),
    };
    match (config.index, kernel.has_mm_cid()) {
        (IndexChoice::CpuId, _) => (Index::CpuId, registration, "CIDALLOC_INDEX=cpu_id"),
        (_, true) => (Index::MmCid, registration, reason),
        (_, false) => (Index::CpuId, registration, "the kernel has no mm_cid (before Linux 6.3)"),
    }
}

/// Sees to this thread's registration, as an example of all: whose it is, and why
/// not the one asked for; or why there is none.
fn register(
    choice: RseqChoice,
    kernel: &KernelRseq,
) -> Result<(Registration, &'static str), &'static str> {
    // SAFETY: this thread's words; nothing else runs on them now.
    let words = unsafe { &mut *thread::words() };
    match (choice, rseq::libc_registered()) {
        (RseqChoice::Own, Some(_)) => {
            Err("CIDALLOC_RSEQ=own, but the C library has registered rseq already")
        }
        (RseqChoice::Take, Some(area)) if take_over::is_due() => {
            match take_over::take_over(words, kernel, area) {
                Outcome::Taken => Ok(taken(kernel)),
                Outcome::Kept => Ok((
                    Registration::Libc,
                    "CIDALLOC_RSEQ=take, but the C library's registration cannot be replaced",
                )),
                Outcome::Lost => Err("the kernel refuses rseq"),
            }
        }
        (RseqChoice::Take, Some(_)) => Ok((
            Registration::Libc,
            "CIDALLOC_RSEQ=take, but the C library's registration has the full size already",
        )),
        (_, Some(_)) => Ok((Registration::Libc, "")),
        (RseqChoice::Libc, None) => Err("CIDALLOC_RSEQ=libc, but the C library has none"),
        // An initialisation that failed later may have done it already.
        (_, None) if words.rseq == 0 && !take_in::register_own(words, kernel) => {
            Err("the kernel refuses rseq")
        }
        (RseqChoice::Take, None) if take_over::is_due() => Ok(taken(kernel)),
        (_, None) => Ok((Registration::Own, "")),
    }
}

fn taken(kernel: &KernelRseq) -> (Registration, &'static str) {
    let reason = match kernel.is_v2(kernel.own_bytes()) {
        true => "",
        false => "CIDALLOC_RSEQ=take, but the kernel has no V2 mode (before Linux 7.0)",
    };
    (Registration::Taken, reason)
}
