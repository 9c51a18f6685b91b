#!/usr/bin/python

# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_vm_backup
short_description: Make, remove and restore backups of guests of Proxmox VE
version_added: 0.1.0
description:
  - Makes a backup of a container or virtual machine with C(vzdump), unless one is there that is young enough.
  - Restores a backup as a new guest, or in place of the guest it was made of.
  - Everything that can be checked is checked before anything is done. That is whether the guest is locked and by which
    task, whether the backup is of the guest that was named, whether the storages and bridges it needs are there,
    whether the guest is protected, what depends on it, and the token's privileges.
  - Whatever the outcome, C(state.json) is brought up to date for the guest that was worked on.
  - In check mode nothing is written.
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
      - O(state=present) makes a backup each time unless O(max_age) is set.
      - O(state=restored) replaces a guest each time that O(confirm) says so.
options:
  name:
    description:
      - Name of the guest.
      - For O(state=absent) the name of the guest inside the backup, which need not be there any more.
      - For O(state=restored) the name of the guest to have. If there is none of that name, a new one is made.
    type: str
    required: true
  vmid:
    description:
      - VMID of the guest. It says which one is meant when two bear the same name.
      - For O(state=restored) the VMID of a new guest. A free one of O(vmid_range) is chosen if not specified.
    type: int
  state:
    description:
      - V(present) makes a backup now, unless there is one that O(max_age) accepts.
      - V(absent) removes O(backup).
      - V(restored) makes a guest from O(backup). A new guest is not started, does not start with its node, is not
        protected and has MAC addresses of its own, but the addresses of the backup. Its notes name the backup, by
        which it is known in later runs and left as it is.
      - A guest that is there is replaced only with O(confirm), and only by a backup of itself. Everything since is
        lost. It is stopped before, and started again if it ran. A protected one is refused.
    type: str
    choices: [present, absent, restored]
    default: present
  backup:
    description: Volume ID of the backup to remove or restore.
    type: str
  storage:
    description:
      - For V(present) state the storage that takes the backup. It must be said if there are several for backups.
      - For V(restored) state the storage of the guest's disks. Each goes to where it was if not specified.
    type: str
  mode:
    description:
      - What a guest does while it is backed up. V(snapshot) lets it run, V(stop) gives the most consistent backup.
    type: str
    choices: [snapshot, suspend, stop]
    default: snapshot
    aliases: [backup_mode]
  compress:
    description: How the backup is compressed.
    type: str
    choices: [zstd, lzo, gzip, none]
    default: zstd
  notes:
    description:
      - Notes on a new backup. Proxmox VE replaces C({{guestname}}), C({{node}}), C({{vmid}}) and C({{cluster}}) in it.
    type: str
    aliases: [description]
  protected:
    description: Whether Proxmox VE refuses to remove the new backup.
    type: bool
    default: false
  max_age:
    description: Make no backup if there is one of the guest on the storage that is at most this many seconds old.
    type: int
  keep:
    description:
      - How many backups of the guest to keep on the storage once the new one is made. Others are removed.
      - The storage's own rules hold if not specified.
    type: dict
    suboptions:
      last: {description: The last ones., type: int}
      hourly: {description: The last one of so many hours., type: int}
      daily: {description: The last one of so many days., type: int}
      weekly: {description: The last one of so many weeks., type: int}
      monthly: {description: The last one of so many months., type: int}
      yearly: {description: The last one of so many years., type: int}
  node:
    description: Node of a new guest. One that has the storage of the backup is chosen if not specified.
    type: str
  pool:
    description: Resource pool of a new guest.
    type: str
  vmid_range:
    description: Where the VMID of a new guest is chosen from.
    type: str
    default: 105-999
  wait_timeout:
    description: Longest time in seconds for each task.
    type: int
    default: 3600
author:
  - NHI contributors (@nhi-lab)
seealso:
  - module: nhi.core.nhi_vm
  - module: nhi.core.nhi_vm_backup_info
  - module: nhi.core.nhi_vm_snapshot
"""

EXAMPLES = r"""
- name: Have a backup that is not older than a day, and keep the last three
  nhi.core.nhi_vm_backup:
    name: postgres-lxc
    max_age: 86400
    keep: {last: 3}
    state_dir: infrastructure
  register: postgres

