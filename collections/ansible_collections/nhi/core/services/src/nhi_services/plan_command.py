# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi plan`, `nhi approve`, `nhi reject`, `nhi freeze`, `nhi unfreeze`: what an operator decides."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ansible_collections.nhi.core.plugins.module_utils.errors import PolicyError
from ansible_collections.nhi.core.plugins.module_utils.freeze import freeze, frozen, unfreeze
from ansible_collections.nhi.core.plugins.module_utils.lock import current_person
from ansible_collections.nhi.core.plugins.module_utils.plan_store import PlanStore, StoredPlan
from ansible_collections.nhi.core.plugins.module_utils.policy import NAME, Policy, find_policy
from ansible_collections.nhi.core.plugins.module_utils.state_document import age_seconds, utc_now

from nhi_services.table import Cell, Screen, lines_of
from nhi_services.words import age_in_words, printable

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
    plan = PlanStore(settings.state_dir).approve(plan_id, person, _policy(settings), utc_now())
    return f"{plan_id} is approved by {person} until {plan.body.expires_at}"


def reject(settings: Settings, plan_id: str, reason: str) -> str:
    """Say no to a plan for good."""
    person = current_person()
    PlanStore(settings.state_dir).reject(plan_id, person, _policy(settings), utc_now(), reason)
    return f"{plan_id} is rejected by {person}"


def freeze_changes(settings: Settings, reason: str) -> str:
    """Stop all changes at once."""
    return str(freeze(settings.state_dir, current_person(), reason))


def unfreeze_changes(settings: Settings) -> str:
    """Let changes through again."""
    ended = unfreeze(settings.state_dir)
    return f"changes are possible again; until now {ended}" if ended else "changes were not frozen"


def freeze_line(settings: Settings) -> str | None:
    """What everybody should see while changes are frozen."""
    there = frozen(settings.state_dir)
    return printable(str(there)) if there else None


def _policy(settings: Settings) -> Policy:
    policy = find_policy(None, settings.state_dir)
    if policy is None:
        raise PolicyError(f"there is no {settings.state_dir / NAME}: without a policy nobody can approve anything")
    return policy
