//! The allocators: how each is obtained, built as a library to preload, and checked.
//!
//! Sources come from crates.io through cargo, at the versions below; libraries are
//! kept in the cache by version. What cannot be built is said, and left out.
//! To follow a peer's new version, change its row in `CRATES`.

use super::workloads::Tools;
use super::{Result, root, target};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// One allocator as the runs use it.
#[derive(Clone, Debug)]
pub struct Allocator {
    pub name: String,
    /// Preloaded; None is the C library's own.
    pub library: Option<PathBuf>,
    pub environment: &'static [(&'static str, &'static str)],
    /// Version and mode, for the report.
    pub note: String,
}

/// Parses NAME=PATH.so.
pub fn named(text: &str) -> Result<Allocator> {
    let (name, path) = text.split_once('=').ok_or("it must be NAME=PATH.so")?;
    let path = Path::new(path).canonicalize().map_err(|e| format!("{path}: {e}"))?;
    let note = format!("given as {}", path.display());
    Ok(Allocator { name: name.into(), library: Some(path), environment: &[], note })
}

/// Ours comes first in every table.
pub const OURS: &str = "cidalloc";

const CRATES: [(&str, &str); 5] = [
    ("libmimalloc-sys", "0.1.49"),
    ("tikv-jemalloc-sys", "0.7.1"),
    ("snmalloc-sys", "0.7.6"),
    ("libtcmalloc-sys", "0.1.14"),
    ("rpmalloc-sys", "0.2.3"),
];

struct Peer {
    name: &'static str,
    /// The crate its source is in; none: a Debian package.
    source: Option<&'static str>,
    build: fn(&Path, &Path) -> Result<()>,
    environment: &'static [(&'static str, &'static str)],
    note: &'static str,
}

const PEERS: [Peer; 7] = [
    Peer {
        name: "mimalloc",
        source: Some("libmimalloc-sys"),
        build: mimalloc,
        environment: &[],
        note: "v3, as bundled by",
    },
    Peer {
        name: "jemalloc",
        source: Some("tikv-jemalloc-sys"),
        build: jemalloc,
        environment: &[],
        note: "5.3.1, as bundled by",
    },
    Peer {
        name: "snmalloc",
        source: Some("snmalloc-sys"),
        build: snmalloc,
        environment: &[],
        note: "its malloc shim, as bundled by",
    },
    Peer {
        name: "tcmalloc",
        source: Some("libtcmalloc-sys"),
        build: tcmalloc,
        environment: &[("GLIBC_TUNABLES", "glibc.pthread.rseq=0")],
        note: "google's, rseq left to it (glibc.pthread.rseq=0), as bundled by",
    },
    Peer {
        name: "tcmalloc-rseq-on",
        source: Some("libtcmalloc-sys"),
        build: tcmalloc,
        environment: &[("GLIBC_TUNABLES", "glibc.pthread.rseq=1")],
        note: "google's, glibc registers rseq (the default), as bundled by",
    },
    Peer {
        name: "rpmalloc",
        source: Some("rpmalloc-sys"),
        build: rpmalloc,
        environment: &[],
        note: "1.4 (no crate bundles 2.0), as bundled by",
    },
    Peer {
        name: "gperftools",
        source: None,
        build: gperftools,
        environment: &[],
        note: "Debian's libtcmalloc_minimal",
    },
];

/// cidalloc, glibc, the peers that could be built, and `more`; of these only
/// those named in `only`, unless that is empty.
pub fn obtain(
    cache: &Path,
    tools: &Tools,
    more: &[Allocator],
    only: &[String],
) -> Result<Vec<Allocator>> {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| o == name);
    let mut all = vec![ours()?];
    all.push(Allocator {
        name: "glibc".into(),
        library: None,
        environment: &[],
        note: "the system's".into(),
    });
    for peer in PEERS.iter().filter(|peer| wanted(peer.name)) {
        match library(cache, peer) {
            Ok((path, note)) => all.push(Allocator {
                name: peer.name.into(),
                library: Some(path),
                environment: peer.environment,
                note,
            }),
            Err(why) => eprintln!("NOT COMPARED: {} could not be built: {why}", peer.name),
        }
    }
    all.extend(more.iter().cloned());
    all.retain(|a| wanted(&a.name) || more.iter().any(|m| m.name == a.name));
    all.retain_mut(|allocator| match which(allocator, tools) {
        Ok(mode) => {
            allocator.note += &mode;
            eprintln!("{:16} {}", allocator.name, allocator.note);
            true
        }
        Err(why) => {
            eprintln!("NOT COMPARED: {}: {why}", allocator.name);
            false
        }
    });
    if all.is_empty() { Err("no allocator is left to run".into()) } else { Ok(all) }
}

