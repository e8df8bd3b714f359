//! C libraries of guests: Debian's glibc of some release with the runtime
//! libraries of C and C++ compilers, and what more a guest wants, as a part of its
//! initramfs.

use super::cache::{Cache, emptied, remove, told};
use super::guest::Arch;
use super::initramfs::Initramfs;
use super::packages::{Archive, RELEASES};
use crate::Result;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// What `--prepare` fetches: glibc before, between and after the releases that
/// changed how threads are registered.
pub const VERSIONS: [&str; 3] = ["2.36", "2.41", "2.43"];

/// What every guest with a C library has.
const ALWAYS: [&str; 3] = ["libc6", "libgcc-s1", "libstdc++6"];

/// The archive of a C library's files and those of more packages, fetched if it is
/// not in the cache.
pub fn obtain(cache: &Cache, version: &str, arch: Arch, more: &[String]) -> Result<PathBuf> {
    let mut more: Vec<&str> = more.iter().map(String::as_str).collect();
    more.sort();
    more.dedup();
    let parts: Vec<&str> = [version, arch.name()].into_iter().chain(more.iter().copied()).collect();
    let name = format!("libc-{}", parts.join("-"));
    let dir = cache.entry(&name, &more.join(" "), |dir| fetch(cache, version, arch, &more, dir))?;
    Ok(dir.join("cpio"))
}

fn fetch(cache: &Cache, version: &str, arch: Arch, more: &[&str], into: &Path) -> Result<()> {
    let archive = Archive::open(cache, arch.debian())?;
    let mut release = release_of(version, &archive.versions("libc6")?);
    if release.is_none() && archive.refresh()? {
        release = release_of(version, &archive.versions("libc6")?);
    }
    let release = release
        .ok_or_else(|| format!("no release of Debian has glibc {version} for {}", arch.name()))?;
    let unpacked = into.join("unpacked");
    emptied(&unpacked)?;
    let names = [&ALWAYS[..], more].concat();
    let packages = archive.unpack_all(release, &names, &unpacked)?;
    let lines = packages.iter().map(|p| format!("{} {}\n", p.name, p.version));
    fs::write(into.join("packages"), lines.collect::<String>()).map_err(|e| told(into, &e))?;
    if !packages.iter().any(|p| p.name == "libc6" && is_version(&p.version, version)) {
        return Err(format!("{release} gives another libc6 than {version}"));
    }
    let file = File::create(into.join("cpio")).map_err(|e| told(into, &e))?;
    pack(&unpacked, file)?;
    remove(&unpacked)
}

/// Libraries and programs; /lib and /bin are links to /usr/lib and /usr/bin in a
/// guest, and in some packages directories.
fn pack(unpacked: &Path, file: File) -> Result<()> {
    let mut archive = Initramfs::new(BufWriter::new(file));
    let is_wanted = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        !["gconv", "audit", "doc", "locale", "man", "info", "lintian"].iter().any(|n| name == *n)
    };
    let places = [
        ("lib", "usr/lib"),
        ("lib64", "usr/lib64"),
        ("bin", "usr/bin"),
        ("usr/lib", "usr/lib"),
        ("usr/lib64", "usr/lib64"),
        ("usr/bin", "usr/bin"),
        ("usr/share", "usr/share"),
        ("etc", "etc"),
    ];
    for (from, to) in places {
        let from = unpacked.join(from);
        if from.symlink_metadata().is_ok_and(|m| m.is_dir()) {
            archive.tree(&from, to, &is_wanted)?;
        }
    }
    archive.finish().map(|_| ())
}

/// The oldest release that has that version.
fn release_of(version: &str, found: &[(String, String)]) -> Option<&'static str> {
    let has = |release: &str| found.iter().any(|(v, r)| r == release && is_version(v, version));
    RELEASES.into_iter().find(|release| has(release))
}

/// Whether Debian's version is of that upstream version.
fn is_version(debian: &str, upstream: &str) -> bool {
    debian
        .strip_prefix(upstream)
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_with_a_version_is_found() {
        let pair = |version: &str, release: &str| (version.to_owned(), release.to_owned());
        let found = [
            pair("2.44-0experimental1", "experimental"),
            pair("2.43-5", "sid"),
            pair("2.43-4", "forky"),
            pair("2.41-12+deb13u1", "trixie"),
            pair("2.36-9+deb12u13", "bookworm"),
        ];
        for (version, release) in
            [("2.36", "bookworm"), ("2.41", "trixie"), ("2.43", "forky"), ("2.44", "experimental")]
        {
            assert_eq!(release_of(version, &found), Some(release));
        }
        assert_eq!(release_of("2.4", &found), None);
        assert_eq!(release_of("2.37", &found), None);
    }
}
