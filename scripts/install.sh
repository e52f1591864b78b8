#!/bin/sh
# Installs the built extension into the server that pg_config names, and the supervisor into PREFIX/bin.
# usage: scripts/install.sh [libha_ext.so]      PG_CONFIG=/path/to/pg_config PREFIX=/usr/local DESTDIR=/tmp/package
set -eu
cd "$(dirname "$0")/.."
library=${1:-target/debug/libha_ext.so}
pg_config=${PG_CONFIG:-${PGRX_PG_CONFIG_PATH:-pg_config}}
libdir=${DESTDIR:-}$("$pg_config" --pkglibdir)
extdir=${DESTDIR:-}$("$pg_config" --sharedir)/extension

# A running server has the old file mapped: writing into it would crash that server, a rename does not.
place() { # source, target
    temporary=$2.new.$$
    cp "$1" "$temporary"
    chmod "$3" "$temporary"
    mv -f "$temporary" "$2"
}

mkdir -p "$libdir" "$extdir"
place "$library" "$libdir/ha_ext.so" 755
place ha_ext.control "$extdir/ha_ext.control" 644
for script in sql/ha_ext--*.sql; do
    place "$script" "$extdir/$(basename "$script")" 644
done

bindir=${DESTDIR:-}${PREFIX:-/usr/local}/bin
mkdir -p "$bindir"
place "$(dirname "$library")/ha_bootstrap" "$bindir/ha_bootstrap" 755
