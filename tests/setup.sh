#!/bin/bash
# Install, or only fetch, the Debian packages that the tests use.
#
#   tests/setup.sh
#       As root, install what is missing.  Otherwise name what is missing and
#       the command that installs it, and fail.  When everything is there,
#       nothing is done and no network is used.
#   tests/setup.sh also PACKAGE...
#       The same for other packages.
#   tests/setup.sh unpack ARCH PACKAGE[=VERSION|/RELEASE] DIR
#       Download one package for ARCH (amd64, arm64) and unpack it into DIR.
#       Nothing is installed, no root is needed; done already, it does nothing.
#
# CIDALLOC_TEST_CACHE (default ~/.cache/cidalloc) keeps package lists.
set -u

cache=${CIDALLOC_TEST_CACHE:-$HOME/.cache/cidalloc}
packages=(
	git perl python3 g++ binutils
	musl-tools                    # a libc that registers no rseq
	rustc-web                     # a rustc whose std exists for aarch64, too
	gcc-aarch64-linux-gnu g++-aarch64-linux-gnu binutils-aarch64-linux-gnu libc6-dev-arm64-cross
	qemu-user-static              # aarch64 programs, without rseq
	redis-server redis-tools      # programs to preload the library into
	sqlite3 lua5.4 php-cli
)
command -v node >/dev/null || packages+=(nodejs)

installed() {
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Run a command quietly; show the end of what it said only when it fails.
quietly() {
	local log status=0
	log=$(mktemp) || return
	"$@" >"$log" 2>&1 </dev/null || { status=$?; tail -n 20 "$log" | sed 's/^/  /' >&2; }
	rm -f "$log"
	return $status
}

# ---------------------------------------------------------------- install
# apt-get install, without starting services: maintainer scripts start them
# through invoke-rc.d, which asks policy-rc.d, and 101 forbids it.  A policy
# that is there already is the machine's own and stays.
install() {
	local policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		trap "rm -f $policy" EXIT
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod 755 $policy
	fi
	export DEBIAN_FRONTEND=noninteractive
	local apt=(apt-get -q -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3)
	# The lists may be absent, or name versions that the archive has replaced:
	# only then are they updated.
	"${apt[@]}" install --no-install-recommends "$@" >/dev/null 2>&1 </dev/null && return
	quietly "${apt[@]}" update && quietly "${apt[@]}" install --no-install-recommends "$@"
}

main() {
	if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
		echo "skip setup: no apt-get; on Debian it would install ${packages[*]}"
		return 0
	fi
	local p missing=()
	for p in "${packages[@]}"; do
		installed "$p" || missing+=("$p")
	done
	if [ ${#missing[@]} -eq 0 ]; then
		echo "ok setup: all ${#packages[@]} packages are installed"
	elif [ "$(id -u)" -ne 0 ]; then
		echo "FAIL setup: missing packages; install them as root:"
		echo "  apt-get install --no-install-recommends ${missing[*]}"
		return 1
	elif install "${missing[@]}"; then
		echo "ok setup: installed ${missing[*]}"
	else
		echo "FAIL setup: apt-get could not install ${missing[*]}"
		return 1
	fi
}

# ---------------------------------------------------------------- unpack
# apt-get for another architecture, with lists of its own, so that the host's
# are neither needed nor touched.
foreign_apt() {
	local arch=$1 d=$cache/apt-$1
	shift
	apt-get -q -o APT::Architecture="$arch" -o APT::Architectures::="$arch" \
		-o Dir::State::Lists="$d/lists" -o Dir::Etc::SourceList="$d/sources.list" \
		-o Dir::Etc::SourceParts=/dev/null -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
		-o APT::Sandbox::User= -o Acquire::Retries=3 "$@"
}

foreign_update() {
	local arch=$1 d=$cache/apt-$1
	mkdir -p "$d/lists/partial" || return
	# The host's own mirrors of its Debian release, whatever they are.
	apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
		awk '$2 ~ /^[a-z]+(-security|-updates)?$/ && $3 == "main" && $1 ~ /debian/ {
			print "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]", $1, $2, $3 }' |
		sort -u >"$d/sources.list"
	if [ ! -s "$d/sources.list" ]; then
		echo "no Debian release among apt's sources" >&2
		return 1
	fi
	quietly foreign_apt "$arch" update
}

unpack() {
	local arch=$1 package=$2 dir=$3 stamp deb
	stamp=$dir/.unpacked-${package//[^a-zA-Z0-9.+-]/_}-$arch
	[ -e "$stamp" ] && return
	mkdir -p "$dir/download" || return
	cd "$dir/download" || return
	rm -f -- *.deb
	# As for install: update the lists only if they are absent or old.
	{ [ -s "$cache/apt-$arch/sources.list" ] && foreign_apt "$arch" download "$package" >/dev/null 2>&1; } ||
		{ foreign_update "$arch" && quietly foreign_apt "$arch" download "$package"; } || {
		echo "cannot download $package for $arch" >&2
		return 1
	}
	for deb in *.deb; do
		dpkg-deb -x "$deb" "$dir" || return
	done
	cd "$dir" && rm -rf download && touch "$stamp"
}

case ${1-} in
'') main ;;
also) shift && packages=("$@") && main ;;
unpack) shift && unpack "$@" ;;
*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
