# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options shared by every module that talks to the Proxmox VE API (``PROXMOX_ARGS`` in module_utils/_proxmox.py)."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragment ``nhi.core.proxmox``."""

    DOCUMENTATION = r"""
options:
  api_host:
    description:
      - Host name or address of a Proxmox VE node; one node answers for its whole cluster.
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
      - User that owns the token, with its realm, for example V(nhi@pve).
      - Uses the E(PROXMOX_USER) environment variable if not specified.
    type: str
    required: true
  api_token_id:
    description:
      - Name of the API token.
      - Uses the E(PROXMOX_TOKEN_ID) environment variable if not specified.
    type: str
    required: true
  api_token_secret:
    description:
      - Secret of the API token.
      - Uses the E(PROXMOX_TOKEN_SECRET) environment variable if not specified.
    type: str
    required: true
  validate_certs:
    description:
      - Whether the server's certificate must be signed by a trusted authority.
      - Unlike in the community.proxmox modules this is on unless you turn it off.
      - Uses the E(PROXMOX_VALIDATE_CERTS) environment variable if not specified.
    type: bool
    default: true
  ca_path:
    description:
      - PEM file of the certificate authority to trust instead of the system's, for example a copy of
        C(/etc/pve/pve-root-ca.pem).
      - Uses the E(PROXMOX_CA_PATH) environment variable if not specified.
    type: path
  timeout:
    description:
      - Seconds to wait for a connection and for each answer.
      - Uses the E(PROXMOX_TIMEOUT) environment variable if not specified.
    type: float
    default: 20.0
"""
