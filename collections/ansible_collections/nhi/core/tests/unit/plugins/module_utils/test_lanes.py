# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs in lanes: all are done, no lane is overrun, a failure is told."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from ansible_collections.nhi.core.plugins.module_utils.lanes import run_in_lanes
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers()), max_size=60),
    st.integers(1, 6),
    st.integers(1, 10),
)
def test_every_job_is_done_once_and_no_lane_is_overrun(
    items: list[tuple[int, int]], per_lane: int, in_total: int
) -> None:
    lock = threading.Lock()
    now: Counter[int] = Counter()
    most: Counter[int] = Counter()

    def work(job: tuple[int, int]) -> tuple[int, int]:
        lane = job[0]
        with lock:
            now[lane] += 1
            most[lane] = max(most[lane], now[lane])
            most[-1] = max(most[-1], now.total())
        time.sleep(0.0001)
        with lock:
            now[lane] -= 1
        return job

    results = run_in_lanes([(lane, (lane, item)) for lane, item in items], work, per_lane=per_lane, in_total=in_total)
    assert sorted(results) == sorted(items)
    assert all(most[lane] <= per_lane for lane in range(13))
    assert most[-1] <= max(in_total, 1)


def test_lanes_run_at_the_same_time() -> None:
    barrier = threading.Barrier(8, timeout=10)
    results = run_in_lanes([(lane, lane) for lane in range(8)], lambda _item: barrier.wait(), per_lane=1, in_total=8)
    assert sorted(results) == list(range(8))


def test_a_failing_job_stops_the_rest_and_is_raised() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 3:
            raise RuntimeError("third")
        done.append(item)

    with pytest.raises(RuntimeError, match="third"):
        run_in_lanes([("one", item) for item in range(10)], work, per_lane=1, in_total=4)
    assert done == [0, 1, 2]


def test_nothing_to_do_starts_nothing() -> None:
    assert run_in_lanes([], lambda item: item, per_lane=4, in_total=4) == []
