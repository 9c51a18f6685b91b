# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks of Proxmox VE: their identifiers, how they end, and daemons that go away while one runs.

The table that says which fact is tested where is in README.md beside this file.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    NotFoundError,
    ParameterError,
    ProxmoxError,
    TaskError,
    UnreachableError,
)
from ansible_collections.nhi.core.plugins.module_utils.proxmox_tasks import wait_for_task

UPID = "UPID:pve2:0000ABCD:00112233:66112233:vzcreate:105:nhi@pve!creator:"
RUNNING = {"status": "running"}


def gone(status: int = 595) -> UnreachableError:
    return UnreachableError("no answer", status=status)


class Node:
    """Answers status calls from a list, the last one for ever; the clock is its own."""

    def __init__(self, *answers: Any, log: Any = ()) -> None:
        self.answers = list(answers)
        self.log = log
        self.asked: list[tuple[str, ...]] = []

    def get(self, path: Any, params: Mapping[str, Any] | None = None) -> Any:
        self.asked.append(tuple(path))
        if path[-1] == "log":
            if isinstance(self.log, ProxmoxError):
                raise self.log
            return self.log
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, ProxmoxError):
            raise answer
        return answer

    def get_page(self, path: Any, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        if isinstance(self.log, ProxmoxError):
            raise self.log
        return {"data": self.log, "total": len(self.log)}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every pause that was taken; time passes only in them."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(time, "monotonic", lambda: sum(pauses))
    return pauses


def ended(exitstatus: str | None) -> dict[str, Any]:
    return {"status": "stopped", **({} if exitstatus is None else {"exitstatus": exitstatus})}


@pytest.mark.parametrize(
    "upid",
    [
        UPID,
        "UPID:pve:000A1B2C:1234567AB:66112233:qmclone:9000:root@pam:",
        "UPID:pve-1:0000ABCD:00112233:66112233:vzdump::root@pam:",
        "UPID:pve:0000ABCD:00112233:66112233:imgdel:105@local:nhi@pve!a:",
    ],
)
def test_identifiers_of_every_shape_are_asked_for_on_their_node(clock: list[float], upid: str) -> None:
    node = Node(ended("OK"))
    wait_for_task(node, upid, 60)
    assert node.asked == [("nodes", upid.split(":")[1], "tasks", upid, "status")]


@pytest.mark.parametrize("answer", ["OK", "None", "", "UPID:pve:short"])
def test_what_is_no_task_is_not_waited_for(clock: list[float], answer: str) -> None:
    node = Node(ended("OK"))
    with pytest.raises(ParameterError, match="not a task id"):
        wait_for_task(node, answer, 60)
    assert node.asked == []


@pytest.mark.parametrize(("exitstatus", "warnings"), [("OK", 0), ("WARNINGS: 1", 1), ("WARNINGS: 12", 12)])
def test_warnings_are_a_success(clock: list[float], exitstatus: str, warnings: int) -> None:
    assert wait_for_task(Node(RUNNING, ended(exitstatus)), UPID, 60).warnings == warnings


@pytest.mark.parametrize("doubtful", ["unexpected status", None, ""])
def test_an_end_that_is_not_known_yet_is_asked_again(clock: list[float], doubtful: str | None) -> None:
    assert wait_for_task(Node(ended(doubtful), ended(doubtful), ended("OK")), UPID, 60).exitstatus == "OK"
    with pytest.raises(TaskError, match="unexpected status"):
        wait_for_task(Node(ended(doubtful)), UPID, 60)


@pytest.mark.parametrize(
    "exitstatus",
    [
        "CT is locked (snapshot)",
        "unable to create CT 110 - volume 'local:vztmpl/x' does not exist",
        "received interrupt",
    ],
)
def test_any_other_end_is_a_failure_in_its_own_words(clock: list[float], exitstatus: str) -> None:
    log = [{"n": 1, "t": "extracting archive"}, {"n": 2, "t": f"TASK ERROR: {exitstatus}"}]
    with pytest.raises(TaskError) as caught:
        wait_for_task(Node(ended(exitstatus), log=log), UPID, 60)
    assert caught.value.exitstatus == exitstatus
    assert str(caught.value).count(exitstatus) == 1
    assert "before that: extracting archive" in str(caught.value)


@pytest.mark.parametrize(
    "log",
    [
        {"n": 1, "t": "unable to open file - No such file or directory"},
        None,
        [],
        gone(),
        ProxmoxError("refused", status=500),
    ],
)
def test_a_log_of_another_shape_hides_no_failure(clock: list[float], log: Any) -> None:
    class Odd(Node):
        def get_page(self, path: Any, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
            if isinstance(self.log, ProxmoxError):
                raise self.log
            return {"data": self.log, "total": "1"}

    with pytest.raises(TaskError, match="no space left"):
        wait_for_task(Odd(ended("no space left"), log=log), UPID, 60)


@pytest.mark.parametrize("outage", [gone(595), gone(596), gone(599), gone(0), gone(502)])
@pytest.mark.parametrize("asked_before", range(7))
def test_an_outage_at_any_pause_only_makes_it_ask_again(
    clock: list[float], outage: UnreachableError, asked_before: int
) -> None:
    """A daemon that restarts, and a proxy that gives up, after each of the growing pauses."""
    node = Node(*[RUNNING] * asked_before, *[outage] * 5, RUNNING, ended("OK"))
    assert wait_for_task(node, UPID, 300).exitstatus == "OK"
    assert len(node.asked) == asked_before + 7
    assert len(clock) == asked_before + 6
    assert clock == sorted(clock)
    assert max(clock) <= 1.0


def test_an_outage_that_outlasts_the_patience_is_told_as_one(clock: list[float]) -> None:
    node = Node(RUNNING, gone())
    with pytest.raises(UnreachableError):
        wait_for_task(node, UPID, 30)
    assert 29 < sum(clock) <= 30
    assert node.asked[-1][-1] == "status"


def test_a_task_that_nobody_knows_is_no_endless_wait(clock: list[float]) -> None:
    unknown = NotFoundError("no such task", status=400, errors={"upid": "no such task"})
    with pytest.raises(NotFoundError):
        wait_for_task(Node(RUNNING, unknown), UPID, 300)


def test_a_long_task_is_not_asked_for_more_than_once_a_second(clock: list[float]) -> None:
    node = Node(*[RUNNING] * 120, ended("OK"))
    wait_for_task(node, UPID, 300)
    assert sum(clock) > 110
