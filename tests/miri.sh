#!/bin/bash
# Miri on the unit tests that make no system call: spans, page map, filler,
# ranges, size classes, slots, the parser of options.
#
# Without Miri, what can be had of it:
# - addresses become pointers by with_exposed_provenance only, as an unstable
#   lint sees (RUSTC_BOOTSTRAP: tests only);
# - the tests that Miri would run, compiled as for it, pass without it.
set -u
cd "$(dirname "$(readlink -f "$0")")/.." || exit

target=${CARGO_TARGET_DIR:-$PWD/target}/miri
log=$target/log
failed=0
mkdir -p "$target"

step() { # WHAT COMMAND...
	local what=$1
	shift
	if CARGO_TARGET_DIR=$target "$@" --quiet --manifest-path tests/bare/Cargo.toml --lib >"$log" 2>&1; then
		echo "ok miri: $what"
	else
		echo "FAIL miri: $what"
		tail -n 40 "$log" | sed 's/^/  /'
		failed=1
	fi
}

lint='-Zcrate-attr=feature(strict_provenance_lints) -Dfuzzy_provenance_casts'
RUSTC_BOOTSTRAP=1 RUSTFLAGS=$lint step "addresses become pointers by name" cargo check
if cargo miri --version >/dev/null 2>&1; then
	# Addresses are integers by design, so their provenance is exposed.
	MIRIFLAGS=-Zmiri-permissive-provenance step "unit tests" cargo miri test
else
	echo "SKIPPED miri: cargo miri is not installed; its tests run without it"
	RUSTFLAGS='--cfg miri' step "its unit tests, without it" cargo test
fi
exit $failed
