//! Finds the command as execvp(3) would and tells whether LD_PRELOAD will reach it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::sys;

#[derive(Debug, PartialEq)]
pub enum Missing {
    NotFound,
    NotExecutable,
}

/// Returns the path that execvp(3) would execute for `name`.
pub fn find(name: &OsStr) -> Result<PathBuf, Missing> {
    let judge = |path: &Path| {
        if !path.exists() {
            Err(Missing::NotFound)
        } else if path.is_file() && sys::is_executable(path) {
            Ok(path.to_owned())
        } else {
            Err(Missing::NotExecutable)
        }
    };
    if name.as_bytes().contains(&b'/') {
        return judge(Path::new(name));
    }
    if name.is_empty() {
        return Err(Missing::NotFound);
    }
    // As execvp: the list it takes without PATH, and an empty entry for the current directory.
    let list = env::var_os("PATH").unwrap_or_else(|| OsString::from("/bin:/usr/bin"));
    let mut worst = Missing::NotFound;
    for directory in env::split_paths(&list) {
        match judge(&Path::new(".").join(directory).join(name)) {
            Ok(path) => return Ok(path),
            Err(Missing::NotExecutable) => worst = Missing::NotExecutable,
            Err(Missing::NotFound) => {}
        }
    }
    Err(worst)
}

/// Says why LD_PRELOAD will have no effect on the program at `path`; None if nothing speaks
/// against it.
pub fn preload_obstacle(path: &Path) -> Option<String> {
    obstacle_at_depth(path, 0)
}

/// The kernel follows interpreters of scripts this deep.
const SCRIPT_DEPTH: usize = 5;

fn obstacle_at_depth(path: &Path, depth: usize) -> Option<String> {
    // A program need not be readable; what its mode says is known all the same.
    let head = read_head(path).unwrap_or_default();
    if let Some(interpreter) = script_interpreter(&head) {
        // The set-user-id bit of a script is ignored: only its interpreter counts.
        if depth == SCRIPT_DEPTH {
            return None;
        }
        return obstacle_at_depth(&interpreter, depth + 1)
            .map(|reason| format!("its interpreter {} {reason}", interpreter.display()));
    }
    match examine_elf(&head) {
        Image::Static => Some("is statically linked (names no dynamic loader)".into()),
        Image::OtherArchitecture => {
            Some("is built for another architecture than the library".into())
        }
        Image::Dynamic | Image::Unknown => elevation(path),
    }
}

/// Enough for the program headers, which linkers put right behind the ELF header.
const HEAD_BYTES: u64 = 64 * 1024;

fn read_head(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok(head)
}

fn script_interpreter(head: &[u8]) -> Option<PathBuf> {
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    words.next().map(|word| PathBuf::from(OsStr::from_bytes(word)))
}

/// In these cases the dynamic loader is in secure mode and drops preloads named by a path.
fn elevation(path: &Path) -> Option<String> {
    if sys::elevation_is_off(path) {
        return None;
    }
    let file = path.metadata().ok()?;
    let (user, group) = sys::real_ids();
    if file.mode() & libc::S_ISUID != 0 && file.uid() != user {
        return Some("is set-user-id, where the dynamic loader ignores LD_PRELOAD".into());
    }
    // Without the group's execute bit, set-group-id once meant mandatory locking.
    let setgid = libc::S_ISGID | libc::S_IXGRP;
    if file.mode() & setgid == setgid && file.gid() != group {
        return Some("is set-group-id, where the dynamic loader ignores LD_PRELOAD".into());
    }
    if user != 0 && sys::has_capabilities(path) {
        return Some("has file capabilities, where the dynamic loader ignores LD_PRELOAD".into());
    }
    None
}

#[derive(Debug, PartialEq)]
enum Image {
    /// No ELF file, or headers out of reach.
    Unknown,
    OtherArchitecture,
    Static,
    Dynamic,
}