- name: Restore it beside the original, to look into it
  nhi.core.nhi_vm_backup:
    name: postgres-drill
    state: restored
    backup: "{{ postgres.backup.volid }}"
    state_dir: infrastructure

- name: See what replacing the guest by its backup would change
  nhi.core.nhi_vm_backup:
    name: postgres-lxc
    state: restored
    backup: local:backup/vzdump-lxc-102-2026_11_23-02_00_00.tar.zst
    state_dir: infrastructure
  check_mode: true
  diff: true

- name: Replace the guest by its backup
  nhi.core.nhi_vm_backup:
    name: postgres-lxc
    state: restored
    backup: local:backup/vzdump-lxc-102-2026_11_23-02_00_00.tar.zst
    confirm: postgres-lxc
    state_dir: infrastructure

- name: Remove a backup
  nhi.core.nhi_vm_backup:
    name: postgres-lxc
    state: absent
    backup: local:backup/vzdump-lxc-102-2026_11_23-02_00_00.tar.zst
    state_dir: infrastructure
"""

RETURN = r"""
backup:
  description: The backup that was made, that was young enough, or that was restored. Null where there is none.
  returned: success
  type: dict
  contains:
    volid:
      description: Its volume ID.
      type: str
      returned: always
      sample: local:backup/vzdump-lxc-102-2026_11_23-02_00_00.tar.zst
    storage: {description: The storage it lies on., type: str, returned: always, sample: local}
    vmid: {description: VMID of the guest it was made of., type: int, returned: always, sample: 102}
    type: {description: V(lxc) or V(qemu)., type: str, returned: always, sample: lxc}
    taken_at: {description: When it was made., type: str, returned: always, sample: '2026-11-23T02:00:00+00:00'}
    size: {description: Its size in bytes., type: int, returned: always, sample: 126515062}
    notes: {description: Its notes., type: str, returned: always, sample: postgres-lxc}
    protected: {description: Whether it is protected., type: bool, returned: always, sample: false}
backups:
  description:
    - The backups of the VMID on that storage, newest first, for V(present) and V(absent) states.
    - For V(absent) without the one that is removed, in check mode too.
  returned: success
  type: list
  elements: dict
vm:
  description: The guest that was restored, or in check mode would be.
  returned: success
  type: dict
  sample: {vmid: 106, name: postgres-drill, type: lxc, node: pve, status: stopped}
actions:
  description: What was done, or in check mode would be, step by step.
  returned: success
  type: list
  elements: dict
  sample: [{kind: backup, text: 'Back up LXC 102 postgres-lxc on pve to local, while it runs'}]
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
  description: What depends on a guest that would be replaced, directly or not.
  returned: success
  type: dict
  sample: {services: [], dependents: [], stop_order: [], start_order: [], criticality: null}
summary:
  description: The plan in sentences.
  returned: success
  type: list
  elements: str
  sample: ['Back up LXC 102 postgres-lxc on pve to local, while it runs']
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

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nhi.core.plugins.module_utils._audited import audited, told
from ansible_collections.nhi.core.plugins.module_utils._gate_args import admission_from_params
from ansible_collections.nhi.core.plugins.module_utils._guard_args import GUARD_ARGS
from ansible_collections.nhi.core.plugins.module_utils._proxmox import (
    PROXMOX_ARGS,
    Endpoint,
    ProxmoxClient,
    endpoint_from_params,
)
from ansible_collections.nhi.core.plugins.module_utils._state_args import STATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError, PreflightError
from ansible_collections.nhi.core.plugins.module_utils.graph import find_graph
from ansible_collections.nhi.core.plugins.module_utils.guest_backup import (
    COMPRESSIONS,
    KEEP,
    guest_from_params,
    wish_from_params,
)
from ansible_collections.nhi.core.plugins.module_utils.guest_backup_manager import (
    BackupManager,
    BackupOutcome,
    BackupRun,
)
from ansible_collections.nhi.core.plugins.module_utils.guest_guards import (
    as_result,
    guards_from_params,
    plan_result,
    plan_warnings,
)
from ansible_collections.nhi.core.plugins.module_utils.guest_known import read_known
from ansible_collections.nhi.core.plugins.module_utils.guest_recovery import settle
from ansible_collections.nhi.core.plugins.module_utils.guest_rescan import Rescan
from ansible_collections.nhi.core.plugins.module_utils.guest_restore import wish_from_params as restore_from_params
from ansible_collections.nhi.core.plugins.module_utils.guest_restore_manager import RestoreManager
from ansible_collections.nhi.core.plugins.module_utils.history_keeper import Keeper

