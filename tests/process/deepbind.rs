//! RTLD_DEEPBIND, the search path of dlopen's caller, and blocks of glibc's own malloc.

use crate::common::{command, in_repository, library, run_ok};
use crate::{
    DEFAULT, LOCKED, MODES, OWN, built, check, ended, on_library, passed, program, shared_library,
};
use std::os::unix::process::ExitStatusExt;

/// php opens its extensions with RTLD_DEEPBIND, which every other allocator dies of.
#[test]
fn php_runs() {
    if !ended(command("sh").args(["-c", "command -v php"])).status.success() {
        assert!(
            std::env::var_os("CIDALLOC_TEST_SKIP_MISSING").is_some(),
            "php is missing (Debian: php-cli); CIDALLOC_TEST_SKIP_MISSING=1 skips this test"
        );
        return;
    }
    let script = in_repository("tests/process/work.php");
    let wanted = run_ok(command("php").arg(&script));
    assert!(wanted.starts_with("done "), "{wanted}");
    for mode in MODES {
        assert_eq!(passed(on_library("php", mode).args(["-r", "echo 1;"])).stdout, "1");
        // Its own memory manager takes large pieces; without it every value is a malloc.
        for own_manager in ["1", "0"] {
            let mut php = on_library("php", mode);
            assert_eq!(passed(php.arg(&script).env("USE_ZEND_ALLOC", own_manager)).stdout, wanted);
        }
    }
}

#[test]
fn a_library_opened_with_deepbind_shares_the_heap_both_ways() {
    let deep = shared_library("deep_library");
    for mode in MODES {
        check(on_library(program("deep"), mode).arg(&deep).arg("ours"));
    }
}

#[test]
fn the_option_keeps_the_flag_and_blocks_of_glibc_come_back_to_it() {
    let deep = shared_library("deep_library");
    for mode in [DEFAULT, LOCKED, OWN] {
        let mut command = on_library(program("deep"), mode);
        check(command.arg(&deep).arg("glibc").env("CIDALLOC_DEEPBIND", "keep"));
    }
}

/// The library lies where nothing but the program's RUNPATH points, which the loader uses for the
/// program's own calls of dlopen alone.
#[test]
fn dlopen_searches_where_its_real_caller_says() {
    built("deep_library.c", "found/libdeep_found.so", &["-shared", "-fPIC"]);
    let runpath = "-Wl,--enable-new-dtags,-rpath,$ORIGIN/found";
    let deep = built("deep.c", "deep-runpath", &[runpath]);
    let headers = run_ok(command("readelf").arg("-dW").arg(&deep));
    assert!(headers.contains("RUNPATH") && !headers.contains("(RPATH)"), "{headers}");
    check(on_library(&deep, DEFAULT).args(["--found", "libdeep_found.so"]));
    check(
        on_library(&deep, DEFAULT)
            .args(["--found", "libdeep_found.so"])
            .env("CIDALLOC_DEEPBIND", "keep"),
    );
    // Without that path it is not found: the test can fail.
    assert!(
        !ended(on_library(program("deep"), DEFAULT).args(["--found", "libdeep_found.so"]))
            .status
            .success()
    );
}

/// In the release library: no frame, so that the C library sees the caller's return address.
#[test]
fn vfork_and_dlopen_are_bare_jumps() {
    let code = run_ok(command("objdump").args(["-d", "--no-show-raw-insn"]).arg(library()));
    let jump = if cfg!(target_arch = "aarch64") { "b" } else { "jmp" };
    for (name, target) in [("vfork", "<cidalloc_vfork>"), ("dlopen", "<cidalloc_dlopen>")] {
        let mut lines = code.lines().skip_while(|line| !line.ends_with(&format!("<{name}>:")));
        let first = lines.nth(1).unwrap_or_else(|| panic!("no code of {name}"));
        let words: Vec<&str> = first.split_whitespace().collect();
        assert_eq!((words[1], words[words.len() - 1]), (jump, target), "{first}");
    }
}

#[test]
fn blocks_of_glibcs_malloc_are_freed_and_resized_by_it() {
    for mode in MODES {
        check(on_library(program("deep"), mode).arg("--glibc"));
    }
}

#[test]
fn blocks_of_glibcs_malloc_go_back_where_the_break_cannot_grow() {
    check(&mut on_library(program("broken_break"), DEFAULT));
}

/// Words that look a bit like a chunk of glibc's do not help a foreign pointer.
#[test]
fn foreign_pointers_that_look_like_glibcs_end_in_one_line() {
    for mode in [DEFAULT, LOCKED] {
        for kind in
            ["small", "mmapped-unaligned", "mmapped-odd", "arena", "zero", "huge", "start", "brk"]
        {
            let ended = ended(on_library(program("deep"), mode).args(["--foreign", kind]));
            let pointer = ended.stdout.trim();
            assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{kind}: {}", ended.stderr);
            let line =
                format!("cidalloc: invalid free: pointer was not allocated here: {pointer}\n");
            assert_eq!(ended.stderr, line, "{kind}");
        }
    }
}
