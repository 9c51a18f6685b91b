# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for tasks, against a real HTTPS server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils import proxmox_tasks
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    AuthenticationError,
    ParameterError,
    TaskError,
    UnreachableError,
)
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import Endpoint, ProxmoxClient
from ansible_collections.nhi.core.tests.unit.plugins.api_server import ApiServer, Reply, Request, api_server

UPID = "UPID:pve2:0000ABCD:00112233:66112233:vzcreate:105:nhi@pve!creator:"
RUNNING = Reply({"status": "running"})
LOG = [{"n": number, "t": f"line {number}"} for number in range(1, 31)]


def ended(exitstatus: str) -> Reply:
    return Reply({"status": "stopped", "exitstatus": exitstatus})


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with api_server() as running:
        yield running


@pytest.fixture
def client(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProxmoxClient]:
    monkeypatch.setattr(proxmox_tasks, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(proxmox_tasks, "_LONGEST_PAUSE", 0.03)
    options: dict[str, Any] = {"validate_certs": False, "timeout": 1.0}
    with ProxmoxClient(Endpoint("127.0.0.1", "nhi@pve", "creator", "s", server.port, **options)) as connected:
        yield connected


def play(server: ApiServer, *statuses: Reply) -> None:
    """Answer the status calls in this order, the last one for ever; the log is LOG."""
    left = list(statuses)

    def answer(request: Request) -> Reply:
        if request.path.endswith("/log"):
            start, limit = int(request.query["start"][0]), int(request.query["limit"][0])
            return Reply(LOG[start : start + limit], extra={"total": len(LOG)})
        return left.pop(0) if len(left) > 1 else left[0]

    server.answer = answer


def test_a_task_is_asked_for_on_its_own_node_until_it_has_ended(server: ApiServer, client: ProxmoxClient) -> None:
    play(server, RUNNING, RUNNING, ended("OK"))
    result = client.wait_task(UPID, 5)
    assert (result.exitstatus, result.warnings, result.type) == ("OK", 0, "vzcreate")
    assert server.paths() == [f"/nodes/pve2/tasks/{UPID}/status"] * 3


def test_warnings_are_a_success_that_is_counted(server: ApiServer, client: ProxmoxClient) -> None:
    play(server, ended("WARNINGS: 2"))
    assert client.wait_task(UPID, 5).warnings == 2


def test_a_failed_task_raises_with_the_end_of_its_log(server: ApiServer, client: ProxmoxClient) -> None:
    play(server, RUNNING, ended("CT is locked (backup)"))
    with pytest.raises(TaskError, match="vzcreate of 105 on pve2 failed: CT is locked") as caught:
        client.wait_task(UPID, 5)
    assert caught.value.log == [f"line {number}" for number in range(21, 31)]
    assert caught.value.exitstatus == "CT is locked (backup)"
    assert "line 30" in str(caught.value)


@pytest.mark.parametrize(
    "outage",
    [
        Reply(status=596, reason="Connection timed out", body=b"", close=True),
        Reply(status=595, reason="Connection refused", body=b"", close=True),
        Reply(drop=True),
    ],
)
def test_a_daemon_that_is_away_for_a_while_is_asked_again(
    server: ApiServer, client: ProxmoxClient, outage: Reply
) -> None:
    play(server, RUNNING, outage, outage, outage, ended("OK"))
    assert client.wait_task(UPID, 5).exitstatus == "OK"


def test_an_outage_beyond_the_timeout_is_told_as_an_outage(server: ApiServer, client: ProxmoxClient) -> None:
    play(server, Reply(status=596, reason="Connection timed out", body=b"", close=True))
    with pytest.raises(UnreachableError):
        client.wait_task(UPID, 0.1)


def test_a_task_that_outlives_the_timeout_is_not_called_failed(server: ApiServer, client: ProxmoxClient) -> None:
    play(server, RUNNING)
    started = time.monotonic()
    with pytest.raises(TaskError, match="still runs") as caught:
        client.wait_task(UPID, 0.2)
    assert caught.value.exitstatus == "timeout"
    assert UPID in str(caught.value)
    assert 0.2 <= time.monotonic() - started < 2


def test_the_status_between_last_line_and_exit_status_is_asked_again(server: ApiServer, client: ProxmoxClient) -> None:
    play(server, ended("unexpected status"), ended("OK"))
    assert client.wait_task(UPID, 5).exitstatus == "OK"


def test_a_task_without_a_known_end_is_a_failure(server: ApiServer, client: ProxmoxClient) -> None:
    play(server, ended("unexpected status"))
    with pytest.raises(TaskError, match="unexpected status"):
        client.wait_task(UPID, 5)


def test_a_log_that_can_not_be_read_does_not_hide_the_failure(server: ApiServer, client: ProxmoxClient) -> None:
    play(server, ended("storage 'x' is full"))
    status = server.answer

    def without_log(request: Request) -> Reply:
        gone = Reply({"t": "unable to open file - No such file or directory", "n": 1}, extra={"total": 1})
        return gone if request.path.endswith("/log") else status(request)

    server.answer = without_log
    with pytest.raises(TaskError, match="storage 'x' is full") as caught:
        client.wait_task(UPID, 5)
    assert caught.value.log == []


def test_a_refused_token_is_not_asked_again(server: ApiServer, client: ProxmoxClient) -> None:
    play(server, Reply(status=401, reason="Authentication failed!", body=b"", close=True))
    with pytest.raises(AuthenticationError):
        client.wait_task(UPID, 5)
    assert len(server.requests) == 1


@pytest.mark.parametrize("text", ["OK", "UPID:pve", "", UPID[:-1], f"{UPID}\n"])
def test_what_is_no_task_id_is_refused_before_asking(server: ApiServer, client: ProxmoxClient, text: str) -> None:
    with pytest.raises(ParameterError, match="UPID"):
        client.wait_task(text, 5)
    assert server.requests == []


def test_pauses_grow_and_stay_below_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)

    class TenTimesRunning:
        asked = 0

        def get(self, path: Any, params: Any = None) -> Any:
            self.asked += 1
            return {"status": "running"} if self.asked <= 10 else {"status": "stopped", "exitstatus": "OK"}

        def get_page(self, path: Any, params: Any = None) -> dict[str, Any]:
            return {"data": []}

    proxmox_tasks.wait_for_task(TenTimesRunning(), UPID, 60)
    assert pauses[0] == pytest.approx(0.05)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(1.0)
