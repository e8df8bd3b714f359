//! The allocators: how each is obtained, as a library to preload and as the
//! `#[global_allocator]` of the Rust programs, and checked.
//!
//! Sources come from crates.io through cargo, at the versions below; what is built
//! of them is kept in the cache by version. What cannot be built is said, and left
//! out. To follow a peer's new version, change its row in `CRATES`, and the crate
//! in xtask/workloads/rust/Cargo.toml.

use super::commands::{run, run_aloud, text};
use super::workloads::Tools;
use super::{Result, peers, root, target};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Variables of the environment.
pub type Environment = &'static [(&'static str, &'static str)];

/// One allocator as the runs use it.
#[derive(Clone, Debug)]
pub struct Allocator {
    pub name: String,
    /// Preloaded; None is the C library's own.
    pub library: Option<PathBuf>,
    /// The Rust programs; None if they could not be built.
    pub rust: Option<PathBuf>,
    /// The Rust programs are built on the system's malloc: `library` is preloaded
    /// into them, too.
    pub rust_is_preloaded: bool,
    pub environment: Environment,
    /// What starts its background thread, if it has one.
    pub background: Environment,
    /// Version and mode, for the report.
    pub note: String,
}

impl Allocator {
    pub fn new(name: &str, library: Option<PathBuf>, note: String) -> Self {
        Allocator {
            name: name.into(),
            library,
            rust: None,
            rust_is_preloaded: true,
            environment: &[],
            background: &[],
            note,
        }
    }

    /// What is preloaded into a C program or, if `is_rust`, into the Rust programs.
    pub fn preloaded(&self, is_rust: bool) -> Option<&Path> {
        self.library.as_deref().filter(|_| !is_rust || self.rust_is_preloaded)
    }
}

/// Parses NAME=PATH.so.
pub fn named(text: &str) -> Result<Allocator> {
    let (name, path) = text.split_once('=').ok_or("it must be NAME=PATH.so")?;
    let path = Path::new(path).canonicalize().map_err(|e| format!("{path}: {e}"))?;
    let note = format!("given as {}", path.display());
    Ok(Allocator::new(name, Some(path), note))
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
    /// The feature of xtask/workloads/rust that makes it the global allocator.
    feature: Option<&'static str>,
    environment: Environment,
    background: Environment,
    note: &'static str,
}

const PEERS: [Peer; 7] = [
    Peer {
        name: "mimalloc",
        source: Some("libmimalloc-sys"),
        build: peers::mimalloc,
        feature: Some("mimalloc"),
        environment: &[],
        background: &[],
        note: "v3, as bundled by",
    },
    Peer {
        name: "jemalloc",
        source: Some("tikv-jemalloc-sys"),
        build: peers::jemalloc,
        feature: Some("jemalloc"),
        environment: &[],
        background: &[
            ("MALLOC_CONF", "background_thread:true"),
            ("_RJEM_MALLOC_CONF", "background_thread:true"),
        ],
        note: "5.3.1, as bundled by",
    },
    Peer {
        name: "snmalloc",
        source: Some("snmalloc-sys"),
        build: peers::snmalloc,
        feature: Some("snmalloc"),
        environment: &[],
        background: &[],
        note: "its malloc shim, as bundled by",
    },
    Peer {
        name: "tcmalloc",
        source: Some("libtcmalloc-sys"),
        build: peers::tcmalloc,
        feature: Some("tcmalloc"),
        environment: &[("GLIBC_TUNABLES", "glibc.pthread.rseq=0")],
        background: &[],
        note: "google's, rseq left to it (glibc.pthread.rseq=0), as bundled by",
    },
    Peer {
        name: "tcmalloc-rseq-on",
        source: Some("libtcmalloc-sys"),
        build: peers::tcmalloc,
        feature: Some("tcmalloc"),
        environment: &[("GLIBC_TUNABLES", "glibc.pthread.rseq=1")],
        background: &[],
        note: "google's, glibc registers rseq (the default), as bundled by",
    },
    Peer {
        name: "rpmalloc",
        source: Some("rpmalloc-sys"),
        build: peers::rpmalloc,
        feature: Some("rpmalloc"),
        environment: &[],
        background: &[],
        note: "1.4 (no crate bundles 2.0), as bundled by",
    },
    Peer {
        name: "gperftools",
        source: None,
        build: peers::gperftools,
        feature: None,
        environment: &[],
        background: &[],
        note: "Debian's libtcmalloc_minimal",
    },
];

