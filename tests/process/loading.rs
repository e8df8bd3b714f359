//! Ways to be loaded, what the library asks of the loader, and what it calls.

use crate::common::{command, library, run, run_ok};
use crate::{
    DEFAULT, LOCKED, MODES, beside, built, check, directory, on_library, passed, program,
    shared_library,
};
use std::path::PathBuf;

/// The thread words, and nothing else.
const TLS_BYTES: u64 = 56;

fn hex(word: &str) -> u64 {
    u64::from_str_radix(word.trim_start_matches("0x"), 16).expect("a hexadecimal number")
}

#[test]
fn the_librarys_static_tls_is_56_bytes() {
    let headers = run_ok(command("readelf").args(["-lW"]).arg(library()));
    let mut rows = headers.lines().filter(|line| line.trim_start().starts_with("TLS "));
    let row: Vec<&str> = rows.next().expect("a TLS header").split_whitespace().collect();
    // Type, offset, two addresses, size in the file, size in memory, flags, alignment.
    assert_eq!((hex(row[4]), hex(row[5])), (0, TLS_BYTES), "{row:?}");
    assert!(hex(row[row.len() - 1]) <= 16, "{row:?}");
    assert!(rows.next().is_none());
}

/// A library that takes `bytes` of static TLS, in as many copies as are asked for.
fn eaters(bytes: u32, copies: usize) -> Vec<PathBuf> {
    let define = format!("-DBYTES={bytes}");
    let one = built("tls_eater.c", &format!("eaters/{bytes}.so"), &["-shared", "-fPIC", &define]);
    let copy = |i| {
        let path = one.with_file_name(format!("{bytes}-{i}.so"));
        std::fs::copy(&one, &path).expect("a copy");
        path
    };
    (0..copies).map(copy).collect()
}

/// Python opens the eaters until one fails, or up to `most`, then the library, uses it, and goes on.
const PYTHON: &str = r#"
import ctypes, json, sys
library, most, eaters = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
opened = 0
for path in eaters[:most]:
    try:
        ctypes.CDLL(path)
        opened += 1
    except OSError as error:
        break
try:
    ours = ctypes.CDLL(library)
except OSError as error:
    print(opened, error)
else:
    for name in ("malloc", "realloc", "calloc"):
        getattr(ours, name).restype = ctypes.c_void_p
    blocks = []
    for i in range(2000):
        block = ours.malloc(ctypes.c_size_t(i * 20))
        ctypes.memset(block, i % 256, i * 20)
        blocks.append(block)
    for i, block in enumerate(blocks):
        block = ours.realloc(ctypes.c_void_p(block), ctypes.c_size_t(i * 40 + 1))
        assert ctypes.string_at(block, i * 20) == bytes([i % 256]) * (i * 20)
        ours.free(ctypes.c_void_p(block))
    # A block of the malloc that all others use.
    theirs = ctypes.CDLL(None)
    theirs.malloc.restype = ctypes.c_void_p
    for size in (10, 1000, 1000000):
        ours.free(ctypes.c_void_p(theirs.malloc(ctypes.c_size_t(size))))
    print(opened, "ok", len(json.dumps(list(range(10000)))))
"#;

/// How many eaters could be opened, and what became of the library.
fn in_python(most: usize, eaters: &[PathBuf]) -> (usize, String) {
    let mut python = command("python3");
    python.args(["-c", PYTHON]).arg(library()).arg(most.to_string()).args(eaters);
    let said = passed(&mut python).stdout;
    let (opened, rest) = said.trim().split_once(' ').expect("two words");
    (opened.parse().expect("a number"), rest.to_string())
}

#[test]
fn python_opens_the_library_while_static_tls_lasts_and_else_gets_a_clear_error() {
    assert_eq!(in_python(0, &[]).1, "ok 58890");
    let eaters = eaters(16, 400);
    let (all, error) = in_python(eaters.len(), &eaters);
    assert!(all < eaters.len(), "the surplus has no end");
    assert!(error.contains("cannot allocate memory in static TLS block"), "{error}");
    // What it needs is what its header says, and the loader's rounding.
    let need = TLS_BYTES as usize / 16;
    assert_eq!(in_python(all - need - 1, &eaters).1, "ok 58890");
    let error = in_python(all - need + 1, &eaters).1;
    assert!(
        error.contains("libcidalloc.so: cannot allocate memory in static TLS block"),
        "{error}"
    );
}

