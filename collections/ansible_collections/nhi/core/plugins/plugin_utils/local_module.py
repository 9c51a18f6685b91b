# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module that is for the controller where it lies, when the controller is where it is to run.

Ansible packs a module and all that it imports into an archive, even for the host it is on, and Python compiles the
archive's contents at each run: for nhi_vm and its eighty files twice as long as its work takes. On the controller the
files are there, and compiled. Wherever anything is unusual (another host, another user or Python, an environment,
``async``) Ansible's own way is taken.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.common.json import Direction, get_module_encoder
from ansible.plugins.action import ActionBase
from ansible.vars.clean import remove_internal_keys

_COLLECTIONS = Path(__file__).resolve().parents[5]
_MODULES = "ansible_collections.nhi.core.plugins.modules"
# How modules and the controller speak when a module is called directly.
_PROFILE = "legacy"


class LocalModuleAction(ActionBase):
    """The action of a module of this collection; subclasses need nothing of their own."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        known: dict[str, Any] = task_vars or {}
        if self._is_at_home(known):
            result.update(self._run_here(known))
        else:
            wrap = self._task.async_val
            result.update(self._execute_module(task_vars=known, wrap_async=wrap))
        return result

    def _is_at_home(self, task_vars: dict[str, Any]) -> bool:
        """Whether the module would run on this host, as this user, with this Python, and as it is."""
        task = self._task
        if self._connection.transport != "local" or self._connection.become is not None:
            return False
        if task.async_val or task.delegate_to or any(task.environment or ()):
            return False
        interpreter = self._templar.template(task_vars.get("ansible_python_interpreter"))
        if not interpreter or Path(str(interpreter)) != Path(sys.executable):
            return False
        return all(hasattr(self, name) for name in ("_update_module_args", "_parse_returned_data"))

    def _run_here(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        name = self._task.resolved_action or self._task.action
        arguments = dict(self._task.args)
        self._update_module_args(name, arguments, task_vars)
        encoder: Any = get_module_encoder(_PROFILE, Direction.CONTROLLER_TO_MODULE)
        text = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}, cls=encoder)
        paths = [str(_COLLECTIONS), os.environ.get("PYTHONPATH", "")]
        # Not `with`, nor run(): an interrupted controller lets go of the module, which then takes back what it did.
        module = subprocess.Popen(  # pylint: disable=consider-using-with
            [sys.executable, "-m", f"{_MODULES}.{name.rpartition('.')[2]}"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        out, err = module.communicate(text)
        said = {"stdout": out, "stderr": err, "rc": module.returncode}
        data: dict[str, Any] = self._parse_returned_data(said, _PROFILE)
        remove_internal_keys(data)
        return data
