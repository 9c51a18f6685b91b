# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Time travel: the state at a moment, what differs between two, and the plan that would go back."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import HistoryError, StateError
from .history import History
from .moments import in_words, parse_moment
from .rollback_plan import RollbackPlan, plan_rollback
from .state import StateStore
from .state_diff import Change, Span, compare_states, sentences
from .state_document import format_time, parse_document, utc_now

if TYPE_CHECKING:
    from datetime import datetime

    from .audit_view import AuditReader
    from .snapshots import Snapshot
    from .state_document import Document

_WORTH_SAYING = timedelta(minutes=1)


@dataclass(frozen=True)
class View:
    """The state that tells best of a moment: it was written at since, and was still the state at until."""

    moment: datetime
    document: Document
    since: datetime
    until: datetime
    snapshot: Snapshot | None = None
    skipped: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Where it comes from."""
        return str(self.snapshot.name) if self.snapshot else "state.json"

    @property
    def at(self) -> datetime:
        """The moment that it is certain for: what happened after it was taken, nobody wrote down."""
        return min(self.moment, self.until)

    def lines(self) -> list[str]:
        """What a person should know of it."""
        gap = self.moment - self.at
        late = [f"the last snapshot before {in_words(self.moment)} is of {in_words(self.at)}"]
        return [*self.skipped, *(late if gap >= _WORTH_SAYING else [])]

    def as_data(self) -> dict[str, Any]:
        """For programs, without the document."""
        return {
            "moment": format_time(self.moment),
            "at": format_time(self.at),
            "since": format_time(self.since),
            "source": self.source,
            "revision": self.document["meta"]["revision"],
        }


def state_at(state_dir: Path | str, moment: str, now: datetime | None = None) -> View:
    """The state at a moment as people write it; MomentError, or HistoryError when nothing tells of it."""
    now = now or utc_now()
    when = parse_moment(moment, now)
    history = History(state_dir)
    problems: list[str] = []
    try:
        state = StateStore(state_dir).read_known()
        if state is not None and state.written_at <= when:
            document = parse_document(state.raw, StateStore(state_dir).path)
            return View(when, document, state.written_at, now)
    except StateError as error:
        problems.append(str(error))
    choice = history.at(when)
    problems += choice.skipped
    if choice.snapshot is None:
        oldest = next(iter(history.snapshots()), None)
        known = f"the oldest snapshot is {oldest.name}" if oldest else "there are no snapshots yet"
        raise HistoryError(f"Nothing tells of {in_words(when)}: {known}. {' '.join(problems)}")
    return View(
        when, choice.document, choice.snapshot.since, choice.snapshot.taken_at, choice.snapshot, tuple(problems)
    )


@dataclass(frozen=True)
class Comparison:
    """What differs between two moments."""

    before: View
    after: View
    changes: tuple[Change, ...]
    audited: bool = False
    span: Span = field(init=False)

    def __post_init__(self) -> None:
        to_now = self.after.snapshot is None and self.after.moment == self.after.until
        object.__setattr__(self, "span", Span(self.before.at, self.after.at, to_now))

    def heading(self) -> str:
        """Which two states these are."""
        ends = (f"{in_words(view.at)} ({view.source})" for view in (self.before, self.after))
        return " -> ".join(ends)

    def lines(self) -> list[str]:
        """One sentence for each change."""
        return list(sentences(self.changes, self.span, audited=self.audited)) or ["nothing differs"]

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "from": self.before.as_data(),
            "to": self.after.as_data(),
            "changes": [change.as_data() for change in self.changes],
            "text": self.lines() if self.changes else [],
            "audited": self.audited,
        }

    def rollback(self) -> RollbackPlan:
        """The plan that would go back from the second to the first."""
        return plan_rollback(self.before.document, self.after.document, self.changes, self.span, audited=self.audited)


def compare_moments(
    state_dir: Path | str, since: str, until: str = "now", audit: AuditReader | None = None
) -> Comparison:
    """What differs between two moments as people write them; an audit log is asked who did it."""
    now = utc_now()
    before, after = state_at(state_dir, since, now), state_at(state_dir, until, now)
    if before.moment > after.moment:
        raise HistoryError(f"{in_words(before.moment)} is after {in_words(after.moment)}: name the earlier one first.")
    changes = compare_states(before.document, after.document, audit, before.since, after.at)
    return Comparison(before, after, tuple(changes), audited=audit is not None)


def plan_return(state_dir: Path | str, to: str, audit: AuditReader | None = None) -> tuple[Comparison, RollbackPlan]:
    """What differs between a moment and now, and the plan that would go back; StateError when now is not known."""
    StateStore(state_dir).read()
    comparison = compare_moments(state_dir, to, audit=audit)
    return comparison, comparison.rollback()
