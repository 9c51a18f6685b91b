#!/usr/bin/python
# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module nhi.core.nhi_snapshot."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_snapshot
short_description: Keep the state in its history, thin the history out, or go back to it
version_added: "0.2.0"
author:
  - NHI contributors (@nhi-lab)
description:
  - Works on the snapshots of C(state.json) in C(state_history), which are files, each with its checksum. Snapshots of
    guests are the business of M(nhi.core.nhi_vm_snapshot).
  - The modules that change guests take a snapshot before each change, and the role P(nhi.core.state_scan#role) takes
    one every hour.
  - It never asks Proxmox VE.
extends_documentation_fragment:
  - nhi.core.attributes
  - nhi.core.state
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - V(present) keeps the state as it is now, unless the newest snapshot is of that very state.
      - V(pruned) compresses and removes old snapshots. Critical ones stay for ever, and so does the newest that can be
        used. Damaged ones are named, and stay until their time is over.
      - V(restored) brings a C(state.json) that is damaged or missing back from the newest snapshot that can be used.
        All its facts are stale then, so let M(nhi.core.nhi_state_scan) follow with C(full). Without such a snapshot the
        damaged file is taken away, so that the scan can begin from nothing. It is kept beside it in any case. A state
        that can be used is left as it is.
    type: str
    choices: [present, pruned, restored]
    default: present
  reason:
    description: Why the snapshot is taken, for those who look at it later.
    type: str
    default: on request
  critical:
    description: Whether the snapshot is kept for ever. There is one critical snapshot of a state at most.
    type: bool
    default: false
  full_hours:
    description: With V(pruned), for how many hours every snapshot is kept.
    type: int
    default: 24
  hourly_days:
    description: With V(pruned), for how many days the first snapshot of each hour is kept.
    type: int
    default: 7
  daily_days:
    description: With V(pruned), for how many days more the first snapshot of each day is kept, compressed.
    type: int
    default: 30
requirements:
  - jsonschema >= 4.0 (for O(state=restored))
seealso:
  - module: nhi.core.nhi_snapshot_info
  - module: nhi.core.nhi_state_diff_info
"""

EXAMPLES = r"""
- name: Keep the state for ever before a risky day
  nhi.core.nhi_snapshot:
    state_dir: /var/lib/nhi
    reason: before the move to the new switch
    critical: true

- name: Thin the history out
  nhi.core.nhi_snapshot:
    state_dir: /var/lib/nhi
    state: pruned

- name: Bring a damaged state back
  nhi.core.nhi_snapshot:
    state_dir: /var/lib/nhi
    state: restored
  register: recovery
"""

RETURN = r"""
snapshot:
  description:
    - The snapshot of the state, or the one that the state was restored from. Null where there is none, and in check
      mode for one that would be taken.
  returned: with V(present) and V(restored)
  type: dict
  contains:
    name:
      description: Its name, in UTC, which may be given in place of a moment.
      type: str
      returned: always
      sample: state_2026-11-27_14-00
    path:
      description: Its file.
      type: str
      returned: always
      sample: /var/lib/nhi/state_history/state_2026-11-27_14-00.json
    taken_at:
      description: When it was taken.
      type: str
      returned: always
      sample: '2026-11-27T14:00:03.000000+00:00'
    since:
      description: Since when it was the state.
      type: str
      returned: always
      sample: '2026-11-27T13:55:07.000000+00:00'
    critical:
      description: Whether it is kept for ever.
      type: bool
      returned: always
      sample: false
    compressed:
      description: Whether its file is compressed.
      type: bool
      returned: always
      sample: false
    checksum:
      description: SHA-256 of its document. Null where nobody knows.
      type: str
      returned: always
      sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    reason:
      description: Why it was taken.
      type: str
      returned: always
      sample: 'before nhi_vm: redis-cache absent'
    actor:
      description: Who it was taken for.
      type: str
      returned: always
      sample: open-interpreter
removed:
  description: Names of snapshots that were removed.
  returned: with V(pruned)
  type: list
  elements: str
  sample: [state_2026-11-19_14-00]
compressed:
  description: Names of snapshots that were compressed.
  returned: with V(pruned)
  type: list
  elements: str
  sample: [state_2026-11-20_00-00]
kept:
  description: How many snapshots are left.
  returned: with V(pruned)
  type: int
  sample: 198
damaged:
  description: What is wrong with snapshots that can not be used.
  returned: with V(pruned)
  type: list
  elements: str
  sample: []
leftovers:
  description: Files of writers that were killed, which were removed.
  returned: with V(pruned)
  type: list
  elements: str
  sample: []
damage:
  description: What was wrong with C(state.json). Null where nothing was.
  returned: with V(restored)
  type: str
  sample: /var/lib/nhi/state.json does not match its checksum.
skipped:
  description: Snapshots that could not be used, and why.
  returned: with V(restored)
  type: list
  elements: str
  sample: []
revision:
  description: Revision of the restored state. Null where nothing was restored.
  returned: with V(restored)
  type: int
  sample: 121
summary:
  description: What was done, in sentences.
  returned: success
  type: list
  elements: str
  sample: [/var/lib/nhi/state_history/state_2026-11-27_14-00.json]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nhi.core.plugins.module_utils._audited import audited
from ansible_collections.nhi.core.plugins.module_utils._state_args import STATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.history import History
from ansible_collections.nhi.core.plugins.module_utils.history_keeper import take_snapshot
from ansible_collections.nhi.core.plugins.module_utils.interrupts import InterruptedRunError, Interrupts
from ansible_collections.nhi.core.plugins.module_utils.retention import Retention
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now
from ansible_collections.nhi.core.plugins.module_utils.state_recovery import restore_state


def take(params: dict[str, Any], *, dry_run: bool) -> dict[str, Any]:
    """Keep the current state."""
    taken = take_snapshot(params["state_dir"], params["reason"], critical=params["critical"], dry_run=dry_run)
    before = [] if taken.new else [str(taken.snapshot.name)] if taken.snapshot else []
    after = [str(taken.snapshot.name)] if taken.snapshot else ["(a new one)"]
    where = taken.snapshot.path if taken.snapshot else "A new snapshot"
    told = "holds this state already" if not taken.new else "would be taken" if dry_run else "is taken"
    return {
        "changed": taken.new,
        "snapshot": taken.snapshot.as_data() if taken.snapshot else None,
        "summary": [f"{where} {told}."],
        "diff": {"before": {"snapshots": before}, "after": {"snapshots": after}},
    }


def prune(params: dict[str, Any], *, dry_run: bool) -> dict[str, Any]:
    """Thin the history out."""
    policy = Retention(params["full_hours"], params["hourly_days"], params["daily_days"])
    pruned = History(params["state_dir"]).prune(policy, utc_now(), dry_run=dry_run)
    data = pruned.as_data()
    counts = f"{len(data['removed'])} removed, {len(data['compressed'])} compressed, {data['kept']} kept"
    return {
        "changed": pruned.changed,
        **data,
        "summary": [f"{counts}.", *data["damaged"]],
        "diff": {
            "before": {"removed": data["removed"], "uncompressed": data["compressed"], "leftovers": data["leftovers"]},
            "after": {"removed": [], "uncompressed": [], "leftovers": []},
        },
    }


def restore(params: dict[str, Any], *, dry_run: bool) -> dict[str, Any]:
    """Bring a damaged state back."""
    recovery = restore_state(StateStore(params["state_dir"]), dry_run=dry_run)
    stands = str(recovery.snapshot.name) if recovery.snapshot else "(no state)"
    return {
        **recovery.as_data(),
        "summary": recovery.lines(),
        "diff": {
            "before": {"state": recovery.damage or "can be used"},
            "after": {"state": stands if recovery.changed else "can be used"},
        },
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **STATE_ARGS,
            "state": {"type": "str", "choices": ["present", "pruned", "restored"], "default": "present"},
            "reason": {"type": "str", "default": "on request"},
            "critical": {"type": "bool", "default": False},
            "full_hours": {"type": "int", "default": 24},
            "hourly_days": {"type": "int", "default": 7},
            "daily_days": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    work = {"present": take, "pruned": prune, "restored": restore}[module.params["state"]]
    try:
        with audited(module, "nhi_snapshot") as attempt, Interrupts():
            attempt.allow()
            result = work(module.params, dry_run=module.check_mode)
            attempt.note(changed=result["changed"])
    except InterruptedRunError as error:
        module.fail_json(msg=f"The work on the history was {error}: run the same again to finish it.")
    except NHIError as error:
        module.fail_json(msg=str(error))
    for text in (*result.get("damaged", ()), *result.get("skipped", ())):
        module.warn(text)
    diff = result.pop("diff")
    if module._diff:
        result["diff"] = diff
    module.exit_json(**result)


if __name__ == "__main__":
    main()
