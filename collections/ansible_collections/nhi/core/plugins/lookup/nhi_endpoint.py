# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lookup plugin nhi.core.nhi_endpoint."""

from __future__ import annotations

DOCUMENTATION = r"""
name: nhi_endpoint
short_description: Where a healthy instance of a service answers
version_added: "0.1.0"
author:
  - NHI contributors (@nhi-lab)
description:
  - Finds an instance of a service in the verified C(state.json) and returns its host, port and URL, so that no playbook
    needs to know an address.
  - Healthy instances come before others, fresh ones before stale ones, then the lowest VMID. The same state always
    gives the same answer.
  - Health is what the last scan saw. The look-up connects to nothing.
extends_documentation_fragment:
  - nhi.core.lookup_sources.state_directory
options:
  _terms:
    description:
      - Names of services as in the catalogue, such as V(redis).
    type: list
    elements: str
    required: true
  purpose:
    description:
      - Only instances that were made for this purpose.
    type: str
  endpoint:
    description:
      - Name of the endpoint, for services that have several. Without it the first one of the instance is used.
    type: str
  guest:
    description:
      - Only the instance on the guest of this name.
    type: str
  allow_unhealthy:
    description:
      - Return an instance that is not healthy when no healthy one exists.
    type: bool
    default: false
  max_age:
    description:
      - Refuse a state that was written more than this many seconds ago. V(0) accepts any age.
    type: int
    default: 0
    env:
      - name: NHI_STATE_MAX_AGE
seealso:
  - plugin: nhi.core.nhi_state
    plugin_type: inventory
"""

EXAMPLES = r"""
- name: Point an application at the cache
  ansible.builtin.debug:
    msg: "{{ cache.host }}:{{ cache.port }}"
  vars:
    cache: "{{ lookup('nhi.core.nhi_endpoint', 'redis', purpose='cache') }}"

- name: Two services at once
  ansible.builtin.debug:
    msg: "{{ query('nhi.core.nhi_endpoint', 'redis', 'postgresql', max_age=600) | map(attribute='url') }}"
"""

RETURN = r"""
_raw:
  description: One instance for each service that was asked for.
  type: list
  elements: dict
  contains:
    host:
      description: Address of the guest.
      type: str
      sample: 10.86.0.105
    port:
      description: Port of the endpoint.
      type: int
      sample: 6379
    url:
      description: URL of the endpoint.
      type: str
      sample: redis://10.86.0.105:6379
    protocol:
      description: Protocol of the endpoint.
      type: str
      sample: redis
    endpoint:
      description: Name of the endpoint.
      type: str
      sample: main
    service:
      description: Name of the service.
      type: str
      sample: redis
    purpose:
      description: What the instance was made for, or none.
      type: str
      sample: cache
    guest:
      description: Name of the guest.
      type: str
      sample: redis-cache
    vmid:
      description: VMID of the guest.
      type: int
      sample: 105
    health:
      description: Health of the endpoint at the last scan.
      type: str
      sample: healthy
    freshness:
      description: V(fresh), or V(stale) when the last scan could not read it and earlier facts are shown.
      type: str
      sample: fresh
    observed_at:
      description: When the health was observed.
      type: str
      sample: "2026-11-23T18:00:00.123456+00:00"
"""

from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.nhi.core.plugins.module_utils.endpoints import Wanted, choose_endpoint
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.state_document import Document, utc_now
from ansible_collections.nhi.core.plugins.plugin_utils.state_source import read_state, shape_explained, state_directory


class LookupModule(LookupBase):
    """Reads the state once for all services asked for; the choice is made in module_utils/endpoints.py."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[dict[str, Any]]:
        """One endpoint for each term."""
        self._refuse_unknown_options(kwargs)
        self.set_options(var_options=variables, direct=kwargs)
        services = [self._service(term) for term in terms]
        if not services:
            raise AnsibleLookupError("nhi_endpoint needs the name of a service, such as 'redis'.")
        try:
            document = read_state(self._state_directory(), max_age=self.get_option("max_age"), now=utc_now())
            with shape_explained(document):
                return [self._endpoint(document, service) for service in services]
        except NHIError as error:
            raise AnsibleLookupError(str(error)) from error

    def _refuse_unknown_options(self, given: dict[str, Any]) -> None:
        """Ansible ignores a misspelt option; a service of any purpose is not what was asked for then."""
        unknown = sorted(set(given) - set(self.option_definitions))
        if unknown:
            raise AnsibleLookupError(
                f"nhi_endpoint does not know {', '.join(unknown)}: use {', '.join(sorted(self.option_definitions))}."
            )

    def _endpoint(self, document: Document, service: str) -> dict[str, Any]:
        wanted = Wanted(service, **{option: self.get_option(option) for option in ("purpose", "endpoint", "guest")})
        return choose_endpoint(
            document["infrastructure"]["services"], wanted, allow_unhealthy=self.get_option("allow_unhealthy")
        )

    def _service(self, term: Any) -> str:
        if not isinstance(term, str) or not term:
            raise AnsibleLookupError(f"nhi_endpoint needs the name of a service, such as 'redis', and got {term!r}.")
        return term

    def _state_directory(self) -> str:
        """The option's value; a variable arrives as written, so a template in it is still to be evaluated."""
        configured = self.get_option("state_dir")
        if self._templar is not None:
            configured = self._templar.template(configured)
        return state_directory(str(configured), ".")
