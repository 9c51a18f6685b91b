# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup plugin nhi.core.nhi_services."""

from __future__ import annotations

DOCUMENTATION = r"""
name: nhi_services
short_description: List which services can be had and which run where
version_added: 0.1.0
author:
  - NHI contributors (@nhi-lab)
description:
  - Puts the service catalogue and the verified C(state.json) side by side. Before the first scan nothing is known to
    run.
  - Deployments and removals that are under way or were cut off are listed too.
  - Health is what the last scan saw. The look-up connects to nothing.
  - To choose an instance for a client use P(nhi.core.nhi_endpoint#lookup).
extends_documentation_fragment:
  - nhi.core.lookup_sources.catalogue_directories
  - nhi.core.lookup_sources.state_directory
options: {}
seealso:
  - plugin: nhi.core.nhi_catalogue
    plugin_type: lookup
  - plugin: nhi.core.nhi_endpoint
    plugin_type: lookup
"""

EXAMPLES = r"""
- name: Show what can be had and what runs
  ansible.builtin.debug:
    msg: "{{ lookup('nhi.core.nhi_services').table }}"

- name: Find what is not well
  ansible.builtin.debug:
    msg: "{{ services | rejectattr('health', 'equalto', 'healthy') | map(attribute='guest') }}"
  vars:
    services: "{{ lookup('nhi.core.nhi_services').services }}"
"""

RETURN = r"""
_raw:
  description: One dictionary.
  type: list
  elements: dict
  contains:
    catalogue:
      description:
        - What can be had, by name, with ports, purposes that have a size of their own, criticality and backup class.
      type: list
      elements: dict
      sample:
        - {service: redis, title: Redis, summary: In-memory data store., ports: [6379], purposes: [default, cache],
           criticality: medium, backup: weekly}
    services:
      description: What runs, with guest, VMID, address, URLs, health and when it was observed.
      type: list
      elements: dict
      sample:
        - {service: redis, purpose: cache, guest: redis-cache, vmid: 105, address: 192.0.2.105, health: healthy,
           freshness: fresh, observed_at: '2026-11-23T18:00:00.123456+00:00', urls: ['redis://192.0.2.105:6379']}
    unfinished:
      description:
        - Services that are being deployed or removed, or whose deployment or removal was cut off. The message says what
          to do.
      type: list
      elements: dict
      sample:
        - {guest: redis-cache, what: deployment, service: redis, purpose: cache, actor: alice,
           since: '2026-11-23T18:00:00+00:00', under_way: true,
           message: 'redis-cache is being deployed by alice (pid 4711 on brain, since 2026-11-23T18:00:00+00:00).'}
    observed_at:
      description: When the state was written. Null before the first scan.
      type: str
      sample: "2026-11-23T18:00:00.123456+00:00"
    table:
      description: All lists as lines for people.
      type: list
      elements: str
      sample: ['SERVICE  PURPOSE  GUEST        VMID  URL                       HEALTH']
"""

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.nhi.core.plugins.module_utils.catalogue_files import read_catalogue
from ansible_collections.nhi.core.plugins.module_utils.deployment import unfinished
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.service_list import list_services, table
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.plugin_utils.state_source import shape_explained, state_directory


class LookupModule(LookupBase):
    """Reads both; what is listed is decided in module_utils/service_list.py."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[dict[str, Any]]:
        """One dictionary, whatever the terms."""
        self.set_options(var_options=variables, direct=kwargs)
        configured = self.get_option("state_dir")
        if self._templar is not None:
            configured = self._templar.template(configured)
        try:
            catalogue = read_catalogue(self.get_option("directories"))
            directory = state_directory(str(configured), ".")
            snapshot = StateStore(directory).read_or_none()
            document = snapshot.document if snapshot else None
            with shape_explained(document):
                listing = list_services(catalogue, document, unfinished(Path(directory)))
        except NHIError as error:
            raise AnsibleLookupError(str(error)) from error
        return [{**listing, "table": table(listing)}]
