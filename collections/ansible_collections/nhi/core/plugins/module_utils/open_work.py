# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was begun and is not finished: changes to guests, restarts, scheduled restarts, deployments. Only looks."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from .deployment import Record, unfinished
from .errors import PreflightError
from .guest_record import GuestRecord
from .guest_recovery import foretell
from .journal import Journal, survey
from .lock import FileLock, Holder
from .restart_history import DIRECTORY as RESTARTS
from .restart_jobs import RUNNING, Job, RestartJobs
from .restart_run import PLAN, origin_of, told_of

# In the order in which they are finished: what is left of a guest may stand in the way of the others.
GUEST, JOB, RESTART, DEPLOYMENT = "guest", "scheduled restart", "restart", "deployment"


@dataclass(frozen=True)
class OpenWork:
    """One thing that is not finished. Times are ISO 8601 in UTC; ``alive`` says whether its process still works."""

    kind: str
    id: str
    what: str
    names: frozenset[str]
    actor: str
    since: str
    process: str
    alive: bool
    step: str
    finishing: str

    def is_called(self, name: str) -> bool:
        """Whether somebody who says this name may mean it."""
        return name == self.id or name in self.names

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "kind": self.kind, "id": self.id, "what": self.what, "names": sorted(self.names), "actor": self.actor,
            "since": self.since, "process": self.process, "under_way": self.alive, "step": self.step,
            "finishing": self.finishing,
        }  # fmt: skip


def open_work(state_dir: Path, now: datetime) -> list[OpenWork]:
    """Everything that is open, in the order in which it would be finished; StateError for what can not be read."""
    jobs = [job for job in RestartJobs(state_dir).all() if job.is_due(now)]
    known = {job.id for job in jobs}
    restarts = [one for one in survey(state_dir / RESTARTS) if _job_of(one[0]) not in known]
    return [
        *(_guest(journal, alive=alive) for journal, alive in survey(state_dir)),
        *_jobs(state_dir, jobs),
        *(_restart(journal, alive=alive) for journal, alive in restarts),
        *map(_deployment, unfinished(state_dir)),
    ]


def called(works: list[OpenWork], name: str) -> list[OpenWork]:
    """What is meant by a name: of an operation, a guest or a service. PreflightError where nothing is."""
    found = [work for work in works if work.is_called(name)]
    if not found:
        there = ", ".join(f"{work.id} ({work.what})" for work in works) or "nothing"
        raise PreflightError(f"nothing that is called {name} is open: there is {there}")
    return found


def _guest(journal: Journal, *, alive: bool) -> OpenWork:
    record = GuestRecord.of(journal.operation, journal.entries)
    names = {entry[part]["name"] for entry in journal.entries for part in ("guest", "target") if part in entry}
    return _of_journal(GUEST, journal, names | {journal.what.partition(" ")[0]}, foretell(record), alive=alive)


def _restart(journal: Journal, *, alive: bool) -> OpenWork:
    services: list[str] = next((e["services"] for e in journal.entries if e["step"] == PLAN), [])
    finishing = f"finish: it goes on where it was ({told_of(journal)})"
    return _of_journal(RESTART, journal, set(services), finishing, alive=alive)


def _of_journal(kind: str, journal: Journal, names: set[str], finishing: str, *, alive: bool) -> OpenWork:
    last = journal.entries[-1] if journal.entries else {"step": "nothing yet", "at": ""}
    step = " ".join(str(last[part]) for part in ("step", "of", "service") if part in last and last["step"] != PLAN)
    holder = journal.holder
    return OpenWork(
        kind, journal.operation, journal.what, frozenset(names), *_who(holder), alive,
        f"{step or 'planned'} at {last['at'][:19]}".removesuffix(" at "), finishing,
    )  # fmt: skip


def _jobs(state_dir: Path, jobs: list[Job]) -> Iterator[OpenWork]:
    runner = FileLock(state_dir / RESTARTS / "run.lock", "look").holder()
    journals = {_job_of(journal): journal for journal, _alive in survey(state_dir / RESTARTS)}
    for job in jobs:
        journal = journals.get(job.id)
        running = job.status == RUNNING
        actor, since, process = job.by, job.not_before, _who(runner)[2] if running else "its timer"
        finishing = f"finish: it goes on where it was ({told_of(journal)})" if journal else "finish: it is done now"
        yield OpenWork(
            JOB, job.id, f"restart of {', '.join(job.services)}", frozenset(job.services), actor, since, process,
            running and runner is not None,
            "cut off" if running and runner is None else "due" if not running else "under way", finishing,
        )  # fmt: skip


def _deployment(record: Record) -> OpenWork:
    begun, holder = record.begun, record.holder
    return OpenWork(
        DEPLOYMENT, record.guest, f"{record.what} of {record.service or 'a service'} on {record.guest}",
        frozenset({record.guest, *filter(None, [record.service])}), *_who(begun)[:2], _who(holder)[2],
        record.is_under_way, "made: " + (", ".join(record.made) or "nothing"),
        f"finish: {shlex.join(['ansible-playbook', *record.command])}",
    )  # fmt: skip


def _who(holder: Holder | None) -> tuple[str, str, str]:
    if holder is None:
        return "somebody", "", "none"
    return holder.actor, holder.since, f"pid {holder.pid} on {holder.host}"


def _job_of(journal: Journal) -> str | None:
    origin = origin_of(journal)
    return origin.job if origin else None
