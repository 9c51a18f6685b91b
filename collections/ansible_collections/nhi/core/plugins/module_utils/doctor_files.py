# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The doctor's look into the state directory: state, history, policy, graph, ledger, locks, and what is unfinished."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from .audit_log import AuditLog, directory_of
from .doctor import FAIL, OK, WARN, Finding, age_words
from .errors import NHIError
from .freeze import HOW_TO_END, frozen
from .graph import find_graph
from .history import History
from .lock_status import FREE, UNKNOWN, locks_in
from .open_work import open_work
from .policy import find_policy
from .reservations import Reservations
from .restart_jobs import SCHEDULED, RestartJobs
from .state import StateStore
from .state_document import age_seconds, document_age_seconds

# The timers scan every five minutes and keep a snapshot every hour.
_STATE_SECONDS, _HISTORY_SECONDS = 900.0, 7200.0
# Nothing but a restart of many services takes as long.
_LOCK_SECONDS = 3600.0


def look_at_files(state_dir: Path, graph: str | None, now: datetime) -> Iterator[Finding]:
    """Findings about a state directory; each look fails for itself."""
    looks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("state", lambda: _state(state_dir, now)),
        ("history", lambda: _history(state_dir, now)),
        ("audit log", lambda: _audit(state_dir)),
        ("freeze", lambda: _freeze(state_dir)),
        ("policy", lambda: _policy(state_dir)),
        ("graph", lambda: _graph(state_dir, graph)),
        ("locks", lambda: _locks(state_dir, now)),
        ("reservations", lambda: _reservations(state_dir)),
        ("open work", lambda: _open(state_dir, now)),
        ("scheduled restarts", lambda: _scheduled(state_dir)),
    )
    for check, look in looks:
        try:
            yield from look()
        except NHIError as e:
            yield Finding(check, FAIL, str(e))


def _state(state_dir: Path, now: datetime) -> Iterator[Finding]:
    store = StateStore(state_dir)
    snapshot = store.read_or_none()
    if snapshot is None:
        yield Finding("state", FAIL, f"there is no {store.path}", "run: nhi scan")
        return
    age = document_age_seconds(snapshot.document, now)
    if age > _STATE_SECONDS:
        yield Finding("state", WARN, f"it was read {age_words(age)} ago", "run nhi scan; is nhi-scan.timer running?")
    else:
        yield Finding("state", OK, f"it is whole, and was read {age_words(age)} ago")
    if not os.access(state_dir, os.W_OK):
        yield Finding("state directory", WARN, f"this user may not write to {state_dir}", "use the control user")


def _history(state_dir: Path, now: datetime) -> Iterator[Finding]:
    history = History(state_dir)
    snapshots = list(history.snapshots())
    if not snapshots:
        yield Finding("history", WARN, "there is no snapshot of the state", "run: nhi history take")
        return
    newest = snapshots[-1]
    history.read_bytes(newest)
    age = (now - newest.taken_at).total_seconds()
    whole = f"the newest of {len(snapshots)} snapshots is whole and {age_words(max(0.0, age))} old"
    late = age > _HISTORY_SECONDS
    yield Finding("history", WARN if late else OK, whole, "is nhi-history.timer running?" if late else "")


def _audit(state_dir: Path) -> Iterator[Finding]:
    if not directory_of(state_dir).exists():
        yield Finding("audit log", OK, "nothing was ever written into it")
        return
    AuditLog(state_dir).require_writable()
    yield Finding("audit log", OK, "it can be written; nhi audit verify says whether it is whole")


def _freeze(state_dir: Path) -> Iterator[Finding]:
    there = frozen(state_dir)
    yield Finding("freeze", WARN, str(there), HOW_TO_END) if there else Finding("freeze", OK, "changes are possible")


def _policy(state_dir: Path) -> Iterator[Finding]:
    policy = find_policy(None, state_dir)
    if policy is None:
        yield Finding(
            "policy", WARN, "there is none, so nobody is asked for approval", f"write {state_dir}/policy.json"
        )
    else:
        who = ", ".join(policy.operators) or "nobody"
        yield Finding("policy", OK, f"it is valid, with {len(policy.rules)} rules; {who} may approve")


def _graph(state_dir: Path, named: str | None) -> Iterator[Finding]:
    graph = find_graph(named, str(state_dir))
    if graph is None:
        yield Finding("graph", WARN, "there is none, so nobody knows what depends on what", "write it")
        return
    yield Finding("graph", OK, f"it is valid, and has {len(graph.services)} services")


def _locks(state_dir: Path, now: datetime) -> Iterator[Finding]:
    holds = [hold for hold in locks_in(state_dir) if hold.holder or hold.state != FREE]
    for hold in holds:
        age = (age_seconds(hold.holder.since, now) or 0.0) if hold.holder else 0.0
        if hold.state == FREE:
            yield Finding("locks", OK, f"{hold.name} still names {hold.holder}, which is gone: the lock went with it")
        elif hold.state == UNKNOWN or hold.holder is None:
            yield Finding("locks", WARN, f"{hold.name}: {hold.advice}", "run: nhi lock status")
        elif age > _LOCK_SECONDS:
            text = f"{hold.name} is held for {age_words(age)}: {hold.holder}"
            yield Finding("locks", WARN, text, "look at that process, run: nhi lock status")
        else:
            yield Finding("locks", OK, f"{hold.name} is held: {hold.holder}")
    if not holds:
        yield Finding("locks", OK, "none is held")


def _reservations(state_dir: Path) -> Iterator[Finding]:
    left = Reservations(state_dir).abandoned()
    for line in left:
        what = f"VMID {line.vmid}{' and ' + line.address if line.address else ''} for {line.name}"
        yield Finding(
            "reservations", WARN, f"{what} is held by a run that is gone", f"run: nhi recover {line.operation}"
        )
    if not left:
        yield Finding("reservations", OK, "none is left by a run that is gone")


def _open(state_dir: Path, now: datetime) -> Iterator[Finding]:
    works = open_work(state_dir, now)
    for work in works:
        if work.alive:
            yield Finding("open work", OK, f"{work.what} by {work.actor} is under way ({work.process})")
        else:
            yield Finding(
                "open work", WARN, f"{work.what} by {work.actor} is not finished", f"run: nhi recover {work.id}"
            )
    if not works:
        yield Finding("open work", OK, "nothing is unfinished")


def _scheduled(state_dir: Path) -> Iterator[Finding]:
    jobs = RestartJobs(state_dir)
    waiting = [job for job in jobs.all() if job.status == SCHEDULED]
    if waiting and not jobs.is_watched():
        text = f"{len(waiting)} wait, and nobody has looked for what is due in the last ten minutes"
        yield Finding("scheduled restarts", WARN, text, "is nhi-restarts.timer running?")
    else:
        yield Finding("scheduled restarts", OK, f"{len(waiting)} wait")
