//! The transfer cache and the central list, real sources on a real page map
//! and real spans; beneath them a page heap of three spans, and around them
//! threads that take, give and release at the same time.
//!
//! Each object is out once at the most, and in the end all are home: every
//! span is empty and has gone back.

#![allow(dead_code, unused_imports, clippy::empty_line_after_doc_comments)]

use cidalloc_model::explore::{explore, must_fail};
use cidalloc_model::fresh::Fresh;

use loom::thread;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

mod units {
    cidalloc_model::source!("units");
}
mod size_class {
    cidalloc_model::source!("size_class");
}
mod middle {
    pub mod transfer_cache {
        cidalloc_model::source!("middle_transfer_cache");
    }
    pub mod central_free_list {
        cidalloc_model::source!("middle_central_free_list");
    }
    /// Spans here have more than one object.
    pub mod whole {
        use crate::units::ClassId;

        pub fn serves(_class: ClassId) -> bool {
            false
        }
        pub fn take(_class: ClassId, _out: &mut [usize]) -> usize {
            unreachable!()
        }
        pub fn give(_class: ClassId, _objects: &[usize]) {
            unreachable!()
        }
    }
    mod both {
        use super::{central_free_list, transfer_cache, whole};
        cidalloc_model::source!("middle_mod");
    }
    pub use both::{SHARED, give, take};
}

mod os {
    pub use cidalloc_model::lock;

    pub mod fault {
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Fault {
            Foreign,
            Interior,
            DoubleFree,
            NotAllocated,
            Corrupt,
        }

        pub fn die(fault: Fault, addr: usize) -> ! {
            panic!("died of {fault:?}: {addr:#x}")
        }

        pub fn die_knowing(fault: Fault, addr: usize, known: std::fmt::Arguments) -> ! {
            panic!("died of {fault:?}: {addr:#x}{known}")
        }
    }

    pub mod fetch {
        pub fn fetch(_addr: usize) {}
    }

    pub mod sys {
        /// Zero memory for good.
        ///
        /// # Safety
        /// None needed here.
        pub unsafe fn mmap(
            _addr: usize,
            len: usize,
            _prot: i32,
            _flags: i32,
        ) -> Result<usize, i32> {
            Ok(crate::memory(len))
        }

        /// # Safety
        /// None needed here.
        pub unsafe fn munmap(_addr: usize, _len: usize) -> Result<usize, i32> {
            Ok(0)
        }
    }
}

mod back {
    pub mod page_map {
        cidalloc_model::source!("back_page_map");
    }
    pub mod span {
        cidalloc_model::source!("back_span");
    }

    pub mod aside {
        pub fn free(_addr: usize) -> bool {
            false
        }
    }

    pub mod page_heap {
        use super::page_map::PAGE_MAP;
        use super::span::{Span, unit_addr};
        use crate::os::lock::{Lock, Rank};
        use crate::size_class::info;
        use crate::units::{ClassId, PageId};

        pub const SPANS: usize = 3;

        pub static PAGE_HEAP: Lock<PageHeap> =
            Lock::new(Rank::PageHeap, PageHeap { used: [false; SPANS] });

        /// Span n is page n and unit n + 1.
        pub struct PageHeap {
            pub used: [bool; SPANS],
        }

        impl PageHeap {
            pub fn new_span(&mut self, class: ClassId) -> Option<*mut Span> {
                let free = self.used.iter().position(|used| !used)?;
                self.used[free] = true;
                let (page, unit) = (PageId(free as u32), free as u32 + 1);
                let pages = info(class).span_pages();
                // SAFETY: memory made by `start`, and nobody's.
                unsafe { Span::init(Span::at(unit), page, pages, class) };
                PAGE_MAP.set(page, pages, class, unit);
                Some(Span::at(unit))
            }

            /// # Safety
            /// The span is the caller's.
            pub unsafe fn free_span(&mut self, at: *mut Span) {
                // SAFETY: the caller's duty.
                let (page, pages) = unsafe { ((*at).page, (*at).pages) };
                assert!(std::mem::replace(&mut self.used[page.0 as usize], false), "freed twice");
                PAGE_MAP.set(page, pages, ClassId::NONE, 0);
            }
        }
    }
}

