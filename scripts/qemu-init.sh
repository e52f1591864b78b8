#!/bin/busybox sh
# The first process of a guest of `make qemu-pause` and `make qemu-watchdog`: one node of a cluster, with the host's programs and a data directory in memory.
# The kernel's command line says which: ha.dir=DIRECTORY ha.address=ADDRESS/LENGTH ha.program=/path/of/ha_bootstrap
/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
word() { for w in $(cat /proc/cmdline); do case $w in "$1"=*) echo "${w#*=}" ;; esac; done; }
dir=$(word ha.dir)
while read -r module; do
    name=$(basename "$module" .ko)
    # ha.NAME=VALUE is a parameter of that module.
    insmod "$module" $(word "ha.$name")
done </modules
ip link set lo up
ip addr add "$(word ha.address)" dev eth0
ip link set eth0 up
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=262144 host /host || echo "guest: no root file system"
for place in proc sys dev; do mount -o bind /$place /host/$place; done
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
chmod 1777 /dev/shm
mount -o bind /dev/shm /host/dev/shm
mount -t tmpfs tmpfs /host/run
cp "/host$dir/node.yml" /node.yml
mount -t tmpfs -o size=900m tmpfs "/host$dir"
cp /node.yml "/host$dir/node.yml"
chroot /host chown -R postgres:postgres "$dir"
[ -e /dev/watchdog ] && chroot /host chown postgres:postgres /dev/watchdog
chroot /host chmod 750 "$dir"
# Whoever measures types here.
stty -F /dev/ttyS1 raw -echo
setsid sh </dev/ttyS1 >/dev/ttyS1 2>&1 &
echo "guest: up"
cd /
LC_ALL=C.UTF-8 HOME=$dir chroot /host /usr/bin/setpriv --reuid=postgres --regid=postgres --init-groups -- \
    "$(word ha.program)" run "$dir/node.yml" &
# What clients are refused is known to them.
log="$dir/.data.ha_ext/postgres.log"
while [ ! -e "/host$log" ]; do sleep 1; done
# The whole path: busybox would take its own.
chroot /host /bin/bash -c "tail -n +1 -F $log | grep --line-buffered -v -e ERROR: -e FATAL: -e STATEMENT: -e HINT: -e DETAIL:"
