#!/usr/bin/python

# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_service
short_description: Register a deployed service, or forget one that is gone
version_added: 0.1.0
description:
  - The last step of a deployment. It asks the service from outside whether it is well, as its catalogue entry says, and
    repeats that for a bounded time. A service that is well is written into the dependency graph and the targets of the
    monitoring, and its guest is scanned, so that C(state.json) tells the truth at once.
  - A service that is not well is not registered, and the task fails with what it answered.
  - The hand-edited C(dependency_graph.json) is never written. Registered services stand in C(dependency_graph.d) beside
    C(state.json), one file for each guest, and are read together with it.
  - It installs nothing. Roles do that, and M(nhi.core.nhi_vm) makes the guest.
extends_documentation_fragment:
  - nhi.core.attributes
  - nhi.core.proxmox
  - nhi.core.state
attributes:
  check_mode:
    support: full
    details:
      - Asks nobody, as there may be nobody yet, and writes nothing.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  name:
    description: Name of the guest on which the service runs. The service bears this name in the dependency graph.
    type: str
    required: true
  state:
    description:
      - V(present) checks and registers the service.
      - V(absent) removes what was registered, whatever became of the guest.
      - V(absent) with O(deployment) registers what was registered before that deployment.
    type: str
    choices: [present, absent]
    default: present
  service:
    description: Name of the service's catalogue entry. Needed for V(present).
    type: str
  purpose:
    description: What the service is for, one word.
    type: str
  address:
    description: Where the service answers. Needed for V(present), except in check mode.
    type: str
  catalogue:
    description: Entries of the service catalogue, as P(nhi.core.nhi_catalogue#lookup) returns them.
    type: list
    elements: dict
    required: true
  deployment:
    description:
      - Run of M(nhi.core.nhi_deployment). Its record tells what was registered before, and goes once the service is
        registered.
    type: str
  dependency_graph:
    description: Hand-edited dependency graph. That of O(state_dir) is read if not specified.
    type: path
  health_timeout:
    description: Longest time in seconds to wait until all endpoints of the service are well.
    type: float
    default: 30.0
  guest_health_port:
    description: TCP port that tells the scan whether a guest without a service is well. V(0) asks none.
    type: int
    default: 22
requirements:
  - jsonschema >= 4.0 (only to explain what is wrong with a state that is not valid)
seealso:
  - module: nhi.core.nhi_deployment
  - module: nhi.core.nhi_vm
  - module: nhi.core.nhi_state_scan
  - plugin: nhi.core.nhi_catalogue
    plugin_type: lookup
  - plugin: nhi.core.nhi_endpoint
    plugin_type: lookup
author:
  - NHI contributors (@nhi-lab)
"""

EXAMPLES = r"""
- name: Register Redis once it answers
  nhi.core.nhi_service:
    name: redis-cache
    service: redis
    purpose: cache
    address: 192.0.2.105
    catalogue: "{{ query('nhi.core.nhi_catalogue') }}"
    state_dir: /var/lib/nhi

- name: Forget it
  nhi.core.nhi_service:
    name: redis-cache
    state: absent
    catalogue: "{{ query('nhi.core.nhi_catalogue') }}"
    state_dir: /var/lib/nhi
"""

RETURN = r"""
health:
  description: V(healthy) when every endpoint with a health check passed it, V(unknown) when there is none or nobody was
    asked, V(unhealthy) otherwise.
  returned: success
  type: str
  sample: healthy
endpoints:
  description: Every endpoint with its health.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: main, protocol: redis, port: 6379, url: 'redis://192.0.2.105:6379', probe: redis, health: healthy,
       detail: PONG, latency_ms: 0.4}
port:
  description: Port of the first endpoint.
  returned: success
  type: int
  sample: 6379
url:
  description: URL of the first endpoint. Null when there is no address yet.
  returned: success
  type: str
  sample: redis://192.0.2.105:6379
registered:
  description: Whether this run wrote something. If a later step of a deployment fails, only such a service is to be
    forgotten again.
  returned: success
  type: bool
  sample: true
files:
  description: The files in which the service is registered.
  returned: success
  type: dict
  sample:
    dependency_graph: /var/lib/nhi/dependency_graph.d/redis-cache.json
    monitoring_targets: /var/lib/nhi/monitoring/targets/redis-cache.json
