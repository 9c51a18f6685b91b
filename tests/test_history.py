"""History and time travel against a lab in memory: what an operator does when an agent has been at work."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Operator, tool
from .guest_modules import Guest, guest_numbers

numbers = guest_numbers(105)
# Guests come from the state, which is what is damaged.
OWN_INVENTORY = ("-i", "inventory/hosts.yml")
GATEWAY = "127.86.13.1"  # of the addresses that `Guest` gives


class Lab:
    """A lab that was scanned, and the `nhi` command on its state."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.state_dir = operator.state_dir
        self.scan()

    def scan(self) -> None:
        assert not self.operator.module("nhi_state_scan", full=True).get("failed")

    def guest(self) -> Guest:
        made = Guest(self.operator, next(numbers))
        made.create()
        return made

    def nhi(self, *arguments: str, ok: bool = True) -> str:
        done = self.operator.run(tool("nhi"), *arguments)
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done.stdout if ok else done.stderr

    def snapshots(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(self.nhi("history", "list", "--json"))
        return listed

    def corrupt(self) -> None:
        path = self.state_dir / "state.json"
        path.write_bytes(path.read_bytes()[:-200])


@pytest.fixture
def lab(shared_lab: Operator, tmp_path: Path) -> Iterator[Lab]:
    (tmp_path / "infrastructure").mkdir()
    yield Lab(Operator(shared_lab.lab, tmp_path / "infrastructure", shared_lab.extra))
    shared_lab.lab.fault("clear")


def test_each_change_keeps_the_state_before_it_and_a_check_run_or_an_idle_run_none(lab: Lab) -> None:
    guest = lab.guest()
    [first] = lab.snapshots()
    assert first["reason"] == f"before nhi_vm: {guest.name} started"

    guest.vm(memory=512, _check=True)
    guest.vm(memory=256)
    assert lab.snapshots() == [first]

    checksum = hashlib.sha256((lab.state_dir / "state.json").read_bytes()).hexdigest()
    guest.vm(memory=512)
    assert [s["checksum"] for s in lab.snapshots()[1:]] == [checksum]
    lab.operator.module("nhi_vm_snapshot", name=guest.name, snapshot="before")
    lab.operator.module("nhi_vm_backup", name=guest.name)
    guest.vm(state="absent", confirm=guest.name)
    reasons = [snapshot["reason"] for snapshot in lab.snapshots()[2:]]
    assert reasons == [
        f"before nhi_vm_snapshot: {guest.name} snapshot before present",
        f"before nhi_vm_backup: {guest.name} backed up",
        f"before nhi_vm: {guest.name} absent",
    ]
    assert all(snapshot["problem"] is None for snapshot in lab.snapshots())


def test_a_guest_that_an_agent_destroyed_is_found_in_the_history_and_comes_back_by_the_plan(lab: Lab) -> None:
    kept, changed = lab.guest(), lab.guest()
    time.sleep(1.1)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    time.sleep(1.1)
    changed.vm(memory=512, tags=["broken"])
    changed.vm(state="stopped")
    kept.vm(state="absent", confirm=kept.name)
    new = lab.guest()

    text = lab.nhi("diff", moment)
    [gone] = [line for line in text.splitlines() if line.startswith(f"guest {kept.vmid} {kept.name} existed at ")]
    assert re.search(r"[;:] destroyed \d\d:\d\d by root$", gone), gone
    assert f"guest {new.vmid} {new.name} did not exist at " in text
    assert f"guest {changed.vmid} {changed.name} changed: " in text
    assert "memory 256 -> 512 MiB" in text
    then = json.loads(lab.nhi("state", "show", "infrastructure.guests[].name", "--at", moment))
    assert kept.name in then
    assert new.name not in then

    plan = json.loads(lab.nhi("rollback", moment, "--json"))
    mine = [step for step in plan["steps"] if step["vmid"] in (kept.vmid, changed.vmid)]
    assert [(step["kind"], step["guest"]) for step in mine] == [("recreate", kept.name), ("correct", changed.name)]
    assert new.name in [left["guest"] for left in plan["left_alone"]]

    added = {"template": "debian-12", "storage": "local-lvm"}
    for step in mine:
        options = {**step["options"], **(added if step["kind"] == "recreate" else {})}
        result = lab.operator.module(step["module"].removeprefix("nhi.core."), **options)
        assert (result.get("failed"), result["changed"]) == (None, True), result
    [there] = [g for g in lab.operator.state()["infrastructure"]["guests"] if g["vmid"] == kept.vmid]
    assert (there["name"], there["status"], there["memory_mib"], there["tags"]) == (
        kept.name, "running", 256, ["svc-redis"],
    )  # fmt: skip
    again = json.loads(lab.nhi("rollback", moment, "--json"))
    assert not [step for step in again["steps"] if step["vmid"] in (kept.vmid, changed.vmid)]
    assert new.name in {guest["name"] for guest in lab.operator.state()["infrastructure"]["guests"]}


def test_a_step_that_was_planned_for_a_guest_is_refused_for_one_that_was_changed_since(lab: Lab) -> None:
    guest = lab.guest()
    time.sleep(1.1)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    time.sleep(1.1)
    guest.vm(memory=512)
    plan = json.loads(lab.nhi("rollback", moment, "--json"))
    [step] = [step for step in plan["steps"] if step["vmid"] == guest.vmid]
    guest.vm(tags=["meanwhile"])
    assert "not the one that was expected" in guest.refused(lambda: lab.operator.module("nhi_vm", **step["options"]))


def test_a_damaged_state_is_recovered_by_one_command(lab: Lab) -> None:
    guest = lab.guest()
    lab.nhi("history", "take")
    guest.vm(memory=512)
    revision = lab.operator.state()["meta"]["revision"]
    lab.corrupt()
    assert "does not match its checksum" in lab.nhi("status", ok=False)
    text = lab.nhi("state", "restore").splitlines()
    assert text[0].endswith("does not match its checksum.")
    assert "is restored from state_" in text[1]
    assert " calls" in text[2]
    [found] = [g for g in lab.operator.state()["infrastructure"]["guests"] if g["vmid"] == guest.vmid]
    assert (found["memory_mib"], found["freshness"]) == (512, "fresh")
    assert lab.operator.state()["meta"]["revision"] > revision
    assert len(list(lab.state_dir.glob("state.json.damaged-*"))) == 1
    assert "nothing to restore" in lab.nhi("state", "restore")


def test_an_api_that_is_down_leaves_a_stale_state_and_says_so(lab: Lab) -> None:
    lab.nhi("history", "take")
    lab.corrupt()
    lab.operator.extra["PROXMOX_PORT"] = "1"
    try:
        assert "so state.json is stale" in lab.nhi("state", "restore", ok=False)
    finally:
        del lab.operator.extra["PROXMOX_PORT"]
    nodes = lab.operator.state()["infrastructure"]["nodes"]
    assert {node["freshness"] for node in nodes} == {"stale"}


def test_a_damaged_state_is_recovered_by_one_playbook_past_a_damaged_snapshot(lab: Lab) -> None:
    lab.nhi("history", "take")
    lab.scan()
    lab.nhi("history", "take")
    newest = Path(lab.snapshots()[-1]["path"])
    newest.write_bytes(newest.read_bytes()[:100])
    lab.corrupt()
    told = lab.operator.playbook("recover_state.yml", *OWN_INVENTORY, "--check")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "would be restored from" in told.stdout
    done = lab.operator.playbook("recover_state.yml", *OWN_INVENTORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Passed over {newest.name.removesuffix('.json')}" in done.stdout
    assert f"is restored from {lab.snapshots()[0]['name']}" in done.stdout
    assert {n["freshness"] for n in lab.operator.state()["infrastructure"]["nodes"]} == {"fresh"}
    again = lab.operator.playbook("recover_state.yml", *OWN_INVENTORY)
    assert "changed=0" in again.stdout
    assert "nothing to restore" in again.stdout


def test_with_every_snapshot_damaged_the_lab_is_read_from_scratch(lab: Lab) -> None:
    lab.nhi("history", "take")
    Path(lab.snapshots()[0]["path"]).write_text("torn")
    lab.corrupt()
    done = lab.operator.playbook("recover_state.yml", *OWN_INVENTORY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the next scan begins from nothing" in done.stdout
    assert lab.operator.state()["infrastructure"]["nodes"]


def test_the_playbook_takes_a_snapshot_thins_out_and_repeats_itself_without_change(lab: Lab) -> None:
    history = lab.state_dir / "state_history"
    told = lab.operator.playbook("snapshot.yml", "--check", "-e", "critical=true")
    assert told.returncode == 0, told.stdout + told.stderr
    assert not history.exists()
    done = lab.operator.playbook("snapshot.yml", "-e", "critical=true", "-e", "reason='before the move'")
    assert done.returncode == 0, done.stdout + done.stderr
    [only] = lab.snapshots()
    assert (only["critical"], only["reason"]) == (True, "before the move")
    os.utime(history / "..")
    again = lab.operator.playbook("snapshot.yml", "-e", "critical=true")
    assert "changed=0" in again.stdout


def test_the_playbook_says_what_differs(lab: Lab) -> None:
    time.sleep(1.1)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    time.sleep(1.1)
    guest = lab.guest()
    done = lab.operator.playbook("compare_state.yml", "-e", f"since={moment}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"guest {guest.vmid} {guest.name} did not exist at " in done.stdout
    missing = lab.operator.playbook("compare_state.yml")
    assert "Say since when" in missing.stdout + missing.stderr


def test_the_playbook_takes_back_what_was_changed_and_leaves_alone_what_is_new(lab: Lab) -> None:
    kept, changed = lab.guest(), lab.guest()
    time.sleep(1.1)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    time.sleep(1.1)
    changed.vm(memory=512)
    kept.vm(state="absent", confirm=kept.name)
    new = lab.guest()
    wanted = ("-e", f"to={moment}", "-e", f"nhi_gateway={GATEWAY}", "-e", f"only={kept.name},{changed.name}")
    before = len(lab.operator.lab.writes())
    told = lab.operator.playbook("rollback.yml", *wanted, "--check")
    assert told.returncode == 0, told.stdout + told.stderr
    assert f"guest {new.vmid} {new.name} did not exist at " in told.stdout
    assert f"{kept.name} existed at " in told.stdout
    assert len(lab.operator.lab.writes()) == before
    done = lab.operator.playbook("rollback.yml", *wanted)
    assert done.returncode == 0, done.stdout + done.stderr
    guests = {guest["name"]: guest for guest in lab.operator.state()["infrastructure"]["guests"]}
    assert guests[changed.name]["memory_mib"] == 256
    assert guests[kept.name]["vmid"] == kept.vmid
    assert guests[new.name]["status"] == "running"
    again = lab.operator.playbook("rollback.yml", *wanted[:4], "-e", f"only={new.name}")
    assert f"Nothing of {new.name} has to be taken back" in again.stdout + again.stderr
