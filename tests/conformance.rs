//! The C and C++ ABI against tables of the standards' rules, in each way a program can come to run
//! on the library; and the header.
//!
//! The tables are in `tests/c/*_rules.{c,cc}`. One rule by hand, for debugging: build with any test
//! here, then `LD_PRELOAD=target/release/libcidalloc.so target/tmp/conformance/programs/rules-c
//! ID`.

#![cfg(target_os = "linux")]

mod common;

use common::{
    build_ffi, command, compiler, in_repository, library, preload, run, run_ok, shown, temp_dir,
};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

const C_RULES: &[&str] = &[
    "tables_c.c",
    "alignment_rules.c",
    "size_rules.c",
    "block_rules.c",
    "report_rules.c",
    "thread_rules.c",
    "runner.c",
    "find.c",
];
const CXX_RULES: &[&str] =
    &["tables_cxx.c", "new_rules.cc", "language_rules.cc", "runner.c", "find.c"];

/// How a program gets its malloc.
#[derive(Clone, Copy, PartialEq)]
enum Link {
    /// From the C library, unless something is preloaded.
    Without,
    Dynamic,
    Archive,
    /// The archive, in a program without any shared library.
    Static,
}

fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| temp_dir("programs"))
}

/// Compiles one source of `tests/c`, once for each way of looking functions up.
fn object(source: &str, linked: bool) -> PathBuf {
    static DONE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let object = directory().join(format!("{source}{}.o", if linked { "-linked" } else { "" }));
    let mut done = DONE.lock().unwrap();
    if !done.contains(&object) {
        let cpp = source.ends_with(".cc");
        let mut compile = compiler(cpp);
        // Without -fno-builtin the compiler removes pairs of malloc and free.
        compile.args(["-O2", "-g", "-fno-builtin", "-pthread", "-w", "-c"]);
        compile.arg(if cpp { "-std=c++17" } else { "-std=gnu11" });
        if linked {
            compile.arg("-DLINKED");
        }
        compile.arg("-I").arg(in_repository("ffi/include"));
        compile.arg(in_repository("tests/c").join(source)).arg("-o").arg(&object);
        run_ok(&mut compile);
        done.insert(object.clone());
    }
    object
}

fn program(name: &str, sources: &[&str], link: Link) -> PathBuf {
    let linked = link != Link::Without;
    let (suffix, libraries) = match link {
        Link::Without => ("", vec![]),
        Link::Dynamic => {
            let at = build_ffi();
            (
                "-dynamic",
                vec![
                    format!("-L{}", at.display()),
                    format!("-Wl,-rpath,{}", at.display()),
                    "-lcidalloc".into(),
                ],
            )
        }
        Link::Archive => {
            ("-archive", vec![build_ffi().join("libcidalloc.a").display().to_string()])
        }
        Link::Static => (
            "-static",
            vec![build_ffi().join("libcidalloc.a").display().to_string(), "-static".into()],
        ),
    };
    let program = directory().join(format!("{name}{suffix}"));
    // Tests run side by side, and one may be running the program that another would write.
    static LINKING: Mutex<()> = Mutex::new(());
    let _guard = LINKING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !program.exists() {
        let mut link = compiler(sources.iter().any(|source| source.ends_with(".cc")));
        link.args(sources.iter().map(|source| object(source, linked))).args(libraries);
        link.args(["-pthread", "-rdynamic", "-o"]).arg(&program);
        run_ok(&mut link);
    }
    program
}

/// Runs a table; prints the counts, and fails with the report if a rule is broken.
fn check_rules(command: &mut Command) {
    let (what, output) = (shown(command), run(command));
    let report = String::from_utf8_lossy(&output.stdout);
    let counts = report.lines().last().unwrap_or_default();
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{what}: {counts}");
    let broken: Vec<&str> = report.lines().filter(|line| !line.starts_with("kept ")).collect();
    assert!(output.status.success(), "{what}: {}\n{}\n{errors}", output.status, broken.join("\n"));
    let ran: u32 = counts.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0);
    assert!(ran >= 20, "{what} checked {ran} rules:\n{report}");
}

