#!/bin/busybox sh
# The first process of a guest. It makes the surroundings that programs expect, runs
# /rig/command in $DIRECTORY, and tells by the device that $PORT matches how that went, each
# message on a line of its own that starts with $MARK:
#
#   begin         the command starts; what follows is what it writes
#   end STATUS    it has ended; what follows is the kernel's log
#   off           that was all
#
# The host does not wait for the guest to be switched off.
/bin/busybox --install -s /usr/bin 2>/dev/null
export PATH=/usr/bin HOME=/root USER=root TERM=dumb LANG=C.UTF-8

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/shm /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t devpts pts /dev/pts 2>/dev/null
# What a kernel does not have is done without.
mount -t debugfs debug /sys/kernel/debug 2>/dev/null
mount -t tracefs trace /sys/kernel/tracing 2>/dev/null
mount -t cgroup2 cgroup /sys/fs/cgroup 2>/dev/null
ln -sf /proc/self/fd /dev/fd
# What is below /tmp may have been copied from the host.
chmod 1777 /tmp
hostname guest
ip link set lo up 2>/dev/null

. /rig/settings
tries=50
until port=$(ls -d /dev/$PORT 2>/dev/null); do
	tries=$((tries - 1))
	if [ $tries = 0 ]; then
		echo "init: no /dev/$PORT among" /dev/*port* /dev/ttyS* >/dev/console
		poweroff -f
	fi
	sleep 0.1
done
case $PORT in tty*) stty raw -echo <"$port" ;; esac

# Through a pipe, as programs find in tests, and so that none can change the port.
{
	cd "$DIRECTORY" || cd /
	printf '%s begin\n' "$MARK"
	setsid sh /rig/command
	# It may have ended in the middle of a line.
	printf '\n%s end %d\n' "$MARK" $?
	dmesg
	printf '%s off\n' "$MARK"
} </dev/null 2>&1 | cat >"$port"
poweroff -f
