#!/bin/bash
# Shows of every guard of the fence that a test fails without it: servers of a debug build are started without that guard, and the
# test that tests/fence_guards.txt names must fail. Before that the same tests must pass. Writes docs/fence-guards.md when all are run.
# usage: scripts/fence-mutants.sh [GUARD...]      HA_TESTS_THREADS=2 HA_TESTS_LISTED=1
set -uo pipefail
cd "$(dirname "$0")/.."
list=target/test-logs/tests.list
logs=target/test-logs/mutants
mkdir -p "$logs"
rm -f "$logs"/*
if [ -z "${HA_TESTS_LISTED:-}" ]; then scripts/list-tests.sh >"$list" || exit 1; fi
export list logs

# field TEXT NUMBER: a column of a line, without the blanks around it.
field() { awk -F ' *[|] *' -v n="$2" '{ print $n }' <<<"$1"; }

# scenario NAME WHICH LOG: one row of the matrix, or one test.
scenario() {
    local program
    program=$(awk -v name="$1" '$1 == "ha_tests" && $2 == name { print $3 }' "$list")
    if [ -z "$program" ]; then
        echo "there is no scenario $1"
        return 2
    fi
    if [ "$1" = fence_matrix ]; then
        (cd tests && HA_TESTS_EFFECT=$2 timeout 300 "$program" --nocapture --test-threads 1)
    else
        (cd tests && timeout 300 "$program" --exact "$2" --nocapture --test-threads 1)
    fi >"$3" 2>&1 </dev/null
}

# The whole server works without the mutation.
control() {
    local log
    log=$logs/control-$(tr -c 'a-zA-Z0-9\n' _ <<<"$1")
    if scenario "$(field "$1" 1)" "$(field "$1" 2)" "$log" && grep -q '^test result: ok. 1 passed' "$log"; then return 0; fi
    echo "BROKEN without any mutation: $1, log in $log"
    return 1
}

mutant() {
    local guard name which log why
    guard=$(field "$1" 1)
    name=$(field "$1" 2)
    which=$(field "$1" 3)
    log=$logs/$guard
    HA_TESTS_WITHOUT=$guard scenario "$name" "$which" "$log"
    # By the test itself, not because it could not be run.
    if grep -q '^test result: FAILED. 0 passed; 1 failed' "$log"; then
        why=$(grep -A2 'panicked at' "$log" | grep -v 'panicked at' | tr '\n' ' ' | cut -c1-160)
        echo "caught    $guard: $name, $which: $why"
    else
        echo "SURVIVED  $guard: $name, $which, log in $log"
        return 1
    fi
}
export -f field scenario control mutant

each() { xargs -d '\n' -P "${HA_TESTS_THREADS:-2}" -I{} bash -c "$1"' "$1"' _ {}; }
wanted=$(grep -v '^#' tests/fence_guards.txt)
if [ "$#" -gt 0 ]; then wanted=$(awk -F ' *[|] *' -v names=" $* " 'index(names, " " $1 " ")' <<<"$wanted"); fi
status=0
echo "==> without any mutation"
awk -F ' *[|] *' '{ print $2 " | " $3 }' <<<"$wanted" | sort -u | each control || status=1
[ "$status" -eq 0 ] || exit 1
echo "==> mutants"
each mutant <<<"$wanted" | tee "$logs/result" || status=1
grep -c ^caught "$logs/result" | sed 's/$/ caught/'
if grep ^SURVIVED "$logs/result"; then status=1; fi
if [ "$#" -eq 0 ] && [ "$status" -eq 0 ]; then
    {
        printf '# The guards of the fence, and the tests that need them\n\n'
        printf 'Written by `make fence-mutants`: servers of a debug build are started without one guard each (`ha_ext.debug_without`), and the\n'
        printf 'test in the last column fails. In quotation marks: a row of [fence.md](fence.md), judged by `fence_matrix`.\n\n'
        printf '| guard | what it does | what fails without it |\n|---|---|---|\n'
        awk -F ' *[|] *' '{ where = $2 == "fence_matrix" ? "\"" $3 "\"" : "`" $2 ".rs`, `" $3 "`"
                            print "| `" $1 "` | " $4 " | " where " |" }' <<<"$wanted"
    } >docs/fence-guards.md
fi
exit "$status"
