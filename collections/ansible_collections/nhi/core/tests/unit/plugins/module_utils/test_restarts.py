# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restarts from the wish to the end: refused, done, or kept for their hour and done once."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils import restarts as restarts_module
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    FrozenError,
    LockTimeoutError,
    PreflightError,
    StateError,
    UnreachableError,
)
from ansible_collections.nhi.core.plugins.module_utils.freeze import freeze, unfreeze
from ansible_collections.nhi.core.plugins.module_utils.restart_jobs import RUNNING, RestartJobs
from ansible_collections.nhi.core.plugins.module_utils.restart_plan import RestartWish
from ansible_collections.nhi.core.plugins.module_utils.restarts import RestartStoppedError
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.restart_lab import FakeRestarter, Lab, closed_now


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab.ready(tmp_path, monkeypatch)


def test_a_restart_is_done_and_the_state_read_anew(lab: Lab) -> None:
    outcome = lab.request("nginx-web", "redis-cache")
    assert (outcome.changed, outcome.action) == (True, "restarted")
    assert lab.done() == ["redis-cache", "nginx-web"]
    assert lab.scanned == [["nginx-web", "redis-cache"]]
    assert outcome.summary()[0].startswith("redis-cache was restarted and is well after")
    assert lab.jobs() == []


def test_check_mode_shows_the_plan_and_touches_nothing(lab: Lab) -> None:
    before = sorted(lab.directory.rglob("*"))
    outcome = lab.restarts().request(RestartWish(("redis-cache", "postgres")), check_mode=True)
    assert outcome.action == "would_restart"
    assert outcome.plan is not None
    assert [c.name for c in outcome.plan.failed] == ["approved"]
    assert lab.restarts().request(RestartWish(("minio",)), check_mode=True).action == "would_schedule"
    assert (lab.done(), lab.jobs()) == ([], [])
    assert sorted(lab.directory.rglob("*")) == before


def test_all_that_speaks_against_it_is_in_one_refusal(lab: Lab) -> None:
    with pytest.raises(
        PreflightError, match=r"off, .* does not run.*; postgres must not be restarted without approval"
    ):
        lab.request("postgres", "off", "redis-cache")
    assert lab.done() == []


def test_without_a_state_nobody_knows_where_to_restart(lab: Lab) -> None:
    (lab.directory / "state.json").unlink()
    (lab.directory / "state.json.checksum").unlink()
    with pytest.raises(StateError, match="scan first"):
        lab.request("redis-cache")


def test_two_restarts_never_run_at_once(lab: Lab) -> None:
    restarts = lab.restarts()
    with restarts._alone(0):
        restarts._site.lock_timeout = 0.1
        with pytest.raises(LockTimeoutError, match=r"run.lock is held by restart services"):
            restarts.request(RestartWish(("redis-cache",)))
    assert lab.done() == []


def test_a_scan_that_fails_afterwards_is_only_told(lab: Lab) -> None:
    def fail(_guests: list[str]) -> None:
        raise UnreachableError("pve can not be reached")

    lab.rescan = fail
    assert lab.request("redis-cache").action == "restarted"
    assert "scan again: pve can not be reached" in lab.told[0]


# What waits for its hour


def test_outside_its_window_it_is_scheduled_once(lab: Lab) -> None:
    first = lab.request("minio")
    assert (first.changed, first.action) == (True, "scheduled")
    again = lab.request("minio")
    assert (again.changed, again.job.id) == (False, first.job.id)
    assert [j["services"] for j in lab.jobs()] == [["minio"]]
    assert datetime.fromisoformat(first.job.not_before).hour == closed_now()[0]
    assert first.summary()[0].startswith(f"Scheduled as {first.job.id} (minio), not before ")
    assert lab.done() == []
    assert "install the timer with playbooks/restart_timer.yml" in lab.told[0]


def test_hours_that_are_corrected_move_it(lab: Lab) -> None:
    first = lab.request("minio").job
    lab.hours([(datetime.now(UTC).hour + 6) % 24])
    moved = lab.request("minio")
    assert moved.changed
    assert (moved.job.id, moved.job.not_before != first.not_before) == (first.id, True)


def test_a_service_waits_in_one_restart_only(lab: Lab) -> None:
    lab.request("minio")
    with pytest.raises(PreflightError, match="minio waits for its restart already, in restart-"):
        lab.request("minio", "redis-cache")
    assert len(lab.jobs()) == 1


def test_it_is_done_when_its_hour_comes_and_not_before(lab: Lab) -> None:
    lab.request("minio")
    assert lab.restarts().run_due() == []
    assert lab.done() == []
    lab.make_due()
    ended = lab.restarts().run_due()
    assert [(j.status, j.services) for j in ended] == [("done", ("minio",))]
    assert lab.done() == ["minio"]
    assert lab.restarts().run_due() == []
    assert lab.done() == ["minio"]
    assert "minio was restarted and is well" in lab.jobs()[0]["message"]


def test_a_freeze_stops_restarts_and_lets_scheduled_ones_wait(lab: Lab) -> None:
    lab.request("minio")
    lab.make_due()
    freeze(lab.directory, "luca", "something is odd")
    with pytest.raises(FrozenError, match="something is odd"):
        lab.request("redis-cache")
    assert lab.restarts().run_due() == []
    assert lab.done() == []
    assert "something is odd" in lab.told[-1]
    unfreeze(lab.directory)
    assert [job.status for job in lab.restarts().run_due()] == ["done"]


