//! The table of workloads, and what they need: the synthetic programs compiled,
//! inputs made, packages named.

use super::allocators::Allocator;
use super::commands::run;
use super::{Result, root};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Synthetic programs and real ones are judged apart; what is run for one of the
/// goals only is in no mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Synthetic,
    Real,
    Goal,
}

/// What is run.
#[derive(Clone, Copy)]
enum Program {
    /// The function of this workload's name in xtask/workloads/*.cpp.
    Cpp,
    /// That in xtask/workloads/rust, built on the allocator.
    Rust,
    /// A program and its arguments; {scripts}, {inputs} and {bin} are filled in.
    Other(&'static [&'static str]),
}

pub struct Workload {
    pub name: &'static str,
    pub family: &'static str,
    pub kind: Kind,
    program: Program,
    pub environment: &'static [(&'static str, &'static str)],
    /// The Debian package that has the program, if it is no part of a compiler's set-up.
    package: &'static str,
    /// One process, one thread: waiting for a processor is a disturbance.
    pub is_sequential: bool,
    /// It idles at its end, in the first rounds.
    pub idles: bool,
    /// With the allocator's background thread, if it has one.
    pub in_background: bool,
}

const fn synthetic(family: &'static str, name: &'static str, is_sequential: bool) -> Workload {
    Workload {
        name,
        family,
        kind: Kind::Synthetic,
        program: Program::Cpp,
        environment: &[],
        package: "",
        is_sequential,
        idles: false,
        in_background: false,
    }
}

const fn rust(name: &'static str, is_sequential: bool) -> Workload {
    Workload { program: Program::Rust, ..synthetic("rust", name, is_sequential) }
}

const fn real(
    name: &'static str,
    family: &'static str,
    package: &'static str,
    arguments: &'static [&'static str],
) -> Workload {
    Workload {
        kind: Kind::Real,
        program: Program::Other(arguments),
        package,
        ..synthetic(family, name, false)
    }
}

const fn goal(name: &'static str, program: Program) -> Workload {
    Workload { kind: Kind::Goal, program, ..synthetic("goal", name, true) }
}

