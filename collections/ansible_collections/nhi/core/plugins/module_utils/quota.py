# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a provider of language models allows: limits per day and per minute, whose midnight ends the day.

Blueprint 4.2 (rate limiter) and DESIGN.md section 6. A limit applies to a provider as a whole, or to one of its
models in addition. None means that there is no such limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from .errors import QuotaError

WINDOW_MS: Final = 60_000
# What each request that a router sets aside may use.
GRANT_TOKENS: Final = 4000
_DAY: Final = timedelta(days=1)
_UNLIMITED: Final = -1


@dataclass(frozen=True)
class Limits:
    """How much is allowed in a day and in any 60 seconds."""

    requests_per_day: int | None = None
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        given: dict[str, Any] = dict(self.as_dict())
        for name, value in given.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise QuotaError(f"{name} must be a whole number from 0 on, not {value!r}")

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Limits:
        """Limits from a mapping; QuotaError for a name that is none."""
        unknown = sorted(set(raw) - set(LIMIT_NAMES))
        if unknown:
            raise QuotaError(f"{', '.join(unknown)} is no limit: use {', '.join(LIMIT_NAMES)}")
        return cls(**raw)

    def as_dict(self) -> dict[str, int | None]:
        """By name."""
        return {name: getattr(self, name) for name in LIMIT_NAMES}

    def as_arguments(self) -> list[int]:
        """For the scripts, which know no None."""
        return [_UNLIMITED if value is None else value for value in self.as_dict().values()]

    def overridden(self, learned: Mapping[str, int]) -> Limits:
        """With what the provider itself said instead of what was configured."""
        return Limits(**{**self.as_dict(), **{k: v for k, v in learned.items() if k in LIMIT_NAMES}})

    @property
    def any(self) -> bool:
        """Whether there is a limit at all."""
        return any(value is not None for value in self.as_dict().values())


LIMIT_NAMES: Final = tuple(field.name for field in fields(Limits))


@dataclass(frozen=True)
class Day:
    """One day of a provider: its date there, and when it begins and ends (Unix time in ms, end excluded)."""

    date: str
    start_ms: int
    end_ms: int

    def has(self, now_ms: int) -> bool:
        """Whether a moment is in it."""
        return self.start_ms <= now_ms < self.end_ms


@lru_cache(maxsize=64)
def zone_named(name: str) -> ZoneInfo:
    """A time zone; QuotaError where there is none of that name."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise QuotaError(f"there is no time zone {name!r}: use a name such as UTC or America/Los_Angeles") from error


def day_at(zone: str, now_ms: int) -> Day:
    """The day of a provider at a moment; it has 23 or 25 hours where clocks are changed."""
    # Most moments are of the day that was asked for last.
    last = _last_days.get(zone)
    if last is not None and last.has(now_ms):
        return last
    here = zone_named(zone)
    today = datetime.fromtimestamp(now_ms / 1000, UTC).astimezone(here).date()
    start, end = (datetime.combine(day, time(), here) for day in (today, today + _DAY))
    _last_days[zone] = found = Day(today.isoformat(), _ms(start), _ms(end))
    return found


_last_days: dict[str, Day] = {}


@lru_cache(maxsize=64)
def next_day(zone: str, day: Day) -> Day:
    """The one that follows."""
    return day_at(zone, day.end_ms)


def _ms(moment: datetime) -> int:
    return round(moment.astimezone(UTC).timestamp() * 1000)


class Usage(NamedTuple):
    """What of a provider or model was used on a day, and in the last 60 seconds."""

    requests_today: int = 0
    tokens_today: int = 0
    requests_in_window: int = 0
    tokens_in_window: int = 0

    def without(self, set_aside: int) -> Usage:
        """What was really used, where so many requests are only set aside."""
        requests, tokens = self.requests_today - set_aside, self.tokens_today - set_aside * GRANT_TOKENS
        return self._replace(requests_today=max(0, requests), tokens_today=max(0, tokens))

    def left(self, limits: Limits) -> dict[str, int | None]:
        """What is left by limit; None where there is none, never below zero."""
        used = (self.requests_today, self.requests_in_window, self.tokens_today, self.tokens_in_window)
        return {
            name: None if limit is None else max(0, limit - spent)
            for (name, limit), spent in zip(limits.as_dict().items(), used, strict=True)
        }


def share_left(usage: Usage, limits: Limits) -> float:
    """The smaller part of the daily limits that is left, 0 to 1; 1 where nothing is limited by day."""
    requests, tokens = limits.requests_per_day, limits.tokens_per_day
    least = 1.0 if requests is None else _part_left(usage.requests_today, requests)
    return least if tokens is None else min(least, _part_left(usage.tokens_today, tokens))


def _part_left(used: int, limit: int) -> float:
    return min(1.0, 1 - used / limit) if limit > used else 0.0


def emergency_share(limit: int | None, used: int, instances: int, part: float = 0.02, most: int = 20) -> int:
    """How many requests one of several routers may keep for the time that Redis is lost, counted as used meanwhile.

    Nothing once the day's quota runs low, so that the last request of a day is everybody's.
    """
    if limit is None:
        return most
    keep = min(most, math.floor(limit * part / max(1, instances)))
    return keep if limit - used > 4 * keep * max(1, instances) else 0
