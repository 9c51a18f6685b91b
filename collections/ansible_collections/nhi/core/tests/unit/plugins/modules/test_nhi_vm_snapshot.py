# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options in, result out: what Ansible sees of nhi_vm_snapshot."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.modules import nhi_vm_snapshot
from ansible_collections.nhi.core.tests.unit.plugins.modules.module_runner import FakeClient, Run, runner


@pytest.fixture
def pve(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    client = FakeClient()
    client.add(105, "redis", running=True, memory=256)
    monkeypatch.setattr(nhi_vm_snapshot, "ProxmoxClient", lambda endpoint: client)
    return client


@pytest.fixture
def run(pve: FakeClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(nhi_vm_snapshot, capsys, state_dir=str(tmp_path), name="redis")


def test_the_result_tells_everything_that_is_documented(run: Run) -> None:
    result = run(snapname="before", description="Good.")
    assert result["changed"]
    assert result["diff"] == {"before": {"snapshots": []}, "after": {"snapshots": ["before"]}}
    assert result["vm"]["memory"] == 256
    assert [(s["name"], s["description"]) for s in result["snapshots"]] == [("before", "Good.")]
    assert result["actions"] == [{"kind": "snapshot", "text": "Take snapshot before of LXC 105 redis on pve"}]
    assert [c["check"] for c in result["preflight"]] == [
        "exists", "identity", "lock", "template", "storage", "privileges",
    ]  # fmt: skip
    assert result["impact"]["dependents"] == []
    assert result["summary"] == ["Take snapshot before of LXC 105 redis on pve"]


def test_what_guards_the_guest_comes_from_the_options(pve: FakeClient, run: Run, tmp_path: Path) -> None:
    run(snapshot="before")
    (tmp_path / "dependency_graph.json").write_text('{"services": {"redis": {}, "web": {"depends_on": ["redis"]}}}')
    message = run(snapshot="before", state="rollback", brain_vmid=105)["msg"]
    for words in ("is the Brain", "web would stop working", "needs confirm: redis"):
        assert words in message
    guards = {"brain_vmid": 105, "allow_brain": True, "allow_impact": True, "confirm": "redis"}
    assert run(snapshot="before", state="rollback", **guards)["changed"]


def test_a_failure_is_one_line(run: Run) -> None:
    result = run(snapshot="current")
    assert result["failed"]
    assert "\n" not in result["msg"]
