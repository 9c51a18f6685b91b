#!/usr/bin/python
# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module nhi.core.nhi_state_scan."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_state_scan
short_description: Scan a Proxmox VE cluster and write state.json
version_added: "0.1.0"
author:
  - NHI contributors (@nhi-lab)
description:
  - Reads nodes, guests, addresses and storage from the Proxmox VE API, asks the services that guests offer whether they
    are well, computes alerts, and writes all of it to C(state.json).
  - Scans are cheap. Three calls tell what there is and what happened lately; details are read only of guests that are
    new, changed, lately touched by a task, or due, a few at a time per node, and agents that do not answer are not
    asked again for a while. What to ask again is remembered in C(scan_cache.json) beside the state; without it the next
    scan reads everything.
  - With O(guests) only these guests are read, which costs two or three calls each.
  - A node or guest that can not be read never fails the scan. Its last known facts are kept as V(stale), with the time
    they were observed, and an alert is raised. The scan fails when the API can not be reached or refuses the token,
    and when the token is allowed to see no guest at all.
  - The module changes nothing in Proxmox VE.
extends_documentation_fragment:
  - nhi.core.attributes
  - nhi.core.proxmox
  - nhi.core.state
attributes:
  check_mode:
    support: full
    details:
      - Reads and probes as always, and writes neither C(state.json) nor C(scan_cache.json).
  diff_mode:
    support: full
    details:
      - Shows nodes, guests, storages, services and alerts that differ, without numbers and times that tick.
  idempotent:
    support: full
    details:
      - A second scan of a lab in which nothing happened reports no change, although it writes C(state.json) again
        with fresh times and numbers.
