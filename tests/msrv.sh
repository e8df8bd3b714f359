#!/bin/bash
# Build the workspace with the oldest supported compiler, rustc 1.85.
#
# The compiler is $CIDALLOC_TEST_MSRV_RUSTC, or rustup's toolchain 1.85 if there is
# one, or Debian 12's, unpacked into the cache and never installed (about
# 90 MB to fetch, once).  With Debian's, aarch64 is checked as well.  Cargo is
# the one in the PATH: only the compiler's age is in question.
# CIDALLOC_TEST_CACHE (default ~/.cache/cidalloc) keeps the compiler and the build.
set -u
cd "$(dirname "$(readlink -f "$0")")/.." || exit

msrv=1.85
cache=${CIDALLOC_TEST_CACHE:-$HOME/.cache/cidalloc}
target=${CARGO_TARGET_DIR:-$PWD/target}/msrv
root=$cache/rust-$msrv
wrapper=$root/rustc
failed=0

result() { # STATUS WHAT [WHY]
	echo "$1 msrv: $2${3:+: $3}"
	[ "$1" != FAIL ] || failed=1
}

# An unpacked rustc finds its std beside itself, but not its LLVM.
unpack_debian() {
	local p
	for p in rustc-web/bookworm libstd-rust-web-dev/bookworm libstd-rust-web-$msrv libllvm19; do
		tests/setup.sh unpack amd64 "$p" "$root" || return
	done
	tests/setup.sh unpack arm64 libstd-rust-web-dev/bookworm "$root" || return
	cat >"$wrapper.tmp" <<-END
		#!/bin/sh
		LD_LIBRARY_PATH="$root/usr/lib/x86_64-linux-gnu" exec "$root/usr/bin/rustc" "\$@"
	END
	chmod +x "$wrapper.tmp" && mv "$wrapper.tmp" "$wrapper"
}

build() { # WHAT CARGO-ARGUMENT...
	local what=$1 log=$target/log
	shift
	mkdir -p "$target"
	if RUSTC=$rustc RUSTFLAGS='' CARGO_TARGET_DIR=$target cargo "$@" >"$log" 2>&1; then
		result ok "$what"
	else
		result FAIL "$what" "cargo $*"
		grep -A 12 -E '^error' "$log" | head -n 60 | sed 's/^/  /'
	fi
}

targets=()
if [ -n "${CIDALLOC_TEST_MSRV_RUSTC-}" ]; then
	rustc=$CIDALLOC_TEST_MSRV_RUSTC
elif rustc=$(rustup which --toolchain $msrv rustc 2>/dev/null); then
	:
elif [ "$(uname -m)" = x86_64 ] && grep -q '^VERSION_CODENAME=bookworm' /etc/os-release; then
	unpack_debian || { result FAIL "Debian's rustc $msrv could not be unpacked"; exit 1; }
	rustc=$wrapper
	targets=(--target x86_64-unknown-linux-gnu --target aarch64-unknown-linux-gnu)
else
	result skip "no rustc $msrv: set CIDALLOC_TEST_MSRV_RUSTC, or rustup toolchain install $msrv"
	exit 0
fi

version=$("$rustc" --version)
case $version in
"rustc $msrv."*) ;;
*) result FAIL "$rustc is '$version', not $msrv"; exit 1 ;;
esac
declared=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml | sort -u)
[ "$declared" = $msrv ] || result FAIL "Cargo.toml declares rust-version '$declared', this tests $msrv"

# Linked, not only checked: the library's asm is assembled by the compiler's
# own LLVM, and what it leaves undefined shows in the linked library only.
build "library and command build with ${version% (built*}" build --release --workspace
build "and without optimisation" build --workspace
if [ ${#targets[@]} -gt 0 ]; then
	build "root crate checks for x86_64 and aarch64" check -p cidalloc "${targets[@]}"
fi
build "tests check" check -p cidalloc --tests

# Every symbol must come from a libc: a library that lacks one still links,
# and then stops every program it is loaded into.
lib=$target/release/libcidalloc.so
if [ $failed = 0 ]; then
	if LD_PRELOAD=$lib /bin/sh -c 'exec /bin/echo preloaded' 2>&1 | grep -qx preloaded; then
		result ok "a program runs with that library preloaded"
	else
		result FAIL "a program with $lib preloaded"
		LD_PRELOAD=$lib /bin/echo preloaded 2>&1 | head -n 5 | sed 's/^/  /'
	fi
fi
exit $failed
