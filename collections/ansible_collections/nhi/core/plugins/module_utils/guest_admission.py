# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run of a guest module at the gate: a dry run gets its plan there, a real run is let through or refused."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .budget import Size
from .change_gate import Change, Gate
from .errors import BudgetError, NHIError, PlanError, ProxmoxError, StateError
from .guest import CLONE, CREATE, DESTROY, Found, GuestPlan
from .guest_identity import Identity
from .guest_reader import Api, Cluster, read_guest
from .impact import Impact

_MAKING = (CREATE, CLONE, "restore")


@dataclass(frozen=True)
class Subject:
    """The guest that a plan is about: what it is called, how it is tagged, and what was found, if it is there."""

    name: str
    tags: tuple[str, ...] = ()
    found: Found | None = None

    @classmethod
    def of(cls, found: Found) -> Subject:
        """A guest that was just read."""
        return cls(found.name, found.tags, found)


class Admission:
    """The gate as one run sees it. Where there is no policy there is no gate, and everything passes."""

    def __init__(
        self, gate: Gate | None = None, *, check_mode: bool = False, made_by: Iterable[str] | None = None
    ) -> None:
        self._gate = gate
        self._check_mode = check_mode
        self._made_by = tuple(made_by or ())
        self._undoing = False

    def ask(self, api: Api, cluster: Cluster, plan: GuestPlan, operation: str, subject: Subject, *more: str) -> None:
        """Once a plan is complete: FrozenError, NotAllowedError, PlanError or BudgetError, before anything is done.

        ``more`` are operations that no single action of the plan tells. In a dry run nothing is refused: the plan is
        given a number, or a warning says why it has none.
        """
        gate = self._gate
        if gate is None or not plan.changed:
            return
        change = change_of(api, cluster, plan, subject, more)
        if self._check_mode:
            plan.warnings += gate.warnings(change)
            if not plan.failed:
                try:
                    plan.ticket = gate.issue(change).as_dict()
                except (BudgetError, StateError) as e:
                    plan.warnings.append(f"no plan that could be approved was made: {e}")
            return
        if self._made_by and DESTROY in change.operations and any(map(gate.admit_undo, self._made_by)):
            self._undoing = True
            return
        existing = [str(row.get("name", row["vmid"])) for row in cluster.guests]
        gate.admit(operation, change, existing)

    def done(self) -> None:
        """The change was made. An undone creation does not count any more."""
        if self._gate is None or not self._undoing:
            return
        for operation in self._made_by:
            with contextlib.suppress(NHIError):
                self._gate.forget(operation)

    def withdraw(self) -> None:
        """The change was not made, or undone: it does not count against the budget."""
        if self._gate:
            with contextlib.suppress(NHIError):
                self._gate.withdraw()

    def refuse_departure(self, vmid: int) -> None:
        """PlanError where a run would have to depart from the plan it is bound to, as somebody else took its VMID."""
        if self._gate is not None and self._gate.plan_id is not None:
            raise PlanError(
                f"{self._gate.plan_id} no longer fits: somebody else was just given VMID {vmid}. Nothing was done: make"
                " a new plan with a dry run"
            )


def change_of(api: Api, cluster: Cluster, plan: GuestPlan, subject: Subject, more: Iterable[str] = ()) -> Change:
    """What the gate has to know of a plan; reads the guests that depend on this one."""
    found = subject.found
    return Change(
        guest=subject.name,
        operations=tuple(dict.fromkeys([*more, *(action.kind for action in plan.actions)])),
        preview={
            "summary": plan.summary(),
            "actions": [{"kind": action.kind, "text": action.text} for action in plan.actions],
            "before": plan.before,
            "after": plan.after,
        },
        tags=subject.tags,
        targets=(Identity.of(found).as_dict(),) if found else (),
        dependents=tuple(dependents_of(api, cluster, plan.impact, {found.vmid} if found else ())),
        size=_size(plan),
    )


def dependents_of(api: Api, cluster: Cluster, impact: Impact, targets: Collection[int]) -> list[dict[str, Any]]:
    """Which guests carry what depends on a change; without those that it is about, by VMID."""
    carriers = sorted({str(d["guest"]) for d in impact.dependents if d.get("guest")})
    identities = []
    for row in cluster.guests:
        if row.get("name") in carriers and row["vmid"] not in targets:
            try:
                identities.append(Identity.of(read_guest(api, row)).as_dict())
            except ProxmoxError as e:
                # One that this token may not read is still known by what the cluster lists.
                identities.append({"vmid": row["vmid"], "name": row["name"], "type": row["type"], "unread": str(e)})
    return sorted(identities, key=lambda identity: int(identity["vmid"]))


def _size(plan: GuestPlan) -> Size:
    """How much more of a host the guest takes than before."""
    new = any(action.kind in _MAKING for action in plan.actions)
    before: Mapping[str, Any] = {} if new else plan.before

    def more(key: str) -> int:
        then, now = _number(before.get(key)), _number(plan.after.get(key))
        return max(0, now - then) if new or key in before else 0

    return Size(more("cores"), more("memory"), more("disk"))


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0
