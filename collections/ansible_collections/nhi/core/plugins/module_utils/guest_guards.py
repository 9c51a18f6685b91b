# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What modules that work on a guest share: which one is meant, what guards it, what is told of a plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from .graph import DependencyGraph
from .guest import Check, Found, GuestPlan, assess_impact
from .guest_admission import Admission
from .guest_checks import check_confirmed, check_critical, check_dependents
from .guest_identity import Identity, Known, check_expected
from .impact import Impact
from .plain_text import printable, printable_lines, printable_parts


@dataclass(frozen=True)
class GuestName:
    """Which guest is meant."""

    name: str
    vmid: int | None = None


@dataclass(frozen=True)
class Guards:
    """What was said about work that takes something away for good."""

    confirm: str | None = None
    allow_impact: bool = False
    allow_brain: bool = False
    brain_vmid: int = 100
    graph: DependencyGraph | None = None
    known: Known = field(default_factory=Known)
    expect: Identity | None = None
    admission: Admission = field(default_factory=Admission)

    def checks(self, found: Found, impact: Impact, what: str) -> list[Check]:
        """The guest is the known one, and the words were said; ``what`` is such as "rolling back"."""
        return [
            *self.identify(found, destructive=True),
            check_critical(
                found, self.brain_vmid, impact, allow_brain=self.allow_brain, allow_impact=self.allow_impact
            ),
            check_dependents(found, impact, allow_impact=self.allow_impact),
            check_confirmed(found, self.confirm, what),
        ]

    def identify(self, found: Found, *, destructive: bool) -> list[Check]:
        """The guest is the one that the last scan knows, and the one that was expected."""
        now = Identity.of(found)
        return [self.known.check(now, destructive=destructive), *self.expected(now)]

    def expected(self, now: Identity | None) -> list[Check]:
        """The guest, or that there is none, is what was expected, if anything was."""
        return [check_expected(self.expect, now)] if self.expect else []

    def impact(self, running: Mapping[str, bool], found: Found) -> Impact:
        """Which services would miss the guest. ``running`` has every guest of the cluster by name."""
        return assess_impact(self.graph, found, running)

    def unknown_impact(self, found: Found) -> list[str]:
        """A warning where no graph was read."""
        if self.graph is not None:
            return []
        return [f"No dependency graph was read, so nobody knows what depends on {found.label}."]


def guards_from_params(
    params: Mapping[str, Any], graph: DependencyGraph | None, known: Known, admission: Admission
) -> Guards:
    """The guards as options of a module."""
    return Guards(
        params["confirm"], params["allow_impact"], params["allow_brain"], params["brain_vmid"], graph, known,
        Identity.from_params(params["expect"]), admission,
    )  # fmt: skip


def check_made_by(found: Found, operations: Collection[str]) -> Check:
    """Whether a guest is the one that an operation made, and not another of its name."""
    mine = found.operation in operations
    whose = f"made by {found.operation}" if found.operation else "not made by any operation known here"
    wanted = " or ".join(operations) or "an operation of this deployment"
    message = f"made by {found.operation}" if mine else f"{found.label} was {whose}, not by {wanted}: it is left alone"
    return Check("made_by", mine, message)


def plan_result(plan: GuestPlan) -> dict[str, Any]:
    """The parts of a plan that every module returns."""
    return {
        "changed": plan.changed,
        "diff": {"before": plan.before or "", "after": plan.after or ""},
        "actions": [{"kind": a.kind, "text": a.text} for a in plan.actions],
        "preflight": [{"check": c.name, "passed": c.passed, "message": c.message} for c in plan.checks],
        "impact": plan.impact.as_dict(),
        "identity": plan.identity,
        "summary": plan.summary(),
        "plan": plan.ticket,
        "how_to_apply": how_to_apply(plan.ticket),
    }


def as_result(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What a module returns of a guest; notes and names in it are up to its owner, and Ansible shows results raw."""
    return {name: printable_parts(part, printable_lines) for name, part in parts.items()}


def how_to_apply(ticket: Mapping[str, Any] | None, option: str = "plan_id=") -> list[str]:
    """What to do next with the plan of a dry run, for people."""
    if not ticket:
        return []
    number = ticket["plan_id"]
    approve = f"an operator approves it with 'nhi approve {number}', then " if ticket["needs_approval"] else ""
    return [f"Plan {number}, good until {ticket['expires_at']}: {approve}run the same with {option}{number}."]


def plan_warnings(plan: GuestPlan) -> list[str]:
    """What to warn of, also what check mode let pass; Ansible writes warnings to the terminal as they are."""
    return list(map(printable, [*plan.warnings, *(f"Refused outside check mode: {c.message}" for c in plan.failed)]))
