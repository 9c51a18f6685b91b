#!/usr/bin/python

# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_vm_snapshot
short_description: Take and remove snapshots of a guest of Proxmox VE, and go back to one
version_added: 0.1.0
description:
  - Works on one snapshot of a container or virtual machine that is there. The guest is found by its name.
  - Everything that can be checked is checked before anything is done. That is whether the guest is locked and by which
    task, whether its disks can be snapshot, whether it is protected, what depends on it, and the token's privileges.
  - Whatever the outcome, C(state.json) is brought up to date for the guest that was worked on.
  - In check mode nothing is written. Going back is foretold with every line of the configuration it would change.
extends_documentation_fragment:
  - nhi.core.attributes
  - nhi.core.proxmox
  - nhi.core.state
  - nhi.core.gate
  - nhi.core.guards
  - nhi.core.identity
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - O(state=rollback) goes back each time.
options:
  name:
    description: Name of the guest.
    type: str
    required: true
    aliases: [hostname]
  vmid:
    description: VMID of the guest. It says which one is meant when two bear the same name.
    type: int
  snapshot:
    description: Name of the snapshot. Begins with a letter, up to 40 characters.
    type: str
    required: true
    aliases: [snapname]
  state:
    description:
      - V(present) takes the snapshot if there is none of that name, and corrects its O(description).
      - V(absent) removes the snapshot if it is there.
      - V(rollback) takes the guest's disks and its whole configuration back to the snapshot. Everything since is lost,
        so it needs O(confirm). A guest that ran is started again. A protected one is refused.
    type: str
    choices: [present, absent, rollback]
    default: present
  description:
    description: Notes on the snapshot.
    type: str
  vmstate:
    description: Whether a new snapshot of a running virtual machine keeps its memory too.
    type: bool
  wait_timeout:
    description: Longest time in seconds for the task.
    type: int
    default: 300
author:
  - NHI contributors (@nhi-lab)
seealso:
  - module: nhi.core.nhi_vm
"""

EXAMPLES = r"""
- name: Take a snapshot before a change
  nhi.core.nhi_vm_snapshot:
    name: redis-cache
    snapshot: before_upgrade
    description: Redis 7.0, before the upgrade to 7.2.
    state_dir: /var/lib/nhi

- name: See what going back would change
  nhi.core.nhi_vm_snapshot:
    name: redis-cache
    snapshot: before_upgrade
    state: rollback
    state_dir: /var/lib/nhi
  check_mode: true
  diff: true

- name: Go back
  nhi.core.nhi_vm_snapshot:
    name: redis-cache
    snapshot: before_upgrade
    state: rollback
    confirm: redis-cache
    state_dir: /var/lib/nhi

- name: Remove the snapshot
  nhi.core.nhi_vm_snapshot:
    name: redis-cache
    snapshot: before_upgrade
    state: absent
    state_dir: /var/lib/nhi
"""

RETURN = r"""
vm:
  description: The guest as it is now. Null where check mode finds none.
  returned: success
  type: dict
  sample: {vmid: 105, name: redis-cache, type: lxc, node: pve, status: running, memory: 256}
snapshots:
  description: All snapshots of the guest, oldest first. In check mode as they would be.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: Its name., type: str, returned: always, sample: before_upgrade}
    description: {description: Its notes., type: str, returned: always, sample: Redis 7.0.}
    taken_at:
      description: When it was taken. Null for one that check mode foretells.
      type: str
      returned: always
      sample: '2026-11-23T18:00:00+00:00'
    parent: {description: The snapshot it follows., type: str, returned: always, sample: null}
    vmstate: {description: Whether it holds the memory too., type: bool, returned: always, sample: false}
actions:
  description: What was done, or in check mode would be.
  returned: success
  type: list
  elements: dict
  sample: [{kind: snapshot, text: Take snapshot before_upgrade of LXC 105 redis-cache on pve}]
preflight:
  description:
    - The checks made before anything is done, with C(exists) for a guest that is not there or not certain. In check
      mode those that fail are returned and warned about. In a real run they end the task, all in one message.
  returned: success
  type: list
  elements: dict
  sample: [{check: lock, message: '...', passed: true}]
identity:
  description:
    - What tells the guest from others, as it is after the run or in check mode now. Give it back as O(expect) to do
      later what was planned, and only that.
  returned: success
  type: dict
  sample:
    {vmid: 105, type: lxc, name: redis-cache, created: null, operation: op-5f2b6c0c9d1e, mac: ['BC:24:11:00:00:05'],
     digest: 1f0e...}
