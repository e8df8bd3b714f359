//! Faults of a program, and what ends it: always, and in the checking mode (`CIDALLOC_CHECK=1`).
//! `docs/misuse.md` is the table that is held here; `ROWS` names its rows.
//!
//! One fault by hand: build with any test here, then `CIDALLOC_CHECK=1
//! LD_PRELOAD=target/release/libcidalloc.so target/tmp/misuse/programs/checked overflow_1 24`.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use common::{build_ffi, command, compiler, in_repository, preload, run, run_ok, shown, temp_dir};
use std::alloc::{GlobalAlloc, Layout};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// The faults of Rust are committed in this very program.
#[global_allocator]
static A: cidalloc::CidAlloc = cidalloc::CidAlloc;

const CHECK: (&str, &str) = ("CIDALLOC_CHECK", "1");
const SIGABRT: i32 = 6;

const DOUBLE: &[&str] = &["double free"];
const INVALID: &[&str] = &["invalid free"];
const SIZE: &[&str] = &["wrong size"];
const ALIGN: &[&str] = &["wrong alignment"];
const OVERFLOW: &[&str] = &["overflow"];
const UNDERFLOW: &[&str] = &["underflow"];
const FREED: &[&str] = &["write after free", "use after free"];

/// Of a row of the table: its name, the cases of `checked.c`, and the words of which one stands in
/// the report.
const ROWS: &[(&str, &[&str], &[&str])] = &[
    ("double free, immediate", &["double_immediate", "double_realloc", "in_child"], DOUBLE),
    (
        "double free, delayed",
        &["double_delayed", "double_by_thread", "double_after_realloc"],
        DOUBLE,
    ),
    ("double free, interleaved", &["double_interleaved"], DOUBLE),
    ("double free, after reuse", &["double_after_reuse"], &["double free", "no block starts"]),
    ("invalid free, foreign", &["free_static", "free_mapped"], INVALID),
    ("invalid free, stack", &["free_stack"], INVALID),
    ("invalid free, interior", &["free_interior", "realloc_interior"], INVALID),
    ("invalid free, misaligned", &["free_misaligned"], INVALID),
    ("invalid free, near", &["free_near", "free_before", "free_behind"], INVALID),
    ("invalid free, far", &["free_far"], INVALID),
    ("freed block in malloc_usable_size", &["usable_size_of_freed"], DOUBLE),
    ("wrong size in a sized free", &["sized_free", "sized_free_smaller"], SIZE),
    ("wrong alignment in a sized free", &["aligned_sized_free", "sized_free_of_aligned"], ALIGN),
    (
        "overflow by 1 byte",
        &[
            "overflow_1",
            "overflow_zero",
            "overflow_realloc",
            "overflow_at_exit",
            "overflow_on_demand",
            "overflow_aligned",
            "overflow_calloc",
        ],
        OVERFLOW,
    ),
    ("overflow by 32 bytes", &["overflow_32"], OVERFLOW),
    ("overflow by 1 MB", &["overflow_1m"], OVERFLOW),
    (
        "underflow",
        &["underflow_1", "underflow_32", "underflow_aligned", "underflow_at_exit"],
        UNDERFLOW,
    ),
    (
        "write after free",
        &["write_freed", "write_freed_last", "write_freed_later", "write_freed_aligned"],
        FREED,
    ),
];

/// Rows with tests of their own.
const OTHER_ROWS: &[&str] = &[
    "wrong size in a sized delete",
    "malloc and delete, new and free",
    "new and delete[], new[] and delete",
    "wrong alignment in a delete",
    "wrong layout in Rust's dealloc",
    "use of uninitialised contents",
    "use of freed contents",
];

/// Blocks of a few classes, and of spans of their own, with and without room behind them.
const SIZES: [usize; 5] = [1, 24, 5000, 300_000, 300_001];

/// Compiles a program of `tests/c`, once.
fn program(source: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    static COMPILING: Mutex<()> = Mutex::new(());
    let _one = COMPILING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let directory = DIRECTORY.get_or_init(|| temp_dir("programs"));
    let program = directory.join(source.replace('.', "-"));
    if !program.exists() {
        let cpp = source.ends_with(".cc");
        let mut compile = compiler(cpp);
        // Without -fno-builtin the compiler removes pairs of malloc and free.
        compile.args(["-O1", "-g", "-fno-builtin", "-pthread", "-w"]);
        compile.arg(if cpp { "-std=c++17" } else { "-std=gnu11" });
        compile.arg("-I").arg(in_repository("ffi/include"));
        compile.arg(in_repository("tests/c").join(source)).arg("-o").arg(&program);
        if !cpp {
            let at = build_ffi();
            compile.arg(format!("-L{0}", at.display())).arg("-lcidalloc");
            compile.arg(format!("-Wl,-rpath,{}", at.display()));
        }
        run_ok(&mut compile);
    }
    program
}

