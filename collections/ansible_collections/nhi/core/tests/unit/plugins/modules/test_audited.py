# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Modules that change something tell the audit log before they do and at their end, and do nothing without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.nhi.core.plugins.module_utils.audit_log import AuditLog
from ansible_collections.nhi.core.plugins.module_utils.audit_reader import Query, find
from ansible_collections.nhi.core.plugins.module_utils.audit_verify import verify
from ansible_collections.nhi.core.plugins.module_utils.errors import AuditError
from ansible_collections.nhi.core.plugins.modules import nhi_service, nhi_vm, nhi_vm_backup, nhi_vm_snapshot
from ansible_collections.nhi.core.tests.unit.plugins.modules.module_runner import API, FakeClient, Run, runner

COLLECTION = Path(__file__).resolve().parents[4]
ENDPOINT = {"name": "main", "protocol": "http", "port": 80, "health": {"type": "none"}}
CATALOGUE = [{**yaml.safe_load((COLLECTION / "catalogue/nginx.yml").read_text()), "endpoints": [ENDPOINT]}]


@pytest.fixture
def pve(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    client = FakeClient()
    client.add(105, "redis", running=True, memory=256)
    for module in (nhi_vm, nhi_vm_snapshot, nhi_vm_backup):
        monkeypatch.setattr(module, "ProxmoxClient", lambda endpoint: client)
    return client


@pytest.fixture
def run(pve: FakeClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(nhi_vm, capsys, state_dir=str(tmp_path))


def told(state_dir: Path) -> list[dict[str, Any]]:
    assert verify(state_dir).whole
    return list(find(state_dir, Query()))


def outcomes(state_dir: Path) -> list[str]:
    return [e["outcome"] for e in told(state_dir)]


def test_a_change_is_told_before_its_first_write_and_at_its_end(pve: FakeClient, run: Run, tmp_path: Path) -> None:
    before_first_write: list[list[str]] = []
    pve.hooks["PUT /nodes/pve/lxc/105/config"] = lambda: before_first_write.append(outcomes(tmp_path))
    assert run(name="redis", memory=512)["changed"]
    assert before_first_write == [["allowed"]]
    allowed, done = told(tmp_path)
    assert done["outcome"] == "done"
    assert allowed["attempt"] == done["attempt"]
    assert (done["operation"], done["subject"], done["check_mode"]) == ("nhi_vm/present", "redis", False)
    assert done["params"] == {
        **{k: API[k] for k in ("api_host", "api_user", "api_token_id")},
        "name": "redis",
        "memory": 512,
    }
    assert done["result"]["actions"] == ["Set on LXC 105 redis on pve: memory 256 -> 512"]
    assert (done["result"]["changed"], done["result"]["vmid"]) == (True, 105)
    assert done["duration_seconds"] >= 0
    assert done["actor"]
    assert done["user"]
    assert done["host"]
    assert done["pid"] > 0


def test_a_run_that_finds_nothing_to_do_is_told_once(run: Run, tmp_path: Path) -> None:
    assert not run(name="redis", memory=256)["changed"]
    (entry,) = told(tmp_path)
    assert (entry["outcome"], entry["result"]["changed"]) == ("done", False)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": "redis", "state": "absent"}, "needs confirm: redis"),
        ({"name": "../../etc/passwd", "state": "started"}, "etc/passwd"),
        ({"name": "nobody", "state": "restarted"}, "nobody does not exist"),
    ],
)
def test_a_refusal_is_told_with_its_reason(
    pve: FakeClient, run: Run, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    message = run(**options)["msg"]
    (entry,) = told(tmp_path)
    assert entry["outcome"] == "refused"
    assert entry["reason"] == message
    assert reason in message
    assert entry["subject"] == options["name"]
    assert pve.writes() == []


def test_a_failure_half_way_is_told_after_what_was_allowed(pve: FakeClient, run: Run, tmp_path: Path) -> None:
    pve.failing_tasks["start"] = "bridge vmbr9 does not exist"
    pve.add(106, "web")
    message = run(name="web", state="started")["msg"]
    assert outcomes(tmp_path) == ["allowed", "failed"]
    assert told(tmp_path)[1]["reason"] == message
    assert "vmbr9" in message


def test_a_dry_run_leaves_no_trace(run: Run, tmp_path: Path) -> None:
    assert run(check=True, name="redis", memory=512)["changed"]
    assert run(check=True, name="redis", state="absent")["changed"]
    assert list(tmp_path.iterdir()) == []


def test_no_secret_comes_into_the_log(pve: FakeClient, run: Run, tmp_path: Path) -> None:
    pve.add(106, "vm", kind="qemu")
    run(name="vm", cipassword="hunter2-cloud", description=f"uses {API['api_token_secret']}")
    run(name="hunter2-cloud", cipassword="hunter2-cloud", state="restarted")
    log = b"".join(p.read_bytes() for p in (tmp_path / "audit").iterdir())
    assert log.count(b'"outcome"') >= 3
    for secret in (b"hunter2-cloud", API["api_token_secret"].encode()):
        assert secret not in log


def test_nothing_is_asked_or_changed_where_the_log_can_not_be_written(
    pve: FakeClient, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "audit").write_text("in the way")
    message = run(name="redis", memory=512)["msg"]
    assert message.startswith("Nothing is changed that the audit log is not told of")
    assert "make room there" in message
    assert pve.calls == []
    assert run(check=True, name="redis", memory=512)["changed"]


def test_nothing_is_changed_where_the_log_fails_at_the_last_moment(
    pve: FakeClient, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: AuditLog, fields: Any) -> None:
        raise AuditError("the audit log is full")

    monkeypatch.setattr(AuditLog, "append", full)
    for options in ({"memory": 512}, {"state": "stopped"}, {"state": "absent", "confirm": "redis"}):
        assert "the audit log is full" in run(name="redis", **options)["msg"]
    assert "the audit log is full" in run(name="new", state="started", template="debian-12")["msg"]
    assert pve.writes() == []
    assert (105 in pve.guests, len(pve.guests)) == (True, 1)


def test_a_change_whose_end_can_not_be_told_warns(
    pve: FakeClient, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = AuditLog.append

    def first_only(self: AuditLog, fields: Any) -> Any:
        if fields["outcome"] == "done":
            raise AuditError("the audit log is full")
        return real(self, fields)

    monkeypatch.setattr(AuditLog, "append", first_only)
    result = run(name="redis", memory=512)
    assert result["changed"]
    assert "was not told that this is done: the audit log is full" in str(result["warnings"])
    assert outcomes(tmp_path) == ["allowed"]


def test_the_entries_of_a_playbook_run_bear_its_mark(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NHI_AUDIT_RUN", "r-1")
    monkeypatch.setenv("NHI_ACTOR", "aider")
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.7 50000 192.0.2.1 22")
    run(name="redis", memory=512)
    assert {(e["run"], e["actor"], e["source_ip"]) for e in told(tmp_path)} == {("r-1", "aider", "192.0.2.7")}


def test_snapshots_are_told(pve: FakeClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runner(nhi_vm_snapshot, capsys, state_dir=str(tmp_path), name="redis")
    run(snapshot="before")
    run(snapshot="before", state="rollback")
    assert [(e["operation"], e["outcome"]) for e in told(tmp_path)] == [
        ("nhi_vm_snapshot/present", "allowed"),
        ("nhi_vm_snapshot/present", "done"),
        ("nhi_vm_snapshot/rollback", "refused"),
    ]


def test_backups_are_told(pve: FakeClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = runner(nhi_vm_backup, capsys, state_dir=str(tmp_path), name="redis")
    assert run(storage="local")["changed"]
    assert run(state="absent", backup="nothing-of-that-name")
    assert [(e["operation"], e["outcome"]) for e in told(tmp_path)][:2] == [
        ("nhi_vm_backup/present", "allowed"),
        ("nhi_vm_backup/present", "done"),
    ]


def test_a_registration_is_told_and_does_not_happen_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_args: Any) -> Callable[[], None]:
        return lambda: None

    monkeypatch.setattr(nhi_service, "scanner", nothing)
    run = runner(nhi_service, capsys, state_dir=str(tmp_path), name="shop", service="nginx", catalogue=CATALOGUE)
    done = run(address="192.0.2.5")
    assert done.get("registered"), done
    assert outcomes(tmp_path) == ["allowed", "done"]
    assert "catalogue" not in told(tmp_path)[0]["params"]
    run(service="unknown", address="192.0.2.5")
    assert outcomes(tmp_path)[2:] == ["failed"]

    def full(self: AuditLog, fields: Any) -> None:
        raise AuditError("the audit log is full")

    monkeypatch.setattr(AuditLog, "append", full)
    assert "the audit log is full" in run(state="absent")["msg"]
    assert (tmp_path / "dependency_graph.d/shop.json").exists()
