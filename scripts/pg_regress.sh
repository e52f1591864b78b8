#!/bin/bash
# SQL regression tests on a temporary server that preloads the installed extension, as user postgres.
# `pg_regress.sh NAME...` runs only these.
set -euo pipefail
cd "$(dirname "$0")/.."
pg_config=${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}
# Always the one of 15: it is the same for all majors, and the one in the wheel of 18 does not run.
program=/usr/lib/postgresql/15/lib/pgxs/src/test/regress/pg_regress
names=("$@")
if [ "${#names[@]}" -eq 0 ]; then
    for file in pg_regress/sql/*.sql; do names+=("$(basename "$file" .sql)"); done
fi

# A directory that user postgres can enter: the checkout need not be one.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r pg_regress/sql pg_regress/expected "$work/"
cat >"$work/temp.conf" <<'CONF'
shared_preload_libraries = 'ha_ext'
fsync = off
CONF
[ -f pg_regress/temp.conf ] && cat pg_regress/temp.conf >>"$work/temp.conf"
as_postgres=()
if [ "$(id -u)" = 0 ]; then
    chown -R postgres "$work"
    as_postgres=(setpriv --reuid=postgres --regid=postgres --init-groups --)
fi
status=0
(cd "$work" && "${as_postgres[@]}" "$program" --temp-instance="$work/server" --temp-config="$work/temp.conf" \
    --bindir="$("$pg_config" --bindir)" --inputdir="$work" --outputdir="$work" --no-locale --encoding=UTF8 \
    "${names[@]}") || status=$?
if [ "$status" -ne 0 ]; then
    cat "$work/regression.diffs" 2>/dev/null || tail -40 "$work"/log/*.log
fi
exit "$status"
