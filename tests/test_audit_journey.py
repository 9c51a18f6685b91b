"""The audit log beside a lab: no write reaches the API that the log was not told of, whatever is killed on the way."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.audit_log import AuditLog
from ansible_collections.nhi.core.plugins.module_utils.audit_reader import Query, entries_about, find, time_of
from ansible_collections.nhi.core.plugins.module_utils.audit_verify import verify

from . import killing
from .conftest import Operator
from .killing import run_module

NETWORK = {"range": "127.86.14.105-127.86.14.199", "prefix": 24, "gateway": "127.86.14.1"}
CREATE = {
    "name": "subject", "state": "started", "template": "debian-12", "cores": 1, "memory": 256, "disk": 2, "vmid": 150,
    "storage": "local-lvm", "network": NETWORK, "tags": ["svc-redis"],
}  # fmt: skip
DESTROY = {"name": "subject", "state": "absent", "confirm": "subject"}
# The lab writes a request down when it has answered.
CLOCK = timedelta(seconds=0.5)


def told(operator: Operator) -> list[dict[str, Any]]:
    report = verify(operator.state_dir)
    assert report.findings == []
    return list(find(operator.state_dir, Query()))


def untold(operator: Operator) -> list[str]:
    """Writes to the API that no attempt was allowed before."""
    spans: dict[str, tuple[datetime, datetime | None]] = {}
    for entry in told(operator):
        if entry["outcome"] == "allowed":
            spans[entry["attempt"]] = (time_of(entry), None)
        elif entry["attempt"] in spans:
            spans[entry["attempt"]] = (spans[entry["attempt"]][0], time_of(entry))
    return [
        f"{write['method']} {write['path']}"
        for write in operator.lab.writes()
        if not any(
            begin <= datetime.fromisoformat(write["time"]) and (end is None or at_most(write["time"], end))
            for begin, end in spans.values()
        )
    ]


def at_most(time: str, end: datetime) -> bool:
    return datetime.fromisoformat(time) <= end + CLOCK


def test_a_guest_s_life_can_be_told_from_its_entries(operator: Operator) -> None:
    operator.module("nhi_vm", **CREATE)
    operator.module("nhi_vm_snapshot", name="subject", snapshot="before")
    operator.module("nhi_vm", **{**DESTROY, "confirm": None})
    operator.module("nhi_vm", **DESTROY, _check=True)
    operator.module("nhi_vm", **DESTROY)
    story = entries_about(operator.state_dir, "subject")
    assert [(e["operation"], e["outcome"]) for e in story] == [
        ("nhi_vm/started", "allowed"), ("nhi_vm/started", "done"),
        ("nhi_vm_snapshot/present", "allowed"), ("nhi_vm_snapshot/present", "done"),
        ("nhi_vm/absent", "refused"),
        ("nhi_vm/absent", "allowed"), ("nhi_vm/absent", "done"),
    ]  # fmt: skip
    assert "needs confirm" in story[4]["reason"]
    assert any("Destroy LXC 150 subject" in action for action in story[6]["result"]["actions"])
    assert operator.lab.writes()
    assert untold(operator) == []
    secret = operator.lab.env["PROXMOX_TOKEN_SECRET"].encode()
    assert secret not in b"".join(p.read_bytes() for p in (operator.state_dir / "audit").iterdir())


@pytest.mark.slow
def test_a_change_that_is_killed_at_any_step_was_told_before_its_first_write(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before and after each step of the log itself."""
    steps = ((AuditLog, "_write", True), (AuditLog, "_write_head", True))
    monkeypatch.setattr(killing, "_MOMENTS", (*killing._MOMENTS, *steps))
    whole = run_module(operator, "nhi_vm", CREATE)
    assert not whole.result.get("failed"), whole.result
    run_module(operator, "nhi_vm", DESTROY)
    assert sum("AuditLog" in moment for moment in whole.moments) == 8
    for at in itertools.count(1):
        ended = run_module(operator, "nhi_vm", CREATE, kill_at=at)
        if not ended.killed:
            break
        assert untold(operator) == [], ended.moments[-1]
        cleaned = run_module(operator, "nhi_vm", DESTROY)
        assert not cleaned.result.get("failed"), (ended.moments[-1], cleaned.result)
        assert told(operator)[-1]["outcome"] == "done"
    assert not ended.result.get("failed"), ended.result
    assert at >= 20
    assert untold(operator) == []


def test_a_full_log_stops_a_change_and_leaves_nothing_half_applied(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    (operator.state_dir / "audit").write_text("in the way")
    refused = operator.module("nhi_vm", **CREATE)
    assert refused["failed"]
    assert "Nothing is changed that the audit log is not told of" in refused["msg"]
    assert operator.lab.writes() == []
    assert [p.name for p in operator.state_dir.iterdir()] == ["audit"]
    (operator.state_dir / "audit").unlink()
    assert operator.module("nhi_vm", **CREATE)["changed"]
