# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes back what one operation did, and nothing else; says in sentences what became of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from .errors import NotFoundError, PermissionDeniedError, ProxmoxError, TaskError
from .guest import Found
from .guest_config import root_disk
from .guest_doubt import end_of_doubt, patiently, running_tasks
from .guest_reader import Api, guest_path, read_guest
from .guest_record import Configured, GuestRecord, Made, Retired, Target

_TASK_SECONDS = 60.0
_PAUSE_SECONDS = 0.5
_LOCKED_SECONDS = 60.0
# Proxmox VE may write these in another form than it was given.
_REWRITTEN = ("net", "ipconfig", "tags", "features", "mp", "description")


@dataclass(frozen=True)
class Undone:
    """What became of one step; ``settled`` is False where a person, or a later run, has to look again."""

    text: str
    settled: bool = True

    @classmethod
    def all(cls, parts: Iterable[Undone]) -> Undone:
        """Several steps as one."""
        parts = list(parts)
        return cls(" ".join(p.text for p in parts if p.text), all(p.settled for p in parts))


def undo(api: Api, record: GuestRecord) -> Undone:
    """Take back every step that can be, the last one first."""
    steps: list[Callable[[], Undone]] = []
    if record.made is not None:
        steps.append(partial(undo_creation, api, record.made))
    steps += [partial(undo_configure, api, c) for c in record.of_another]
    if record.made is None:
        steps += [partial(_tell_size, api, *r) for r in record.resized]
    # What stands in the place of a guest that was to be replaced is not what was stopped.
    if record.stopped is not None and record.replaced is None:
        steps.append(partial(undo_stop, api, record.stopped))
    aside = record.aside
    parts: list[Undone] = []
    for step in steps:
        if aside is not None and parts and not parts[-1].settled:
            # Two guests of one name and address must never run.
            parts.append(Undone(f"Until that is done {aside.label} stays as it is.", settled=False))
            break
        parts.append(step())
    return Undone.all(parts)


def undo_creation(api: Api, made: Made) -> Undone:
    """Destroy the guest if this operation made it: its description names the operation."""
    try:
        if made.task:
            _end_task(api, made.node, made.task)
        found = _look(api, made)
        if found is None and made.answered:
            return Undone(f"Nothing of {made.label} is left.")
        if found is None:
            return Undone(f"{made.label} was not there a while later: look once more before you repeat it.")
        if found.operation != made.operation:
            return Undone(f"VMID {made.vmid} belongs to {found.label}, which this run did not make: it was left alone.")
        if found.protected and is_as_copied(made, found.config):
            # Its source was protected, and so is the copy until it is configured: nobody else protected it.
            data = {"delete": "protection", "digest": found.config.get("digest")}
            patiently(lambda: api.put(guest_path(made.kind, made.node, made.vmid, "config"), data))
        remove(api, found)
    except ProxmoxError as e:
        return Undone(
            f"{made.label} may be left on {made.node} and could not be removed ({e}): look, and destroy it by hand.",
            settled=False,
        )
    return Undone(f"Undone: {made.label} was destroyed again.")


def is_as_copied(made: Made, config: Mapping[str, Any]) -> bool:
    """Whether a clone has the configuration with which it was copied, as far as that can be told."""
    if not made.copied or made.configured is None:
        return made.copied
    before = made.configured.before
    added = filter(None, str(before.get("delete") or "").split(","))
    kept = all(str(config.get(k)) == str(v) for k, v in before.items() if k != "delete" and v is not None)
    return kept and not any(k in config for k in added)


