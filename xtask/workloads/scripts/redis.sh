#!/bin/sh
# redis-server on a socket of its own, driven by redis-benchmark, which is not preloaded.
set -eu
dir=$(mktemp -d)
server=
trap 'kill $server 2>/dev/null || :; rm -rf "$dir"' EXIT
preload=${LD_PRELOAD-}
unset LD_PRELOAD
LD_PRELOAD=$preload /usr/bin/redis-server --port 0 --unixsocket "$dir/socket" --save '' \
	--daemonize no --dir "$dir" --logfile "$dir/log" &
server=$!
cli="/usr/bin/redis-cli -s $dir/socket"
until [ "$($cli ping 2>/dev/null)" = PONG ]; do sleep 0.01; done
from=$(date +%s%N)
bench="/usr/bin/redis-benchmark -s $dir/socket -q -c 20 -P 32 -r 50000"
$bench -n 150000 -d 100 -t set,get,lpush,sadd,hset >/dev/null
$bench -n 100000 -d 1500 -t set >/dev/null
to=$(date +%s%N)
echo "work_s $(((to - from) / 1000000))e-3"
awk '/VmHWM/ { print "peak_rss_kb", $2 } /VmRSS/ { print "end_rss_kb", $2 }' "/proc/$server/status"
[ "$($cli llen mylist)" -ge 150000 ]
$cli shutdown nosave
wait $server
echo "lists hold what was pushed"
