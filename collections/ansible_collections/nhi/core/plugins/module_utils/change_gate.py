# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate that every change to a guest goes through: freeze, policy, plan and approval, budget.

A dry run asks it for a plan, a real run for admission, with the same description of the change, made anew from the
live API. Nothing behind the gate has been begun when it refuses.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from .budget import BudgetLedger, Size, Spending, over_budget
from .errors import BudgetError, NotAllowedError, PlanError
from .freeze import frozen, refuse_if_frozen
from .plan_seal import PlanBody, expiry
from .plan_store import APPROVED, EXPIRED, READY, REJECTED, USED, WAITING, PlanStore, StoredPlan
from .policy import Policy, strictest
from .policy_words import APPROVE, DENY, Decision
from .state_document import utc_now

# What must still be so when a change goes on that was admitted and put off, or cut off.
_LASTING = ("request", "targets", "preview")


@dataclass(frozen=True)
class Part:
    """What a change does to one guest."""

    guest: str
    operations: tuple[str, ...]
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """A change to one guest, and to ``others`` with it, as far as the gate has to know it."""

    guest: str
    operations: tuple[str, ...]
    preview: Mapping[str, Any]
    tags: tuple[str, ...] = ()
    targets: tuple[Mapping[str, Any], ...] = ()
    dependents: tuple[Mapping[str, Any], ...] = ()
    size: Size = field(default_factory=Size)
    others: tuple[Part, ...] = ()
    # What the policy says, where that depends on more than operations.
    decision: Decision | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """What it does, guest by guest."""
        return Part(self.guest, self.operations, self.tags), *self.others


@dataclass(frozen=True)
class Issued:
    """What a dry run is told: the number of its plan, and what is needed to apply it."""

    plan_id: str
    decision: str
    reason: str
    expires_at: str

    def as_dict(self) -> dict[str, Any]:
        """For the result of a module."""
        return {
            "plan_id": self.plan_id, "decision": self.decision, "reason": self.reason, "expires_at": self.expires_at,
            "needs_approval": self.decision == APPROVE,
        }  # fmt: skip