#[rustfmt::skip]
const WORKLOADS: &[Workload] = &[
    synthetic("compute", "big-integers", true),
    synthetic("compute", "trees", true),
    synthetic("compute", "hash-map", true),
    synthetic("compute", "ordered-map", true),
    synthetic("compute", "strings", true),
    synthetic("compute", "json", true),
    synthetic("compute", "interpreter", true),
    synthetic("server", "requests", false),
    synthetic("server", "cache", false),
    synthetic("server", "both-ways", false),
    synthetic("server", "one-freer", false),
    synthetic("threads", "threads-2", false),
    synthetic("threads", "threads-16", false),
    synthetic("threads", "threads-200", false),
    synthetic("threads", "threads-1000", false),
    synthetic("threads", "come-and-go", false),
    synthetic("large", "realloc-doubling", true),
    synthetic("large", "realloc-by-half", true),
    synthetic("large", "realloc-small", true),
    synthetic("large", "vectors", true),
    synthetic("large", "buffers", true),
    synthetic("large", "zeroed", true),
    Workload { idles: true, ..synthetic("phases", "phases", true) },
    Workload { idles: true, ..synthetic("phases", "burst", true) },
    rust("rust-json", true),
    rust("rust-expressions", true),
    rust("rust-words", true),
    rust("rust-maps", true),
    rust("rust-vectors", true),
    rust("rust-pipeline", false),
    real("start-true", "start-up", "coreutils", &["{scripts}/startup.sh", "300", "/bin/true"]),
    real("start-git", "start-up", "git", &["{scripts}/startup.sh", "100", "/usr/bin/git", "--version"]),
    real("start-cc", "start-up", "gcc", &["{scripts}/startup.sh", "20", "/usr/bin/gcc", "-O1", "-S", "-o", "/dev/null", "{inputs}/small.c"]),
    real("python", "interpreters", "python3", &["/usr/bin/python3", "-I", "{scripts}/python.py"]),
    Workload { environment: &[("PYTHONMALLOC", "malloc")],
        ..real("python-malloc", "interpreters", "python3", &["/usr/bin/python3", "{scripts}/python.py"]) },
    real("perl", "interpreters", "perl", &["/usr/bin/perl", "{scripts}/perl.pl"]),
    real("lua", "interpreters", "lua5.4", &["/usr/bin/lua5.4", "{scripts}/lua.lua"]),
    real("sqlite", "databases", "sqlite3", &["/usr/bin/sqlite3", "-batch", ":memory:", ".read {scripts}/sqlite.sql"]),
    real("redis", "databases", "redis", &["{scripts}/redis.sh"]),
    real("rocksdb", "databases", "rocksdb-tools", &["{scripts}/rocksdb.sh"]),
    real("g++", "tools", "g++", &["/usr/bin/g++", "-O1", "-S", "-o", "/dev/null", "{inputs}/large.cpp"]),
    real("git", "tools", "git", &["{scripts}/git.sh", "{inputs}/repo"]),
    real("z3", "tools", "z3", &["/usr/bin/z3", "{inputs}/work.smt2"]),
    real("ghostscript", "tools", "ghostscript", &["/usr/bin/gs", "-q", "-dBATCH", "-dNOPAUSE", "-dSAFER", "-sDEVICE=ppmraw", "-r100", "-sOutputFile=/dev/null", "{inputs}/work.ps"]),
    goal("small-program", Program::Other(&["{bin}/small"])),
    goal("start-true-alone", Program::Other(&["{bin}/starts", "300", "/bin/true"])),
    Workload { idles: true, ..goal("free-4gb", Program::Cpp) },
    Workload { idles: true, in_background: true, ..goal("free-4gb-silent", Program::Cpp) },
];

/// What runs are made with.
#[derive(Default)]
pub struct Tools {
    pub launch: PathBuf,
    /// The synthetic workloads.
    pub programs: PathBuf,
    /// Says where its malloc is.
    pub which: PathBuf,
    /// Single calls, timed by request.
    pub calls: PathBuf,
    /// The library that does nothing.
    pub nothing: PathBuf,
    pub scratch: PathBuf,
    bin: PathBuf,
    inputs: PathBuf,
}

fn sources() -> PathBuf {
    root().join("xtask/workloads")
}

impl Workload {
    pub fn is_rust(&self) -> bool {
        matches!(self.program, Program::Rust)
    }

    /// The program and its arguments; none, if there is no such program on `allocator`.
    pub fn command(&self, tools: &Tools, allocator: &Allocator) -> Option<Vec<String>> {
        let scripts = sources().join("scripts").display().to_string();
        let (inputs, bin) = (tools.inputs.display().to_string(), tools.bin.display().to_string());
        let fill = |a: &&str| {
            a.replace("{scripts}", &scripts).replace("{inputs}", &inputs).replace("{bin}", &bin)
        };
        match self.program {
            Program::Cpp => Some(vec![tools.programs.display().to_string(), self.name.into()]),
            Program::Rust => {
                let program = allocator.rust.as_ref()?.display().to_string();
                Some(vec![program, self.name.into()])
            }
            Program::Other(words) => Some(words.iter().map(fill).collect()),
        }
    }

    fn words(&self) -> &'static [&'static str] {
        match self.program {
            Program::Other(words) => words,
            _ => &[],
        }
    }

    /// The program the package is needed for.
    fn program(&self) -> Option<&'static str> {
        self.words().iter().copied().find(|a| a.starts_with("/usr/bin/"))
    }

    fn is_there(&self) -> bool {
        let all = match self.name {
            "redis" => vec!["/usr/bin/redis-server", "/usr/bin/redis-benchmark"],
            "rocksdb" => vec!["/usr/bin/db_bench"],
            _ => self.program().into_iter().collect(),
        };
        all.iter().all(|program| Path::new(program).exists())
    }
}

