#!/bin/bash
# On other targets the crate passes through to the system's allocator: builds it
# as the build script has it built there, without `cidalloc_native` and without
# its Linux dependencies, and runs a Rust program on it.
set -u
cd "$(dirname "$(readlink -f "$0")")/.." || exit

target=${CARGO_TARGET_DIR:-$PWD/target}/other
mkdir -p "$target"
cat >"$target/program.rs" <<'END'
#[global_allocator]
static A: cidalloc::CidAlloc = cidalloc::CidAlloc;

#[repr(align(256))]
struct Aligned(u8);

fn main() {
    let mut words: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
    words.extend(vec![String::new(); 100_000]);
    let aligned = Box::new(Aligned(7));
    assert_eq!(&raw const *aligned as usize % 256, 0);
    assert!(vec![0u8; 1 << 20].iter().all(|b| *b == 0));
    println!("{} {} {}", words.len(), words[999], aligned.0);
}
END
compile=(rustc --edition 2024 -D warnings -O)
if "${compile[@]}" --crate-name cidalloc --crate-type rlib --check-cfg 'cfg(cidalloc_native,test)' \
	--check-cfg 'cfg(feature, values("__trial"))' \
	-o "$target/libcidalloc.rlib" src/lib.rs &&
	"${compile[@]}" --extern cidalloc="$target/libcidalloc.rlib" -o "$target/program" "$target/program.rs" &&
	[ "$("$target/program")" = "101000 999 7" ]; then
	echo "ok other targets: a program runs on the pass-through"
else
	echo "FAIL other targets"
	exit 1
fi
