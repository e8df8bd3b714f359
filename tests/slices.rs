//! Time slice extensions: where the kernel offers them, threads that refill get some, and give the
//! CPU back; elsewhere, and with `CIDALLOC_SLICE=off`, nobody asks for any. Each test runs a load in
//! a process of its own and reads its statistics; what the kernel offers is asked of the kernel.
//!
//! Extensions take Linux 7.0 with RSEQ_SLICE_EXTENSION and a C library that registers the whole
//! length (glibc 2.41). What a test could not see on this machine it says on its output.
//! `CIDALLOC_TEST_SLICE_SECONDS` is the time of a load, 2 where it is not set.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

#[path = "slices/kernel.rs"]
mod kernel;
#[path = "slices/load.rs"]
mod load;
#[path = "history/mode.rs"]
mod mode;

use cidalloc::heap::stats::Stats;
use kernel::{Area, KernelCounts};
use load::churn;
use mode::Mode;
use std::collections::HashMap;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: cidalloc::CidAlloc = cidalloc::CidAlloc;

/// What a child's load has counted, by the names of the statistics.
struct Counts(HashMap<String, u64>);

impl Counts {
    fn of(&self, name: &str) -> u64 {
        self.0[name]
    }

    /// Each request that the kernel took is accounted for once.
    fn check_settled(&self) {
        let (grants, requests) = (self.of("grants"), self.of("requests"));
        assert_eq!(self.of("yields"), grants - self.of("revocations"));
        assert!(grants <= requests, "{grants} grants of {requests} requests");
    }
}

/// The statistics as a child writes them, in a line that begins with this.
const LINE: &str = "slices:";

fn say(stats: &Stats) {
    println!(
        "{LINE} requests={} grants={} yields={} revocations={} threads={} waits={} on={}",
        stats.slice_requests,
        stats.slice_grants,
        stats.slice_yields,
        stats.slice_revocations,
        stats.slice_threads,
        stats.lock_waits,
        u8::from(stats.slices != "off"),
    );
    println!("slices {} {}", stats.slices, stats.slices_reason);
    assert_eq!(stats.slices == "off", !stats.slices_reason.is_empty());
}

/// One child at a time: the kernel counts for all.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ignored test `name`, with small caches, so that threads refill all the time.
fn child(name: &str, environment: &[(&str, &str)]) -> Command {
    let mut command = mode::child(Mode::MmCid, name);
    command.env("CIDALLOC_SLAB_BYTES", "65536").env("CIDALLOC_DECAY_MS", "20");
    command.envs(environment.iter().copied());
    command
}

