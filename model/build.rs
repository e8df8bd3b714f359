//! Makes mutants (sources of the allocator with one planted defect, which a
//! model must find) and the size-class table of the models.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// (name, source, text that occurs once, what stands there instead)
const MUTANTS: &[(&str, &str, &str, &str)] = &[
    // ---- the lock
    ("lock_release_relaxed", "os/lock.rs", "swap(0, Release)", "swap(0, Relaxed)"),
    ("lock_sleeper_acquire_relaxed", "os/lock.rs", "swap(2, Acquire)", "swap(2, Relaxed)"),
    ("lock_no_wake", "os/lock.rs", "== 2 {", "== 3 {"),
    (
        "lock_sleeper_takes_it_as_one",
        "os/lock.rs",
        "sys::futex_wait(&self.word, 2);",
        "sys::futex_wait(&self.word, 2);
         if self.word.compare_exchange(0, 1, Acquire, Relaxed).is_ok() { return; }",
    ),
    (
        "lock_load_then_store",
        "os/lock.rs",
        "if self.word.compare_exchange(0, 1, Acquire, Relaxed).is_err() {",
        "if self.word.load(Acquire) == 0 { self.word.store(1, Relaxed); } else {",
    ),
    // ---- the transfer cache
    (
        // The lock is open before the objects are out of the slots.
        "transfer_copies_unlocked",
        "middle/transfer_cache.rs",
        "let from = slots(class).add(cache.len);",
        "let from = slots(class).add(cache.len);
         drop(cache);",
    ),
    (
        // Another release may have given the room up.
        "transfer_room_unchecked",
        "middle/transfer_cache.rs",
        "cache.room.saturating_sub(sent)",
        "(cache.room - sent)",
    ),
    (
        // Room for objects that came while the lock was open.
        "transfer_room_forgets_objects",
        "middle/transfer_cache.rs",
        ".saturating_sub(sent).max(cache.len)",
        ".saturating_sub(sent)",
    ),
    // ---- the central list
    (
        // The span may be empty and gone when the lock is had again.
        "central_takes_from_a_span_of_before",
        "middle/central_free_list.rs",
        "central.grow(class)) else { break };",
        "central.grow(class)) else { break };
         drop(central);
         central = of(class).lock();",
    ),
    // ---- blocks beside the heap
    (
        "aside_starts_anew_unordered",
        "back/aside.rs",
        "store(EMPTY.word(), Release)",
        "store(EMPTY.word(), Relaxed)",
    ),
    (
        "aside_publishes_unordered",
        "back/aside.rs",
        "compare_exchange_weak(next, at, Release, Relaxed)",
        "compare_exchange_weak(next, at, Relaxed, Relaxed)",
    ),
    (
        // The last block is free, but others may come before the chunk starts anew.
        "aside_stays_open",
        "back/aside.rs",
        "if last { CLOSED } else {",
        "if false { CLOSED } else {",
    ),
    (
        // Before the chunk's first block is taken, another thread may close it.
        "aside_publishes_first",
        "back/aside.rs",
        "Ok(_) => return Some(block),",
        "Ok(_) => {
                     unsafe { (*chunk).put_back(block as usize) };
                     return unsafe { (*chunk).cut(size, align) };
                 }",
    ),
    (
        "deferred_puts_unordered",
        "front/deferred.rs",
        "compare_exchange_weak(last, addr, Release, Relaxed)",
        "compare_exchange_weak(last, addr, Relaxed, Relaxed)",
    ),
    (
        "deferred_takes_by_load_and_store",
        "front/deferred.rs",
        "LAST.swap(0, Acquire)",
        "LAST.load(Acquire);
    LAST.store(0, Relaxed)",
    ),
    // ---- stopping
    (
        // A remote un-stop, after the fence: the header passes again by another
        // thread's doing.
        "remote_unstops",
        "front/remote.rs",
        "slab.empty(cid);",
        "let _ = slab;
         crate::take_and_unstop(cid);",
    ),
    (
        // What is on top is read, and taken, before the fence.
        "remote_takes_before_the_fence",
        "front/remote.rs",
        "let quiet = !process.in_sections() || process::fence();",
        "for cid in held.iter() {
             // SAFETY: acquired above.
             unsafe { (*state(cid).value()).empty(cid) };
         }
         process::fence();
         for cid in held.iter() {
             // SAFETY: acquired above.
             unsafe { state(cid).release() };
         }
         return stopped;
         #[allow(unreachable_code)]
         let quiet = false;",
    ),
    ("remote_stops_nothing", "front/remote.rs", ".store_limits(STOPPED);", ";"),
];

/// Text that is other in a model: (text, how often, what stands there instead).
type Others = &'static [(&'static str, usize, &'static str)];