unknown_dependencies:
  description: What the catalogue says the service depends on and the dependency graph does not know.
  returned: success
  type: list
  elements: str
  sample: []
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nhi.core.plugins.module_utils._audited import audited
from ansible_collections.nhi.core.plugins.module_utils._proxmox import (
    PROXMOX_ARGS,
    ProxmoxClient,
    endpoint_from_params,
)
from ansible_collections.nhi.core.plugins.module_utils._state_args import STATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils.about import this_program
from ansible_collections.nhi.core.plugins.module_utils.audit import Attempt
from ansible_collections.nhi.core.plugins.module_utils.catalogue import CatalogueEntry, find_entry, load_catalogue
from ansible_collections.nhi.core.plugins.module_utils.deployment import Deployment, step
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError, PreflightError
from ansible_collections.nhi.core.plugins.module_utils.graph import find_graph
from ansible_collections.nhi.core.plugins.module_utils.guest_spec import guest_name
from ansible_collections.nhi.core.plugins.module_utils.history_keeper import Keeper
from ansible_collections.nhi.core.plugins.module_utils.interrupts import InterruptedRunError, Interrupts
from ansible_collections.nhi.core.plugins.module_utils.scan_options import ScanOptions, guest_wish
from ansible_collections.nhi.core.plugins.module_utils.scan_write import run_scan
from ansible_collections.nhi.core.plugins.module_utils.service_records import Deployed, Records, ServiceRecords
from ansible_collections.nhi.core.plugins.module_utils.service_registration import Registration, register, unregister
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore


def scanner(params: dict[str, Any], catalogue: dict[str, CatalogueEntry]) -> Callable[[], None]:
    """Scans the guest, or the whole lab where that was never done, and writes state.json."""

    def scan() -> None:
        endpoint = endpoint_from_params(params)
        with ProxmoxClient(endpoint) as client:
            run_scan(
                StateStore(params["state_dir"]),
                client,
                catalogue,
                ScanOptions(guest_health_port=params["guest_health_port"], guests=guest_wish([params["name"]])),
                endpoint=f"{endpoint.identity} at {endpoint.server}",
                identity=endpoint.identity,
                by=this_program("nhi_service"),
            )

    return scan


def run(params: dict[str, Any], attempt: Attempt, tell: Callable[[str], None], *, check_mode: bool) -> Registration:
    """Register or forget as the options say, as a step of a deployment if one is named."""
    name = guest_name(params["name"])
    with step(Path(params["state_dir"]), name, None if check_mode else params["deployment"]) as deployment:
        keep = Keeper(Path(params["state_dir"]), "nhi_service", tell)
        return _carry_out(name, params, attempt, deployment, keep, check_mode=check_mode)


def _carry_out(
    name: str,
    params: dict[str, Any],
    attempt: Attempt,
    deployment: Deployment | None,
    keep: Keeper,
    *,
    check_mode: bool,
) -> Registration:
    catalogue = load_catalogue(params["catalogue"])
    records = attempt.watching(ServiceRecords(params["state_dir"], name))
    scan = None if check_mode else scanner(params, catalogue)
    if params["state"] == "absent":
        if deployment is None:
            return unregister(records, scan, keep=keep)
        before = deployment.record.registration
        return unregister(records, scan, records.read() if before is None else Records.from_data(before), keep)
    entry = find_entry(catalogue, params["service"])
    if not params["address"] and not check_mode:
        raise PreflightError(f"{name} has no address to ask {entry.name} at: give address, and correct its network")
    deployed = Deployed(entry, name, params["purpose"], params["address"] or "")
    graph = find_graph(params["dependency_graph"], params["state_dir"])
    patience = params["health_timeout"]
    if deployment is None:
        return register(records, deployed, graph, patience, scan, keep=keep)
    result = register(
        records, deployed, graph, patience, scan, lambda before: deployment.registers(before.as_data()), keep
    )
    deployment.end()
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **PROXMOX_ARGS,
            **STATE_ARGS,
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "service": {"type": "str"},
            "purpose": {"type": "str"},
            "address": {"type": "str"},
            "catalogue": {"type": "list", "elements": "dict", "required": True},
            "deployment": {"type": "str"},
            "dependency_graph": {"type": "path"},
            "health_timeout": {"type": "float", "default": 30.0},
            "guest_health_port": {"type": "int", "default": 22},
        },
        required_if=[("state", "present", ["service"])],
        supports_check_mode=True,
    )
    try:
        with audited(module, "nhi_service") as attempt, Interrupts():
            result = run(module.params, attempt, module.warn, check_mode=module.check_mode)
            attempt.note(changed=result.changed)
    except InterruptedRunError as error:
        module.fail_json(
            msg=f"The registration of {module.params['name']} was {error}: run the same again to finish it."
        )
    except NHIError as error:
        module.fail_json(msg=str(error))
    for warning in result.warnings:
        module.warn(warning)
    data = result.as_data()
    if module._diff:
        data["diff"] = {"before": result.before.as_data(), "after": result.after.as_data()}
    module.exit_json(**data)


if __name__ == "__main__":
    main()