def inverse(config: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a ``PUT config`` that take another one back."""
    touched = [k for k in change if k not in ("delete", "digest")]
    touched += filter(None, str(change.get("delete") or "").split(","))
    delete = ",".join(k for k in touched if k not in config)
    return {**{k: config[k] for k in touched if k in config}, "delete": delete or None}


def undo_configure(api: Api, configured: Configured) -> Undone:
    """Give a guest the configuration back that it had, unless somebody else changed it since."""
    target = configured.target
    try:
        found = patiently(lambda: read_guest(api, target.row))
        if not (target.is_same(found) or configured.after.is_same(found)):
            return _other_guest(target, found)
        if not is_set(found.config, configured.set):
            return Undone("")
        before = dict(configured.before)
        patiently(lambda: api.put(guest_path(target.kind, target.node, target.vmid, "config"), before))
    except NotFoundError:
        return Undone(f"{target.label} is gone, so its configuration could not be set back.")
    except ProxmoxError as e:
        return Undone(
            f"The configuration of {target.label} was changed and could not be set back ({e}): look at it.",
            settled=False,
        )
    return Undone(f"Undone: {target.label} has its former configuration.")


def is_set(config: Mapping[str, Any], change: Mapping[str, Any]) -> bool:
    """Whether a configuration is as a ``PUT config`` made it, as far as that can be told."""
    deleted = list(filter(None, str(change.get("delete") or "").split(",")))
    values = {k: v for k, v in change.items() if k not in ("delete", "digest") and v is not None}
    plain = {k: v for k, v in values.items() if not k.startswith(_REWRITTEN)}
    if any(k in config for k in deleted) or any(k not in config for k in values):
        return False
    if any(str(config[k]) != str(v) for k, v in plain.items()):
        return False
    # Nothing but values in another form: the digest tells whether anything was set at all.
    return bool(plain or deleted) or change.get("digest") != config.get("digest")


def undo_stop(api: Api, target: Target) -> Undone:
    """Start a guest again that this operation stopped in order to go on."""
    try:
        found = patiently(lambda: read_guest(api, target.row))
        if not target.is_same(found):
            return _other_guest(target, found)
        await_idle(api, target)
        if not patiently(lambda: read_guest(api, target.row)).running:
            task = api.post(guest_path(target.kind, target.node, target.vmid, "status", "start"))
            api.wait_task(str(task), _TASK_SECONDS)
    except ProxmoxError as e:
        return Undone(
            f"{target.label} was stopped and could not be started again ({e}): start it by hand.", settled=False
        )
    return Undone(f"Undone: {target.label} runs again.")


def await_idle(api: Api, target: Target) -> None:
    """Wait for what is still being done to the guest."""
    for task in patiently(lambda: running_tasks(api, target.node, target.vmid)):
        # How it ended is seen in the guest itself.
        with contextlib.suppress(TaskError):
            api.wait_task(task, _TASK_SECONDS)


def remove(api: Api, found: Found) -> None:
    """Destroy a guest that must not stay."""
    if found.running:
        task = patiently(lambda: api.post(guest_path(found.type, found.node, found.vmid, "status", "stop")))
        api.wait_task(str(task), _TASK_SECONDS)
    try:
        task = patiently(lambda: api.delete(guest_path(found.type, found.node, found.vmid), {"purge": 1}))
        api.wait_task(str(task), _TASK_SECONDS)
    except NotFoundError:
        return  # an earlier call whose answer was lost did it


def retire(api: Api, retired: Retired) -> Undone:
    """Destroy a guest whose place another one took, unless somebody wanted to have it since."""
    target = retired.target
    try:
        await_idle(api, target)
        found = patiently(lambda: look_at(api, target))
        if found is None:
            return Undone(f"{target.label} is destroyed.")
        if not target.is_same(found):
            return _other_guest(target, found)
        if found.lock != "destroyed" and (found.running or found.protected):
            what = "was started" if found.running else "was protected"
            return Undone(f"{target.label} {what} since it was replaced: it was left alone, destroy it if it may go.")
        remove(api, found)
    except ProxmoxError as e:
        return Undone(
            f"{target.label} was replaced and could not be destroyed ({e}): the next run tries again,"
            " or destroy it by hand.",
            settled=False,
        )
    return Undone(f"{target.label} is destroyed.")


def look_at(api: Api, target: Target) -> Found | None:
    """The guest under this VMID, which may be another one; None when there is none, or none that this token sees."""
    try:
        return read_guest(api, target.row)
    except (NotFoundError, PermissionDeniedError):
        # What does not exist is "permission denied" to those who have rights only in a pool.
        return None


def _tell_size(api: Api, target: Target, disk: str, size: str) -> Undone:
    try:
        found = patiently(lambda: read_guest(api, target.row))
    except ProxmoxError:
        return Undone("")
    name, present = root_disk(found.config, target.kind)
    if name == disk and present is not None and f"{present:g}G" == size:
        return Undone(f"{disk} of {target.label} has {size} now and stays so: a disk never shrinks.")
    return Undone("")


def _other_guest(target: Target, found: Found) -> Undone:
    return Undone(f"VMID {target.vmid} is {found.label} now and not the guest this run worked on: it was left alone.")


def _end_task(api: Api, node: str, task: str) -> None:
    with contextlib.suppress(TaskError):
        patiently(lambda: api.delete(("nodes", node, "tasks", task)))
        patiently(lambda: api.wait_task(task, _TASK_SECONDS))


def _look(api: Api, made: Made) -> Found | None:
    """The guest, once nothing is being done to it any more; None when there is none."""
    now = time.monotonic()
    doubt = now if made.answered else end_of_doubt()
    latest = now + _LOCKED_SECONDS
    while True:
        try:
            found = patiently(lambda: read_guest(api, made.row))
        except (NotFoundError, PermissionDeniedError):
            # A guest that does not exist is "permission denied" to those who have rights only in a pool.
            if time.monotonic() >= doubt:
                return None
        else:
            if found.operation != made.operation or not found.lock or time.monotonic() >= latest:
                return found
            # Being made still, by a task whose number was lost.
            for task in patiently(lambda: running_tasks(api, made.node, made.vmid)):
                _end_task(api, made.node, task)
        time.sleep(_PAUSE_SECONDS)
