# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moments of the past as people write them: `yesterday 14:00`, `2 hours ago`, 2026-11-26T14:00Z, a snapshot's name.

A time without an offset is local. dateparser reads what is not ISO 8601; it guesses where it can, so what has
two readings is refused here before it is asked.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo

from .errors import MomentError
from .snapshots import SnapshotName

try:
    import dateparser
except ImportError:
    dateparser = None

_HINT = "write it as 'yesterday 14:00', '2 hours ago' or 2026-11-26T14:00"
_CLOCK = re.compile(r"\b(\d+):(\d+)(?::(\d+))?", re.ASCII)
# A bare number would be taken for a year, and 11/12 for November or December.
_NUMBERS = re.compile(r"[\d\s.,]*|.*\d[/.]\d.*", re.ASCII)


def parse_moment(text: str, now: datetime, zone: tzinfo | None = None) -> datetime:
    """The moment in UTC; MomentError when it can not be told, or has not come yet. zone None is the system's.

    A snapshot's name is the end of the minute in it, so that this snapshot tells of it.
    """
    moment = _parsed(text.strip(), now, zone)
    if moment is None:
        raise MomentError(f"{text!r} is no moment that NHI understands: {_HINT}.")
    if moment > now:
        raise MomentError(f"{text!r} is {in_words(moment, zone)}, which has not come yet: name a moment of the past.")
    return moment.astimezone(UTC)


def in_words(moment: datetime, zone: tzinfo | None = None) -> str:
    """A moment in local time, with the offset that it has there."""
    return moment.astimezone(zone).strftime("%Y-%m-%d %H:%M %Z")


def _parsed(text: str, now: datetime, zone: tzinfo | None) -> datetime | None:
    name = SnapshotName.parse(text.removesuffix(".gz").removesuffix(".json"))
    if name is not None:
        return min(name.minute.replace(second=59, microsecond=999999), now)
    if text == "now":
        return now
    try:
        return _local(datetime.fromisoformat(text), zone)
    except ValueError:
        pass
    clock_is_right = all(int(h) < 24 and int(m) < 60 and int(s or 0) < 60 for h, m, s in _CLOCK.findall(text))
    return _guessed(text, now, zone) if clock_is_right and not _NUMBERS.fullmatch(text) else None


def _guessed(text: str, now: datetime, zone: tzinfo | None) -> datetime | None:
    if dateparser is None:
        raise MomentError(
            f"Reading {text!r} needs the Python library dateparser: pip install dateparser, or write 2026-11-26T14:00."
        )
    # "2 hours ago" counts hours that went by; "3 days ago at 10:15" names a time on the wall.
    here = UTC if "ago" in text.lower() and not _CLOCK.search(text) else zone
    base = now.astimezone(here).replace(tzinfo=None)
    settings = {"RELATIVE_BASE": base, "PREFER_DATES_FROM": "past", "DATE_ORDER": "DMY"}
    found: datetime | None = dateparser.parse(text, languages=["en"], settings=settings)
    return None if found is None else _local(found, here)


def _local(moment: datetime, zone: tzinfo | None) -> datetime:
    if moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=zone) if zone is not None else moment.astimezone()
