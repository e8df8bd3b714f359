#!/bin/sh
# startup.sh TIMES PROGRAM ARGUMENT...: runs it so many times, one after the other.
set -eu
times=$1
shift
while [ "$times" -gt 0 ]; do
	"$@" >/dev/null
	times=$((times - 1))
done
echo "all ran"
