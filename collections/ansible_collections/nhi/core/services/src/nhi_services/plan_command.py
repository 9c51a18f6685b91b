# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi plan`, `nhi approve`, `nhi reject`, `nhi freeze`, `nhi unfreeze`: what an operator decides."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ansible_collections.nhi.core.plugins.module_utils.audit import Attempt
from ansible_collections.nhi.core.plugins.module_utils.audit_entry import DONE
from ansible_collections.nhi.core.plugins.module_utils.errors import AuditError, PolicyError
from ansible_collections.nhi.core.plugins.module_utils.freeze import freeze, frozen, unfreeze
from ansible_collections.nhi.core.plugins.module_utils.lock import current_person
from ansible_collections.nhi.core.plugins.module_utils.plain_text import printable
from ansible_collections.nhi.core.plugins.module_utils.plan_store import PlanStore, StoredPlan
from ansible_collections.nhi.core.plugins.module_utils.policy import NAME, Policy, find_policy
from ansible_collections.nhi.core.plugins.module_utils.state_document import age_seconds, utc_now

from nhi_services.table import Cell, Screen, lines_of
from nhi_services.words import age_in_words

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from nhi_services.settings import Settings

HEADINGS: Final = ("PLAN", "STATUS", "ASKED BY", "WHAT", "AGE")
_COLOURS: Final = {"waiting": "yellow", "approved": "green", "ready": "green", "rejected": "red"}


def plans(settings: Settings) -> list[StoredPlan]:
    """All plans, oldest first."""
    return PlanStore(settings.state_dir).all()


def as_data(found: list[StoredPlan], now: datetime) -> list[dict[str, Any]]:
    """For programs."""
    return [plan.as_dict(now) for plan in found]


def render(found: list[StoredPlan], now: datetime, screen: Screen) -> Iterator[str]:
    """A table, line by line."""
    if not found:
        yield "There are no plans: a dry run makes one."
        return
    rows = []
    for plan in found:
        status = plan.status(now)
        summary = plan.body.preview.get("summary") or ["?"]
        age = age_in_words(age_seconds(plan.body.created_at, now))
        cells = (plan.plan_id, status, plan.body.actor, str(summary[0]), age)
        rows.append([Cell(text, _COLOURS.get(status, "") if text == status else "") for text in cells])
    yield from lines_of(screen, HEADINGS, rows, flexible="WHAT")


def render_one(plan: StoredPlan, now: datetime) -> Iterator[str]:
    """Everything an operator should have read before approving, line by line."""
    body = plan.body
    yield f"plan        {plan.plan_id}"
    yield f"status      {plan.status(now)}"
    yield f"asked by    {printable(body.actor)} at {body.created_at}, ends {body.expires_at}"
    yield f"policy      {plan.decision}: {printable(plan.reason)}"
    for name, mark in plan.marks.items():
        yield f"{name:<11} by {printable(mark.by)} at {mark.at}{': ' + printable(mark.note) if mark.note else ''}"
    for what, identities in (("guest", body.targets), ("needed by", body.dependents)):
        for identity in identities:
            yield f"{what:<11} {printable(json.dumps(identity, sort_keys=True))}"
    yield "would do"
    for line in body.preview.get("summary", ()):
        yield f"  {printable(str(line))}"
    yield "request"
    for key, value in sorted(body.request.items()):
        yield f"  {printable(key)}: {printable(json.dumps(value, sort_keys=True, ensure_ascii=False))}"


def approve(settings: Settings, plan_id: str) -> str:
    """Let a plan be applied, in the name of the person at the terminal."""
    person = current_person()
    with _decision(settings, "approve", person, plan_id) as attempt:
        policy = _policy(settings)
        attempt.allow()
        plan = PlanStore(settings.state_dir).approve(plan_id, person, policy, utc_now())
    return f"{plan_id} is approved by {person} until {plan.body.expires_at}"


def reject(settings: Settings, plan_id: str, reason: str) -> str:
    """Say no to a plan for good."""
    person = current_person()
    with _decision(settings, "reject", person, plan_id, reason) as attempt:
        policy = _policy(settings)
        attempt.allow()
        PlanStore(settings.state_dir).reject(plan_id, person, policy, utc_now(), reason)
    return f"{plan_id} is rejected by {person}"


def freeze_changes(settings: Settings, reason: str) -> list[str]:
    """Stop all changes at once, whether or not the audit log can be told."""
    person = current_person()
    attempt = Attempt(settings.state_dir, "freeze", None, {"reason": reason}, actor=person)
    said = [str(freeze(settings.state_dir, person, reason))]
    try:
        attempt.finish(DONE)
    except AuditError as error:
        said.append(f"The audit log was not told: {error}")
    return said


def unfreeze_changes(settings: Settings) -> str:
    """Let changes through again."""
    with Attempt(settings.state_dir, "unfreeze", None, {}, actor=current_person()) as attempt:
        attempt.allow()
        ended = unfreeze(settings.state_dir)
    return f"changes are possible again; until now {ended}" if ended else "changes were not frozen"


def freeze_line(settings: Settings) -> str | None:
    """What everybody should see while changes are frozen."""
    there = frozen(settings.state_dir)
    return printable(str(there)) if there else None


def _decision(settings: Settings, what: str, person: str, plan_id: str, reason: str = "") -> Attempt:
    """The attempt to decide about a plan, told to the audit log as one about the plan's guest."""
    body = PlanStore(settings.state_dir).get(plan_id).body
    told = {"asked_by": body.actor, "would_do": body.preview.get("summary"), **({"reason": reason} if reason else {})}
    guest = body.request.get("name") or next((target.get("name") for target in body.targets), None)
    return Attempt(settings.state_dir, what, guest, told, plan=plan_id, actor=person)


def _policy(settings: Settings) -> Policy:
    policy = find_policy(None, settings.state_dir)
    if policy is None:
        raise PolicyError(f"there is no {settings.state_dir / NAME}: without a policy nobody can approve anything")
    return policy
