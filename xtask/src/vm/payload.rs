//! What the guests are given: the library, the command, the test programs, an
//! other allocator, and inputs, in one directory for each architecture and kind of
//! C library.
//!
//! Programs are built against the C library of this machine and run on every later
//! one; for aarch64 they are built by `tests/aarch64.sh`, with Debian's cross tools.

use super::cache::Cache;
use super::cells::{Cell, Libc, MACHINE, version};
use super::guest::Arch;
use crate::commands::{run, run_aloud, text};
use crate::places::{root, target};
use crate::{Result, bench};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Directories to share with guests.
#[derive(Debug, Default)]
pub struct Payload {
    /// Each architecture's, for guests with a C library; or why there is none.
    glibc: Vec<(Arch, Result<PathBuf>)>,
    /// Static programs for guests without.
    musl: Vec<(Arch, Result<PathBuf>)>,
    /// The version of google's tcmalloc; None where it is left out.
    pub tcmalloc: Option<String>,
}

const ARCHES: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

/// In C: name, sources below tests/c.
const PROGRAMS: [(&str, &str); 4] = [
    ("soak", "soak.c"),
    ("twice", "process/twice.c"),
    ("counters", "process/counters.c"),
    ("preempted", "registration/preempted.c"),
];
/// These can do without glibc.
const STATIC_PROGRAMS: [(&str, &str); 3] =
    [("soak", "soak.c"), ("twice", "process/twice.c"), ("forks", "process/forks.c")];

/// A real program of which the source can be had everywhere.
const LUA: (&str, &str) = ("lua-src", "547.0.0");

impl Payload {
    /// Builds what the cells need. What cannot be built is told when a cell asks for it.
    pub fn build(cells: &[Cell], with_tcmalloc: bool) -> Payload {
        let mut payload = Payload::default();
        for arch in ARCHES {
            let mine = || cells.iter().filter(|cell| cell.arch == arch);
            if mine().count() == 0 {
                continue;
            }
            eprintln!("building what runs on {}", arch.name());
            let libraries = libraries(arch);
            if mine().any(|cell| cell.libc != Libc::Musl) {
                let stage = libraries.clone().and_then(|from| programs(arch, &from));
                payload.glibc.push((arch, stage));
            }
            if mine().any(|cell| cell.libc == Libc::Musl) {
                let stage = libraries.and_then(|from| static_programs(arch, &from));
                payload.musl.push((arch, stage));
            }
        }
        if with_tcmalloc {
            payload.tcmalloc = payload
                .add_tcmalloc()
                .map_err(|why| {
                    eprintln!("SKIP: tcmalloc: {why}");
                })
                .ok();
        }
        payload
    }

    /// The directory for a cell, or why it cannot be run.
    pub fn directory(&self, cell: &Cell) -> Result<&Path> {
        let of = match cell.libc {
            Libc::Glibc(libc) => {
                older_than_ours(cell, libc)?;
                &self.glibc
            }
            Libc::Musl => &self.musl,
        };
        let found = of.iter().find(|(arch, _)| *arch == cell.arch);
        let (_, directory) = found.ok_or("nothing was built for it")?;
        directory.as_deref().map_err(Clone::clone)
    }

    fn add_tcmalloc(&mut self) -> Result<String> {
        let found = self.glibc.iter().find(|(arch, _)| *arch == Arch::X86_64);
        let Some((_, Ok(stage))) = found else { return Err("no x86_64 guest".into()) };
        let (library, version) = bench::tcmalloc()?;
        copy(&library, &stage.join("tcmalloc.so"))?;
        Ok(version)
    }
}

/// Programs need the C library that they are built against, or a later one.
fn older_than_ours(cell: &Cell, libc: &str) -> Result<()> {
    if cell.kernel == MACHINE || Arch::of_host() != Some(cell.arch) {
        return Ok(());
    }
    match glibc() {
        Some(ours) if version(libc) < version(&ours) => {
            Err(format!("programs built here need glibc {ours}, the guest has {libc}"))
        }
        _ => Ok(()),
    }
}