/// The atomic that a model watches.
const CORE_ATOMIC: (&str, usize, &str) =
    ("use core::sync::atomic::AtomicUsize;", 1, "use cidalloc_model::atomic::AtomicUsize;");

/// Sources that models take in.
const SOURCES: &[(&str, Others)] = &[
    ("units.rs", &[]),
    ("size_class.rs", &[]),
    ("os/lock.rs", &[]),
    ("back/aside.rs", &[CORE_ATOMIC]),
    ("front/deferred.rs", &[CORE_ATOMIC]),
    ("back/page_map.rs", &[]),
    ("back/span.rs", &[]),
    ("middle/batch.rs", &[]),
    (
        "middle/mod.rs",
        &[
            ("pub mod batch;", 1, ""),
            ("pub mod central_free_list;", 1, ""),
            ("pub mod transfer_cache;", 1, ""),
            ("pub mod whole;", 1, ""),
        ],
    ),
    // Copies to and from the slots are shown to loom.
    ("middle/transfer_cache.rs", &[("core::ptr::copy_nonoverlapping", 2, "crate::copy")]),
    ("middle/central_free_list.rs", &[]),
    // Smaller: steps of budgets, and where a model says so, arrays.
    (
        "front/cpu_cache.rs",
        &[("mod budget;", 1, ""), ("mod class_slots;", 1, ""), ("mod room;", 1, "")],
    ),
    ("front/cpu_cache/class_slots.rs", &[]),
    (
        "front/cpu_cache/budget.rs",
        &[("const BUDGET_STEP: usize = 64 << 10;", 1, "const BUDGET_STEP: usize = 8 << 10;")],
    ),
    (
        "front/cpu_cache/room.rs",
        &[("(slots * 2).next_power_of_two().max(8)", 1, "crate::array_for(slots)")],
    ),
    ("front/locked.rs", &[]),
    ("front/remote.rs", &[]),
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    for (source, others) in SOURCES {
        write(&out.join(file_name(source)), &read(source, others));
    }
    for (name, source, from, to) in MUTANTS {
        let others = SOURCES.iter().find(|(s, _)| s == source).unwrap().1;
        let text = read(source, others);
        let count = text.matches(from).count();
        assert!(count == 1, "{name}: `{from}` occurs {count} times in src/{source}: plant it anew");
        write(&out.join(format!("{name}.rs")), &text.replace(from, to));
    }
    write(&out.join("size_classes.rs"), SIZE_CLASSES);
}

/// "back/span.rs" is included as "back_span.rs".
fn file_name(source: &str) -> String {
    source.replace('/', "_")
}

/// The walk of the heap is no part of the models: functions `verify` are cut,
/// and lines that begin so.
const WALK: &[&str] =
    &["use crate::census::", "use crate::back::page_heap::verify::", "pub mod verify;"];

/// A source without its unit tests, the walk, and what may stand only at the
/// head of a file. Lines keep their numbers.
fn read(source: &str, others: &[(&str, usize, &str)]) -> String {
    let path = Path::new("../src").join(source);
    println!("cargo::rerun-if-changed={}", path.display());
    let text = fs::read_to_string(&path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let head = |line: &str| line.starts_with("//!") || line.starts_with("#![");
    let mut cut_until = None;
    let mut keep = |line: &str| {
        let indent = line.len() - line.trim_start().len();
        if let Some(end) = cut_until {
            cut_until = (line.trim() != "}" || indent > end).then_some(end);
            return false;
        }
        if line.contains(" fn verify(") {
            cut_until = Some(indent);
        }
        !(head(line) || cut_until.is_some() || WALK.iter().any(|w| line.starts_with(w)))
    };
    let mut text: String =
        text.lines().flat_map(|line| [if keep(line) { line } else { "" }, "\n"]).collect();
    for (from, times, to) in others {
        let count = text.matches(from).count();
        assert!(count == *times, "`{from}` occurs {count} times in src/{source}, not {times}");
        text = text.replace(from, to);
    }
    text
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

/// Two classes of 4 KiB, two objects a span: what is full or empty comes often.
const SIZE_CLASSES: &str = "
pub const COUNT: usize = 3;
pub const MAX_BYTES: usize = 1024;
pub const FINE_MAX_BYTES: usize = 1024;
pub const PAGE_BYTES: usize = 8192;
pub const MAX_OBJECTS: usize = 1024;
pub static CLASSES: [ClassInfo; COUNT] =
    [ClassInfo::new(0, 0, 0), ClassInfo::new(4096, 1, 2), ClassInfo::new(4096, 1, 2)];
pub static CLASS_OF: [u8; 129] = [1; 129];
";
