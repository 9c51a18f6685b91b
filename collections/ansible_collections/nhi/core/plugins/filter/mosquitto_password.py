# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: mosquitto_password
short_description: Make the hash that a password file of Mosquitto holds
version_added: 0.1.0
author:
  - NHI contributors (@nhi-lab)
description:
  - Returns a password as PBKDF2 hash with SHA-512, the way C(mosquitto_passwd) writes it after the name of the user.
  - The same password and O(salt_from) always give the same hash, so that a template with it is idempotent.
positional: salt_from
options:
  _input:
    description: The password.
    type: str
    required: true
  salt_from:
    description: A text that no other user has, such as the names of host and user. The salt is made from it.
    type: str
    required: true
  iterations:
    description: How much work it is to try one password; for the server at each login, for a thief at each guess.
    type: int
    default: 10000
seealso:
  - plugin: nhi.core.rabbitmq_password
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Write the password file of Mosquitto
  ansible.builtin.copy:
    content: "sensor:{{ vault_sensor_password | nhi.core.mosquitto_password(inventory_hostname ~ ':sensor') }}\n"
    dest: /etc/mosquitto/passwords
    owner: root
    group: mosquitto
    mode: "0640"
  no_log: true
"""

RETURN = r"""
_value:
  description: The hash, with salt and number of iterations.
  type: str
"""

from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.nhi.core.plugins.module_utils.password_hashes import mosquitto_hash


def mosquitto_password(password: Any, salt_from: Any, iterations: Any = 10000) -> str:
    """The hash of a password, or a refusal of what is none."""
    if not (_is_text(password) and _is_text(salt_from)):
        raise AnsibleFilterError("mosquitto_password wants a password and salt_from, neither of them empty")
    if not isinstance(iterations, int) or isinstance(iterations, bool) or iterations < 1:
        raise AnsibleFilterError("mosquitto_password wants iterations as a whole number above 0")
    return mosquitto_hash(str(password), str(salt_from), iterations)


def _is_text(value: Any) -> bool:
    # A number is what YAML makes of a password of digits; a value out of a vault is no str, but has one.
    return value is not None and not isinstance(value, (bool, dict, list, tuple)) and bool(str(value))


class FilterModule:
    """What Ansible asks for the filters of this file."""

    def filters(self) -> dict[str, Any]:
        return {"mosquitto_password": mosquitto_password}
