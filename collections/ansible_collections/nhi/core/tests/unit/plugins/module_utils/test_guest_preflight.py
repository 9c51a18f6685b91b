# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is looked at before anything is done: all that fails is told together, and nothing was written."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import PermissionDeniedError, PreflightError
from ansible_collections.nhi.core.plugins.module_utils.graph import parse_graph
from ansible_collections.nhi.core.plugins.module_utils.guest import CLONE, CONFIGURE, CREATE, Action
from ansible_collections.nhi.core.plugins.module_utils.guest_capacity import (
    Ask,
    Overcommit,
    check_cpu,
    check_disk,
    check_memory,
)
from ansible_collections.nhi.core.plugins.module_utils.guest_config import Placement
from ansible_collections.nhi.core.plugins.module_utils.guest_privileges import creation_needs
from ansible_collections.nhi.core.plugins.module_utils.guest_spec import Wanted
from ansible_collections.nhi.core.plugins.module_utils.reservations import Choice, Reservations
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.guest_lab import NETWORK, REDIS, GuestLab

GIB = 1 << 30
NET = "name=eth0,bridge=vmbr0,ip=10.99.0.105/24"


@pytest.fixture
def lab(tmp_path: Path) -> GuestLab:
    return GuestLab(tmp_path)


def refused(lab: GuestLab, options: dict[str, Any], **settings: Any) -> set[str]:
    """Names of the checks that fail; the real run tells each of them, and writes as little as the check run."""
    failed = lab.run(options, check_mode=True, **settings).plan.failed
    with pytest.raises(PreflightError) as e:
        lab.run(options, **settings)
    assert all(c.message in str(e.value) for c in failed)
    assert lab.pve.writes() == []
    assert not (lab.state_dir / "reservations.json").exists()
    return {c.name for c in failed}


def test_everything_that_stops_a_new_guest_is_told_together(lab: GuestLab) -> None:
    lab.pve.add(120, "web", net0=NET)
    lab.pve.lacking = {("VM.Allocate", "/vms/121"), ("SDN.Use", "/sdn/zones/localnetwork/vmbr9")}
    lab.pve.hidden = {121}
    lab.pve.add(121, "hidden")
    wish = {**REDIS, "template": "debian-99", "pool": "nosuch", "disk": 900, "memory": 99999, "vmid": 121}
    network = {"bridge": "vmbr9", "ip": "10.99.0.105/24"}
    names = refused(lab, {**wish, "network": network})
    assert names == {"template", "pool", "disk", "memory", "vmid", "bridge", "address", "privileges"}


def test_a_plan_is_shown_as_far_as_it_can_be(lab: GuestLab) -> None:
    outcome = lab.run({**REDIS, "template": None, "node": "pve9", "vmid_range": "100-104"}, check_mode=True)
    assert outcome.plan.actions[0].text.startswith("Create LXC 100 redis on a node from a template that is still to be")
    assert outcome.vm is not None
    assert (outcome.vm["node"], outcome.vm["address"]) == (None, "10.99.0.105")
    lab.pve.add(120, "web")
    plan = lab.run({**REDIS, "vmid_range": "120"}, check_mode=True).plan
    assert plan.actions[0].text.startswith("Create LXC (no VMID) redis on pve")
    assert [c.name for c in plan.failed] == ["vmid"]


def test_everything_that_stops_a_correction_is_told_together(lab: GuestLab) -> None:
    lab.pve.add(105, "redis", net0="name=eth0,bridge=vmbr0,ip=10.99.0.106/24", lock="backup")
    lab.pve.add(120, "web", net0=NET)
    lab.pve.lacking = {("VM.Config.Network", "/vms/105")}
    wish = {"name": "redis", "type": "qemu", "node": "pve2", "disk": 2, "unprivileged": False, "state": "started"}
    names = refused(lab, {**wish, "network": {"ip": "10.99.0.105/24"}})
    assert names == {"type", "node", "disk", "unprivileged", "address", "lock", "privileges"}


def test_everything_that_stops_a_destroy_is_told_together(lab: GuestLab) -> None:
    lab.pve.add(100, "brain-vm", "qemu", lock="backup", protection=1)
    lab.pve.lacking = {("VM.Allocate", "/vms/100")}
    graph = parse_graph({"services": {"brain-vm": {"criticality": "critical"}, "web": {"depends_on": ["brain-vm"]}}})
    names = refused(lab, {"name": "brain-vm", "state": "absent"}, graph=graph)
    assert names == {"critical", "lock", "protection", "dependents", "confirmed", "privileges"}


