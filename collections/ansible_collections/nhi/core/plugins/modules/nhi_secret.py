#!/usr/bin/python

# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_secret
short_description: Generate the secrets of a guest into the vault, or remove them
version_added: 0.1.0
description:
  - Keeps the secrets of one guest in C(services/NAME.yml) of the vault's directory. The file is encrypted as a whole
    with the vault password of the running Ansible. M(ansible.builtin.include_vars) and C(ansible-vault view) read it.
  - A secret that is there is never replaced. To change one, edit the file with C(ansible-vault edit) and deploy again.
  - No value is returned, printed, or written anywhere else.
  - It runs on the controller, whatever host the task is for.
extends_documentation_fragment:
  - nhi.core.attributes
  - nhi.core.state
attributes:
  check_mode:
    support: full
    details:
      - Reads the file, and generates and writes nothing.
  diff_mode:
    support: full
    details:
      - Shows names only.
  idempotent:
    support: full
options:
  name:
    description: Name of the guest.
    type: str
    required: true
  state:
    description:
      - V(present) generates those of O(secrets) that are missing.
      - V(absent) removes O(secrets), or the whole file when none are named.
      - V(absent) with O(deployment) and without O(secrets) removes those that this deployment generated.
    type: str
    choices: [present, absent]
    default: present
  secrets:
    description: What the service needs. Each name is the variable through which its role gets the value.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the variable.
        type: str
        required: true
      length:
        description: Number of letters and digits, from 12 to 128.
        type: int
        default: 32
  vault_dir:
    description: Directory of the vault.
    type: path
    required: true
  deployment:
    description:
      - Run of M(nhi.core.nhi_deployment) to whose record the names of new secrets are added before they are generated.
    type: str
seealso:
  - module: nhi.core.nhi_deployment
  - module: ansible.builtin.include_vars
  - plugin: nhi.core.nhi_catalogue
    plugin_type: lookup
author:
  - NHI contributors (@nhi-lab)
"""

EXAMPLES = r"""
- name: Give MariaDB its passwords
  nhi.core.nhi_secret:
    name: mariadb-shop
    secrets:
      - {name: mariadb_root_password, length: 32}
    vault_dir: vault
    state_dir: /var/lib/nhi
  register: secret

- name: Read them for the role
  ansible.builtin.include_vars:
    file: "{{ secret.path }}"
  no_log: true

- name: Remove them with the guest
  nhi.core.nhi_secret:
    name: mariadb-shop
    state: absent
    vault_dir: vault
    state_dir: /var/lib/nhi
"""

RETURN = r"""
names:
  description: Names of all secrets of the guest.
  returned: success
  type: list
  elements: str
  sample: [mariadb_root_password]
generated:
  description: Names of those that were generated now, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: [mariadb_root_password]
removed:
  description: Names of those that were removed now, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: []
path:
  description: The encrypted file.
  returned: success
  type: str
  sample: /srv/nhi/vault/services/mariadb-shop.yml
"""
