# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restarts at the gate: a dry run gets its plan there, a real run is let through, and what waited or was cut off again.

What was let through is kept as a plan that is used up. Its number goes into the job or the journal: what runs hours
later is compared with it, and needs no second approval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from .change_gate import Change, Gate, Part
from .errors import BudgetError, PreflightError, StateError
from .graph import graph_digest
from .guest import Found
from .guest_admission import dependents_of
from .guest_identity import Identity
from .guest_reader import Api, Cluster, read_cluster, read_guest
from .journal import new_operation
from .lock import current_actor
from .plan_store import policy_in_force
from .restart_plan import RestartPlan, Step

# Operations, as policies name them: guarded is what the graph does not leave to everybody, or a time that is not safe.
RESTART, GUARDED = "restart", "restart_guarded"


class RestartGate:
    """The gate for restarts; where there is no policy everything passes. PolicyError for one that can not be used."""

    def __init__(
        self,
        state_dir: Path,
        connect: Callable[[], AbstractContextManager[Api]],
        policy: str | None = None,
        plan_id: str | None = None,
    ) -> None:
        self.plan_id = plan_id
        self._state_dir = state_dir
        self._connect = connect
        self._policy = policy

    def check(self) -> None:
        """PolicyError when the policy can not be used."""
        policy_in_force(self._policy, self._state_dir, self.plan_id)

    def foresee(self, plan: RestartPlan) -> tuple[dict[str, Any] | None, list[str]]:
        """For a dry run: the ticket with which the plan can be applied, if there is one, and what to warn of."""
        gate = self._gate(plan)
        if gate is None:
            return None, []
        with self._connect() as api:
            change = _change(api, read_cluster(api), plan)
        warnings = gate.warnings(change)
        if plan.failed:
            return None, warnings
        try:
            return gate.issue(change).as_dict(), warnings
        except (BudgetError, StateError) as e:
            return None, [*warnings, f"no plan that could be approved was made: {e}"]

    def admit(self, plan: RestartPlan) -> str | None:
        """Let a restart through, or refuse it before anything is done; the number to readmit it by.

        FrozenError, NotAllowedError, PlanError, BudgetError; PreflightError when a guest is not the one that is known.
        """
        gate = self._gate(plan)
        if gate is None:
            return None
        with self._connect() as api:
            cluster = read_cluster(api)
            change = _change(api, cluster, plan)
        return gate.admit_for_later(new_operation(), change, cluster.running().keys())

    def readmit(self, plan: RestartPlan, admitted: str | None, actor: str) -> None:
        """Let go on what ``admit`` had let through for that actor; its errors."""
        gate = self._gate(plan, actor)
        if gate is None:
            return
        with self._connect() as api:
            cluster = read_cluster(api)
            change = _change(api, cluster, plan)
        if admitted is None:
            # It was asked for while there was no policy: it has to stand before the one of now.
            gate.admit(new_operation(), change, cluster.running().keys())
        else:
            gate.readmit(admitted, change)

    def _gate(self, plan: RestartPlan, actor: str | None = None) -> Gate | None:
        policy = policy_in_force(self._policy, self._state_dir, self.plan_id)
        if policy is None:
            return None
        plan_id = None if actor else self.plan_id
        return Gate(
            self._state_dir, policy, actor or current_actor(), plan.wish.as_request(), graph=graph_digest(plan.graph),
            plan_id=plan_id,
        )  # fmt: skip


def _change(api: Api, cluster: Cluster, plan: RestartPlan) -> Change:
    """What the gate has to know of a restart; reads its guests."""
    guests = dict(_guests(api, cluster, plan))
    parts: dict[int, Part] = {}
    for step in plan.steps:
        operation = GUARDED if plan.is_guarded(step) else RESTART
        known = parts.get(step.vmid)
        operations = (*(known.operations if known else ()), operation)
        parts[step.vmid] = Part(step.guest, tuple(dict.fromkeys(operations)), guests[step.vmid].tags)
    first, *others = parts.values() or [Part(", ".join(plan.wish.services), (RESTART,))]
    return Change(
        first.guest, first.operations,
        preview={"summary": plan.promise(), "steps": [step.as_dict() for step in plan.steps]},
        tags=first.tags,
        targets=tuple(Identity.of(found).as_dict() for found in guests.values()),
        dependents=tuple(dependents_of(api, cluster, plan.impact, guests.keys())),
        others=tuple(others),
    )  # fmt: skip


def _guests(api: Api, cluster: Cluster, plan: RestartPlan) -> Iterator[tuple[int, Found]]:
    """Each guest of the steps, read now; PreflightError for one that is not what state.json says."""
    seen: dict[int, Step] = {}
    for step in plan.steps:
        if seen.setdefault(step.vmid, step) is not step:
            continue
        row = next((r for r in cluster.guests if r["vmid"] == step.vmid), None)
        if row is None:
            raise PreflightError(f"{step.guest} (VMID {step.vmid}) is not there, or this token can not see it: scan")
        found = read_guest(api, row)
        if found.name != step.guest:
            raise PreflightError(f"VMID {step.vmid} is {found.label}, not {step.guest}: scan, and look")
        yield step.vmid, found
