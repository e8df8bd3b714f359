//! QEMU: the host's if it is new enough, else Debian's, unpacked in the cache and
//! run with its own loader and libraries.

use super::cache::{Cache, told};
use super::guest::Arch;
use super::packages::Archive;
use crate::Result;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// QEMU 7.2 loses one emulated boot in seven with several CPUs; 10 was seen to lose
/// none.
const RELIABLE: u32 = 10;

/// Debian's release with a reliable QEMU, and its packages.
const RELEASE: &str = "trixie";
const PACKAGES: [&str; 2] = ["qemu-system-x86", "qemu-system-arm"];

/// How to run QEMU.
#[derive(Clone, Debug)]
pub struct Emulator {
    words: Vec<String>,
    modules: Option<PathBuf>,
}

impl Emulator {
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).env_remove("LD_PRELOAD");
        if let Some(modules) = &self.modules {
            command.env("QEMU_MODULE_DIR", modules);
        }
        command
    }

    /// Where it is.
    pub fn shown(&self) -> &str {
        let is_program = |word: &&String| word.contains("qemu-system-");
        self.words.iter().find(is_program).map_or("", String::as_str)
    }

    /// Its major version; None if it does not run.
    fn version(&self) -> Option<u32> {
        let output =
            self.command().arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output();
        major_version(&String::from_utf8_lossy(&output.ok()?.stdout))
    }
}

fn program(arch: Arch) -> String {
    format!("qemu-system-{}", arch.name())
}

/// A reliable QEMU, fetched if the host has none.
pub fn obtain(cache: &Cache, arch: Arch) -> Result<Emulator> {
    let host = Emulator { words: vec![program(arch)], modules: None };
    if host.version().is_some_and(|version| version >= RELIABLE) {
        return Ok(host);
    }
    let dir = cache.entry("qemu", RELEASE, |dir| fetch(cache, dir))?;
    let emulator = in_entry(&dir, arch)?;
    match emulator.version() {
        Some(version) if version >= RELIABLE => Ok(emulator),
        _ => Err(format!("the {} in {} does not run", program(arch), dir.display())),
    }
}

fn fetch(cache: &Cache, into: &Path) -> Result<()> {
    let output = Command::new("dpkg").arg("--print-architecture").output();
    let output = output.map_err(|e| format!("dpkg: {e}; the packages are Debian's"))?;
    let architecture = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Archive::open(cache, &architecture)?.unpack_all(RELEASE, &PACKAGES, into)?;
    // What is never used.
    for unused in ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/icons"] {
        super::cache::remove(&into.join(unused))?;
    }
    Ok(())
}

fn in_entry(dir: &Path, arch: Arch) -> Result<Emulator> {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let loaders = ["usr/lib64/ld-linux-x86-64.so.2", "usr/lib/ld-linux-aarch64.so.1"];
    let loader = loaders.iter().map(|loader| dir.join(loader)).find(|loader| loader.exists());
    let loader = loader.ok_or_else(|| format!("{}: no loader", dir.display()))?;
    let text = |path: PathBuf| {
        path.into_os_string().into_string().map_err(|path| told(Path::new(&path), &not_text()))
    };
    let libraries = dir.join("usr/lib").join(&triplet);
    let words = vec![
        text(loader)?,
        "--library-path".into(),
        text(libraries.clone())?,
        text(dir.join("usr/bin").join(program(arch)))?,
        "-L".into(),
        text(dir.join("usr/share/qemu"))?,
        "-L".into(),
        text(dir.join("usr/share/seabios"))?,
    ];
    Ok(Emulator { words, modules: Some(libraries.join("qemu")) })
}

fn not_text() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path is not UTF-8")
}

/// Of text that begins such as "QEMU emulator version 10.0.8 (Debian …)".
fn major_version(text: &str) -> Option<u32> {
    let (_, after) = text.split_once("version ")?;
    after.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let text = "QEMU emulator version 7.2.17 (Debian 1:7.2+dfsg-7+deb12u12)\nCopyright (c)";
        assert_eq!(major_version(text), Some(7));
        assert_eq!(major_version("QEMU emulator version 10.0.8\n"), Some(10));
        assert_eq!(major_version(""), None);
        assert_eq!(major_version("QEMU emulator version git"), None);
    }
}
