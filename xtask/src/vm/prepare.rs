//! `cargo xtask vm --prepare`: everything that guests are made of, into the cache.

use super::cache::Cache;
use super::cells::{CELLS, Cell};
use super::guest::Arch;
use super::{emulator, initramfs, kernels, libraries, slice_kernel};
use crate::Result;
use std::path::PathBuf;

/// Fetches and builds all kernels, C libraries and the rest. Returns what cannot be
/// had.
pub fn all() -> Vec<String> {
    let cache = match Cache::open() {
        Ok(cache) => cache,
        Err(why) => return vec![why],
    };
    let mut missing = Vec::new();
    let mut note = |what: String, done: Result<String>| match done {
        Ok(made) => println!("{what}: {made}"),
        Err(why) => {
            println!("{what}: MISSING");
            missing.push(format!("{what}: {why}"));
        }
    };
    for arch in [Arch::X86_64, Arch::Aarch64] {
        let arch_name = arch.name();
        let emulator = emulator::obtain(&cache, arch);
        note(format!("QEMU for {arch_name}"), emulator.map(|emulator| emulator.shown().to_owned()));
        note(format!("busybox for {arch_name}"), initramfs::base(&cache, arch).map(shown));
        for version in libraries::VERSIONS {
            let library = libraries::obtain(&cache, version, arch, &[]);
            note(format!("glibc {version} for {arch_name}"), library.map(shown));
        }
    }
    // The one that takes minutes to build is the last.
    let mut series = kernels::SERIES.to_vec();
    series.sort_by_key(|(series, _)| *series == slice_kernel::NAME);
    for (series, arch) in series {
        let kernel = kernels::obtain(&cache, series, arch);
        note(format!("kernel {series} for {}", arch.name()), kernel.map(|kernel| kernel.package));
    }
    // Programs of Debian's, which the matrix runs.
    let mut noted = Vec::new();
    for guest in CELLS.iter().map(Cell::guest).filter(|guest| !guest.packages.is_empty()) {
        let Some(version) = &guest.libc else { continue };
        let what = format!("programs on glibc {version} for {}", guest.arch.name());
        if !noted.contains(&what) {
            let libraries = libraries::obtain(&cache, version, guest.arch, &guest.packages);
            note(what.clone(), libraries.map(shown));
            noted.push(what);
        }
    }
    missing
}

fn shown(path: PathBuf) -> String {
    path.display().to_string()
}
