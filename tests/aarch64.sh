#!/bin/bash
# Build for aarch64 with Debian's cross tools, and run what was built: under
# qemu's user mode, where no kernel gives us rseq, and in booted kernels.
#
# The compiler is Debian's rustc-web, with std for aarch64 out of the package
# of the same version, unpacked into the cache and never installed.
#
#   tests/aarch64.sh            all of it
#   tests/aarch64.sh --stage    only builds libraries, command and stress test
#
#   CIDALLOC_TEST_CACHE             keeps std, package lists, kernels; default ~/.cache/cidalloc
#   CIDALLOC_TEST_AARCH64_KERNELS   the kernels to boot; default "7.2"
set -u
cd "$(dirname "$(readlink -f "$0")")/.." || exit

triple=aarch64-unknown-linux-gnu
cross=aarch64-linux-gnu
libc=/usr/$cross
cache=${CIDALLOC_TEST_CACHE:-$HOME/.cache/cidalloc}
target=${CARGO_TARGET_DIR:-$PWD/target}/aarch64
kernels=${CIDALLOC_TEST_AARCH64_KERNELS:-7.2}
stage=$target/stage
failed=0

result() { # STATUS WHAT [WHY]
	echo "$1 aarch64: $2${3:+: $3}"
	[ "$1" != FAIL ] || failed=1
}

# ---------------------------------------------------------------- compiler
# A sysroot of two: the installed std for build scripts, the fetched one for
# what they build.
prepare_rustc() {
	local version root
	version=$(dpkg-query -W -f '${Version}' rustc-web) || return
	root=$cache/rust-aarch64-$version
	rustc=$root/rustc
	tests/setup.sh unpack arm64 "libstd-rust-web-dev=$version" "$root/arm64" || return
	mkdir -p "$root/sysroot/lib/rustlib" || return
	ln -sfn /usr/lib/rustlib/x86_64-unknown-linux-gnu "$root/sysroot/lib/rustlib/"
	ln -sfn "$root/arm64/usr/lib/rustlib/$triple" "$root/sysroot/lib/rustlib/"
	printf '#!/bin/sh\nexec /usr/bin/rustc --sysroot "%s/sysroot" "$@"\n' "$root" >"$rustc.tmp"
	chmod +x "$rustc.tmp" && mv "$rustc.tmp" "$rustc"
}

cross_cargo() {
	# The host's flags mean nothing for this target.
	env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_TARGET -u LD_PRELOAD RUSTC="$rustc" CARGO_TARGET_DIR="$target" \
		CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$cross-gcc cargo "$@" --release --target $triple
}

# ---------------------------------------------------------------- build
build() { # WHAT COMMAND...
	local what=$1 log=$target/log
	shift
	if "$@" >"$log" 2>&1; then
		result ok "$what"
	else
		result FAIL "$what"
		{ grep -A 12 -E '^error|undefined reference|: Error' "$log" || tail -n 30 "$log"; } | head -n 60 | sed 's/^/  /'
		return 1
	fi
}

# Builds the test programs of the root package and puts them into the stage
# under their plain names.
stage_tests() {
	local line name path
	# Optimised over crates, the tests' own dependencies take minutes.
	CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0 \
		cross_cargo test --no-run -p cidalloc --lib "$@" --message-format=json >"$target/messages" || return
	while read -r path; do
		name=$(basename "$path")
		$cross-strip -g -o "$stage/${name%-*}" "$path" || return
	done < <(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' "$target/messages")
}

# One program of tables of rules: to preload the library into, and static.
stage_rules() { # NAME COMPILER MAIN-TABLE SUFFIX
	local name=$1 compiler=$2 table=$3 suffix=$4 objects object source linked
	for linked in '' -DLINKED; do
		objects=()
		for source in tests/c/$table tests/c/*_rules.$suffix tests/c/runner.c tests/c/find.c; do
			object=$target/rules/$name-$(basename "$source")$linked.o
			case $source in
			*.cc) set -- $cross-g++ -std=c++17 ;;
			*) set -- $cross-gcc -std=gnu11 ;;
			esac
			"$@" $linked -O1 -fno-builtin -pthread -w -I ffi/include -c "$source" -o "$object" || return
			objects+=("$object")
		done
		if [ -z "$linked" ]; then
			$compiler "${objects[@]}" -pthread -rdynamic -o "$stage/$name" || return
		else
			$compiler "${objects[@]}" "$stage/libcidalloc.a" -static -pthread -o "$stage/$name-static" || return
		fi
	done
}

# ---------------------------------------------------------------- run
# The functions from here to `kernel_steps` run on the host and, copied with
# `declare -f`, in the guest, whose shell is busybox's.

# Runs a step: `start` runs its program with the variables named before it.
# Rules may be broken that are `excused`, between spaces.
step() { # WHAT [VARIABLE=VALUE]... PROGRAM [ARGUMENT]...
	what=$1
	shift
	start "$@" >step.log 2>&1 </dev/null
	status=$?
	broken=$(sed -n 's/^BROKEN *\([^ ]*\).*/\1/p' step.log)
	if [ $status = 1 ] && [ -n "$broken" ]; then
		status=0
		for rule in $broken; do
			case $excused in *" $rule "*) ;; *) status=1 ;; esac
		done
	fi
	if [ $status = 0 ]; then
		echo "ok aarch64: $where: $what${broken:+, but for the emulator: }$(echo $broken)"
	else
		echo "FAIL aarch64: $where: $what: status $status"
		grep -v '^kept ' step.log | tail -n 40 | sed 's/^/  /'
	fi
}