/// Compiles the synthetic programs and makes the inputs of the real ones, as far as
/// `chosen` and single calls need them.
pub fn prepare(cache: &Path, chosen: &[&Workload], with_calls: bool) -> Result<Tools> {
    eprintln!("building the workloads");
    let (sources, bin) = (sources(), cache.join("bin"));
    let (inputs, scratch) = (cache.join("inputs"), cache.join("scratch"));
    for dir in [&bin, &inputs, &scratch] {
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    let c = |name: &str, flags: &[&str]| {
        let source = sources.join(name).with_extension("c");
        let mut cc = Command::new("cc");
        cc.args(["-O2", "-Wall", "-Wextra"]).args(flags).arg("-o").arg(bin.join(name)).arg(source);
        run(&mut cc)
    };
    let cpp = |name: &str, files: &[&str], flags: &[&str]| {
        let files = files.iter().map(|file| sources.join(file).with_extension("cpp"));
        let mut cc = Command::new("c++");
        cc.args(["-O2", "-std=c++17", "-Wall", "-Wextra", "-pthread"]).args(flags);
        run(cc.arg("-o").arg(bin.join(name)).args(files).arg("-ldl"))
    };
    c("launch", &["-static"])?;
    c("starts", &["-static"])?;
    c("small", &[])?;
    c("nothing", &["-fPIC", "-shared", "-fno-builtin"])?;
    cpp("which", &["which"], &[])?;
    if chosen.iter().any(|w| matches!(w.program, Program::Cpp)) {
        let files = ["main", "compute", "server", "threads", "large", "phases"];
        cpp("workloads", &files, &[])?;
    }
    if with_calls {
        cpp("calls", &["calls"], &["-fno-builtin"])?;
    }
    if chosen.iter().any(|w| w.kind == Kind::Real) {
        run(Command::new(sources.join("scripts/inputs.sh")).arg(&inputs))?;
    }
    Ok(Tools {
        launch: bin.join("launch"),
        programs: bin.join("workloads"),
        which: bin.join("which"),
        calls: bin.join("calls"),
        nothing: bin.join("nothing"),
        scratch,
        bin,
        inputs,
    })
}

/// Workloads whose name or family contains one of `patterns`; all, if there is none.
pub fn named(patterns: &[String]) -> Vec<&'static Workload> {
    let is_named = |w: &&Workload| {
        patterns.is_empty()
            || patterns.iter().any(|p| w.name.contains(p.as_str()) || w.family.contains(p.as_str()))
    };
    WORKLOADS.iter().filter(is_named).collect()
}

/// Those of `chosen` whose program is there; as root, missing packages are installed.
pub fn available(mut chosen: Vec<&'static Workload>) -> Vec<&'static Workload> {
    let mut missing: Vec<_> = chosen.iter().filter(|w| !w.is_there()).map(|w| w.package).collect();
    missing.sort_unstable();
    missing.dedup();
    if !missing.is_empty() {
        eprintln!("installing {}", missing.join(" "));
        if let Err(why) = run(Command::new("tests/setup.sh").arg("also").args(&missing)) {
            eprintln!("NOT ALL RUN: packages are missing: {}: {why}", missing.join(" "));
        }
    }
    chosen.retain(|w| {
        if !w.is_there() {
            eprintln!("NOT RUN: {}, which needs Debian's {}", w.name, w.package);
        }
        w.is_there()
    });
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_scripts_exist() {
        for (i, w) in WORKLOADS.iter().enumerate() {
            assert!(WORKLOADS[..i].iter().all(|other| other.name != w.name), "{} twice", w.name);
            for a in w.words() {
                if let Some((_, script)) = a.split_once("{scripts}/") {
                    assert!(sources().join("scripts").join(script).exists(), "no {script}");
                }
            }
        }
    }
}
