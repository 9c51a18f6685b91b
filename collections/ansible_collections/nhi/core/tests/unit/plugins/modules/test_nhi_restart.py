# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options in, result out: what Ansible sees of nhi_restart, with a stand-in for ssh and a node in memory."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils import restart_site
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.modules import nhi_restart
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.restart_lab import CATALOGUE, GRAPH, document
from ansible_collections.nhi.core.tests.unit.plugins.modules.module_runner import FakeClient, Run, runner

# Its last argument is the command. A unit's InvocationID is how often it was restarted.
SSH = """#!/bin/sh
for last; do :; done
echo "$*" >> DIRECTORY/ssh.log
case $last in
*InvocationID*) grep -c "systemctl restart" DIRECTORY/ssh.log ;;
*ActiveState*) cat DIRECTORY/active ;;
esac
exit $(cat DIRECTORY/code)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text(SSH.replace("DIRECTORY", str(tmp_path)))
    ssh.chmod(0o755)
    (tmp_path / "active").write_text("active\n")
    (tmp_path / "code").write_text("0\n")
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    lab = document()
    StateStore(tmp_path / "state").write(lab, expected_checksum=None)
    (tmp_path / "state/dependency_graph.json").write_text(json.dumps({**GRAPH, "time_zone": "UTC"}))
    return tmp_path


@pytest.fixture
def pve(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    client = FakeClient()
    for vmid, name in ((104, "minio"), (105, "redis-cache"), (106, "nginx-web")):
        client.add(vmid, name, running=True)
    monkeypatch.setattr(restart_site, "ProxmoxClient", lambda _endpoint: client)
    monkeypatch.setattr(restart_site, "run_scan", lambda *_args, **_options: None)
    return client


@pytest.fixture
def run(home: Path, pve: FakeClient, capsys: pytest.CaptureFixture[str]) -> Run:
    # Health checks would knock at addresses of documents for tests.
    entries = [
        {**e.raw, "endpoints": [{**e.raw["endpoints"][0], "health": {"type": "none"}}]} for e in CATALOGUE.values()
    ]
    return runner(
        nhi_restart, capsys, state_dir=str(home / "state"), catalogue=entries, guest_health_port=0,
        ssh_private_key="/keys/nhi", known_hosts="/state/known_hosts",
    )  # fmt: skip


def ssh_log(home: Path) -> list[str]:
    log = home / "ssh.log"
    return log.read_text().splitlines() if log.exists() else []


def test_a_unit_is_restarted_over_ssh_to_a_host_whose_key_is_known(home: Path, pve: FakeClient, run: Run) -> None:
    result = run(services=["redis-cache"])
    assert (result["changed"], result["action"], result["restarted"]) == (True, "restarted", ["redis-cache"])
    assert result["downtime_seconds"]["redis-cache"] >= 0
    address = next(g["address"] for g in document()["infrastructure"]["guests"] if g["name"] == "redis-cache")
    restarts = [line for line in ssh_log(home) if "systemctl restart" in line]
    assert len(restarts) == 1
    assert f"root@{address} sh -c " in restarts[0]
    assert restarts[0].endswith(" sh redis-server")
    for option in ("StrictHostKeyChecking=yes", "UserKnownHostsFile=/state/known_hosts", "IdentityFile=/keys/nhi"):
        assert f"-o {option}" in restarts[0]
    assert pve.writes() == [], "the guest was left alone"


def test_check_mode_shows_plan_and_refusals_and_does_nothing(home: Path, run: Run) -> None:
    result = run(services=["nginx-web,redis-cache", "postgres"], check=True)
    assert (result["changed"], result["action"]) == (True, "would_restart")
    assert [s["service"] for s in result["plan"]["steps"]] == ["postgres", "redis-cache", "nginx-web"]
    assert "Refused outside check mode: postgres must not be restarted without approval" in str(result["warnings"])
    assert ssh_log(home) == []
    assert not (home / "state/restarts").exists()


def test_a_refusal_and_a_failure_are_one_line(home: Path, run: Run) -> None:
    assert "confirm=postgres" in run(services=["postgres"])["msg"]
    (home / "code").write_text("1\n")
    result = run(services=["redis-cache"])
    assert "failed on" in result["msg"]
    assert "\n" not in result["msg"]
    assert (result["restarted"], result["failed_service"]) == ([], "redis-cache")


def test_a_unit_that_dies_at_once_is_not_called_restarted(home: Path, run: Run) -> None:
    (home / "active").write_text("failed\n")
    result = run(services=["nginx-web", "redis-cache"])
    assert "unit redis-server on redis-cache is failed after its restart: look at its log" in result["msg"]
    assert result["not_restarted"] == ["nginx-web"]


def test_ssh_that_does_not_get_in_says_what_to_correct(home: Path, run: Run) -> None:
    (home / "code").write_text("255\n")
    assert "correct ssh_private_key and known_hosts" in run(services=["redis-cache"])["msg"]


def test_without_a_unit_the_guest_is_restarted_as_nhi_vm_does(home: Path, pve: FakeClient, run: Run) -> None:
    graph: dict[str, Any] = json.loads(json.dumps(GRAPH))
    graph["services"]["minio"].pop("restart_safe_hours")
    (home / "state/dependency_graph.json").write_text(json.dumps(graph))
    result = run(services=["minio"])
    assert result.get("restarted") == ["minio"], result
    assert [w for w in pve.writes() if "104" in str(w)]
    assert not [w for w in pve.writes() if "105" in str(w) or "106" in str(w)]
    assert ssh_log(home) == []


def test_scheduled_listed_cancelled(home: Path, run: Run) -> None:
    graph: dict[str, Any] = json.loads(json.dumps({**GRAPH, "time_zone": "UTC"}))
    graph["services"]["redis-cache"]["restart_safe_hours"] = [(datetime.now(UTC).hour + 12) % 24]
    (home / "state/dependency_graph.json").write_text(json.dumps(graph))
    first = run(services=["redis-cache"])
    assert (first["changed"], first["action"]) == (True, "scheduled")
    again = run(services=["redis-cache"])
    assert (again["changed"], again["job"]["id"]) == (False, first["job"]["id"])
    assert [j["id"] for j in again["jobs"]] == [first["job"]["id"]]
    assert run(due=True)["changed"] is False
    assert run(cancel="redis-cache", check=True)["jobs"] != []
    gone = run(cancel="redis-cache")
    assert (gone["action"], gone["jobs"]) == ("cancelled", [])
    assert ssh_log(home) == []


@pytest.mark.parametrize("options", [{}, {"services": ["a"], "due": True}, {"cancel": "x", "due": True}])
def test_exactly_one_thing_is_asked_for(run: Run, options: dict[str, Any]) -> None:
    assert "Say what to restart with services, or use due or cancel" in run(**options)["msg"]


def test_a_dry_run_gives_a_plan_and_a_real_run_without_its_approval_is_refused(home: Path, run: Run) -> None:
    policy = home / "policy.json"
    rules = [{"operations": ["restart_guarded"], "decision": "approve"}, {"decision": "allow"}]
    policy.write_text(json.dumps({"schema_version": 1, "operators": ["luca"], "rules": rules}))
    wish = {"services": ["redis-cache"], "policy": str(policy)}
    free = run(**wish, check=True)
    assert (free["plan"]["decision"], free["plan"]["action"]) == ("allow", "restart")
    assert f"run the same with plan_id={free['plan']['plan_id']}" in free["how_to_apply"][0]
    assert run(**wish, plan_id=free["plan"]["plan_id"])["restarted"] == ["redis-cache"]
    graph: dict[str, Any] = json.loads(json.dumps({**GRAPH, "time_zone": "UTC"}))
    graph["services"]["redis-cache"]["can_restart_without_approval"] = False
    (home / "state/dependency_graph.json").write_text(json.dumps(graph))
    before = ssh_log(home)
    guarded = run(**wish, confirm=["redis-cache"], check=True)["plan"]
    assert guarded["needs_approval"]
    for plan in ({}, {"plan_id": guarded["plan_id"]}):
        assert "nhi approve" in run(**wish, confirm=["redis-cache"], **plan)["msg"]
    assert ssh_log(home) == before
