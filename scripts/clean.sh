#!/usr/bin/env bash
# Removes what the Makefile's targets made: the lab with its guests, the virtual environment, caches, build products.
set -euo pipefail

# shellcheck source=scripts/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$NHI_ROOT"

if [ -d .lab ]; then
    scripts/bootstrap.sh demo
    "$NHI_VENV/bin/python" -m lab down || {
        echo "the lab could not be removed; what it needs for another try stays: make lab-down" >&2
        exit 1
    }
    rm -rf .lab
    # What the lab's guests were found to be; a state of real guests is not touched.
    rm -rf infrastructure/state.json* infrastructure/*.lock infrastructure/scan_cache.json* infrastructure/reservations.json* \
        infrastructure/known_hosts*
elif [ -e infrastructure/state.json ]; then
    echo "infrastructure/state.json stays: it is not known to be of a lab made here"
fi
# A lab of the role scenarios that was killed, or kept.
if [ -d "$NHI_CACHE/molecule/lab" ]; then
    "$NHI_VENV/bin/python" -m lab down --dir "$NHI_CACHE/molecule/lab"
fi
# Container templates that the lab keeps for next time.
[ ! -w /var/cache ] || rm -rf /var/cache/nhi-lab
if [ -s "$NHI_CACHE/debian-packages" ]; then
    echo "Debian packages that were installed stay: $(sort -u "$NHI_CACHE/debian-packages" | tr '\n' ' ')"
fi
rm -rf "$NHI_CACHE"
rmdir "$(dirname "$NHI_CACHE")" 2>/dev/null || true

find . -name .git -prune -o -type d \( -name __pycache__ -o -name '.*_cache' -o -name .hypothesis -o -name .ansible \) \
    -prune -exec rm -rf {} +
core=collections/ansible_collections/nhi/core
rm -rf "$core"/tests/output "$core"/tests/integration/{inventory,integration_config.yml} "$core"/services/{build,dist}
rm -f "$core"/changelogs/.plugin-cache.yaml
