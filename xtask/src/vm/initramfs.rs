//! What a guest sees: archives in the format that the kernel unpacks into its first
//! file system, one after the other.

use super::cache::{Cache, told};
use super::guest::Arch;
use super::packages::Archive;
use crate::Result;
use cpio::newc;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The first process of each guest.
const INIT: &str = include_str!("init.sh");

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Writes one archive. Paths are relative to the root; of two entries with the same
/// path the first is written.
pub struct Initramfs<W: Write> {
    out: W,
    written: HashSet<String>,
    content_bytes: u64,
}

impl<W: Write> Initramfs<W> {
    pub fn new(out: W) -> Self {
        Initramfs { out, written: HashSet::new(), content_bytes: 0 }
    }

    /// A directory and those around it.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            self.entry(&path[..at], DIRECTORY | 0o755, b"")?;
        }
        if path.is_empty() { Ok(()) } else { self.entry(path, DIRECTORY | 0o755, b"") }
    }

    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> Result<()> {
        self.around(path)?;
        self.entry(path, FILE | permissions, content)
    }

    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.around(path)?;
        self.entry(path, LINK | 0o777, target.as_bytes())
    }

    pub fn device(&mut self, path: &str, permissions: u32, major: u32, minor: u32) -> Result<()> {
        self.around(path)?;
        let of = |builder: newc::Builder| builder.rdev_major(major).rdev_minor(minor);
        self.entry_of(path, CHARACTER_DEVICE | permissions, b"", of)
    }

    /// Copies a file, or a directory with all that is wanted in it.
    pub fn tree(&mut self, from: &Path, to: &str, is_wanted: &dyn Fn(&Path) -> bool) -> Result<()> {
        let failed = |e| told(from, &e);
        let metadata = from.symlink_metadata().map_err(failed)?;
        if metadata.is_symlink() {
            let target = fs::read_link(from).map_err(failed)?;
            let target = target.to_str().ok_or_else(|| format!("{target:?} is not UTF-8"))?;
            return self.link(to, target);
        }
        if metadata.is_file() {
            let content = fs::read(from).map_err(failed)?;
            return self.file(to, metadata.mode() & 0o7777, &content);
        }
        if !metadata.is_dir() {
            return Ok(()); // Sockets and the like mean nothing elsewhere.
        }
        self.directory(to)?;
        let mut names = Vec::new();
        for entry in fs::read_dir(from).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name());
        }
        names.sort();
        for name in names {
            let path = from.join(&name);
            if is_wanted(&path) {
                let name = name.to_str().ok_or_else(|| format!("{path:?} is not UTF-8"))?;
                self.tree(&path, &format!("{to}/{name}"), is_wanted)?;
            }
        }
        Ok(())
    }

    /// Bytes of all files and links.
    pub fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    pub fn finish(self) -> Result<W> {
        let mut out = newc::trailer(self.out).map_err(|e| e.to_string())?;
        out.flush().map_err(|e| e.to_string())?;
        Ok(out)
    }

    fn around(&mut self, path: &str) -> Result<()> {
        match path.trim_matches('/').rsplit_once('/') {
            Some((directory, _)) => self.directory(directory),
            None => Ok(()),
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry_of(path, mode, content, |builder| builder)
    }

    fn entry_of(
        &mut self,
        path: &str,
        mode: u32,
        content: &[u8],
        of: impl FnOnce(newc::Builder) -> newc::Builder,
    ) -> Result<()> {
        let path = path.trim_matches('/');
        if !self.written.insert(path.to_owned()) {
            return Ok(());
        }
        let failed = |e: io::Error| format!("{path}: {e}");
        let length = u32::try_from(content.len()).map_err(|_| format!("{path}: too large"))?;
        let number = u32::try_from(self.written.len()).map_err(|e| e.to_string())?;
        let builder = of(newc::Builder::new(path).mode(mode).nlink(1).ino(number));
        let mut writer = builder.write(&mut self.out, length);
        writer.write_all(content).map_err(failed)?;
        writer.finish().map_err(failed)?;
        self.content_bytes += u64::from(length);
        Ok(())
    }
}

/// What all guests have: busybox, the first process, and directories.
pub fn base(cache: &Cache, arch: Arch) -> Result<PathBuf> {
    let busybox = busybox(cache, arch)?;
    let name = format!("base-{}", arch.name());
    let dir = cache.entry(&name, INIT, |dir| {
        let path = dir.join("cpio");
        let file = File::create(&path).map_err(|e| told(&path, &e))?;
        let content = fs::read(&busybox).map_err(|e| told(&busybox, &e))?;
        write_base(file, &content)
    })?;
    Ok(dir.join("cpio"))
}

