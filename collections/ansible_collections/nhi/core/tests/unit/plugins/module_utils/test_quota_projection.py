# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a quota lasts, through a simulated day."""

from __future__ import annotations

import pytest
from ansible_collections.nhi.core.plugins.module_utils.quota_projection import (
    HOUR_MS,
    Projection,
    Sample,
    preferred_provider,
    project,
)


def after(hours: float) -> int:
    return round(hours * HOUR_MS)


def at(hour: float, per_hour: float, limit: int = 1000) -> Projection:
    samples = [Sample(after(h / 6), round(per_hour * h / 6)) for h in range(round(hour * 6))]
    return project(samples, round(per_hour * hour), limit, after(hour), after(24))


def test_the_blueprints_case_runs_out_before_midnight() -> None:
    """45 requests an hour, 8 hours before the reset, with 700 of 1000 used."""
    samples = [Sample(after(13), 565), Sample(after(15), 655)]
    projection = project(samples, 700, 1000, after(16), after(24))
    assert (projection.per_hour, projection.at_reset) == (45.0, 1060)
    assert projection.exhausted_at_ms == after(16 + 300 / 45)
    assert projection.runway == pytest.approx(300 / 45 / 8)


def test_a_day_of_even_work_lasts_and_a_day_of_haste_does_not() -> None:
    assert not any(at(hour, 40).is_short for hour in range(1, 24))
    assert [hour for hour in range(1, 24) if at(hour, 60).is_short] == list(range(1, 24))


def test_what_is_used_up_has_no_runway_and_what_is_idle_lasts() -> None:
    used_up = project([], 1000, 1000, after(3), after(24))
    assert (used_up.runway, used_up.exhausted_at_ms) == (0.0, after(3))
    idle = project([Sample(after(20), 500)], 500, 1000, after(22), after(24))
    assert (idle.runway, idle.is_short, idle.at_reset) == (1.0, False, 500)


def test_samples_of_yesterday_and_of_the_last_minutes_tell_no_rate() -> None:
    old, new = Sample(after(-1), 900), Sample(after(2) - 1000, 1)
    assert project([old, new], 5, 1000, after(2), after(24)).per_hour == 0


def test_another_provider_is_preferred_while_the_best_runs_short() -> None:
    qualities = {"claude": 9.5, "gemini": 8.0, "qwen": 7.0}
    short, fine = at(12, 60), at(12, 10)
    assert preferred_provider({"claude": short, "gemini": fine, "qwen": fine}, qualities) == "gemini"
    assert preferred_provider({"claude": short, "gemini": short, "qwen": fine}, qualities) == "qwen"
    assert preferred_provider({"claude": fine, "gemini": short, "qwen": fine}, qualities) is None
    assert preferred_provider({"claude": short, "gemini": short, "qwen": short}, qualities) is None
    assert preferred_provider({"claude": short}, {**qualities}) == "gemini"
