"""The fault "guest-swapped": another guest has the VMID from one call to the next."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lab.tests.harness import RunningLab

NET = "name=eth0,bridge=vmbr0,ip=10.99.0.50/24"
MAC = re.compile(r"(?:[0-9A-F]{2}:){5}[0-9A-F]{2}")


def guest(lab: RunningLab, path: str) -> dict[str, Any]:
    found: dict[str, Any] = lab.get(f"/nodes/pve/{path}/config")
    return found


def mac(config: dict[str, Any]) -> str:
    match = MAC.search(str(config["net0"]))
    assert match
    return match[0]


def test_the_newcomer_has_name_and_options_but_no_mark_and_other_hardware(lab: RunningLab) -> None:
    lab.container(101, net0=NET, description="nhi: op-1", tags="svc-redis", pool="ai-lab")
    lab.task("POST", "/nodes/pve/lxc/101/snapshot", {"snapname": "before"})
    before, created = guest(lab, "lxc/101"), lab.lab.store.guests[101].created
    lab.fault("guest-swapped", vmid=101, count=1)
    after = guest(lab, "lxc/101")
    assert (after["hostname"], after["tags"]) == (before["hostname"], before["tags"])
    assert mac(after) != mac(before)
    assert "description" not in after
    assert after["digest"] != before["digest"]
    assert lab.lab.store.guests[101].created > created
    assert [entry["name"] for entry in lab.get("/nodes/pve/lxc/101/snapshot")] == ["current"]
    assert lab.get("/cluster/resources", type="vm")[0]["pool"] == "ai-lab"


def test_a_machine_has_another_creation_time_and_uuid(lab: RunningLab) -> None:
    lab.machine(200, net0="virtio,bridge=vmbr0")
    before = guest(lab, "qemu/200")
    lab.fault("guest-swapped", vmid=200, count=1, text="another")
    after = guest(lab, "qemu/200")
    assert after["name"] == "another"
    for option in ("meta", "smbios1", "vmgenid", "net0"):
        assert after[option] != before[option]
    assert guest(lab, "qemu/200") == after, "once per count"


def test_whoever_ran_is_followed_by_one_that_runs(lab: RunningLab) -> None:
    lab.container(101, net0=NET)
    lab.task("POST", "/nodes/pve/lxc/101/status/start")
    lab.fault("guest-swapped", vmid=101, count=1)
    assert lab.get("/nodes/pve/lxc/101/status/current")["status"] == "running"


def test_it_happens_just_before_the_call_that_matches(lab: RunningLab) -> None:
    lab.container(101, net0=NET)
    lab.fault("guest-swapped", method="DELETE", path="/nodes/*/lxc/*", count=1)
    before = guest(lab, "lxc/101")
    assert guest(lab, "lxc/101") == before
    lab.request("DELETE", "/nodes/pve/lxc/101", {"force": "nonsense"})  # refused: the guest that is seen next stays
    assert mac(guest(lab, "lxc/101")) != mac(before)


def test_a_call_on_no_guest_can_be_the_moment(lab: RunningLab) -> None:
    lab.container(101, net0=NET)
    before = mac(guest(lab, "lxc/101"))
    lab.fault("guest-swapped", path="/cluster/resources", vmid=101, count=1)
    assert mac(guest(lab, "lxc/101")) == before
    lab.get("/cluster/resources")
    assert mac(guest(lab, "lxc/101")) != before


@pytest.mark.parametrize("conditions", [{"vmid": 102}, {"method": "DELETE"}, {"path": "/nodes/*/qemu/*"}])
def test_other_calls_and_guests_are_left_alone(lab: RunningLab, conditions: dict[str, Any]) -> None:
    lab.container(101, net0=NET)
    before = mac(guest(lab, "lxc/101"))
    lab.fault("guest-swapped", count=1, **conditions)
    lab.get("/version")
    assert mac(guest(lab, "lxc/101")) == before
    assert [fault.count for fault in lab.lab.faults.all()] == [1]
