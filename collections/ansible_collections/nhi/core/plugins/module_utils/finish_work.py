# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finishes what was begun and cut off, with the code that the same command run again would use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .audit import Attempt, Watched
from .errors import NHIError, StateError
from .freeze import refuse_if_frozen
from .guest_reader import Api
from .guest_recovery import settle
from .guest_rescan import Rescan
from .history_keeper import keep_nothing
from .journal import survey
from .open_work import GUEST, JOB, RESTART, OpenWork
from .restart_jobs import FAILED, Job, job_lines
from .restarts import Outcome


class Client(Api, Watched, Protocol):
    """What changes guests and can be watched while it does."""


class RestartFinisher(Protocol):
    """What goes on with restarts; in real life ``Restarts``."""

    def finish(self, operation: str) -> Outcome: ...

    def run_due(self, only: str | None = None) -> list[Job]: ...


@dataclass(frozen=True)
class Finished:
    """What became of one thing that was open; ``done`` is False where it still is, or ended badly."""

    work: OpenWork
    text: str
    done: bool

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "id": self.work.id,
            "kind": self.work.kind,
            "what": self.work.what,
            "done": self.done,
            "text": self.text,
        }


@dataclass(frozen=True)
class Finisher:
    """Everything that finishing needs.

    ``play`` runs a playbook with its options, which ``command`` names; StateError when it does not end well.
    """

    state_dir: Path
    connect: Callable[[], AbstractContextManager[Client]]
    restarts: RestartFinisher
    play: Callable[[Sequence[str]], None]
    command: Callable[[OpenWork], Sequence[str]]
    rescan: Rescan | None = None
    keep: Callable[[str], None] = keep_nothing
    tell: Callable[[str], None] = lambda _text: None

    def finish(self, works: Iterable[OpenWork]) -> Iterator[Finished]:
        """Finish them one after the other, guests first; FrozenError while changes are frozen.

        What a living process works on is left to it.
        """
        refuse_if_frozen(self.state_dir)
        for work in works:
            if work.alive:
                yield Finished(work, f"{work.process} of {work.actor} works on it: wait for its end", done=False)
                continue
            try:
                yield self._finish(work)
            except NHIError as e:
                yield Finished(work, str(e), done=False)

    def _finish(self, work: OpenWork) -> Finished:
        if work.kind == GUEST:
            return self._settle(work)
        if work.kind == RESTART:
            return Finished(work, "; ".join(self.restarts.finish(work.id).summary()), done=True)
        if work.kind == JOB:
            ended = self.restarts.run_due(work.id)
            if not ended:
                raise StateError("another restart is under way, or changes were frozen just now: it waits for that")
            return Finished(work, "; ".join(job_lines(ended)), done=all(job.status != FAILED for job in ended))
        self.play(self.command(work))
        return Finished(work, "the playbook ran to its end", done=True)

    def _settle(self, work: OpenWork) -> Finished:
        attempt = Attempt(self.state_dir, "recover", min(work.names, default=None), {"operation": work.id})
        try:
            with attempt, self.connect() as client:
                told = settle(
                    attempt.watching(client), self.state_dir, check_mode=False, tell=lambda _text: None,
                    rescan=self.rescan, keep=self.keep, only={work.id},
                )  # fmt: skip
                attempt.note(recovered=told)
        finally:
            for warning in attempt.warnings:
                self.tell(warning)
        left = any(journal.operation == work.id for journal, _alive in survey(self.state_dir))
        return Finished(work, " ".join(told) or "somebody else settled it meanwhile", done=not left)
