#!/usr/bin/env bash
# Runs ansible-test on the collection without Docker and without downloads from anywhere but the package index.
#
#   scripts/ansible_test.sh sanity|units|integration [arguments of ansible-test]
set -euo pipefail

# shellcheck source=scripts/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

# The name holds pip's version, which belongs to the pinned ansible-core.
readonly bootstrap=get_pip_24_2.py
# ansible-test keeps its environments and caches in the home directory and hands programs little of our environment.
# A home of its own keeps them out of the user's, and a file carries pip's settings.
home=$NHI_CACHE/ansible-test
mkdir -p "$home/.ansible/test/cache" "$home/.config/pip"
cp "$NHI_ROOT/scripts/get_pip.py" "$home/.ansible/test/cache/$bootstrap"
# Of settings given twice, pip lists the stronger one last.
"$NHI_VENV/bin/python" -m pip config list | sed -n "s/^\(global\|install\|:env:\)\.\([a-z-]*\)='\(.*\)'$/\2 = \3/p" |
    awk -F ' = ' 'BEGIN { print "[global]" } { value[$1] = $2 } END { for (name in value) print name " = " value[name] }' \
        >"$home/.config/pip/pip.conf"

version=$("$NHI_VENV/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
command=$1
shift
cd "$NHI_ROOT/collections/ansible_collections/nhi/core"
exec env -u ANSIBLE_CONFIG HOME="$home" XDG_CONFIG_HOME="$home/.config" PATH="$NHI_VENV/bin:$PATH" \
    ansible-test "$command" --local --python "$version" --color no "$@"
