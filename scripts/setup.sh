#!/bin/sh
# Installs what building, testing and the demo need on Debian 12, and nothing when it is there already.
set -eu
packages="postgresql-15 postgresql-server-dev-15 libclang-dev protobuf-compiler libprotobuf-dev pkg-config
openssl etcd-server etcd-client haproxy pgbouncer iproute2 nftables util-linux wrk python3-venv"

missing=""
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "setup: as root, install:$missing" >&2
        exit 1
    fi
    echo "setup: installing$missing"
    # Debian's package would create and start a server of its own.
    conf=/etc/postgresql-common/createcluster.conf
    mkdir -p "$(dirname "$conf")"
    if grep -qs '^create_main_cluster' "$conf"; then
        sed -i 's/^create_main_cluster.*/create_main_cluster = false/' "$conf"
    else
        echo 'create_main_cluster = false' >>"$conf"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    # shellcheck disable=SC2086 # A list of words.
    apt-get install -y -q --no-install-recommends -o Dpkg::Options::=--force-confold $missing
fi
if ! command -v cargo >/dev/null; then
    echo "setup: no cargo in PATH; install Rust (rust-version in Cargo.toml)" >&2
    exit 1
fi
