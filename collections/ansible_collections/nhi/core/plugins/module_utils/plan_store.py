# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans on disk, from the dry run that made one to the run that used it up.

``plans/PLAN.json`` is the plan; ``.approved``, ``.rejected`` and ``.used`` beside it say what became of it. Each is
made once, never changed, and flushed to the disk before anything is done because of it. ``plan.key`` is the key of the
seals.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import PlanError, PolicyError, StateError
from .files import discard, explain, replace_file, write_once
from .plan_seal import PlanBody, check_seal, is_plan_id, seal
from .policy import NAME, Policy, find_policy
from .policy_words import APPROVE

DIRECTORY, KEY_NAME = "plans", "plan.key"
_KEY_BYTES = 32
_KEPT = timedelta(days=30)
WAITING, READY, APPROVED, REJECTED, USED, EXPIRED = "waiting", "ready", "approved", "rejected", "used", "expired"
# Files beside a plan, the later the more final.
_MARKS = (APPROVED, REJECTED, USED)


@dataclass(frozen=True)
class Mark:
    """What became of a plan: by whom and when."""

    by: str
    at: str
    note: str = ""


@dataclass(frozen=True)
class StoredPlan:
    """A plan with what became of it. ``decision`` is what the policy said when it was made."""

    plan_id: str
    body: PlanBody
    decision: str
    reason: str
    marks: Mapping[str, Mark]

    def status(self, now: datetime) -> str:
        """Where it stands."""
        for mark in (USED, REJECTED):
            if mark in self.marks:
                return mark
        if self.body.is_expired(now):
            return EXPIRED
        if APPROVED in self.marks:
            return APPROVED
        return WAITING if self.decision == APPROVE else READY

    def as_dict(self, now: datetime) -> dict[str, Any]:
        """For people and programs; the nonce is nobody's concern."""
        body = self.body.as_dict()
        del body["nonce"]
        marks = {name: {"by": mark.by, "at": mark.at, "note": mark.note} for name, mark in self.marks.items()}
        return {
            "plan_id": self.plan_id, "status": self.status(now), "decision": self.decision, "reason": self.reason,
            **body, **marks,
        }  # fmt: skip


def policy_in_force(path: Path | str | None, state_dir: Path, plan_id: str | None) -> Policy | None:
    """The policy that judges changes, None where there is none; PolicyError for a bad one, or for a plan without."""
    policy = find_policy(path, state_dir)
    if policy is None and plan_id:
        # Nobody would look at the plan: used, rejected or for another guest, all would be let through.
        raise PolicyError(
            f"there is no {state_dir / NAME} to judge {plan_id} by, so nothing is allowed: put it back, or name policy"
        )
    return policy


