#!/bin/bash
# Builds ha_ext for PostgreSQL MAJOR, installs it into that server and runs the SQL tests, the supervisor's tests and the
# scenarios of tests/majors.txt there; `major.sh MAJOR NAME...` runs these scenarios instead.
set -euo pipefail
cd "$(dirname "$0")/.."
major=${1:?usage: $0 MAJOR [SCENARIO...]}
shift
cargo=${CARGO:-cargo}
pg_config=$(scripts/postgres.sh "$major")
out=target/pg$major
step() { printf -- '--- PostgreSQL %s: %s (%d s)\n' "$major" "$1" "$SECONDS"; }

step build
# In the one target directory: another feature means another pgrx and another ha_ext, everything else is shared.
PGRX_PG_CONFIG_PATH=$pg_config "$cargo" build --workspace --no-default-features --features "ha_ext/pg$major"
mkdir -p "$out"
cp target/debug/libha_ext.so target/debug/ha_bootstrap "$out/"
# What lies in target/debug is for 15 again; nothing is compiled for it.
"$cargo" build --workspace

step install
export PG_CONFIG=$pg_config
scripts/install.sh "$out/libha_ext.so"
status=0
scripts/headers.sh || status=1
step "SQL tests"
scripts/pg_regress.sh || status=1

# `make test` has just made the list; a run by hand makes it anew.
if [ -z "${HA_TESTS_LISTED:-}" ]; then
    step "tests"
    mkdir -p target/test-logs
    scripts/list-tests.sh >target/test-logs/tests.list
    export HA_TESTS_LISTED=1
fi
names=("$@")
if [ "${#names[@]}" -eq 0 ]; then
    while read -r pattern; do
        # Not quoted: a pattern. One that fits nothing is left as it is, and is a mistake if it is a plain name.
        for file in tests/tests/$pattern.rs; do
            case $file in *\**) continue ;; esac
            names+=("$(basename "$file" .rs)")
        done
    done < <(sed 's/#.*//; /^[[:space:]]*$/d' tests/majors.txt)
fi
if [ "$#" -eq 0 ]; then
    step "tests of the supervisor"
    scripts/run-tests.sh ha_bootstrap || status=1
fi
step "scenarios ${names[*]}"
HA_TESTS_LABEL=pg$major- scripts/end-to-end.sh "${names[@]}" || status=1
step "end, $(du -sm "$out" | cut -f1) MB in $out"
exit "$status"
