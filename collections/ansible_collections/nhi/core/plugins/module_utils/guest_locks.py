# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests that are locked: by a task that lives, or stuck. A token can not unlock a guest, only root on its node can."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .doctor import FAIL, OK, WARN, Finding, age_words
from .guest_spec import KINDS, LXC

# What was under way when the lock was set, and what to look after once it is gone.
_MEANINGS: Mapping[str, tuple[str, str]] = {
    "backup": ("a backup", "nothing of the guest was changed"),
    "snapshot": ("a snapshot", "then remove the snapshot that is not complete, if one is listed"),
    "snapshot-delete": ("the removal of a snapshot", "then remove that snapshot again"),
    "rollback": ("a rollback", "its disks may be of two times: then roll back again before it is started"),
    "migrate": ("a migration", "first look that its disks and its configuration are on one node only"),
    "clone": ("a clone", "the guest is not complete: then destroy it, and clone again"),
    "create": ("a creation or a restore", "the guest is not complete: then destroy it, and make it again"),
    "destroyed": ("a removal", "its disks may be gone: then destroy it again"),
    "disk": ("work on a disk", "then look at its disks"),
    "fstrim": ("a trim of its disks", "nothing of the guest was changed"),
    "suspending": ("a suspend", "then start it"),
}
# Locks that are meant to stay without a task.
_RESTING: Mapping[str, str] = {
    "suspended": "it is suspended to disk, and goes on when it is started",
    "mounted": "its disk is mounted on the node: there, as root: pct unmount {vmid}",
}
# Tasks that hold the lock of a guest whose number they may not bear: of several guests, or of a copy's source.
_OTHERS: Mapping[str, frozenset[str]] = {
    "backup": frozenset({"vzdump"}),
    "clone": frozenset({"qmclone", "vzclone"}),
    "create": frozenset({"qmclone", "vzclone"}),
}


@dataclass(frozen=True)
class LockedGuest:
    """A guest with a lock, as it was after the tasks of its node were listed.

    ``tasks`` are those that run on its node, None where nobody could tell; ``all_seen`` says whether those of others
    are among them.
    """

    vmid: int
    name: str
    type: str
    node: str
    lock: str
    tasks: tuple[Mapping[str, Any], ...] | None = field(default=())
    all_seen: bool = True

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{KINDS[self.type]} {self.vmid} {self.name} on {self.node}"

    @property
    def unlock(self) -> str:
        """What root types on its node."""
        return f"{'pct' if self.type == LXC else 'qm'} unlock {self.vmid}"

    @property
    def holders(self) -> list[Mapping[str, Any]]:
        """Tasks that live and may hold the lock."""
        return [task for task in self.tasks or () if self._may_hold(task)]

    def _may_hold(self, task: Mapping[str, Any]) -> bool:
        if task.get("endtime"):
            return False
        number, kind = str(task.get("id") or ""), str(task.get("type"))
        if number == str(self.vmid):
            return True
        return kind in _OTHERS.get(self.lock, ()) and (self.lock != "backup" or not number)


def judge_locks(guests: Iterable[LockedGuest], now: float) -> list[Finding]:
    """A finding for each locked guest. ``now`` is the time in seconds since 1970, by the clock of the nodes."""
    return [_judge(guest, now) for guest in guests] or [Finding("guest locks", OK, "no guest is locked")]


def _judge(guest: LockedGuest, now: float) -> Finding:
    check = f"lock of {guest.name}"
    locked = f"{guest.label} is locked ({guest.lock})"
    if guest.holders:
        tasks = "; ".join(
            f"task {task['upid']} for {age_words(max(0.0, now - float(task.get('starttime') or now)))}"
            for task in guest.holders
        )
        return Finding(check, OK, f"{locked} by a task that lives: {tasks}")
    if guest.lock in _RESTING:
        return Finding(check, OK, f"{locked}: {_RESTING[guest.lock].format(vmid=guest.vmid)}")
    what, then = _MEANINGS.get(guest.lock, ("something", "then look at it"))
    root = f"on {guest.node}, as root: {guest.unlock}"
    if guest.tasks is None:
        return Finding(check, WARN, f"{locked}, and the tasks of {guest.node} can not be listed", "look there")
    if not guest.all_seen:
        return Finding(
            check, WARN, f"{locked}, and none of this token's own tasks holds it, which is all that it may see",
            f"give the token Sys.Audit on /nodes/{guest.node}; if no task of the guest runs there, {root}; {then}",
        )  # fmt: skip
    return Finding(check, FAIL, f"{locked} and no task lives: {what} was cut off", f"{root}; {then}")


def nodes_of(guests: Collection[LockedGuest]) -> list[str]:
    """Nodes whose tasks have to be listed."""
    return sorted({guest.node for guest in guests})
