#!/bin/bash
# The scenarios on real clusters; a few programs side by side, since each is mostly waiting.
# `end-to-end.sh NAME...` runs only these. PG_CONFIG names the server, HA_TESTS_LABEL begins the names of the logs.
set -uo pipefail
cd "$(dirname "$0")/.."
threads=${HA_TESTS_THREADS:-3}
mkdir -p target/test-logs
list=target/test-logs/tests.list
# `make test` has just made the list; a run by hand makes it anew.
if [ -z "${HA_TESTS_LISTED:-}" ]; then scripts/list-tests.sh >"$list" || exit 1; fi
names=("$@")
if [ "${#names[@]}" -eq 0 ]; then
    for file in tests/tests/*.rs; do names+=("$(basename "$file" .rs)"); done
fi

export list
run() {
    local since=$SECONDS status log=$PWD/target/test-logs/scenario-${HA_TESTS_LABEL:-}$1.log program
    program=$(awk -v name="$1" '$1 == "ha_tests" && $2 == name { print $3 }' "$list")
    if [ -z "$program" ]; then
        echo "scenario ${HA_TESTS_LABEL:-}$1: FAILED, there is no such program"
        return 1
    fi
    (cd tests && "$program" --nocapture --test-threads 1) >"$log" 2>&1 </dev/null
    status=$?
    if [ "$status" -eq 0 ]; then
        echo "scenario ${HA_TESTS_LABEL:-}$1: ok, $((SECONDS - since)) s"
    else
        echo "scenario ${HA_TESTS_LABEL:-}$1: FAILED, $((SECONDS - since)) s; the end of $log:"
        grep -v '^$' "$log" | cut -c1-400 | tail -80
    fi
    grep -E '^test result' "$log"
    return "$status"
}
export -f run
printf '%s\n' "${names[@]}" | xargs -P "$threads" -I{} bash -c 'run "$1"' _ {}
