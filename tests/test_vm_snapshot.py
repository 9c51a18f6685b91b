"""nhi_vm_snapshot against a lab in memory, which all tests share; each has a guest of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Operator
from .guest_modules import Guest, Result, failure, guest_numbers

numbers = guest_numbers(105)


class Kept(Guest):
    """A guest with snapshots."""

    def snapshot(self, **options: Any) -> Result:
        return self.operator.module("nhi_vm_snapshot", **{"name": self.name, "snapshot": "before", **options})

    def back(self, **options: Any) -> Result:
        return self.snapshot(state="rollback", **{"confirm": self.name, **options})


@pytest.fixture
def guest(shared_lab: Operator) -> Iterator[Kept]:
    made = Kept(shared_lab, next(numbers))
    made.create()
    yield made
    shared_lab.lab.fault("clear")


def test_there_and_back(guest: Kept) -> None:
    foretold, writes = guest.writes(lambda: guest.snapshot(description="Known good.", _check=True))
    assert (foretold["changed"], writes) == (True, 0)
    assert [s["name"] for s in foretold["snapshots"]] == ["before"]
    taken = guest.snapshot(description="Known good.")
    assert taken["actions"] == foretold["actions"]
    [only] = taken["snapshots"]
    assert (only["name"], only["description"], only["vmstate"]) == ("before", "Known good.", False)
    assert only["taken_at"]
    again, writes = guest.writes(lambda: guest.snapshot(description="Known good."))
    assert (again["changed"], writes) == (False, 0)

    guest.vm(memory=512, tags=["svc-redis", "broken"])
    plan, writes = guest.writes(lambda: guest.back(confirm=None, _check=True))
    assert (plan["changed"], writes) == (True, 0)
    assert (plan["diff"]["before"]["memory"], plan["diff"]["after"]["memory"]) == (512, 256)
    assert plan["diff"]["before"].keys() == {"memory", "tags"}
    assert [c["check"] for c in plan["preflight"] if not c["passed"]] == ["confirmed"]
    assert f"needs confirm: {guest.name}" in guest.refused(lambda: guest.back(confirm=None))

    back = guest.back()
    assert (back["vm"]["memory"], back["vm"]["tags"], back["vm"]["status"]) == (256, ["svc-redis"], "running")
    assert guest.snapshot(state="absent")["snapshots"] == []
    gone, writes = guest.writes(lambda: guest.snapshot(state="absent"))
    assert (gone["changed"], writes) == (False, 0)


def test_a_stopped_guest_stays_stopped(guest: Kept) -> None:
    guest.vm(state="stopped")
    guest.snapshot()
    assert guest.back()["vm"]["status"] == "stopped"


def test_only_the_description_is_corrected(guest: Kept) -> None:
    guest.snapshot(description="Old.")
    done = guest.snapshot(description="New.")
    assert done["diff"] == {"before": {"description": "Old."}, "after": {"description": "New."}}
    assert done["snapshots"][0]["description"] == "New."
    assert guest.snapshot()["changed"] is False


def test_a_protected_guest_is_not_taken_back(guest: Kept) -> None:
    guest.snapshot()
    guest.vm(protection=True)
    assert "is protected" in guest.refused(guest.back)


def test_the_brain_is_taken_back_only_when_it_is_named_as_such(guest: Kept) -> None:
    guest.vm(tags=["brain"])
    guest.snapshot()
    assert "is the Brain" in guest.refused(guest.back)
    assert guest.back(allow_brain=True)["changed"]


def test_what_depends_on_the_guest_is_asked_for(guest: Kept) -> None:
    # "unplaced" runs on no guest that anybody knows, so it counts as running.
    graph = guest.operator.state_dir / "graph.json"
    graph.write_text(json.dumps({"services": {guest.name: {}, "unplaced": {"depends_on": [guest.name]}}}))
    guest.snapshot()
    refusal = guest.refused(lambda: guest.back(dependency_graph=str(graph)))
    assert f"unplaced would stop working without LXC {guest.vmid} {guest.name}" in refusal
    done = guest.back(dependency_graph=str(graph), allow_impact=True)
    assert [d["name"] for d in done["impact"]["dependents"]] == ["unplaced"]


def test_a_lock_left_behind_is_told(guest: Kept) -> None:
    guest.operator.lab.fault("set", "stuck-lock", "--vmid", str(guest.vmid), "--text", "backup")
    refusal = guest.refused(guest.snapshot)
    assert "is locked (backup)" in refusal
    assert f"pct unlock {guest.vmid}" in refusal


def test_a_storage_without_snapshots_is_told_before(shared_lab: Operator) -> None:
    shelf = Kept(shared_lab, next(numbers))
    shelf.create(storage="local-dir")
    assert "can not be snapshot where it is" in shelf.refused(shelf.snapshot)


def test_a_failing_task_tells_its_last_lines(guest: Kept) -> None:
    guest.operator.lab.fault("set", "task-fail", "--task", "vzsnapshot", "--text", "lvcreate: no free extents")
    assert "lvcreate: no free extents" in failure(guest.snapshot())


def test_a_reader_may_not(guest: Kept) -> None:
    env = guest.operator.lab.env
    reader = {
        "api_token_id": env["PROXMOX_READER_TOKEN_ID"],
        "api_token_secret": env["PROXMOX_READER_TOKEN_SECRET"],
    }
    assert f"lacks VM.Snapshot on /vms/{guest.vmid}" in guest.refused(lambda: guest.snapshot(**reader))
    guest.snapshot()
    assert "VM.Snapshot.Rollback or VM.Snapshot on" in guest.refused(lambda: guest.back(**reader))


def test_what_can_not_be_meant_is_refused(guest: Kept) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"name": "nosuch"}, "nosuch does not exist"),
        ({"vmid": 999}, "on pve, not VMID 999"),
        ({"vmstate": True}, "is a container"),
        ({"state": "rollback", "confirm": guest.name}, "its snapshots are none"),
    ]
    for options, words in cases:
        assert words in guest.refused(lambda o=options: guest.snapshot(**o))  # type: ignore[misc]
        shown = guest.snapshot(**options, _check=True)
        failed = [c["message"] for c in shown["preflight"] if not c["passed"]]
        assert len(failed) == 1
        assert words in failed[0]
    for check in (True, False):
        words = guest.refused(lambda c=check: guest.snapshot(snapshot="current", _check=c))  # type: ignore[misc]
        assert "can not name a snapshot" in words
