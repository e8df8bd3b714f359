//! Generates the size-class table (`$OUT_DIR/size_classes.rs`, and the same as
//! `size_classes.tsv` for the golden file) and says whether the target has the
//! allocator proper or passes through to the system's.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

/// Our page: the unit of spans. Twice the usual OS page, so that the page map
/// is half as large and small spans still hold enough objects.
const PAGE_BYTES: usize = 8192;
/// The largest size served from classes.
const MAX_BYTES: usize = 256 * 1024;
/// Requests of up to this size are looked up in steps of 8 bytes, above in
/// steps of 128.
const FINE_MAX_BYTES: usize = 1024;
/// A span's free objects are a bitmap of at most this many bits.
const MAX_OBJECTS: usize = 1024;

struct Class {
    size_bytes: usize,
    span_pages: usize,
}

impl Class {
    fn objects(&self) -> usize {
        (self.span_pages * PAGE_BYTES / self.size_bytes).min(MAX_OBJECTS)
    }
    fn tail_waste(&self) -> f64 {
        let span = self.span_pages * PAGE_BYTES;
        (span - self.objects() * self.size_bytes) as f64 / span as f64
    }
}

/// Sizes are multiples of this from `bytes` upwards: the step of the look-up
/// table above 1 KiB, and whole fractions of pages where spans hold few objects.
fn granule(bytes: usize) -> usize {
    match bytes {
        0..1024 => 16,
        1024..8192 => 128,
        8192..32768 => 1024,
        32768..65536 => 4096,
        _ => PAGE_BYTES,
    }
}

/// 8, then multiples of 16 up to 128, then the longest steps that keep
/// `(size - request) / size` within one eighth for every request. Every power
/// of two is a class: they serve the alignments.
fn sizes() -> Vec<usize> {
    let mut sizes = vec![8];
    sizes.extend((16..=128).step_by(16));
    while *sizes.last().unwrap() < MAX_BYTES {
        let last = *sizes.last().unwrap();
        let longest = (last + 1) * 8 / 7;
        let g = granule(last);
        let next = (longest / g * g).min((last + 1).next_power_of_two());
        assert!(next > last, "granule too coarse at {last}");
        sizes.push(next);
    }
    sizes
}

/// The shortest span whose tail waste is within 1/32 and which holds at least
/// four objects where objects are below two pages; else the least wasteful.
fn span_pages(size: usize) -> usize {
    let fits = |pages: usize| {
        let class = Class { size_bytes: size, span_pages: pages };
        (class.tail_waste(), class.objects())
    };
    let least = size.div_ceil(PAGE_BYTES);
    let enough = if size < 2 * PAGE_BYTES { 4 } else { 1 };
    (least..=32.max(least))
        .find(|&p| fits(p).0 <= 1.0 / 32.0 && fits(p).1 >= enough)
        .unwrap_or_else(|| {
            (least..=32.max(least)).min_by(|&a, &b| fits(a).0.total_cmp(&fits(b).0)).unwrap()
        })
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(cidalloc_native)");
    let os = env::var("CARGO_CFG_TARGET_OS").unwrap();
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap();
    let width = env::var("CARGO_CFG_TARGET_POINTER_WIDTH").unwrap();
    if os != "linux" || !matches!(&*arch, "x86_64" | "aarch64") || width != "64" {
        return;
    }
    println!("cargo:rustc-cfg=cidalloc_native");

    let classes: Vec<Class> =
        sizes().into_iter().map(|s| Class { size_bytes: s, span_pages: span_pages(s) }).collect();
    // A search for a class by alignment ends with the last one.
    assert!(
        classes.last().is_some_and(|c| c.size_bytes == MAX_BYTES) && MAX_BYTES % PAGE_BYTES == 0
    );
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    fs::write(out.join("size_classes.rs"), rust_table(&classes)).unwrap();
    let tsv = tsv_table(&classes);
    fs::write(out.join("size_classes.tsv"), tsv).unwrap();
}

fn rust_table(classes: &[Class]) -> String {
    let mut s = String::new();
    // Class 0 stands for "not a class": its size is 0 and its slab header is
    // never filled, so that it always leads to the slow path.
    writeln!(s, "pub const COUNT: usize = {};", classes.len() + 1).unwrap();
    writeln!(s, "pub const MAX_BYTES: usize = {MAX_BYTES};").unwrap();
    writeln!(s, "pub const FINE_MAX_BYTES: usize = {FINE_MAX_BYTES};").unwrap();
    writeln!(s, "pub const PAGE_BYTES: usize = {PAGE_BYTES};").unwrap();
    writeln!(s, "pub const MAX_OBJECTS: usize = {MAX_OBJECTS};").unwrap();
    writeln!(s, "pub static CLASSES: [ClassInfo; COUNT] = [").unwrap();
    writeln!(s, "    ClassInfo::new(0, 0, 0),").unwrap();
    for c in classes {
        writeln!(s, "    ClassInfo::new({}, {}, {}),", c.size_bytes, c.span_pages, c.objects())
            .unwrap();
    }
    writeln!(s, "];").unwrap();
    // Index i < FINE covers sizes up to 8 * i, the rest sizes up to
    // FINE_MAX + 128 * (i - FINE).
    let fine = FINE_MAX_BYTES / 8 + 1;
    let coarse = (MAX_BYTES - FINE_MAX_BYTES) / 128;
    writeln!(s, "pub static CLASS_OF: [u8; {}] = [", fine + coarse).unwrap();
    let class_for = |bytes: usize| {
        1 + classes.iter().position(|c| c.size_bytes >= bytes).expect("within MAX_BYTES")
    };
    for i in 0..fine {
        write!(s, "{},", class_for(i * 8)).unwrap();
    }
    for i in 1..=coarse {
        write!(s, "{},", class_for(FINE_MAX_BYTES + i * 128)).unwrap();
    }
    writeln!(s, "\n];").unwrap();
    s
}

fn tsv_table(classes: &[Class]) -> String {
    let mut s = String::from(
        "class\tsize_bytes\tspan_pages\tobjects\ttail_waste_percent\tworst_internal_waste_percent\n",
    );
    let mut previous = 0;
    for (i, c) in classes.iter().enumerate() {
        let worst = (c.size_bytes - previous - 1) as f64 / c.size_bytes as f64;
        writeln!(
            s,
            "{}\t{}\t{}\t{}\t{:.2}\t{:.2}",
            i + 1,
            c.size_bytes,
            c.span_pages,
            c.objects(),
            100.0 * c.tail_waste(),
            100.0 * worst
        )
        .unwrap();
        previous = c.size_bytes;
    }
    s
}
