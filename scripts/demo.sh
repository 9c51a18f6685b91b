#!/usr/bin/env bash
# The main job from nothing: a lab, the blueprint's guests, a service by name, the truth about it, a plan, a router.
# Called by `make demo`, which has made the virtual environment. Every command is printed before it runs.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=activate
. ./activate

started=$SECONDS
number=0
total=8

step() {
    number=$((number + 1))
    printf '\n\033[1m[%d/%d] %s\033[0m  (%ds)\n' "$number" "$total" "$1" "$((SECONDS - started))"
}

run() {
    printf '\033[2m$ %s\033[0m\n' "$*"
    "$@"
}

step "A Proxmox VE API comes up on this machine"
run python -m lab up
# shellcheck source=/dev/null
. ./activate
driver=$(python -m lab status --json | python -c 'import json, sys; print(json.load(sys.stdin)["driver"])')
deploy=()
if [ "$driver" = memory ]; then
    printf 'Without root (or lxc) guests are simulated: addresses on loopback, embedded Redis and PostgreSQL.\n'
    deploy=(-e @lab/ansible/embedded.yml)
fi

step "The blueprint's guests are created: VM 100 (Brain) and containers 101-104"
run ansible-playbook playbooks/topology.yml "${deploy[@]}"

step "A service by name: no address, VMID or size given"
run ansible-playbook playbooks/service.yml -e service=redis -e purpose=cache "${deploy[@]}"

step "The same again changes nothing"
run ansible-playbook playbooks/service.yml -e service=redis -e purpose=cache "${deploy[@]}" | tee .lab/second-run.log
grep -Eq 'localhost .*changed=0 ' .lab/second-run.log

step "Anyone can find it by name"
run ansible localhost -m ansible.builtin.debug -a "msg={{ lookup('nhi.core.nhi_endpoint', 'redis').url }}"

step "A dry run: what would destroying PostgreSQL break?"
run ansible-playbook playbooks/destroy_guest.yml -e guest=postgres-lxc --check

step "Three agents share two language model providers, of which one is used up"
run python scripts/demo_router.py

step "The lab as it is now"
run nhi status

cat <<'END'

The lab keeps running. Look around (`. ./activate` first, or use make):
  make inventory     the guests as Ansible sees them        ansible-inventory --graph
  make state         state.json, verified                   nhi state show
  make plan          what destroying PostgreSQL would break
  ssh                into any guest                          ansible postgres-lxc -m ping
Stop it with `make lab-down`; `make clean` removes everything that was made.
END
