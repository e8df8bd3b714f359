//! Formats of kernel images. A kernel is booted unpacked: emulated, it takes
//! seconds to unpack itself.

use crate::Result;
use std::io::Write;
use std::process::{Command, Stdio};

/// How the kernel inside an image is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Nothing,
    Gzip,
    Xz,
    Lzma,
    Zstd,
    Lz4,
}

impl Packing {
    /// The program that unpacks, and its Debian package.
    fn tool(self) -> Option<(&'static [&'static str], &'static str)> {
        match self {
            Packing::Nothing => None,
            Packing::Gzip => Some((&["gzip", "-dc"], "gzip")),
            Packing::Xz => Some((&["xz", "-dc", "--single-stream"], "xz-utils")),
            Packing::Lzma => Some((&["xz", "-dc", "--format=lzma"], "xz-utils")),
            Packing::Zstd => Some((&["zstd", "-dcq"], "zstd")),
            Packing::Lz4 => Some((&["lz4", "-dcq"], "lz4")),
        }
    }

    fn of_magic(packed: &[u8]) -> Option<Self> {
        let magics: [(&[u8], Self); 6] = [
            (b"\x1f\x8b", Packing::Gzip),
            (b"\xfd7zXZ\0", Packing::Xz),
            (b"\x28\xb5\x2f\xfd", Packing::Zstd),
            (b"\x02\x21\x4c\x18", Packing::Lz4),
            (b"\x5d\0\0", Packing::Lzma),
            (b"\x7fELF", Packing::Nothing),
        ];
        magics.iter().find(|(magic, _)| packed.starts_with(magic)).map(|&(_, packing)| packing)
    }
}

/// The kernel in an image: an ELF file for x86_64, an Image for aarch64.
pub fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    let (packing, packed) = inside(image).ok_or("the image of the kernel has no known format")?;
    // Beside the packed kernel may lie its size.
    let lengths = [packed.len(), packed.len().saturating_sub(4)];
    let mut why = None;
    for length in lengths {
        match unpacked(packing, &packed[..length]) {
            Ok(kernel) if is_kernel(&kernel) => return Ok(kernel),
            Ok(_) => why.get_or_insert(format!("what {packing:?} unpacked is no kernel")),
            Err(e) => why.get_or_insert(e),
        };
    }
    Err(why.unwrap_or_default())
}

/// An ELF file, or an arm64 Image.
fn is_kernel(data: &[u8]) -> bool {
    data.starts_with(b"\x7fELF") || data.get(56..60) == Some(b"ARM\x64")
}

/// The packed kernel, with the size that may follow it.
fn inside(image: &[u8]) -> Option<(Packing, &[u8])> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    let part = |start: usize, length: usize| image.get(start..start.checked_add(length)?);
    if image.starts_with(b"MZ") && part(4, 4) == Some(b"zimg") {
        // A program for EFI that unpacks: offset, size, and the name of the packing.
        let packed = part(word(8)?, word(12)?)?;
        let packing = match part(24, 32)?.split(|&b| b == 0).next()? {
            b"gzip" => Packing::Gzip,
            b"xzkern" | b"xz" => Packing::Xz,
            b"lzma" => Packing::Lzma,
            b"zstd" | b"zstd22" => Packing::Zstd,
            b"lz4" => Packing::Lz4,
            _ => return None,
        };
        return Some((packing, packed));
    }
    if is_kernel(image) {
        return Some((Packing::Nothing, image));
    }
    if part(0x202, 4) == Some(b"HdrS") {
        // x86's boot protocol, from 2.08 on: behind the sectors of the setup.
        let setup_sectors = match image[0x1f1] {
            0 => 4,
            n => usize::from(n),
        };
        let packed = part((setup_sectors + 1) * 512 + word(0x248)?, word(0x24c)?)?;
        return Some((Packing::of_magic(packed)?, packed));
    }
    Some((Packing::of_magic(image)?, image))
}