/// cidalloc, glibc, the peers that could be built, and `more`; of these only
/// those named in `only`, unless that is empty. The Rust programs are built if
/// `with_rust`.
pub fn obtain(
    cache: &Path,
    tools: &Tools,
    more: &[Allocator],
    only: &[String],
    with_rust: bool,
) -> Result<Vec<Allocator>> {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| o == name);
    let mut all = Vec::new();
    if wanted(OURS) {
        all.push(ours(cache, with_rust)?);
    }
    let system = if with_rust { rust_programs(cache, None, "system") } else { None };
    if wanted("glibc") {
        all.push(Allocator::new("glibc", None, "the system's".into()));
    }
    for peer in PEERS.iter().filter(|peer| wanted(peer.name)) {
        match library(cache, peer) {
            Ok((path, note)) => all.push(Allocator {
                rust: peer.feature.filter(|_| with_rust).and_then(|feature| {
                    let version = note.rsplit(' ').next().unwrap_or_default();
                    rust_programs(cache, Some(feature), version)
                }),
                rust_is_preloaded: peer.feature.is_none(),
                environment: peer.environment,
                background: peer.background,
                ..Allocator::new(peer.name, Some(path), note)
            }),
            Err(why) => eprintln!("NOT COMPARED: {} could not be built: {why}", peer.name),
        }
    }
    all.extend(more.iter().cloned());
    for allocator in all.iter_mut().filter(|a| a.rust_is_preloaded) {
        allocator.rust = system.clone();
    }
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

fn ours(cache: &Path, with_rust: bool) -> Result<Allocator> {
    eprintln!("building cidalloc");
    run(Command::new("cargo").args(["build", "--quiet", "--release", "-p", "cidalloc-ffi"]))?;
    let library = target().join("release/libcidalloc.so");
    // A copy: what is measured does not change when this checkout is built again.
    let copy = cache.join("libcidalloc.so");
    let _ = fs::remove_file(&copy);
    fs::copy(&library, &copy).map_err(|e| format!("{}: {e}", library.display()))?;
    let version = text(Command::new("git").args(["describe", "--always"]))?;
    // What a comparison writes changes nothing that it measures.
    let changed =
        text(Command::new("git").args(["status", "--porcelain", "-uno", "--", ".", ":!docs"]))?;
    let changed = if changed.is_empty() { "" } else { " and changes to it" };
    Ok(Allocator {
        rust: if with_rust { rust_programs(cache, Some(OURS), "checkout") } else { None },
        rust_is_preloaded: false,
        background: &[("CIDALLOC_BACKGROUND", "on")],
        ..Allocator::new(OURS, Some(copy), format!("this checkout, {}{changed}", version.trim()))
    })
}

/// "Does nothing": the floor of `calls`.
pub fn nothing(cache: &Path, tools: &Tools) -> Allocator {
    Allocator {
        rust: rust_programs(cache, Some("nothing"), "checkout"),
        rust_is_preloaded: false,
        ..Allocator::new("nothing", Some(tools.nothing.clone()), "does nothing".into())
    }
}

