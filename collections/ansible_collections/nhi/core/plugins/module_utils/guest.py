# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest as it was found, and the vocabulary of plans: actions, checks, impact, and the plan they make up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import PreflightError
from .graph import DependencyGraph
from .guest_config import fixed_address, fixed_address6, flag, memory_mib
from .guest_interfaces import interface_facts
from .guest_spec import KINDS, origin_of, split_marker, split_tags
from .impact import Impact, assess

CREATE, CLONE, CONFIGURE, RESIZE = "create", "clone", "configure", "resize"
START, STOP, DESTROY, PROTECT, REPLACE = "start", "stop", "destroy", "protect", "replace"
UNPLANNED = "Nothing can be planned."  # what to say where a check fails without which no plan can be made


@dataclass(frozen=True)
class Found:
    """A guest as the API describes it right now."""

    vmid: int
    type: str
    node: str
    name: str
    running: bool
    config: Mapping[str, Any]
    pool: str | None = None
    lock: str | None = None
    # The task that holds the lock, in words; None when nobody knows.
    holder: str | None = None
    # Options that were changed and wait for its next restart; None when nobody knows.
    pending: Sequence[str] | None = None

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{KINDS[self.type]} {self.vmid} {self.name} on {self.node}"

    @property
    def template(self) -> bool:
        return flag(self.config.get("template"))

    @property
    def protected(self) -> bool:
        return flag(self.config.get("protection"))

    @property
    def tags(self) -> tuple[str, ...]:
        return split_tags(self.config.get("tags"))

    @property
    def operation(self) -> str | None:
        """The operation that made it, if it was made here."""
        return split_marker(self.config.get("description"))[1]

    @property
    def origin(self) -> str | None:
        """What it was made from, if it was made here: a template, or ``guest VMID NAME`` that was cloned."""
        return origin_of(self.config.get("description"))


@dataclass(frozen=True)
class Action:
    """One step, in words and as what guest_apply has to do."""

    kind: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One pre-flight check; the message of a failed one says what to do."""

    name: str
    passed: bool
    message: str

    @classmethod
    def of(cls, name: str, *, passed: bool, good: str, bad: str) -> Check:
        """A check with the sentence that fits its outcome."""
        return cls(name, passed, good if passed else bad)


@dataclass
class GuestPlan:
    """Everything a run would do; empty ``actions`` mean that nothing needs doing."""

    actions: list[Action] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    impact: Impact = field(default_factory=Impact)
    # Which guest the plan is for; null where there is none yet.
    identity: dict[str, Any] | None = None
    restart_required: list[str] = field(default_factory=list)
    # What this run changes for the next restart only, with the option of the configuration that holds it.
    waiting: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    idle: str = "Nothing to do."  # what to say when there are no actions
    # What a dry run was given to apply it by, where a policy is in force.
    ticket: dict[str, Any] | None = None

    @property
    def changed(self) -> bool:
        return bool(self.actions)

    @property
    def failed(self) -> list[Check]:
        return [c for c in self.checks if not c.passed]

    def refuse_if_failed(self) -> None:
        """PreflightError with every failed check, before anything is done."""
        if self.failed:
            raise PreflightError("; ".join(c.message for c in self.failed))

    def summary(self) -> list[str]:
        """The plan in sentences for a person."""
        lines = [a.text for a in self.actions] or [self.idle]
        lines += self.impact.sentences()
        lines += [f"Refused: {c.message}" for c in self.failed]
        if self.restart_required:
            lines.append(f"Takes effect at the next restart: {', '.join(self.restart_required)}.")
        return lines


def assess_impact(graph: DependencyGraph | None, guest: Found, running: Mapping[str, bool]) -> Impact:
    """What depends on a guest. ``running`` has every guest of the cluster by name."""
    if graph is None:
        return Impact()
    return assess(graph, graph.services_on(guest.name, guest.vmid), running)


def guest_facts(found: Found) -> dict[str, Any]:
    """A guest in the operator's words, as modules return it."""
    address = fixed_address(found.config, found.type) or fixed_address6(found.config, found.type)
    return {
        "vmid": found.vmid,
        "name": found.name,
        "type": found.type,
        "node": found.node,
        "status": "running" if found.running else "stopped",
        "address": str(address.ip) if address else None,
        "cores": int(found.config.get("cores") or 0) or None,
        "memory": memory_mib(found.config),
        "tags": list(found.tags),
        "pool": found.pool,
        "protection": found.protected,
        "onboot": flag(found.config.get("onboot")),
        "description": split_marker(found.config.get("description"))[0],
        "networks": interface_facts(found.config, found.type),
        "managed": found.operation is not None,
    }
