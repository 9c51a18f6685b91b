# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options in, result out: what Ansible sees of nhi_vm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.modules import nhi_vm
from ansible_collections.nhi.core.tests.unit.plugins.modules.module_runner import FakeClient, Run, runner


@pytest.fixture
def pve(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    client = FakeClient()
    monkeypatch.setattr(nhi_vm, "ProxmoxClient", lambda endpoint: client)
    return client


@pytest.fixture
def run(pve: FakeClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(nhi_vm, capsys, state_dir=str(tmp_path))


def test_the_result_tells_everything_that_is_documented(pve: FakeClient, run: Run) -> None:
    pve.add(105, "redis", memory=256)
    result = run(name="redis", memory=512, check=True)
    assert result["changed"]
    assert result["diff"] == {"before": {"memory": 256}, "after": {"memory": 512}}
    assert result["vm"]["memory"] == 512
    assert result["actions"] == [{"kind": "configure", "text": "Set on LXC 105 redis on pve: memory 256 -> 512"}]
    assert {c["check"] for c in result["preflight"]} == {"not_locked", "privileges"}
    assert result["summary"] == [result["actions"][0]["text"]]
    assert pve.writes() == []


def test_a_failure_is_one_line(run: Run) -> None:
    result = run(name="redis", state="started")
    assert result["msg"].startswith("a new container needs a template; templates on pve: local:vztmpl/debian-12")
    assert "\n" not in result["msg"]


def test_absent_says_when_there_is_no_such_guest(run: Run) -> None:
    result = run(name="redsi", state="absent", confirm="redsi")
    assert not result["changed"]
    assert result["summary"] == ["No guest that this token may see is called redsi: nothing to do."]


def test_the_graph_beside_the_state_is_read_unasked(pve: FakeClient, run: Run, tmp_path: Path) -> None:
    pve.add(102, "db")
    assert "No dependency graph was read" in str(run(name="db", state="absent", check=True)["warnings"])
    graph = {"services": {"db": {}, "web": {"depends_on": ["db"]}}}
    (tmp_path / "dependency_graph.json").write_text(json.dumps(graph))
    result = run(name="db", state="absent", check=True)
    assert result["impact"]["stop_order"] == ["web"]
    assert result["vm"] is None
    assert "web would stop working" in str(result["warnings"])
    assert (
        "dependency_graph.json does not exist"
        in run(name="db", dependency_graph=str(tmp_path / "x" / "dependency_graph.json"))["msg"]
    )


@pytest.mark.parametrize(
    "options", [{"state": "running"}, {"type": "docker"}, {"network": {"adress": "x"}}, {"cores": "x"}]
)
def test_an_unknown_option_or_value_is_refused_by_the_argument_spec(
    run: Run, pve: FakeClient, options: dict[str, Any]
) -> None:
    assert run(name="redis", **options)["failed"]
    assert pve.calls == []
