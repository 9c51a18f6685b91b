# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: rabbitmq_password
short_description: Make the hash that RabbitMQ keeps of a password
version_added: 0.1.0
author:
  - NHI contributors (@nhi-lab)
description:
  - Returns a password as salted SHA-256 hash (C(rabbit_password_hashing_sha256)), as definitions of RabbitMQ hold it.
  - Given the hash that the server has, it returns that one as long as the password is the same.
positional: current
options:
  _input:
    description: The password.
    type: str
    required: true
  current:
    description: The hash that the server has for the user, if it has one.
    type: str
    default: ""
seealso:
  - plugin: nhi.core.mosquitto_password
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Make a user without a password in a command line
  ansible.builtin.command:
    argv: [rabbitmqctl, import_definitions]
    stdin: "{{ {'users': [user]} | to_json }}"
  vars:
    user:
      name: worker
      password_hash: "{{ vault_worker_password | nhi.core.rabbitmq_password }}"
      hashing_algorithm: rabbit_password_hashing_sha256
      tags: []
  changed_when: true
  no_log: true
"""

RETURN = r"""
_value:
  description: The hash with its salt, in base64.
  type: str
"""

from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.nhi.core.plugins.module_utils.password_hashes import rabbitmq_hash


def rabbitmq_password(password: Any, current: Any = "") -> str:
    """The hash of a password, or a refusal of what is none."""
    if not _is_text(password):
        raise AnsibleFilterError("rabbitmq_password wants a password that is not empty")
    return rabbitmq_hash(str(password), str(current))


def _is_text(value: Any) -> bool:
    # A number is what YAML makes of a password of digits; a value out of a vault is no str, but has one.
    return value is not None and not isinstance(value, (bool, dict, list, tuple)) and bool(str(value))


class FilterModule:
    """What Ansible asks for the filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"rabbitmq_password": rabbitmq_password}
