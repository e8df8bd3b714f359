//! How each peer's source becomes a library to preload.

use super::Result;
use super::commands::{run, text};
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// What all of them are compiled with; each adds the flags of its own build files.
const SHARED: [&str; 5] = ["-w", "-DNDEBUG", "-fPIC", "-ftls-model=initial-exec", "-shared"];

pub fn mimalloc(from: &Path, work: &Path) -> Result<()> {
    let from = from.join("c_src/mimalloc/v3");
    run(Command::new("cc")
        .args(SHARED)
        .args(["-O3", "-std=gnu11", "-fvisibility=hidden", "-fno-builtin-malloc"])
        .args(["-DMI_BUILD_RELEASE", "-DMI_SHARED_LIB", "-DMI_SHARED_LIB_EXPORT"])
        .arg("-DMI_MALLOC_OVERRIDE")
        .arg("-I")
        .arg(from.join("include"))
        .arg("-I")
        .arg(from.join("src"))
        .arg(from.join("src/static.c"))
        .args(["-lpthread", "-o"])
        .arg(work.join("lib.so")))
}

pub fn jemalloc(from: &Path, work: &Path) -> Result<()> {
    let tree = work.join("tree");
    let _ = fs::remove_dir_all(&tree);
    run(Command::new("cp").arg("-r").arg(from.join("jemalloc")).arg(&tree))?;
    run(Command::new("cp").arg(from.join("configure/configure")).arg(&tree))?;
    run(Command::new("sh")
        .args(["configure", "--with-version=5.3.1-0-g0", "--enable-doc=no", "--disable-static"])
        .current_dir(&tree))?;
    run(Command::new("make").args(["-j2", "build_lib_shared"]).current_dir(&tree))?;
    fs::copy(tree.join("lib/libjemalloc.so.2"), work.join("lib.so")).map_err(|e| e.to_string())?;
    Ok(())
}

pub fn snmalloc(from: &Path, work: &Path) -> Result<()> {
    let from = from.join("upstream/src");
    let mut command = Command::new("c++");
    command.args(SHARED).args(["-O3", "-std=c++20", "-fvisibility=hidden", "-fomit-frame-pointer"]);
    if cfg!(target_arch = "x86_64") {
        command.arg("-mcx16");
    }
    run(command
        .args(["-ffunction-sections", "-static-libstdc++"])
        .args(["-DSNMALLOC_USE_CXX11_THREAD_ATEXIT_DIRECT", "-DSNMALLOC_USE_WAIT_ON_ADDRESS=1"])
        .args(["-DSNMALLOC_HAS_LINUX_FUTEX_H", "-DSNMALLOC_HAS_LINUX_RANDOM_H"])
        .args(["-DSNMALLOC_PLATFORM_HAS_GETENTROPY", "-DSNMALLOC_CHECK_LOADS=false"])
        .args(["-DSNMALLOC_PAGEID=false", "-DSNMALLOC_NO_REALLOCARRAY"])
        .args(["-DSNMALLOC_NO_REALLOCARR"])
        .arg("-DSNMALLOC_EXPORT=__attribute__((visibility(\"default\")))")
        .arg("-I")
        .arg(&from)
        .arg(from.join("snmalloc/override/malloc.cc"))
        .arg(from.join("snmalloc/override/new.cc"))
        .args(["-lpthread", "-latomic", "-o"])
        .arg(work.join("lib.so")))
}

pub fn rpmalloc(from: &Path, work: &Path) -> Result<()> {
    run(Command::new("cc")
        .args(SHARED)
        .args(["-O3", "-fvisibility=hidden", "-fno-builtin-malloc", "-D_GNU_SOURCE"])
        .args(["-DENABLE_OVERRIDE=1", "-DENABLE_PRELOAD=1"])
        .arg(from.join("rpmalloc/rpmalloc/rpmalloc.c"))
        .args(["-lpthread", "-ldl", "-o"])
        .arg(work.join("lib.so")))
}

/// The crate hides malloc's own names; its list of sources, compiled without that.
/// What an interrupted build has compiled is not compiled again.
pub fn tcmalloc(from: &Path, work: &Path) -> Result<()> {
    let list = fs::read_to_string(from.join("build.rs")).map_err(|e| e.to_string())?;
    let mut files: Vec<&str> = list
        .split('"')
        .filter(|word| word.starts_with("c_src/") && !word.contains("_bridge."))
        .filter(|word| word.ends_with(".cc") || word.ends_with(".S"))
        .collect();
    files.push("c_src/tcmalloc/tcmalloc/tcmalloc.cc");
    let object = |file: &str| work.join(file.replace('/', "_") + ".o");
    let objects: Vec<PathBuf> = files.iter().map(|file| object(file)).collect();
    files.retain(|file| !object(file).exists());
    let (left, failure) = (Mutex::new(files), Mutex::new(None));
    let compile = || {
        loop {
            let Some((file, count)) = ({
                let mut left = left.lock().unwrap();
                left.pop().map(|file| (file, left.len()))
            }) else {
                return;
            };
            progress("files", count);
            let mut command = Command::new("c++");
            if file.ends_with(".cc") {
                command.arg("-std=c++17");
            }
            let unfinished = object(file).with_extension("unfinished");
            let done = run(command
                .args(["-O2", "-w", "-DNDEBUG", "-DNOMINMAX", "-DTCMALLOC_INTERNAL_8K_PAGES"])
                .args(["-fPIC", "-ftls-model=initial-exec"])
                .args(["-Ic_src/abseil-cpp", "-Ic_src/tcmalloc", "-c", file, "-o"])
                .arg(&unfinished)
                .current_dir(from))
            .and_then(|()| fs::rename(&unfinished, object(file)).map_err(|e| e.to_string()));
            if let Err(why) = done {
                *failure.lock().unwrap() = Some(why);
                left.lock().unwrap().clear();
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(compile);
        }
    });
    if let Some(why) = failure.into_inner().unwrap() {
        return Err(why);
    }
    run(Command::new("c++")
        .arg("-shared")
        .args(objects)
        .args(["-lpthread", "-o"])
        .arg(work.join("lib.so")))
}

/// On a terminal a line that counts down, else a line now and then.
fn progress(what: &str, left: usize) {
    if std::io::stderr().is_terminal() {
        eprint!("\r  {left} {what} left    {}", if left == 0 { "\n" } else { "" });
    } else if left % 20 == 0 {
        eprintln!("  {left} {what} left");
    }
}

/// Debian's package, unpacked and not installed.
pub fn gperftools(_: &Path, work: &Path) -> Result<()> {
    let architecture = text(Command::new("dpkg").arg("--print-architecture"))?;
    run(Command::new("tests/setup.sh")
        .args(["unpack", architecture.trim(), "libtcmalloc-minimal4"])
        .arg(work))?;
    let found = text(Command::new("find").arg(work).args([
        "-name",
        "libtcmalloc_minimal.so.4*",
        "-type",
        "f",
    ]))?;
    let found = found.lines().next().ok_or("the package has no libtcmalloc_minimal.so.4")?;
    fs::copy(found, work.join("lib.so")).map_err(|e| e.to_string())?;
    Ok(())
}
