# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a service may be restarted: hours of the day on somebody's wall clock, through changes of the clock.

The hours are kept as one bit for each minute of a day. Whether a moment is safe is asked of the wall clock at that
moment, so an hour that the clock skips is no window that day, and one that it repeats is a window of two hours.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .errors import GraphError

_DAY = 24 * 60
_ALWAYS = (1 << _DAY) - 1
_MINUTE = timedelta(minutes=1)
# Every wall-clock time that exists at all comes again within two days, whatever the clock does.
_LOOK_AHEAD = timedelta(days=3)
_LOCALTIME = Path("/etc/localtime")

SPAN_PATTERN = r"^(?:[01]\d|2[0-3]):[0-5]\d-(?:(?:[01]\d|2[0-3]):[0-5]\d|24:00)$"


@dataclass(frozen=True)
class Window:
    """A span of time in which a restart is safe; ``end`` is None where it never ends."""

    start: datetime
    end: datetime | None

    @property
    def seconds(self) -> float:
        """How long it is."""
        return float("inf") if self.end is None else (self.end - self.start).total_seconds()


@dataclass(frozen=True)
class SafeHours:
    """Minutes of the day, as a set of bits; all of them where nothing was said."""

    minutes: int = _ALWAYS

    @classmethod
    def parse(cls, hours: Iterable[int | str]) -> SafeHours:
        """Whole hours (2 is from 02:00 to 03:00) and spans such as "23:30-01:00"; none at all is always."""
        minutes = 0
        for item in hours:
            first, last = (item * 60, item * 60 + 60) if isinstance(item, int) else _span(item)
            if first < last:
                minutes |= _bits(first, last)
            else:  # across midnight
                minutes |= _bits(first, _DAY) | _bits(0, last)
        return cls(minutes or _ALWAYS)

    @property
    def always(self) -> bool:
        """Whether every minute is safe."""
        return self.minutes == _ALWAYS

    def __and__(self, other: SafeHours) -> SafeHours:
        return SafeHours(self.minutes & other.minutes)

    def __str__(self) -> str:
        if self.always:
            return "always"
        return ", ".join(f"{_clock(a)}-{_clock(b)}" for a, b in self._spans()) or "never"

    def at(self, moment: datetime, zone: ZoneInfo) -> bool:
        """Whether a moment is safe."""
        return bool(self.minutes >> _minute_of_day(moment, zone) & 1)

    def next_window(self, now: datetime, zone: ZoneInfo, seconds: float = 0) -> Window | None:
        """The window that is open now, else the next one; None where there is none.

        With ``seconds`` it is the first with that much time left in it. Where none is that long it is the first.
        """
        now = now.astimezone(UTC)  # sums of local times ignore changes of the clock
        if self.always:
            return Window(now, None)
        first = window = self._window(now, zone)
        while window is not None and window.end is not None and window.seconds < seconds:
            window = self._window(window.end, zone) if window.end < now + _LOOK_AHEAD else None
        return window or first

    def _window(self, now: datetime, zone: ZoneInfo) -> Window | None:
        start = now if self.at(now, zone) else self._change(now, zone, wanted=True)
        end = start and self._change(start, zone, wanted=False)
        return Window(start, end) if start and end else None

    def _change(self, moment: datetime, zone: ZoneInfo, *, wanted: bool) -> datetime | None:
        """The first full minute after a moment that is safe, or is not."""
        limit = moment + _LOOK_AHEAD
        moment = moment.replace(second=0, microsecond=0) + _MINUTE
        while moment < limit:
            if self.at(moment, zone) == wanted:
                return moment
            far = moment + timedelta(minutes=self._distance(_minute_of_day(moment, zone), wanted=wanted))
            # Where the clock is changed on the way there, every minute has to be looked at.
            steady = moment.astimezone(zone).utcoffset() == far.astimezone(zone).utcoffset()
            moment = far if steady else moment + _MINUTE
        return None

    def _distance(self, minute: int, *, wanted: bool) -> int:
        """Minutes on the clock until one that is safe, or is not."""
        bits = self.minutes if wanted else ~self.minutes & _ALWAYS
        ahead = (bits >> minute | bits << (_DAY - minute)) & _ALWAYS & ~1
        return (ahead & -ahead).bit_length() - 1 if ahead else _DAY

    def _spans(self) -> list[tuple[int, int]]:
        """Spans on the clock; one across midnight ends before it begins."""
        starts = [m for m in range(_DAY) if self.minutes >> m & 1 and not self.minutes >> (m - 1) % _DAY & 1]
        return [(m, (m + self._distance(m, wanted=False)) % _DAY or _DAY) for m in starts]


def find_zone(name: str | None) -> ZoneInfo:
    """The time zone of that name, or this host's own; GraphError when it is not known here."""
    if not name:
        return _own_zone()
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as e:
        raise GraphError(
            f"the time zone {name!r} is not known here: use a name such as Europe/Berlin, or install tzdata"
        ) from e


def _own_zone() -> ZoneInfo:
    name = os.environ.get("TZ", "").lstrip(":") or str(_LOCALTIME.resolve()).partition("/zoneinfo/")[2]
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")


def window_facts(window: Window | None, now: datetime, zone: ZoneInfo) -> dict[str, Any]:
    """A window for programs."""
    return {
        "open": window is not None and window.start <= now,
        "start": None if window is None else _stamp(window.start, zone),
        "end": None if window is None or window.end is None else _stamp(window.end, zone),
        "time_zone": zone.key,
    }


def window_words(window: Window | None, now: datetime, zone: ZoneInfo) -> str:
    """A window for people: "2026-01-20 02:00 to 05:00 (Europe/Berlin)"."""
    if window is None:
        return "never"
    if window.end is None:
        return "any time"
    start, end = window.start.astimezone(zone), window.end.astimezone(zone)
    if window.start <= now:
        return f"now, until {end:%Y-%m-%d %H:%M} ({zone.key})"
    same_day = start.date() == end.date()
    return f"{start:%Y-%m-%d %H:%M} to {end:{'%H:%M' if same_day else '%Y-%m-%d %H:%M'}} ({zone.key})"


def _stamp(moment: datetime, zone: ZoneInfo) -> str:
    return moment.astimezone(zone).isoformat(timespec="seconds")


def _span(text: str) -> tuple[int, int]:
    if not re.match(SPAN_PATTERN, text):
        raise GraphError(f"{text!r} is not a span of time: write it as 23:30-01:00")
    first, last = (int(clock[:2]) * 60 + int(clock[3:]) for clock in text.split("-"))
    return first, last


def _bits(first: int, last: int) -> int:
    return (1 << last) - (1 << first)


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _minute_of_day(moment: datetime, zone: ZoneInfo) -> int:
    local = moment.astimezone(zone)
    return local.hour * 60 + local.minute