/// The one line that a fault may leave; `known` if more than the pointer must stand on it.
fn names_fault(stderr: &str, pointer: &str, words: &[&str]) -> bool {
    stderr.lines().count() == 1
        && stderr.starts_with("cidalloc: ")
        && stderr.split([' ', ',', ':', '\n']).any(|word| word == pointer)
        && words.iter().any(|word| stderr.contains(word))
}

/// Whether the output is that of a process which announced its pointer and then died of the fault.
/// An access to inaccessible memory is named by its own address.
fn died_of(output: &Output, words: &[&str]) -> bool {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let pointer = stdout.lines().map(str::trim).rfind(|line| line.starts_with("0x"));
    let pointer = pointer.unwrap_or("nothing was announced");
    let by_access = stderr.contains(" access ") && stderr.contains(&format!(" at {pointer},"));
    output.status.signal() == Some(SIGABRT)
        && (names_fault(&stderr, pointer, words)
            || by_access && words.iter().any(|word| stderr.contains(word)))
}

/// Collects what is not as it must be.
#[derive(Default)]
struct Faults(String);

impl Faults {
    fn note(&mut self, command: &Command, output: &Output) {
        let stderr = String::from_utf8_lossy(&output.stderr);
        writeln!(self.0, "{}: {}, stderr {stderr:?}", shown(command), output.status).unwrap();
    }

    fn must_die(&mut self, command: &mut Command, words: &[&str]) {
        let output = run(command);
        if !died_of(&output, words) {
            self.note(command, &output);
        }
    }

    fn must_pass(&mut self, command: &mut Command) {
        let output = run(command);
        if !output.status.success() || !output.stderr.is_empty() {
            self.note(command, &output);
        }
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        assert!(std::thread::panicking() || self.0.is_empty(), "{}", self.0);
    }
}

fn checked(source: &str, arguments: &[&str]) -> Command {
    let mut command = command(program(source));
    preload(&mut command).args(arguments).env(CHECK.0, CHECK.1);
    command
}

// Always

const LOCKED: &[(&str, &str)] = &[("CIDALLOC_RSEQ", "off")];