/// Zero memory, never freed, aligned as records are.
fn memory(len: usize) -> usize {
    let layout = std::alloc::Layout::from_size_align(len, 4096).unwrap();
    // SAFETY: the layout has a size.
    unsafe { std::alloc::alloc_zeroed(layout).expose_provenance() }
}

/// Copies to or from a class's slots; loom panics when two threads do so at once.
///
/// # Safety
/// As core's.
unsafe fn copy(from: *const usize, to: *mut usize, count: usize) {
    watch().with_mut(|_| ());
    // SAFETY: the caller's duty.
    unsafe { core::ptr::copy_nonoverlapping(from, to, count) }
}

fn watch() -> &'static loom::cell::UnsafeCell<()> {
    static WATCH: Fresh<loom::cell::UnsafeCell<()>> = Fresh::new();
    // SAFETY: values of an execution live as long as it does.
    unsafe { &*WATCH.get(|| loom::cell::UnsafeCell::new(())) }
}

const ARENA: usize = 1 << 40;
const CLASS: units::ClassId = units::ClassId(1);

/// Objects that some thread has.
static OUT: [AtomicBool; 6] = [const { AtomicBool::new(false) }; 6];

fn index(object: usize) -> usize {
    let offset = object - ARENA;
    let index = offset / 8192 * 2 + offset % 8192 / 4096;
    assert!(offset % 4096 == 0 && index < OUT.len(), "not an object: {object:#x}");
    index
}

fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        back::span::UNITS_BASE.store(memory(4096), Relaxed);
        back::page_map::PAGE_MAP.start(ARENA, memory(4096), memory(4096));
        back::page_map::PAGE_MAP.grow(back::page_heap::SPANS);
    });
}

/// The models of one middle.
macro_rules! models {
    ($middle:path) => {
        use super::*;
        use the::{central_free_list, transfer_cache};
        use $middle as the;

        /// Objects of a thread.
        struct Mine(Vec<usize>);

        impl Mine {
            fn take(count: usize) -> Mine {
                let mut out = [0; 4];
                let got = the::take(CLASS, &mut out[..count]);
                for object in &out[..got] {
                    assert!(!OUT[index(*object)].swap(true, Relaxed), "handed out twice");
                }
                Mine(out[..got].to_vec())
            }

            fn give(mut self) {
                for object in &self.0 {
                    assert!(OUT[index(*object)].swap(false, Relaxed), "given twice");
                }
                the::give(CLASS, &mut self.0);
            }
        }

        /// Empties all layers; all objects must be there.
        fn finish() {
            transfer_cache::release_all(CLASS);
            assert_eq!(transfer_cache::of(CLASS).lock().len(), 0);
            let central = central_free_list::of(CLASS).lock();
            assert_eq!((central.spans, central.free), (0, 0), "objects were lost");
            drop(central);
            assert_eq!(back::page_heap::PAGE_HEAP.lock().used, [false; 3], "spans were lost");
        }

        /// Makes room for four objects, of which `kept` lie there unused.
        fn begin(kept: usize) {
            static ONCE: Once = Once::new();
            start();
            ONCE.call_once(|| transfer_cache::start());
            crate::middle::SHARED.store(true, Relaxed);
            OUT.iter().for_each(|out| out.store(false, Relaxed));
            for _ in 0..5 {
                Mine::take(4).give();
            }
            assert_eq!(transfer_cache::of(CLASS).lock().len(), 4, "there is no room");
            let mut rest = [0; 4];
            let got = transfer_cache::take(CLASS, &mut rest[..4 - kept]);
            central_free_list::give(CLASS, &mut rest[..got]);
            // Nothing has lain idle yet; from here on it is counted.
            transfer_cache::release_idle(CLASS);
        }

        pub fn takers_and_givers() {
            begin(1);
            let held = Mine::take(1);
            let other = thread::spawn(|| Mine::take(2).give());
            let another = thread::spawn(|| Mine::take(1).give());
            held.give();
            Mine::take(1).give();
            other.join().unwrap();
            another.join().unwrap();
            finish();
        }

        /// The room that idle objects had may be full again when it is given up.
        pub fn release_beside_them() {
            begin(4);
            let one = || Mine::take(1);
            let (first, second) = (one(), one());
            let mut rest = [0; 2];
            assert_eq!(central_free_list::take(CLASS, &mut rest), 2);
            rest.iter().for_each(|object| OUT[index(*object)].store(true, Relaxed));
            let [third, last] = rest.map(|object| Mine(vec![object]));
            let releases = thread::spawn(|| transfer_cache::release_idle(CLASS));
            let other = thread::spawn(|| {
                first.give();
                second.give();
            });
            third.give();
            other.join().unwrap();
            last.give();
            releases.join().unwrap();
            one().give();
            finish();
        }

        pub fn two_releases() {
            begin(4);
            let other = thread::spawn(|| transfer_cache::release_all(CLASS));
            let gives = thread::spawn(|| Mine::take(1).give());
            transfer_cache::release_idle(CLASS);
            other.join().unwrap();
            gives.join().unwrap();
            finish();
        }

        /// Without transfer caches: the central list alone.
        pub fn central_alone() {
            start();
            OUT.iter().for_each(|out| out.store(false, Relaxed));
            drop(transfer_cache::of(CLASS).lock());
            drop(back::page_heap::PAGE_HEAP.lock());
            Mine::take(1).give();
            let other = thread::spawn(|| Mine::take(1).give());
            let another = thread::spawn(|| Mine::take(3).give());
            let mine = Mine::take(1);
            let more = Mine::take(1);
            mine.give();
            more.give();
            other.join().unwrap();
            another.join().unwrap();
            finish();
        }
    };
}

