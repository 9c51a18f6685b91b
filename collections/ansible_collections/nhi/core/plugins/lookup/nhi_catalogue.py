# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: nhi_catalogue
short_description: Look up entries of the service catalogue
version_added: 0.1.0
author:
  - NHI contributors (@nhi-lab)
description:
  - Returns what is known about a service before a guest offers it, that is its role, sizes, ports and health checks.
  - To find a running instance use P(nhi.core.nhi_endpoint#lookup).
extends_documentation_fragment:
  - nhi.core.lookup_sources.catalogue_directories
options:
  _terms:
    description:
      - Names of services, such as V(redis). Without a name all entries are returned, sorted by name.
    type: list
    elements: str
  templates:
    description:
      - Whether templates in C(variables) are evaluated for the host of the task, as a role needs them. Otherwise they
        are plain texts, since most hosts lack the variables that they name.
    type: bool
    default: false
seealso:
  - plugin: nhi.core.nhi_endpoint
    plugin_type: lookup
  - module: nhi.core.nhi_state_scan
"""

EXAMPLES = r"""
- name: Show the size of a Redis guest for caching
  ansible.builtin.debug:
    msg: "{{ lookup('nhi.core.nhi_catalogue', 'redis').sizes.cache }}"

- name: Scan with everything that is in the catalogue
  nhi.core.nhi_state_scan:
    state_dir: /var/lib/nhi
    catalogue: "{{ query('nhi.core.nhi_catalogue') }}"
"""

RETURN = r"""
_raw:
  description:
    - One entry for each name, or all entries, as they are written in their files.
    - Templates in C(variables) are evaluated only with O(templates).
  type: list
  elements: dict
"""

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible.template import trust_as_template
from ansible_collections.nhi.core.plugins.module_utils.catalogue import find_entry
from ansible_collections.nhi.core.plugins.module_utils.catalogue_files import read_catalogue
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError


class LookupModule(LookupBase):
    """Entries of the catalogue by name."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[dict[str, Any]]:
        self.set_options(var_options=variables, direct=kwargs)
        try:
            catalogue = read_catalogue(self.get_option("directories"))
            names = terms or list(catalogue)
            entries = [dict(find_entry(catalogue, str(name)).raw) for name in names]
            return [_trusted(entry) for entry in entries] if self.get_option("templates") else entries
        except NHIError as error:
            raise AnsibleLookupError(str(error)) from error


def _trusted(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a role may have templates, as in group_vars: who writes the catalogue writes playbooks too."""
    entry = dict(raw)
    if "variables" in entry:
        entry["variables"] = _trust(entry["variables"])
    return entry


def _trust(value: Any) -> Any:
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, dict):
        return {name: _trust(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_trust(item) for item in value]
    return value
