# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options in, result out: what Ansible sees of nhi_vm_backup."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.modules import nhi_vm_backup
from ansible_collections.nhi.core.tests.unit.plugins.modules.module_runner import FakeClient, Run, runner


@pytest.fixture
def pve(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    client = FakeClient()
    client.add(105, "redis", running=True, memory=256)
    monkeypatch.setattr(nhi_vm_backup, "ProxmoxClient", lambda endpoint: client)
    return client


@pytest.fixture
def run(pve: FakeClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(nhi_vm_backup, capsys, state_dir=str(tmp_path), name="redis")


def test_the_result_tells_everything_that_is_documented(run: Run) -> None:
    result = run(notes="Nightly.")
    assert result["changed"]
    assert (result["backup"]["vmid"], result["backup"]["notes"]) == (105, "Nightly.")
    assert result["backups"] == [result["backup"]]
    assert result["diff"]["after"] == {"backups": [result["backup"]["volid"]]}
    assert result["actions"] == [
        {"kind": "backup", "text": "Back up LXC 105 redis on pve to local, while it runs"},
    ]
    assert [c["check"] for c in result["preflight"]] == ["exists", "identity", "storage", "lock", "privileges"]
    assert (result["vm"], result["impact"]["dependents"]) == (None, [])


def test_every_state_is_reached(pve: FakeClient, run: Run) -> None:
    volid = run()["backup"]["volid"]
    copy = run(name="drill", state="restored", backup=volid)
    assert (copy["vm"]["name"], copy["vm"]["status"]) == ("drill", "stopped")
    assert run(state="restored", backup=volid, confirm="redis")["vm"]["vmid"] == 105
    assert run(state="absent", backup=volid)["backups"] == []
    assert pve.backups == {}


@pytest.mark.parametrize("state", ["absent", "restored"])
def test_what_a_state_needs_must_be_said(run: Run, state: str) -> None:
    assert "backup" in run(state=state)["msg"]


def test_a_failure_is_one_line(run: Run) -> None:
    result = run(max_age=0)
    assert result["failed"]
    assert "\n" not in result["msg"]
