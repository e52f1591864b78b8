#!/bin/bash
# The scenarios on real clusters, one line each; a few clusters at a time, since each is mostly waiting.
# `end-to-end.sh NAME...` runs only these.
set -uo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
threads=${HA_TESTS_THREADS:-3}
names=("$@")
if [ "${#names[@]}" -eq 0 ]; then
    for file in tests/tests/*.rs; do names+=("$(basename "$file" .rs)"); done
fi
flags=(--lib --bins)
for name in "${names[@]}"; do flags+=(--test "$name"); done
"$cargo" build -q -p ha_tests "${flags[@]}" || exit 1

# Each scenario is a program of its own, so the programs run side by side and not only the tests within one.
export cargo
run() {
    local since=$SECONDS status log=target/test-logs/scenario-$1.log
    "$cargo" test -p ha_tests --test "$1" -- --nocapture --test-threads 1 >"$log" 2>&1
    status=$?
    grep -E '^test |^test result' "$log"
    if [ "$status" -eq 0 ]; then
        echo "scenario $1: ok, $((SECONDS - since)) s"
    else
        echo "scenario $1: FAILED, $((SECONDS - since)) s; log in $log; its end:"
        grep -v '^$' "$log" | tail -60
    fi
    return "$status"
}
export -f run
mkdir -p target/test-logs
"$cargo" test -q -p ha_tests --lib --bins
harness=$?
printf '%s\n' "${names[@]}" | xargs -P "$threads" -I{} bash -c 'run "$1"' _ {}
scenarios=$?
[ "$harness" -eq 0 ] && [ "$scenarios" -eq 0 ]
