//! The stop protocol: what a miss does (`cpu_cache.rs`), draining (`remote.rs`)
//! and the operations behind locks (`locked.rs`), real sources over a kernel
//! and sections made here.
//!
//! A section is a number of loads and stores, of which each store happens only
//! if its thread was neither preempted, nor migrated, nor hit by a signal or a
//! fence since the section began: the trait [`Rseq`]. Loads are relaxed, and loom
//! lets them see any store that no ordering rules out: what orders one holder
//! of a cid after the other, and a section after a fence, is the kernel alone.
//!
//! Each object is out once at the most, and in the end all are home.

#![allow(dead_code, unused_imports, clippy::empty_line_after_doc_comments)]

use cidalloc_model::explore::{explore, must_fail};
use cidalloc_model::fresh::Fresh;
use front::process::{Config, Process};
use front::slab::{self, STOPPED};
use front::{cpu_cache, remote};
use kernel::{Cpu, cpu};
use loom::thread;
use os::lock::{Lock, Rank};
use os::thread::{State, ThreadWords};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use units::{Cid, ClassId};

mod units {
    cidalloc_model::source!("units");
}
mod size_class {
    cidalloc_model::source!("size_class");
}

mod os;

mod back {
    pub mod page_heap {
        pub static IN_USE_BYTES: std::sync::atomic::AtomicUsize =
            std::sync::atomic::AtomicUsize::new(0);
    }
}

mod middle;

mod kernel;

mod front {
    pub mod cpu_cache {
        cidalloc_model::source!("front_cpu_cache");

        mod budget {
            cidalloc_model::source!("front_cpu_cache_budget");
        }
        mod class_slots {
            cidalloc_model::source!("front_cpu_cache_class_slots");
        }
        mod room {
            cidalloc_model::source!("front_cpu_cache_room");
        }
    }
    pub mod locked {
        cidalloc_model::source!("front_locked");
    }
    pub mod remote {
        cidalloc_model::source!("front_remote");
    }

    pub mod heartbeat {
        pub fn beat(_process: &super::process::Process) {}
    }

    pub mod process {
        pub struct Process {
            pub config: Config,
            pub cids: u32,
            pub in_sections: bool,
        }

        pub struct Config {
            pub slab_bytes: u32,
        }

        impl Process {
            pub fn slabs(&self) -> u32 {
                self.cids
            }

            pub fn in_sections(&self) -> bool {
                self.in_sections
            }
        }

        pub fn fence() -> bool {
            match crate::PLANTED.load(std::sync::atomic::Ordering::Relaxed) {
                crate::NO_FENCE => true,
                crate::REFUSED => false,
                _ => {
                    crate::kernel::fence();
                    true
                }
            }
        }
    }

    pub mod slab;

    pub mod sections;
}

// ---- what the kernel does, planted defects among it

static PLANTED: AtomicU32 = AtomicU32::new(0);
const NO_FENCE: u32 = 1;
const HEADER_PAGE: u32 = 2;
const ANY_CID: u32 = 3;
/// Not a defect: the kernel refuses membarrier.
const REFUSED: u32 = 4;

// ---- threads

const OBJECTS: usize = 6;
const CLASS: ClassId = ClassId(1);
const OTHER: ClassId = ClassId(2);

/// Whether arrays are as long as needed, so that every growth moves them.
static TIGHT: AtomicBool = AtomicBool::new(false);

fn array_for(slots: usize) -> usize {
    if TIGHT.load(Relaxed) { slots } else { slots * 2 }
}

/// Zero memory, never freed.
fn memory(len: usize) -> usize {
    let layout = std::alloc::Layout::from_size_align(len, 4096).unwrap();
    // SAFETY: the layout has a size.
    unsafe { std::alloc::alloc_zeroed(layout).expose_provenance() }
}

static OUT: [AtomicBool; OBJECTS] = [const { AtomicBool::new(false) }; OBJECTS];

#[derive(Clone, Copy)]
struct Thread(ThreadWords);

impl Thread {
    fn new(n: usize) -> Thread {
        let cpu = cpu(n);
        Thread(ThreadWords {
            slabs: 1,
            index: cpu.cid.as_ptr() as usize,
            rseq: cpu as *const Cpu as usize,
            state: State::Sections,
            shard: 0,
        })
    }

    /// As `alloc::allocate` does.
    fn allocate_of(&self, process: &Process, class: ClassId) -> usize {
        let object = match cpu_cache::pop(&self.0, class) {
            0 => cpu_cache::refill(process, &self.0, class),
            object => object,
        };
        assert!((1..=OBJECTS).contains(&object), "not an object: {object:#x}");
        assert!(!OUT[object - 1].swap(true, Relaxed), "twice: handed out while out");
        object
    }

