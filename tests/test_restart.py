"""Restarts by name in a lab in memory: planned, refused, scheduled, cancelled, and finished after SIGKILL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import COLLECTIONS, ROOT, Operator, running_lab, tool

pytestmark = pytest.mark.e2e

SUBNET = "127.86.66.0/24"
EMBEDDED = ("-e", "@lab/ansible/embedded.yml")
FREE = {"can_restart_without_approval": True}
GRAPH: dict[str, Any] = {"time_zone": "UTC", "services": {
    "redis-a": FREE, "redis-b": {"depends_on": ["redis-a"], **FREE}, "shop": {"depends_on": ["redis-b"]},
}}  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Two guests that carry Redis; guests in memory have no SSH, so whole guests are restarted."""
    home = tmp_path_factory.mktemp("restart")
    options = ("--driver", "memory", "--no-lag", "--test-endpoint", "--subnet", SUBNET)
    with running_lab(home / "lab", *options) as running:
        operator = Operator(running, home / "infrastructure")
        operator.state_dir.mkdir()
        write_graph(operator, GRAPH)
        for purpose in "ab":
            done = operator.playbook("service.yml", "-e", "service=redis", "-e", f"purpose={purpose}", *EMBEDDED)
            assert done.returncode == 0, done.stdout[-3000:]
        yield operator
        for pid_file in (running.directory / "embedded").glob("*/pid"):
            os.kill(int(pid_file.read_text().split()[0]), signal.SIGTERM)


def graph_file(lab: Operator) -> Path:
    return lab.state_dir.parent / "graph.json"


def write_graph(lab: Operator, graph: dict[str, Any]) -> None:
    graph_file(lab).write_text(json.dumps(graph))


def closed() -> dict[str, Any]:
    """A graph in which it is not the hour of redis-a."""
    graph: dict[str, Any] = json.loads(json.dumps(GRAPH))
    graph["services"]["redis-a"]["restart_safe_hours"] = [(datetime.now(UTC).hour + 12) % 24]
    return graph


def restart(lab: Operator, *args: str) -> subprocess.CompletedProcess[str]:
    return lab.playbook("restart.yml", *options(lab), *args)


def options(lab: Operator) -> tuple[str, ...]:
    return ("-e", f"nhi_dependency_graph={graph_file(lab)}", "-e", "whole_guests=true")


def begun(lab: Operator, verb: str) -> list[str]:
    """Addresses of guests that were stopped or started, oldest first."""
    vmids = {g["vmid"]: g["name"] for g in lab.state()["infrastructure"]["guests"]}
    paths = [w["path"] for w in lab.lab.writes() if w["path"].endswith(f"/status/{verb}") and w["status"] == 200]
    return [vmids[int(path.split("/")[-3])] for path in paths]


def test_a_check_run_shows_the_plan_and_does_nothing(lab: Operator) -> None:
    before = len(lab.lab.writes())
    done = restart(lab, "-e", "service=redis-b,redis-a", "--check")
    assert done.returncode == 0, done.stdout
    places = [done.stdout.index(f"Restart {name}: guest {name}") for name in ("redis-a", "redis-b")]
    assert places == sorted(places)
    assert "shop (medium) would stop working: it needs redis-b." in done.stdout
    assert len(lab.lab.writes()) == before
    assert not (lab.state_dir / "restarts").exists()


def test_in_order_and_by_name_only(lab: Operator) -> None:
    done = restart(lab)
    assert done.returncode != 0
    assert "Say which: -e service=NAME" in done.stdout
    refused = restart(lab, "-e", "service=shop,redis-a")
    assert refused.returncode != 0
    assert "shop runs on no guest that is known" in refused.stdout
    assert "with confirm=shop" in refused.stdout
    before = len(begun(lab, "start"))
    assert restart(lab, "-e", "service=redis-b,redis-a").returncode == 0
    assert begun(lab, "shutdown")[-2:] == begun(lab, "start")[before:] == ["redis-a", "redis-b"]


