#!/usr/bin/python

# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_restart
short_description: Restart services in order, now or in their next safe window
version_added: "0.1.0"
description:
  - Restarts services of the dependency graph one after the other, each after what it needs. It waits until each is well
    again, as its catalogue entry says, before it goes on, and stops at the first that is not.
  - A service is restarted by its systemd unit, over SSH. The unit is that of its catalogue entry, or C(unit) in the
    dependency graph. Where neither is known its guest is restarted, unless services would stop of which nobody spoke.
  - Outside the hours that are safe for the services, and for all that depends on them, nothing is restarted. It is
    scheduled for the next safe window. Something has to look for what is due, such as the timer of the role
    P(nhi.core.restart_timer#role).
  - A service without C(can_restart_without_approval) in the dependency graph is restarted only if O(confirm) names it.
  - Where a policy is in force, a restart of services with C(can_restart_without_approval), in their safe hours, is the
    operation V(restart) of the policy. Any other is V(restart_guarded). What is scheduled is let through when it is
    asked for; when its hour comes it only has to be still the same.
  - The Brain is never restarted.
  - Every step is written down before it is taken. Killed in the middle, the same again goes on where it was.
extends_documentation_fragment:
  - nhi.core.attributes
  - nhi.core.gate
  - nhi.core.proxmox
  - nhi.core.state
  - nhi.core.ssh
attributes:
  check_mode:
    support: full
    details:
      - Returns the plan and what speaks against it, and does nothing.
  diff_mode:
    support: none
  idempotent:
    support: partial
    details:
      - Each run restarts. What is scheduled already is not scheduled twice.
options:
  services:
    description: Services of the dependency graph. An item may hold several, with commas.
    type: list
    elements: str
  due:
    description: Whether to do the scheduled restarts whose hour has come, instead of O(services).
    type: bool
    default: false
  cancel:
    description: A scheduled restart that is not to be done, by its id or one of its services. Also the operation of a
      restart that was cut off and is not to be taken up again.
    type: str
  confirm:
    description: Names of services, with which somebody who may decide that stands for their restart.
    type: list
    elements: str
    default: []
  at:
    description:
      - V(window) waits for the next time that is safe.
      - V(now) does not. Outside the safe window every service has to be named in O(confirm) for that.
    type: str
    choices: [window, now]
    default: window
  whole_guests:
    description: Whether to restart the guests of services, also where restarting a unit would do.
    type: bool
    default: false
  catalogue:
    description: Entries of the service catalogue, as P(nhi.core.nhi_catalogue#lookup) returns them.
    type: list
    elements: dict
    default: []
  dependency_graph:
    description: Hand-edited dependency graph. That of O(state_dir) is read if not specified.
    type: path
  health_timeout:
    description: Longest time in seconds to wait until a restarted service is well again.
    type: float
    default: 60.0
  guest_health_port:
    description: TCP port that tells whether a guest is back whose service has no health check. V(0) asks none.
    type: int
    default: 22
  brain_vmid:
    description: VMID of the Brain. A guest with the tag C(brain) is the Brain too.
    type: int
    default: 100
seealso:
  - module: nhi.core.nhi_dependency_info
  - module: nhi.core.nhi_vm
author:
  - NHI contributors (@nhi-lab)
"""

EXAMPLES = r"""
- name: Restart the cache and what is shown with it, in order
  nhi.core.nhi_restart:
    services: [redis-cache, nginx-web]
    catalogue: "{{ query('nhi.core.nhi_catalogue') }}"
    known_hosts: /var/lib/nhi/known_hosts
    state_dir: /var/lib/nhi

- name: Restart the database now, whatever the hour
  nhi.core.nhi_restart:
    services: [postgres-lxc]
    at: now
    confirm: [postgres-lxc]
    state_dir: /var/lib/nhi

- name: Take a scheduled restart back
  nhi.core.nhi_restart:
    cancel: redis-cache
    state_dir: /var/lib/nhi
"""

RETURN = r"""
action:
  description: What was done, V(restarted), V(scheduled), V(cancelled), V(dismissed) or V(due), or in check mode
    V(would_restart) or V(would_schedule).
  returned: success
  type: str
  sample: restarted
plan:
  description: The steps in order, the checks that were made, what depends on the services, and when it is safe. In
    check mode, where a policy is in force, also C(plan_id), C(needs_approval), C(decision), C(reason), C(expires_at).
  returned: success, if O(services) is specified
  type: dict
  sample:
    action: restart
    steps: [{service: redis-cache, how: unit, unit: redis-server, guest: redis-cache, vmid: 105, address: 192.0.2.105,
             text: 'Restart redis-cache: unit redis-server on redis-cache; then wait for redis :6379'}]
    preflight: [{check: approved, passed: true, message: 'every service may be restarted, or was confirmed'}]
    duration_seconds: 1.2
how_to_apply:
  description: In check mode, where a policy is in force, how to apply this plan.
  returned: success
  type: list
  elements: str
  sample: []
restarted:
  description: Services that were restarted and are well.
  returned: if something was begun, also on failure
  type: list
  elements: str
  sample: [redis-cache]
not_restarted:
  description: Services that were not, as the run stopped before.
  returned: if something was begun, also on failure
  type: list
  elements: str
  sample: []
resumed:
  description: Services that a run which was cut off had restarted already.
  returned: if something was begun, also on failure
  type: list
  elements: str
  sample: []
failed_service:
  description: At which service the run stopped.
  returned: if something was begun, also on failure
  type: str
  sample: null
downtime_seconds:
  description: From the beginning of each restart until the service was well. Null where nobody saw it.
  returned: if something was begun, also on failure
  type: dict
  sample: {redis-cache: 1.2}
job:
  description: The scheduled restart that was made, found or cancelled. Times are UTC.
  returned: success
  type: dict
  sample: {id: restart-0a1b2c3d, services: [minio-lxc], status: scheduled, not_before: '2026-01-20T01:00:00+00:00'}
jobs:
  description: Everything that is scheduled, or ended in the last days.
  returned: success
  type: list
  elements: dict
  sample: []
cut_off:
  description: Restarts that were killed and not taken up again.
  returned: success
  type: list
  elements: dict
  sample: []
operation:
  description: Which run it was, as the history of restarts names it.
  returned: success
  type: str
  sample: restart-0a1b2c3d4e5f
summary:
  description: The plan, or what became of it, for people.
  returned: success
  type: list
  elements: str
  sample: ['redis-cache was restarted and is well after 1.2 s']
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nhi.core.plugins.module_utils._gate_args import GATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils._proxmox import PROXMOX_ARGS
from ansible_collections.nhi.core.plugins.module_utils._ssh_args import SSH_ARGS
from ansible_collections.nhi.core.plugins.module_utils._state_args import STATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils.catalogue import load_catalogue
from ansible_collections.nhi.core.plugins.module_utils.dependency_report import named
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.restart_jobs import FAILED, job_lines
from ansible_collections.nhi.core.plugins.module_utils.restart_plan import RestartWish
from ansible_collections.nhi.core.plugins.module_utils.restart_site import site_from_params
from ansible_collections.nhi.core.plugins.module_utils.restarts import Restarts, RestartStoppedError

ARGUMENT_SPEC: dict[str, dict[str, Any]] = {
    **PROXMOX_ARGS,
    **STATE_ARGS,
    **GATE_ARGS,
    **SSH_ARGS,
    "services": {"type": "list", "elements": "str"},
    "due": {"type": "bool", "default": False},
    "cancel": {"type": "str"},
    "confirm": {"type": "list", "elements": "str", "default": []},
    "at": {"type": "str", "choices": ["window", "now"], "default": "window"},
    "whole_guests": {"type": "bool", "default": False},
    "catalogue": {"type": "list", "elements": "dict", "default": []},
    "dependency_graph": {"type": "path"},
    "health_timeout": {"type": "float", "default": 60.0},
    "guest_health_port": {"type": "int", "default": 22},
    "brain_vmid": {"type": "int", "default": 100},
}


def run(module: AnsibleModule) -> dict[str, Any]:
    """Do what the options say; the result of the module."""
    params = module.params
    site = site_from_params(params, load_catalogue(params["catalogue"]), "nhi_restart", module.warn)
    restarts = Restarts(site)
    if params["due"]:
        return _due(restarts, check_mode=module.check_mode)
    if params["cancel"]:
        if module.check_mode:
            return {"changed": True, "action": "would_cancel", **restarts.listing()}
        return {**restarts.cancel(params["cancel"]).as_dict(), **restarts.listing()}
    wish = RestartWish(
        tuple(named(params["services"])), frozenset(named(params["confirm"])), params["at"] == "now",
        params["whole_guests"],
    )  # fmt: skip
    outcome = restarts.request(wish, check_mode=module.check_mode)
    refused = [f"Refused outside check mode: {c.message}" for c in (outcome.plan.failed if outcome.plan else ())]
    for text in (*outcome.warnings, *refused):
        module.warn(text)
    return {**outcome.as_dict(), **restarts.listing()}


def _due(restarts: Restarts, *, check_mode: bool) -> dict[str, Any]:
    ended = [] if check_mode else restarts.run_due()
    result = {"changed": bool(ended), "action": "due", "summary": job_lines(ended), **restarts.listing()}
    failed = [job for job in ended if job.status == FAILED]
    if failed:
        result.update(failed=True, msg="; ".join(f"{job.label}: {job.message}" for job in failed))
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        mutually_exclusive=[("services", "cancel")],
        supports_check_mode=True,
    )
    if sum(bool(module.params[name]) for name in ("services", "due", "cancel")) != 1:
        module.fail_json(msg="Say what to restart with services, or use due or cancel instead.")
    try:
        result = run(module)
    except RestartStoppedError as error:
        module.fail_json(msg=str(error), **error.progress)
    except NHIError as error:
        module.fail_json(msg=str(error))
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
