#!/bin/bash
# ThreadSanitizer and AddressSanitizer on the layers that they can see into.
#
# - tests/bare/churn.rs: threads on the heap with CIDALLOC_RSEQ=off. Then slabs
#   are changed behind locks, whose atomics the sanitizers see; sections are
#   assembly, which they do not.
# - AddressSanitizer: the unit tests, too. (Not ThreadSanitizer: the test
#   harness is part of std, which is not instrumented, and its channels look
#   like races.)
# - Each sanitizer must report what is planted: a race of the program, an
#   overflow, and a lock whose release orders nothing, in a copy of the sources.
#
# Nothing is suppressed. std comes as it is built, hence the flag that allows
# for it. RUSTC_BOOTSTRAP lets a stable compiler take -Zsanitizer: tests only.
set -u
cd "$(dirname "$(readlink -f "$0")")/.." || exit

target=${CARGO_TARGET_DIR:-$PWD/target}/sanitizers
host=$(rustc -vV | sed -n 's/^host: //p')
libraries=$(rustc --print sysroot)/lib/rustlib/$host/lib
failed=0

result() { # STATUS WHAT
	echo "$1 sanitizers: $2"
	[ "$1" != FAIL ] || failed=1
}

# Cargo with a sanitizer, in the directory of the bare package.
sanitized() { # SANITIZER DIRECTORY CARGO-ARGUMENT...
	local sanitizer=$1 directory=$2
	shift 2
	RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$target/$sanitizer \
		RUSTFLAGS="-Zsanitizer=$sanitizer -Cunsafe-allow-abi-mismatch=sanitizer" \
		cargo "$@" --quiet --target "$host" --manifest-path "$directory/Cargo.toml"
}

churn() { # SANITIZER, and settings by the environment
	CIDALLOC_RSEQ=off timeout 60 "$target/$1/$host/debug/churn" >"$target/log" 2>&1
}

must_pass() { # WHAT COMMAND...
	local what=$1
	shift
	if "$@"; then
		result ok "$what"
	else
		result FAIL "$what"
		head -n 60 "$target/log" | sed 's/^/  /'
	fi
}

must_be_reported() { # REPORT WHAT COMMAND...
	local report=$1 what=$2
	shift 2
	if ! "$@" && grep -q "$report" "$target/log"; then
		result ok "reported as planted: $what"
	else
		result FAIL "went unseen: $what"
		head -n 20 "$target/log" | sed 's/^/  /'
	fi
}

build() { # SANITIZER DIRECTORY
	sanitized "$1" "$2" build >"$target/log" 2>&1
}

units() {
	# What the tests of spans allocate stays for good.
	ASAN_OPTIONS=detect_leaks=0 sanitized address tests/bare test --lib >"$target/log" 2>&1
}

# The sources with one ordering taken out of the lock.
plant() {
	local copy=$target/planted
	rm -rf "$copy" && mkdir -p "$copy/tests" || return
	cp -r src asm build.rs "$copy" && cp -r tests/bare "$copy/tests" || return
	sed -i 's/swap(0, Release)/swap(0, Relaxed)/' "$copy/src/os/lock.rs" || return
	! cmp -s src/os/lock.rs "$copy/src/os/lock.rs"
}

mkdir -p "$target"
if ls "$libraries"/librustc*_rt.tsan.a >/dev/null 2>&1; then
	must_pass "builds for ThreadSanitizer" build thread tests/bare
	must_pass "threads churn, no race" churn thread
	CIDALLOC_CHECK=1 must_pass "the same in the checking mode" churn thread
	CIDALLOC_TEST_PLANT=race must_be_reported 'ThreadSanitizer: data race' 'a block written after its free' churn thread
	must_pass "a copy to plant in" plant
	must_pass "builds with a lock that orders nothing" build thread "$target/planted/tests/bare"
	must_be_reported 'ThreadSanitizer: data race' 'a lock that orders nothing' churn thread
else
	result SKIPPED "no ThreadSanitizer runtime in $libraries"
fi
if ls "$libraries"/librustc*_rt.asan.a >/dev/null 2>&1; then
	must_pass "builds for AddressSanitizer" build address tests/bare
	must_pass "threads churn, no bad address" churn address
	CIDALLOC_CHECK=1 must_pass "the same in the checking mode" churn address
	CIDALLOC_TEST_PLANT=overflow must_be_reported 'AddressSanitizer: heap-buffer-overflow' 'a write past the end' churn address
	must_pass "unit tests, no bad address" units
else
	result SKIPPED "no AddressSanitizer runtime in $libraries"
fi
exit $failed
