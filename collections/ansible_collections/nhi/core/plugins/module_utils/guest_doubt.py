# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A call whose answer was lost: find out whether it was done, instead of doing it twice or giving up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from .errors import UnreachableError
from .guest_reader import Api

_T = TypeVar("_T")
# A daemon that restarts is back within this time.
_PATIENCE_SECONDS, _PAUSE_SECONDS = 15.0, 0.5
# A call that was not answered shows what it did within this time, or did nothing.
DOUBT_SECONDS = 3.0


def patiently(call: Callable[[], _T]) -> _T:
    """Ask again while nobody answers; the call must be one that may be repeated."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return call()
        except UnreachableError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_PAUSE_SECONDS)


def end_of_doubt() -> float:
    """Until when a call that was not answered may still show what it did, as ``time.monotonic`` counts."""
    return time.monotonic() + DOUBT_SECONDS


def running_tasks(api: Api, node: str, vmid: int) -> list[str]:
    """UPIDs of the guest's tasks that run now, as far as this token may see them."""
    rows = api.get(("nodes", node, "tasks"), {"vmid": vmid, "source": "active"})
    return [str(row["upid"]) for row in rows if not row.get("endtime")]


def was_done(api: Api, node: str, vmid: int, achieved: Callable[[], bool], seconds: float) -> bool:
    """Whether the call did what it was sent for; waits up to ``seconds`` while a task of the guest still runs."""
    now = time.monotonic()
    latest, grace = now + seconds, end_of_doubt()
    while True:
        if patiently(achieved):
            return True
        busy: list[Any] = patiently(lambda: running_tasks(api, node, vmid))
        now = time.monotonic()
        if now >= latest or (not busy and now >= grace):
            # The task may have ended between the two questions.
            return patiently(achieved)
        time.sleep(_PAUSE_SECONDS)