def test_a_window_that_was_missed_is_not_overstepped(lab: Lab) -> None:
    lab.request("minio")
    lab.make_due()
    lab.hours()
    job = lab.restarts().run_due()[0]
    assert (job.status, job.message) == ("scheduled", "its window was missed")
    assert datetime.fromisoformat(job.not_before) > datetime.now(UTC)
    assert lab.done() == []


def test_one_that_fails_says_why_and_does_not_keep_others_from_being_done(lab: Lab) -> None:
    lab.request("minio")
    RestartJobs(lab.directory).schedule(RestartWish(("redis-cache",)), datetime.now(UTC), None, "me")
    lab.make_due()
    graph = json.loads((lab.directory / "dependency_graph.json").read_text())
    graph["services"]["minio"]["can_restart_without_approval"] = False
    (lab.directory / "dependency_graph.json").write_text(json.dumps(graph))
    ended = {j.services: j for j in lab.restarts().run_due()}
    assert ended["minio",].status == "failed"
    assert "confirm=minio" in ended["minio",].message
    assert ended["redis-cache",].status == "done"
    assert lab.done() == ["redis-cache"]


def test_an_approval_is_kept_with_it(lab: Lab) -> None:
    lab.request("postgres", "minio", confirm="postgres")
    lab.make_due()
    assert [j.status for j in lab.restarts().run_due()] == ["done"]
    assert sorted(lab.done()) == ["minio", "postgres"]


def test_killed_while_it_is_done_the_next_look_finishes_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    RestartJobs(lab.directory).schedule(RestartWish(("redis-cache", "nginx-web")), datetime.now(UTC), None, "me")

    def kill(moment: str, service: str) -> None:
        if (moment, service) == ("before", "nginx-web"):
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(restarts_module, "GuestRestarter", lambda _site: FakeRestarter(lab.file, kill))
        try:
            lab.restarts().run_due()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert (lab.done(), lab.jobs()[0]["status"]) == (["redis-cache"], RUNNING)
    with lab.restarts()._alone(0), pytest.raises(PreflightError, match="is under way and can not be cancelled"):
        lab.restarts().cancel("redis-cache")
    assert [j.status for j in lab.restarts().run_due()] == ["done"]
    assert lab.done() == ["redis-cache", "nginx-web"]


def test_one_that_was_cut_off_can_be_cancelled(lab: Lab) -> None:
    jobs = RestartJobs(lab.directory)
    jobs.schedule(RestartWish(("redis-cache",)), datetime.now(UTC), None, "me")
    assert jobs.claim(datetime.now(UTC))
    lab.restarts().cancel("redis-cache")
    assert lab.jobs() == []


def test_it_can_be_cancelled_by_id_or_service(lab: Lab) -> None:
    job = lab.request("minio").job
    assert lab.restarts().cancel("minio").job == job
    assert lab.jobs() == []
    job = lab.request("minio").job
    assert lab.restarts().cancel(job.id).action == "cancelled"
    lab.request("minio")
    with pytest.raises(PreflightError, match=r"no restart of nobody waits: there is restart-.* \(minio\)"):
        lab.restarts().cancel("nobody")


def test_what_ended_long_ago_is_forgotten(lab: Lab) -> None:
    job = lab.request("minio").job
    path = lab.directory / f"restarts/jobs/{job.id}.json"
    old = (datetime.now(UTC) - timedelta(days=8)).isoformat()
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "done", "ended_at": old}))
    lab.request("minio")
    assert [j["status"] for j in lab.jobs()] == ["scheduled"]


def test_a_file_that_is_no_job_is_named(lab: Lab) -> None:
    lab.request("minio")
    (lab.directory / "restarts/jobs/x.json").write_text("{")
    with pytest.raises(StateError, match=r"x.json is no scheduled restart: remove it"):
        lab.jobs()


def _schedule(directory: str, gate: Any, results: Any) -> None:
    gate.wait()
    start = datetime.now(UTC) + timedelta(hours=1)
    results.put(RestartJobs(directory).schedule(RestartWish(("minio",)), start.replace(second=0), None, "me")[1])


def test_of_many_who_schedule_the_same_at_once_one_does(lab: Lab) -> None:
    context = multiprocessing.get_context("fork")
    gate, results = context.Event(), context.Queue()
    children = [context.Process(target=_schedule, args=(str(lab.directory), gate, results)) for _child in range(8)]
    for child in children:
        child.start()
    gate.set()
    for child in children:
        child.join()
    assert sum(results.get(timeout=5) for _child in children) >= 1
    assert len(list((lab.directory / "restarts/jobs").glob("*.json"))) == 1


def _run_due(lab: Lab, gate: Any) -> None:
    gate.wait()
    lab.restarts().run_due()


def test_of_many_timers_at_once_one_does_it(lab: Lab) -> None:
    RestartJobs(lab.directory).schedule(RestartWish(("redis-cache",)), datetime.now(UTC), None, "me")
    context = multiprocessing.get_context("fork")
    gate = context.Event()
    children = [context.Process(target=_run_due, args=(lab, gate)) for _child in range(6)]
    for child in children:
        child.start()
    gate.set()
    for child in children:
        child.join()
    assert lab.done() == ["redis-cache"]


def test_a_run_that_stops_tells_how_far_it_came(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = FakeRestarter(lab.file, broken={"nginx-web"})
    monkeypatch.setattr(restarts_module, "GuestRestarter", lambda _site: broken)
    with pytest.raises(RestartStoppedError) as e:
        lab.request("redis-cache", "nginx-web")
    assert e.value.progress["restarted"] == ["redis-cache"]
    assert e.value.progress["failed_service"] == "nginx-web"
    assert lab.scanned == [["nginx-web", "redis-cache"]]
