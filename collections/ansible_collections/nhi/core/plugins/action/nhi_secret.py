# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action of nhi.core.nhi_secret: it runs on the controller, where the vault's password is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.nhi.core.plugins.module_utils._state_args import STATE_ARGS
from ansible_collections.nhi.core.plugins.module_utils.audit import Attempt
from ansible_collections.nhi.core.plugins.module_utils.catalogue import wanted_secrets
from ansible_collections.nhi.core.plugins.module_utils.deployment import Deployment, step
from ansible_collections.nhi.core.plugins.module_utils.guest_spec import guest_name
from ansible_collections.nhi.core.plugins.module_utils.service_secrets import missing_secrets, new_secret
from ansible_collections.nhi.core.plugins.plugin_utils.audited_action import audited_action
from ansible_collections.nhi.core.plugins.plugin_utils.vault_file import VaultFile

ARGUMENT_SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "secrets": {
        "type": "list",
        "elements": "dict",
        "no_log": False,
        "options": {"name": {"type": "str", "required": True}, "length": {"type": "int", "default": 32}},
    },
    "vault_dir": {"type": "path", "required": True},
    "deployment": {"type": "str"},
    **STATE_ARGS,
}


class ActionModule(ActionBase):
    """Makes what is missing, removes what is not wanted, and never tells a value."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The names before and after, and where they are."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(
            argument_spec=ARGUMENT_SPEC,
            required_if=[("state", "present", ["secrets"])],
        )
        guest, run = options["name"], None if self._task.check_mode else options["deployment"]
        with audited_action(self._attempt(options), self._display) as attempt:
            file = VaultFile(Path(options["vault_dir"]), guest_name(guest), self._loader._vault)
            with step(Path(options["state_dir"]), guest, run) as deployment:
                done = self._carry_out(file, options, attempt, deployment)
            attempt.note(**{name: done[name] for name in ("changed", "generated", "removed")})
        return {**result, **done}

    def _attempt(self, options: dict[str, Any]) -> Attempt:
        names = [secret["name"] for secret in options["secrets"] or []]
        told = {"vault_dir": options["vault_dir"], "secrets": names}
        operation = f"nhi_secret/{options['state']}"
        return Attempt(options["state_dir"], operation, options["name"], told, check_mode=self._task.check_mode)

    def _carry_out(
        self, file: VaultFile, options: dict[str, Any], attempt: Attempt, deployment: Deployment | None
    ) -> dict[str, Any]:
        if not options["secrets"] and options["state"] == "present":
            return _result(file, [], [])
        if self._task.check_mode:
            before = file.read()
            return _result(file, sorted(before), sorted(self._changed(before, options, dry_run=True)))
        if options["state"] == "absent" and not file.path.exists():
            return _result(file, [], [])
        if deployment is not None and options["secrets"] is None:
            options["secrets"] = [{"name": name} for name in deployment.record.generated]
        with file.locked():
            before = file.read()
            after = self._changed(before, options)
            if deployment is not None and (generated := after.keys() - before.keys()):
                deployment.generates(sorted(generated))
            if after != before:
                attempt.allow()
                file.write(after)
        return _result(file, sorted(before), sorted(after))

    def _changed(self, before: dict[str, Any], options: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        if options["state"] == "absent":
            unwanted = before if options["secrets"] is None else {secret["name"] for secret in options["secrets"]}
            return {name: value for name, value in before.items() if name not in unwanted}
        missing = missing_secrets(before, wanted_secrets(options["secrets"]))
        return {**before, **{secret.name: "" if dry_run else new_secret(secret) for secret in missing}}


def _result(file: VaultFile, before: list[str], after: list[str]) -> dict[str, Any]:
    return {
        "changed": before != after,
        "names": after,
        "generated": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "path": str(file.path),
        "diff": {"before": {"secrets": before}, "after": {"secrets": after}},
    }