/// What the library may take from others. All else is done by system calls of its own, so that wrappers
/// which allocate are never met, nor the C library's locks.
const IMPORTS: [&str; 26] = [
    // Memory and strings: no state.
    "bcmp",
    "memcmp",
    "memcpy",
    "memmove",
    "memset",
    "strlen",
    // Data, and where it is.
    "__errno_location",
    "__rseq_offset",
    "__rseq_size",
    "environ",
    "getauxval",
    // Called outside of the allocator only: with no lock held.
    "__register_atfork",
    "_IO_list_lock",
    "_IO_list_unlock",
    "_IO_list_resetlock",
    "__libc_free",
    "__libc_realloc",
    "dlsym",
    "pthread_create",
    "fwrite",
    "___dlopen",
    // The C++ library's, to throw with.
    "_ZSt15get_new_handlerv",
    "_ZSt17__throw_bad_allocv",
    "__cxa_begin_catch",
    "__cxa_end_catch",
    "__gxx_personality_v0",
];
/// The linker's and the C start files' own, in every shared library.
const OF_EVERY_LIBRARY: [&str; 4] = [
    "_ITM_deregisterTMCloneTable",
    "_ITM_registerTMCloneTable",
    "__cxa_finalize",
    "__gmon_start__",
];

#[test]
fn the_library_imports_nothing_that_allocates_or_locks_inside_it() {
    let symbols = run_ok(command("nm").args(["-D", "--undefined-only"]).arg(library()));
    let names = symbols.lines().filter_map(|line| line.split_whitespace().last());
    let names: Vec<&str> = names.map(|name| name.split('@').next().unwrap()).collect();
    assert!(names.contains(&"memcpy"), "{symbols}");
    let known = |name: &&&str| IMPORTS.contains(name) || OF_EVERY_LIBRARY.contains(name);
    let unknown: Vec<_> = names.iter().filter(|name| !known(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// Every wrapper of the shim allocates; it may stand before the library or behind it.
#[test]
fn wrappers_that_allocate_meet_no_recursion_and_no_lock() {
    let shim = shared_library("shim");
    for mode in MODES {
        for before in [true, false] {
            let mut command = on_library(program("shimmed"), mode);
            beside(&mut command, &shim, before);
            command.env("CIDALLOC_STATS", "json:/dev/null");
            let ended = passed(&mut command);
            assert_eq!(ended.stdout, "ok\n", "{}", ended.stderr);
            let report = ended.stderr.lines().find(|line| line.starts_with("shim ")).unwrap();
            let (counts, callers) = report.split_once(", from the allocator:").unwrap();
            let calls: u32 = counts.split(' ').nth(1).unwrap().parse().unwrap();
            assert!(calls > 100, "{report}");
            for name in callers.split_whitespace() {
                assert!(IMPORTS.contains(&name), "the library called {name}");
            }
            assert!(callers.contains("getauxval"), "no call is noticed: {report}");
        }
    }
}

/// The first allocation of all inside a wrapper, and inside what the C library does at its start.
#[test]
fn real_programs_run_under_the_wrappers() {
    let shim = shared_library("shim");
    for before in [true, false] {
        for mode in [DEFAULT, LOCKED] {
            let mut command = on_library("python3", mode);
            beside(&mut command, &shim, before);
            let script = "import json, threading, subprocess; \
                print(len(json.dumps([str(i) for i in range(5000)])), subprocess.run(['true']).returncode)";
            assert_eq!(passed(command.args(["-c", script])).stdout, "38890 0\n");
        }
    }
}

#[test]
fn the_library_stands_behind_another_preloaded_allocator_user() {
    // Two names for one library: the second load is the first one's.
    let other = directory().join("again.so");
    let _ = std::fs::remove_file(&other);
    std::os::unix::fs::symlink(library(), &other).expect("a link");
    let mut command = on_library(program("forks"), DEFAULT);
    beside(&mut command, &other, true);
    check(command.args(["4", "2"]));
    // A copy is another library: its own heap, with the first one's functions in front.
    let copy = directory().join("copy.so");
    std::fs::copy(library(), &copy).expect("a copy");
    let mut command = on_library("sh", DEFAULT);
    beside(&mut command, &copy, true);
    assert!(run(command.args(["-c", "true"])).status.success());
}