class Gate:
    """One run of one actor at the gate; ``request`` is what was asked for, without secrets."""

    def __init__(
        self,
        state_dir: Path,
        policy: Policy,
        actor: str,
        request: Mapping[str, Any],
        *,
        graph: str = "",
        plan_id: str | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.actor = actor
        self.plan_id = plan_id
        self._state_dir = state_dir
        self._policy = policy
        self._request = request
        self._graph = graph
        self._now = now
        self._store = PlanStore(state_dir)
        self._ledger = BudgetLedger(state_dir)
        self._spent: str | None = None

    def decide(self, change: Change) -> Decision:
        """What the policy says, without asking for plan or budget."""
        if change.decision is not None:
            return change.decision
        return strictest(
            self._policy.decide(part.operations, self.actor, part.guest, part.tags) for part in change.parts
        )

    def issue(self, change: Change) -> Issued:
        """Make a plan of a dry run; BudgetError for an actor who has too many that could still be applied."""
        now = self._now()
        waiting = self._store.outstanding(now)
        for who in (self.actor, None):
            limit = self._limits(who).get("outstanding_plans")
            there = sum(who in (None, plan.body.actor) for plan in waiting)
            if limit is not None and there >= limit:
                raise BudgetError(over_budget(who, "outstanding_plans", limit, there, 1))
        decision, body = self.decide(change), self._body(change, now, secrets.token_hex(16))
        self._store.prune(now)
        plan_id = self._store.issue(body, decision.verdict, decision.reason)
        return Issued(plan_id, decision.verdict, decision.reason, body.expires_at)

    def warnings(self, change: Change) -> list[str]:
        """What would refuse this change now, for a dry run."""
        found = []
        if freeze := frozen(self._state_dir):
            found.append(str(freeze))
        decision = self.decide(change)
        if decision.verdict == DENY:
            found.append(f"not allowed: {decision.reason}")
        return found

    def admit(self, operation: str, change: Change, existing: Collection[str]) -> None:
        """Let a change through, or refuse it with what to do next, before anything was done.

        ``existing`` are the names of all guests that there are. FrozenError, NotAllowedError, PlanError, BudgetError.
        """
        refuse_if_frozen(self._state_dir)
        now, decision = self._now(), self._allowed(change)
        if self.plan_id:
            self._check_plan(change, decision, now)
        elif decision.verdict == APPROVE:
            raise NotAllowedError(
                f"{self._words(change)} needs an approval ({decision.reason}): run it with --check, have an operator"
                " run 'nhi approve PLAN', then run it again with plan_id=PLAN"
            )
        spending = Spending(change.operations, change.guest, change.size)
        self._ledger.spend(
            operation, self.actor, spending, self._limits, existing, now, commit=lambda: self._use_up(now)
        )
        self._spent = operation

    def admit_for_later(self, operation: str, change: Change, existing: Collection[str]) -> str:
        """Like ``admit``; returns the number of a plan, used up, that keeps what was let through for ``readmit``."""
        self.admit(operation, change, existing)
        if self.plan_id:
            return self.plan_id
        now, decision = self._now(), self.decide(change)
        self._store.prune(now)
        plan_id = self._store.issue(self._body(change, now, secrets.token_hex(16)), decision.verdict, decision.reason)
        self._store.use(plan_id, self.actor, now)
        return plan_id

    def readmit(self, plan_id: str, change: Change) -> None:
        """Let go on what was admitted before, and had to wait or was cut off, under a plan that is used up.

        FrozenError; NotAllowedError when the policy of now would not allow it; PlanError when the change is another.
        """
        refuse_if_frozen(self._state_dir)
        decision = self._allowed(change)
        plan = self._store.get(plan_id)
        if plan.body.actor != self.actor or USED not in plan.marks:
            raise PlanError(f"{plan_id} does not stand for anything that {self.actor} was allowed: ask for it again")
        differences = plan.body.differences(self._body(change, self._now(), plan.body.nonce), _LASTING)
        if differences:
            raise PlanError(
                f"it is not what was allowed with {plan_id} any more: {'; '.join(differences)}. Ask for it again"
            )
        if decision.verdict == APPROVE and not self._is_approved(plan):
            raise NotAllowedError(
                f"{self._words(change)} needs an approval by now ({decision.reason}): ask for it again"
            )

    def admit_undo(self, operation: str) -> bool:
        """Whether the actor may take back what its own operation made within the hour; FrozenError in a freeze."""
        refuse_if_frozen(self._state_dir)
        return self._ledger.is_young(operation, self.actor, self._now())

    def forget(self, operation: str) -> None:
        """What the operation made was taken back: it does not count any more."""
        self._ledger.withdraw(operation)

    def withdraw(self) -> None:
        """What was admitted did not happen, or was undone: it does not count against the budget."""
        if self._spent:
            self._ledger.withdraw(self._spent)
            self._spent = None

    def _use_up(self, now: datetime) -> None:
        if self.plan_id:
            self._store.use(self.plan_id, self.actor, now)

    def _check_plan(self, change: Change, decision: Decision, now: datetime) -> None:
        plan_id = self.plan_id or ""
        plan = self._store.get(plan_id)
        if plan.body.actor != self.actor:
            raise PlanError(f"{plan_id} was made for {plan.body.actor}, not for {self.actor}: make one of your own")
        status = plan.status(now)
        if status in (USED, REJECTED, EXPIRED):
            ended = plan.marks.get(status)
            when = f" by {ended.by} at {ended.at}" if ended else f" since {plan.body.expires_at}"
            raise PlanError(f"{plan_id} is {status}{when}: make a new plan with a dry run")
        differences = plan.body.differences(self._body(change, now, plan.body.nonce))
        if differences:
            raise PlanError(
                f"{plan_id} no longer fits: {'; '.join(differences)}. Nothing was done: make a new plan with a dry run"
            )
        if status == WAITING or (decision.verdict == APPROVE and status == READY):
            raise NotAllowedError(f"{plan_id} waits for an approval: an operator gives it with: nhi approve {plan_id}")
        mark = plan.marks.get(APPROVED)
        if mark and not self._is_approved(plan):
            raise PlanError(f"the approval of {plan_id} by {mark.by} does not count: make a new plan with a dry run")

    def _is_approved(self, plan: StoredPlan) -> bool:
        """Whether somebody approved it who still may."""
        mark = plan.marks.get(APPROVED)
        return mark is not None and (
            self._policy.may_approve(mark.by, self.actor) and self._store.is_approval_genuine(plan.plan_id, mark)
        )

    def _allowed(self, change: Change) -> Decision:
        """The decision, unless it is a no: NotAllowedError."""
        decision = self.decide(change)
        if decision.verdict == DENY:
            raise NotAllowedError(f"{self._words(change)} is not allowed: {decision.reason}")
        return decision

    def _body(self, change: Change, now: datetime, nonce: str) -> PlanBody:
        return PlanBody(
            self.actor, now.isoformat(), expiry(now, self._policy.plan_seconds), nonce, self._request, change.targets,
            change.dependents, self._graph, self._policy.digest, change.preview,
        )  # fmt: skip

    def _limits(self, actor: str | None) -> Mapping[str, int]:
        return self._policy.total_budget if actor is None else self._policy.budget(actor)

    def _words(self, change: Change) -> str:
        operations = dict.fromkeys(operation for part in change.parts for operation in part.operations)
        guests = ", ".join(part.guest for part in change.parts)
        return f"{' and '.join(operations)} of {guests} by {self.actor}"