impact:
  description: What depends on the guest, directly or not, for V(rollback) state.
  returned: success
  type: dict
  sample: {services: [redis], dependents: [], stop_order: [], start_order: [], criticality: null}
summary:
  description: The plan in sentences.
  returned: success
  type: list
  elements: str
  sample: [Take snapshot before_upgrade of LXC 105 redis-cache on pve]
plan:
  description:
    - What a dry run was given to apply its plan by. Null where no policy is in force, where nothing would be done, and
      where a pre-flight check failed.
  returned: success
  type: dict
  sample:
    plan_id: plan-k3sx7qjv2mzt5ay4fwhd6ubcne
    decision: allow
    reason: takes nothing away
    needs_approval: false
    expires_at: '2026-11-27T12:30:00+00:00'
how_to_apply:
  description: The same for a person. Empty where there is no plan.
  returned: success
  type: list
  elements: str
  sample: []
recovered:
  description: What became of earlier operations that were cut off. Each run settles them first.
  returned: success
  type: list
  elements: str
  sample: []
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nhi.core.plugins.module_utils._audited import audited, told
from ansible_collections.nhi.core.plugins.module_utils._gate_args import admission_from_params
from ansible_collections.nhi.core.plugins.module_utils._guard_args import GUARD_ARGS
from ansible_collections.nhi.core.plugins.module_utils._proxmox import (
    PROXMOX_ARGS,
    ProxmoxClient,
    endpoint_from_params,
)
from ansible_collections.nhi.core.plugins.module_utils._state_args import STATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.graph import find_graph
from ansible_collections.nhi.core.plugins.module_utils.guest import guest_facts
from ansible_collections.nhi.core.plugins.module_utils.guest_guards import (
    as_result,
    guards_from_params,
    plan_result,
    plan_warnings,
)
from ansible_collections.nhi.core.plugins.module_utils.guest_known import read_known
from ansible_collections.nhi.core.plugins.module_utils.guest_recovery import settle
from ansible_collections.nhi.core.plugins.module_utils.guest_rescan import Rescan
from ansible_collections.nhi.core.plugins.module_utils.guest_snapshot import wish_from_params
from ansible_collections.nhi.core.plugins.module_utils.guest_snapshot_manager import (
    SnapshotManager,
    SnapshotOutcome,
    SnapshotRun,
)
from ansible_collections.nhi.core.plugins.module_utils.history_keeper import Keeper

ARGUMENT_SPEC: dict[str, Any] = {
    **PROXMOX_ARGS,
    **STATE_ARGS,
    **GUARD_ARGS,
    "name": {"type": "str", "required": True, "aliases": ["hostname"]},
    "vmid": {"type": "int"},
    "snapshot": {"type": "str", "required": True, "aliases": ["snapname"]},
    "state": {"type": "str", "choices": ["present", "absent", "rollback"], "default": "present"},
    "description": {"type": "str"},
    "vmstate": {"type": "bool"},
    "wait_timeout": {"type": "int", "default": 300},
}


def result_of(outcome: SnapshotOutcome) -> dict[str, Any]:
    """What the module returns."""
    return as_result({
        **plan_result(outcome.plan),
        "vm": guest_facts(outcome.found) if outcome.found else None,
        "snapshots": [s.as_dict() for s in outcome.snapshots],
    })  # fmt: skip


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    try:
        with audited(module, "nhi_vm_snapshot") as attempt:
            graph = find_graph(params["dependency_graph"], params["state_dir"])
            endpoint, state_dir = endpoint_from_params(params), Path(params["state_dir"])
            rescan = Rescan(state_dir, endpoint, "nhi_vm_snapshot")
            admission = admission_from_params(
                params, ARGUMENT_SPEC, "nhi_vm_snapshot", graph, check_mode=module.check_mode
            )
            guards = guards_from_params(params, graph, read_known(state_dir), admission)
            keep = Keeper(state_dir, "nhi_vm_snapshot", module.warn)
            run = SnapshotRun(guards, module.check_mode, params["wait_timeout"], rescan, module.warn, keep)
            with attempt.watching(ProxmoxClient(endpoint)) as client:
                recovered = settle(
                    client, state_dir, check_mode=module.check_mode, tell=module.warn, rescan=rescan, keep=keep
                )
                attempt.note(recovered=recovered)
                outcome = SnapshotManager(client, wish_from_params(params), run).run()
            attempt.note(**told(result_of(outcome)))
    except NHIError as e:
        module.fail_json(msg=str(e))
    for warning in plan_warnings(outcome.plan):
        module.warn(warning)
    module.exit_json(**result_of(outcome), recovered=recovered)


if __name__ == "__main__":
    main()
