"""`nhi recover` and `nhi doctor` on a lab in memory: what a kill left behind, and guests that are locked."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from typing import Any

import pytest

from tests.conftest import Operator, tool
from tests.killing import run_module

pytestmark = pytest.mark.e2e

SPEC: dict[str, Any] = {
    "state": "started",
    "template": "debian-12",
    "cores": 1,
    "memory": 128,
    "disk": 1,
    "wait": False,
}


def nhi(operator: Operator, *args: str) -> subprocess.CompletedProcess[str]:
    return operator.run(tool("nhi"), *args)


def vm(operator: Operator, name: str, **more: Any) -> dict[str, Any]:
    done = operator.module("nhi_vm", name=name, state_dir=str(operator.state_dir), **{**SPEC, **more})
    assert not done.get("failed"), done
    return done


def doctor(operator: Operator) -> tuple[int, dict[str, dict[str, str]]]:
    done = nhi(operator, "doctor", "--json")
    return done.returncode, {f["check"]: f for f in json.loads(done.stdout)["findings"]}


def test_a_killed_creation_is_shown_and_undone(shared_lab: Operator) -> None:
    options = {**SPEC, "name": "half-made", "state_dir": str(shared_lab.state_dir)}
    moments = run_module(shared_lab, "nhi_vm", {**options, "name": "whole"}).moments
    started = next(n for n, text in enumerate(moments, 1) if text.startswith("before") and "status" in text)
    assert run_module(shared_lab, "nhi_vm", options, kill_at=started).killed
    listed = nhi(shared_lab, "recover")
    assert listed.returncode == 0, listed.stderr
    assert "guest  cut off: half-made started" in listed.stdout
    assert "undo: LXC" in listed.stdout
    assert "half-made is destroyed again" in listed.stdout
    (work,) = json.loads(nhi(shared_lab, "recover", "--json").stdout)
    assert not work["under_way"]
    assert doctor(shared_lab)[1]["open work"]["advice"] == f"run: nhi recover {work['id']}"
    assert nhi(shared_lab, "freeze").returncode == 0
    refused = nhi(shared_lab, "recover", "half-made")
    assert (refused.returncode, "all changes are frozen" in refused.stderr) == (1, True)
    assert nhi(shared_lab, "unfreeze").returncode == 0
    done = nhi(shared_lab, "recover", "half-made")
    assert done.returncode == 0, done.stderr
    assert "was destroyed again" in done.stdout
    assert "Nothing is open." in nhi(shared_lab, "recover", "--all").stdout
    assert not [g for g in shared_lab.state()["infrastructure"]["guests"] if g["name"] == "half-made"]
    assert nhi(shared_lab, "recover", "half-made").returncode == 1


def test_a_refusal_leaves_nothing_open(shared_lab: Operator) -> None:
    rules = [{"operations": ["create", "start"], "decision": "allow"}]
    (shared_lab.state_dir / "policy.json").write_text(
        json.dumps({"schema_version": 1, "operators": ["luca"], "rules": rules})
    )
    gone = {"name": "whole", "state": "absent", "confirm": "whole", "state_dir": str(shared_lab.state_dir)}
    plan = shared_lab.module("nhi_vm", **gone, _check=True)["plan"]["plan_id"]
    for options in (gone, {**gone, "plan_id": plan}):
        assert "nhi approve" in shared_lab.module("nhi_vm", **options)["msg"]
    assert nhi(shared_lab, "reject", plan).returncode == 0
    assert "is rejected" in shared_lab.module("nhi_vm", **gone, plan_id=plan)["msg"]
    assert nhi(shared_lab, "recover").stdout == "Nothing is open.\n"
    (shared_lab.state_dir / "policy.json").unlink()


def test_a_stuck_lock_is_found_and_a_held_one_left_alone(shared_lab: Operator) -> None:
    guest = vm(shared_lab, "whole")["vm"]
    assert nhi(shared_lab, "history", "take").returncode == 0
    code, found = doctor(shared_lab)
    assert found["guest locks"]["text"] == "no guest is locked"
    assert {f["verdict"] for f in found.values() if f["check"] not in ("policy", "graph")} == {"ok"}, found
    shared_lab.lab.fault("set", "stuck-lock", "--vmid", str(guest["vmid"]), "--text", "snapshot")
    code, found = doctor(shared_lab)
    shared_lab.lab.fault("clear")
    assert (code, found["lock of whole"]["verdict"]) == (2, "fail")
    assert f"on {guest['node']}, as root: pct unlock {guest['vmid']}" in found["lock of whole"]["advice"]

    shared_lab.lab.fault("set", "task-slow", "--task", "vzdump", "--delay", "4")
    backup = {"name": "whole", "state": "present", "storage": "local", "state_dir": str(shared_lab.state_dir)}
    running = threading.Thread(target=lambda: shared_lab.module("nhi_vm_backup", **backup))
    running.start()
    deadline = time.monotonic() + 20
    while "lock of whole" not in (found := doctor(shared_lab)[1]):
        assert time.monotonic() < deadline
    running.join()
    shared_lab.lab.fault("clear")
    assert found["lock of whole"]["verdict"] == "ok"
    assert "is locked (backup) by a task that lives: task UPID:" in found["lock of whole"]["text"]


def test_an_installation_that_can_not_reach_its_node_says_so(shared_lab: Operator) -> None:
    away = Operator(shared_lab.lab, shared_lab.state_dir, {"PROXMOX_PORT": "9"})
    done = nhi(away, "doctor")
    assert done.returncode == 2
    assert "fail  api: " in done.stdout
    assert "ok    state: " in done.stdout