fn write_base(file: File, busybox: &[u8]) -> Result<()> {
    let mut archive = Initramfs::new(BufWriter::new(file));
    for path in ["dev", "etc", "proc", "rig", "root", "run", "sys", "tmp", "usr/bin", "usr/lib"] {
        archive.directory(path)?;
    }
    archive.directory("usr/lib64")?;
    for (path, target) in [
        ("bin", "usr/bin"),
        ("sbin", "usr/bin"),
        ("usr/sbin", "bin"),
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
    ] {
        archive.link(path, target)?;
    }
    archive.device("dev/console", 0o600, 5, 1)?;
    archive.device("dev/null", 0o666, 1, 3)?;
    archive.file("usr/bin/busybox", 0o755, busybox)?;
    archive.file("init", 0o755, INIT.as_bytes())?;
    archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
    archive.file("etc/group", 0o644, b"root:x:0:\n")?;
    archive.file("etc/hosts", 0o644, b"127.0.0.1 localhost\n")?;
    archive.finish().map(|_| ())
}

/// A static busybox.
pub fn busybox(cache: &Cache, arch: Arch) -> Result<PathBuf> {
    let dir = cache.entry(&format!("busybox-{}", arch.name()), "", |dir| {
        Archive::open(cache, arch.debian())?.unpack("busybox-static", dir).map(|_| ())
    })?;
    let places = ["usr/bin/busybox", "bin/busybox"].map(|place| dir.join(place));
    let found = places.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| format!("{}: no busybox", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::{Command, Stdio};

    /// The real cpio, or that of a busybox on the host or in the cache.
    fn extractor() -> Option<Vec<String>> {
        let works = |words: &[String]| {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).arg("--help").stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let mut candidates = vec![vec!["cpio".to_owned()], vec!["busybox".into(), "cpio".into()]];
        let arch = Arch::of_host();
        if let Some(dir) = Cache::open()
            .ok()
            .zip(arch)
            .and_then(|(cache, arch)| cache.found(&format!("busybox-{}", arch.name()), ""))
        {
            for place in ["usr/bin/busybox", "bin/busybox"] {
                candidates.push(vec![dir.join(place).display().to_string(), "cpio".into()]);
            }
        }
        candidates.into_iter().find(|words| works(words))
    }

    #[test]
    fn the_real_cpio_reads_what_is_written() {
        let Some(words) = extractor() else {
            println!("SKIP: neither cpio nor busybox is here: archives are NOT TESTED");
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir_all(source.join("deep/er")).unwrap();
        fs::create_dir_all(source.join("unwanted")).unwrap();
        fs::write(source.join("deep/er/program"), b"#!/bin/sh\n").unwrap();
        fs::set_permissions(source.join("deep/er/program"), fs::Permissions::from_mode(0o750))
            .unwrap();
        fs::write(source.join("unwanted/file"), b"x").unwrap();
        symlink("er/program", source.join("deep/link")).unwrap();

        let mut archive = Initramfs::new(Vec::new());
        archive.tree(&source, "copy/of", &|path| !path.ends_with("unwanted")).unwrap();
        for length in 0..9 {
            let content = vec![b'a' + length as u8; length];
            archive.file(&format!("names{}", "x".repeat(length)), 0o644, &content).unwrap();
        }
        archive.file("names", 0o644, b"a second of that name is not written").unwrap();
        archive.link("/rooted/link", "/target").unwrap();
        archive.directory("empty/").unwrap();
        // Files, and targets of links.
        assert_eq!(archive.content_bytes(), 10 + 36 + 10 + 7);
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0, "another archive may follow");

        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .args(["-i", "-d", "-m"])
            .current_dir(&out)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert!(child.wait().unwrap().success());
        let program = out.join("copy/of/deep/er/program");
        assert_eq!(fs::read(&program).unwrap(), b"#!/bin/sh\n");
        assert_eq!(program.metadata().unwrap().permissions().mode() & 0o7777, 0o750);
        let target = |path: &str| fs::read_link(out.join(path)).unwrap();
        assert_eq!(target("copy/of/deep/link"), Path::new("er/program"));
        assert_eq!(target("rooted/link"), Path::new("/target"));
        assert!(out.join("empty").is_dir() && !out.join("copy/of/unwanted").exists());
        for length in 0..9 {
            let content = fs::read(out.join(format!("names{}", "x".repeat(length)))).unwrap();
            assert_eq!(content, vec![b'a' + length as u8; length]);
        }
    }

    #[test]
    fn devices_are_devices() {
        let mut archive = Initramfs::new(Vec::new());
        archive.device("dev/console", 0o600, 5, 1).unwrap();
        let bytes = archive.finish().unwrap();
        let directory = newc::Reader::new(&bytes[..]).unwrap();
        assert_eq!((directory.entry().name(), directory.entry().mode()), ("dev", 0o040_755));
        let rest = directory.finish().unwrap();
        let device = newc::Reader::new(rest).unwrap();
        assert_eq!((device.entry().name(), device.entry().mode()), ("dev/console", 0o020_600));
        assert_eq!((device.entry().rdev_major(), device.entry().rdev_minor()), (5, 1));
        assert!(newc::Reader::new(device.finish().unwrap()).unwrap().entry().is_trailer());
    }
}