fn check_linked(name: &str, sources: &[&str], link: Link) {
    let program = program(name, sources, link);
    check_rules(&mut command(&program));
    check_rules(command(&program).arg("--together"));
}

fn check_preloaded(name: &str, sources: &[&str]) {
    let program = program(name, sources, Link::Without);
    check_rules(preload(&mut command(&program)));
    check_rules(preload(&mut command(&program)).arg("--together"));
}

/// What the modes of the library differ in: the registration and the index. An own registration
/// needs the C library to leave rseq alone.
const MODES: [&[(&str, &str)]; 7] = [
    &[("CIDALLOC_RSEQ", "off")],
    &[("CIDALLOC_INDEX", "shard")],
    &[("CIDALLOC_INDEX", "cpu_id")],
    &[("CIDALLOC_RSEQ", "own"), ("GLIBC_TUNABLES", "glibc.pthread.rseq=0")],
    &[("CIDALLOC_RSEQ", "take")],
    &[("CIDALLOC_COUNT", "1")],
    &[("CIDALLOC_CHECK", "1")],
];

fn check_modes(name: &str, sources: &[&str]) {
    let program = program(name, sources, Link::Without);
    for mode in MODES {
        check_rules(preload(&mut command(&program)).envs(mode.iter().copied()).arg("--together"));
    }
}

/// A rule that glibc breaks is more likely a mistake in the table. Other C libraries differ on
/// purpose.
fn check_c_library(name: &str, sources: &[&str]) {
    if cfg!(target_env = "gnu") {
        check_rules(command(program(name, sources, Link::Without)).arg("--libc"));
    }
}

#[test]
fn c_rules_hold_when_linked() {
    check_linked("rules-c", C_RULES, Link::Dynamic);
}

#[test]
fn c_rules_hold_with_the_archive() {
    check_linked("rules-c", C_RULES, Link::Archive);
}

#[test]
fn c_rules_hold_in_a_static_program() {
    check_linked("rules-c", C_RULES, Link::Static);
}

#[test]
fn c_rules_hold_under_preload() {
    check_preloaded("rules-c", C_RULES);
}

#[test]
fn c_rules_hold_in_every_mode() {
    check_modes("rules-c", C_RULES);
}

#[test]
fn c_rules_hold_for_glibc_itself() {
    check_c_library("rules-c", C_RULES);
}

#[test]
fn cxx_rules_hold_when_linked() {
    check_linked("rules-cxx", CXX_RULES, Link::Dynamic);
}

#[test]
fn cxx_rules_hold_with_the_archive() {
    check_linked("rules-cxx", CXX_RULES, Link::Archive);
}

#[test]
fn cxx_rules_hold_in_a_static_program() {
    check_linked("rules-cxx", CXX_RULES, Link::Static);
}

#[test]
fn cxx_rules_hold_under_preload() {
    check_preloaded("rules-cxx", CXX_RULES);
}

#[test]
fn cxx_rules_hold_in_every_mode() {
    check_modes("rules-cxx", CXX_RULES);
}

#[test]
fn cxx_rules_hold_for_glibc_itself() {
    check_c_library("rules-cxx", CXX_RULES);
}

#[test]
fn programs_allocate_from_first_constructor_to_last_destructor() {
    for link in [Link::Without, Link::Dynamic, Link::Archive, Link::Static] {
        let program = program("lifecycle-c", &["lifecycle.c"], link);
        for (way, stages) in
            [("exit", "pcdmtknxyz\n"), ("quick", "pcdmtknq\n"), ("thread", "pcdmtknkjxyz\n")]
        {
            assert_eq!(
                run_ok(preload(&mut command(&program)).arg(way)),
                stages,
                "{}",
                program.display()
            );
        }
    }
}

#[test]
fn objects_allocate_before_and_after_main() {
    for link in [Link::Without, Link::Dynamic, Link::Archive, Link::Static] {
        let program = program("lifecycle-cxx", &["lifecycle.cc"], link);
        assert_eq!(run_ok(preload(&mut command(&program))), "tttxtsue", "{}", program.display());
    }
}

