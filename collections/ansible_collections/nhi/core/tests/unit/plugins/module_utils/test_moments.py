# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people write for a moment of the past is understood, or refused; never guessed."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from ansible_collections.nhi.core.plugins.module_utils import moments
from ansible_collections.nhi.core.plugins.module_utils.errors import MomentError
from ansible_collections.nhi.core.plugins.module_utils.moments import parse_moment

ROME = ZoneInfo("Europe/Rome")
# 10:40 in Rome.
NOW = datetime(2026, 11, 27, 9, 40, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("yesterday 14:00", "2026-11-26T14:00"),
        ("Yesterday at 14:00", "2026-11-26T14:00"),
        ("14:00", "2026-11-26T14:00"),
        ("08:00", "2026-11-27T08:00"),
        ("monday 14:00", "2026-11-23T14:00"),
        ("3 days ago at 10:15", "2026-11-24T10:15"),
        ("2 hours ago", "2026-11-27T08:40"),
        ("an hour ago", "2026-11-27T09:40"),
        ("2026-11-26", "2026-11-26T00:00"),
        ("2026-11-26 14:00", "2026-11-26T14:00"),
        ("2026-11-26T14:00:00+00:00", "2026-11-26T15:00"),
        ("2026-11-26T14:00:00Z", "2026-11-26T15:00"),
        ("yesterday 14:00 UTC", "2026-11-26T15:00"),
        ("26 November 14:00", "2026-11-26T14:00"),
        ("Nov 26 14:00", "2026-11-26T14:00"),
        ("2026-11-26 2pm", "2026-11-26T14:00"),
        ("noon yesterday", "2026-11-26T12:00"),
        ("now", "2026-11-27T10:40"),
        ("state_2026-11-26_13-00", "2026-11-26T14:00:59.999999"),
        ("state_CRITICAL_2026-11-26_13-00_2.json.gz", "2026-11-26T14:00:59.999999"),
    ],
)
def test_it_is_understood_in_local_time(text: str, local: str) -> None:
    assert parse_moment(text, NOW, ROME) == datetime.fromisoformat(local).replace(tzinfo=ROME)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        "14",
        "2026",
        "20.11",
        "foo",
        "the day of the move",
        "yesterday 25:00",
        "14:61",
        "state_2026",
        "11/12/2026",
        "3.12. 14:00",
        "3.12.2026",
    ],
)
def test_what_could_only_be_guessed_is_refused(text: str) -> None:
    with pytest.raises(MomentError, match=r"no moment that NHI understands: write it as 'yesterday 14:00'"):
        parse_moment(text, NOW, ROME)


@pytest.mark.parametrize("text", ["tomorrow 14:00", "2026-11-27 10:41", "in 2 hours", "2027-01-01"])
def test_the_future_is_refused_with_what_was_understood(text: str) -> None:
    with pytest.raises(MomentError, match=r"is 202\d-\d\d-\d\d \d\d:\d\d CET, which has not come yet"):
        parse_moment(text, NOW, ROME)


def test_hours_that_went_by_are_counted_across_the_end_of_summer_time() -> None:
    """At 03:30 CET the clock was put back half an hour before: two hours ago it was 02:30 CEST."""
    now = datetime(2026, 10, 25, 2, 30, tzinfo=UTC)
    assert parse_moment("2 hours ago", now, ROME) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert parse_moment("yesterday 14:00", now, ROME) == datetime(2026, 10, 24, 12, 0, tzinfo=UTC)


def test_without_a_zone_the_system_s_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert parse_moment("yesterday 14:00", NOW) == datetime(2026, 11, 26, 19, 0, tzinfo=UTC)
        assert parse_moment("2026-07-01 14:00", NOW) == datetime(2026, 7, 1, 18, 0, tzinfo=UTC)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_iso_times_need_no_library_and_others_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "dateparser", None)
    assert parse_moment("2026-11-26T14:00Z", NOW) == datetime(2026, 11, 26, 14, 0, tzinfo=UTC)
    with pytest.raises(MomentError, match="pip install dateparser"):
        parse_moment("yesterday 14:00", NOW, ROME)
