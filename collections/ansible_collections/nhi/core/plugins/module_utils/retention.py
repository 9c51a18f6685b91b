# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which snapshots of the state stay, and in which form: all of a day, then one an hour, then one a day, compressed.

Of an hour or a day the first intact one stays, so that running again an hour later never prefers another. Critical ones
stay for ever, and so does the newest that can be used. A damaged one takes nobody's place; it is kept as evidence until
its time is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from .errors import HistoryError
from .snapshots import oldest_first

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from .snapshots import Snapshot

KEEP, COMPRESS, REMOVE = "keep", "compress", "remove"


@dataclass(frozen=True)
class Retention:
    """For how long: every snapshot for hours, then one an hour for days, then one a day for days more."""

    full_hours: int = 24
    hourly_days: int = 7
    daily_days: int = 30

    def __post_init__(self) -> None:
        if min(self.full_hours, self.hourly_days, self.daily_days) < 0:
            raise HistoryError("Snapshots can not be kept for less than no time: give hours and days of 0 or more.")

    @property
    def hourly(self) -> timedelta:
        """Age up to which one an hour stays."""
        return max(timedelta(days=self.hourly_days), timedelta(hours=self.full_hours))

    @property
    def daily(self) -> timedelta:
        """Age up to which one a day stays."""
        return self.hourly + timedelta(days=self.daily_days)


@dataclass(frozen=True)
class Decision:
    """What becomes of one snapshot, and why."""

    snapshot: Snapshot
    verdict: str
    reason: str


def decide(
    snapshots: Iterable[Snapshot],
    intact: Collection[Snapshot],
    newest_usable: Snapshot | None,
    policy: Retention,
    now: datetime,
) -> list[Decision]:
    """What becomes of each snapshot, oldest first; intact are those whose bytes match their checksum."""
    taken: set[tuple[str, str]] = set()
    decisions = []
    for snapshot in oldest_first(snapshots):
        verdict, reason = _decide(snapshot, snapshot in intact, policy, now, taken)
        if snapshot == newest_usable and verdict != KEEP:
            verdict, reason = KEEP, "the newest that can be used"
        decisions.append(Decision(snapshot, verdict, reason))
    return decisions


def _decide(
    snapshot: Snapshot, intact: bool, policy: Retention, now: datetime, taken: set[tuple[str, str]]
) -> tuple[str, str]:
    age = now - snapshot.taken_at
    if snapshot.name.critical:
        return KEEP, "critical"
    hourly = age < policy.hourly
    step, bucket = ("hour", "%Y-%m-%d %H") if hourly else ("day", "%Y-%m-%d")
    place = (step, snapshot.name.minute.strftime(bucket))
    if age >= policy.daily:
        # A day whose first snapshot is too old is over, or its next one would take the place at the very end.
        taken.update({place} if intact else ())
        return REMOVE, f"older than {policy.daily.days} days"
    if not intact:
        return KEEP, "damaged"
    if age < timedelta(hours=policy.full_hours):
        return KEEP, f"younger than {policy.full_hours} hours"
    if place in taken:
        return REMOVE, f"not the first of its {step}"
    taken.add(place)
    return (KEEP if hourly else COMPRESS), f"the first of its {step}"
