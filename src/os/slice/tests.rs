//! The protocol on areas that the kernel does not know: a test plays its part.

use super::*;
use crate::os::lock::{Lock, Rank};
use std::boxed::Box;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

impl Control {
    fn new() -> Control {
        Control { request: AtomicU8::new(0), granted: AtomicU8::new(0), reserved: [0; 2] }
    }

    fn bytes(&self) -> (u8, u8) {
        (self.request.load(Relaxed), self.granted.load(Relaxed))
    }

    /// What the kernel does to the bytes when another thread is to run.
    fn interrupt(&self) {
        let grants = self.bytes() == (1, 0);
        self.request.store(0, Relaxed);
        self.granted.store(grants.into(), Relaxed);
    }
}

#[test]
fn a_request_ends_as_the_kernel_left_it() {
    let answers = [Answer::None, Answer::Granted, Answer::Gone, Answer::Gone];
    for (interrupts, answer) in answers.into_iter().enumerate() {
        let control = Control::new();
        assert!(control.ask());
        (0..interrupts).for_each(|_| control.interrupt());
        assert_eq!(control.withdraw(), answer, "{interrupts} interrupts");
        // An extension is the kernel's to end.
        assert_eq!(control.bytes(), (0, (answer == Answer::Granted).into()));
    }
}

#[test]
fn what_the_application_asked_for_stays() {
    for bytes in [(1, 0), (0, 1)] {
        let control = Control::new();
        control.request.store(bytes.0, Relaxed);
        control.granted.store(bytes.1, Relaxed);
        assert!(!control.ask());
        assert_eq!(control.bytes(), bytes);
    }
}

#[repr(C, align(64))]
struct Area([AtomicU32; 16]);

fn counts() -> [u64; 4] {
    [&REQUESTED, &GRANTED, &YIELDED, &REVOKED].map(|count| count.load(Relaxed))
}

/// Runs `test` in a thread whose area is not known to the kernel, in `mode`; and
/// the requests, grants, yields and revocations there were.
fn in_thread(
    mode: Mode,
    flags: u32,
    slice: u8,
    test: impl FnOnce(&ThreadWords, &Control) + Send,
) -> [u64; 4] {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = counts();
    offer(mode);
    std::thread::scope(|scope| {
        let run = || {
            let area = Box::new(Area(Default::default()));
            area.0[FLAGS_AT / 4].store(flags, Relaxed);
            // SAFETY: this thread's words; it allocates nothing by them.
            let words = unsafe { &mut *thread::words() };
            words.rseq = (&raw const *area).expose_provenance();
            words.state = State::Sections;
            words.slice.store(slice, Relaxed);
            test(words, control(words));
            assert_eq!(control(words).bytes().0, 0, "a request that was left");
            words.state = State::Unseen;
        };
        scope.spawn(run).join().expect("the test holds");
    });
    offer(Mode::Off);
    let mut now = counts();
    now.iter_mut().zip(before).for_each(|(now, before)| *now -= before);
    now
}

#[test]
fn a_thread_asks_after_some_refills_if_it_is_offered_extensions() {
    for flags in [AVAILABLE, 0, ENABLED, AVAILABLE | ENABLED] {
        let mut asks = false;
        let counts = in_thread(Mode::Auto, flags, 0, |words, control| {
            for _ in 0..PATIENCE {
                let _asked = ask();
                assert_eq!(control.bytes(), (0, 0));
            }
            for _ in 0..2 {
                let _asked = ask();
                // The kernel decides by its own record of the thread, not by this area.
                asks = [TURNED_ON, FILTERED].contains(&words.slice.load(Relaxed));
                assert_eq!(control.bytes(), (asks.into(), 0));
            }
            assert!(asks || words.slice.load(Relaxed) == WITHOUT);
            assert!(!asks || flags == AVAILABLE, "the application asks, or nobody can");
            assert!(asks || flags != AVAILABLE || refused() != 0);
        });
        assert_eq!(counts, if asks { [2, 0, 0, 0] } else { [0; 4] });
    }
}

#[test]
fn a_thread_whose_application_asks_is_left_alone_from_then_on() {
    for bytes in [(1, 0), (0, 1)] {
        let counts = in_thread(Mode::Auto, AVAILABLE | ENABLED, TURNED_ON, |_, control| {
            drop(ask());
            control.request.store(bytes.0, Relaxed);
            control.granted.store(bytes.1, Relaxed);
            drop(ask());
            assert_eq!(control.bytes(), bytes);
            control.request.store(0, Relaxed);
            control.granted.store(0, Relaxed);
            let _asked = ask();
            assert_eq!(control.bytes(), (0, 0));
        });
        assert_eq!(counts, [1, 0, 0, 0]);
    }
}