/// The version of this machine's glibc.
pub fn glibc() -> Option<String> {
    let said = text(Command::new("getconf").arg("GNU_LIBC_VERSION")).ok()?;
    Some(said.trim().strip_prefix("glibc ")?.into())
}

/// Builds libraries, command and stress test; returns the directory that has them.
fn libraries(arch: Arch) -> Result<PathBuf> {
    let stage = target().join("vm/built").join(arch.name());
    fs::create_dir_all(&stage).map_err(|e| format!("{}: {e}", stage.display()))?;
    if Arch::of_host() != Some(arch) {
        if arch != Arch::Aarch64 {
            return Err(format!("programs for {} cannot be built here", arch.name()));
        }
        run_aloud(Command::new("tests/aarch64.sh").arg("--stage"))?;
        let from = target().join("aarch64/stage");
        for name in ["libcidalloc.so", "libcidalloc.a", "stress"] {
            copy(&from.join(name), &stage.join(name))?;
        }
        copy(&from.join("command"), &stage.join("cidalloc"))?;
        return Ok(stage);
    }
    let release = target().join("release");
    let packages = ["-p", "cidalloc-ffi", "-p", "cidalloc-cli"];
    run_aloud(Command::new("cargo").args(["build", "--quiet", "--release"]).args(packages))?;
    for name in ["libcidalloc.so", "libcidalloc.a", "cidalloc"] {
        copy(&release.join(name), &stage.join(name))?;
    }
    let said = text(
        Command::new("cargo")
            .args(["test", "--quiet", "--no-run", "--profile", "checked", "-p", "cidalloc"])
            .args(["--test", "stress", "--message-format=json"]),
    )?;
    let executable = said
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "stress")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or("cargo names no stress test")?;
    copy(&executable, &stage.join("stress"))?;
    Ok(stage)
}

/// The directory for guests with a C library.
fn programs(arch: Arch, built: &Path) -> Result<PathBuf> {
    let stage = empty(&format!("{}-glibc", arch.name()))?;
    for name in ["libcidalloc.so", "cidalloc", "stress"] {
        copy(&built.join(name), &stage.join(name))?;
    }
    // Their debug information is most of what the guest would have to unpack.
    run(tool(arch, "strip").arg("-g").args(["stress", "cidalloc"]).current_dir(&stage))?;
    for (name, source) in PROGRAMS {
        compile(tool(arch, "gcc"), source, &stage.join(name), &["-ldl", "-Wl,-z,now"])?;
    }
    // This one asks the library.
    let at = stage.to_str().ok_or("the target directory's name is not UTF-8")?;
    let linked = ["-L", at, "-lcidalloc", "-Wl,-rpath,$ORIGIN"];
    compile(tool(arch, "gcc"), "registration/taken.c", &stage.join("taken"), &linked)?;
    for input in ["work.pl", "work.sql"] {
        copy(&inputs().join(input), &stage.join(input))?;
    }
    Ok(stage)
}

/// The directory for guests without one.
fn static_programs(arch: Arch, built: &Path) -> Result<PathBuf> {
    let stage = empty(&format!("{}-musl", arch.name()))?;
    let musl = musl(arch, built)?;
    let library = built.join("libcidalloc.a");
    let with = library.to_str().ok_or("the target directory's name is not UTF-8")?;
    for (name, source) in STATIC_PROGRAMS {
        compile(musl.command(), source, &stage.join(name), &["-static", with])?;
    }
    // The crate's directory of Lua is named by Lua's version.
    let lua = bench::crate_source(LUA.0, LUA.1)?.join("lua-5.4.7");
    let sources = lua_sources(&lua)?;
    for (name, library) in [("lua", Some(with)), ("lua-plain", None)] {
        run(musl
            .command()
            .args(["-static", "-O1", "-w", "-std=gnu99", "-DLUA_USE_POSIX"])
            .arg("-I")
            .arg(&lua)
            .arg(inputs().join("run_lua.c"))
            .args(&sources)
            .arg("-o")
            .arg(stage.join(name))
            .args(library)
            .arg("-lm"))?;
    }
    copy(&root().join("tests/programs/tables.lua"), &stage.join("tables.lua"))?;
    Ok(stage)
}

