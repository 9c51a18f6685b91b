#!/usr/bin/python

# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_exec
short_description: Run a command on a guest that the state knows, if the policy allows it
version_added: "0.1.0"
description:
  - Finds the guest by its name, its VMID or a service that it offers in C(state.json), logs in to it over SSH with its
    recorded host key, and runs one command there, with its words as they are. No shell looks at them.
  - Rules under C(exec) in the policy say who may run what. What none of them names is not allowed, and nothing is where
    there is no policy. Where a rule asks for an approval, check mode returns the plan that an operator approves.
  - While changes are frozen, only commands that the policy calls C(reads) are run.
  - Whatever is tried is told to the audit log, with its exit code and how much it printed, but not what.
  - A host of Proxmox VE is never the target.
  - When the run is interrupted or takes longer than O(timeout), the command is ended on the guest too.
extends_documentation_fragment:
  - nhi.core.attributes
  - nhi.core.state
  - nhi.core.gate
  - nhi.core.ssh
attributes:
  check_mode:
    support: full
    details:
      - Returns what would be run and whether it is allowed, and runs nothing.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - Each run runs the command. It counts as a change unless the policy says of it that it C(reads).
options:
  name:
    description:
      - Name or VMID of the guest, or a service that only one guest offers.
      - C(SERVICE@GUEST) and C(SERVICE/PURPOSE) tell several apart.
    type: str
    required: true
  command:
    description: The program and its arguments.
    type: list
    elements: str
    required: true
  timeout:
    description: Longest time in seconds that the command may take.
    type: float
    default: 60.0
  output_limit:
    description: How many bytes of each stream are returned. What is more is left out in the middle.
    type: int
    default: 65536
  known_hosts:
    description: File with the host keys of the guests, as M(nhi.core.nhi_vm) records them. Others are not logged in to.
      C(known_hosts) in O(state_dir) is read if not specified.
seealso:
  - module: nhi.core.nhi_logs_info
  - module: nhi.core.nhi_restart
author:
  - NHI contributors (@nhi-lab)
"""

EXAMPLES = r"""
- name: See how full the disks of the cache are
  nhi.core.nhi_exec:
    name: redis-cache
    command: [df, -h]
    state_dir: /var/lib/nhi
  register: disks

- name: Ask systemd about a service
  nhi.core.nhi_exec:
    name: redis
    command: [systemctl, status, redis-server]
    state_dir: /var/lib/nhi
  register: service
  failed_when: service.rc | default(255) not in [0, 3]
"""

RETURN = r"""
guest:
  description: The guest that was meant.
  returned: success, or when the command was begun
  type: str
  sample: redis-cache
vmid:
  description: VMID of the guest.
  returned: success, or when the command was begun
  type: int
  sample: 105
address:
  description: Address of the guest.
  returned: success, or when the command was begun
  type: str
  sample: 192.0.2.105
rc:
  description: Exit code of the command. The module fails where it is not V(0).
  returned: when the command ended
  type: int
  sample: 0
stdout:
  description: What it printed.
  returned: when the command was begun
  type: str
  sample: "PONG\n"
stderr:
  description: What it complained about.
  returned: when the command was begun
  type: str
  sample: ''
stdout_bytes:
  description: How much it printed, whatever of it was left out.
  returned: when the command was begun
  type: int
  sample: 5
stderr_bytes:
  description: How much it printed to stderr.
  returned: when the command was begun
  type: int
  sample: 0
duration:
  description: How long it took in seconds.
  returned: when the command ended
  type: float
  sample: 0.31
reads:
  description: Whether the policy says that the command changes nothing.
  returned: success
  type: bool
  sample: true
operation:
  description: The attempt, as the audit log names it.
  returned: when the command ended
  type: str
  sample: 0a1b2c3d4e5f
allowed:
  description: Whether a run would run the command now.
  returned: in check mode
  type: bool
  sample: false
refusal:
  description: Why it would not.
  returned: in check mode
  type: str
  sample: "it needs an approval (rule 3 under exec in the policy)"
decision:
  description: What the policy says, V(allow), V(approve) or V(deny).
  returned: in check mode
  type: str
  sample: approve
reason:
  description: Why it says so.
  returned: in check mode
  type: str
  sample: looks only
command:
  description: The command.
  returned: in check mode
  type: list
  elements: str
  sample: [systemctl, reload, nginx]
plan:
  description: The plan that an operator has to approve, where the policy asks for that.
  returned: in check mode
  type: dict
  sample: {plan_id: plan-abcdefghijklmnopqrstuvwxyz, decision: approve, needs_approval: true}
"""

from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nhi.core.plugins.module_utils._audited import ModuleAttempt
from ansible_collections.nhi.core.plugins.module_utils._gate_args import GATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils._ssh_args import SSH_ARGS
from ansible_collections.nhi.core.plugins.module_utils._state_args import STATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils.errors import GuestShellError, NHIError, PreflightError
from ansible_collections.nhi.core.plugins.module_utils.output_bounds import Capture
from ansible_collections.nhi.core.plugins.module_utils.remote_hands import Hands, Order, Site

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **STATE_ARGS,
    **GATE_ARGS,
    **SSH_ARGS,
    "name": {"type": "str", "required": True},
    "command": {"type": "list", "elements": "str", "required": True},
    "timeout": {"type": "float", "default": 60.0},
    "output_limit": {"type": "int", "default": 65536},
}


def check(module: AnsibleModule, hands: Hands, order: Order) -> None:
    """Say what would be run."""
    told = hands.foretell(order)
    if told.refusal:
        module.warn(f"Refused outside check mode: {told.refusal}")
    module.exit_json(changed=not told.decision.reads, **told.as_dict())


def run(module: AnsibleModule, hands: Hands, order: Order) -> None:
    """Run it; the module fails as the command does."""
    out, err = Capture(module.params["output_limit"]), Capture(module.params["output_limit"])

    def printed() -> dict[str, Any]:
        sizes = {"stdout_bytes": out.size, "stderr_bytes": err.size}
        return {"stdout": out.text, "stderr": err.text, **sizes}

    try:
        ended = hands.execute(order, out.feed, err.feed)
    except GuestShellError as error:
        module.fail_json(msg=str(error), **printed())
    result = {"changed": not ended.reads, **ended.as_dict(), **printed()}
    if ended.rc:
        module.fail_json(msg=f"'{order.command[0]}' on {ended.target.guest} ended with {ended.rc}", **result)
    module.exit_json(**result)


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    try:
        if not 0 < params["timeout"] <= 86400 or params["output_limit"] < 1:
            raise PreflightError("timeout must be above 0 and at most 86400, output_limit at least 1")
        site = Site.of(params, {}, attempt=partial(ModuleAttempt, secrets=module.no_log_values), tell=module.warn)
        order = Order(params["name"], tuple(params["command"]), params["timeout"], params["plan_id"] or None)
        (check if module.check_mode else run)(module, Hands(site), order)
    except NHIError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
