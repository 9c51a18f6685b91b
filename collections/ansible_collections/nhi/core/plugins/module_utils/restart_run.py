# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries a plan of restarts out: one after the other, each well again before the next, every step written down first.

A journal in ``restarts/journal`` has what was begun and what was done. After a crash the same restart goes on where it
was: what was done is not done again, and of what was under way the guest itself tells whether it was restarted.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from .catalogue import CatalogueEntry
from .errors import NHIError, RestartError
from .interrupts import InterruptedRunError, Interrupts
from .journal import Journal, abandoned
from .lock import current_actor
from .restart_history import DIRECTORY, RESTARTED, RestartHistory
from .restart_plan import RestartPlan, RestartWish, Step
from .service_health import await_health, unwell

PLAN, BEGIN, DONE = "plan", "begin", "done"
GATE_FAILED, FAILED = "gate_failed", "failed"
# Longer ago it was another restart for another reason.
_RESUMED_SECONDS = 3600.0


@dataclass(frozen=True)
class Origin:
    """Where a restart comes from: what was asked for by whom, under which plan it was let through, for which job.

    ``resumes`` names the run that is taken up again, however long ago it was cut off.
    """

    wish: RestartWish
    by: str = ""
    admitted: str | None = None
    job: str | None = None
    resumes: str | None = None

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Origin:
        """As a journal has it."""
        return cls(RestartWish.parse(data["wish"]), data["by"], data["admitted"], data["job"])

    def as_dict(self) -> dict[str, Any]:
        """For a journal."""
        return {"wish": self.wish.as_dict(), "by": self.by, "admitted": self.admitted, "job": self.job}


class Restarter(Protocol):
    """What does the work on a guest."""

    def mark(self, step: Step) -> str:
        """Something that a restart changes."""

    def was_restarted(self, step: Step, mark: str) -> bool:
        """Whether it was restarted since it had that mark; what was left in the middle is finished."""

    def restart(self, step: Step) -> None:
        """Restart it and return when that was done; NHIError when it was not."""


@dataclass
class Progress:
    """How far a run came."""

    restarted: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    downtime_seconds: dict[str, float | None] = field(default_factory=dict)
    failed: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "restarted": self.restarted, "not_restarted": self.left, "resumed": self.resumed,
            "failed_service": self.failed, "downtime_seconds": self.downtime_seconds,
        }  # fmt: skip

    def words(self) -> str:
        """What was done and what was not."""
        done = f"restarted: {', '.join(self.restarted)}" if self.restarted else "nothing else was restarted"
        left = f"; not restarted: {', '.join(self.left)}" if self.left else ""
        return done + left


