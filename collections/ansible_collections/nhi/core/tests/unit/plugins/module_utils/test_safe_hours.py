# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows in which a restart is safe, on wall clocks that jump."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import GraphError
from ansible_collections.nhi.core.plugins.module_utils.safe_hours import (
    SafeHours,
    Window,
    find_zone,
    window_facts,
    window_words,
)
from hypothesis import given
from hypothesis import strategies as st

BERLIN = ZoneInfo("Europe/Berlin")
MINUTE = timedelta(minutes=1)
# Half an hour of summer time, no summer time, an odd offset, and a clock that jumps at midnight.
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Asuncion", "UTC")


def berlin(text: str, *, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold)


def next_window(hours: list[int | str], now: datetime, seconds: float = 0) -> Window:
    window = SafeHours.parse(hours).next_window(now, BERLIN, seconds)
    assert window is not None
    return window


def local(window: Window) -> tuple[str, str]:
    assert window.end is not None
    return tuple(m.astimezone(BERLIN).strftime("%d %H:%M") for m in (window.start, window.end))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("hours", "now", "expected"),
    [
        ([2, 3, 4], "2026-01-19T15:00", ("20 02:00", "20 05:00")),
        ([2, 3, 4], "2026-01-19T03:30", ("19 03:30", "19 05:00")),
        ([2, 3, 4], "2026-01-19T05:00", ("20 02:00", "20 05:00")),
        ([23, 0, 1], "2026-01-19T15:00", ("19 23:00", "20 02:00")),
        ([23, 0, 1], "2026-01-20T00:10", ("20 00:10", "20 02:00")),
        (["23:30-01:15"], "2026-01-19T23:29", ("19 23:30", "20 01:15")),
        (["22:00-24:00", 0], "2026-01-19T12:00", ("19 22:00", "20 01:00")),
    ],
)
def test_the_window_that_is_open_or_the_next_one(hours: list[int | str], now: str, expected: tuple[str, str]) -> None:
    assert local(next_window(hours, berlin(now))) == expected


def test_an_hour_that_the_clock_skips_is_no_window_that_day() -> None:
    assert local(next_window([2], berlin("2026-03-29T00:00"))) == ("30 02:00", "30 03:00")


def test_a_window_that_begins_in_the_skipped_hour_begins_after_it() -> None:
    window = next_window(["02:30-04:00"], berlin("2026-03-29T00:00"))
    assert local(window) == ("29 03:00", "29 04:00")
    assert window.start == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)


def test_an_hour_that_comes_twice_is_two_hours_long() -> None:
    window = next_window([2], berlin("2026-10-25T00:00"))
    assert window.seconds == 7200
    again = next_window([2], berlin("2026-10-25T02:30", fold=1))
    assert again.seconds == 1800


def test_a_window_too_short_for_the_work_is_passed_over() -> None:
    now = berlin("2026-01-19T04:50")
    assert local(next_window([2, 3, 4], now, seconds=900)) == ("20 02:00", "20 05:00")
    assert local(next_window([2, 3, 4], now, seconds=300))[0] == "19 04:50"
    assert local(next_window([2, 12, 13], now, seconds=5400)) == ("19 12:00", "19 14:00")
    # Nothing is that long: the first is as good as any.
    assert local(next_window([2, 3, 4], now, seconds=90000))[0] == "19 04:50"


def test_no_hours_at_all_is_always_and_no_common_hour_is_never() -> None:
    now = berlin("2026-01-19T15:00")
    assert next_window([], now) == Window(now, None)
    assert str(SafeHours.parse([])) == "always"
    never = SafeHours.parse([2]) & SafeHours.parse([3])
    assert never.next_window(now, BERLIN) is None
    assert (str(never), window_words(None, now, BERLIN)) == ("never", "never")


def test_hours_are_said_as_spans() -> None:
    assert str(SafeHours.parse([2, 3, 4, "23:30-00:30"])) == "02:00-05:00, 23:30-00:30"
    assert str(SafeHours.parse([23])) == "23:00-24:00"


def test_a_window_is_said_with_its_zone() -> None:
    now = berlin("2026-01-19T15:00")
    assert window_words(next_window([2], now), now, BERLIN) == "2026-01-20 02:00 to 03:00 (Europe/Berlin)"
    over_midnight = next_window([23, 0], now)
    assert window_words(over_midnight, now, BERLIN) == "2026-01-19 23:00 to 2026-01-20 01:00 (Europe/Berlin)"
    assert window_words(next_window([15], now), now, BERLIN) == "now, until 2026-01-19 16:00 (Europe/Berlin)"
    assert window_facts(next_window([2], now), now, BERLIN) == {
        "open": False, "start": "2026-01-20T02:00:00+01:00", "end": "2026-01-20T03:00:00+01:00",
        "time_zone": "Europe/Berlin",
    }  # fmt: skip


def test_a_zone_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Mars/Olympus", "../etc/passwd", "/etc/passwd"):
        with pytest.raises(GraphError, match="is not known here: use a name such as Europe/Berlin"):
            find_zone(name)
    monkeypatch.setenv("TZ", "America/New_York")
    assert find_zone(None).key == "America/New_York"
    monkeypatch.setenv("TZ", "CET-1CEST")
    assert find_zone(None).key == "UTC"


CLOCKS = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
HOURS = st.lists(st.integers(0, 23) | st.builds("{}-{}".format, CLOCKS, CLOCKS), max_size=4)
# Around every change of the clock of two years, and anywhere else.
MOMENTS = st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)) | st.builds(  # noqa: DTZ001
    lambda day, minutes: datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(minutes=minutes),
    st.sampled_from(["2026-03-29", "2026-10-25", "2026-03-08", "2026-11-01", "2026-04-05", "2026-10-04"]),
    st.integers(-1500, 1500),
)


@given(HOURS, MOMENTS, st.sampled_from(ZONES))
def test_a_window_is_safe_throughout_and_none_is_passed_over(hours: list[int | str], now: datetime, name: str) -> None:
    zone, safe = ZoneInfo(name), SafeHours.parse(hours)
    window = safe.next_window(now, zone)
    assert window is not None
    assert window.start >= now
    if window.end is None:
        assert safe.always
        return
    # Each minute on the clock, one after the other: nothing safe before, only safe within, not safe at the end.
    moment = now
    while moment < window.start:
        assert not safe.at(moment, zone)
        moment = min(moment.replace(second=0, microsecond=0) + MINUTE, window.start)
    while moment < window.end:
        assert safe.at(moment, zone)
        moment = moment.replace(second=0, microsecond=0) + MINUTE
    assert moment == window.end
    assert not safe.at(window.end, zone)


@given(HOURS, HOURS, MOMENTS)
def test_hours_in_common_are_safe_for_both(a: list[int | str], b: list[int | str], moment: datetime) -> None:
    one, two = SafeHours.parse(a), SafeHours.parse(b)
    assert (one & two).at(moment, BERLIN) == (one.at(moment, BERLIN) and two.at(moment, BERLIN))