fn ours() -> Result<Allocator> {
    eprintln!("building cidalloc");
    run(Command::new("cargo").args(["build", "--quiet", "--release", "-p", "cidalloc-ffi"]))?;
    let version = text(Command::new("git").args(["describe", "--always", "--dirty"]))?;
    Ok(Allocator {
        name: OURS.into(),
        library: Some(target().join("release/libcidalloc.so")),
        environment: &[],
        note: format!("this checkout, {}", version.trim()),
    })
}

/// Runs a program under `allocator` that says where its malloc is; returns the
/// mode if it says one.
fn which(allocator: &Allocator, tools: &Tools) -> Result<String> {
    let mut command = Command::new(&tools.programs);
    command.arg("which").envs(allocator.environment.iter().map(|(n, v)| (n, v)));
    if let Some(library) = &allocator.library {
        command.env("LD_PRELOAD", library);
    }
    let said = text(&mut command)?;
    let malloc = said.lines().find_map(|l| l.strip_prefix("malloc ")).unwrap_or_default();
    match &allocator.library {
        Some(library) if Path::new(malloc) != library => {
            return Err(format!("preloading {} leaves malloc in {malloc}", library.display()));
        }
        _ => {}
    }
    let per_cpu = said.lines().find_map(|l| l.strip_prefix("per_cpu "));
    Ok(per_cpu.map(|mode| format!("; its per-CPU mode is {mode}")).unwrap_or_default())
}

/// The peer's library, built if it is not in the cache, and what it is.
fn library(cache: &Path, peer: &Peer) -> Result<(PathBuf, String)> {
    let version = CRATES.iter().find(|(name, _)| Some(*name) == peer.source);
    let file = match version {
        Some((name, version)) => cache.join(format!("{name}-{version}.so")),
        None => cache.join(format!("{}.so", peer.name)),
    };
    let note = match version {
        Some((name, version)) => format!("{} {name} {version}", peer.note),
        None => peer.note.into(),
    };
    if !file.exists() {
        eprintln!("building {}", peer.name);
        let from = match version {
            Some((name, version)) => source(cache, name, version)?,
            None => PathBuf::new(),
        };
        let work = cache.join(format!("build-{}", peer.name));
        fs::create_dir_all(&work).map_err(|e| e.to_string())?;
        (peer.build)(&from, &work)?;
        fs::rename(work.join("lib.so"), &file).map_err(|e| format!("no library: {e}"))?;
        let _ = fs::remove_dir_all(&work);
    }
    Ok((file, note))
}

/// The unpacked source of a crate, in cargo's own registry.
fn source(cache: &Path, name: &str, version: &str) -> Result<PathBuf> {
    let project = cache.join("sources").join(name);
    fs::create_dir_all(project.join("src")).map_err(|e| e.to_string())?;
    let manifest = format!(
        "[package]\nname = \"sources\"\nedition = \"2024\"\n\n[workspace]\n\n\
         [dependencies]\n{name} = \"={version}\"\n"
    );
    fs::write(project.join("Cargo.toml"), manifest)
        .and_then(|()| fs::write(project.join("src/lib.rs"), ""))
        .map_err(|e| e.to_string())?;
    let metadata = text(
        Command::new("cargo")
            .args(["metadata", "--quiet", "--format-version=1"])
            .current_dir(project),
    )?;
    // The only package with this name: "manifest_path":"…/NAME-VERSION/Cargo.toml"
    metadata
        .split('"')
        .filter_map(|word| word.strip_suffix("/Cargo.toml").map(Path::new))
        .find(|dir| {
            let dir = dir.file_name().unwrap_or_default().to_string_lossy();
            dir == format!("{name}-{version}") || dir.starts_with(&format!("{name}-{version}+"))
        })
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("cargo has no source of {name} {version}"))
}