fn run(command: Command) -> Counts {
    let output = mode::output(command, Duration::from_secs(300));
    assert!(mode::passed(&output), "{}", mode::report(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.split_once(LINE)).expect("the statistics").1;
    println!("{line}");
    let number = |word: &str| {
        let (name, value) = word.split_once('=').expect("a name and a number");
        (name.to_owned(), value.parse().expect("a number"))
    };
    Counts(line.split_whitespace().map(number).collect())
}

#[test]
#[ignore = "started by others"]
fn child_load() {
    load::run();
    say(&Stats::collect());
}

/// Under a filter that kills whoever gives the CPU away by the call that is made for it.
#[test]
#[ignore = "started by others"]
fn child_load_filtered() {
    kernel::kill_for_slice_yield();
    load::run();
    say(&Stats::collect());
}

/// Threads that allocate a little and end.
#[test]
#[ignore = "started by others"]
fn child_short_threads() {
    for _ in 0..200 {
        std::thread::spawn(|| drop(std::hint::black_box(vec![1u8; 100]))).join().expect("a thread");
    }
    say(&Stats::collect());
}

/// While the application's own request stands, the allocator makes none and takes none back.
#[test]
#[ignore = "started by others"]
fn child_own_request() {
    // The second thread, as a process of one asks for nothing.
    std::thread::spawn(|| churn(1)).join().expect("a thread");
    let requests = || Stats::collect().slice_requests;
    churn(200);
    let before = requests();
    churn(50);
    assert!(requests() > before, "the allocator asks for nothing itself");
    let area = Area::of_this_thread().expect("the C library's registration");
    let mut stood = 0;
    for _ in 0..200 {
        area.request(1);
        let before = requests();
        churn(2);
        let after = requests();
        // Gone, if the kernel has granted it.
        if area.requested() {
            assert_eq!(after, before, "asked beside a request that stood");
            stood += 1;
        }
        area.request(0);
    }
    assert!(stood > 0, "the request never stood");
    println!("stood {stood} times of 200");
    let before = requests();
    churn(50);
    assert_eq!(requests(), before, "the application asks in this thread");
    say(&Stats::collect());
}

/// In a thread whose application has turned extensions on, the allocator asks for none.
#[test]
#[ignore = "started by others"]
fn child_own_switch() {
    std::thread::spawn(|| churn(1)).join().expect("a thread");
    assert!(kernel::turn_slices(true));
    churn(200);
    let stats = Stats::collect();
    assert_eq!((stats.slice_requests, stats.slice_threads), (0, 0));
    say(&stats);
}

#[test]
fn a_load_is_granted_extensions_and_settles_each() {
    let _alone = alone();
    let before = KernelCounts::read();
    let counts = run(child("child_load", &[]));
    counts.check_settled();
    if !kernel::offers_slices() {
        assert_eq!(counts.0.values().sum::<u64>(), counts.of("waits"), "{:?}", counts.0);
        return println!("NOT SEEN: this kernel offers no time slice extensions here");
    }
    assert!(counts.of("threads") > 1 && counts.of("on") == 1, "{:?}", counts.0);
    assert!(counts.of("grants") > 0 && counts.of("yields") > 0, "{:?}", counts.0);
    match (before, KernelCounts::read()) {
        (Some(before), Some(after)) => {
            let (granted, yielded) =
                (after.granted - before.granted, after.yielded - before.yielded);
            println!("the kernel: {granted} granted, {yielded} yielded");
            // The forked children count for themselves; the kernel counts them, too.
            assert!(counts.of("yields") <= yielded, "{:?}", counts.0);
            assert!(granted >= yielded);
        }
        _ => println!("NOT SEEN: the kernel's own counts"),
    }
}

#[test]
fn with_a_registration_of_our_own_too() {
    let _alone = alone();
    let own = [("GLIBC_TUNABLES", "glibc.pthread.rseq=0"), ("CIDALLOC_RSEQ", "own")];
    let counts = run(child("child_load", &own));
    counts.check_settled();
    // Of the C library's registration it is known what the kernel offers it; ours has
    // the whole length.
    if kernel::offers_slices() {
        assert!(counts.of("grants") > 0, "{:?}", counts.0);
    }
}

#[test]
fn nobody_asks_where_it_is_off() {
    let _alone = alone();
    let before = KernelCounts::read();
    let counts = run(child("child_load", &[("CIDALLOC_SLICE", "off")]));
    assert_eq!(counts.0.values().sum::<u64>(), counts.of("waits"), "{:?}", counts.0);
    assert_eq!(before, KernelCounts::read());
}

#[test]
fn requests_that_are_only_counted_are_granted_to_nobody() {
    let _alone = alone();
    let before = KernelCounts::read();
    let counts = run(child("child_load", &[("CIDALLOC_SLICE", "count")]));
    assert_eq!((counts.of("yields"), counts.of("threads")), (0, 0));
    counts.check_settled();
    assert_eq!(before, KernelCounts::read());
    assert_eq!(counts.of("requests") > 0, kernel::offers_slices(), "{:?}", counts.0);
    assert_eq!(counts.of("revocations") > 0, kernel::offers_slices(), "{:?}", counts.0);
}

#[test]
fn threads_ask_for_nothing_where_prctl_is_refused() {
    let _alone = alone();
    let counts = run(child("child_load", &[("CIDALLOC_FAIL", "from:1,prctl")]));
    assert_eq!(counts.0.values().sum::<u64>(), counts.of("waits"), "{:?}", counts.0);
}

#[test]
fn a_filter_that_does_not_know_the_call_is_survived() {
    let _alone = alone();
    let counts = run(child("child_load_filtered", &[]));
    counts.check_settled();
    assert_eq!(counts.of("grants") > 0, kernel::offers_slices(), "{:?}", counts.0);
}

#[test]
fn short_threads_make_no_call_for_it() {
    let _alone = alone();
    let counts = run(child("child_short_threads", &[]));
    assert_eq!((counts.of("threads"), counts.of("requests")), (0, 0));
}

#[test]
fn the_applications_own_request_stays() {
    let _alone = alone();
    if !kernel::offers_slices() {
        return println!("NOT SEEN: this kernel offers no time slice extensions here");
    }
    run(child("child_own_request", &[])).check_settled();
    run(child("child_own_switch", &[])).check_settled();
}