class RestartRun:
    """One run of a plan. Only for who holds the lock of restarts."""

    def __init__(
        self,
        plan: RestartPlan,
        state_dir: Path,
        restarter: Restarter,
        patience: float,
        tell: Callable[[str], None],
        origin: Origin | None = None,
    ) -> None:
        self.operation = f"restart-{uuid.uuid4().hex[:12]}"
        self.progress = Progress(left=[step.service for step in plan.steps])
        self._plan = plan
        self._origin = origin or Origin(plan.wish)
        self._restarter = restarter
        self._patience = patience
        self._tell = tell
        self._directory = state_dir / DIRECTORY
        self._history = RestartHistory(state_dir)
        self._services = sorted(step.service for step in plan.steps)
        self._journal = Journal(self._directory, self.operation, f"restart of {', '.join(self._services)}")
        self._done: set[str] = set()
        self._doubtful: dict[str, Mapping[str, Any]] = {}

    def run(self) -> Progress:
        """Restart everything; RestartError tells how far it came and why not further."""
        with Interrupts():
            try:
                self._begin()
                for step in self._plan.steps:
                    self._take(step)
            except InterruptedRunError as e:
                # Its journal stays, so that the same restart goes on from here.
                self._journal.keep()
                raise RestartError(f"the restart was {e}: {self.progress.words()}; the same again goes on") from e
            finally:
                self._journal.close()
        return self.progress

    def _begin(self) -> None:
        """Take over what a run that was cut off had done of the same, and only then let its journal go."""
        old = []
        for journal in abandoned(self._directory):
            if not self._is_mine(journal):
                self._tell(f"{journal.title} was cut off ({told_of(journal)}): the same again goes on with it.")
                continue
            for entry in journal.entries:
                if entry["step"] == BEGIN:
                    self._doubtful[entry["service"]] = entry
                elif entry["step"] == DONE:
                    self._doubtful.pop(entry["service"], None)
                    self._done.add(entry["service"])
            old.append(journal.path)
        self._journal.write(PLAN, services=self._services, origin=self._origin.as_dict())
        for service in sorted(self._done):
            self._journal.write(DONE, service=service)
        for service, entry in sorted(self._doubtful.items()):
            self._journal.write(BEGIN, service=service, mark=entry["mark"])
        for journal in abandoned(self._directory):
            if journal.path in old:
                journal.close()

    def _is_mine(self, journal: Journal) -> bool:
        return journal.operation == self._origin.resumes or is_same_restart(journal, self._services)

    def _take(self, step: Step) -> None:
        downtime: float | None = None
        begun: float | None = None
        try:
            if step.service in self._done or self._was_restarted(step):
                self.progress.resumed.append(step.service)
                begun = time.monotonic()
                self._await(step)
            else:
                mark = self._restarter.mark(step)
                self._journal.write(BEGIN, service=step.service, mark=mark)
                begun = time.monotonic()
                self._restarter.restart(step)
                self._await(step)
                downtime = round(time.monotonic() - begun, 2)
        except InterruptedRunError:
            raise
        except NHIError as e:
            self.progress.failed = step.service
            if begun is not None:
                self.progress.left.remove(step.service)
                outcome = GATE_FAILED if isinstance(e, RestartError) else FAILED
                self._remember(step, outcome, round(time.monotonic() - begun, 2), str(e))
            raise RestartError(f"{str(e).rstrip('.')}. Stopped there; {self.progress.words()}") from e
        self._journal.write(DONE, service=step.service)
        self.progress.left.remove(step.service)
        self.progress.restarted.append(step.service)
        self.progress.downtime_seconds[step.service] = downtime
        if step.service not in self._done:
            self._remember(step, RESTARTED, downtime, "")

    def _was_restarted(self, step: Step) -> bool:
        """Whether a run that was cut off in the middle of this step had restarted it already."""
        begun = self._doubtful.get(step.service)
        return begun is not None and self._restarter.was_restarted(step, begun["mark"])

    def _await(self, step: Step) -> None:
        if step.address is None or not step.gate:
            return
        endpoints = await_health(CatalogueEntry(step.service, step.gate, {}), step.address, self._patience)
        ill = unwell(endpoints)
        if ill:
            said = ", ".join(f"{e['url']} says {e['detail']}" for e in ill)
            raise RestartError(
                f"{step.service} on {step.guest} was restarted and does not answer as it should after"
                f" {self._patience:g} s: {said}; look at its log there"
            )

    def _remember(self, step: Step, outcome: str, seconds: float | None, message: str) -> None:
        entry = {
            "service": step.service, "guest": step.guest, "how": step.how, "outcome": outcome, "message": message,
            "downtime_seconds": seconds, "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "actor": current_actor(), "operation": self.operation,
        }  # fmt: skip
        try:
            self._history.add(entry)
        except NHIError as e:
            # What was done stands; only the next estimate is the poorer.
            self._tell(str(e))


def is_same_restart(journal: Journal, services: Iterable[str]) -> bool:
    """Whether a journal is that of the same restart, and of lately."""
    first = journal.entries[0] if journal.entries else {}
    if first.get("step") != PLAN or first.get("services") != sorted(services):
        return False
    return (datetime.now(UTC) - datetime.fromisoformat(first["at"])).total_seconds() < _RESUMED_SECONDS


def origin_of(journal: Journal) -> Origin | None:
    """Where a restart came from; None in a journal that does not tell."""
    first = journal.entries[0] if journal.entries else {}
    return Origin.parse(first["origin"]) if "origin" in first else None


def told_of(journal: Journal) -> str:
    """What a run that was cut off had done, in words."""
    services: list[str] = next((e["services"] for e in journal.entries if e["step"] == PLAN), [])
    done = [e["service"] for e in journal.entries if e["step"] == DONE]
    begun = [e["service"] for e in journal.entries if e["step"] == BEGIN and e["service"] not in done]
    parts = {"restarted": done, "in the middle of": begun}
    parts["not begun"] = [s for s in services if s not in done and s not in begun]
    return "; ".join(f"{words} {', '.join(names)}" for words, names in parts.items() if names) or "nothing was begun"


def cut_off_restarts(state_dir: Path) -> Iterator[dict[str, str]]:
    """Restarts that were cut off and that nobody took up again."""
    for journal in abandoned(state_dir / DIRECTORY):
        yield {"operation": journal.operation, "title": journal.title, "told": told_of(journal)}


def dismiss(state_dir: Path, operation: str) -> bool:
    """Let the journal of a restart that was cut off go; False where there is none."""
    for journal in abandoned(state_dir / DIRECTORY):
        if journal.operation == operation:
            journal.close()
            return True
    return False
