//! The lock of `src/os/lock.rs`, its real source on loom's atomics: mutual
//! exclusion in loom's memory model, and no lost wake-up (loom reports a
//! deadlock when every thread sleeps).

mod os {
    pub mod sync {
        pub use cidalloc_model::atomic::AtomicU32;
        pub const SPINS: u32 = 1;
        pub fn relax() {}
    }

    /// The kernel: one queue is enough, as a model has one lock.
    pub mod sys {
        use super::sync::AtomicU32;
        use cidalloc_model::fresh::Fresh;
        use std::sync::atomic::Ordering::Relaxed;

        static QUEUE: Fresh<(loom::sync::Mutex<()>, loom::sync::Condvar)> = Fresh::new();

        pub fn queue() -> &'static (loom::sync::Mutex<()>, loom::sync::Condvar) {
            // SAFETY: values of an execution live as long as it does.
            unsafe { &*QUEUE.get(Default::default) }
        }

        pub fn futex_wait(word: &AtomicU32, expected: u32) {
            let (mutex, sleepers) = queue();
            let guard = mutex.lock().unwrap();
            if word.load(Relaxed) == expected {
                drop(sleepers.wait(guard).unwrap());
            }
        }

        pub fn futex_wake(_word: &AtomicU32, _count: u32) {
            let (mutex, sleepers) = queue();
            let _guard = mutex.lock().unwrap();
            sleepers.notify_one();
        }
    }

    pub mod slice {
        pub fn pause() -> bool {
            false
        }
        pub fn resume(_asked: bool) {}
    }

    pub mod thread {
        pub fn entered(_rank: u8) {}
        pub fn left(_rank: u8) {}
    }

    #[allow(dead_code)]
    pub mod lock {
        cidalloc_model::source!("os_lock");
    }
}

/// The models of one lock module.
macro_rules! models {
    ($lock:path) => {
        use lock::{Lock, Rank};
        use loom::cell::UnsafeCell;
        use loom::sync::Arc;
        use loom::thread;
        use $lock as lock;

        /// A number that loom watches: it panics when two threads are at it, or
        /// one that is not ordered after the last.
        type Watched = UnsafeCell<u32>;

        fn add(value: &Watched) {
            // SAFETY: loom checks.
            value.with_mut(|v| unsafe { *v += 1 });
        }

        fn make() -> Arc<Lock<Watched>> {
            let lock = Arc::new(Lock::new(Rank::Slab, UnsafeCell::new(0)));
            crate::os::sys::queue();
            add(&lock.lock());
            lock
        }

        /// `threads` beside the first one, each takes the lock `times`.
        pub fn adders(threads: u32, times: u32) {
            let lock = make();
            let all: Vec<_> = (0..threads)
                .map(|_| {
                    let lock = lock.clone();
                    thread::spawn(move || (0..times).for_each(|_| add(&lock.lock())))
                })
                .collect();
            (0..times).for_each(|_| add(&lock.lock()));
            all.into_iter().for_each(|t| t.join().unwrap());
            lock.lock().with(|v| assert_eq!(unsafe { *v }, 1 + times * (threads + 1)));
        }

        /// One that only tries, beside others that wait.
        #[allow(dead_code)]
        pub fn trier() {
            let lock = make();
            let other = lock.clone();
            let waits = thread::spawn(move || add(&other.lock()));
            let tried = u32::from(lock.try_lock().map(|value| add(&value)).is_some());
            waits.join().unwrap();
            lock.lock().with(|v| assert_eq!(unsafe { *v }, 2 + tried));
        }
    };
}

mod real {
    models!(crate::os::lock);
}

/// A mutant, and the test that a model finds it.
macro_rules! mutant {
    ($name:ident, $threads:literal, $expected:literal) => {
        mod $name {
            #[allow(dead_code)]
            #[allow(unused_imports)]
            mod lock_with_defect {
                cidalloc_model::source!(stringify!($name));
            }
            models!(lock_with_defect);

            #[test]
            fn is_found() {
                cidalloc_model::explore::must_fail(&[$expected], 4, || adders($threads, 1));
            }
        }
    };
}

mutant!(lock_release_relaxed, 1, "Causality violation");
mutant!(lock_sleeper_acquire_relaxed, 1, "Causality violation");
mutant!(lock_no_wake, 1, "deadlock");
mutant!(lock_sleeper_takes_it_as_one, 2, "deadlock");
mutant!(lock_load_then_store, 1, "Causality violation");

#[test]
fn two_threads_twice() {
    cidalloc_model::explore::explore(4, || real::adders(1, 2));
}

#[test]
fn three_threads() {
    cidalloc_model::explore::explore(3, || real::adders(2, 1));
}

#[test]
fn try_lock_beside_a_waiter() {
    cidalloc_model::explore::explore(8, real::trier);
}
