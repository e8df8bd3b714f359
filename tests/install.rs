//! The C library as it is installed, and as a musl program links it.

#![cfg(target_os = "linux")]

mod common;

use common::{build_ffi, command, compiler, in_repository, run, run_ok, temp_dir};
use std::path::Path;

/// Allocates in threads that outnumber the CPUs, and passes blocks between them.
const PROGRAM: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *slots[64];

static void *work(void *seed)
{
	unsigned long x = (unsigned long)seed;
	for (int i = 0; i < 20000; i++) {
		x = x * 6364136223846793005ul + 1442695040888963407ul;
		size_t size = (x >> 40) % 5000 + 1;
		char *block = malloc(size);
		memset(block, (int)size, size);
		block = __atomic_exchange_n(&slots[(x >> 33) % 64], block, __ATOMIC_ACQ_REL);
		free(block);
	}
	return 0;
}

int main(void)
{
	pthread_t threads[16];
	for (long i = 0; i < 16; i++)
		pthread_create(&threads[i], 0, work, (void *)(i + 1));
	for (int i = 0; i < 16; i++)
		pthread_join(threads[i], 0);
	for (int i = 0; i < 64; i++)
		free(slots[i]);
	puts("done");
	return 0;
}
"#;

fn statistics(program: &Path, path: &Path) -> serde_json::Value {
    let option = format!("json:{}", path.display());
    let said = run_ok(command(program).env("CIDALLOC_STATS", option));
    assert_eq!(said, "done\n");
    let text = std::fs::read_to_string(path).expect("the program left statistics");
    serde_json::from_str(&text).expect("the statistics are JSON")
}

#[test]
fn the_installed_files_are_what_pkg_config_says() {
    let at = temp_dir("installed");
    run_ok(command(in_repository("ffi/install")).arg(&at).env_remove("DESTDIR"));
    let text = std::fs::read_to_string(at.join("lib/pkgconfig/cidalloc.pc")).unwrap();
    let value = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key)).expect("the key is there");
        line[key.len()..]
            .trim()
            .replace("${libdir}", "${exec_prefix}/lib")
            .replace("${includedir}", "${prefix}/include")
            .replace("${exec_prefix}", "${prefix}")
            .replace("${prefix}", at.to_str().unwrap())
    };
    assert_eq!(value("Version:"), env!("CARGO_PKG_VERSION"));
    let source = at.join("program.c");
    std::fs::write(&source, format!("#include <cidalloc.h>\n{PROGRAM}")).unwrap();
    let program = at.join("program");
    let mut compile = compiler(false);
    compile.args(["-O2", "-fno-builtin", "-pthread"]).args(value("Cflags:").split_whitespace());
    compile.arg(&source).arg("-o").arg(&program).args(value("Libs:").split_whitespace());
    run_ok(compile.arg(format!("-Wl,-rpath,{}", at.join("lib").display())));
    let found = statistics(&program, &at.join("statistics.json"));
    assert_eq!(found["version"], env!("CARGO_PKG_VERSION"));
    assert!(found["peak_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn a_musl_program_registers_its_own_rseq() {
    if run(command("sh").args(["-c", "command -v musl-gcc"])).stdout.is_empty() {
        eprintln!("SKIP: no musl-gcc here (Debian: musl-tools)");
        assert!(
            std::env::var_os("CIDALLOC_TEST_SKIP_MISSING").is_some(),
            "musl-gcc is missing; CIDALLOC_TEST_SKIP_MISSING=1 skips this test"
        );
        return;
    }
    let at = temp_dir("musl");
    let source = at.join("program.c");
    std::fs::write(&source, PROGRAM).unwrap();
    let program = at.join("program");
    let mut compile = command("musl-gcc");
    compile.args(["-static", "-O2", "-fno-builtin", "-pthread"]).arg(&source);
    run_ok(compile.arg(build_ffi().join("libcidalloc.a")).arg("-o").arg(&program));
    let found = statistics(&program, &at.join("statistics.json"));
    // musl knows nothing of rseq; a kernel without it is the one exception.
    let refused = found["reason"] == "the kernel refuses rseq";
    assert!(found["registration"] == "own" || refused, "{found}");
    assert!(found["live_bytes"].as_u64().unwrap() < 4096, "{found}");
}
