#!/usr/bin/python

# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_dependency_info
short_description: Tell what depends on a service, and when it may be restarted
version_added: "0.1.0"
description:
  - Reads and checks the dependency graph, and shows it together with what the last scan knows.
  - For services that are named it tells what stops with them, in which order to stop and start it, how long that takes
    according to earlier restarts, and the next time that is safe for all of them.
  - Nothing is asked of the lab, and nothing is written.
extends_documentation_fragment:
  - nhi.core.attributes
  - nhi.core.attributes.info_module
  - nhi.core.state
options:
  services:
    description: Services of the graph that would be restarted or stopped. An item may hold several, with commas.
    type: list
    elements: str
    default: []
  dependency_graph:
    description: Hand-edited dependency graph. That of O(state_dir) is read if not specified.
    type: path
  picture:
    description: Also draw the graph with the health of its services, as text for Mermaid or as an SVG.
    type: str
    choices: [mermaid, svg]
requirements:
  - jsonschema >= 4.0 (only to explain what is wrong with a graph that is not valid)
seealso:
  - module: nhi.core.nhi_vm
author:
  - NHI contributors (@nhi-lab)
"""

EXAMPLES = r"""
- name: Ask what restarting the database would mean
  nhi.core.nhi_dependency_info:
    services: [postgres-lxc]
    state_dir: /var/lib/nhi
  register: impact

- name: Say it
  ansible.builtin.debug:
    msg: "{{ impact.restart.summary }}"

- name: Draw the lab
  nhi.core.nhi_dependency_info:
    picture: svg
    state_dir: /var/lib/nhi
  register: drawn

- name: Keep the picture
  ansible.builtin.copy:
    content: "{{ drawn.picture }}"
    dest: /srv/www/lab.svg
    mode: "0644"
"""

RETURN = r"""
services:
  description: Every service of the graph. Health is V(unknown) where nobody asked, or too long ago.
  returned: success
  type: list
  elements: dict
  sample:
    - name: webapp
      description: null
      criticality: medium
      depends_on: [{service: postgres-lxc, port: 5432, use: sql}]
      required_by: []
      can_restart_without_approval: false
      safe_hours: 02:00-05:00
      unit: null
      guest: webapp
      vmid: 110
      health: healthy
start_order:
  description: All services, each after what it needs.
  returned: success
  type: list
  elements: str
  sample: [postgres-lxc, webapp]
time_zone:
  description: On whose clock hours are read.
  returned: success
  type: str
  sample: Europe/Berlin
warnings:
  description: Services on guests that nobody knows, and guests of which the graph knows no service.
  returned: success
  type: list
  elements: str
  sample: []
restart:
  description:
    - What it means to restart or stop O(services). Null where none was named.
    - C(stop_order) and C(start_order) have everything that stops.
    - C(downtime) has the middle and the longest of the last restarts of each, in seconds, and how many there were.
      C(downtime_seconds) of a dependent is how long it is away while they are restarted one after the other. Null is
      unknown.
    - C(safe_window) is when all of these may be disturbed.
  returned: success
  type: dict
  sample:
    services: [postgres-lxc]
    critical_services: [postgres-lxc]
    dependents:
      - {name: webapp, criticality: medium, through: postgres-lxc, guest: webapp, active: true, downtime_seconds: 3.1}
    stop_order: [webapp, postgres-lxc]
    start_order: [postgres-lxc, webapp]
    criticality: medium
    safe_window: {open: false, start: '2026-01-20T02:00:00+01:00', end: '2026-01-20T05:00:00+01:00',
                  time_zone: Europe/Berlin, hours: '02:00-05:00', limited_by: [webapp]}
    downtime: {postgres-lxc: {seconds: 3.1, longest_seconds: 4.0, samples: 7}}
    duration_seconds: 3.1
    needs_approval: [postgres-lxc]
    summary: ['webapp (medium) would stop working: it needs postgres-lxc.']
picture:
  description: The graph as text for Mermaid, or as an SVG.
  returned: if O(picture) is specified
  type: str
  sample: flowchart LR
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nhi.core.plugins.module_utils._state_args import STATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils.dependency_report import dependency_report, named
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.graph import require_graph
from ansible_collections.nhi.core.plugins.module_utils.graph_picture import mermaid, svg
from ansible_collections.nhi.core.plugins.module_utils.graph_places import places
from ansible_collections.nhi.core.plugins.module_utils.restart_history import RestartHistory
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore

PICTURES = {"mermaid": mermaid, "svg": svg}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **STATE_ARGS,
            "services": {"type": "list", "elements": "str", "default": []},
            "dependency_graph": {"type": "path"},
            "picture": {"type": "str", "choices": list(PICTURES)},
        },
        supports_check_mode=True,
    )
    state_dir, picture = module.params["state_dir"], module.params["picture"]
    try:
        graph = require_graph(module.params["dependency_graph"], state_dir)
        snapshot = StateStore(state_dir).read_or_none()
        document = snapshot.document if snapshot else None
        names = named(module.params["services"])
        report = dependency_report(graph, document, names, RestartHistory(state_dir).estimates(names))
        if picture:
            report["picture"] = PICTURES[picture](graph, places(graph, document))
    except NHIError as error:
        module.fail_json(msg=str(error))
    for warning in report["warnings"]:
        module.warn(warning)
    module.exit_json(changed=False, **report)


if __name__ == "__main__":
    main()