/// Runs it in the repository; on failure the end of what it said.
pub fn run(command: &mut Command) -> Result<()> {
    text(command).map(|_| ())
}

fn text(command: &mut Command) -> Result<String> {
    if command.get_current_dir().is_none() {
        command.current_dir(root());
    }
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().collect();
    let end = lines[lines.len().saturating_sub(8)..].join("\n  ");
    Err(format!("{} {}: {end}", command.get_program().to_string_lossy(), output.status))
}

/// What all of them are compiled with; each adds the flags of its own build files.
const SHARED: [&str; 5] = ["-w", "-DNDEBUG", "-fPIC", "-ftls-model=initial-exec", "-shared"];

fn mimalloc(from: &Path, work: &Path) -> Result<()> {
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

fn jemalloc(from: &Path, work: &Path) -> Result<()> {
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

fn snmalloc(from: &Path, work: &Path) -> Result<()> {
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

fn rpmalloc(from: &Path, work: &Path) -> Result<()> {
    run(Command::new("cc")
        .args(SHARED)
        .args(["-O3", "-fvisibility=hidden", "-fno-builtin-malloc", "-D_GNU_SOURCE"])
        .args(["-DENABLE_OVERRIDE=1", "-DENABLE_PRELOAD=1"])
        .arg(from.join("rpmalloc/rpmalloc/rpmalloc.c"))
        .args(["-lpthread", "-ldl", "-o"])
        .arg(work.join("lib.so")))
}

/// The crate hides malloc's own names; its list of sources, compiled without that.
fn tcmalloc(from: &Path, work: &Path) -> Result<()> {
    let list = fs::read_to_string(from.join("build.rs")).map_err(|e| e.to_string())?;
    let mut files: Vec<&str> = list
        .split('"')
        .filter(|word| word.starts_with("c_src/") && !word.contains("_bridge."))
        .filter(|word| word.ends_with(".cc") || word.ends_with(".S"))
        .collect();
    files.push("c_src/tcmalloc/tcmalloc/tcmalloc.cc");
    let total = files.len();
    let object = |file: &str| work.join(file.replace('/', "_") + ".o");
    let objects: Vec<PathBuf> = files.iter().map(|file| object(file)).collect();
    let (left, failure) = (Mutex::new(files), Mutex::new(None));
    let compile = || {
        loop {
            let Some(file) = left.lock().unwrap().pop() else { return };
            let mut command = Command::new("c++");
            if file.ends_with(".cc") {
                command.arg("-std=c++17");
            }
            let done = run(command
                .args(["-O2", "-w", "-DNDEBUG", "-DNOMINMAX", "-DTCMALLOC_INTERNAL_8K_PAGES"])
                .args([
                    "-fPIC",
                    "-ftls-model=initial-exec",
                    "-Ic_src/abseil-cpp",
                    "-Ic_src/tcmalloc",
                ])
                .args(["-c", file, "-o"])
                .arg(object(file))
                .current_dir(from));
            if let Err(why) = done {
                *failure.lock().unwrap() = Some(why);
                left.lock().unwrap().clear();
            }
            eprint!("\r  {} of {total} files left   ", left.lock().unwrap().len());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(compile);
        }
    });
    eprintln!();
    if let Some(why) = failure.into_inner().unwrap() {
        return Err(why);
    }
    run(Command::new("c++")
        .arg("-shared")
        .args(objects)
        .args(["-lpthread", "-o"])
        .arg(work.join("lib.so")))
}

/// Debian's package, unpacked and not installed.
fn gperftools(_: &Path, work: &Path) -> Result<()> {
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