#[test]
fn nobody_asks_where_it_is_off_or_the_thread_is_lent() {
    let off = in_thread(Mode::Off, AVAILABLE | ENABLED, TURNED_ON, |_, control| {
        let _asked = ask();
        assert_eq!(control.bytes(), (0, 0));
    });
    let lent = in_thread(Mode::Auto, AVAILABLE | ENABLED, TURNED_ON, |_, control| {
        // SAFETY: this thread's words.
        unsafe { (*thread::words()).state = State::Shards };
        let _asked = ask();
        assert_eq!(control.bytes(), (0, 0));
    });
    assert_eq!((off, lent), ([0; 4], [0; 4]));
}

#[test]
fn each_grant_is_yielded_or_revoked() {
    let counts = in_thread(Mode::Auto, AVAILABLE | ENABLED, TURNED_ON, |_, control| {
        for interrupts in [0, 1, 2, 0] {
            let asked = ask();
            let inner = ask();
            assert_eq!(control.bytes(), (1, 0));
            drop(inner);
            assert_eq!(control.bytes(), (1, 0), "the inner one was no request");
            (0..interrupts).for_each(|_| control.interrupt());
            drop(asked);
            // The kernel would have ended the extension.
            control.granted.store(0, Relaxed);
        }
    });
    // A kernel that knows the call knows of no extension: it says so.
    let known = sys::rseq_slice_yield().is_ok();
    assert_eq!(counts, if known { [4, 2, 0, 2] } else { [4, 2, 1, 1] });
}

#[test]
fn requests_that_are_only_counted_are_never_yielded() {
    let counts = in_thread(Mode::Count, AVAILABLE, PATIENCE, |words, control| {
        for interrupts in [0, 2, 0, 2] {
            let asked = ask();
            assert_eq!(words.slice.load(Relaxed), COUNTING);
            (0..interrupts).for_each(|_| control.interrupt());
            drop(asked);
        }
    });
    assert_eq!(counts, [4, 2, 0, 2]);
    let turned_on_later = in_thread(Mode::Count, AVAILABLE, COUNTING, |words, control| {
        drop(ask());
        let flags: &AtomicU32 =
            // SAFETY: a word of the area that this thread's test has made.
            unsafe { &*with_exposed_provenance(words.rseq + FLAGS_AT) };
        flags.store(AVAILABLE | ENABLED, Relaxed);
        let _asked = ask();
        assert_eq!((control.bytes(), words.slice.load(Relaxed)), ((0, 0), WITHOUT));
    });
    assert_eq!(turned_on_later, [1, 0, 0, 0]);
    let on = in_thread(Mode::Count, AVAILABLE | ENABLED, PATIENCE, |words, _| {
        drop(ask());
        assert_eq!(words.slice.load(Relaxed), WITHOUT);
    });
    assert_eq!(on, [0; 4]);
}

#[test]
fn what_the_kernel_refuses_is_not_asked_for_again() {
    let mut found = 0;
    let counts = in_thread(Mode::Auto, AVAILABLE, PATIENCE, |words, _| {
        drop(ask());
        found = words.slice.load(Relaxed);
        drop(ask());
        assert_eq!(words.slice.load(Relaxed), found);
    });
    // The kernel asks its own record of the thread, not this area.
    match found {
        WITHOUT => assert!(counts == [0; 4] && refused() != 0),
        _ => assert_eq!(counts, [2, 0, 0, 0]),
    }
}

#[test]
#[cfg_attr(miri, ignore = "sleeps by a futex")]
fn a_thread_that_sleeps_for_a_lock_asks_for_nothing() {
    static LOCK: Lock<u32> = Lock::new(Rank::Slab, 0);
    let (ready, is_held) = mpsc::channel();
    let (say, heard) = mpsc::channel();
    let holder = std::thread::spawn(move || {
        let held = LOCK.lock();
        ready.send(()).expect("a listener");
        let at: usize = heard.recv().expect("the thread's area");
        // SAFETY: the area lives until the thread has the lock.
        let control: &Control = unsafe { &*with_exposed_provenance(at) };
        let until = Instant::now() + Duration::from_secs(10);
        while control.bytes() != (0, 0) {
            assert!(Instant::now() < until, "it sleeps, and its request stands");
            std::thread::yield_now();
        }
        drop(held);
    });
    is_held.recv().expect("a holder");
    let counts = in_thread(Mode::Auto, AVAILABLE | ENABLED, TURNED_ON, |_, control| {
        let asked = ask();
        assert_eq!(control.bytes(), (1, 0));
        say.send((&raw const *control).expose_provenance()).expect("a listener");
        *LOCK.lock() += 1;
        assert_eq!(control.bytes(), (1, 0), "asked for anew");
        drop(asked);
    });
    holder.join().expect("the request was withdrawn");
    assert_eq!(counts, [2, 0, 0, 0]);
}
