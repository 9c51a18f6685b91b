#!/usr/bin/env bash
# Removes what the Makefile's targets made: the lab with its guests, the virtual environment, caches, build products.
set -euo pipefail

# shellcheck source=scripts/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$NHI_ROOT"

if [ -x "$NHI_VENV/bin/python" ] && [ -e lab/__main__.py ]; then
    "$NHI_VENV/bin/python" -m lab down || {
        echo "the lab could not be removed; its environment stays so that you can try again: make lab-down" >&2
        exit 1
    }
fi
if [ -s "$NHI_CACHE/debian-packages" ]; then
    echo "Debian packages that were installed stay: $(sort -u "$NHI_CACHE/debian-packages" | tr '\n' ' ')"
fi
rm -rf "$NHI_CACHE"
rmdir "$(dirname "$NHI_CACHE")" 2>/dev/null || true
# Everything git ignores in the tree was made here, but for the vault password, which is the user's.
git clean -fdqX -e '!vault/.password' || true
