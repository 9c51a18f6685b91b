"""The API of a lab as its administrator uses it, past the modules under test."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.nhi.core.plugins.module_utils._proxmox import ProxmoxClient, endpoint_from_params
from ansible_collections.nhi.core.plugins.module_utils.proxmox_login import PasswordClient

from .conftest import Lab, Operator


def client(lab: Lab) -> ProxmoxClient:
    names = {"api_host": "HOST", "api_port": "PORT", "api_user": "USER", "api_token_id": "TOKEN_ID"}
    params: dict[str, Any] = {option: lab.env[f"PROXMOX_{name}"] for option, name in names.items()}
    params |= {"api_token_secret": lab.env["PROXMOX_TOKEN_SECRET"], "validate_certs": False}
    return ProxmoxClient(endpoint_from_params(params))


def administrator(lab: Lab) -> ProxmoxClient:
    """root@pam itself, which may what no token may: make tokens."""
    password = json.loads((lab.directory / "credentials.json").read_text())["root_password"]
    options = {"api_host": "127.0.0.1", "api_port": lab.port, "api_user": "root@pam", "validate_certs": False}
    return PasswordClient(options, password)


def new_token(operator: Operator, name: str) -> dict[str, str]:
    """Options for a token of its own without any ACL: with privilege separation it may do nothing."""
    with administrator(operator.lab) as api:
        made = api.post(("access", "users", "nhi@pve", "token", name), {"privsep": True})
    return {"api_token_id": name, "api_token_secret": made["value"]}