mod real {
    models!(crate::middle);
}

#[test]
fn takers_and_givers() {
    explore(4, real::takers_and_givers);
}

#[test]
fn a_release_beside_givers() {
    explore(4, real::release_beside_them);
}

#[test]
fn two_releases() {
    explore(4, real::two_releases);
}

#[test]
fn the_central_list_alone() {
    explore(3, real::central_alone);
}

/// A mutant of the transfer cache, and the test that a model finds it.
macro_rules! transfer_mutant {
    ($name:ident, $model:ident, $expected:literal) => {
        mod $name {
            mod with_defect {
                pub use crate::middle::central_free_list;
                use crate::units::ClassId;
                pub mod transfer_cache {
                    cidalloc_model::source!(stringify!($name));
                }
                pub fn take(class: ClassId, out: &mut [usize]) -> usize {
                    let got = transfer_cache::take(class, out);
                    got + central_free_list::take(class, &mut out[got..])
                }
                pub fn give(class: ClassId, objects: &mut [usize]) {
                    let kept = transfer_cache::give(class, objects);
                    central_free_list::give(class, &mut objects[kept..]);
                }
            }
            models!(with_defect);

            #[test]
            fn is_found() {
                must_fail(&[$expected], 2, $model);
            }
        }
    };
}

transfer_mutant!(transfer_copies_unlocked, takers_and_givers, "Causality violation");
transfer_mutant!(transfer_room_unchecked, two_releases, "subtract with overflow");
transfer_mutant!(transfer_room_forgets_objects, release_beside_them, "subtract with overflow");

/// A mutant of the central list.
macro_rules! central_mutant {
    ($name:ident, $expected:literal) => {
        mod $name {
            mod with_defect {
                pub use crate::middle::transfer_cache;
                pub mod central_free_list {
                    cidalloc_model::source!(stringify!($name));
                }
                pub use central_free_list::{give, take};
            }
            models!(with_defect);

            #[test]
            fn is_found() {
                must_fail(&[$expected], 2, central_alone);
            }
        }
    };
}

central_mutant!(central_takes_from_a_span_of_before, "subtract with overflow");