/// Writes what benches/peers.rs needs: of each allocator its name, and of both
/// interfaces the program that times calls, what is preloaded, and the environment.
pub fn list(cache: &Path, allocators: &[Allocator], tools: &Tools) -> Result<()> {
    let mut text = String::new();
    for a in allocators {
        for is_rust in [false, true] {
            let program = if is_rust { a.rust.as_deref() } else { Some(tools.calls.as_path()) };
            let Some(program) = program else { continue };
            let library = a.preloaded(is_rust).unwrap_or(Path::new(""));
            let environment: Vec<_> =
                a.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let interface = if is_rust { "rust" } else { "c" };
            let (program, library) = (program.display(), library.display());
            let environment = environment.join(" ");
            text += &format!("{interface}\t{}\t{program}\t{library}\t{environment}\n", a.name);
        }
    }
    fs::write(cache.join("callers.tsv"), text).map_err(|e| format!("callers.tsv: {e}"))
}

/// The Rust programs with `feature` for their global allocator; said, if they
/// cannot be built. Cargo sees what has changed, and shows its progress.
fn rust_programs(cache: &Path, feature: Option<&str>, version: &str) -> Option<PathBuf> {
    let name = format!("rust-{}-{version}", feature.unwrap_or("glibc"));
    let target = cache.join("rust");
    eprintln!("building the Rust programs on {}", feature.unwrap_or("the system's malloc"));
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--locked", "--manifest-path"]);
    command.arg(root().join("xtask/workloads/rust/Cargo.toml"));
    command.arg("--target-dir").arg(&target).args(["--features", feature.unwrap_or_default()]);
    let programs = cache.join("bin").join(name);
    let built = target.join("release/cidalloc-bench-programs");
    let _ = fs::remove_file(&programs);
    match run_aloud(&mut command)
        .and_then(|()| fs::copy(&built, &programs).map_err(|e| format!("{}: {e}", built.display())))
    {
        Ok(_) => Some(programs),
        Err(why) => {
            eprintln!("NOT COMPARED in Rust: {}: {why}", feature.unwrap_or_default());
            None
        }
    }
}

/// Runs programs under `allocator` that say where their malloc is; returns the
/// mode if they say one.
fn which(allocator: &Allocator, tools: &Tools) -> Result<String> {
    let ask = |program: &Path, is_rust: bool| {
        let mut command = Command::new(program);
        command.arg("which").envs(allocator.environment.iter().copied());
        let library = allocator.preloaded(is_rust);
        if let Some(library) = library {
            command.env("LD_PRELOAD", library);
        }
        let said = text(&mut command)?;
        let word = |name: &str| said.lines().find_map(|l| l.strip_prefix(name)).map(str::to_owned);
        // Names of crates contain those of their allocators: "tikv-jemallocator".
        let built = word("allocator ").unwrap_or_default();
        let own = allocator.name.split('-').next().unwrap_or_default();
        if is_rust && !allocator.rust_is_preloaded && !built.contains(own) {
            return Err(format!("{} is built on {built}", program.display()));
        }
        let malloc = word("malloc ").unwrap_or_default();
        match library {
            Some(library) if Path::new(&malloc) != library => {
                Err(format!("preloading {} leaves malloc in {malloc}", library.display()))
            }
            _ => Ok(word("per_cpu ")),
        }
    };
    let c = ask(&tools.which, false)?;
    let rust = allocator.rust.as_deref().map_or(Ok(None), |program| ask(program, true))?;
    Ok(match (c, rust) {
        (Some(c), Some(rust)) if c != rust => {
            format!("; its per-CPU mode is {c} when preloaded, {rust} in Rust programs")
        }
        (Some(mode), _) | (None, Some(mode)) => format!("; its per-CPU mode is {mode}"),
        (None, None) => String::new(),
    })
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

/// google's tcmalloc, built if it is not in the cache, and its version.
pub fn tcmalloc(cache: &Path) -> Result<(PathBuf, String)> {
    let peer = PEERS.iter().find(|peer| peer.name == "tcmalloc").ok_or("no such peer")?;
    let version = CRATES.iter().find(|(name, _)| Some(*name) == peer.source);
    let (name, version) = version.ok_or("it is no crate")?;
    Ok((library(cache, peer)?.0, format!("{name} {version}")))
}

/// The unpacked source of a crate, in cargo's own registry.
pub fn source(cache: &Path, name: &str, version: &str) -> Result<PathBuf> {
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
