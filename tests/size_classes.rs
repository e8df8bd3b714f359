//! The generated table of size classes: as recorded, and as good as promised.
//!
//! `CIDALLOC_TEST_BLESS=1` records the present table.

#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

use cidalloc::heap;
use cidalloc::size_class::{CLASSES, MAX_BYTES, PAGE_BYTES};

const GENERATED: &str = include_str!(concat!(env!("OUT_DIR"), "/size_classes.tsv"));
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/size_classes.tsv");

#[test]
fn the_table_is_the_recorded_one() {
    if std::env::var_os("CIDALLOC_TEST_BLESS").is_some() {
        std::fs::write(GOLDEN, GENERATED).expect("tests/golden is writable");
    }
    let golden = std::fs::read_to_string(GOLDEN).expect("the golden file");
    for (i, (found, recorded)) in GENERATED.lines().zip(golden.lines()).enumerate() {
        assert_eq!(found, recorded, "line {}; CIDALLOC_TEST_BLESS=1 records the new table", i + 1);
    }
    assert_eq!(GENERATED, golden);
}

#[test]
fn the_crate_uses_the_table() {
    // Class 0 stands for none, the table's first line for the column names.
    let lines: Vec<&str> = GENERATED.lines().skip(1).collect();
    assert_eq!(lines.len(), CLASSES.len() - 1);
    for (i, (line, class)) in lines.iter().zip(&CLASSES[1..]).enumerate() {
        let columns: Vec<&str> = line.split('\t').collect();
        let due =
            [i + 1, class.size_bytes as usize, class.span_pages as usize, class.objects as usize];
        assert_eq!(columns[..4], due.map(|n| n.to_string()), "{line}");
    }
}

#[test]
fn spans_hold_their_objects_and_little_else() {
    for class in &CLASSES[1..] {
        let span = class.span_pages as usize * PAGE_BYTES;
        let objects = class.objects as usize * class.size_bytes as usize;
        assert!(objects <= span, "{class:?}");
        // Less than an object more would fit, and no eighth of the span is lost.
        assert!(span - objects <= span / 8, "{class:?} leaves {} bytes", span - objects);
    }
}

#[test]
fn no_size_wastes_more_than_promised() {
    let mut previous = 0;
    for size in 1..=MAX_BYTES {
        let good = heap::good_size(size, 1);
        assert!(good >= size && good >= previous, "{size} got {good} after {previous}");
        match size {
            0..=8 => assert_eq!(good, 8),
            9..=128 => assert!(good - size < 16, "{size} got {good}"),
            // At most 12.5 % of the block.
            _ => assert!((good - size) * 8 <= good, "{size} got {good}"),
        }
        previous = good;
    }
    assert_eq!(previous, MAX_BYTES);
}

#[test]
fn larger_sizes_waste_less_than_a_page() {
    for size in (MAX_BYTES + 1..64 << 20).step_by(4093) {
        let good = heap::good_size(size, 1);
        assert!(good >= size && good - size < PAGE_BYTES, "{size} got {good}");
    }
    assert_eq!(heap::good_size(usize::MAX, 1), 0);
}

#[test]
fn every_power_of_two_is_a_class_and_aligns_itself() {
    for shift in 3..=MAX_BYTES.trailing_zeros() {
        let size = 1 << shift;
        assert_eq!(heap::good_size(size, 1), size);
        assert_eq!(heap::good_size(size, size.min(PAGE_BYTES)), size);
    }
}

#[test]
fn blocks_are_as_large_as_good_size_says() {
    for class in &CLASSES[1..] {
        let class_size = class.size_bytes as usize;
        for size in [class_size - 1, class_size, class_size + 1] {
            let ptr = heap::allocate(size);
            // SAFETY: just allocated, freed once.
            let usable = unsafe { heap::usable_size(ptr) };
            assert_eq!(usable, heap::good_size(size, 1), "{size}");
            // SAFETY: as above.
            unsafe { heap::free(ptr) };
        }
    }
}
