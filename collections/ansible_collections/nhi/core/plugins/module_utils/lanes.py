# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run jobs in threads, a few at a time for each lane, all lanes at once.

A lane is a Proxmox VE node: its daemon has three workers, so a scan must not put more than a few requests to it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

Lane = TypeVar("Lane", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


def run_in_lanes(
    items: Iterable[tuple[Lane, Item]],
    work: Callable[[Item], Result],
    *,
    per_lane: int,
    in_total: int,
) -> list[Result]:
    """Results of all items in no particular order; the first exception of a job stops the rest and is raised."""
    lanes: dict[Lane, deque[Item]] = {}
    for lane, item in items:
        lanes.setdefault(lane, deque()).append(item)
    if not lanes:
        return []
    crew = _Crew(work)
    shares = _shares(lanes, per_lane, in_total)
    threads = [threading.Thread(target=crew.drain, args=(share,), daemon=True) for share in shares]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException as error:
        # An interrupted caller does not wait for requests under way, and no thread begins another.
        crew.failures.append(error)
        raise
    if crew.failures:
        raise crew.failures[0]
    return crew.results


class _Crew(Generic[Item, Result]):
    """What the threads share: the work, its results, and whether one of them failed."""

    def __init__(self, work: Callable[[Item], Result]) -> None:
        self._work = work
        self.results: list[Result] = []
        self.failures: list[BaseException] = []

    def drain(self, queues: list[deque[Item]]) -> None:
        """Take items until there are none."""
        try:
            for queue in queues:
                self._drain(queue)
        except BaseException as error:  # noqa: BLE001 -- raised again in the thread that waits
            self.failures.append(error)

    def _drain(self, queue: deque[Item]) -> None:
        while not self.failures:
            try:
                item = queue.popleft()
            except IndexError:
                return
            self.results.append(self._work(item))


def _shares(lanes: dict[Lane, deque[Item]], per_lane: int, in_total: int) -> list[list[deque[Item]]]:
    """The queues each thread drains: every lane has its own threads, or shares one when there are too many lanes."""
    queues = list(lanes.values())
    if len(queues) > in_total:
        return [queues[start::in_total] for start in range(in_total)]
    width = max(1, min(per_lane, in_total // len(queues)))
    return [[queue] for queue in queues for _count in range(min(width, len(queue)))]