options:
  catalogue:
    description:
      - Entries of the service catalogue, as P(nhi.core.nhi_catalogue#lookup) returns them.
      - A guest offers a service when it has the tag C(svc-<name>) of an entry.
    type: list
    elements: dict
    default: []
  concurrency:
    description:
      - Number of requests that may be under way for one node at a time. The API daemon of a node has three workers.
    type: int
    default: 4
  full:
    description:
      - Whether to read every guest again, whatever is remembered of it.
    type: bool
    default: false
  guests:
    description:
      - Names or VMIDs of guests. Only these are read, always anew, and only their services are asked. Everything else
        in C(state.json) stays as it was, with the time it was observed.
      - A guest of these that no longer exists is removed from the state, with its services and alerts.
      - Without a C(state.json) everything is read.
    type: list
    elements: str
    default: []
  health_checks:
    description:
      - Whether to ask services, and guests without a service, whether they answer.
      - Without it their health is V(unknown).
    type: bool
    default: true
  guest_health_port:
    description:
      - TCP port that tells whether a guest without a service is well. V(0) asks none, and the health of such guests is
        V(unknown).
    type: int
    default: 22
  probe_deadline_seconds:
    description:
      - Time for all health checks together. What has not answered then is V(unknown).
    type: float
    default: 10.0
  config_ttl_seconds:
    description:
      - Time after which the configuration of a guest is read again although its row in the list did not change. Each
        guest has its own share of this time, so that they do not all expire at once.
    type: float
    default: 3600.0
  address_ttl_seconds:
    description:
      - Time after which a running guest without a static address is asked again for its addresses. It is asked at once
        after a restart.
    type: float
    default: 900.0
  dead_agent_ttl_seconds:
    description:
      - Time for which a guest agent that did not answer is left alone. A guest that was just started is asked again
        sooner.
    type: float
    default: 600.0
  redis_url:
    description:
      - Redis in which the router keeps the quotas of providers of language models, without a password. Each scan of
        everything writes them to C(api_providers) of the state.
      - When it can not be reached, what was known is kept and marked V(stale), with a warning.
      - Uses the E(NHI_REDIS_URL) environment variable if not specified. Without both the quotas stay as they are.
    type: str
    version_added: "0.2.0"
  redis_password:
    description:
      - Password of Redis.
      - Uses the E(NHI_REDIS_PASSWORD) environment variable if not specified.
    type: str
    version_added: "0.2.0"
requirements:
  - redis >= 5.0 (only with O(redis_url))
  - jsonschema >= 4.0 (only to explain what is wrong with a state that is not valid)
seealso:
  - module: nhi.core.nhi_state
  - plugin: nhi.core.nhi_state
    plugin_type: inventory
  - plugin: nhi.core.nhi_catalogue
    plugin_type: lookup
  - plugin: nhi.core.nhi_endpoint
    plugin_type: lookup
"""

EXAMPLES = r"""
- name: Scan the lab
  nhi.core.nhi_state_scan:
    api_host: pve.example.net
    api_user: nhi@pve
    api_token_id: reader
    api_token_secret: "{{ vault_proxmox_reader_secret }}"
    state_dir: /var/lib/nhi
    catalogue: "{{ query('nhi.core.nhi_catalogue') }}"

- name: Read one guest that was just changed
  nhi.core.nhi_state_scan:
    state_dir: /var/lib/nhi
    guests: [redis-cache]
    catalogue: "{{ query('nhi.core.nhi_catalogue') }}"

- name: Read everything again and show what differs, without writing it down
  nhi.core.nhi_state_scan:
    state_dir: /var/lib/nhi
    full: true
  check_mode: true
  diff: true
"""

RETURN = r"""
counts:
  description: Number of nodes, guests, storages, services and alerts in the state, of guests that run, that are not
    fresh, and of those this scan asked about.
  returned: success
  type: dict
  sample: {"alerts": 0, "guests": 6, "nodes": 1, "read": 1, "running": 6, "services": 2, "stale": 0, "storage": 2}
durations:
  description: Seconds of each phase and in total.
  returned: success
  type: dict
  sample: {"guests": 0.021, "probes": 0.004, "resources": 0.012, "total": 0.061, "write": 0.024}
api_calls:
  description: Number of requests to the API.
  returned: success
  type: int
  sample: 3
kind:
  description: V(cold) when nothing was remembered and every guest was read, V(partial) when only O(guests) were, else
    V(warm).
  returned: success
  type: str
  sample: warm
changed_guests:
  description: Guests that were added, removed or changed, with the names of the facts that differ.
  returned: success
  type: list
  elements: dict
  sample: [{"change": "changed", "facts": ["health", "status"], "name": "redis-cache", "vmid": 105}]
nodes:
  description: The nodes as they stand in the state, in check mode as they would.
  returned: success
  type: list
  elements: dict
  sample: [{"cpu_cores": 12, "memory_total_mib": 32000, "name": "pve", "status": "online"}]
alerts:
  description: All alerts of the state.
  returned: success
  type: list
  elements: dict
  sample: []
revision:
  description: Number of writes that led to the state.
  returned: success
  type: int
  sample: 12
topology_fingerprint:
  description: Hash of what identifies and connects the guests.
  returned: success
  type: str
  sample: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nhi.core.plugins.module_utils._proxmox import (
    PROXMOX_ARGS,
    ProxmoxClient,
    endpoint_from_params,
)
from ansible_collections.nhi.core.plugins.module_utils._quota_redis import REDIS_ARGS, require_redis
from ansible_collections.nhi.core.plugins.module_utils._state_args import STATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils.about import this_program
from ansible_collections.nhi.core.plugins.module_utils.catalogue import load_catalogue
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.interrupts import InterruptedRunError, Interrupts
from ansible_collections.nhi.core.plugins.module_utils.quota_redis import open_redis
from ansible_collections.nhi.core.plugins.module_utils.scan_options import options_from_params
from ansible_collections.nhi.core.plugins.module_utils.scan_partial import unknown_guests
from ansible_collections.nhi.core.plugins.module_utils.scan_write import ScanReport, run_scan
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore


def run(params: dict[str, Any], *, dry_run: bool) -> ScanReport:
    """Scan as the options say."""
    endpoint = endpoint_from_params(params)
    quotas = open_redis(params["redis_url"], params["redis_password"]) if params["redis_url"] else None
    options, catalogue = options_from_params(params, quotas), load_catalogue(params["catalogue"])
    with ProxmoxClient(endpoint) as client:
        return run_scan(
            StateStore(params["state_dir"]),
            client,
            catalogue,
            options,
            endpoint=f"{endpoint.identity} at {endpoint.server}",
            identity=endpoint.identity,
            by=this_program("nhi_state_scan"),
            dry_run=dry_run,
        )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **PROXMOX_ARGS,
            **STATE_ARGS,
            **REDIS_ARGS,
            "catalogue": {"type": "list", "elements": "dict", "default": []},
            "concurrency": {"type": "int", "default": 4},
            "full": {"type": "bool", "default": False},
            "guests": {"type": "list", "elements": "str", "default": []},
            "health_checks": {"type": "bool", "default": True},
            "guest_health_port": {"type": "int", "default": 22},
            "probe_deadline_seconds": {"type": "float", "default": 10.0},
            "config_ttl_seconds": {"type": "float", "default": 3600.0},
            "address_ttl_seconds": {"type": "float", "default": 900.0},
            "dead_agent_ttl_seconds": {"type": "float", "default": 600.0},
        },
        supports_check_mode=True,
    )
    if module.params["redis_url"]:
        require_redis(module)
    try:
        with Interrupts():
            report = run(module.params, dry_run=module.check_mode)
    except InterruptedRunError as error:
        module.fail_json(msg=f"The scan was {error}: what it read is lost and state.json is whole, so scan again.")
    except NHIError as error:
        module.fail_json(msg=str(error))
    for name in unknown_guests(report.result):
        module.warn(f"No guest that this token may see is called {name}, and the last state knows none either.")
    for warning in report.warnings:
        module.warn(warning)
    result = report.as_data()
    if module._diff:
        result["diff"] = report.diff
    module.exit_json(**result)


if __name__ == "__main__":
    main()
