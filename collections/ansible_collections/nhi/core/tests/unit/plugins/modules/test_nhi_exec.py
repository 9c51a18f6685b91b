# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options in, result out: what Ansible sees of nhi_exec and nhi_logs_info, with a stand-in for ssh."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.catalogue_files import read_catalogue
from ansible_collections.nhi.core.plugins.modules import nhi_exec, nhi_logs_info
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.hands_lab import HandsLab
from ansible_collections.nhi.core.tests.unit.plugins.modules.module_runner import Run, runner


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HandsLab:
    return HandsLab(tmp_path, monkeypatch)


@pytest.fixture
def run(lab: HandsLab, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(nhi_exec, capsys, api=False, state_dir=str(lab.state_dir), name="redis")


def test_a_command_that_reads_is_no_change_and_fails_as_it_ends(run: Run) -> None:
    result = run(command=["show", "a b", "c"])
    assert result["failed"], "no star stands for a space"
    result = run(command=["show", "a"])
    assert (result["changed"], result["rc"], result["stdout"], result["guest"]) == (False, 0, "a\n", "redis-cache")
    result = run(command=["seven"])
    assert (result["failed"], result["rc"], result["stdout"], result["stderr"]) == (True, 7, "out\n", "err\n")
    assert result["msg"] == "'seven' on redis-cache ended with 7"


def test_other_commands_are_a_change(lab: HandsLab, run: Run) -> None:
    lab.act_as("luca")
    assert run(command=["echo", "x"])["changed"] is True


def test_check_mode_says_whether_it_is_allowed_and_runs_nothing(lab: HandsLab, run: Run) -> None:
    told = run(command=["uptime"], check=True)
    assert (told["changed"], told["allowed"], told["command"], told["plan"]) == (False, True, ["uptime"], None)
    told = run(command=["rm"], check=True)
    assert (told["allowed"], told["decision"]) == (False, "deny")
    assert "Refused outside check mode: running rm on redis-cache is not allowed" in str(told["warnings"])
    told = run(command=["reload", "x"], check=True)
    assert (told["changed"], told["allowed"], told["plan"]["needs_approval"]) == (True, False, True)
    waits = run(command=["reload", "x"], plan_id=told["plan"]["plan_id"])
    assert f"nhi approve {told['plan']['plan_id']}" in waits["msg"]
    assert lab.ssh.calls() == ""


def test_output_is_bounded_and_a_failure_shows_what_came(lab: HandsLab, run: Run) -> None:
    lab.ssh.program("uptime", "head -c 5000 /dev/zero | tr '\\0' x; sleep 30")
    result = run(command=["uptime"], timeout=1, output_limit=100)
    assert "did not end within 1 s" in result["msg"]
    assert result["stdout_bytes"] == 5000
    assert len(result["stdout"]) < 200
    assert "(4900 bytes left out)" in result["stdout"]


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": 1e9}, {"output_limit": 0}])
def test_numbers_that_make_no_sense_are_refused(lab: HandsLab, run: Run, options: dict[str, Any]) -> None:
    assert "timeout must be above 0" in run(command=["uptime"], **options)["msg"]
    assert lab.ssh.calls() == ""


def test_logs_are_lines_within_bounds(lab: HandsLab, capsys: pytest.CaptureFixture[str]) -> None:
    entry = {key: value for key, value in read_catalogue()["redis"].raw.items() if key != "logs"}
    read = runner(
        nhi_logs_info, capsys, api=False, state_dir=str(lab.state_dir), name="redis", catalogue=[entry], output_limit=9
    )
    lab.ssh.program("journalctl", "printf 'one\\ntwo\\nthree\\n'")
    result = read()
    assert (result["changed"], result["lines"], result["limited"]) == (False, ["two", "three"][-1:], True)
    assert result["source"] == "the journal of unit redis-server"
    assert "is no moment" in read(since="yonder")["msg"]
    assert lab.audit()[-1]["outcome"] == "done"
