# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options in, result out: what Ansible sees of nhi_dependency_info."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.modules import nhi_dependency_info
from ansible_collections.nhi.core.tests.unit.plugins.modules.module_runner import Run, runner


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("ansible_collections.nhi.core.tests.unit.plugins.modules.module_runner.API", {})
    graph = {"services": {"db": {}, "web": {"depends_on": ["db"]}}}
    (tmp_path / "dependency_graph.json").write_text(json.dumps(graph))
    return runner(nhi_dependency_info, capsys, state_dir=str(tmp_path))


def test_the_whole_graph_and_what_a_restart_means(run: Run, tmp_path: Path) -> None:
    result = run(services=["db"], picture="mermaid", check=True)
    assert not result["changed"]
    assert [s["name"] for s in result["services"]] == ["db", "web"]
    assert result["restart"]["stop_order"] == ["web", "db"]
    assert result["picture"].startswith("flowchart LR\n")
    assert "no state of the lab yet" in str(result["warnings"])
    assert list(tmp_path.iterdir()) == [tmp_path / "dependency_graph.json"], "something was written"
    assert run()["restart"] is None
    assert run(picture="svg")["picture"].startswith("<svg")


def test_failures_are_one_line(run: Run, tmp_path: Path) -> None:
    assert "has no service dbb: it has db, web" in run(services=["dbb"])["msg"]
    (tmp_path / "dependency_graph.json").write_text('{"services": {"a": {"depends_on": ["a"]}}}')
    assert "in a circle: a -> a" in run()["msg"]
    (tmp_path / "dependency_graph.json").unlink()
    assert "has no dependency_graph.json: write it" in run()["msg"]
