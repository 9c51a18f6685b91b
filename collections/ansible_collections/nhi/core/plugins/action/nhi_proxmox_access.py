# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action of nhi.core.nhi_proxmox_access: it runs on the controller, where the vault's password is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import env_fallback
from ansible.plugins.action import ActionBase
from ansible_collections.nhi.core.plugins.module_utils._proxmox import (
    PROXMOX_ARGS,
    ProxmoxClient,
    endpoint_from_params,
)
from ansible_collections.nhi.core.plugins.module_utils._state_args import STATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils.audit import Attempt
from ansible_collections.nhi.core.plugins.module_utils.errors import AuthenticationError
from ansible_collections.nhi.core.plugins.module_utils.proxmox_access import TOKENS, AccessPlan, wish_from_params
from ansible_collections.nhi.core.plugins.module_utils.proxmox_access_manager import (
    Accepts,
    AccessManager,
    variable_of,
)
from ansible_collections.nhi.core.plugins.module_utils.proxmox_login import PasswordClient
from ansible_collections.nhi.core.plugins.plugin_utils.audited_action import audited_action
from ansible_collections.nhi.core.plugins.plugin_utils.vault_file import VaultFile

_OF_TOKEN = ("api_token_id", "api_token_secret")
ARGUMENT_SPEC: dict[str, Any] = {
    **{name: {**spec, "required": spec.get("required", False) and name not in _OF_TOKEN}
       for name, spec in PROXMOX_ARGS.items()},
    "api_password": {"type": "str", "no_log": True, "fallback": (env_fallback, ["PROXMOX_PASSWORD"])},
    "user": {"type": "str", "required": True},
    "pool": {"type": "str", "required": True},
    "storages": {"type": "list", "elements": "str", "required": True},
    "backup_storages": {"type": "list", "elements": "str", "default": []},
    "bridges": {"type": "list", "elements": "str", "required": True},
    "templates": {"type": "list", "elements": "int", "default": []},
    "role_prefix": {"type": "str", "default": "NHI-"},
    "read_agents_before_9": {"type": "bool", "default": False},
    "rotate": {"type": "bool", "default": False},
    "vault_dir": {"type": "path", "required": True},
    **STATE_ARGS,
}  # fmt: skip
_TOLD = (
    "api_host", "api_user", "pool", "storages", "backup_storages", "bridges", "templates", "role_prefix", "rotate",
)  # fmt: skip


class ActionModule(ActionBase):
    """Makes the tokens what they should be, and never tells a secret."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """What differed, and where the secrets are."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(argument_spec=ARGUMENT_SPEC)
        with audited_action(self._attempt(options), self._display) as attempt:
            file = VaultFile(Path(options["vault_dir"]), "tokens", self._loader._vault, folder="proxmox")
            plan = self._carry_out(file, options, attempt)
            done = _result(plan, file)
            attempt.note(**{name: done[name] for name in ("changed", "actions")})
        return {**result, **done}

    def _attempt(self, options: dict[str, Any]) -> Attempt:
        told = {name: options[name] for name in _TOLD}
        check = self._task.check_mode
        return Attempt(options["state_dir"], "nhi_proxmox_access", options["user"], told, check_mode=check)

    def _carry_out(self, file: VaultFile, options: dict[str, Any], attempt: Attempt) -> AccessPlan:
        wish, rotate = wish_from_params(options), options["rotate"]
        with _administrator(options) as client:
            manager = AccessManager(attempt.watching(client), wish, file, _trial(client, wish.user))
            if self._task.check_mode:
                return manager.plan(rotate=rotate)
            with file.locked():
                plan = manager.plan(rotate=rotate)
                manager.apply(plan)
            return plan


def _administrator(options: dict[str, Any]) -> ProxmoxClient:
    """A password is worth more than a token, since that may be the environment's, of whoever works here usually."""
    if options["api_password"]:
        return PasswordClient(options, options["api_password"])
    if not all(options[name] for name in _OF_TOKEN):
        raise AuthenticationError(
            "there is no administrator to ask as: give api_password (or PROXMOX_PASSWORD in the environment), or"
            " api_token_id and api_token_secret"
        )
    return ProxmoxClient(endpoint_from_params(options))


def _trial(client: ProxmoxClient, user: str) -> Accepts:
    def accepts(tokenid: str, secret: str) -> bool:
        endpoint = replace(client.endpoint, user=user, token_id=tokenid, token_secret=secret)
        with ProxmoxClient(endpoint) as tried:
            try:
                tried.get("version")
            except AuthenticationError:
                return False
        return True

    return accepts


def _result(plan: AccessPlan, file: VaultFile) -> dict[str, Any]:
    return {
        "changed": plan.changed,
        "actions": plan.actions(),
        "user": plan.wish.user,
        "tokens": {token.name: token.tokenid for token in plan.tokens},
        "roles": {role: sorted(privileges) for role, privileges in plan.wish.roles(plan.found.version).items()},
        "variables": [variable_of(name) for name in TOKENS],
        "path": str(file.path),
        "diff": plan.diff(),
    }