/// Needs no libstdc++ itself, and must not bring it into C programs.
#[test]
fn c_programs_load_no_cxx_library() {
    let program = program("lifecycle-c", &["lifecycle.c"], Link::Dynamic);
    let loaded = run_ok(command(&program).env("LD_TRACE_LOADED_OBJECTS", "1"));
    assert!(loaded.contains("libcidalloc.so"), "{loaded}");
    assert!(!loaded.contains("libstdc++") && !loaded.contains("libc++"), "{loaded}");
}

#[test]
fn the_header_is_plain_c_and_cxx() {
    let source = in_repository("tests/c/header.c");
    let cases: [(bool, &[&str]); 2] =
        [(false, &["c99", "gnu11", "c17"]), (true, &["c++11", "c++17", "gnu++20"])];
    for (cpp, standards) in cases {
        for standard in standards {
            let mut compile = compiler(cpp);
            compile.arg(format!("-std={standard}")).args([
                "-Wall",
                "-Wextra",
                "-pedantic",
                "-Werror",
                "-fsyntax-only",
            ]);
            compile.args(["-x", if cpp { "c++" } else { "c" }]);
            compile.arg("-I").arg(in_repository("ffi/include")).arg(&source);
            run_ok(&mut compile);
        }
    }
    run_ok(&mut command(program("header", &["header.c"], Link::Dynamic)));
}

/// The names in one part of the header's comment: the first word of each of its indented lines.
fn documented(part: &str) -> BTreeSet<String> {
    let header = std::fs::read_to_string(in_repository("ffi/include/cidalloc.h")).unwrap();
    let comment = header.split("*/").next().unwrap();
    let from = comment.find(part).unwrap_or_else(|| panic!("the header has no part {part}"));
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    comment[from..]
        .lines()
        .skip(1)
        // Parts are headed by a capitalised word at the margin.
        .take_while(|line| !line.starts_with(" * STATISTICS"))
        .filter_map(|line| line.strip_prefix(" *   ").map(str::trim_start))
        .filter(|line| {
            part != "STATISTICS"
                || ["text", "count", "bytes", "list"]
                    .contains(&line.split_whitespace().nth(1).unwrap_or(""))
        })
        .map(|line| line.chars().take_while(|&c| is_name(c)).collect::<String>())
        .filter(|name| part != "OPTIONS" || name.starts_with("CIDALLOC_"))
        .collect()
}

#[test]
fn the_header_documents_every_statistic() {
    fn names(value: &serde_json::Value, into: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(fields) => fields.iter().for_each(|(name, value)| {
                into.insert(name.clone());
                names(value, into);
            }),
            serde_json::Value::Array(items) => items.iter().for_each(|item| names(item, into)),
            _ => {}
        }
    }
    let path = temp_dir("statistics").join("%p.json");
    let mut with_statistics = command(program("lifecycle-c", &["lifecycle.c"], Link::Without));
    with_statistics
        .env("LD_PRELOAD", library())
        .env("CIDALLOC_STATS", format!("json:{}", path.display()));
    run_ok(&mut with_statistics);
    let written: Vec<PathBuf> =
        path.parent().unwrap().read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(written.len(), 1, "{written:?}");
    let text = std::fs::read_to_string(&written[0]).unwrap();
    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let mut present = BTreeSet::new();
    names(&value, &mut present);
    assert_eq!(documented("STATISTICS"), present);
    assert_eq!(
        written[0].file_stem().unwrap().to_str().unwrap(),
        value["pid"].to_string(),
        "%p is the process id"
    );
}

#[test]
fn the_header_documents_every_option() {
    let table = std::fs::read_to_string(in_repository("src/config.rs")).unwrap();
    let options: BTreeSet<String> = table
        .split("name: \"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap().to_string())
        .collect();
    assert!(!options.is_empty());
    assert_eq!(documented("OPTIONS"), options);
}
