#!/bin/sh
# Patroni from PyPI in target/patroni: patronictl drives our clusters in the tests, the benchmark runs beside it.
set -eu
cd "$(dirname "$0")/.."
version=4.1.5
venv=target/patroni
if [ -x "$venv/bin/patroni" ] && "$venv/bin/python" "$venv/bin/patroni" --version 2>/dev/null | grep -qF "$version"; then
    exit 0
fi
mkdir -p target
rm -rf "$venv"
# The system's own interpreter: user postgres cannot run one from somebody's home directory.
/usr/bin/python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --no-input "patroni[etcd3]==$version" "psycopg[binary]"