def test_killed_between_stop_and_start_the_same_command_finishes_it_and_nothing_twice(lab: Operator) -> None:
    time.sleep(3)  # a guest tells in whole seconds when it started, and the test before has just restarted these
    stops, starts = len(begun(lab, "shutdown")), len(begun(lab, "start"))
    vmid = next(g["vmid"] for g in lab.state()["infrastructure"]["guests"] if g["name"] == "redis-b")
    lab.lab.fault("set", "slow", "--path", f"/nodes/*/lxc/{vmid}/status/start", "--delay", "3")
    arguments = {
        "services": ["redis-a", "redis-b"], "whole_guests": True, "state_dir": str(lab.state_dir),
        "dependency_graph": str(graph_file(lab)), "guest_health_port": 0,
    }  # fmt: skip
    running = subprocess.Popen(
        [sys.executable, "-m", "ansible_collections.nhi.core.plugins.modules.nhi_restart"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT,
        env={**lab.environment(), "PYTHONPATH": str(COLLECTIONS)},
    )  # fmt: skip
    assert running.stdin is not None
    running.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode())
    running.stdin.close()
    deadline = time.monotonic() + 60
    while begun(lab, "shutdown")[stops:] != ["redis-a", "redis-b"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.kill()
    assert running.wait() == -signal.SIGKILL
    lab.lab.fault("clear")
    listed = lab.run(tool("nhi"), "restarts")
    assert "was cut off: restarted redis-a; in the middle of redis-b" in listed.stdout
    recover = lab.run(tool("nhi"), "recover")
    assert "restart  cut off: restart of redis-a, redis-b" in recover.stdout
    assert "finish: it goes on where it was (restarted redis-a; in the middle of redis-b)" in recover.stdout
    done = restart(lab, "-e", "service=redis-a,redis-b")
    assert done.returncode == 0, done.stdout[-3000:]
    assert begun(lab, "shutdown")[stops:] == ["redis-a", "redis-b"], "one was stopped twice"
    assert set(begun(lab, "start")[starts:]) == {"redis-a", "redis-b"}
    assert "No restart is scheduled." in lab.run(tool("nhi"), "restarts").stdout
    assert {g["status"] for g in lab.state()["infrastructure"]["guests"]} == {"running"}


def test_outside_its_hours_it_is_scheduled_once_listed_and_cancelled(lab: Operator) -> None:
    write_graph(lab, closed())
    # A start that the test before had sent may still be on its way.
    before = begun(lab, "shutdown")
    first = restart(lab, "-e", "service=redis-a")
    assert first.returncode == 0, first.stdout
    assert "Scheduled as restart-" in first.stdout
    assert "install the timer with" in first.stdout + first.stderr
    again = restart(lab, "-e", "service=redis-a")
    assert "changed=0" in again.stdout
    listed = lab.run(tool("nhi"), "restarts", "--json")
    assert [j["services"] for j in json.loads(listed.stdout)["jobs"]] == [["redis-a"]]
    assert "Nothing was due." in restart(lab, "-e", "due=true").stdout
    agent = replace(lab, extra={**lab.extra, "NHI_ACTOR": "aider"})
    refused = restart(agent, "-e", "service=redis-a", "-e", "at=now", "-e", "confirm=redis-a")
    assert "restart_guarded of redis-a by aider needs an approval" in refused.stdout
    assert restart(lab, "-e", "cancel=redis-a").returncode == 0
    assert "No restart is scheduled." in lab.run(tool("nhi"), "restarts").stdout
    assert begun(lab, "shutdown") == before


def test_what_is_due_is_done_by_the_command_as_by_the_playbook(lab: Operator) -> None:
    write_graph(lab, closed())
    lab.extra = {"NHI_DEPENDENCY_GRAPH": str(graph_file(lab))}
    assert restart(lab, "-e", "service=redis-a").returncode == 0
    write_graph(lab, GRAPH)
    for path in (lab.state_dir / "restarts/jobs").glob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "not_before": "2026-01-01T00:00:00+00:00"}))
    before = len(begun(lab, "start"))
    done = lab.run(tool("nhi"), "restarts", "run")
    assert done.returncode == 0, done.stderr
    assert begun(lab, "start")[before:] == ["redis-a"]
    assert "redis-a was restarted and is well" in lab.run(tool("nhi"), "restarts").stdout
    assert lab.run(tool("nhi"), "restarts", "run").stdout == ""


def test_the_next_report_knows_how_long_it_takes(lab: Operator) -> None:
    report = lab.module(
        "nhi_dependency_info", services=["redis-a"], state_dir=str(lab.state_dir), dependency_graph=str(graph_file(lab))
    )
    estimate = report["restart"]["downtime"]["redis-a"]
    assert estimate["samples"] >= 3
    assert 0 < estimate["seconds"] <= estimate["longest_seconds"]
    assert report["restart"]["dependents"][0]["downtime_seconds"] == estimate["seconds"]
