#!/bin/sh
# Removes what interrupted test runs left: processes, mounts, shared memory, network namespaces and directories whose owner is gone.
set -u
base="${HA_TESTS_DIR:-${TMPDIR:-/tmp}}"
gone() { ! kill -0 "$1" 2>/dev/null; }

for dir in "$base"/ha_tests.[0-9]*; do
    [ -d "$dir" ] || continue
    owner=${dir#"$base"/ha_tests.}
    owner=${owner%%.*}
    gone "$owner" || continue
    for cwd in /proc/[0-9]*/cwd; do
        case "$(readlink "$cwd" 2>/dev/null)/" in
        "$dir"/*)
            pid=${cwd#/proc/}
            kill -KILL "${pid%/cwd}" 2>/dev/null
            ;;
        esac
    done
    awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | while read -r mount; do umount -l "$mount"; done
    rm -rf "$dir"
done
# A killed server leaves its System V segment, and there are 4096 of them for all.
if command -v ipcs >/dev/null; then
    unattached=$(ipcs -m | awk '$6 == 0 { print $2 }')
    ipcs -mp | awk '$2 == "postgres" { print $1, $3 }' | while read -r segment creator; do
        gone "$creator" && echo "$unattached" | grep -qx "$segment" && ipcrm -m "$segment" 2>/dev/null
    done
fi
if command -v ip >/dev/null; then
    ip netns list 2>/dev/null | awk '{ print $1 }' | while read -r name; do
        case "$name" in
        hx[0-9]*-*)
            owner=${name#hx}
            gone "${owner%%-*}" && ip netns del "$name"
            ;;
        esac
    done
fi
exit 0
