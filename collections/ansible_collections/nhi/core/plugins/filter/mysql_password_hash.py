# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: mysql_password_hash
short_description: What MariaDB and MySQL keep of a password
version_added: 0.1.0
author:
  - NHI contributors (@nhi-lab)
description:
  - Turns a password into what the plugin C(mysql_native_password) keeps of it.
  - A server can then be given a password, or asked whether it is in force, without being told it.
  - Nobody can log in with what comes out, but guessing against it is quick. It is still not for logs.
  - Not for the plugins C(ed25519) and C(caching_sha2_password), which keep something else.
positional: _input
options:
  _input:
    description: The password.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Give an account another password
  ansible.builtin.command:
    argv: [mariadb]
    stdin: >-
      ALTER USER 'app'@'localhost' IDENTIFIED VIA mysql_native_password
      USING '{{ vault_app_password | nhi.core.mysql_password_hash }}'
  no_log: true
"""

RETURN = r"""
_value:
  description: An asterisk and 40 hexadecimal digits.
  type: str
"""

import hashlib
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError


def mysql_password_hash(password: Any) -> str:
    """The hash of the password's hash, as the server writes it."""
    if not isinstance(password, str) or not password:
        raise AnsibleFilterError("mysql_password_hash needs a password, a text that is not empty.")
    # The algorithm is the server's; SHA-1 twice is all that it knows here.
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "*" + hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()


class FilterModule:
    """The filter under its name."""

    def filters(self) -> dict[str, Callable[[Any], str]]:
        return {"mysql_password_hash": mysql_password_hash}
