"""nhi_vm's option replace against a lab in memory: both guests judged together, the old one destroyed last."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .api_client import client
from .conftest import Operator
from .guest_modules import Guest, Result, failure, guest_numbers
from .killing import run_module

NUMBERS = guest_numbers(105)
RANGE = {"range": "127.86.13.100-127.86.13.240", "prefix": 24, "gateway": "127.86.13.1"}


@pytest.fixture
def guest(shared_lab: Operator) -> Iterator[Guest]:
    """A running container with 2 GiB."""
    made = Guest(shared_lab, next(NUMBERS))
    made.create(onboot=True)
    yield made
    shared_lab.lab.fault("clear")


def smaller(guest: Guest, **options: Any) -> Result:
    """Ask for what only a new guest can be."""
    return guest.operator.module("nhi_vm", **{**wish(guest), **options})


def wish(guest: Guest) -> dict[str, Any]:
    return {
        "name": guest.name, "state": "started", "template": "debian-12", "disk": 1, "storage": "local-lvm",
        "vmid_range": "300-399", "replace": guest.name,
    }  # fmt: skip


def ledger(operator: Operator) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = json.loads((operator.state_dir / "reservations.json").read_text())["reservations"]
    return lines


def known(operator: Operator, name: str) -> list[int]:
    return [g["vmid"] for g in operator.state()["infrastructure"]["guests"] if name in g["name"]]


def test_a_check_run_shows_all_steps_in_order_and_writes_nothing(guest: Guest) -> None:
    before = (guest.operator.state_dir / "reservations.json").read_bytes()
    plan, writes = guest.writes(lambda: smaller(guest, _check=True))
    assert (plan.get("failed"), plan["changed"], writes) == (None, True, 0)
    assert (guest.operator.state_dir / "reservations.json").read_bytes() == before
    assert [a["kind"] for a in plan["actions"]] == ["stop", "configure", "create", "start", "destroy"]
    aside = f"{guest.name}-replaced-{guest.vmid}"
    texts = [a["text"] for a in plan["actions"]]
    assert texts[1] == f"Rename LXC {guest.vmid} {guest.name} on pve to {aside}, and let it not start with its node"
    assert texts[-1] == f"Destroy LXC {guest.vmid} {aside} on pve with its disks"
    assert (plan["diff"]["before"]["vmid"], plan["diff"]["after"]["vmid"]) == (guest.vmid, plan["vm"]["vmid"])
    assert plan["vm"]["address"] == f"127.86.13.{guest.vmid}", "the address is handed on, though it answers still"
    assert plan["replaced"] == {
        "vmid": guest.vmid, "name": guest.name, "type": "lxc", "node": "pve", "destroyed": False,
    }  # fmt: skip
    assert [c["message"] for c in plan["preflight"] if not c["passed"]] == []
    why = next(c["message"] for c in plan["preflight"] if c["check"] == "replace")
    assert why.endswith(f"the disk rootfs of {guest.name} has 2 GiB and can not shrink to 1 GiB")


@pytest.mark.parametrize("network", [None, "same", "range"])
def test_a_container_is_replaced_once_and_keeps_its_address(guest: Guest, network: str | None) -> None:
    wishes = {"same": {"ip": f"127.86.13.{guest.vmid}/24"}, "range": RANGE}
    options = {"network": wishes[network]} if network else {}
    start = len(guest.operator.lab.writes())
    done = smaller(guest, **options)
    assert not done.get("failed"), done
    vm = done["vm"]
    assert (done["changed"], vm["status"], vm["address"]) == (True, "running", f"127.86.13.{guest.vmid}")
    assert vm["vmid"] != guest.vmid
    assert done["replaced"]["destroyed"] is True
    assert done["identity"]["operation"] == done["operation"]
    calls = [
        (w["method"], w["path"].removeprefix("/api2/json/nodes/pve/lxc")) for w in guest.operator.lab.writes()[start:]
    ]
    old, new = f"/{guest.vmid}", f"/{vm['vmid']}"
    assert calls == [
        ("POST", f"{old}/status/shutdown"), ("PUT", f"{old}/config"), ("POST", ""), ("POST", f"{new}/status/start"),
        ("DELETE", old),
    ]  # fmt: skip
    assert known(guest.operator, guest.name) == [vm["vmid"]], "state.json shows the new one, and no trace of the old"
    lines = [r for r in ledger(guest.operator) if guest.name in r["name"] and r["address"]]
    held = {(r["vmid"], r["status"], r["address"]) for r in lines}
    assert held == ({(vm["vmid"], "used", vm["address"])}), "the address went from one to the other"
    again, writes = guest.writes(lambda: smaller(guest, **options))
    assert (again.get("failed"), again["changed"], again["replaced"], writes) == (None, False, None, 0)


def test_a_guest_of_the_other_kind_takes_its_place_and_the_other_addresses_rest(guest: Guest) -> None:
    machine = guest.vm(
        state="started", type="qemu", disk=3, network={"ip": "127.86.13.99/24"}, replace=guest.name, wait=False,
        vmid_range="300-399", storage="local-lvm",
    )  # fmt: skip
    assert not machine.get("failed"), machine
    assert (machine["vm"]["type"], machine["replaced"]["type"]) == ("qemu", "lxc")
    lines = {r["address"]: r for r in ledger(guest.operator) if r["name"] == guest.name}
    assert lines["127.86.13.99"]["status"] == "used"
    resting = lines[f"127.86.13.{guest.vmid}"]
    assert (resting["status"], resting["vmid"]) == ("quarantined", guest.vmid)
    back = smaller(guest, type="lxc")
    assert not back.get("failed"), back
    assert (back["vm"]["type"], back["replaced"]["vmid"]) == ("lxc", machine["vmid"])
    assert back["vm"]["address"] == "127.86.13.99"


def test_what_can_be_changed_in_place_is_changed_in_place(guest: Guest) -> None:
    done = smaller(guest, disk=3, memory=512, description="Bigger.", vmid_range="105-299")
    assert not done.get("failed"), done
    assert (done["vm"]["vmid"], done["replaced"]) == (guest.vmid, None)
    assert {a["kind"] for a in done["actions"]} == {"configure", "resize"}


def test_another_storage_template_or_vmid_is_a_difference_only_where_replace_says_so(guest: Guest) -> None:
    left = guest.vm(storage="local-dir", template="alpine-3")
    assert (left.get("failed"), left["changed"]) == (None, False)
    disk, origin = map(str, left["warnings"])
    assert f"the disk rootfs of LXC {guest.vmid} {guest.name} on pve lies on local-lvm, not on local-dir" in disk
    assert "was made from local:vztmpl/debian-12" in origin
    assert f"(replace: {guest.name})" in origin
    number = 360 + guest.vmid % 40
    moved = smaller(guest, disk=2, storage="local-dir", vmid=number)
    assert not moved.get("failed"), moved
    assert moved["vm"]["vmid"] == number
    again = smaller(guest, disk=2, storage="local-dir", vmid=number)
    assert (again.get("failed"), again["changed"]) == (None, False)


def test_a_stopped_guest_is_replaced_by_a_stopped_one(guest: Guest) -> None:
    guest.vm(state="stopped")
    done = smaller(guest, state="present")
    assert not done.get("failed"), done
    assert done["vm"]["status"] == "stopped"
    assert [a["kind"] for a in done["actions"]] == ["configure", "create", "destroy"]


def test_a_running_guest_is_replaced_by_a_running_one_whatever_was_said(guest: Guest) -> None:
    done = smaller(guest, state="present")
    assert done["vm"]["status"] == "running"


def test_the_new_guest_is_protected_where_that_was_asked(guest: Guest) -> None:
    done = smaller(guest, protection=True)
    assert not done.get("failed"), done
    assert done["vm"]["protection"] is True
    assert [a["kind"] for a in done["actions"]][-2:] == ["protect", "destroy"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"replace": "other"}, "nothing is replaced under another name"),
        ({"state": "absent"}, "state absent makes none"),
        ({"state": "restarted"}, "state restarted makes none"),
    ],
)
def test_what_can_not_be_meant_is_refused(guest: Guest, options: dict[str, Any], words: str) -> None:
    assert words in guest.refused(lambda: smaller(guest, **options))
    assert words in failure(smaller(guest, _check=True, **options))


def test_one_run_tells_everything_that_stops_a_replacement(guest: Guest, tmp_path: Path) -> None:
    """What a destroy looks at and what a creation looks at, at once."""
    guest.vm(protection=True)
    graph = tmp_path / "graph.json"
    graph.write_text(
        json.dumps({"services": {guest.name: {"criticality": "critical"}, "shop": {"depends_on": [guest.name]}}})
    )
    guest.operator.lab.fault("set", "stuck-lock", "--vmid", str(guest.vmid), "--text", "backup")
    env = guest.operator.lab.env
    options = {
        "template": "debian-99", "pool": "nosuch", "memory": 10**7, "cores": 10**4, "dependency_graph": str(graph),
        "vmid": guest.vmid, "expect": {"digest": "other"}, "network": {"bridge": "vmbr9"}, "brain_vmid": guest.vmid,
        "api_token_id": env["PROXMOX_READER_TOKEN_ID"], "api_token_secret": env["PROXMOX_READER_TOKEN_SECRET"],
    }  # fmt: skip
    plan, writes = guest.writes(lambda: smaller(guest, _check=True, **options))
    assert writes == 0
    failed = {c["check"]: c["message"] for c in plan["preflight"] if not c["passed"]}
    assert failed.keys() >= {
        "expected", "critical", "lock", "protection", "dependents", "template", "pool", "memory", "cpu", "bridge",
        "vmid", "privileges",
    }  # fmt: skip
    assert "nhi_vm never destroys it" in failed["critical"]
    assert "leave vmid out" in failed["vmid"]
    assert f"VM.Allocate on /vms/{guest.vmid}" in failed["privileges"]
    message = guest.refused(lambda: smaller(guest, **options))
    for check in failed.keys() - {"memory", "cpu"}:
        assert failed[check] in message


def test_both_disks_must_have_room_for_a_while_but_the_memory_of_the_old_one_is_free(guest: Guest) -> None:
    with client(guest.operator.lab) as api:
        node = next(r for r in api.get("/cluster/resources") if r["type"] == "node")
        running = [r for r in api.get("/cluster/resources", {"type": "vm"}) if r.get("status") == "running"]
    has, promised = node["maxmem"] >> 20, sum(r["maxmem"] for r in running) >> 20
    limit = (promised + 64) / has  # the new guest has 256 MiB as the old one, and fits only in its place
    fits = smaller(guest, memory=256, max_memory_overcommit=limit, _check=True)
    assert [c["message"] for c in fits["preflight"] if c["check"] == "memory" and not c["passed"]] == []
    message = guest.refused(lambda: smaller(guest, memory=256 + 128, max_memory_overcommit=limit))
    assert "max_memory_overcommit" in message


def test_a_swapped_guest_is_not_replaced(guest: Guest) -> None:
    guest.operator.module("nhi_state_scan")
    guest.operator.lab.fault("set", "guest-swapped", "--vmid", str(guest.vmid), "--count", "1")
    assert "scan again with full: true, and look" in guest.refused(lambda: smaller(guest))


def test_a_new_guest_that_does_not_start_leaves_the_old_one_as_it_was(guest: Guest) -> None:
    before = configuration(guest)
    guest.operator.lab.fault("set", "task-fail", "--task", "vzstart", "--text", "no such bridge", "--count", "1")
    message = failure(smaller(guest))
    assert "no such bridge" in message
    assert "was destroyed again" in message
    assert message.endswith(f"Undone: LXC {guest.vmid} {guest.name} on pve runs again.")
    assert configuration(guest) == before
    assert known(guest.operator, guest.name) == [guest.vmid]
    assert not smaller(guest).get("failed")


def test_an_old_guest_that_can_not_be_destroyed_is_left_to_the_next_run_and_the_new_one_stays(guest: Guest) -> None:
    guest.operator.lab.fault("set", "task-fail", "--task", "vzdestroy", "--text", "dataset is busy", "--count", "1")
    done = smaller(guest)
    assert not done.get("failed"), done
    assert (done["vm"]["status"], done["replaced"]["destroyed"]) == ("running", False)
    told = " ".join(map(str, done["warnings"]))
    assert "dataset is busy" in told
    assert "the next run of nhi_vm for any guest destroys it" in told
    assert sorted(known(guest.operator, guest.name)) == [guest.vmid, done["vm"]["vmid"]]
    held = {(r["vmid"], r["status"]) for r in ledger(guest.operator) if r["name"] == guest.name}
    assert held == {(guest.vmid, "used"), (done["vmid"], "used")}, "both have it as long as both are there"
    other = Guest(guest.operator, next(NUMBERS))
    settled = other.vm(state="absent")
    assert f"LXC {guest.vmid} {guest.name}-replaced-{guest.vmid} on pve is destroyed." in settled["recovered"][0]
    assert known(guest.operator, guest.name) == [done["vm"]["vmid"]]
    assert other.vm(state="absent")["recovered"] == []
    held = {(r["vmid"], r["status"]) for r in ledger(guest.operator) if r["name"] == guest.name}
    assert held == {(done["vmid"], "used")}


def test_an_old_guest_that_somebody_started_since_is_theirs(guest: Guest) -> None:
    killed_after_the_commit(guest)
    with client(guest.operator.lab) as api:
        api.wait_task(api.post(("nodes", "pve", "lxc", str(guest.vmid), "status", "start")), 10)
    other = Guest(guest.operator, next(NUMBERS))
    told = other.vm(state="absent")["recovered"][0]
    assert "is complete." in told
    assert "was started since it was replaced: it was left alone" in told
    assert guest.vmid in known(guest.operator, guest.name)
    aside = f"{guest.name}-replaced-{guest.vmid}"
    assert guest.operator.module("nhi_vm", name=aside, state="absent", confirm=aside)["changed"]


def test_without_the_new_guest_the_old_one_comes_back_even_after_the_commit(guest: Guest) -> None:
    before = configuration(guest)
    killed_after_the_commit(guest)
    with client(guest.operator.lab) as api:
        new = next(r for r in api.get("/cluster/resources", {"type": "vm"}) if r.get("name") == guest.name)
        path = ("nodes", "pve", "lxc", str(new["vmid"]))
        api.wait_task(api.delete(path, {"purge": 1, "force": 1}), 10)
    other = Guest(guest.operator, next(NUMBERS))
    assert f"{guest.name} on pve runs again." in other.vm(state="absent")["recovered"][0]
    assert configuration(guest) == before
    held = [(r["vmid"], r["status"]) for r in ledger(guest.operator) if r["name"] == guest.name]
    assert held == [(guest.vmid, "used")], "the old guest has its address still"


def killed_after_the_commit(guest: Guest) -> None:
    """The moment from which on there is no way back; which one it is, another guest's run tells."""
    like = Guest(guest.operator, next(NUMBERS))
    like.create(onboot=True)
    moments = run_module(guest.operator, "nhi_vm", wish(like)).moments
    assert run_module(
        guest.operator, "nhi_vm", wish(guest), kill_at=moments.index("after Journal._append commit") + 1
    ).killed


def test_the_failed_deployment_of_a_replacement_can_name_its_own_guest(guest: Guest) -> None:
    done = smaller(guest)
    gone = guest.vm(state="absent", confirm=guest.name, made_by=done["operation"])
    assert (gone.get("failed"), gone["changed"]) == (None, True)


def configuration(guest: Guest) -> dict[str, Any]:
    with client(guest.operator.lab) as api:
        path = ("nodes", "pve", "lxc", str(guest.vmid))
        config = dict(api.get((*path, "config")))
        return {**config, "digest": None, "status": api.get((*path, "status", "current"))["status"]}