    fn free_of(&self, process: &Process, class: ClassId, object: usize) {
        assert!(OUT[object - 1].swap(false, Relaxed), "twice: freed by two");
        // SAFETY: this thread's object.
        unsafe {
            if !cpu_cache::push(&self.0, class, object) {
                cpu_cache::overflow(process, &self.0, class, object);
            }
        }
    }

    fn allocate(&self) -> usize {
        self.allocate_of(&SECTIONS, CLASS)
    }

    fn free(&self, object: usize) {
        self.free_of(&SECTIONS, CLASS, object)
    }
}

static SECTIONS: Process =
    Process { config: Config { slab_bytes: 2 << 20 }, cids: 2, in_sections: true };
/// A slab may keep three objects, and a class has two slots at first.
static POOR: Process =
    Process { config: Config { slab_bytes: 16 << 10 }, cids: 2, in_sections: true };
static LOCKED: Process =
    Process { config: Config { slab_bytes: 2 << 20 }, cids: 2, in_sections: false };

type Drain = fn();

fn drain() {
    remote::drain(&SECTIONS, |_, _| true);
}

fn begin(planted: u32, tight: bool) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| cpu_cache::start(2).unwrap());
    PLANTED.store(planted, Relaxed);
    TIGHT.store(tight, Relaxed);
    OUT.iter().for_each(|out| out.store(false, Relaxed));
    slab::touch();
    (0..3).for_each(|n| _ = cpu(n));
    (0..2).for_each(|cid| _ = cpu_cache::state(Cid(cid)).lock().open);
    drop(middle::HOME.lock());
}

/// Thread 0 with `count` objects in the slab of cid 0.
fn owner_with(count: usize) -> Thread {
    let owner = Thread::new(0);
    let objects: Vec<usize> = (0..count).map(|_| owner.allocate()).collect();
    objects.into_iter().for_each(|object| owner.free(object));
    owner
}

/// All other threads have ended: everything goes home, and nothing is missing.
fn finish() {
    PLANTED.store(0, Relaxed);
    remote::drain(&SECTIONS, |_, _| true);
    assert_eq!(*middle::HOME.lock(), [true; OBJECTS], "objects were lost");
    assert_eq!(cpu_cache::OPEN_SLABS.load(Relaxed), 0);
}

/// The owner pops and pushes while its slab is drained.
fn drain_beside_the_owner(planted: u32, drain: Drain) {
    begin(planted, false);
    let owner = owner_with(1);
    let drains = thread::spawn(drain);
    let object = owner.allocate();
    owner.free(object);
    drains.join().unwrap();
    finish();
}

/// The same, and a signal.
fn drain_and_signal(planted: u32, drain: Drain) {
    begin(planted, false);
    let owner = owner_with(2);
    let drains = thread::spawn(drain);
    let signals = thread::spawn(|| cpu(0).interrupt());
    let object = owner.allocate();
    owner.free(object);
    drains.join().unwrap();
    signals.join().unwrap();
    finish();
}

/// Two threads that swap cids, and a drain.
fn drain_and_migration(planted: u32, drain: Drain) {
    begin(planted, false);
    let owner = owner_with(1);
    let drains = thread::spawn(drain);
    let other = thread::spawn(|| Thread::new(1).allocate());
    let kernel = thread::spawn(|| kernel::swap(cpu(0), cpu(1)));
    let object = owner.allocate();
    drains.join().unwrap();
    let others = other.join().unwrap();
    kernel.join().unwrap();
    owner.free(object);
    owner.free(others);
    finish();
}

/// A class grows, its array moves, while its thread loses the cid to another
/// that uses it.
fn growth_and_migration(planted: u32) {
    begin(planted, true);
    let owner = owner_with(2);
    let objects = [owner.allocate(), owner.allocate()];
    let third = owner.allocate();
    owner.free(third);
    let other = thread::spawn(|| {
        let other = Thread::new(1);
        let object = other.allocate();
        other.free(object);
    });
    let kernel = thread::spawn(|| kernel::swap(cpu(0), cpu(1)));
    owner.free(objects[0]);
    owner.free(objects[1]);
    other.join().unwrap();
    kernel.join().unwrap();
    finish();
}

/// A class takes room from another, whose objects go home, while the thread
/// loses the cid to another that pops them.
fn shrinking_and_migration(planted: u32) {
    begin(planted, true);
    let owner = Thread::new(0);
    let objects = [owner.allocate_of(&POOR, CLASS), owner.allocate_of(&POOR, CLASS)];
    objects.into_iter().for_each(|object| owner.free_of(&POOR, CLASS, object));
    let other = thread::spawn(|| {
        let other = Thread::new(1);
        let object = other.allocate_of(&POOR, CLASS);
        other.free_of(&POOR, CLASS, object);
    });
    let kernel = thread::spawn(|| kernel::swap(cpu(0), cpu(1)));
    let object = owner.allocate_of(&POOR, OTHER);
    owner.free_of(&POOR, OTHER, object);
    other.join().unwrap();
    kernel.join().unwrap();
    finish();
}

