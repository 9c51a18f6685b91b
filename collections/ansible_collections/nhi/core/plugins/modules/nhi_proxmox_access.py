#!/usr/bin/python

# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nhi_proxmox_access
short_description: Give Proxmox VE three tokens that may do little, and keep their secrets in the vault
version_added: 0.2.0
description:
  - Makes a user without a password and three API tokens with privilege separation. C(reader) sees everything and
    changes nothing. C(operator) starts, stops, snapshots and backs up the guests of one pool. C(creator) makes, changes
    and destroys guests of that pool, on the storages and bridges that are named.
  - Their roles, the pool and all grants are made too. What was changed by hand is put right, and grants of the user and
    of the three tokens that are not wanted are withdrawn. Other roles, users and tokens are left alone.
  - A secret is told by Proxmox VE once. It goes from that answer into C(proxmox/tokens.yml) of the vault's
    directory, which is encrypted as a whole with the vault password of the running Ansible. If it can not be written,
    the new token is removed again.
  - Tokens are numbered, such as V(reader-1). A new one takes the place of one whose secret the vault does not have or
    Proxmox VE refuses. The old one is removed once the new one works and is in the vault.
  - The administrator's own credentials are used for the run and stored nowhere. What is changed is in the audit log.
  - It runs on the controller, whatever host the task is for.
  - One vault goes with one O(user). A second controller needs a user of its own.
extends_documentation_fragment:
  - nhi.core.attributes
  - nhi.core.state
attributes:
  check_mode:
    support: full
    details:
      - Reads, and tries the tokens that the vault has.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details:
      - O(rotate=true) makes new tokens each time.
options:
  api_host:
    description:
      - Host name or address of a Proxmox VE node.
      - Uses the E(PROXMOX_HOST) environment variable if not specified.
    type: str
    required: true
  api_port:
    description:
      - HTTPS port of the API.
      - Uses the E(PROXMOX_PORT) environment variable if not specified.
    type: int
    default: 8006
  api_user:
    description:
      - The administrator, with the realm, for example V(root@pam).
      - Uses the E(PROXMOX_USER) environment variable if not specified.
    type: str
    required: true
  api_password:
    description:
      - The administrator's password. Where it is given, no token of the administrator is used.
      - A user with a second factor needs a token.
      - Uses the E(PROXMOX_PASSWORD) environment variable if not specified.
    type: str
  api_token_id:
    description:
      - Name of a token of the administrator.
      - Uses the E(PROXMOX_TOKEN_ID) environment variable if not specified.
    type: str
  api_token_secret:
    description:
      - Secret of that token.
      - Uses the E(PROXMOX_TOKEN_SECRET) environment variable if not specified.
    type: str
  validate_certs:
    description:
      - Whether the server's certificate must be signed by a trusted authority.
      - Uses the E(PROXMOX_VALIDATE_CERTS) environment variable if not specified.
    type: bool
    default: true
  ca_path:
    description:
      - PEM file of the certificate authority to trust instead of the system's.
      - Uses the E(PROXMOX_CA_PATH) environment variable if not specified.
    type: path
  timeout:
    description:
      - Seconds to wait for a connection and for each answer.
      - Uses the E(PROXMOX_TIMEOUT) environment variable if not specified.
    type: float
    default: 20.0
  user:
    description: User that owns the three tokens, and nothing else. Not V(root@pam).
    type: str
    required: true
  pool:
    description: Pool whose guests are operated, made and destroyed.
    type: str
    required: true
  storages:
    description: Storages on which disks are made.
    type: list
    elements: str
    required: true
  backup_storages:
    description:
      - Storages to which guests are backed up. Whoever backs up a guest can also remove its backups.
    type: list
    elements: str
    default: []
  bridges:
    description: Bridges that guests are connected to.
    type: list
    elements: str
    required: true
  templates:
    description: VMIDs of templates outside the pool that guests are cloned from.
    type: list
    elements: int
    default: []
  role_prefix:
    description: How the names of the roles begin.
    type: str
    default: NHI-
  read_agents_before_9:
    description:
      - Whether C(reader) may ask guest agents for addresses before Proxmox VE 9. There it takes C(VM.Monitor), with
        which commands can be run in every virtual machine too.
    type: bool
    default: false
  rotate:
    description: Whether all three are replaced by new tokens.
    type: bool
    default: false
  vault_dir:
    description: Directory of the vault.
    type: path
    required: true
seealso:
  - module: nhi.core.nhi_secret
author:
  - NHI contributors (@nhi-lab)
"""

EXAMPLES = r"""
- name: See what would be made
  nhi.core.nhi_proxmox_access:
    api_host: pve.example.net
    api_user: root@pam
    api_password: "{{ lookup('ansible.builtin.env', 'PROXMOX_PASSWORD') }}"
    user: nhi-tokens@pve
    pool: ai-lab
    storages: [local-lvm]
    bridges: [vmbr0]
    vault_dir: vault
    state_dir: /var/lib/nhi
  check_mode: true
  diff: true

- name: Replace all three by new tokens
  nhi.core.nhi_proxmox_access:
    api_host: pve.example.net
    api_user: root@pam
    api_token_id: setup
    api_token_secret: "{{ setup_token_secret }}"
    user: nhi-tokens@pve
    pool: ai-lab
    storages: [local-lvm]
    bridges: [vmbr0]
    rotate: true
    vault_dir: vault
    state_dir: /var/lib/nhi
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be.
  returned: success
  type: list
  elements: str
  sample: ['Create role NHI-Reader', 'Create token reader-1 (the vault has none) and keep its secret in the vault']
user:
  description: Owner of the tokens.
  returned: success
  type: str
  sample: nhi-tokens@pve
tokens:
  description: Names of the three tokens now, or in check mode as they would be.
  returned: success
  type: dict
  sample: {reader: reader-1, operator: operator-1, creator: creator-1}
roles:
  description: Privileges by role.
  returned: success
  type: dict
  sample: {NHI-Bridge: [SDN.Audit, SDN.Use]}
variables:
  description:
    - Names in the encrypted file. Each is a dictionary of C(api_user), C(api_token_id) and C(api_token_secret), as
      modules take them.
  returned: success
  type: list
  elements: str
  sample: [vault_proxmox_reader, vault_proxmox_operator, vault_proxmox_creator]
path:
  description: The encrypted file.
  returned: success
  type: str
  sample: /srv/nhi/vault/proxmox/tokens.yml
"""