@pytest.mark.parametrize("state", ["present", "absent", "stopped"])
def test_a_name_that_two_guests_bear_is_a_failed_check_without_a_plan(lab: GuestLab, state: str) -> None:
    lab.pve.add(105, "redis")
    lab.pve.add(106, "redis")
    assert refused(lab, {"name": "redis", "state": state}) == {"exists"}
    assert lab.run({"name": "redis", "state": state}, check_mode=True).plan.actions == []


def test_a_vmid_of_another_guest_does_not_hide_what_else_is_wrong(lab: GuestLab) -> None:
    lab.pve.add(105, "web")
    assert refused(lab, {**REDIS, "vmid": 105, "template": "debian-99"}) == {"vmid", "template"}


def test_a_guest_that_is_not_there_is_a_failed_check(lab: GuestLab) -> None:
    lab.pve.add(105, "web")
    assert refused(lab, {"name": "redis", "state": "stopped"}) == {"exists"}


def test_a_critical_service_goes_only_when_that_was_said(lab: GuestLab) -> None:
    lab.pve.add(102, "postgres")
    graph = parse_graph({"services": {"db": {"guest": "postgres", "criticality": "critical"}}})
    gone = {"name": "postgres", "state": "absent"}
    assert refused(lab, gone, graph=graph, confirm="postgres") == {"critical"}
    assert lab.run(gone, graph=graph, check_mode=True).plan.impact.as_dict()["critical_services"] == ["db"]
    lab.run(gone, graph=graph, confirm="postgres", allow_impact=True)
    assert lab.pve.guests == {}


def test_a_token_without_any_right_is_told_so_and_not_that_the_lab_is_empty(lab: GuestLab) -> None:
    lab.pve.hidden = {105}
    lab.pve.add(105, "redis")
    lab.pve.lacking = {("VM.Audit", "/")}
    for options in (REDIS, {"name": "redis", "state": "absent"}):
        for check_mode in (True, False):
            with pytest.raises(PermissionDeniedError, match=r"sees no guest at all because it has VM\.Audit nowhere"):
                lab.run(options, check_mode=check_mode)
    assert lab.pve.writes() == []


def test_the_address_is_probed_once_although_it_is_foreseen_first(
    lab: GuestLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        "ansible_collections.nhi.core.plugins.module_utils.guest_address_choice.is_used",
        lambda address, *_departed, patience: asked.append(str(address)),
    )
    lab.run(REDIS)
    assert asked == ["10.99.0.105"]


def node(**numbers: Any) -> dict[str, Any]:
    return {"type": "node", "node": "pve", "status": "online", **numbers}


def guest(vmid: int, **facts: Any) -> dict[str, Any]:
    return {"type": "lxc", "vmid": vmid, "node": "pve", "status": "running", "maxmem": 4 * GIB, "maxcpu": 2, **facts}


OTHERS = [
    guest(101), guest(102, status="unknown"), guest(103, status="stopped"), guest(104, node="pve2"),
    guest(105, template=1), guest(106, maxcpu=8),
]  # fmt: skip


def test_memory_counts_guests_that_run_or_may_run_on_the_node() -> None:
    rows = [node(maxmem=16 * GIB, maxcpu=8), *OTHERS]
    assert check_memory(rows, "pve", 4096, 1.0).passed
    failed = check_memory(rows, "pve", 4097, 1.0)
    assert not failed.passed
    assert "12288 MiB of the guests that run on pve is over 1 times its 16384 MiB" in failed.message
    assert check_memory(rows, "pve", 8192, 1.0, but=106).passed
    assert check_memory(rows, "pve", 9999999, 0).passed


def test_a_container_without_a_limit_of_cores_was_promised_none() -> None:
    rows = [node(maxmem=16 * GIB, maxcpu=8), *OTHERS]
    assert check_cpu(rows, "pve", 3, 1.0).passed
    assert not check_cpu(rows, "pve", 4, 1.0).passed
    failed = check_cpu(rows, "pve", 9, 0)
    assert not failed.passed
    assert "9 cores are more than the 8 that pve has" in failed.message


def test_what_a_token_may_not_see_of_a_node_is_said_and_not_refused() -> None:
    for check in (check_memory([node()], "pve", 1, 1.0), check_cpu([node()], "pve", 1, 1.0)):
        assert check.passed
        assert "Sys.Audit on /nodes/pve" in check.message


