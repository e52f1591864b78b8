#!/bin/bash
# Everything CI runs, phase by phase, with timings; `test.sh lint` only the first part. A failed phase does not hide the
# results of the later ones, except when nothing can be built.
set -uo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
logs=target/test-logs
mkdir -p "$logs"
begun=$SECONDS
passed=0
failed=0
failures=()

# phase NAME COMMAND...: runs it with its output shown and kept, and counts its tests (or itself as one).
phase() {
    local name=$1 log=$logs/$1.log since=$SECONDS status ok bad
    shift
    printf '\n==> %s (%d s)\n' "$name" "$((SECONDS - begun))"
    "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    ok=$(sed -n 's/^test result: .* \([0-9]*\) passed; .*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
    bad=$(sed -n 's/^test result: .* \([0-9]*\) failed; .*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
    if [ "$status" -eq 0 ] && [ "$ok" -eq 0 ]; then ok=1; fi
    if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    passed=$((passed + ok))
    failed=$((failed + bad))
    if [ "$status" -eq 0 ]; then
        printf '<== %s: ok, %d passed, %d s\n' "$name" "$ok" "$((SECONDS - since))"
    else
        failures+=("$name")
        printf '<== %s: FAILED, log in %s, %d s\n' "$name" "$log" "$((SECONDS - since))"
    fi
    return "$status"
}

# behind NAME COMMAND...: begins it with what the processors have left, beside phases that mostly wait; `phase NAME awaited NAME` waits for
# its end. Where the kernel weighs sessions (autogroup), its own session is made light.
behind() {
    local name=$1
    shift
    rm -f "$logs/$name.end"
    setsid bash -c 'echo 19 >/proc/self/autogroup; chrt --idle --pid 0 $$; log=$1; shift; "$@" >"$log.out" 2>&1; echo $? >"$log.end"' \
        _ "$logs/$name" "$@" </dev/null >/dev/null 2>&1 &
    session=$!
    trap '[ -e "$logs/'"$name"'.end" ] || kill -- "-$session"' EXIT
}

awaited() {
    while [ ! -e "$logs/$1.end" ] && kill -0 "$session" 2>/dev/null; do sleep 1; done
    cat "$logs/$1.out"
    return "$(cat "$logs/$1.end" || echo 1)"
}

finish() {
    printf '\n'
    if [ "$failed" -gt 0 ]; then
        grep -hE '^(test .* \.\.\. |scenario .*)FAILED' "$logs"/*.log | sort -u
        printf 'failed: %s\n' "${failures[*]}"
    fi
    printf '%d passed, %d failed (%d s)\n' "$passed" "$failed" "$((SECONDS - begun))"
    [ "$failed" -eq 0 ]
    exit
}

rm -f "$logs"/*.log
phase setup scripts/setup.sh || finish
phase format "$cargo" fmt --all --check
phase clippy "$cargo" clippy --workspace --all-targets --features ha_core/sim -- -D warnings
RUSTDOCFLAGS="-D warnings" phase documentation "$cargo" doc --workspace --no-deps
[ "${1:-all}" = lint ] && finish

# One build of everything: asking for single packages would compile the dependencies again with other features.
list_tests() { scripts/list-tests.sh >"$logs/tests.list"; }
phase build "$cargo" build --workspace --all-targets || finish
phase build-tests list_tests || finish
export HA_TESTS_LISTED=1
phase install scripts/install.sh || finish
phase clean scripts/clean-tests.sh
# The golden tables, and some of the simulator with debug assertions; its world is behind a feature of its own.
SIM_SEEDS=200 phase core "$cargo" test -p ha_core --features sim -- --skip every_mutant_is_caught
SIM_SEEDS=2000 behind simulator "$cargo" test --profile simulator -p ha_core --features sim --test seeds --test mutants --test regressions -- --nocapture
# Mostly waiting for leases to end.
RUST_TEST_THREADS=6 phase dcs scripts/run-tests.sh ha_dcs
phase node scripts/run-tests.sh ha_node
phase bootstrap scripts/run-tests.sh ha_bootstrap
phase headers scripts/headers.sh
phase regress scripts/pg_regress.sh
phase patroni scripts/patroni.sh
phase harness scripts/run-tests.sh ha_tests/ha_tests ha_tests/bench ha_tests/demo ha_tests/chaos
phase end-to-end scripts/end-to-end.sh
phase simulator awaited simulator
# Always the same schedule; `make chaos` draws another one each time.
phase chaos target/debug/chaos --seed 36 --rounds 6
# The fence and the changes of role on the other majors.
for major in ${HA_TEST_MAJORS-16 17 18}; do phase "majors-$major" scripts/major.sh "$major"; done
phase clean-after scripts/clean-tests.sh
finish
