//! What the integration tests share: the built libraries, compilers, and clean surroundings for
//! programs under test.

// Each test program uses a part of this.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// Builds the C libraries as users get them, once per process, and returns the directory of
/// `libcidalloc.so` and `libcidalloc.a`.
pub fn build_ffi() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| artifact("cidalloc-ffi", "libcidalloc.so").parent().unwrap().to_path_buf())
        .clone()
}

/// Builds the command-line tool as users get it, once per process, and returns its path.
pub fn build_cli() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| artifact("cidalloc-cli", "cidalloc")).clone()
}

/// Builds a package for release and returns the path of the file that it is built for. Cargo itself
/// tells the path, which depends on its configuration.
fn artifact(package: &str, file: &str) -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--message-format=json-render-diagnostics", "-p", package])
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .env_remove("LD_PRELOAD")
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{package} does not build");
    let text = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| message["filenames"].as_array().cloned())
        .flatten()
        .filter_map(|name| name.as_str().map(PathBuf::from))
        .find(|path| path.file_name().is_some_and(|name| name == file))
        .unwrap_or_else(|| panic!("{package} makes no {file}"))
}

/// The shared library.
pub fn library() -> PathBuf {
    build_ffi().join("libcidalloc.so")
}

/// A command whose environment has nothing to say to an allocator.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_remove("LD_PRELOAD");
    for (name, _) in std::env::vars_os() {
        let is_ours = name.to_string_lossy().starts_with("CIDALLOC_");
        if is_ours || name == "GLIBC_TUNABLES" || name == "MALLOC_PERTURB_" {
            command.env_remove(&name);
        }
    }
    command
}

/// Makes the command run on the library.
pub fn preload(command: &mut Command) -> &mut Command {
    command.env("LD_PRELOAD", library())
}

/// Runs the command to its end, its input empty, its output collected.
pub fn run(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", shown(command)))
}

/// Runs the command and returns what it wrote to stdout; any failure fails the test, with all the
/// command wrote.
pub fn run_ok(command: &mut Command) -> String {
    let output = run(command);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let command = shown(command);
    assert!(output.status.success(), "{command}: {}\n{stdout}{stderr}", output.status);
    stdout
}

/// An empty directory of this test program, below Cargo's directory for tests; it stays for
/// inspection until the next run. Each name is for one caller, because tests run side by side.
pub fn temp_dir(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME")).join(name);
    let emptied = match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => std::fs::create_dir_all(&path),
    };
    emptied.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

/// The C or C++ compiler that `cc` finds for the target of this very test.
pub fn compiler(cpp: bool) -> Command {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    let target = format!("{}-unknown-linux-{libc}", std::env::consts::ARCH);
    let tool = cc::Build::new()
        .cpp(cpp)
        .target(&target)
        .host(&target)
        .opt_level(0)
        .no_default_flags(true)
        .cargo_metadata(false)
        .cargo_warnings(false)
        .try_get_compiler()
        .expect("a compiler is installed");
    let mut compiler = command(tool.path());
    compiler.args(tool.args());
    compiler
}

/// What is set for the command, the program and its arguments, for a report.
pub fn shown(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let set =
        set.map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    set.chain(words.map(|word| word.to_string_lossy().into_owned())).collect::<Vec<_>>().join(" ")
}

/// A file of the repository.
pub fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