/// Reads the program headers in `head`, the start of a file, by the System V ABI's layout.
fn examine_elf(head: &[u8]) -> Image {
    const PT_INTERP: u32 = 3;
    if !head.starts_with(b"\x7fELF") {
        return Image::Unknown;
    }
    let this = OwnElf::of_this_binary();
    // Class (word size), byte order, machine: what must be the same in all objects of a process.
    if head.get(4..6) != Some(&this.class_and_order[..]) || half(head, 18) != Some(this.machine) {
        return Image::OtherArchitecture;
    }
    let (Some(table), Some(entry_size), Some(entries)) =
        (double(head, 32), half(head, 54), half(head, 56))
    else {
        return Image::Unknown;
    };
    let mut seen = 0;
    for index in 0..usize::from(entries) {
        let Some(at) = usize::try_from(table)
            .ok()
            .and_then(|table| table.checked_add(index * usize::from(entry_size)))
        else {
            break;
        };
        match word(head, at) {
            Some(PT_INTERP) => return Image::Dynamic,
            Some(_) => seen += 1,
            None => break,
        }
    }
    // Headers beyond `head` were not seen: no verdict on those.
    if seen == entries { Image::Static } else { Image::Unknown }
}

struct OwnElf {
    class_and_order: [u8; 2],
    machine: u16,
}

impl OwnElf {
    /// All supported targets are 64-bit and little-endian.
    fn of_this_binary() -> Self {
        const EM_X86_64: u16 = 62;
        const EM_AARCH64: u16 = 183;
        let machine = if cfg!(target_arch = "aarch64") { EM_AARCH64 } else { EM_X86_64 };
        OwnElf { class_and_order: [2, 1], machine }
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn double(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_like_execvp_does() {
        assert_eq!(find(OsStr::new("/bin/sh")), Ok(PathBuf::from("/bin/sh")));
        assert!(find(OsStr::new("sh")).is_ok_and(|path| path.ends_with("sh")));
        assert_eq!(find(OsStr::new("no-such-command-here")), Err(Missing::NotFound));
        assert_eq!(find(OsStr::new("/no/such/file")), Err(Missing::NotFound));
        assert_eq!(find(OsStr::new("/etc/passwd")), Err(Missing::NotExecutable));
        assert_eq!(find(OsStr::new("/etc")), Err(Missing::NotExecutable));
        assert_eq!(find(OsStr::new("")), Err(Missing::NotFound));
    }

    #[test]
    fn interpreters_of_scripts_are_read() {
        assert_eq!(
            script_interpreter(b"#! /usr/bin/env python3\nx"),
            Some(PathBuf::from("/usr/bin/env"))
        );
        assert_eq!(script_interpreter(b"#!/bin/sh"), Some(PathBuf::from("/bin/sh")));
        assert_eq!(script_interpreter(b"#!\n"), None);
        assert_eq!(script_interpreter(b"echo"), None);
    }

    /// A 64-bit little-endian header with program headers of the given types.
    fn elf(machine: u16, headers: &[u32]) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&u16::try_from(headers.len()).unwrap().to_le_bytes());
        for header in headers {
            file.extend(header.to_le_bytes());
            file.extend([0; 52]);
        }
        file
    }

    #[test]
    fn programs_without_a_loader_are_static() {
        let machine = OwnElf::of_this_binary().machine;
        assert_eq!(examine_elf(&elf(machine, &[6, 3, 1])), Image::Dynamic);
        assert_eq!(examine_elf(&elf(machine, &[1, 1])), Image::Static);
        assert_eq!(examine_elf(&elf(40, &[3])), Image::OtherArchitecture);
        assert_eq!(examine_elf(b"\x7fELF"), Image::OtherArchitecture);
        assert_eq!(examine_elf(b"#!/bin/sh"), Image::Unknown);
        let cut = elf(machine, &[1, 1, 3]);
        assert_eq!(examine_elf(&cut[..130]), Image::Unknown);
    }

    #[test]
    fn nothing_stands_in_the_way_of_a_shell() {
        assert_eq!(preload_obstacle(Path::new("/bin/sh")), None);
    }
}
