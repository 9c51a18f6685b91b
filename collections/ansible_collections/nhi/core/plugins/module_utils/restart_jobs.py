# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restarts that wait for their hour: one file for each in ``restarts/jobs``, so that no crash or boot loses one."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from .errors import PreflightError, StateError
from .files import discard, explain, replace_file, sync_directory
from .lock import FileLock
from .restart_history import DIRECTORY
from .restart_plan import RestartWish

SCHEDULED, RUNNING, DONE, FAILED = "scheduled", "running", "done", "failed"
_OPEN = (SCHEDULED, RUNNING)
_KEPT = timedelta(days=7)
_WATCHED_SECONDS = 600.0


@dataclass(frozen=True)
class Job:
    """A restart for later. Times are UTC."""

    id: str
    services: tuple[str, ...]
    confirm: tuple[str, ...]
    whole_guests: bool
    by: str
    created_at: str
    not_before: str
    not_after: str | None
    status: str = SCHEDULED
    message: str = ""
    ended_at: str | None = None
    # The plan under which it was let through.
    admitted: str | None = None

    @property
    def wish(self) -> RestartWish:
        """What was asked for."""
        return RestartWish(self.services, frozenset(self.confirm), whole_guests=self.whole_guests)

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.id} ({', '.join(self.services)})"

    def is_due(self, now: datetime) -> bool:
        """Whether its hour has come."""
        return self.status in _OPEN and datetime.fromisoformat(self.not_before) <= now

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "services": list(self.services), "confirm": list(self.confirm)}


class RestartJobs:
    """The jobs of one state directory; each change is under a lock and whole or not at all."""

    def __init__(self, state_dir: Path | str) -> None:
        self.directory = Path(state_dir) / DIRECTORY / "jobs"

    def all(self) -> list[Job]:
        """What waits, runs, or ended lately, by time; StateError names a file that is none."""
        try:
            files = sorted(self.directory.glob("*.json"))
        except OSError as e:
            raise StateError(f"{self.directory} can not be read: {explain(e)}; correct its owner") from e
        return sorted(map(_read, files), key=lambda job: (job.not_before, job.id))

    def schedule(
        self,
        wish: RestartWish,
        start: datetime,
        end: datetime | None,
        by: str,
        admit: Callable[[], str | None] = lambda: None,
    ) -> tuple[Job, bool]:
        """The job for a wish, and whether it is new or changed; what waits already is not scheduled twice.

        ``admit`` is asked just before anything is written; what it raises leaves the jobs as they are.
        """
        names = tuple(sorted(wish.services))
        with self._locked("schedule a restart"):
            for job in self.all():
                shared = sorted(set(names) & set(job.services))
                if job.status not in _OPEN or not shared:
                    continue
                if job.services != names or job.status == RUNNING:
                    what = "is being restarted" if job.status == RUNNING else "waits for its restart"
                    raise PreflightError(
                        f"{', '.join(shared)} {what} already, in {job.label} at {job.not_before}: wait, or cancel it"
                    )
                return self._again(job, wish, start, end, by, admit)
            new = Job(
                f"restart-{uuid.uuid4().hex[:8]}", names, tuple(sorted(wish.confirm & set(names))), wish.whole_guests,
                by, _stamp(datetime.now(UTC)), _stamp(start), _stamp(end) if end else None, admitted=admit(),
            )  # fmt: skip
            self._write(new)
            self._forget_old()
            return new, True

    def _again(
        self,
        job: Job,
        wish: RestartWish,
        start: datetime,
        end: datetime | None,
        by: str,
        admit: Callable[[], str | None],
    ) -> tuple[Job, bool]:
        confirmed = tuple(sorted({*job.confirm, *(wish.confirm & set(job.services))}))
        same = replace(
            job, confirm=confirmed, whole_guests=wish.whole_guests, not_before=_stamp(start),
            not_after=_stamp(end) if end else None,
        )  # fmt: skip
        if same == job:
            return job, False
        same = replace(same, by=by, admitted=admit())
        self._write(same)
        return same, True

    def cancel(self, which: str, *, running: bool = False) -> Job:
        """Take back what waits, by its id or by one of its services; PreflightError when nothing does.

        One that is marked as running only for who knows that nothing runs.
        """
        with self._locked("cancel a restart"):
            waiting = [job for job in self.all() if job.status in _OPEN]
            for job in waiting:
                if which != job.id and which not in job.services:
                    continue
                if job.status == RUNNING and not running:
                    raise PreflightError(
                        f"{job.label} is under way and can not be cancelled any more: wait for its end"
                    )
                discard(self.directory / f"{job.id}.json")
                sync_directory(self.directory)
                return job
        there_is = ", ".join(job.label for job in waiting) or "none"
        raise PreflightError(f"no restart of {which} waits: there is {there_is}")

    def claim(self, now: datetime, only: str | None = None) -> Job | None:
        """The first job that is due, or that one, marked as running. Only for who holds the lock of restarts."""
        with self._locked("begin a restart"):
            for job in self.all():
                # One that is said to run was cut off: whoever ran it held the lock that is ours now.
                if job.is_due(now) and only in (None, job.id):
                    running = replace(job, status=RUNNING)
                    self._write(running)
                    return running
        return None

    def put_off(self, job: Job, start: datetime, end: datetime | None, why: str) -> Job:
        """Let it wait for another window."""
        later = replace(
            job, status=SCHEDULED, not_before=_stamp(start), not_after=_stamp(end) if end else None, message=why
        )
        with self._locked("put a restart off"):
            self._write(later)
        return later

    def end(self, job: Job, status: str, message: str) -> Job:
        """Say how it ended."""
        ended = replace(job, status=status, message=message, ended_at=_stamp(datetime.now(UTC)))
        with self._locked("end a restart"):
            self._write(ended)
        return ended

    def watch(self) -> None:
        """Somebody looked whether a job is due."""
        mark = self.directory.parent / "watched"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            mark.touch()
            os.utime(mark)
        except OSError as e:
            raise StateError(f"{mark} can not be written: {explain(e)}; correct state_dir or its owner") from e

    def is_watched(self) -> bool:
        """Whether somebody looked lately."""
        try:
            return time.time() - (self.directory.parent / "watched").stat().st_mtime < _WATCHED_SECONDS
        except OSError:
            return False

    def _forget_old(self) -> None:
        limit = datetime.now(UTC) - _KEPT
        for job in self.all():
            if job.ended_at and datetime.fromisoformat(job.ended_at) < limit:
                discard(self.directory / f"{job.id}.json")

    def _write(self, job: Job) -> None:
        path = self.directory / f"{job.id}.json"
        try:
            replace_file(path, json.dumps(job.as_dict(), indent=2, sort_keys=True).encode() + b"\n")
        except OSError as e:
            raise StateError(f"{path} can not be written: {explain(e)}; make room or correct state_dir") from e

    @contextmanager
    def _locked(self, operation: str) -> Iterator[None]:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise StateError(f"{self.directory} can not be made: {explain(e)}; correct state_dir or its owner") from e
        with FileLock(self.directory.parent / "jobs.lock", operation):
            yield


def job_lines(jobs: Iterable[Job]) -> list[str]:
    """Jobs for people, one line each."""
    return [f"{j.id}  {j.status}  {j.not_before}  {', '.join(j.services)}  {j.message}".rstrip() for j in jobs]


def _read(path: Path) -> Job:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return Job(**{**raw, "services": tuple(raw["services"]), "confirm": tuple(raw["confirm"])})
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise StateError(f"{path} is no scheduled restart: remove it, and schedule it again ({e})") from e


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
