#!/usr/bin/python
# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module nhi.core.nhi_state_diff_info."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_state_diff_info
short_description: Say what differs between two moments, and plan the way back
version_added: "0.2.0"
author:
  - NHI contributors (@nhi-lab)
description:
  - Compares the state at two moments, and says which guests, services, nodes, storages and alerts appeared, disappeared
    or changed. What only ticks, such as load and uptime, is left out.
  - When the second moment is now, RV(rollback) is the plan of calls that would go back to the first. It only says what
    could be done. Guests that appeared since belong to somebody, so they are listed and left alone.
extends_documentation_fragment:
  - nhi.core.attributes
  - nhi.core.attributes.info_module
  - nhi.core.moment
  - nhi.core.state
options:
  since:
    description: The earlier moment.
    type: str
    required: true
  up_to:
    description: The later moment.
    type: str
    default: now
requirements:
  - dateparser >= 1.2 (for moments that are not ISO 8601)
seealso:
  - module: nhi.core.nhi_snapshot
  - module: nhi.core.nhi_snapshot_info
"""

EXAMPLES = r"""
- name: Ask what happened since yesterday afternoon
  nhi.core.nhi_state_diff_info:
    state_dir: /var/lib/nhi
    since: yesterday 14:00
  register: difference

- name: Say it
  ansible.builtin.debug:
    msg: "{{ difference.text }}"
"""

RETURN = r"""
from:
  description: Which state the first one is.
  returned: success
  type: dict
  contains: &view
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
to:
  description: Which state the second one is.
  returned: success
  type: dict
  contains: *view
changes:
  description: What differs.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: 'V(guest), V(service), V(node), V(storage) or V(alert).'
      type: str
      returned: always
      sample: guest
    change:
      description: 'V(appeared), V(disappeared) or V(changed).'
      type: str
      returned: always
      sample: disappeared
    name: {description: Its name., type: str, returned: always, sample: redis-cache}
    vmid: {description: VMID of the guest. Null for nodes and the like., type: int, returned: always, sample: 105}
    guest:
      description: Name of the guest. Null for nodes and the like.
      type: str
      returned: always
      sample: redis-cache
    before:
      description: 'Its facts before, or those that changed.'
      type: dict
      returned: always
      sample: {memory_mib: 256}
    after: {description: 'Its facts after, or those that changed.', type: dict, returned: always, sample: {}}
    audit:
      description: What the audit log says of the guest in that time.
      type: list
      elements: dict
      returned: always
      sample: []
text:
  description: One sentence for each change.
  returned: success
  type: list
  elements: str
  sample: ['guest 105 redis-cache existed at 14:00, not at 15:00']
audited:
  description: Whether an audit log was asked.
  returned: success
  type: bool
  sample: false
rollback:
  description: How to get from the second state to the first.
  returned: when O(up_to) is now
  type: dict
  contains:
    steps:
      description: Calls to make, in this order.
      type: list
      elements: dict
      returned: always
      contains:
        kind:
          description: 'V(recreate), V(correct), V(start) or V(stop).'
          type: str
          returned: always
          sample: correct
        guest: {description: Name of the guest., type: str, returned: always, sample: redis-cache}
        vmid: {description: Its VMID., type: int, returned: always, sample: 105}
        module: {description: The module to call., type: str, returned: always, sample: nhi.core.nhi_vm}
        options:
          description: Its options, without those that say where Proxmox VE and the state are.
          type: dict
          returned: always
          sample: {name: redis-cache, state: present, memory: 256}
        needs: {description: Options that a person must add., type: list, elements: str, returned: always, sample: []}
        text: {description: What it does., type: str, returned: always, sample: Set memory of guest 105 redis-cache}
        reason:
          description: Why.
          type: str
          returned: always
          sample: 'guest 105 redis-cache changed: memory 256 -> 512 MiB'
        notes: {description: What to think of before., type: list, elements: str, returned: always, sample: []}
    left_alone: {description: Guests that appeared since., type: list, elements: dict, returned: always, sample: []}
    by_hand: {description: What no module can take back., type: list, elements: dict, returned: always, sample: []}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nhi.core.plugins.module_utils._state_args import STATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils.audit_of_guests import audit_of
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.history_view import compare_moments


def run(params: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The result, and what to warn of."""
    comparison = compare_moments(params["state_dir"], params["since"], params["up_to"], audit_of(params["state_dir"]))
    result = comparison.as_data()
    if comparison.span.to_now:
        result["rollback"] = comparison.rollback().as_data()
    return result, list(dict.fromkeys([*comparison.before.lines(), *comparison.after.lines()]))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **STATE_ARGS,
            "since": {"type": "str", "required": True},
            "up_to": {"type": "str", "default": "now"},
        },
        supports_check_mode=True,
    )
    try:
        result, warnings = run(module.params)
    except NHIError as error:
        module.fail_json(msg=str(error))
    for text in warnings:
        module.warn(text)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
