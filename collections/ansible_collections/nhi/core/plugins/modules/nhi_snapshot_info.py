#!/usr/bin/python
# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module nhi.core.nhi_snapshot_info."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_snapshot_info
short_description: List the snapshots of the state, or read the state at a past moment
version_added: "0.2.0"
author:
  - NHI contributors (@nhi-lab)
description:
  - Lists the snapshots of C(state.json), oldest first, and says of each whether it can be used.
  - With O(at) it also reads the state as it was at a moment.
extends_documentation_fragment:
  - nhi.core.attributes
  - nhi.core.attributes.info_module
  - nhi.core.moment
  - nhi.core.state
options:
  at:
    description:
      - The moment to read the state of. The state that was written last before it is taken, and RV(view) says when it
        is certain for.
    type: str
  path:
    description: JMESPath expression that names what of the state at O(at) to return as RV(value). The whole state if
      not specified.
    type: str
requirements:
  - dateparser >= 1.2 (for moments that are not ISO 8601)
  - jmespath (for O(path))
seealso:
  - module: nhi.core.nhi_snapshot
  - module: nhi.core.nhi_state_diff_info
"""

EXAMPLES = r"""
- name: List the snapshots
  nhi.core.nhi_snapshot_info:
    state_dir: /var/lib/nhi
  register: history

- name: Read which guests ran yesterday afternoon
  nhi.core.nhi_snapshot_info:
    state_dir: /var/lib/nhi
    at: yesterday 14:00
    path: "infrastructure.guests[?status=='running'].name"
  register: then
"""

RETURN = r"""
snapshots:
  description: The snapshots, oldest first.
  returned: success
  type: list
  elements: dict
  contains:
    name: {description: Its name., type: str, returned: always, sample: state_2026-11-27_14-00}
    path:
      description: Its file.
      type: str
      returned: always
      sample: /var/lib/nhi/state_history/state_2026-11-27_14-00.json
    taken_at: {description: When it was taken., type: str, returned: always, sample: '2026-11-27T14:00:03.000000+00:00'}
    since:
      description: Since when it was the state.
      type: str
      returned: always
      sample: '2026-11-27T13:55:07.000000+00:00'
    critical: {description: Whether it is kept for ever., type: bool, returned: always, sample: false}
    compressed: {description: Whether its file is compressed., type: bool, returned: always, sample: false}
    checksum:
      description: SHA-256 of its document. Null where nobody knows.
      type: str
      returned: always
      sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    reason: {description: Why it was taken., type: str, returned: always, sample: on the hour}
    actor: {description: Who it was taken for., type: str, returned: always, sample: nhi}
    problem: {description: Why it can not be used. Null where it can., type: str, returned: always, sample: null}
view:
  description: Which state it is that is returned for O(at).
  returned: when O(at) is given
  type: dict
  contains:
    moment:
      description: The moment that was asked for.
      type: str
      returned: always
      sample: '2026-11-26T14:20:00.000000+00:00'
    at:
      description: The moment that the state is certain for.
      type: str
      returned: always
      sample: '2026-11-26T14:00:03.000000+00:00'
    since: {description: When it was written., type: str, returned: always, sample: '2026-11-26T13:55:07.000000+00:00'}
    source:
      description: A snapshot's name or V(state.json).
      type: str
      returned: always
      sample: state_2026-11-26_14-00
    revision: {description: Its revision., type: int, returned: always, sample: 5021}
value:
  description: What O(path) names in the state at O(at), V(null) where there is nothing.
  returned: when O(at) is given
  type: raw
  sample: [brain-vm, postgres-lxc]
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.nhi.core.plugins.module_utils._state_args import STATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.history import list_snapshots
from ansible_collections.nhi.core.plugins.module_utils.history_view import state_at
from ansible_collections.nhi.core.plugins.module_utils.state_path import JMESPATH_IMPORT_ERROR, look_up


def run(params: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The result, and what to warn of."""
    result: dict[str, Any] = {"snapshots": list_snapshots(params["state_dir"])}
    if params["at"] is None:
        return result, []
    view = state_at(params["state_dir"], params["at"])
    value = view.document if params["path"] is None else look_up(view.document, params["path"])
    return {**result, "view": view.as_data(), "value": value}, view.lines()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={**STATE_ARGS, "at": {"type": "str"}, "path": {"type": "str"}},
        required_by={"path": ["at"]},
        supports_check_mode=True,
    )
    if module.params["path"] is not None and JMESPATH_IMPORT_ERROR is not None:
        module.fail_json(msg=missing_required_lib("jmespath"), exception=JMESPATH_IMPORT_ERROR)
    try:
        result, warnings = run(module.params)
    except NHIError as error:
        module.fail_json(msg=str(error))
    for text in warnings:
        module.warn(text)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