class PlanStore:
    """The plans of a state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.directory = state_dir / DIRECTORY
        self._key_path = state_dir / KEY_NAME

    @cached_property
    def key(self) -> bytes:
        """The key of the seals, made at first use; StateError when it can not be had."""
        for _try in range(2):
            try:
                key = self._key_path.read_bytes()
            except FileNotFoundError:
                self._make_key()
                continue
            except OSError as e:
                raise StateError(
                    f"{self._key_path} can not be read: {explain(e)}; plans are for the control user"
                ) from e
            if len(key) < _KEY_BYTES:
                raise StateError(f"{self._key_path} is damaged: remove it, which voids all plans, and make new ones")
            return key
        raise StateError(f"{self._key_path} could not be made: correct state_dir or its owner")

    def issue(self, body: PlanBody, decision: str, reason: str) -> str:
        """Keep a plan and return its number. StateError when it can not be kept."""
        plan_id = seal(self.key, body)
        data = {"decision": decision, "reason": reason, "plan": body.as_dict()}
        try:
            self.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            replace_file(self._path(plan_id), json.dumps(data, sort_keys=True, default=str).encode() + b"\n", 0o640)
        except OSError as e:
            raise StateError(
                f"{self.directory} can not be written: {explain(e)}; correct state_dir or its owner"
            ) from e
        return plan_id

    def get(self, plan_id: str) -> StoredPlan:
        """A plan whose seal is right; PlanError for one that is unknown, damaged or not ours."""
        if not is_plan_id(plan_id):
            raise PlanError(f"'{plan_id}' is no number of a plan: take plan_id from the result of a dry run")
        try:
            data = json.loads(self._path(plan_id).read_bytes())
            body, decision, reason = PlanBody.parse(data["plan"]), str(data["decision"]), str(data["reason"])
        except FileNotFoundError:
            raise PlanError(f"there is no {plan_id} here: make a new one with a dry run") from None
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise PlanError(f"{plan_id} can not be read ({e}): make a new one with a dry run") from e
        check_seal(self.key, plan_id, body)
        return StoredPlan(plan_id, body, decision, reason, self._marks(plan_id))

    def all(self) -> list[StoredPlan]:
        """Every plan that can be read, oldest first."""
        plans = []
        for path in sorted(self.directory.glob("plan-*.json")) if self.directory.is_dir() else []:
            with contextlib.suppress(PlanError):
                plans.append(self.get(path.stem))
        return sorted(plans, key=lambda plan: (plan.body.created_at, plan.plan_id))

    def outstanding(self, now: datetime) -> list[StoredPlan]:
        """Plans that could still be applied."""
        return [plan for plan in self.all() if plan.status(now) in (WAITING, READY, APPROVED)]

    def approve(self, plan_id: str, person: str, policy: Policy, now: datetime) -> StoredPlan:
        """Let a plan be applied; PlanError unless the policy lets this person approve it now."""
        plan = self._undecided(plan_id, person, policy, now)
        self._mark(plan_id, APPROVED, Mark(person, now.isoformat()), f"{plan_id} was approved meanwhile")
        return self.get(plan.plan_id)

    def reject(self, plan_id: str, person: str, policy: Policy, now: datetime, note: str = "") -> StoredPlan:
        """Say no to a plan for good; whoever asked for it may take it back too."""
        plan = self.get(plan_id)
        if person != plan.body.actor:
            self._undecided(plan_id, person, policy, now)
        elif plan.status(now) in (USED, REJECTED):
            raise PlanError(f"{plan_id} is {plan.status(now)} already")
        mark = Mark(person, now.isoformat(), " ".join(note.split()))
        self._mark(plan_id, REJECTED, mark, f"{plan_id} was rejected meanwhile")
        return self.get(plan_id)

    def use(self, plan_id: str, actor: str, now: datetime) -> None:
        """Use a plan up, just before acting: one process does, and only once. PlanError for all others."""
        mark = Mark(actor, now.isoformat(), f"pid {os.getpid()}")
        self._mark(plan_id, USED, mark, f"{plan_id} was used by another run: make a new one with a dry run")

    def is_approval_genuine(self, plan_id: str, mark: Mark) -> bool:
        """Whether an approval was given here, and not only written into the directory."""
        raw = self._read_mark(plan_id, APPROVED)
        return bool(raw) and hmac.compare_digest(str(raw.get("mac")), self._mac(plan_id, APPROVED, mark))

    def prune(self, now: datetime) -> list[str]:
        """Forget plans whose time has long been over; the audit log remembers them."""
        gone = []
        for plan in self.all():
            if now - datetime.fromisoformat(plan.body.expires_at) > _KEPT:
                discard(*(self.directory / f"{plan.plan_id}.{name}" for name in (*_MARKS, "json")))
                gone.append(plan.plan_id)
        return gone

    def _undecided(self, plan_id: str, person: str, policy: Policy, now: datetime) -> StoredPlan:
        plan = self.get(plan_id)
        status = plan.status(now)
        if status not in (WAITING, READY):
            raise PlanError(f"{plan_id} is {status}: nothing is left to decide; make a new plan with a dry run")
        if person == plan.body.actor:
            raise PlanError(f"{plan_id} was asked for by {person}: another person has to decide on it")
        if not policy.may_approve(person, plan.body.actor):
            who = ", ".join(policy.operators) or "nobody"
            raise PlanError(f"{person} may not decide on plans: the policy names {who} as operators")
        if plan.body.policy != policy.digest:
            raise PlanError(f"the policy changed since {plan_id} was made: make a new plan with a dry run")
        return plan

    def _path(self, plan_id: str) -> Path:
        return self.directory / f"{plan_id}.json"

    def _marks(self, plan_id: str) -> dict[str, Mark]:
        marks = {}
        for name in _MARKS:
            raw = self._read_mark(plan_id, name)
            if raw is not None:
                marks[name] = Mark(str(raw.get("by")), str(raw.get("at")), str(raw.get("note", "")))
        return marks

    def _read_mark(self, plan_id: str, name: str) -> Any:
        try:
            data = json.loads((self.directory / f"{plan_id}.{name}").read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return {}  # it is there, and that is what counts
        return data if isinstance(data, Mapping) else {}

    def _mark(self, plan_id: str, name: str, mark: Mark, too_late: str) -> None:
        path = self.directory / f"{plan_id}.{name}"
        data = {"by": mark.by, "at": mark.at, "note": mark.note, "mac": self._mac(plan_id, name, mark)}
        try:
            write_once(path, json.dumps(data, sort_keys=True).encode(), 0o640)
        except FileExistsError:
            raise PlanError(too_late) from None
        except OSError as e:
            raise StateError(f"{path} can not be written: {explain(e)}; nothing was done") from e

    def _mac(self, plan_id: str, name: str, mark: Mark) -> str:
        text = json.dumps([name, plan_id, mark.by, mark.at]).encode()
        return hmac.new(self.key, text, hashlib.sha256).hexdigest()

    def _make_key(self) -> None:
        try:
            with contextlib.suppress(FileExistsError):
                write_once(self._key_path, secrets.token_bytes(_KEY_BYTES), 0o600)
        except OSError as e:
            raise StateError(f"{self._key_path} can not be made: {explain(e)}; correct state_dir or its owner") from e
