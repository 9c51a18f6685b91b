# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the history wants to know of the audit log: who did something to a guest between two moments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from .state_document import format_time, parse_time


@dataclass(frozen=True)
class AuditNote:
    """One thing that somebody did, or tried: operation such as `destroyed`, outcome such as `done` or `refused`."""

    at: datetime
    actor: str
    operation: str
    outcome: str = ""
    plan: str | None = None

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "at": format_time(self.at),
            "actor": self.actor,
            "operation": self.operation,
            "outcome": self.outcome,
            "plan": self.plan,
        }


class AuditReader(Protocol):
    """An audit log, as far as it tells of guests."""

    def about_guest(
        self, *, vmid: int | None, name: str | None, since: datetime, until: datetime
    ) -> Iterable[AuditNote]:
        """What was done to the guest with this VMID or name, oldest first, both ends included."""


# What of the modules' operations is shorter to say in one word.
_WORDS = {
    "approve": "plan approved",
    "reject": "plan rejected",
    "nhi_exec": "worked on with a command",
    "nhi_vm/absent": "destroyed",
    "nhi_vm/present": "created or corrected",
    "nhi_vm/restarted": "restarted",
    "nhi_vm/started": "started",
    "nhi_vm/stopped": "stopped",
    "nhi_vm_backup/present": "backed up",
    "nhi_vm_backup/restored": "restored from a backup",
    "nhi_vm_snapshot/rollback": "taken back to a snapshot",
    "nhi_service/absent": "forgotten as a service",
    "nhi_service/present": "registered as a service",
}
_BEGUN, _DONE = "allowed", "done"

Entry = Mapping[str, Any]


class LoggedAudit:
    """Tells of guests from the entries of an audit log, however those are read.

    entries_about gets a guest's name and two moments and returns the entries between them, oldest first, each with
    `timestamp`, `actor`, `operation`, `outcome`, `plan`, `attempt` and `result`.
    """

    def __init__(self, entries_about: Callable[[str, datetime, datetime], Iterable[Entry]]) -> None:
        self._entries_about = entries_about

    def about_guest(
        self, *, vmid: int | None, name: str | None, since: datetime, until: datetime
    ) -> Iterable[AuditNote]:
        """What was done to the guest, tried, refused or cut off; a run that found nothing to do is left out."""
        entries = list(self._entries_about(name, since, until)) if name else []
        ended = {entry.get("attempt") for entry in entries if entry["outcome"] != _BEGUN}
        for entry in entries:
            result = entry.get("result") or {}
            begun = entry["outcome"] == _BEGUN
            of_another = vmid is not None and result.get("vmid") not in (None, vmid)
            idle = entry["outcome"] == _DONE and result.get("changed") is False
            if of_another or idle or (begun and entry.get("attempt") in ended):
                continue
            yield AuditNote(
                at=parse_time(entry["timestamp"]),
                actor=str(entry.get("actor") or "nobody known"),
                operation=_WORDS.get(entry["operation"]) or str(entry["operation"]),
                outcome="begun, and no end was written down" if begun else entry["outcome"],
                plan=entry.get("plan"),
            )
