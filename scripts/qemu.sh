#!/bin/bash
# Gets what `make qemu-pause` needs into target/qemu: QEMU, a Debian kernel, and a first root file system that mounts this machine's
# own files read-only. Packages are unpacked there, not installed: nothing on this machine is changed.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD/target/qemu
tools=$work/tools
mkdir -p "$work"

say() { echo "qemu.sh: $*" >&2; }

# unpack DIRECTORY PACKAGE...
unpack() {
    local to=$1 deb
    shift
    rm -rf "$work/debs" "$to"
    mkdir -p "$work/debs" "$to"
    (cd "$work/debs" && apt-get download -qq "$@" >&2)
    for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$to"; done
    rm -rf "$work/debs"
}

if [ ! -e "$work/ready" ]; then
    if ! apt-cache show qemu-system-x86 >/dev/null 2>&1; then apt-get update -qq >&2; fi
    # What an installation would add here; it is only asked.
    packages=$(apt-get install -s --no-install-recommends qemu-system-x86 busybox-static kmod cpio | sed -n 's/^Inst \([^ ]*\).*/\1/p')
    kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
    say "unpacking QEMU and ${kernel:?no linux-image-amd64 in the apt configuration of this machine}"
    # shellcheck disable=SC2086 # A list of words.
    [ -z "$packages" ] || unpack "$tools" $packages
    unpack "$work/kernel" "$kernel"
    cp "$work"/kernel/boot/vmlinuz-* "$work/vmlinuz"
    touch "$work/ready"
fi
export PATH=$tools/usr/bin:$tools/usr/sbin:$tools/sbin:$tools/bin:$PATH
export LD_LIBRARY_PATH=$tools/usr/lib/x86_64-linux-gnu:$tools/lib/x86_64-linux-gnu
# Its firmware comes in a package of its own.
cat >"$work/qemu" <<QEMU
#!/bin/sh
export LD_LIBRARY_PATH=$LD_LIBRARY_PATH
PATH=$tools/usr/bin:\$PATH exec qemu-system-x86_64 -L $tools/usr/share/qemu -L $tools/usr/share/seabios -L /usr/share/qemu -L /usr/share/seabios "\$@"
QEMU
chmod 755 "$work/qemu"

# The programs of kmod are one, by its name.
kmod=$(PATH=$PATH:/usr/sbin:/sbin command -v kmod)
as() { (name=$1 && shift && exec -a "$name" "$kmod" "$@"); }
release=$(basename "$work"/kernel/lib/modules/*)
[ -e "$work/kernel/lib/modules/$release/modules.dep" ] || as depmod -b "$work/kernel" "$release"
root=$work/root
rm -rf "$root"
mkdir -p "$root"/{bin,proc,sys,dev,host}
cp "$(command -v busybox)" "$root/bin/busybox"
# In the order in which they are loaded.
: >"$root/modules"
for module in virtio_pci virtio_net 9pnet_virtio 9p virtio_rng i6300esb; do
    # What is built in has no file.
    as modprobe -d "$work/kernel" -S "$release" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
done | awk '!seen[$0]++' | while read -r file; do
    name=$(basename "$file")
    case $name in
    *.xz) xz -dc "$file" >"$root/${name%.xz}"; name=${name%.xz} ;;
    *) cp "$file" "$root/$name" ;;
    esac
    echo "/$name" >>"$root/modules"
done
cp scripts/qemu-init.sh "$root/init"
chmod 755 "$root/init"
(cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$work/initramfs"
echo "$work"
