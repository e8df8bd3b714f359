//! The table of workloads, and what they need: the synthetic programs compiled,
//! inputs made, packages named.

use super::allocators::run;
use super::{Result, root};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Synthetic programs and real ones are judged apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Synthetic,
    Real,
}

pub struct Workload {
    pub name: &'static str,
    pub family: &'static str,
    pub kind: Kind,
    /// The program and its arguments; {programs}, {scripts} and {inputs} are filled
    /// in. A synthetic workload without any is run by its name.
    arguments: &'static [&'static str],
    pub environment: &'static [(&'static str, &'static str)],
    /// The Debian package that has the program, if it is no part of a compiler's set-up.
    package: &'static str,
    /// One process, one thread: more than a few involuntary switches are a disturbance.
    pub is_sequential: bool,
}

const fn synthetic(family: &'static str, name: &'static str, is_sequential: bool) -> Workload {
    Workload {
        name,
        family,
        kind: Kind::Synthetic,
        arguments: &[],
        environment: &[],
        package: "",
        is_sequential,
    }
}

const fn real(
    name: &'static str,
    family: &'static str,
    package: &'static str,
    arguments: &'static [&'static str],
) -> Workload {
    let kind = Kind::Real;
    Workload { name, family, kind, arguments, environment: &[], package, is_sequential: false }
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
    synthetic("phases", "phases", true),
    synthetic("phases", "burst", true),
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
];

/// What runs are made with.
pub struct Tools {
    pub launch: PathBuf,
    /// The synthetic workloads.
    pub programs: PathBuf,
    pub scratch: PathBuf,
    inputs: PathBuf,
}

fn sources() -> PathBuf {
    root().join("xtask/workloads")
}

impl Workload {
    /// The program and its arguments.
    pub fn command(&self, tools: &Tools) -> Vec<String> {
        if self.arguments.is_empty() {
            return vec![tools.programs.display().to_string(), self.name.into()];
        }
        let scripts = sources().join("scripts").display().to_string();
        let inputs = tools.inputs.display().to_string();
        let fill = |a: &&str| a.replace("{scripts}", &scripts).replace("{inputs}", &inputs);
        self.arguments.iter().map(fill).collect()
    }

    /// The program the package is needed for.
    fn program(&self) -> Option<&'static str> {
        self.arguments.iter().copied().find(|a| a.starts_with("/usr/bin/"))
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

/// Compiles the synthetic programs and makes the inputs of the real ones.
pub fn prepare(cache: &Path) -> Result<Tools> {
    eprintln!("building the workloads");
    let (sources, bin) = (sources(), cache.join("bin"));
    let (inputs, scratch) = (cache.join("inputs"), cache.join("scratch"));
    for dir in [&bin, &inputs, &scratch] {
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    }
    let tools =
        Tools { launch: bin.join("launch"), programs: bin.join("workloads"), scratch, inputs };
    run(Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-static", "-o"])
        .arg(&tools.launch)
        .arg(sources.join("launch.c")))?;
    let files = ["main", "compute", "server", "threads", "large", "phases"];
    run(Command::new("c++")
        .args(["-O2", "-std=c++17", "-Wall", "-Wextra", "-pthread", "-o"])
        .arg(&tools.programs)
        .args(files.map(|file| sources.join(file).with_extension("cpp")))
        .arg("-ldl"))?;
    run(Command::new(sources.join("scripts/inputs.sh")).arg(&tools.inputs))?;
    Ok(tools)
}

/// Workloads whose name or family contains one of `patterns` (all, if there is
/// none) and whose program is there; as root, missing packages are installed.
pub fn selected(patterns: &[String]) -> Result<Vec<&'static Workload>> {
    let named = |w: &Workload| {
        patterns.is_empty()
            || patterns.iter().any(|p| w.name.contains(p.as_str()) || w.family.contains(p.as_str()))
    };
    let mut chosen: Vec<_> = WORKLOADS.iter().filter(|w| named(w)).collect();
    let mut missing: Vec<_> = chosen.iter().filter(|w| !w.is_there()).map(|w| w.package).collect();
    missing.dedup();
    if !missing.is_empty() {
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
    if chosen.is_empty() { Err("no workload is left to run".into()) } else { Ok(chosen) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_scripts_exist() {
        for (i, w) in WORKLOADS.iter().enumerate() {
            assert!(WORKLOADS[..i].iter().all(|other| other.name != w.name), "{} twice", w.name);
            for a in w.arguments {
                if let Some((_, script)) = a.split_once("{scripts}/") {
                    assert!(sources().join("scripts").join(script).exists(), "no {script}");
                }
            }
        }
    }
}