/// Commits a fault in a process of its own; returns the pointer, the exit status and stderr.
fn misuse(
    mode: &[(&str, &str)],
    door: &str,
    case: &str,
) -> (String, std::process::ExitStatus, String) {
    let program = program("misuse.c");
    let output = run(preload(&mut command(program)).envs(mode.iter().copied()).args([door, case]));
    let pointer = String::from_utf8_lossy(&output.stdout).trim().to_string();
    assert!(pointer.starts_with("0x"), "{door} {case} {mode:?}: {output:?}");
    (pointer, output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn faults_met_at_once_end_in_one_line_and_abort() {
    let foreign: &[&str] = &["not allocated here"];
    let nowhere: &[&str] = &["not allocated here", "not allocated", "no block starts"];
    let interior: &[&str] = &["not the start", "no block starts"];
    let double: &[&str] = &["double free", "not allocated", "no block starts"];
    let cases: [(&str, &[&str]); 20] = [
        ("stack", foreign),
        ("static", foreign),
        ("static-page", foreign),
        ("code", foreign),
        ("mmap", foreign),
        ("far", foreign),
        ("low", foreign),
        ("noncanonical", foreign),
        ("kernel", foreign),
        ("last", foreign),
        ("beyond", nowhere),
        ("interior-16", interior),
        ("interior-odd", interior),
        ("interior-page", interior),
        ("interior-last", interior),
        ("double-large", double),
        ("double-large-later", double),
        ("double-large-trimmed", double),
        ("double-after-realloc", double),
        ("double-aligned", double),
    ];
    let mut faults = Vec::new();
    for mode in [&[][..], LOCKED] {
        for door in ["free", "realloc"] {
            for (case, words) in cases {
                let (pointer, status, stderr) = misuse(mode, door, case);
                if status.signal() != Some(SIGABRT) || !names_fault(&stderr, &pointer, words) {
                    faults.push(format!(
                        "{door} {case} {pointer} {mode:?}: {status}, stderr {stderr:?}"
                    ));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A small block's fault is met when the block leaves the caches, or never; it must do no harm
/// before. A double free that stays in a cache cannot be told from two blocks, so only those that
/// leave are promised.
#[test]
fn faults_of_small_blocks_never_hand_a_block_out_twice() {
    let mut faults = Vec::new();
    for mode in [&[][..], LOCKED] {
        for case in [
            "small-double",
            "small-double-trimmed",
            "small-interior",
            "small-interior-trimmed",
            "small-odd-trimmed",
        ] {
            let (pointer, status, stderr) = misuse(mode, "free", case);
            let died = status.signal() == Some(SIGABRT)
                && names_fault(&stderr, &pointer, &["double free", "invalid free"]);
            if !died && !status.success() {
                faults.push(format!("{case} {pointer} {mode:?}: {status}, stderr {stderr:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

// The checking mode

#[test]
fn every_fault_of_c_ends_the_process() {
    let mut faults = Faults::default();
    for (_, cases, words) in ROWS {
        for case in *cases {
            for size in SIZES.map(|size| size.to_string()) {
                faults.must_die(&mut checked("checked.c", &[case, &size]), words);
            }
        }
    }
}

#[test]
fn the_same_without_its_fault_passes() {
    let mut faults = Faults::default();
    for (_, cases, _) in ROWS {
        for case in *cases {
            for size in ["24", "300000"] {
                faults.must_pass(&mut checked("checked.c", &[case, size, "sound"]));
            }
        }
    }
}

/// The mode is off by default: nothing is looked at, and nothing is laid out for it.
#[test]
fn without_the_mode_the_same_faults_pass() {
    let mut faults = Faults::default();
    for case in ["sized_free", "overflow_aligned", "write_freed_last", "sized_free_of_aligned"] {
        faults.must_pass(checked("checked.c", &[case, "100"]).env_remove(CHECK.0));
    }
}

const FAMILY: &[&str] = &["another allocation function"];
const CXX: &[(&str, &[&str])] = &[
    ("new_free", FAMILY),
    ("array_free", FAMILY),
    ("malloc_delete", FAMILY),
    ("malloc_delete_array", FAMILY),
    ("malloc_delete_sized", FAMILY),
    ("new_delete_array", FAMILY),
    ("array_delete", FAMILY),
    ("new_realloc", FAMILY),
    ("large_new_free", FAMILY),
    ("aligned_new_free", FAMILY),
    ("nothrow_new_free", FAMILY),
    ("sized_delete", SIZE),
    ("sized_delete_same_class", SIZE),
    ("sized_delete_array", SIZE),
    ("sized_delete_large", SIZE),
    ("aligned_sized_delete", SIZE),
    ("aligned_new_delete", ALIGN),
    ("new_aligned_delete", ALIGN),
    ("wrong_alignment", ALIGN),
    ("double_delete", DOUBLE),
];

#[test]
fn every_mismatch_of_cxx_ends_the_process() {
    let mut faults = Faults::default();
    for (case, words) in CXX {
        faults.must_die(&mut checked("checked.cc", &[case]), words);
        faults.must_pass(&mut checked("checked.cc", &[case, "sound"]));
    }
}

/// Commits the fault that the environment names; only for the test below.
#[test]
#[ignore = "ends the process"]
fn a_fault_of_rust() {
    let name = std::env::var("CIDALLOC_TEST_FAULT").unwrap();
    let layout = Layout::from_size_align(100, 16).unwrap();
    let wider = Layout::from_size_align(101, 16).unwrap();
    let aligned = Layout::from_size_align(100, 32).unwrap();
    // SAFETY: none: these are the faults.
    unsafe {
        let block = A.alloc(layout);
        println!("{block:?}");
        match name.as_str() {
            "none" => A.dealloc(block, layout),
            "double" => (0..2).for_each(|_| A.dealloc(block, layout)),
            "size" => A.dealloc(block, wider),
            "align" => A.dealloc(block, aligned),
            "interior" => A.dealloc(block.add(16), layout),
            "realloc size" => drop(A.realloc(block, wider, 200)),
            "c" => cidalloc::heap::free(block),
            "overflow" => {
                block.add(100).write_volatile(0);
                A.dealloc(A.realloc(block, layout, 50), Layout::from_size_align(50, 16).unwrap());
            }
            "freed" => {
                A.dealloc(block, layout);
                block.write_volatile(0);
            }
            "zeroed" => {
                let zeroed = A.alloc_zeroed(layout);
                assert!(std::slice::from_raw_parts(zeroed, 100).iter().all(|byte| *byte == 0));
                A.dealloc(zeroed, layout);
                A.dealloc(
                    A.realloc(block, layout, 300_000),
                    Layout::from_size_align(300_000, 16).unwrap(),
                );
            }
            _ => unreachable!(),
        }
    }
}

#[test]
fn every_fault_of_rust_ends_the_process() {
    let mut faults = Faults::default();
    let with = |name: &str| {
        let mut command = command(std::env::current_exe().unwrap());
        command.args(["--exact", "a_fault_of_rust", "--ignored", "--nocapture"]);
        command.env(CHECK.0, CHECK.1).env("CIDALLOC_TEST_FAULT", name);
        command
    };
    for (name, words) in [
        ("double", DOUBLE),
        ("size", SIZE),
        ("align", ALIGN),
        ("realloc size", SIZE),
        ("c", FAMILY),
        ("overflow", OVERFLOW),
        ("freed", FREED),
    ] {
        faults.must_die(&mut with(name), words);
    }
    let interior = run(&mut with("interior"));
    let stderr = String::from_utf8_lossy(&interior.stderr);
    assert!(stderr.contains("16 bytes into a block of 100 bytes"), "{stderr}");
    for name in ["none", "zeroed"] {
        faults.must_pass(&mut with(name));
    }
}

/// What no check ends: contents that were never written, or belong to nobody any more, are a
/// pattern, and as a pointer lead nowhere.
#[test]
fn new_and_freed_blocks_have_patterns() {
    let mut faults = Faults::default();
    for size in SIZES.map(|size| size.to_string()) {
        faults.must_pass(&mut checked("checked.c", &["read_fresh", &size]));
        match size.len() {
            ..=5 => faults.must_pass(&mut checked("checked.c", &["read_freed", &size])),
            // Large blocks cannot be read any more.
            _ => faults.must_die(&mut checked("checked.c", &["read_freed", &size]), FREED),
        }
    }
}

/// The line says what is known of the block.
#[test]
fn reports_tell_of_the_block() {
    let line = |arguments: &[&str]| {
        String::from_utf8(run(&mut checked("checked.c", arguments)).stderr).unwrap()
    };
    for (arguments, words) in [
        (
            ["double_by_thread", "24"],
            &["a block of 24 bytes", "class of 80 bytes", "freed by thread"][..],
        ),
        (["free_interior", "100"], &["50 bytes into a block of 100 bytes", "from malloc"]),
        (["overflow_1", "100"], &["first 0 bytes after the end of a block of 100 bytes"]),
        (["overflow_1m", "300000"], &["0 bytes after the end of", "a span of its own"]),
        (["write_freed", "300000"], &["0 bytes into a block of 300000 bytes"]),
        (["sized_free", "24"], &["25 bytes told by free"]),
        (["aligned_sized_free", "24"], &["128 told by free", "at a multiple of 64"]),
        (["underflow_1", "24"], &["header at 0x", "is damaged", "class of 80 bytes"]),
        (["underflow_1", "300000"], &["1 bytes before a block of 300000 bytes"]),
    ] {
        let line = line(&arguments);
        assert!(words.iter().all(|word| line.contains(word)), "{arguments:?}: {line}");
    }
    // Two threads, two ids.
    let line = line(&["double_by_thread", "24"]);
    let ids: BTreeSet<&str> = line
        .split("by thread ")
        .skip(1)
        .map(|rest| rest.split([',', '\n']).next().unwrap())
        .collect();
    assert_eq!(ids.len(), 2, "{line}");
}

#[test]
fn threads_forks_and_signals_pass_in_every_mode() {
    let mut faults = Faults::default();
    for mode in [
        &[][..],
        &[("CIDALLOC_RSEQ", "off")],
        &[("CIDALLOC_COUNT", "1"), ("CIDALLOC_DECAY_MS", "0")],
        // Without guards, and with freed blocks that cannot be kept.
        &[("CIDALLOC_FAIL", "rate:3:7,mprotect")],
    ] {
        faults.must_pass(checked("sound.c", &[]).envs(mode.iter().copied()));
    }
    let mut with_stats = checked("sound.c", &[]);
    let output = run(with_stats.env("CIDALLOC_STATS", "1"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("live_bytes"), "{stderr}");
}

/// A program that runs its task without misuse must not notice the mode.
fn passes(what: &str, command: &mut Command) -> String {
    preload(command).env(CHECK.0, CHECK.1);
    let output = run(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !stderr.contains("cidalloc"),
        "{what}: {} {stderr}",
        output.status
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn real_programs_pass() {
    let python = "import json, re, threading, zlib\n\
        def work(n):\n    \
            rows = [{'id': i, 'text': 'x' * (i % 300)} for i in range(n)]\n    \
            assert json.loads(json.dumps(rows)) == rows\n    \
            assert len(re.findall('id', json.dumps(rows))) == n\n    \
            assert zlib.decompress(zlib.compress(b'abc' * 200000)) == b'abc' * 200000\n\
        all = [threading.Thread(target=work, args=(1500,)) for _ in range(4)]\n\
        [t.start() for t in all]; [t.join() for t in all]; print('done')";
    let mut command = command("python3");
    assert_eq!(
        passes("python3", command.env("PYTHONMALLOC", "malloc").args(["-c", python])),
        "done\n"
    );
    let mut sqlite = common::command("sqlite3");
    let script = "create table t(a integer primary key, b text);\
        with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000)\
        insert into t select i, hex(randomblob(i % 100)) from n;\
        create index u on t(b); select count(*) from t join t as s using (b) where t.b = s.b;\
        delete from t where a % 3 = 0; vacuum; select count(*) from t;";
    assert!(passes("sqlite3", sqlite.args([":memory:", script])).ends_with("13334\n"));
    let directory = temp_dir("compiled");
    let mut gxx = common::command("g++");
    gxx.args(["-O1", "-std=c++17", "-w", "-c"]).arg(in_repository("tests/c/checked.cc"));
    passes("g++", gxx.arg("-o").arg(directory.join("checked.o")));
    assert!(directory.join("checked.o").exists());
}

#[test]
fn redis_passes() {
    let directory = temp_dir("redis");
    let socket = directory.join("redis.sock");
    let mut server = command("redis-server");
    server.args(["--port", "0", "--save", "", "--unixsocket"]).arg(&socket).current_dir(&directory);
    preload(&mut server).env(CHECK.0, CHECK.1).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut running = server.spawn().expect("redis-server is installed");
    let cli = |arguments: &[&str]| run(command("redis-cli").arg("-s").arg(&socket).args(arguments));
    let until = Instant::now() + Duration::from_secs(30);
    while !cli(&["ping"]).stdout.starts_with(b"PONG") && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let script = "for i = 1, 5000 do \
          redis.call('set', 'k' .. i % 700, string.rep('x', i % 3000)) \
          redis.call('hset', 'h' .. i % 50, 'f' .. i, string.rep('y', i % 90)) \
          redis.call('rpush', 'l' .. i % 20, i) redis.call('zadd', 'z', i % 77, i) \
          if i % 3 == 0 then redis.call('del', 'k' .. i % 500) end end \
        return redis.call('dbsize')";
    let size = cli(&["eval", script, "0"]);
    let saved = cli(&["save"]);
    cli(&["shutdown", "nosave"]);
    let status = running.wait().unwrap();
    let output = running.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(status.success() && stderr.is_empty(), "{status} {stderr}");
    assert!(saved.stdout.starts_with(b"OK"), "{saved:?}");
    let keys: u32 = String::from_utf8_lossy(&size.stdout).trim().parse().unwrap();
    assert!(keys > 300, "{keys} keys");
}

// The document

#[test]
fn the_document_has_these_rows_and_names_tests_that_exist() {
    let text = std::fs::read_to_string(in_repository("docs/misuse.md")).unwrap();
    let table = text.lines().filter(|line| line.starts_with('|')).skip(2);
    let (mut rows, mut tests) = (BTreeSet::new(), BTreeSet::new());
    for line in table {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 4, "{line}");
        assert!(rows.insert(cells[0].to_string()), "{line}");
        let level = |cell: &str| {
            let first = cell.split([',', ':', ';', ' ']).next().unwrap();
            ["always", "usually", "not"].contains(&first)
        };
        assert!(level(cells[1]) && level(cells[2]), "{line}");
        tests.extend(cells[3].split(", ").map(|name| name.trim_matches('`').to_string()));
    }
    let names = ROWS.iter().map(|row| row.0).chain(OTHER_ROWS.iter().copied());
    assert_eq!(rows, names.map(str::to_string).collect());
    let source = include_str!("misuse.rs");
    for test in tests {
        assert!(source.contains(&format!("fn {test}()")), "there is no test {test}");
    }
}