ARGUMENT_SPEC: dict[str, Any] = {
    **PROXMOX_ARGS,
    **STATE_ARGS,
    **GUARD_ARGS,
    "name": {"type": "str", "required": True},
    "vmid": {"type": "int"},
    "state": {"type": "str", "choices": ["present", "absent", "restored"], "default": "present"},
    "backup": {"type": "str"},
    "storage": {"type": "str"},
    "mode": {
        "type": "str",
        "choices": ["snapshot", "suspend", "stop"],
        "default": "snapshot",
        "aliases": ["backup_mode"],
    },
    "compress": {"type": "str", "choices": list(COMPRESSIONS), "default": "zstd"},
    "notes": {"type": "str", "aliases": ["description"]},
    "protected": {"type": "bool", "default": False},
    "max_age": {"type": "int"},
    "keep": {"type": "dict", "options": {name: {"type": "int"} for name in KEEP}},
    "node": {"type": "str"},
    "pool": {"type": "str"},
    "vmid_range": {"type": "str", "default": "105-999"},
    "wait_timeout": {"type": "int", "default": 3600},
}


def run_from_params(
    params: dict[str, Any], endpoint: Endpoint, tell: Callable[[str], None], *, check: bool
) -> BackupRun:
    """What the options say about the run."""
    graph = find_graph(params["dependency_graph"], params["state_dir"])
    admission = admission_from_params(params, ARGUMENT_SPEC, "nhi_vm_backup", graph, check_mode=check)
    guards = guards_from_params(params, graph, read_known(Path(params["state_dir"])), admission)
    rescan = Rescan(Path(params["state_dir"]), endpoint, "nhi_vm_backup")
    keep = Keeper(Path(params["state_dir"]), "nhi_vm_backup", tell)
    return BackupRun(check, params["wait_timeout"], guards, rescan, tell, keep)


def work(client: ProxmoxClient, params: dict[str, Any], run: BackupRun) -> BackupOutcome:
    """Do what the state asks for."""
    if params["state"] == "restored":
        return RestoreManager(client, restore_from_params(params), run, Path(params["state_dir"])).run()
    if params["state"] == "absent":
        if run.guards.expect:
            raise PreflightError("expect says which guest is meant, and removing a backup touches none: leave it out")
        return BackupManager(client, run).absent(guest_from_params(params), params["backup"])
    return BackupManager(client, run).present(wish_from_params(params))


def result_of(outcome: BackupOutcome) -> dict[str, Any]:
    """What the module returns."""
    return as_result({
        **plan_result(outcome.plan),
        "backup": outcome.backup.as_dict() if outcome.backup else None,
        "backups": [b.as_dict() for b in outcome.backups],
        "vm": outcome.vm,
    })  # fmt: skip


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        supports_check_mode=True,
        required_if=[("state", "absent", ["backup"]), ("state", "restored", ["backup"])],
    )
    try:
        with audited(module, "nhi_vm_backup") as attempt:
            endpoint = endpoint_from_params(module.params)
            run = run_from_params(module.params, endpoint, module.warn, check=module.check_mode)
            with attempt.watching(ProxmoxClient(endpoint)) as client:
                state_dir = Path(module.params["state_dir"])
                recovered = settle(
                    client, state_dir, check_mode=module.check_mode, tell=module.warn, rescan=run.rescan, keep=run.keep
                )
                attempt.note(recovered=recovered)
                outcome = work(client, module.params, run)
            attempt.note(**told(result_of(outcome)))
    except NHIError as e:
        module.fail_json(msg=str(e))
    for warning in plan_warnings(outcome.plan):
        module.warn(warning)
    module.exit_json(**result_of(outcome), recovered=recovered)


if __name__ == "__main__":
    main()
