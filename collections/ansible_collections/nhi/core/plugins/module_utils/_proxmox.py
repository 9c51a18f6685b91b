# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options every module that talks to Proxmox VE shares, and the client they turn into.

The names and environment fall-backs are those of the community.proxmox collection, so one
set of variables serves both. The client itself is in ``proxmox_client.py``, free of Ansible.
"""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import env_fallback

from .proxmox_client import Endpoint, ProxmoxClient, endpoint_from_params
from .proxmox_tasks import TaskResult

__all__ = ["PROXMOX_ARGS", "Endpoint", "ProxmoxClient", "TaskResult", "endpoint_from_params"]

PROXMOX_ARGS: dict[str, dict[str, Any]] = {
    "api_host": {"type": "str", "required": True, "fallback": (env_fallback, ["PROXMOX_HOST"])},
    "api_port": {"type": "int", "default": 8006, "fallback": (env_fallback, ["PROXMOX_PORT"])},
    "api_user": {"type": "str", "required": True, "fallback": (env_fallback, ["PROXMOX_USER"])},
    "api_token_id": {
        "type": "str",
        "required": True,
        "no_log": False,
        "fallback": (env_fallback, ["PROXMOX_TOKEN_ID"]),
    },
    "api_token_secret": {
        "type": "str",
        "required": True,
        "no_log": True,
        "fallback": (env_fallback, ["PROXMOX_TOKEN_SECRET"]),
    },
    "validate_certs": {"type": "bool", "default": True, "fallback": (env_fallback, ["PROXMOX_VALIDATE_CERTS"])},
    "ca_path": {"type": "path", "fallback": (env_fallback, ["PROXMOX_CA_PATH"])},
    "timeout": {"type": "float", "default": 20.0, "fallback": (env_fallback, ["PROXMOX_TIMEOUT"])},
}
