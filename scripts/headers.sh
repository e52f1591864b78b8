#!/bin/sh
# Holds what src/pg declares by hand against the headers of the server that PG_CONFIG names.
set -eu
cd "$(dirname "$0")/.."
exec cc -fsyntax-only -Wall -Werror \
    -I "$("${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}" --includedir-server)" tests/headers.c