# The mode of the library in a program that only looks at its header.
mode_is() { # MODE [VARIABLE=VALUE]...
	due=$1
	shift
	rm -f stats.json
	step "a program runs ($due${1:+, $1})" "$@" CIDALLOC_STATS=json:stats.json ./header
	if grep -q "\"mode\":\"$due\"" stats.json 2>/dev/null; then
		echo "ok aarch64: $where: the mode is $due${1:+ with $1}"
	else
		echo "FAIL aarch64: $where: the mode is not $due${1:+ with $1}"
		[ ! -e stats.json ] || sed 's/"classes".*//; s/^/  /' stats.json
	fi
}

rules() {
	for name in rules-c rules-cxx; do
		step "$name, preloaded" LD_PRELOAD=./libcidalloc.so ./$name
		step "$name, static, in one process" ./$name-static --together
	done
}

# Without rseq there is one mode.  Programs cannot start themselves again: the
# tests' children are run directly, and rules that need a limited process fail.
user_steps() {
	excused=' new-handler-finds new-exhaustion constructor-throws '
	mode_is locked
	rules
	# A program cannot start itself here, and /proc/self/stat is qemu's, cut short.
	step "unit tests" ./cidalloc --skip spans_agree --skip the_break_lies
	step "unit test of spans" CIDALLOC_TEST_ALONE=1 ./cidalloc spans_agree
	step "histories" CIDALLOC_TEST_MODE=locked CIDALLOC_TEST_CASES=10 ./history --exact child_runs_histories --ignored
	step "stress" CIDALLOC_TEST_MODE=locked CIDALLOC_TEST_SECONDS=4 ./stress --exact child_scenes --ignored
}

