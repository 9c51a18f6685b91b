# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for a Proxmox VE task: quick at first, patient later, through restarts of the daemon."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import ParameterError, ProxmoxError, TaskError, UnreachableError

_UPID = re.compile(
    r"UPID:(?P<node>[^:]+):[0-9A-Fa-f]{8}:[0-9A-Fa-f]{8,9}:[0-9A-Fa-f]{8}:(?P<type>[^:]+):(?P<id>[^:]*):[^:]+:"
)
_FIRST_PAUSE, _LONGEST_PAUSE, _FACTOR = 0.05, 1.0, 1.4
_LOG_LINES, _SHOWN_LINES = 10, 3
# The status may be asked for between the worker's last line and its exit status.
_TRANSIENT = "unexpected status"
_TRANSIENT_TRIES = 3


class TaskReader(Protocol):
    """The two calls of a client that waiting needs."""

    def get(self, path: Any, params: Mapping[str, Any] | None = None) -> Any: ...

    def get_page(self, path: Any, params: Mapping[str, Any] | None = None) -> dict[str, Any]: ...


@dataclass(frozen=True)
class TaskResult:
    """A task that ended well; ``warnings`` counts what it grumbled about."""

    upid: str
    type: str
    exitstatus: str
    warnings: int
    duration_seconds: float


def wait_for_task(client: TaskReader, upid: str, timeout_seconds: float) -> TaskResult:
    """Ask until the task has ended; an unreachable daemon is asked again until the time is up."""
    match = _UPID.fullmatch(upid)
    if not match:
        raise ParameterError(f"'{upid}' is not a task id (UPID): wait only for what a call returned as one")
    path = ("nodes", match["node"], "tasks", upid, "status")
    started, pause, odd = time.monotonic(), _FIRST_PAUSE, 0
    while True:
        exitstatus = _exitstatus(client, path, started + timeout_seconds)
        if exitstatus == _TRANSIENT and odd < _TRANSIENT_TRIES:
            odd, exitstatus = odd + 1, None
        elapsed = time.monotonic() - started
        if exitstatus is not None:
            return _result(client, upid, match, exitstatus, elapsed)
        if elapsed >= timeout_seconds:
            raise TaskError(
                f"task {match['type']} of {match['id'] or match['node']} on {match['node']} still runs after"
                f" {timeout_seconds:g} s: it goes on without us, so watch {upid} and scan again, or raise the timeout",
                upid=upid,
                exitstatus="timeout",
            )
        time.sleep(min(pause, max(0.0, timeout_seconds - elapsed)))
        pause = min(pause * _FACTOR, _LONGEST_PAUSE)


def _exitstatus(client: TaskReader, path: tuple[str, ...], deadline: float) -> str | None:
    """The exit status, None while the task runs or nobody answers and there is time left."""
    try:
        status = client.get(path)
    except UnreachableError:
        if time.monotonic() >= deadline:
            raise
        return None
    if status.get("status") != "stopped":
        return None
    return str(status.get("exitstatus") or _TRANSIENT)


def _result(client: TaskReader, upid: str, match: re.Match[str], exitstatus: str, elapsed: float) -> TaskResult:
    warnings = re.fullmatch(r"WARNINGS: (\d+)", exitstatus)
    if exitstatus == "OK" or warnings:
        return TaskResult(upid, match["type"], exitstatus, int(warnings[1]) if warnings else 0, elapsed)
    log = _last_lines(client, match["node"], upid)
    before = [line for line in log if exitstatus not in line][-_SHOWN_LINES:]
    tail = f" (before that: {' | '.join(before)})" if before else ""
    raise TaskError(
        f"task {match['type']} of {match['id'] or match['node']} on {match['node']} failed: {exitstatus}{tail}:"
        " correct the cause and run it again",
        upid=upid,
        exitstatus=exitstatus,
        log=log,
    )


def _last_lines(client: TaskReader, node: str, upid: str) -> list[str]:
    """The end of the log, empty when it can not be read: the exit status is already the answer."""
    path = ("nodes", node, "tasks", upid, "log")
    try:
        total = int(client.get_page(path, {"start": 0, "limit": 1}).get("total") or 0)
        lines = client.get(path, {"start": max(0, total - _LOG_LINES), "limit": _LOG_LINES})
    except ProxmoxError:
        return []
    return [str(line.get("t", "")) for line in lines] if isinstance(lines, list) else []
