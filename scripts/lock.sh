#!/usr/bin/env bash
# Writes requirements/constraints.txt: the version of every package that requirements/dev.txt brings with it.
set -euo pipefail

# shellcheck source=scripts/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$NHI_ROOT"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$NHI_VENV/bin/python" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
{
    echo "# Every package in the environment, so that each set-up is the same. Written by scripts/lock.sh."
    "$scratch/venv/bin/python" -m pip freeze --exclude pip --exclude setuptools
} >"$scratch/constraints.txt"
mv "$scratch/constraints.txt" requirements/constraints.txt
