//! Kernels: the newest of a series among Debian's "cloud" packages, which need no
//! modules in a guest, and the one that is built here.

use super::cache::{Cache, told};
use super::guest::Arch;
use super::packages::Archive;
use super::{image, slice_kernel};
use crate::Result;
use std::fs;
use std::path::{Path, PathBuf};

/// What `--prepare` fetches.
pub const SERIES: [(&str, Arch); 11] = [
    ("6.1", Arch::X86_64),
    ("6.12", Arch::X86_64),
    ("6.18", Arch::X86_64),
    ("6.19", Arch::X86_64),
    ("7.0", Arch::X86_64),
    ("7.2", Arch::X86_64),
    ("7.3", Arch::X86_64),
    (slice_kernel::NAME, Arch::X86_64),
    ("6.12", Arch::Aarch64),
    ("6.19", Arch::Aarch64),
    ("7.2", Arch::Aarch64),
];

#[derive(Clone, Debug)]
pub struct Kernel {
    /// Unpacked, as QEMU boots it.
    pub image: PathBuf,
    /// Its package and version.
    pub package: String,
    /// Its configuration; empty if the package has none.
    pub config: String,
}

impl Kernel {
    /// The driver of virtio ports is in the kernel and no module.
    pub fn has_virtio_ports(&self) -> bool {
        !self.config.contains("CONFIG_VIRTIO_CONSOLE=m")
    }

    fn in_entry(dir: &Path) -> Result<Self> {
        let text = |name: &str| fs::read_to_string(dir.join(name));
        let package = text("package").map_err(|e| told(dir, &e))?.trim().to_owned();
        let config = text("config").unwrap_or_default();
        Ok(Kernel { image: dir.join("kernel"), package, config })
    }
}

fn entry_name(series: &str, arch: Arch) -> String {
    format!("kernel-{series}-{}", arch.name())
}

/// The kernel, fetched or built if it is not in the cache.
pub fn obtain(cache: &Cache, series: &str, arch: Arch) -> Result<Kernel> {
    let name = entry_name(series, arch);
    let dir = if series == slice_kernel::NAME {
        cache.entry(&name, slice_kernel::FRAGMENT, |dir| slice_kernel::build(cache, arch, dir))?
    } else {
        cache.entry(&name, "", |dir| fetch(cache, series, arch, dir))?
    };
    Kernel::in_entry(&dir)
}

fn fetch(cache: &Cache, series: &str, arch: Arch, into: &Path) -> Result<()> {
    let archive = Archive::open(cache, arch.debian())?;
    let mut names = newest_first(&archive.names("linux-")?, series, arch);
    if names.is_empty() && archive.refresh()? {
        names = newest_first(&archive.names("linux-")?, series, arch);
    }
    let unpacked = into.join("unpacked");
    for name in names {
        super::cache::emptied(&unpacked)?;
        let package = archive.unpack(&name, &unpacked)?;
        let Some(packed) = file_in(&unpacked, "vmlinuz") else {
            continue; // It only depends on another.
        };
        let raw = fs::read(&packed).map_err(|e| told(&packed, &e))?;
        let kernel = image::unpack(&raw).map_err(|why| format!("{name}: {why}"))?;
        let write = |file: &str, data: &[u8]| {
            fs::write(into.join(file), data).map_err(|e| told(&into.join(file), &e))
        };
        write("kernel", &kernel)?;
        write("package", format!("{} {}\n", package.name, package.version).as_bytes())?;
        if let Some(config) = file_in(&unpacked, "config") {
            write("config", &fs::read(&config).map_err(|e| told(&config, &e))?)?;
        }
        return super::cache::remove(&unpacked);
    }
    Err(format!("Debian has no {series} kernel for {} any more, or not yet", arch.name()))
}

/// A file below the directory whose name is that, or starts so and goes on after a dash.
fn file_in(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let is_it = |path: &PathBuf| {
        let rest = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix(name));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let is_file = |path: &PathBuf| path.symlink_metadata().is_ok_and(|m| m.is_file());
    let is_dir = |path: &PathBuf| path.symlink_metadata().is_ok_and(|m| m.is_dir());
    if let Some(found) = paths.iter().find(|path| is_file(path) && is_it(path)) {
        return Some(found.clone());
    }
    paths.iter().filter(|path| is_dir(path)).find_map(|dir| file_in(dir, name))
}

