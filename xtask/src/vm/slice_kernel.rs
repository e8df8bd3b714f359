//! The kernel with time slice extensions and counters of rseq, which no package
//! has: built from Debian's sources of the kernel and `slice.config`.

use super::cache::{Cache, emptied, told};
use super::guest::Arch;
use super::packages::Archive;
use crate::Result;
use crate::commands::text;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What it is called among kernels.
pub const NAME: &str = "7.2-slice";

/// What it has beyond the smallest configuration.
pub const FRAGMENT: &str = include_str!("slice.config");

/// Debian's package of sources.
const SOURCES: &str = "linux-source-7.2";

/// What the build runs or includes, and its Debian package.
const TOOLS: [(&str, &str); 10] = [
    ("/usr/bin/gcc", "gcc"),
    ("/usr/bin/ld", "binutils"),
    ("/usr/include/stdio.h", "libc6-dev"),
    ("/usr/bin/make", "make"),
    ("/usr/bin/flex", "flex"),
    ("/usr/bin/bison", "bison"),
    ("/usr/bin/bc", "bc"),
    ("/usr/include/libelf.h", "libelf-dev"),
    ("/usr/bin/xz", "xz-utils"),
    ("/usr/bin/perl", "perl"),
];

/// Builds it into the directory. What an interrupted build compiled is not compiled
/// again.
pub fn build(cache: &Cache, arch: Arch, into: &Path) -> Result<()> {
    if arch != Arch::X86_64 {
        return Err(format!("{NAME} is for x86_64: aarch64 has no time slice extensions"));
    }
    if std::env::consts::ARCH != "x86_64" {
        return Err(format!("{NAME} is built on x86_64 only"));
    }
    have_tools()?;
    let work = cache.directory("slice-build")?;
    let source = sources(cache, &work)?;
    let objects = work.join("objects");
    fs::create_dir_all(&objects).map_err(|e| told(&objects, &e))?;
    let make = |arguments: &[&str]| {
        let mut command = Command::new("nice");
        command.arg("make").arg("-s").arg("-C").arg(&source);
        command.arg(format!("O={}", objects.display())).arg("ARCH=x86_64").args(arguments);
        // The same for everyone, and nothing of the caller's.
        command.env("KBUILD_BUILD_USER", "cidalloc").env("KBUILD_BUILD_HOST", "cidalloc");
        for name in ["MAKEFLAGS", "CFLAGS", "LD_PRELOAD", "KCONFIG_CONFIG"] {
            command.env_remove(name);
        }
        text(&mut command)
    };
    make(&["tinyconfig"])?;
    let config = objects.join(".config");
    let smallest = fs::read_to_string(&config).map_err(|e| told(&config, &e))?;
    // Of two lines for an option the later holds.
    fs::write(&config, smallest + FRAGMENT).map_err(|e| told(&config, &e))?;
    make(&["olddefconfig"])?;
    let resolved = fs::read_to_string(&config).map_err(|e| told(&config, &e))?;
    let lost = lost(FRAGMENT, &resolved);
    if !lost.is_empty() {
        return Err(format!("options that the kernel did not accept: {}", lost.join(", ")));
    }
    eprintln!("vm: building the kernel {NAME}, about ten minutes on two CPUs");
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    make(&[&format!("-j{jobs}"), "vmlinux"])?;
    let release = make(&["kernelrelease"])?;
    text(
        Command::new("strip")
            .arg("-o")
            .arg(into.join("kernel"))
            .arg(objects.join("vmlinux"))
            .current_dir(&work),
    )?;
    fs::copy(&config, into.join("config")).map_err(|e| told(&config, &e))?;
    let package = format!("{SOURCES} {}\n", release.trim());
    fs::write(into.join("package"), package).map_err(|e| told(into, &e))?;
    // Sources and objects are two gigabytes.
    fs::remove_dir_all(&work).map_err(|e| told(&work, &e))
}

/// The sources' directory, fetched if need be.
fn sources(cache: &Cache, work: &Path) -> Result<PathBuf> {
    let source = work.join("source");
    if source.exists() {
        return Ok(source);
    }
    let (package, unfinished) = (work.join("package"), work.join("source.unfinished"));
    emptied(&package)?;
    emptied(&unfinished)?;
    Archive::open(cache, Arch::X86_64.debian())?.unpack(SOURCES, &package)?;
    let archive = package.join(format!("usr/src/{SOURCES}.tar.xz"));
    text(
        Command::new("tar")
            .arg("-xJf")
            .arg(&archive)
            .arg("--strip-components=1")
            .current_dir(&unfinished),
    )?;
    fs::rename(&unfinished, &source).map_err(|e| told(&source, &e))?;
    super::cache::remove(&package)?;
    Ok(source)
}

/// Installs what is missing, as root; else says it.
fn have_tools() -> Result<()> {
    let missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(file, _)| !Path::new(file).exists())
        .map(|&(_, package)| package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    text(Command::new("tests/setup.sh").arg("also").args(&missing)).map(|_| ()).map_err(|_| {
        let missing = missing.join(" ");
        format!("to build {NAME}, as root: apt-get install --no-install-recommends {missing}")
    })
}

/// The lines of the fragment that do not hold in a configuration.
fn lost<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    let has = |line: &str| config.lines().any(|l| l == line);
    let holds =
        |line: &&str| match line.strip_prefix("# ").and_then(|l| l.strip_suffix(" is not set")) {
            // An option that is out of the question is not even named.
            Some(option) => !config.lines().any(|l| l.starts_with(&format!("{option}="))),
            None => has(line),
        };
    let is_option = |line: &&str| {
        line.starts_with("CONFIG_")
            || (line.starts_with("# CONFIG_") && line.ends_with(" is not set"))
    };
    fragment.lines().filter(is_option).filter(|line| !holds(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_did_not_survive_are_named() {
        let fragment =
            "# A title.\nCONFIG_A=y\nCONFIG_B=64\n# CONFIG_C is not set\n# CONFIG_D is not set\n";
        assert!(lost(fragment, "CONFIG_A=y\nCONFIG_B=64\n# CONFIG_C is not set\n").is_empty());
        let config = "# CONFIG_A is not set\nCONFIG_B=8\nCONFIG_C=y\nCONFIG_DD=y\n";
        assert_eq!(lost(fragment, config), ["CONFIG_A=y", "CONFIG_B=64", "# CONFIG_C is not set"]);
        assert_eq!(lost("CONFIG_A=y", "CONFIG_A=yes\n"), ["CONFIG_A=y"]);
    }

    #[test]
    fn the_fragment_asks_for_what_the_kernel_is_built_for() {
        for option in
            ["RSEQ_SLICE_EXTENSION", "RSEQ_STATS", "RSEQ", "SCHED_MM_CID", "VIRTIO_CONSOLE"]
        {
            assert!(FRAGMENT.lines().any(|l| l == format!("CONFIG_{option}=y")), "{option}");
        }
        let mut options: Vec<&str> = FRAGMENT.lines().filter(|l| l.contains("CONFIG_")).collect();
        let count = options.len();
        options.sort();
        options.dedup();
        assert_eq!(options.len(), count);
    }
}