/// A compiler for musl.
struct Musl(Vec<String>);

impl Musl {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.0[0]);
        command.args(&self.0[1..]);
        command
    }
}

/// The machine's own, or the cross compiler with Debian's musl for that architecture,
/// unpacked into the cache: its file for the compiler says where it would be installed.
fn musl(arch: Arch, built: &Path) -> Result<Musl> {
    if Arch::of_host() == Some(arch) {
        text(Command::new("musl-gcc").arg("--version"))
            .map_err(|_| "no musl-gcc here (Debian: musl-tools)")?;
        return Ok(Musl(vec!["musl-gcc".into()]));
    }
    let triplet = format!("{}-linux-musl", arch.name());
    let at = Cache::open()?.entry(&format!("musl-{}", arch.name()), "musl-dev", |dir| {
        run(Command::new("tests/setup.sh").args(["unpack", arch.debian(), "musl-dev"]).arg(dir))
    })?;
    let (include, lib) = (at.join("usr/include"), at.join("usr/lib"));
    let specs = lib.join(&triplet).join("musl-gcc.specs");
    let text = fs::read_to_string(&specs).map_err(|e| format!("{}: {e}", specs.display()))?;
    let text = text
        .replace(&format!("/usr/include/{triplet}"), &include.join(&triplet).to_string_lossy())
        .replace(&format!("/usr/lib/{triplet}"), &lib.join(&triplet).to_string_lossy());
    let moved = built.join("musl-gcc.specs");
    fs::write(&moved, text).map_err(|e| format!("{}: {e}", moved.display()))?;
    let gcc = format!("{}-linux-gnu-gcc", arch.name());
    // What GCC has out of line for atomics asks glibc about the processor.
    let inline = "-mno-outline-atomics".to_owned();
    Ok(Musl(vec![gcc, "-specs".into(), moved.display().to_string(), inline]))
}

/// Lua's own sources: the library.
fn lua_sources(directory: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let mut sources: Vec<PathBuf> = listed
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "c"))
        // Programs of their own, where the crate has them.
        .filter(|path| !path.ends_with("lua.c") && !path.ends_with("luac.c"))
        .collect();
    sources.sort();
    match sources.iter().any(|path| path.ends_with("lapi.c")) {
        true => Ok(sources),
        false => Err(format!("no Lua in {}", directory.display())),
    }
}

fn inputs() -> PathBuf {
    root().join("xtask/guest")
}

fn tool(arch: Arch, name: &str) -> Command {
    match Arch::of_host() == Some(arch) {
        true => Command::new(name),
        false => Command::new(format!("{}-linux-gnu-{name}", arch.name())),
    }
}

/// Without -fno-builtin the compiler removes pairs of malloc and free.
fn compile(mut compiler: Command, source: &str, output: &Path, more: &[&str]) -> Result<()> {
    run(compiler
        .args(["-O2", "-g", "-std=gnu11", "-fno-builtin", "-pthread", "-w", "-I", "ffi/include"])
        .arg(Path::new("tests/c").join(source))
        .arg("-o")
        .arg(output)
        .args(more))
}

/// An empty directory below cargo's.
fn empty(name: &str) -> Result<PathBuf> {
    let directory = target().join("vm/guest").join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    directory.canonicalize().map_err(|e| e.to_string())
}

/// A copy of a directory of files.
pub fn copied(directory: &Path, name: &str) -> Result<PathBuf> {
    let copied = empty(name)?;
    for entry in fs::read_dir(directory).map_err(|e| format!("{}: {e}", directory.display()))? {
        let entry = entry.map_err(|e| e.to_string())?;
        copy(&entry.path(), &copied.join(entry.file_name()))?;
    }
    Ok(copied)
}

/// A running program's file cannot be written: it is replaced.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let _ = fs::remove_file(to);
    fs::copy(from, to).map(drop).map_err(|e| format!("{}: {e}", from.display()))
}
