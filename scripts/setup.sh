#!/bin/sh
# Installs on Debian 12 what is missing of what building, testing and the demo need; `setup.sh build` only what building for the server
# of PG_CONFIG needs, for a machine that is to run ha_ext and no tests.
set -eu
what=${1:-all}
debian=/usr/lib/postgresql/15/bin/pg_config
server="postgresql-15 postgresql-server-dev-15"
tools="libclang-dev protobuf-compiler libprotobuf-dev pkg-config"
case $what in
    all)
        packages="$server $tools
openssl etcd-server etcd-client haproxy pgbouncer iproute2 nftables util-linux wrk python3-venv"
        ;;
    build)
        packages=$tools
        pg_config=${PG_CONFIG:-$debian}
        if [ "$pg_config" = "$debian" ]; then
            packages="$server $tools"
        elif [ ! -e "$("$pg_config" --includedir-server)/postgres.h" ]; then
            echo "setup: the development headers of the server of $pg_config are not there" >&2
            exit 1
        fi
        ;;
    *)
        echo "usage: $0 [all|build]" >&2
        exit 2
        ;;
esac

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
    case "$missing " in
        *" postgresql-15 "*)
            # Debian's package would create and start a server of its own.
            conf=/etc/postgresql-common/createcluster.conf
            mkdir -p "$(dirname "$conf")"
            if grep -qs '^create_main_cluster' "$conf"; then
                sed -i 's/^create_main_cluster.*/create_main_cluster = false/' "$conf"
            else
                echo 'create_main_cluster = false' >>"$conf"
            fi
            ;;
    esac
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    # shellcheck disable=SC2086 # A list of words.
    apt-get install -y -q --no-install-recommends -o Dpkg::Options::=--force-confold $missing
fi
if ! command -v cargo >/dev/null; then
    echo "setup: no cargo in PATH; install Rust (rust-version in Cargo.toml)" >&2
    exit 1
fi