def test_thin_storage_may_promise_more_than_it_has_up_to_the_limit() -> None:
    thin = {"storage": "lvm", "type": "lvmthin", "avail": 5 * GIB, "total": 10 * GIB}
    assert check_disk(thin, "pve", 12, 8 * GIB, 2.0).passed
    over = check_disk(thin, "pve", 13, 8 * GIB, 2.0)
    assert not over.passed
    assert "over 2 times its 10.0 GiB" in over.message
    assert check_disk(thin, "pve", 500, 8 * GIB, 0).passed
    assert not check_disk({**thin, "avail": 0}, "pve", 1, 8 * GIB, 0).passed, "full is full"
    assert not check_disk({**thin, "type": "dir"}, "pve", 6, 0, 2.0).passed


def test_a_guest_that_starts_or_grows_needs_room_too(lab: GuestLab) -> None:
    lab.pve.add(105, "redis", memory=70000)
    assert refused(lab, {"name": "redis", "state": "started"}) == {"memory"}
    assert lab.run({"name": "redis", "state": "started"}, check_mode=True, limits=Overcommit(memory=0)).plan.changed
    lab.pve.add(106, "web", running=True)
    assert refused(lab, {"name": "web", "memory": 70000, "disk": 55}) == {"memory", "disk"}
    assert not lab.run({"name": "web", "memory": 256}, check_mode=True).plan.failed


def test_a_limit_below_zero_is_no_limit() -> None:
    with pytest.raises(PreflightError, match="max_cpu_overcommit -1 is no limit"):
        Overcommit(cpu=-1)


# Guests that other runs are making


def being_made(lab: GuestLab, **takes: Any) -> None:
    """Another run has reserved a guest and not made it yet."""
    ask = Ask(takes.pop("node", "pve"), **takes)
    Reservations(lab.state_dir).reserve("op-x", "rival", datetime.now(UTC), lambda _held: Choice(150, ask=ask))


@pytest.mark.parametrize(
    ("takes", "limits", "words"),
    [
        ({"memory_mib": 32000, "runs": True}, Overcommit(memory=1.0), "over 1 times its 32768 MiB"),
        ({"disks_gib": {"local-lvm": 49}}, Overcommit(), "has 1.0 GiB free, the disk needs 4 GiB"),
        ({"cores": 7, "runs": True}, Overcommit(cpu=1.0), "2 cores more than the 7 of the guests"),
    ],
)
def test_what_other_runs_are_making_counts(
    lab: GuestLab, takes: dict[str, Any], limits: Overcommit, words: str
) -> None:
    lab.pve.cores = 8
    wish = {**REDIS, "memory": 1024, "cores": 2}
    assert not lab.run(wish, check_mode=True, limits=limits).plan.failed
    being_made(lab, **takes)
    ledger = (lab.state_dir / "reservations.json").read_text()
    for check_mode in (True, False):
        with contextlib.ExitStack() as stack:
            if not check_mode:
                stack.enter_context(pytest.raises(PreflightError, match=re.escape(words)))
            told = "; ".join(c.message for c in lab.run(wish, check_mode=check_mode, limits=limits).plan.failed)
            assert words in told
            assert "(this counts guests that other runs are making now: 150 rival)" in told
    assert lab.pve.writes() == []
    assert (lab.state_dir / "reservations.json").read_text() == ledger


@pytest.mark.parametrize(
    "takes",
    [
        {"memory_mib": 32000, "disks_gib": {"local-lvm": 49}, "runs": True, "node": "pve2"},
        {"memory_mib": 32000, "disks_gib": {"other": 49}},
    ],
)
def test_what_is_made_elsewhere_or_does_not_start_takes_nothing_of_this_node(
    lab: GuestLab, takes: dict[str, Any]
) -> None:
    being_made(lab, **takes)
    lab.run({**REDIS, "memory": 1024}, limits=Overcommit(memory=1.0))


def test_a_guest_that_was_reserved_since_this_run_looked_counts_too(lab: GuestLab) -> None:
    def other() -> None:
        lab.pve.hooks.clear()
        being_made(lab, memory_mib=32000, runs=True)

    lab.pve.hooks["GET /access/permissions"] = other  # the last question before this run reserves
    with pytest.raises(PreflightError, match=r"over 1 times its 32768 MiB.*150 rival"):
        lab.run({**REDIS, "memory": 1024}, limits=Overcommit(memory=1.0))
    assert lab.pve.writes() == []
    assert [line.name for line in Reservations(lab.state_dir)._read()] == ["rival"]


