# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action of nhi.core.nhi_deployment: the process that runs the playbook holds the record, and this is its child."""

from __future__ import annotations

import multiprocessing
import os
import uuid
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.nhi.core.plugins.module_utils.deployment import (
    DEPLOYMENT,
    REMOVAL,
    Record,
    begin,
    look,
    step,
)
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.freeze import refuse_if_frozen
from ansible_collections.nhi.core.plugins.module_utils.guest_spec import guest_name
from ansible_collections.nhi.core.plugins.module_utils.lock import Holder

ARGUMENT_SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["begun", "removing", "undoing", "undone", "ended"], "default": "begun"},
    "service": {"type": "str"},
    "purpose": {"type": "str"},
    "deployment": {"type": "str"},
    "state_dir": {"type": "path", "required": True},
}
_BEGINNING = {"begun": DEPLOYMENT, "removing": REMOVAL}


class ActionModule(ActionBase):
    """Finds its parent, and what is unfinished with the guest."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The run's name for the tasks that follow, and what the record says."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, options = self.validate_argument_spec(
            argument_spec=ARGUMENT_SPEC,
            required_if=[("state", state, ["deployment"]) for state in ("undoing", "undone", "ended")],
        )
        try:
            result.update(self._carry_out(Path(options["state_dir"]), guest_name(options["name"]), options))
        except NHIError as error:
            raise AnsibleActionFail(str(error)) from error
        return result

    def _carry_out(self, state_dir: Path, guest: str, options: dict[str, Any]) -> dict[str, Any]:
        state = options["state"]
        if self._task.check_mode:
            record = look(state_dir, guest)
            return _result("", record or Record(guest), [f"{record.story} {record.advice}".strip()] if record else [])
        if state in _BEGINNING:
            refuse_if_frozen(state_dir)
            run = Holder.of_process(_playbook(), f"run-{uuid.uuid4().hex[:12]}")
            record, before = begin(state_dir, guest, _BEGINNING[state], run, options["service"], options["purpose"])
            warnings = [f"{before.story} This run goes on from there."] if before else []
            return _result(record.holder.operation if record.holder else "", record, warnings)
        if state == "undoing" and look(state_dir, guest) is None:
            return _result("", Record(guest), [])
        with step(state_dir, guest, options["deployment"]) as deployment:
            if deployment is None:
                return _result("", Record(guest), [])
            record = deployment.record
            if state == "undone":
                deployment.undone()
            elif state == "ended":
                deployment.end()
            return _result(options["deployment"], record, [])


def _playbook() -> int:
    """The process that runs the playbook. It may be dead: then this is an orphan, whose getppid names another."""
    parent = multiprocessing.parent_process()
    return os.getpid() if parent is None or parent.pid is None else parent.pid


def _result(run: str, record: Record, warnings: list[str]) -> dict[str, Any]:
    return {
        # Book-keeping: nothing that was asked for differs.
        "changed": False,
        "deployment": run,
        "made": list(record.made),
        "generated": list(record.generated),
        "registered": record.registration is not None,
        "warnings": warnings,
    }
