#!/usr/bin/env bash
# Sets up what the Makefile's targets need and does nothing where it is there already.
#
#   scripts/bootstrap.sh demo   Python packages of requirements/lab.txt, Debian packages for real guests
#   scripts/bootstrap.sh dev    Python packages of requirements/dev.txt, Debian packages for linting
#   scripts/bootstrap.sh test   both
set -euo pipefail

# shellcheck source=scripts/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$NHI_ROOT"

profile=${1:-dev}
case $profile in
demo) requirements=lab.txt packages=(debian-lab.txt) ;;
dev) requirements=dev.txt packages=(debian-dev.txt) ;;
test) requirements=dev.txt packages=(debian-dev.txt debian-lab.txt) ;;
*) echo "usage: $0 demo|dev|test" >&2; exit 64 ;;
esac

readonly oldest=3.11
log=$NHI_CACHE/log/bootstrap.log
started=$SECONDS
apt_updated=

say() { printf '%s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
is_root() { [ "$(id -u)" -eq 0 ]; }
has_apt() { command -v apt-get >/dev/null && command -v dpkg-query >/dev/null; }

# Runs a command with its output in the log; says every 10 s that it still runs, and shows the log's end when it failed.
logged() {
    local pid waited=0
    "$@" >>"$log" 2>&1 </dev/null &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.5
        waited=$((waited + 1))
        [ $((waited % 20)) -ne 0 ] || say "      ... $((SECONDS - started)) s: $(tail -n 1 "$log" | sed "s/^ *//; s/:.*//" | cut -c1-60)"
    done
    wait "$pid" && return
    tail -n 25 "$log" >&2
    fail "this failed: $*; everything it said: $log"
}

apt_install() {
    if [ -z "$apt_updated" ]; then
        logged apt-get update -q || say "      apt-get update failed; going on with the package lists that are here"
        apt_updated=yes
    fi
    DEBIAN_FRONTEND=noninteractive logged apt-get install -q -y --no-install-recommends "$@"
}

# The named packages that are not installed, one a line.
missing_packages() {
    local name
    for name in "$@"; do
        dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || echo "$name"
    done
}

is_new_enough() {
    "$1" -c "import sys; sys.exit(sys.version_info < tuple(map(int, '$oldest'.split('.'))))" 2>/dev/null
}

# The first Python that runs and is new enough. A name in PATH proves little: version managers put launchers there
# for versions that are not installed or not selected.
find_python() {
    local name
    for name in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
        if is_new_enough "$name"; then
            command -v "$name"
            return
        fi
    done
    return 1
}

install_python() {
    local name
    for name in python3.13 python3.12 python3.11; do
        apt-cache show "$name-venv" >/dev/null 2>&1 || continue
        apt_install "$name" "$name-venv"
        return
    done
    return 1
}

ensure_python() {
    if ! python=$(find_python); then
        local found
        found=$(python3 --version 2>/dev/null || echo 'no Python 3')
        if is_root && has_apt; then
            say "      found $found; installing a newer one"
            install_python || true
        fi
        python=$(find_python) || fail "needs Python $oldest or newer, found $found." \
            "Install one (Debian 12, Ubuntu 22.04 or newer: sudo apt-get install python3.11 python3.11-venv)" \
            "or name it: make PYTHON=/path/to/python3.11"
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null && return
    local version package
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    package=python$version-venv
    if is_root && has_apt; then
        apt_install "$package"
    else
        fail "$python has no venv module. Run: sudo apt-get install $package"
    fi
}

ensure_packages() {
    local lists=("${packages[@]/#/requirements/}") wanted missing
    mapfile -t wanted < <(sed 's/#.*//' "${lists[@]}" | awk 'NF { print $1 }')
    has_apt || { say "      not a Debian or Ubuntu system; needed: ${wanted[*]}"; return 0; }
    mapfile -t missing < <(missing_packages "${wanted[@]}")
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! is_root; then
        say "      missing: ${missing[*]}"
        say "      what needs them is left out; to have it: sudo apt-get install ${missing[*]}"
        return 0
    fi
    say "      installing ${missing[*]}"
    apt_install "${missing[@]}"
    printf '%s\n' "${missing[@]}" >>"$NHI_CACHE/debian-packages"
}

# A folder of its own keeps pip's downloads, so that `make clean` finds them.
ensure_venv() {
    local stamp
    stamp=$("$python" -VV; cat requirements/*.txt | sha256sum)
    if [ -x "$NHI_VENV/bin/python" ] && [ "$(cat "$NHI_VENV/$requirements.stamp" 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    # An interpreter that was upgraded or removed leaves a broken environment behind.
    "$NHI_VENV/bin/python" -c 'import pip' 2>/dev/null || rm -rf "$NHI_VENV"
    [ -x "$NHI_VENV/bin/python" ] || logged "$python" -m venv "$NHI_VENV"
    PIP_DISABLE_PIP_VERSION_CHECK=1 logged "$NHI_VENV/bin/python" -m pip install --progress-bar off \
        --cache-dir "$NHI_CACHE/pip" -r "requirements/$requirements" -c requirements/constraints.txt
    link_own_code
    printf '%s\n' "$stamp" >"$NHI_VENV/$requirements.stamp"
}

# The checkout's own code is used where it lies: an edit needs no reinstallation.
link_own_code() {
    local services=$NHI_ROOT/collections/ansible_collections/nhi/core/services/src site
    site=$("$NHI_VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    printf '%s\n' "$NHI_ROOT/collections" "$services" >"$site/nhi-checkout.pth"
    program nhi nhi_services.cli
    program nhi-router nhi_services.router.main
}

program() {
    cat >"$NHI_VENV/bin/$1" <<EOF
#!$NHI_VENV/bin/python
import sys

from $2 import main

sys.exit(main())
EOF
    chmod 755 "$NHI_VENV/bin/$1"
}

mkdir -p "$NHI_CACHE/log"
exec 9>"$NHI_CACHE/bootstrap.lock"
if ! flock -n 9; then
    say "setup: another set-up of this checkout is running; waiting for it"
    flock 9
fi

if [ "$(cat "$NHI_CACHE/$profile.ready" 2>/dev/null)" = "$(cat requirements/*.txt "$0" | sha256sum)" ] &&
    [ -x "$NHI_VENV/bin/python" ] && "$NHI_VENV/bin/python" -c '' 2>/dev/null; then
    exit 0
fi

: >"$log"
say "setup [1/3] Python"
ensure_python
say "      $("$python" --version), $python"
say "setup [2/3] Debian packages"
ensure_packages
say "setup [3/3] Python packages in $NHI_VENV (the first time takes a minute or two)"
ensure_venv
# The larger set-up includes the smaller ones.
[ "$profile" != test ] || profile='demo dev test'
for name in $profile; do cat requirements/*.txt "$0" | sha256sum >"$NHI_CACHE/$name.ready"; done
say "setup done in $((SECONDS - started)) s"
