# shellcheck shell=bash
# Where this checkout keeps what it makes. Sourced by the other scripts and by activate.
#
# Nothing large lives in the tree: linters would read it. Everything is under one folder per checkout,
# and `make clean` removes that folder.

# Shells without BASH_SOURCE can use this from the top of the checkout.
# shellcheck disable=SC2128
NHI_ROOT=$(cd "$(dirname "${BASH_SOURCE:-./scripts/env.sh}")/.." && pwd -P)
NHI_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/nhi/$(basename "$NHI_ROOT")-$(printf %s "$NHI_ROOT" | sha256sum | cut -c1-12)
NHI_VENV=$NHI_CACHE/venv

export NHI_ROOT NHI_CACHE NHI_VENV
