# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit of a module's run: what of its options the log is told, and what it returns.

Secrets never get there: options marked ``no_log`` are left out, and their values are taken out of every text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.parameters import remove_values

from .audit import Attempt

# How the API is reached says nothing about the change; whose token it is does.
_UNTOLD = frozenset({"api_port", "validate_certs", "ca_path", "timeout", "state_dir", "catalogue"})

_TEXTS = ("subject", "params", "result", "reason")


@contextlib.contextmanager
def audited(module: AnsibleModule, name: str) -> Iterator[Attempt]:
    """The attempt that this run of the module of that name is, about the guest in its option ``name``."""
    params = module.params
    attempt = ModuleAttempt(
        params["state_dir"],
        f"{name}/{params['state']}" if params.get("state") else name,
        params.get("name"),
        told_params(module.argument_spec, params),
        check_mode=module.check_mode,
        plan=params.get("plan_id"),
        secrets=module.no_log_values,
    )
    try:
        with attempt:
            yield attempt
    finally:
        for warning in attempt.warnings:
            module.warn(warning)


class ModuleAttempt(Attempt):
    """An attempt whose texts are searched for the module's secrets."""

    def __init__(self, *args: Any, secrets: set[str], **more: Any) -> None:
        super().__init__(*args, **more)
        self._secrets = secrets

    def _entry(self, outcome: str) -> dict[str, Any]:
        entry = super()._entry(outcome)
        return {**entry, **{name: remove_values(entry[name], self._secrets) for name in _TEXTS}}


def told_params(spec: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Options that were set to something else than their default, without secrets."""
    told = {}
    for name, options in spec.items():
        value = params.get(name)
        if options.get("no_log") or name in _UNTOLD or value in (None, options.get("default")):
            continue
        told[name] = _without_secrets(options.get("options"), value)
    return told


def _without_secrets(spec: Mapping[str, Any] | None, value: Any) -> Any:
    if not spec:
        return value
    if isinstance(value, list):
        return [_without_secrets(spec, part) for part in value]
    return told_params(spec, value) if isinstance(value, dict) else value


def told(result: Mapping[str, Any]) -> dict[str, Any]:
    """What of a guest module's result the log is told."""
    return {
        "changed": result["changed"],
        "actions": [action["text"] for action in result["actions"]],
        "vmid": (result.get("vm") or {}).get("vmid"),
        "operation": result.get("operation"),
    }
