#!/usr/bin/python
# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell how much memory a host, or the container that it is, may use."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_memory_info
short_description: Tell how much memory a host may use
version_added: "0.1.0"
description:
  - A container may be allowed less than the memory that its host shows it. This reads both, so that a service is sized
    for what it can have.
author: NHI contributors (@nhi)
extends_documentation_fragment:
  - nhi.core.attributes
  - nhi.core.attributes.info_module
options: {}
"""

EXAMPLES = r"""
- name: Read how much memory there is
  nhi.core.nhi_memory_info:
  register: memory

- name: Give the cache half of it
  ansible.builtin.set_fact:
    cache_mib: "{{ memory.available_mib // 2 }}"
"""

RETURN = r"""
total_mib:
  description: What the system shows, in MiB.
  returned: success
  type: int
  sample: 64217
limit_mib:
  description: What its cgroup is limited to, in MiB. Null without a limit below the total.
  returned: success
  type: int
  sample: 512
available_mib:
  description: What programs there can count on together, in MiB.
  returned: success
  type: int
  sample: 512
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.memory import read_memory


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    try:
        memory = read_memory()
    except NHIError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False, total_mib=memory.total_mib, limit_mib=memory.limit_mib, available_mib=memory.available_mib
    )


if __name__ == "__main__":
    main()
