# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restarts carried out: in order, gated, and each once however often the run is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils import restart_run
from ansible_collections.nhi.core.plugins.module_utils.errors import RestartError, StateError
from ansible_collections.nhi.core.plugins.module_utils.restart_history import RestartHistory
from ansible_collections.nhi.core.plugins.module_utils.restart_run import (
    Progress,
    RestartRun,
    cut_off_restarts,
    dismiss,
)
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.restart_lab import FakeRestarter, plan

BOTH = ("redis-cache", "nginx-web")


@pytest.fixture
def ill(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Services that do not come back."""
    found: set[str] = set()

    def await_health(entry: Any, address: str, patience: float) -> list[dict[str, Any]]:
        health = "unhealthy" if entry.name in found else "healthy"
        return [{"probe": "tcp", "health": health, "url": f"tcp://{address}", "detail": "connection refused"}]

    monkeypatch.setattr(restart_run, "await_health", await_health)
    return found


def run(
    directory: Path,
    services: Iterable[str] = BOTH,
    restarter: FakeRestarter | None = None,
    told: list[str] | None = None,
) -> Progress:
    restarter = restarter or FakeRestarter(directory / "restarts.log")
    return RestartRun(plan(*services), directory, restarter, 1.0, (told if told is not None else []).append).run()


def log(directory: Path) -> list[str]:
    return FakeRestarter(directory / "restarts.log").restarts()


def killed(directory: Path, moment: str, service: str, services: Iterable[str] = BOTH) -> None:
    """A run in a process of its own that SIGKILL ends at a moment."""

    def kill(now: str, name: str) -> None:
        if (now, name) == (moment, service):
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            run(directory, services, FakeRestarter(directory / "restarts.log", kill))
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_every_service_is_restarted_in_order_and_remembered(tmp_path: Path, ill: set[str]) -> None:
    progress = run(tmp_path)
    assert log(tmp_path) == ["redis-cache", "nginx-web"]
    assert (progress.restarted, progress.left, progress.failed) == (["redis-cache", "nginx-web"], [], None)
    kept = RestartHistory(tmp_path).entries()
    assert [(e["service"], e["outcome"], e["how"]) for e in kept] == [
        ("redis-cache", "restarted", "unit"), ("nginx-web", "restarted", "unit"),
    ]  # fmt: skip
    assert RestartHistory(tmp_path).estimates(BOTH)["redis-cache"].samples == 1
    assert list(cut_off_restarts(tmp_path)) == []


def test_a_service_that_does_not_come_back_stops_it_there(tmp_path: Path, ill: set[str]) -> None:
    ill.add("redis-cache")
    with pytest.raises(RestartError) as e:
        run(tmp_path)
    assert log(tmp_path) == ["redis-cache"]
    assert str(e.value).startswith(
        "redis-cache on redis-cache was restarted and does not answer as it should after 1 s:"
    )
    assert str(e.value).endswith("Stopped there; nothing else was restarted; not restarted: nginx-web")
    assert RestartHistory(tmp_path).entries()[0]["outcome"] == "gate_failed"
    assert RestartHistory(tmp_path).estimates(BOTH)["redis-cache"].samples == 0
    assert list(cut_off_restarts(tmp_path)) == [], "what ended in a sentence is not under way any more"


def test_a_restart_that_fails_stops_it_too(tmp_path: Path, ill: set[str]) -> None:
    broken = FakeRestarter(tmp_path / "restarts.log", broken={"nginx-web"})
    with pytest.raises(RestartError, match=r"no such unit. Stopped there; restarted: redis-cache$"):
        run(tmp_path, restarter=broken)
    assert RestartHistory(tmp_path).entries()[1]["outcome"] == "failed"


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("service", BOTH)
def test_killed_anywhere_the_same_again_restarts_each_once(
    tmp_path: Path, ill: set[str], moment: str, service: str
) -> None:
    killed(tmp_path, moment, service)
    cut = list(cut_off_restarts(tmp_path))
    assert len(cut) == 1
    assert f"in the middle of {service}" in cut[0]["told"]
    progress = run(tmp_path)
    assert log(tmp_path) == ["redis-cache", "nginx-web"]
    assert progress.restarted == ["redis-cache", "nginx-web"]
    assert list(cut_off_restarts(tmp_path)) == []
    # Nobody saw how long it was away, and nobody claims to know.
    assert (progress.downtime_seconds[service] is None) == (moment == "after")


def test_killed_again_while_it_is_taken_up_nothing_is_forgotten(tmp_path: Path, ill: set[str]) -> None:
    killed(tmp_path, "before", "nginx-web")
    killed(tmp_path, "before", "nginx-web")
    killed(tmp_path, "after", "nginx-web")
    assert run(tmp_path).resumed == ["redis-cache", "nginx-web"]
    assert log(tmp_path) == ["redis-cache", "nginx-web"]


def test_another_restart_does_not_take_it_up_but_tells_of_it(tmp_path: Path, ill: set[str]) -> None:
    killed(tmp_path, "after", "redis-cache")
    told: list[str] = []
    run(tmp_path, ["minio"], told=told)
    assert "was cut off (in the middle of redis-cache; not begun nginx-web)" in told[0]
    assert len(list(cut_off_restarts(tmp_path))) == 1


def test_what_was_cut_off_long_ago_is_another_restart(
    tmp_path: Path, ill: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(tmp_path, "after", "redis-cache")
    monkeypatch.setattr(restart_run, "_RESUMED_SECONDS", 0.0)
    run(tmp_path)
    assert log(tmp_path) == ["redis-cache", "redis-cache", "nginx-web"]


def test_a_restart_that_was_cut_off_can_be_let_go(tmp_path: Path, ill: set[str]) -> None:
    killed(tmp_path, "after", "redis-cache")
    operation = next(iter(cut_off_restarts(tmp_path)))["operation"]
    assert not dismiss(tmp_path, "restart-of-nobody")
    assert dismiss(tmp_path, operation)
    assert list(cut_off_restarts(tmp_path)) == []


def test_a_signal_stops_it_with_a_sentence_and_the_same_again_goes_on(tmp_path: Path, ill: set[str]) -> None:
    def stop(moment: str, service: str) -> None:
        if (moment, service) == ("after", "redis-cache"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RestartError, match="interrupted by SIGTERM: nothing else was restarted; not restarted: redis"):
        run(tmp_path, restarter=FakeRestarter(tmp_path / "restarts.log", stop))
    assert run(tmp_path).resumed == ["redis-cache"]
    assert log(tmp_path) == ["redis-cache", "nginx-web"]


def test_a_history_that_can_not_be_written_does_not_stop_it(
    tmp_path: Path, ill: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise StateError("history.jsonl can not be written: no space left on device")

    monkeypatch.setattr(RestartHistory, "add", full)
    told: list[str] = []
    assert run(tmp_path, told=told).restarted == ["redis-cache", "nginx-web"]
    assert "no space left" in told[0]


def test_nothing_is_restarted_that_can_not_be_written_down(tmp_path: Path, ill: set[str]) -> None:
    (tmp_path / "restarts").write_text("no directory")
    with pytest.raises(StateError, match="can not be read: not a directory; correct state_dir"):
        run(tmp_path)
    assert log(tmp_path) == []
