# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi history`, `nhi diff`, `nhi rollback`, `nhi state restore`: what was, what differs, and the way back."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from ansible_collections.nhi.core.plugins.module_utils.audit import Attempt
from ansible_collections.nhi.core.plugins.module_utils.audit_of_guests import audit_of
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.history import History
from ansible_collections.nhi.core.plugins.module_utils.history_keeper import take_snapshot
from ansible_collections.nhi.core.plugins.module_utils.history_view import compare_moments, plan_return, state_at
from ansible_collections.nhi.core.plugins.module_utils.moments import in_words
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import age_seconds, parse_time, utc_now
from ansible_collections.nhi.core.plugins.module_utils.state_recovery import restore_state

from nhi_services import scan_command
from nhi_services.table import Cell, Screen, lines_of
from nhi_services.words import age_in_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ansible_collections.nhi.core.plugins.module_utils.history_view import View

    from nhi_services.settings import Settings

_HEADINGS = ("TAKEN", "AGE", "SNAPSHOT", "BY", "REASON")


class RecoveryError(NHIError):
    """The state was restored, but the scan that has to follow failed."""


def render(snapshots: list[dict[str, Any]], screen: Screen) -> Iterator[str]:
    """Snapshots as a table, newest last."""
    if not snapshots:
        yield "There are no snapshots yet: `nhi history take`, or set up the timer with the role state_scan."
        return
    now = utc_now()
    rows = [
        [
            Cell(in_words(parse_time(one["taken_at"]))),
            Cell(age_in_words(age_seconds(one["taken_at"], now))),
            Cell(one["name"], "red" if one["problem"] else ""),
            Cell(one["actor"]),
            Cell("damaged" if one["problem"] else one["reason"], "red" if one["problem"] else ""),
        ]
        for one in snapshots
    ]
    yield from lines_of(screen, _HEADINGS, rows, flexible="REASON")


def take(settings: Settings, reason: str, *, critical: bool) -> str:
    """Keep the state; one line about it."""
    taken = take_snapshot(settings.state_dir, reason, critical=critical)
    if taken.snapshot is None:
        raise ValueError("a snapshot was neither found nor taken")
    return str(taken.snapshot.path) if taken.new else f"{taken.snapshot.path} holds this state already"


def prune(settings: Settings, *, dry_run: bool) -> Iterator[str]:
    """Thin the history out; lines about what was done, and about what is damaged."""
    pruned = History(settings.state_dir).prune(settings.retention, utc_now(), dry_run=dry_run)
    yield from (f"damaged: {problem}" for problem in pruned.damaged)
    if not pruned.changed:
        yield f"nothing to do: {len(pruned.decisions)} snapshots"
        return
    would = "would be " if dry_run else ""
    data = pruned.as_data()
    yield f"{len(data['removed'])} {would}removed, {len(data['compressed'])} compressed, {data['kept']} kept"


def view(settings: Settings, moment: str) -> View:
    """The state at a moment."""
    return state_at(settings.state_dir, moment)


def diff(settings: Settings, since: str, until: str) -> tuple[list[str], dict[str, Any]]:
    """What differs between two moments, in lines and for programs."""
    comparison = compare_moments(settings.state_dir, since, until, audit_of(settings.state_dir))
    notes = dict.fromkeys([*comparison.before.lines(), *comparison.after.lines()])
    return [comparison.heading(), *notes, *comparison.lines()], comparison.as_data()


def rollback(settings: Settings, to: str) -> tuple[list[str], dict[str, Any]]:
    """The plan that would go back to a moment, in lines and for programs; nothing is done."""
    comparison, plan = plan_return(settings.state_dir, to, audit_of(settings.state_dir))
    heading = f"To go back to {in_words(comparison.before.at)} ({comparison.before.source}); nothing is done yet:"
    lines = [heading, *comparison.before.lines(), *plan.lines()]
    if plan.steps:
        lines.append(f"{rollback_command(to)} --check shows what each step needs.")
    return lines, {"to": comparison.before.as_data(), **plan.as_data()}


def rollback_command(to: str) -> str:
    """What to type for a rollback. As JSON, since Ansible splits NAME=VALUE at its spaces."""
    return f"ansible-playbook playbooks/rollback.yml -e {shlex.quote(json.dumps({'to': to}))}"


def restore(settings: Settings, secret: str | None, *, dry_run: bool, scan: bool) -> Iterator[str]:
    """Restore a damaged state and scan; lines about what was done. A failed scan is told, and the state stays stale."""
    with Attempt(settings.state_dir, "state restore", None, {}, check_mode=dry_run) as attempt:
        attempt.allow()
        recovery = restore_state(StateStore(settings.state_dir), dry_run=dry_run)
        attempt.note(changed=recovery.changed)
    yield from recovery.lines()
    if dry_run or not recovery.changed:
        return
    if not scan:
        yield "Scan before you rely on it: nhi scan --full"
        return
    try:
        report = scan_command.scan(settings, secret, full=True)
    except NHIError as error:
        raise RecoveryError(
            f"The scan that has to follow failed, so state.json {'is stale' if recovery.snapshot else 'is missing'}: "
            f"{error} Then run `nhi scan --full`."
        ) from error
    yield scan_command.in_words(report)
