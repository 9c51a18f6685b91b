# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the journal of a change to a guest says: which guest, which steps were begun, which of them would be undone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .addresses import guest_nics
from .guest import Found
from .guest_spec import KINDS, LXC

# Steps that begin something, each written before it is begun.
MAKE, CONFIGURE, RESIZE, STOP, START = "make", "configure", "resize", "stop", "start"
DESTROY, REPLACE, PROTECT = "destroy", "replace", "protect"
# The new guest is complete and takes the place of the old one: from here on there is no way back but only forward.
COMMIT = "commit"
# What became of them.
TASK, MADE, REFUSED, DONE = "task", "made", "refused", "done"


@dataclass(frozen=True)
class Target:
    """A guest as it was when a step was begun. VMIDs are used again: a guest is more than its number."""

    kind: str
    node: str
    vmid: int
    name: str
    mark: str | None = None
    macs: tuple[str, ...] = ()

    @classmethod
    def of(cls, found: Found) -> Target:
        """A guest that was just read."""
        macs = tuple(nic.mac for nic in guest_nics(found.type, found.config) if nic.mac)
        return cls(found.type, found.node, found.vmid, found.name, found.operation, macs)

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Target:
        """As a journal has it."""
        return cls(**{**data, "macs": tuple(data.get("macs") or ())})

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{KINDS[self.kind]} {self.vmid} {self.name} on {self.node}"

    @property
    def row(self) -> dict[str, Any]:
        """What ``read_guest`` needs to read it again."""
        return {"type": self.kind, "node": self.node, "vmid": self.vmid, "name": self.name}

    def is_same(self, found: Found) -> bool:
        """Whether the guest under this VMID is still that guest."""
        now = Target.of(found)
        if (self.kind, self.name, self.mark) != (now.kind, now.name, now.mark):
            return False
        # An interface may have come or gone; one that stayed has kept its MAC.
        return not self.macs or not now.macs or bool(set(self.macs) & set(now.macs))


@dataclass
class Made:
    """A guest that a run asked for. ``task`` still runs or its answer is awaited; ``answered`` tells which.

    ``copied`` says that it is a clone, and ``configured`` is the first change to it, done or not.
    """

    kind: str
    node: str
    vmid: int
    name: str
    operation: str
    task: str | None = None
    answered: bool = False
    copied: bool = False
    configured: Configured | None = None

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{KINDS[self.kind]} {self.vmid} {self.name}"

    @property
    def row(self) -> dict[str, Any]:
        """What ``read_guest`` needs to read it."""
        return {"type": self.kind, "node": self.node, "vmid": self.vmid}


@dataclass(frozen=True)
class Configured:
    """A configuration that was, or may have been, set; ``before`` takes it back."""

    target: Target
    set: Mapping[str, Any]
    before: Mapping[str, Any]

    @property
    def after(self) -> Target:
        """The guest as it is known once that is set, which may be under another name."""
        name = self.set.get("hostname" if self.target.kind == LXC else "name")
        return replace(self.target, name=str(name)) if name else self.target


@dataclass(frozen=True)
class Retired:
    """A guest whose place another one took, set aside under another name; ``addresses`` has its own with their MACs."""

    target: Target
    name: str
    addresses: Mapping[str, str]


@dataclass(frozen=True)
class Replaced:
    """A guest whose place a backup was to take; ``data`` asks for that again, ``restart`` says whether it ran."""

    target: Target
    data: Mapping[str, Any]


@dataclass
class GuestRecord:
    """The steps of one operation on one guest, as far as they matter for undoing it or going on."""

    made: Made | None = None
    complete: bool = False  # the guest is as asked for, and can not be undone any more
    protect: bool = False  # all that it lacks is its protection
    retired: Retired | None = None  # the guest whose place it took
    configured: list[Configured] = field(default_factory=list)
    resized: list[tuple[Target, str, str]] = field(default_factory=list)
    stopped: Target | None = None
    destroying: Target | None = None
    replaced: Replaced | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing was begun that could be undone."""
        begun = (self.made, self.configured, self.resized, self.stopped, self.destroying, self.replaced)
        return not any(begun)

    @property
    def of_another(self) -> list[Configured]:
        """Configurations of a guest that was there before, the last one first: what is made here is not set back."""
        mine = self.made.vmid if self.made else None
        return [c for c in reversed(self.configured) if c.target.vmid != mine]

    @property
    def aside(self) -> Target | None:
        """The guest that was set aside, under another name, for the one that is made."""
        return next((c.target for c in self.of_another if c.after.name != c.target.name), None)

    @classmethod
    def of(cls, operation: str, entries: Iterable[Mapping[str, Any]]) -> GuestRecord:
        """Read a journal from its beginning."""
        record = cls()
        for entry in entries:
            record._add(operation, entry)
        return record

    def _add(self, operation: str, entry: Mapping[str, Any]) -> None:
        step = entry["step"]
        if step in (MAKE, TASK, MADE, REFUSED, PROTECT):
            self._add_made(operation, step, entry)
        elif step == DONE:
            self._add_end(entry["of"], Target.parse(entry["target"]))
        elif step == COMMIT:
            self.complete, self.protect = True, entry["protect"]
            self.retired = Retired(Target.parse(entry["target"]), entry["name"], entry["addresses"])
        elif "target" in entry:
            self._add_begun(step, Target.parse(entry["target"]), entry)

    def _add_begun(self, step: str, target: Target, entry: Mapping[str, Any]) -> None:
        if step == CONFIGURE:
            self.configured.append(Configured(target, entry["set"], entry["before"]))
            if self.made is not None and self.made.configured is None:
                self.made.configured = self.configured[-1]
        elif step == RESIZE:
            self.resized.append((target, entry["disk"], entry["size"]))
        elif step == STOP and entry["temporary"]:
            self.stopped = target
        elif step == DESTROY:
            self.destroying = target
        elif step == REPLACE:
            self.replaced = Replaced(target, entry["data"])

    def _add_end(self, step: str, target: Target) -> None:
        if self.made is not None:
            self.made.task = None
        if step in (START, DESTROY) and self.stopped is not None and self.stopped.vmid == target.vmid:
            self.stopped = None
        if step == DESTROY:
            self.destroying = None
        if step == REPLACE:
            # From now on the guest is what the backup made of it.
            self.replaced, self.stopped = None, self.stopped and target

    def _add_made(self, operation: str, step: str, entry: Mapping[str, Any]) -> None:
        if step == MAKE:
            guest = entry["guest"]
            self.made = Made(guest["kind"], guest["node"], guest["vmid"], guest["name"], operation)
            self.made.copied = bool(entry.get("copied"))
        elif step == REFUSED:
            self.made = None
        elif self.made is None:
            return
        elif step == TASK:
            self.made.task, self.made.answered = entry["task"], True
        elif step == MADE:
            self.made.task, self.made.answered = None, True
        elif step == PROTECT:
            self.complete = self.protect = True


def guests_of(entries: Iterable[Mapping[str, Any]]) -> set[int]:
    """VMIDs of the guests that an operation began something with."""
    vmids: set[int] = set()
    asked: set[int] = set()
    for entry in entries:
        if entry["step"] == MAKE:
            asked = {int(entry["guest"]["vmid"])}
        elif entry["step"] == REFUSED:
            asked = set()  # the VMID was somebody else's
        elif "target" in entry:
            vmids.add(int(entry["target"]["vmid"]))
        vmids |= asked if entry["step"] in (TASK, MADE) else set()
    return vmids | asked


def target_entry(target: Target) -> dict[str, Any]:
    """A guest as a journal has it."""
    return asdict(target)