# What is given back or protected is whole OS pages, however large the system
# says that they are: every call is looked at.
page_steps() { # BYTES
	local address length
	what="memory in OS pages of $1 bytes"
	timeout 300 qemu-aarch64-static -strace -p "$1" -L $libc -E CIDALLOC_DECAY_MS=0 -E CIDALLOC_THP_AFTER=4M \
		./refusals >step.log 2>calls </dev/null || { echo "FAIL aarch64: $where: $what"; tail -n 5 calls; return; }
	sed -n 's/.*\(madvise\|mprotect\)(0x\([0-9a-f]*\),\([0-9]*\),.*/\2 \3/p' calls |
		while read -r address length; do
			[ $((16#$address % $1)) = 0 ] && [ $((length % $1)) = 0 ] || echo "$address $length"
		done >odd
	if [ ! -s odd ] && [ "$(grep -ac MADV_DONTNEED calls)" -ge 10 ]; then
		echo "ok aarch64: $where: $what"
	else
		echo "FAIL aarch64: $where: $what: calls on parts of pages, or too few"
		head -n 5 odd
	fi
}

# Planted faults prove the model, not the kernel: they run on the host.
kernel_steps() {
	excused=
	mode_is rseq
	mode_is rseq CIDALLOC_INDEX=cpu_id
	mode_is rseq GLIBC_TUNABLES=glibc.pthread.rseq=0
	mode_is locked CIDALLOC_RSEQ=off
	rules
	step "unit tests" ./cidalloc
	step "refused calls" CIDALLOC_DECAY_MS=0 ./refusals half-way from:1 from:1,membarrier rate:3
	step "histories" CIDALLOC_TEST_CASES=10 ./history --skip planted
	step "stress" CIDALLOC_TEST_STRESS_SECONDS=4 ./stress blocks_are_conserved
	step "sections aborted at each instruction" CIDALLOC_TEST_STAGE=. ./aborts nothing_is_lost_by_m --test-threads=2
}

run_in_qemu() {
	(
		where="qemu-user"
		cd "$stage" || exit
		# The library would complain about variables that are not its own.
		unset "${!CIDALLOC_@}"
		start() {
			set=()
			while [[ $1 == *=* ]]; do
				set+=(-E "$1")
				shift
			done
			timeout 600 qemu-aarch64-static -L $libc "${set[@]}" "$@"
		}
		user_steps
		page_steps 16384
		page_steps 65536
	) | tee "$target/steps"
	! grep -q ^FAIL "$target/steps" || failed=1
}

run_in_kernel() { # KERNEL
	local kernel=$1 log=$target/vm.log status
	{
		echo '#!/bin/sh'
		declare -f step mode_is rules kernel_steps
		echo 'start() { env "$@"; }'
		# Tests write where cargo said they may.
		echo "where='kernel $kernel'; mkdir -p '$target/$triple/tmp'; kernel_steps; echo finished"
	} >"$stage/steps"
	chmod +x "$stage/steps"
	cargo xtask vm boot --kernel "$kernel" --arch aarch64 --libc 2.41 --memory 2G --timeout 1500 \
		--share "$stage" -- ./steps 2>"$log" | tee "$target/steps" | grep --line-buffered -v '^finished$'
	status=${PIPESTATUS[0]}
	if [ "$status" = 77 ]; then
		result skip "kernel $kernel: NOT RUN, so never with rseq" "$(tail -n 1 "$log")"
	elif ! grep -q '^finished$' "$target/steps"; then
		result FAIL "kernel $kernel: it ended early, status $status"
		tail -n 40 "$log" | sed 's/^/  /'
	fi
	! grep -q ^FAIL "$target/steps" || failed=1
}

# ---------------------------------------------------------------- main
if [ "$(uname -m)" != x86_64 ] || ! command -v dpkg-query >/dev/null; then
	result skip "needs x86_64 Debian"
	exit 0
fi
for tool in /usr/bin/rustc $cross-gcc $cross-g++ qemu-aarch64-static; do
	command -v $tool >/dev/null || { result FAIL "no $tool" "run tests/setup.sh"; exit 1; }
done
rm -rf "$stage"
mkdir -p "$stage" "$target/rules" || exit
prepare_rustc || { result FAIL "std for aarch64"; exit 1; }

build "libraries and command build with $("$rustc" --version | cut -d' ' -f1,2)" \
	cross_cargo build -p cidalloc-ffi -p cidalloc-cli || exit
cp "$target/$triple/release/"{libcidalloc.so,libcidalloc.a,cidalloc} "$stage/"
mv "$stage/cidalloc" "$stage/command"
if [ "${1-}" = --stage ]; then
	build "stress test builds" stage_tests --test stress
	exit $failed
fi
build "tests build" stage_tests --test history --test stress --test aborts || exit
build "rules in C build" stage_rules rules-c $cross-gcc tables_c.c c || exit
build "rules in C++ build" stage_rules rules-cxx $cross-g++ tables_cxx.c cc || exit
build "driver of the aborts" $cross-gcc -std=gnu11 -O1 -fno-builtin -pthread -w -I ffi/include tests/c/abort_driver.c -o "$stage/abort_driver" || exit
build "refusals" $cross-gcc -O1 -fno-builtin -pthread -I ffi/include tests/c/refusals.c -L "$stage" -lcidalloc "-Wl,-rpath,\$ORIGIN" -o "$stage/refusals" || exit
build "header" $cross-gcc -I ffi/include tests/c/header.c -L "$stage" -lcidalloc "-Wl,-rpath,\$ORIGIN" -o "$stage/header" || exit

# The golden instruction mix, of the binaries just built.
fast_path() {
	CIDALLOC_TEST_AARCH64_DIR=$target/$triple/release cargo test --profile checked --test fast_path aarch64
}
build "fast paths are as recorded" fast_path

run_in_qemu

for kernel in $kernels; do
	run_in_kernel "$kernel"
done
exit $failed