/// The packages with kernels of the series, the best first: the newest, of the
/// same version the signed one.
fn newest_first(names: &[String], series: &str, arch: Arch) -> Vec<String> {
    let mut ranked: Vec<(Rank, &String)> =
        names.iter().filter_map(|name| Some((rank(name, series, arch)?, name))).collect();
    ranked.sort_by(|a, b| b.cmp(a));
    ranked.into_iter().map(|(_, name)| name.clone()).collect()
}

/// Whether it is a release, its numbers, whether it is the package of the image
/// itself (6.19 and later have others besides), whether it is signed.
type Rank = (bool, Vec<u32>, bool, bool);

fn rank(name: &str, series: &str, arch: Arch) -> Option<Rank> {
    let (is_image_itself, is_signed, rest) = if let Some(rest) = name.strip_prefix("linux-image-") {
        let rest_signed = rest.strip_suffix("-unsigned");
        (false, rest_signed.is_none(), rest_signed.unwrap_or(rest))
    } else {
        let rest = name.strip_prefix("linux-binary-")?;
        let rest_unsigned = rest.strip_prefix("unsigned-");
        (true, rest_unsigned.is_none(), rest_unsigned.unwrap_or(rest))
    };
    let version = rest.strip_suffix(&format!("-cloud-{}", arch.debian()))?;
    let after = version.strip_prefix(series)?;
    if after.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let is_release = !version.contains("rc");
    let numbers = version.split(|c: char| !c.is_ascii_digit());
    let numbers = numbers.filter_map(|number| number.parse().ok()).collect();
    Some((is_release, numbers, is_image_itself, is_signed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest(names: &[&str], series: &str, arch: Arch) -> Vec<String> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        newest_first(&names, series, arch)
    }

    #[test]
    fn the_newest_package_of_a_series_is_chosen() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64-dbg",
            "linux-image-6.1.0-50-amd64",
            "linux-image-6.1.0-50-cloud-amd64-unsigned",
            "linux-image-6.12.107+deb13-cloud-amd64",
            "linux-image-6.12.9+bpo-cloud-amd64",
            "linux-image-cloud-amd64",
            "linux-headers-6.1.0-60-cloud-amd64",
        ];
        let due = [
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64-unsigned",
            "linux-image-6.1.0-9-cloud-amd64",
        ];
        assert_eq!(newest(&names, "6.1", Arch::X86_64), due);
        let due = ["linux-image-6.12.107+deb13-cloud-amd64", "linux-image-6.12.9+bpo-cloud-amd64"];
        assert_eq!(newest(&names, "6.12", Arch::X86_64), due);
        assert!(newest(&names, "6.12", Arch::Aarch64).is_empty());
        assert!(newest(&names, "6", Arch::X86_64).len() > 3, "a series may be a whole major");
    }

    #[test]
    fn the_image_itself_comes_before_packages_around_it() {
        let names = [
            "linux-image-7.2.13+deb14-cloud-arm64",
            "linux-binary-unsigned-7.2.13+deb14-cloud-arm64",
            "linux-binary-7.2.13+deb14-cloud-arm64",
            "linux-base-7.2.13+deb14-cloud-arm64",
            "linux-binary-7.2.14+deb13-cloud-amd64",
        ];
        let due = [
            "linux-binary-7.2.13+deb14-cloud-arm64",
            "linux-binary-unsigned-7.2.13+deb14-cloud-arm64",
            "linux-image-7.2.13+deb14-cloud-arm64",
        ];
        assert_eq!(newest(&names, "7.2", Arch::Aarch64), due);
    }

    #[test]
    fn a_release_comes_before_its_candidates() {
        let names = [
            "linux-image-7.3-rc5-cloud-amd64",
            "linux-image-7.3.1+deb14-cloud-amd64",
            "linux-image-7.3-rc6-cloud-amd64",
        ];
        let due = [names[1], names[2], names[0]];
        assert_eq!(newest(&names, "7.3", Arch::X86_64), due);
    }

    #[test]
    fn files_are_found_by_the_start_of_their_name() {
        let dir = tempfile::tempdir().unwrap();
        let boot = dir.path().join("usr/lib/modules/7.2");
        fs::create_dir_all(&boot).unwrap();
        for file in ["vmlinuz", "configured", "config-7.2"] {
            fs::write(boot.join(file), "").unwrap();
        }
        assert_eq!(file_in(dir.path(), "vmlinuz"), Some(boot.join("vmlinuz")));
        assert_eq!(file_in(dir.path(), "config"), Some(boot.join("config-7.2")));
        assert_eq!(file_in(dir.path(), "System.map"), None);
    }
}
