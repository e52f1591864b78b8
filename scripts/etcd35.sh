#!/bin/bash
# Prints the path of an etcd 3.5 server. Fetches it from the Debian mirror this machine uses the first time; the
# package is unpacked under target/, nothing is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
version=3.5.30-2
suite=forky
cache=$PWD/target/etcd-$version
if [ ! -x "$cache/usr/bin/etcd" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work"/etc/apt/{preferences.d,apt.conf.d} "$work"/var/lib/apt/lists/partial \
        "$work"/var/cache/apt/archives/partial "$work"/var/lib/dpkg
    : >"$work/var/lib/dpkg/status"
    mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -m1 'debian/$') || {
        echo "no Debian mirror in the apt configuration of this machine" >&2
        exit 1
    }
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$keys] ${mirror%/} $suite main" >"$work/etc/apt/sources.list"
    cat >"$work/apt.conf" <<CONF
Dir "$work";
Dir::State::status "$work/var/lib/dpkg/status";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";
APT::Architecture "$(dpkg --print-architecture)";
APT::Sandbox::User "root";
CONF
    export APT_CONFIG=$work/apt.conf
    apt-get -qq -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none update >&2
    (cd "$work" && apt-get -qq download "etcd-server=$version" >&2)
    # Unpacked aside and renamed, so that two callers at once do no harm.
    mkdir -p "$PWD/target"
    unpacked=$(mktemp -d "$PWD/target/etcd-new.XXXXXX")
    dpkg-deb -x "$work"/etcd-server_*.deb "$unpacked"
    mv -T "$unpacked" "$cache" 2>/dev/null || rm -rf "$unpacked"
fi
# Not through a pipe: grep would leave before etcd has said all, and etcd would fail for it.
case $("$cache/usr/bin/etcd" --version) in
*"etcd Version: 3.5."*) ;;
*)
    echo "$cache/usr/bin/etcd does not run as etcd 3.5" >&2
    exit 1
    ;;
esac
echo "$cache/usr/bin/etcd"
