#!/bin/sh
# History, differences, blame and packing of the repository prepared by inputs.sh.
set -eu
cd "$1"
export GIT_CONFIG_NOSYSTEM=1 HOME=/nonexistent
[ "$(git rev-list --count HEAD)" = 400 ]
git log -p --no-color --stat | cksum
git rev-list --objects --all | cksum
git blame -s -- file7.txt | cksum
git rev-list --objects --all | git pack-objects --threads=1 --no-reuse-delta --window=10 --stdout -q | wc -c | grep -q .