def test_a_guest_that_is_there_already_is_not_counted_twice(lab: GuestLab) -> None:
    lab.pve.add(150, "rival", running=True, memory=16000)
    lab.pve.guests[150]["config"]["rootfs"] = "local-lvm:vm-150-disk-0,size=40G"
    being_made(lab, memory_mib=16000, disks_gib={"local-lvm": 40}, runs=True)
    wish = {**REDIS, "memory": 16000, "disk": 40}
    assert not lab.run(wish, check_mode=True, limits=Overcommit(memory=1.0)).plan.failed
    lab.pve.guests[150]["config"]["rootfs"] = "elsewhere:vm-150-disk-0,size=40G"
    assert [c.name for c in lab.run(wish, check_mode=True, limits=Overcommit(memory=1.0)).plan.failed] == ["disk"]


def test_what_a_finished_run_made_counts_until_the_cluster_shows_it(lab: GuestLab) -> None:
    being_made(lab, memory_mib=32000, runs=True)
    ledger, now = Reservations(lab.state_dir), datetime.now(UTC)
    ledger.keep("op-x")
    assert [other.name for other in ledger.peek(read_at=now).asked.values()] == ["rival"]
    assert ledger.peek(read_at=now + timedelta(seconds=30)).asked == {}


PLACE = Placement(node="pve", vmid=105, storage="local-lvm", template="local:vztmpl/x.tar")


def needs(wanted: Wanted, place: Placement, kinds: tuple[str, ...]) -> set[str]:
    return {str(n) for n in creation_needs(wanted, place, [Action(k, "") for k in kinds])}


def test_a_privileged_container_needs_a_privilege_on_the_whole_node() -> None:
    assert "Sys.Modify on /" in needs(Wanted("x", unprivileged=False), PLACE, (CREATE,))
    found = needs(Wanted("x", cores=1, memory_mib=64), PLACE, (CREATE,))
    assert found == {
        "VM.Allocate on /vms/105", "VM.Config.CPU on /vms/105", "VM.Config.Memory on /vms/105",
        "VM.Config.Network on /vms/105", "VM.Config.Disk on /vms/105", "VM.Config.Options on /vms/105",
        "Datastore.AllocateSpace on /storage/local-lvm", "SDN.Use on /sdn/zones/localnetwork/vmbr0",
    }  # fmt: skip


def test_a_clone_needs_what_its_template_uses() -> None:
    source = {"net0": "virtio=BC:24:11:00:00:01,bridge=vmbr1,tag=20", "scsi0": "fast:base-9000-disk-0,size=3G"}
    place = Placement(node="pve", vmid=105, clone_of=9000, source=source)
    found = needs(Wanted("x", type="qemu", template="9000"), place, (CLONE, CONFIGURE))
    assert {
        "VM.Clone on /vms/9000", "Datastore.AllocateSpace on /storage/fast",
        "SDN.Use on /sdn/zones/localnetwork/vmbr1/20", "VM.Config.Network or VM.Config.Cloudinit on /vms/105",
    } <= found  # fmt: skip
    assert not any("vmbr0" in n for n in found)


def test_a_new_machine_needs_its_hardware_set() -> None:
    found = needs(Wanted("x", type="qemu"), Placement(node="pve", vmid=105, storage="local-lvm"), (CREATE,))
    assert "VM.Config.HWType on /vms/105" in found


def test_a_new_bridge_is_asked_for_when_it_changes(lab: GuestLab) -> None:
    lab.pve.add(105, "redis", net0=NET)
    lab.pve.lacking = {("SDN.Use", "/sdn/zones/localnetwork/vmbr1"), ("SDN.Use", "/sdn/zones/localnetwork/vmbr0")}
    assert refused(lab, {"name": "redis", "network": {"bridge": "vmbr1"}}) == {"privileges"}
    assert lab.run({"name": "redis", "network": {"ip": "10.99.0.107/24"}}).plan.changed


def test_the_networks_pool_is_left_as_it_was(lab: GuestLab) -> None:
    """A refused run chooses nothing for good: the next one finds the first VMID and address free."""
    lab.pve.lacking = {("VM.Allocate", "/vms/105")}
    assert refused(lab, {**REDIS, "network": NETWORK}) == {"privileges"}
    lab.pve.lacking = set()
    done = lab.run(REDIS)
    assert done.vm is not None
    assert (done.vm["vmid"], done.vm["address"]) == (105, "10.99.0.105")
