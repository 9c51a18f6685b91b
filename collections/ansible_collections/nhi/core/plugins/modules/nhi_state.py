#!/usr/bin/python
# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module nhi.core.nhi_state."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_state
short_description: Validate state.json, read from it, or accept an edit by hand
version_added: "0.1.0"
author:
  - NHI contributors (@nhi-lab)
description:
  - Reads C(state.json), verifies it against its checksum, checks it against its JSON Schema, and returns what a path
    in it names. Without O(regenerate_checksum) it only reads, takes no lock and needs no permission to write.
  - With O(regenerate_checksum) a C(state.json) that was edited by hand gets a new checksum, if it is a valid document.
  - It never asks Proxmox VE. Use M(nhi.core.nhi_state_scan) to bring the state up to date.
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
  path:
    description:
      - JMESPath expression that names what to return as RV(value).
      - Text is quoted with single quotes, and C(| [0]) takes the first match of a filter.
    type: str
  validate:
    description:
      - Whether to check the whole document against the JSON Schema. The checksum is verified always.
    type: bool
    default: true
  regenerate_checksum:
    description:
      - Whether to accept C(state.json) as it is when it does not match its checksum, or has none. A document that does
        not follow the schema is refused.
    type: bool
    default: false
requirements:
  - jsonschema >= 4.0 (for O(validate) and O(regenerate_checksum))
  - jmespath (for O(path))
seealso:
  - plugin: nhi.core.nhi_state
    plugin_type: inventory
    description: Hosts from the same state.
"""

EXAMPLES = r"""
- name: Fail unless the state is valid
  nhi.core.nhi_state:
    state_dir: /var/lib/nhi

- name: Read the address of a guest
  nhi.core.nhi_state:
    state_dir: /var/lib/nhi
    path: "infrastructure.guests[?name=='redis-cache'].address | [0]"
  register: redis

- name: Read the databases that are not healthy
  nhi.core.nhi_state:
    state_dir: /var/lib/nhi
    path: "infrastructure.services[?contains(tags, 'database') && health != 'healthy'].name"
  register: unhealthy

- name: Accept state.json after an edit by hand
  nhi.core.nhi_state:
    state_dir: /var/lib/nhi
    regenerate_checksum: true
"""

RETURN = r"""
value:
  description: What O(path) names, V(null) where there is nothing.
  returned: when O(path) is given
  type: raw
  sample: 10.86.0.105
checksum:
  description: SHA-256 of C(state.json).
  returned: success
  type: str
  sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
revision:
  description: Number of writes that led to this state.
  returned: success
  type: int
  sample: 12
generated_at:
  description: When the state was generated.
  returned: success
  type: str
  sample: "2026-11-23T18:00:00.123456+00:00"
age_seconds:
  description: Age of the state.
  returned: success
  type: float
  sample: 41.7
topology_fingerprint:
  description: Hash of what identifies and connects the guests. It stays the same while only load and times change.
  returned: success
  type: str
  sample: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
counts:
  description: Number of nodes, guests, storages, services and alerts.
  returned: success
  type: dict
  sample: {"alerts": 0, "guests": 6, "nodes": 1, "services": 2, "storage": 2}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.nhi.core.plugins.module_utils._state_args import STATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.state import StateSnapshot, StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import (
    Document,
    counts,
    document_age_seconds,
    utc_now,
)
from ansible_collections.nhi.core.plugins.module_utils.state_path import JMESPATH_IMPORT_ERROR, look_up
from ansible_collections.nhi.core.plugins.module_utils.state_validation import validate_document


def checksum_diff(recorded: str | None, snapshot: StateSnapshot) -> dict[str, str]:
    """What accepting an edited state.json changes."""
    return {
        "before_header": "state.json.checksum",
        "after_header": "state.json.checksum",
        "before": f"{recorded or 'none'}\n",
        "after": f"{snapshot.checksum}\n",
    }


def facts(snapshot: StateSnapshot) -> dict[str, Any]:
    """What the module returns about a state in any case."""
    document: Document = snapshot.document
    return {
        "checksum": snapshot.checksum,
        "revision": snapshot.revision,
        "generated_at": document["meta"]["generated_at"],
        "age_seconds": document_age_seconds(document, utc_now()),
        "topology_fingerprint": document["meta"]["topology_fingerprint"],
        "counts": counts(document),
    }


def run(module: AnsibleModule) -> dict[str, Any]:
    """Do what the options ask for and return the result."""
    store = StateStore(module.params["state_dir"])
    recorded = store.recorded_checksum()
    edited = store.edited() if module.params["regenerate_checksum"] else None
    snapshot = edited or store.read()
    if module.params["validate"] and edited is None:
        validate_document(snapshot.document)
    result = {"changed": edited is not None, **facts(snapshot)}
    if module.params["path"] is not None:
        result["value"] = look_up(snapshot.document, module.params["path"])
    if edited is not None:
        result["diff"] = checksum_diff(recorded, edited)
        if not module.check_mode:
            store.regenerate_checksum()
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **STATE_ARGS,
            "path": {"type": "str"},
            "validate": {"type": "bool", "default": True},
            "regenerate_checksum": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if module.params["path"] is not None and JMESPATH_IMPORT_ERROR is not None:
        module.fail_json(msg=missing_required_lib("jmespath"), exception=JMESPATH_IMPORT_ERROR)
    try:
        result = run(module)
    except NHIError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
