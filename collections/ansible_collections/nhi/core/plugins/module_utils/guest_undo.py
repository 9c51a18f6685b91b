# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes back what one run did, and nothing else; says in one sentence what became of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import NotFoundError, PermissionDeniedError, ProxmoxError, TaskError, UnreachableError
from .guest import Found
from .guest_reader import Api, guest_path, read_guest
from .guest_spec import KINDS

_T = TypeVar("_T")
_TASK_SECONDS = 60.0
# A daemon that restarts is back within this time.
_PATIENCE_SECONDS, _PAUSE_SECONDS = 15.0, 0.5
# A create call whose answer was lost writes its configuration within this time, or never.
_DOUBT_SECONDS = 3.0


@dataclass
class Made:
    """A guest this run asked for. ``task`` still runs or its answer is awaited; ``answered`` tells which."""

    kind: str
    node: str
    vmid: int
    name: str
    operation: str
    task: str | None = None
    answered: bool = False

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{KINDS[self.kind]} {self.vmid} {self.name}"


def undo_creation(api: Api, made: Made) -> str:
    """Destroy the guest if this run made it: its description names the operation."""
    try:
        if made.task:
            _end_task(api, made.node, made.task)
        found = _look(api, made)
        if found is None and made.answered:
            return f"Nothing of {made.label} is left."
        if found is None:
            return f"{made.label} was not there {_DOUBT_SECONDS:g} s later: look once more before you repeat it."
        if found.operation != made.operation:
            return f"VMID {made.vmid} belongs to {found.label}, which this run did not make: it was left alone."
        _remove(api, found)
    except ProxmoxError as e:
        return f"{made.label} may be left on {made.node} and could not be removed ({e}): look, and destroy it by hand."
    return f"Undone: {made.label} was destroyed again."


def inverse(config: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a ``PUT config`` that take another one back."""
    touched = [k for k in change if k not in ("delete", "digest")]
    touched += filter(None, str(change.get("delete") or "").split(","))
    delete = ",".join(k for k in touched if k not in config)
    return {**{k: config[k] for k in touched if k in config}, "delete": delete or None}


def undo_configure(api: Api, found: Found, before: Mapping[str, Any]) -> str:
    """Give a guest the configuration back that it had."""
    try:
        _patiently(lambda: api.put(guest_path(found.type, found.node, found.vmid, "config"), before))
    except ProxmoxError as e:
        return f"The configuration of {found.label} was changed and could not be set back ({e}): look at it."
    return f"Undone: {found.label} has its former configuration."


def undo_stop(api: Api, found: Found) -> str:
    """Start a guest again that this run stopped in order to go on."""
    try:
        if not _patiently(lambda: read_guest(api, _row(found))).running:
            task = api.post(guest_path(found.type, found.node, found.vmid, "status", "start"))
            api.wait_task(str(task), _TASK_SECONDS)
    except ProxmoxError as e:
        return f"{found.label} was stopped and could not be started again ({e}): start it by hand."
    return f"Undone: {found.label} runs again."


def _end_task(api: Api, node: str, task: str) -> None:
    with contextlib.suppress(TaskError):
        _patiently(lambda: api.delete(("nodes", node, "tasks", task)))
        _patiently(lambda: api.wait_task(task, _TASK_SECONDS))


def _look(api: Api, made: Made) -> Found | None:
    deadline = time.monotonic() + (0.0 if made.answered else _DOUBT_SECONDS)
    row = {"type": made.kind, "node": made.node, "vmid": made.vmid}
    while True:
        try:
            return _patiently(lambda: read_guest(api, row))
        except (NotFoundError, PermissionDeniedError):
            # A guest that does not exist is "permission denied" to those who have rights only in a pool.
            if time.monotonic() >= deadline:
                return None
        time.sleep(_PAUSE_SECONDS)


def _remove(api: Api, found: Found) -> None:
    if found.running:
        task = _patiently(lambda: api.post(guest_path(found.type, found.node, found.vmid, "status", "stop")))
        api.wait_task(str(task), _TASK_SECONDS)
    task = _patiently(lambda: api.delete(guest_path(found.type, found.node, found.vmid), {"purge": 1}))
    api.wait_task(str(task), _TASK_SECONDS)


def _patiently(call: Callable[[], _T]) -> _T:
    """Ask again while nobody answers; every call here may be repeated."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return call()
        except UnreachableError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_PAUSE_SECONDS)


def _row(found: Found) -> dict[str, object]:
    return {"type": found.type, "node": found.node, "vmid": found.vmid, "name": found.name}