fn unpacked(packing: Packing, packed: &[u8]) -> Result<Vec<u8>> {
    let Some((tool, package)) = packing.tool() else {
        return Ok(packed.to_vec());
    };
    let mut child = Command::new(tool[0])
        .args(&tool[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("{}: {e} (package {package})", tool[0]))?;
    let mut input = child.stdin.take().expect("it is piped");
    let output = std::thread::scope(|scope| {
        // The program may end before it has read everything.
        scope.spawn(move || input.write_all(packed));
        child.wait_with_output()
    })
    .map_err(|e| format!("{}: {e}", tool[0]))?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(format!("{}: {}", tool[0], output.status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf() -> Vec<u8> {
        let mut kernel = b"\x7fELF".to_vec();
        kernel.extend((0..100_000_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()));
        kernel
    }

    fn arm_image() -> Vec<u8> {
        let mut kernel = elf();
        kernel[..4].copy_from_slice(b"MZ\x40\xfa");
        kernel[56..60].copy_from_slice(b"ARM\x64");
        kernel
    }

    /// Packed by the program itself; None where it is not installed.
    fn packed(tool: &[&str], data: &[u8]) -> Option<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("data");
        std::fs::write(&file, data).unwrap();
        match Command::new(tool[0]).args(&tool[1..]).arg(&file).output() {
            Ok(output) => {
                assert!(output.status.success(), "{tool:?}");
                Some(output.stdout)
            }
            Err(_) => {
                println!("SKIP: no {}", tool[0]);
                None
            }
        }
    }

    fn bz_image(packed: &[u8], setup_sectors: u8) -> Vec<u8> {
        let setup = (usize::from(if setup_sectors == 0 { 4 } else { setup_sectors }) + 1) * 512;
        let mut image = vec![0; setup];
        image[0x1f1] = setup_sectors;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&64_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(packed.len() as u32).to_le_bytes());
        image.extend([0xcc; 64]);
        image.extend(packed);
        image.extend([0xcc; 1000]);
        image
    }

    fn efi_image(packed: &[u8], name: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 512];
        image[..8].copy_from_slice(b"MZ\0\0zimg");
        image[8..12].copy_from_slice(&512_u32.to_le_bytes());
        image[12..16].copy_from_slice(&(packed.len() as u32).to_le_bytes());
        image[24..24 + name.len()].copy_from_slice(name);
        image.extend(packed);
        image.extend([0xcc; 100]);
        image
    }

    #[test]
    fn images_of_x86_are_unpacked() {
        let tools: [(&[&str], bool); 5] = [
            // gzip ends with the size itself; the others' is appended.
            (&["gzip", "-c"], false),
            (&["xz", "-c", "--check=crc32"], true),
            (&["xz", "-c", "--format=lzma"], true),
            (&["zstd", "-cq"], true),
            (&["lz4", "-lcq"], true),
        ];
        for (tool, has_size) in tools {
            let Some(mut data) = packed(tool, &elf()) else { continue };
            if has_size {
                data.extend((elf().len() as u32).to_le_bytes());
            }
            for setup_sectors in [0, 39] {
                assert_eq!(unpack(&bz_image(&data, setup_sectors)), Ok(elf()), "{tool:?}");
            }
        }
    }

    #[test]
    fn images_of_arm_are_unpacked() {
        assert_eq!(unpack(&arm_image()), Ok(arm_image()));
        let tools: [(&[&str], &[u8]); 3] =
            [(&["gzip", "-c"], b"gzip"), (&["zstd", "-cq"], b"zstd"), (&["xz", "-c"], b"xzkern")];
        for (tool, name) in tools {
            let Some(mut data) = packed(tool, &arm_image()) else { continue };
            assert_eq!(unpack(&efi_image(&data, name)), Ok(arm_image()));
            data.extend((arm_image().len() as u32).to_le_bytes());
            assert_eq!(unpack(&efi_image(&data, name)), Ok(arm_image()), "{tool:?}");
        }
        if let Some(data) = packed(&["gzip", "-c"], &arm_image()) {
            assert_eq!(unpack(&data), Ok(arm_image()));
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert_eq!(unpack(&elf()), Ok(elf()));
        for image in [&b""[..], b"MZ", b"MZ\0\0zimg", b"#!/bin/sh\n", &[0; 5000]] {
            assert!(unpack(image).is_err());
        }
        let Some(data) = packed(&["gzip", "-c"], b"no kernel") else { return };
        assert!(unpack(&bz_image(&data, 0)).unwrap_err().contains("no kernel"));
        let cut = bz_image(&data, 0);
        assert!(unpack(&cut[..cut.len() - 1100]).is_err());
    }
}