/// Two threads of one shard, and a drain: all behind locks.
fn drain_of_a_shard() {
    begin(NO_FENCE, false);
    let shard = |n| {
        let mut thread = Thread::new(n);
        (thread.0.state, thread.0.shard) = (State::Shards, 0);
        thread
    };
    let owner = shard(0);
    let object = owner.allocate_of(&LOCKED, CLASS);
    owner.free_of(&LOCKED, CLASS, object);
    let drains = thread::spawn(|| remote::drain(&LOCKED, |_, _| true));
    let other = thread::spawn(move || {
        let other = shard(1);
        let object = other.allocate_of(&LOCKED, CLASS);
        other.free_of(&LOCKED, CLASS, object);
    });
    let object = owner.allocate_of(&LOCKED, CLASS);
    owner.free_of(&LOCKED, CLASS, object);
    drains.join().unwrap();
    other.join().unwrap();
    finish();
}

#[test]
fn a_drain_beside_the_owner() {
    explore(3, || drain_beside_the_owner(0, drain));
}

#[test]
fn a_drain_and_a_signal() {
    explore(2, || drain_and_signal(0, drain));
}

#[test]
fn a_drain_and_a_migration() {
    explore(2, || drain_and_migration(0, drain));
}

/// Nothing may be taken, and holders revive what was stopped, under the lock
/// and after a look at the cid.
#[test]
fn a_refused_fence_and_revival() {
    explore(3, || drain_beside_the_owner(REFUSED, drain));
    explore(2, || drain_and_migration(REFUSED, drain));
}

#[test]
fn a_growth_and_a_migration() {
    explore(2, || growth_and_migration(0));
}

#[test]
fn a_shrinking_and_a_migration() {
    explore(2, || shrinking_and_migration(0));
}

#[test]
fn shards_behind_locks() {
    explore(3, drain_of_a_shard);
}

// ---- what must be found

/// How a model says that objects are not conserved.
const BROKEN: [&str; 2] = ["twice", "objects were lost"];

#[test]
fn a_drain_without_a_fence_is_found() {
    must_fail(&BROKEN, 2, || drain_beside_the_owner(NO_FENCE, drain));
}

#[test]
fn giving_the_header_page_back_is_found() {
    must_fail(&BROKEN, 2, || drain_beside_the_owner(HEADER_PAGE, drain));
}

#[test]
fn growing_on_another_cid_is_found() {
    must_fail(&BROKEN, 2, || growth_and_migration(ANY_CID));
}

#[test]
fn shrinking_on_another_cid_is_found() {
    must_fail(&BROKEN, 2, || shrinking_and_migration(ANY_CID));
}

mod remote_unstops {
    cidalloc_model::source!("remote_unstops");
}

#[test]
fn a_remote_unstop_is_found() {
    must_fail(&BROKEN, 2, || {
        drain_beside_the_owner(0, || _ = remote_unstops::drain(&SECTIONS, |_, _| true))
    });
}

/// What `Slab::empty` does, but the class is as before, with no object in it.
fn take_and_unstop(cid: Cid) {
    let header = slab::header(cid, CLASS);
    let begin = slab::slab_addr(cid) + slab::FIRST_SLOT as usize * 8;
    let mut cur = header.cur.load(Relaxed) as usize;
    while cur > begin {
        cur -= 8;
        // SAFETY: the lock is held, the header stopped and quiet.
        middle::give(CLASS, &mut [unsafe { slab::read_slot(cur) }]);
    }
    header.cur.store(begin as u64, Relaxed);
    header.store_limits(slab::limits(begin as u32 + 16, begin as u32));
}

mod remote_takes_before_the_fence {
    cidalloc_model::source!("remote_takes_before_the_fence");
}

#[test]
fn taking_before_the_fence_is_found() {
    must_fail(&BROKEN, 2, || {
        drain_beside_the_owner(0, || {
            _ = remote_takes_before_the_fence::drain(&SECTIONS, |_, _| true)
        })
    });
}

mod remote_stops_nothing {
    cidalloc_model::source!("remote_stops_nothing");
}

#[test]
fn a_fence_without_a_stop_is_found() {
    must_fail(&BROKEN, 2, || {
        drain_beside_the_owner(0, || _ = remote_stops_nothing::drain(&SECTIONS, |_, _| true))
    });
}
