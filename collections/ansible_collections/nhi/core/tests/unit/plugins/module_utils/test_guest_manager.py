# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest from wish to fulfilment, against a node in memory."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils import guest_undo
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    AllocationError,
    GuestChangeError,
    NHIError,
    PermissionDeniedError,
    PreflightError,
    StateError,
    UnreachableError,
)
from ansible_collections.nhi.core.plugins.module_utils.graph import parse_graph
from ansible_collections.nhi.core.plugins.module_utils.guest_manager import GuestManager, Outcome, Settings
from ansible_collections.nhi.core.plugins.module_utils.guest_spec import wanted_from_params
from ansible_collections.nhi.core.plugins.module_utils.guest_wait import Patience
from ansible_collections.nhi.core.plugins.module_utils.interrupts import InterruptedRunError
from ansible_collections.nhi.core.plugins.module_utils.reservations import Choice, Reservations
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_proxmox import FakeProxmox

NETWORK = {"range": "10.99.0.105-10.99.0.199", "prefix": 24, "gateway": "10.99.0.1"}
REDIS = {"name": "redis", "state": "started", "template": "debian-12", "network": NETWORK}


@pytest.fixture
def pve() -> FakeProxmox:
    return FakeProxmox()


@pytest.fixture
def lab(pve: FakeProxmox, tmp_path: Path) -> Lab:
    return Lab(pve, tmp_path / "infrastructure")


class Lab:
    def __init__(self, pve: FakeProxmox, state_dir: Path) -> None:
        self.pve = pve
        self.state_dir = state_dir

    def run(self, options: dict[str, Any], **settings: Any) -> Outcome:
        wanted = wanted_from_params({"state": "present", "vmid_range": "105-199", **options})
        settings.setdefault("patience", Patience(task=1.0))
        return GuestManager(self.pve, wanted, Settings(self.state_dir, **settings)).run()

    def reserved(self) -> list[str]:
        return sorted(map(str, Reservations(self.state_dir).peek().addresses))


def test_a_missing_guest_is_created_then_started_and_reported(lab: Lab) -> None:
    outcome = lab.run({**REDIS, "cores": 1, "memory": 256, "disk": 2, "tags": ["svc-redis"], "purpose": "cache"})
    assert outcome.vm is not None
    assert (outcome.vm["vmid"], outcome.vm["address"], outcome.vm["status"]) == (105, "10.99.0.105", "running")
    assert lab.pve.writes() == [("POST", "/nodes/pve/lxc"), ("POST", "/nodes/pve/lxc/105/status/start")]
    created = next(data for method, _path, data in lab.pve.calls if method == "POST")
    assert created["ostemplate"] == lab.pve.templates[0]
    assert created["rootfs"] == "local-lvm:2"
    assert created["net0"] == "name=eth0,bridge=vmbr0,ip=10.99.0.105/24,gw=10.99.0.1"
    assert created["tags"] == "purpose-cache;svc-redis"
    assert created["unprivileged"] == 1
    assert outcome.operation in created["description"]
    assert not {"force", "start"} & created.keys()


def test_the_second_run_changes_nothing(lab: Lab) -> None:
    options = {**REDIS, "cores": 2, "memory": 256, "disk": 2, "tags": ["B", "a"], "purpose": "cache", "onboot": True}
    lab.run({**options, "protection": True, "description": "Cache.", "nesting": True})
    lab.pve.calls.clear()
    again = lab.run({**options, "protection": True, "description": "Cache.", "nesting": True})
    assert (again.plan.changed, lab.pve.writes()) == (False, [])
    assert again.vm is not None
    assert again.vm["address"] == "10.99.0.105"


def test_check_mode_only_reads_and_foretells_the_real_run(lab: Lab) -> None:
    foretold = lab.run(REDIS, check_mode=True)
    assert foretold.plan.changed
    assert lab.pve.writes() == []
    assert not lab.state_dir.exists()
    done = lab.run(REDIS)
    assert [a.text for a in foretold.plan.actions] == [a.text for a in done.plan.actions]
    assert foretold.vm is not None
    assert done.vm is not None
    assert {k: v for k, v in foretold.vm.items() if k != "cores"} == {k: v for k, v in done.vm.items() if k != "cores"}


def test_drift_is_corrected_in_place_and_only_where_it_is(lab: Lab) -> None:
    lab.pve.add(105, "redis", running=True, memory=256, tags="old", description="Old.\n\nnhi: op-1\n", protection=1)
    wish = {"name": "redis", "memory": 512, "tags": ["new"], "description": "New.", "protection": False, "onboot": True}
    outcome = lab.run({**wish, "disk": 8})
    config = lab.pve.guests[105]["config"]
    assert {k: config[k] for k in ("memory", "tags", "description", "protection", "onboot")} == {
        "memory": 512, "tags": "new", "description": "New.\n\nnhi: op-1", "protection": 0, "onboot": 1,
    }  # fmt: skip
    assert config["rootfs"].endswith("size=8G")
    assert outcome.plan.before["memory"] == 256
    assert outcome.plan.restart_required == []
    assert not lab.run({**wish, "disk": 8}).plan.changed


def test_a_running_machine_needs_a_restart_for_cores_and_memory(lab: Lab) -> None:
    lab.pve.add(110, "webapp", "qemu", running=True)
    assert lab.run({"name": "webapp", "memory": 1024, "cores": 2}).plan.restart_required == ["cores", "memory"]


@pytest.mark.parametrize(
    ("state", "running", "verbs"),
    [
        ("started", False, ["start"]), ("started", True, []), ("stopped", True, ["shutdown"]), ("stopped", False, []),
        ("restarted", True, ["shutdown", "start"]), ("restarted", False, ["start"]), ("present", True, []),
    ],
)  # fmt: skip
def test_power_follows_the_state(lab: Lab, state: str, running: bool, verbs: list[str]) -> None:
    lab.pve.add(105, "redis", running=running, net0="name=eth0,bridge=vmbr0,ip=10.99.0.105/24")
    outcome = lab.run({"name": "redis", "state": state})
    assert [path.rsplit("/", 1)[1] for _method, path in lab.pve.writes()] == verbs
    assert outcome.plan.changed == bool(verbs)


@pytest.mark.parametrize("state", ["stopped", "restarted"])
def test_a_guest_that_is_not_there_can_not_be_stopped_or_restarted(lab: Lab, state: str) -> None:
    with pytest.raises(PreflightError, match="redis does not exist"):
        lab.run({"name": "redis", "state": state})


def test_name_and_vmid_must_mean_the_same_guest(lab: Lab) -> None:
    lab.pve.add(105, "web")
    lab.pve.add(106, "redis")
    with pytest.raises(PreflightError, match="VMID 105 is LXC 105 web on pve, not redis"):
        lab.run({"name": "redis", "vmid": 105})
    with pytest.raises(PreflightError, match="redis is LXC 106 redis on pve, not VMID 107"):
        lab.run({"name": "redis", "vmid": 107})


def test_two_guests_of_one_name_are_both_named(lab: Lab) -> None:
    lab.pve.add(105, "redis")
    lab.pve.add(106, "redis", "qemu")
    with pytest.raises(PreflightError, match="LXC 105 redis on pve and VM 106 redis on pve"):
        lab.run({"name": "redis", "state": "absent"}, confirm="redis")
    lab.run({"name": "redis", "vmid": 106, "state": "absent"}, confirm="redis")
    assert list(lab.pve.guests) == [105]


def test_everything_missing_is_said_at_once_before_anything_is_done(lab: Lab) -> None:
    wish = {**REDIS, "template": "debian-99", "storage": "local", "pool": "nosuch"}
    with pytest.raises(PreflightError) as e:
        lab.run({**wish, "network": {**NETWORK, "bridge": "vmbr9"}})
    for words in ("debian-12-standard_12.2-1", "local on pve does not take rootdir", "vmbr9", "pool nosuch"):
        assert words in str(e.value)
    assert lab.pve.writes() == []
    with pytest.raises(PreflightError, match=r"node pve9 does not exist: nodes are pve \(online\)"):
        lab.run({**REDIS, "node": "pve9"})


def test_the_next_vmid_is_taken_when_somebody_was_faster(lab: Lab) -> None:
    def steal() -> None:
        lab.pve.hooks.clear()
        lab.pve.add(105, "stolen")

    lab.pve.hooks["POST /nodes/pve/lxc"] = steal
    outcome = lab.run(REDIS)
    assert outcome.vm is not None
    assert outcome.vm["vmid"] == 106
    assert lab.pve.guests[105]["config"]["hostname"] == "stolen"


def test_a_vmid_that_was_asked_for_and_taken_is_refused_not_replaced(lab: Lab) -> None:
    lab.pve.add(120, "secret")
    lab.pve.hidden.add(120)
    with pytest.raises(PreflightError, match="VMID 120 is taken by a guest that is new or that this token can not see"):
        lab.run({**REDIS, "vmid": 120})


def test_vmids_of_hidden_guests_are_passed_over(lab: Lab) -> None:
    lab.pve.add(105, "secret")
    lab.pve.hidden.add(105)
    outcome = lab.run(REDIS, check_mode=True)
    assert outcome.vm is not None
    assert outcome.vm["vmid"] == 106


def test_addresses_of_guests_and_of_other_runs_are_passed_over(lab: Lab) -> None:
    lab.pve.add(120, "web", net0="name=eth0,bridge=vmbr0,ip=10.99.0.105/24")
    other = Choice(106, IPv4Address("10.99.0.106"))
    Reservations(lab.state_dir).reserve("op-other", "other", datetime.now(UTC), lambda held: other)
    outcome = lab.run(REDIS)
    assert outcome.vm is not None
    assert (outcome.vm["vmid"], outcome.vm["address"]) == (105, "10.99.0.107")


def test_no_free_address_and_no_free_vmid_are_said_with_numbers(lab: Lab) -> None:
    lab.pve.add(120, "web", net0="name=eth0,bridge=vmbr0,ip=10.99.0.105/24")
    with pytest.raises(AllocationError, match=r"10.99.0.105-10.99.0.105: all 1 are taken"):
        lab.run({**REDIS, "network": {"range": "10.99.0.105", "prefix": 24}})
    with pytest.raises(AllocationError, match="120-120: all 1 are taken"):
        lab.run({**REDIS, "vmid_range": "120"})
    assert lab.pve.writes() == []
    assert lab.reserved() == []


def test_an_address_of_another_guest_is_refused_for_new_and_present_guests(lab: Lab) -> None:
    lab.pve.add(120, "web", net0="name=eth0,bridge=vmbr0,ip=10.99.0.105/24")
    lab.pve.add(121, "old", net0="name=eth0,bridge=vmbr0,ip=10.99.0.121/24")
    with pytest.raises(PreflightError, match=r"10.99.0.105 belongs to LXC 120 web"):
        lab.run({**REDIS, "network": {"ip": "10.99.0.105/24"}})
    with pytest.raises(PreflightError, match="belongs to LXC 120 web"):
        lab.run({"name": "old", "network": {"ip": "10.99.0.105/24"}})
    lab.run({"name": "old", "network": {"ip": "10.99.0.122/24"}})
    assert lab.pve.guests[121]["config"]["net0"] == "name=eth0,bridge=vmbr0,ip=10.99.0.122/24"


def test_a_failing_create_task_leaves_nothing(lab: Lab) -> None:
    lab.pve.failing_tasks["vzcreate"] = "unable to create CT 105 - no space left"
    with pytest.raises(GuestChangeError, match=r"no space left.*Undone: LXC 105 redis was destroyed again"):
        lab.run(REDIS)
    assert lab.pve.guests == {}
    assert lab.reserved() == []


def test_a_failing_start_destroys_what_was_made_and_nothing_else(lab: Lab) -> None:
    lab.pve.add(104, "other")
    lab.pve.failing_tasks["start"] = "bridge 'vmbr9' does not exist"
    with pytest.raises(GuestChangeError, match=r"vmbr9.*Undone: LXC 105 redis"):
        lab.run(REDIS)
    assert list(lab.pve.guests) == [104]


def test_a_guest_that_never_reports_an_address_is_undone(lab: Lab) -> None:
    lab.pve.reports_address = False
    with pytest.raises(GuestChangeError, match=r"reported no address within 0.3 s.*Undone"):
        lab.run(REDIS, patience=Patience(task=0.3))
    assert lab.pve.guests == {}
    lab.run(REDIS, patience=Patience(wait=False))
    assert list(lab.pve.guests) == [105]


def test_undoing_leaves_a_guest_alone_that_somebody_else_made(lab: Lab) -> None:
    def replaced() -> None:
        lab.pve.guests.clear()
        lab.pve.add(105, "theirs", description="nhi: op-theirs")
        raise UnreachableError("no answer")

    lab.pve.hooks["POST /nodes/pve/lxc/105/status/start"] = replaced
    with pytest.raises(GuestChangeError, match="LXC 105 theirs on pve, which this run did not make"):
        lab.run(REDIS)
    assert list(lab.pve.guests) == [105]


def test_a_create_whose_answer_was_lost_is_found_and_undone(lab: Lab) -> None:
    real = lab.pve._create

    def lost(kind: str, given: dict[str, Any]) -> str:
        real(kind, given)
        raise UnreachableError("lost its connection before the answer")

    lab.pve._create = lost  # type: ignore[method-assign]
    with pytest.raises(GuestChangeError, match="Undone: LXC 105 redis"):
        lab.run(REDIS)
    assert lab.pve.guests == {}


def test_a_full_disk_before_the_create_call_stops_the_run_and_after_it_only_warns(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Reservations, reservations: object) -> None:
        raise OSError(28, "No space left on device")

    lab.pve.hooks["POST /nodes/pve/lxc"] = lambda: monkeypatch.setattr(Reservations, "_write", full)
    outcome = lab.run(REDIS)
    assert outcome.vm is not None
    assert outcome.vm["status"] == "running"
    assert "no space left on device" in outcome.plan.warnings[0]
    with pytest.raises(StateError, match="no space left on device; nothing was chosen"):
        lab.run({**REDIS, "name": "second"})
    assert list(lab.pve.guests) == [105]


def test_a_create_that_nobody_answered_and_nobody_did_says_to_look_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_undo, "_DOUBT_SECONDS", 0.1)

    def lost() -> None:
        raise UnreachableError("POST /nodes/pve/lxc got no answer")

    lab.pve.hooks["POST /nodes/pve/lxc"] = lost
    with pytest.raises(GuestChangeError, match=r"LXC 105 redis was not there 0.1 s later: look once more"):
        lab.run(REDIS)


@pytest.mark.parametrize("values", [{"port": 99999}, {"port": 0}, {"task": 0}, {"shutdown": -1}])
def test_waiting_times_and_ports_out_of_range_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(PreflightError, match="out of range"):
        Patience(**values)  # type: ignore[arg-type]


def test_a_missing_privilege_passes_through_and_leaves_nothing(lab: Lab) -> None:
    def refuse() -> None:
        raise PermissionDeniedError("op@pve!x lacks the privilege VM.Allocate on /vms/105", status=403)

    lab.pve.hooks["POST /nodes/pve/lxc"] = refuse
    with pytest.raises(PermissionDeniedError, match=r"VM.Allocate on /vms/105"):
        lab.run(REDIS)
    assert lab.reserved() == []


def test_privileges_are_asked_for_before_anything_is_done(lab: Lab) -> None:
    lab.pve.lacking = {("VM.Allocate", "/vms/105"), ("SDN.Use", "/sdn/zones/localnetwork/vmbr0")}
    for check_mode in (True, False):
        with pytest.raises(PreflightError, match=r"VM.Allocate on /vms/105, SDN.Use on /sdn/zones/localnetwork/vmbr0"):
            lab.run(REDIS, check_mode=check_mode)
    lab.pve.lacking.discard(("SDN.Use", "/sdn/zones/localnetwork/vmbr0"))
    lab.run({**REDIS, "pool": "ai-lab"}, check_mode=True)  # the pool gives what the VMID does not
    lab.pve.add(106, "web", running=True)
    lab.pve.lacking = {("VM.PowerMgmt", "/vms/106"), ("VM.Config.Memory", "/vms/106"), ("VM.Config.CPU", "/vms/106")}
    with pytest.raises(PreflightError, match=r"lacks VM.Config.Memory on /vms/106, VM.PowerMgmt on /vms/106"):
        lab.run({"name": "web", "memory": 256, "state": "stopped"})
    assert lab.pve.writes() == []
    assert lab.reserved() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["POST /nodes/pve/lxc", "POST /nodes/pve/lxc/105/status/start"])
def test_an_interrupt_in_the_middle_undoes_and_says_so(lab: Lab, number: int, moment: str) -> None:
    lab.pve.hooks[moment] = lambda: os.kill(os.getpid(), number)
    with pytest.raises(GuestChangeError, match=r"interrupted by SIG.*Undone: LXC 105 redis"):
        lab.run(REDIS)
    assert lab.pve.guests == {}
    assert lab.reserved() == []


def test_an_interrupt_before_the_first_change_is_one_line(lab: Lab) -> None:
    lab.pve.hooks["GET /cluster/resources"] = lambda: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(InterruptedRunError, match="interrupted by SIGINT"):
        lab.run(REDIS)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


GRAPH = parse_graph({"services": {
    "brain-vm": {}, "db": {"depends_on": ["brain-vm"], "guest": "postgres"},
    "web": {"depends_on": ["db"], "guest": "web", "criticality": "high"}, "log": {"depends_on": ["db"]},
}})  # fmt: skip
GONE = {"name": "postgres", "state": "absent"}


def test_absent_shows_what_would_go_and_refuses_while_dependents_may_run(lab: Lab) -> None:
    lab.pve.add(102, "postgres", running=True)
    lab.pve.add(103, "web", running=False)
    plan = lab.run(GONE, graph=GRAPH, check_mode=True).plan
    assert [a.kind for a in plan.actions] == ["stop", "destroy"]
    impact = plan.impact.as_dict()
    assert impact["services"] == ["db"]
    assert {d["name"]: d["active"] for d in impact["dependents"]} == {"web": False, "log": True}
    assert impact["criticality"] == "high"
    assert {c.name for c in plan.failed} == {"no_active_dependents", "confirmed"}
    with pytest.raises(PreflightError, match="log would stop working"):
        lab.run(GONE, graph=GRAPH, confirm="postgres")
    assert lab.pve.writes() == []
    lab.run(GONE, graph=GRAPH, confirm="postgres", allow_impact=True)
    assert list(lab.pve.guests) == [103]
    assert not lab.run(GONE, graph=GRAPH).plan.changed


@pytest.mark.parametrize("confirm", [None, "", "Postgres", "102"])
def test_nothing_is_destroyed_without_its_exact_name(lab: Lab, confirm: str | None) -> None:
    lab.pve.add(102, "postgres")
    with pytest.raises(PreflightError, match="needs confirm: postgres"):
        lab.run(GONE, confirm=confirm)
    assert lab.pve.writes() == []


@pytest.mark.parametrize("check_mode", [True, False])
@pytest.mark.parametrize(("vmid", "tags"), [(100, ""), (150, "brain;other")])
def test_the_brain_is_never_destroyed(lab: Lab, vmid: int, tags: str, check_mode: bool) -> None:
    lab.pve.add(vmid, "brain-vm", "qemu", tags=tags)
    with pytest.raises(PreflightError, match="is the Brain"):
        lab.run({"name": "brain-vm", "state": "absent"}, confirm="brain-vm", allow_impact=True, check_mode=check_mode)
    assert lab.pve.writes() == []


@pytest.mark.parametrize(
    ("config", "words"), [({"protection": 1}, "set protection: false"), ({"lock": "backup"}, "(backup)")]
)
def test_protected_and_locked_guests_stay(lab: Lab, config: dict[str, Any], words: str) -> None:
    lab.pve.add(102, "postgres", **config)
    with pytest.raises(PreflightError) as e:
        lab.run(GONE, confirm="postgres")
    assert words in str(e.value)
    assert lab.pve.writes() == []


def test_a_locked_guest_is_not_changed_but_may_be_looked_at(lab: Lab) -> None:
    lab.pve.add(102, "postgres", lock="snapshot")
    with pytest.raises(PreflightError, match=r"locked \(snapshot\).*pct unlock 102"):
        lab.run({"name": "postgres", "memory": 1024})
    assert not lab.run({"name": "postgres"}).plan.changed


def test_a_guest_that_was_replaced_between_plan_and_destroy_stays(lab: Lab) -> None:
    lab.pve.add(102, "postgres")
    looks = []

    def replaced_at_second_look() -> None:
        looks.append(1)
        if len(looks) == 2:
            lab.pve.add(102, "family-photos")

    lab.pve.hooks["GET /nodes/pve/lxc/102/config"] = replaced_at_second_look
    with pytest.raises(PreflightError, match="nothing was done"):
        lab.run(GONE, confirm="postgres")
    assert lab.pve.guests[102]["config"]["hostname"] == "family-photos"


def test_a_failing_destroy_starts_the_guest_again(lab: Lab) -> None:
    lab.pve.add(102, "postgres", running=True)

    def refuse() -> None:
        raise NHIError("disk is busy")

    lab.pve.hooks["DELETE /nodes/pve/lxc/102"] = refuse
    with pytest.raises(GuestChangeError, match=r"disk is busy.*LXC 102 postgres on pve runs again"):
        lab.run(GONE, confirm="postgres")
    assert lab.pve.guests[102]["running"]


def test_a_correction_that_fails_half_way_is_taken_back(lab: Lab) -> None:
    lab.pve.add(105, "redis", running=True, tags="old", nameserver="10.99.0.2")
    before = dict(lab.pve.guests[105]["config"])
    lab.pve.failing_tasks["resize"] = "no space left"
    wish = {"memory": 1024, "tags": [], "onboot": True, "disk": 8}
    with pytest.raises(GuestChangeError, match=r"no space left.*LXC 105 redis on pve has its former configuration"):
        lab.run({"name": "redis", **wish})
    after = lab.pve.guests[105]["config"]
    assert {k: v for k, v in after.items() if k != "rootfs"} == {k: v for k, v in before.items() if k != "rootfs"}


def test_a_restart_that_fails_leaves_the_guest_running_as_it_was(lab: Lab) -> None:
    lab.pve.add(105, "redis", running=True)
    first: list[int] = []

    def fail_once() -> None:
        if not first:
            first.append(1)
            raise NHIError("no memory left on the node")

    lab.pve.hooks["POST /nodes/pve/lxc/105/status/start"] = fail_once
    with pytest.raises(GuestChangeError, match=r"former configuration. Undone: LXC 105 redis on pve runs again"):
        lab.run({"name": "redis", "memory": 65536, "state": "restarted"})
    assert lab.pve.guests[105]["running"]
    assert lab.pve.guests[105]["config"]["memory"] == 512


def test_what_can_not_change_is_refused(lab: Lab) -> None:
    lab.pve.add(105, "redis")
    for wish, words in (
        ({"type": "qemu"}, "of type lxc"), ({"node": "pve2"}, "not on node pve2"), ({"disk": 2}, "can not shrink"),
        ({"unprivileged": False}, "unprivileged, which can not be changed"),
    ):  # fmt: skip
        with pytest.raises(PreflightError, match=words):
            lab.run({"name": "redis", **wish})
    lab.pve.add(106, "image", "qemu", template=1)
    with pytest.raises(PreflightError, match="is a template"):
        lab.run({"name": "image", "state": "started"})
    assert lab.pve.writes() == []


def test_a_machine_is_cloned_from_a_template_and_made_its_own(lab: Lab) -> None:
    lab.pve.add(9000, "debian-cloud", "qemu", template=1, net0="virtio=BC:24:11:00:00:01,bridge=vmbr0", agent="1",
                scsi0="local-lvm:base-9000-disk-0,size=3G", boot="order=scsi0")  # fmt: skip
    wish = {**REDIS, "name": "webapp", "type": "qemu", "template": "debian-cloud", "memory": 1024, "disk": 10}
    outcome = lab.run({**wish, "ssh_public_keys": ["ssh-ed25519 AAAA me@here"], "tags": ["web"], "protection": True})
    config = lab.pve.guests[105]["config"]
    assert config["ipconfig0"] == "ip=10.99.0.105/24,gw=10.99.0.1"
    assert config["sshkeys"] == "ssh-ed25519%20AAAA%20me%40here"
    assert config["net0"] == "virtio,bridge=vmbr0"
    assert config["scsi0"].endswith("size=10G")
    assert (config["memory"], config["tags"], config["protection"]) == (1024, "web", 1)
    assert outcome.operation in config["description"]
    assert not lab.run({**wish, "tags": ["web"], "protection": True}).plan.changed


def test_a_clone_that_fails_half_way_is_undone(lab: Lab) -> None:
    lab.pve.add(9000, "debian-cloud", "qemu", template=1, net0="virtio=BC:24:11:00:00:01,bridge=vmbr0")

    def refuse() -> None:
        raise PermissionDeniedError("lacks VM.Config.Memory", status=403)

    lab.pve.hooks["PUT /nodes/pve/qemu/105/config"] = refuse
    with pytest.raises(GuestChangeError, match=r"VM.Config.Memory.*Undone: VM 105 webapp"):
        lab.run({**REDIS, "name": "webapp", "type": "qemu", "template": "9000", "memory": 1024})
    assert list(lab.pve.guests) == [9000]


def test_a_machine_without_a_template_is_empty_and_not_waited_for(lab: Lab) -> None:
    outcome = lab.run({"name": "brain-vm", "type": "qemu", "state": "started", "vmid": 100, "disk": 3,
                       "network": {"ip": "10.99.0.100/24"}})  # fmt: skip
    assert outcome.vm is not None
    assert (outcome.vm["address"], outcome.vm["status"]) == ("10.99.0.100", "running")
    assert lab.pve.guests[100]["config"]["scsi0"] == "local-lvm:3"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "my_guest"}, "can not name a guest"), ({"tags": ["a b"]}, "is not a tag"), ({"cores": 0}, "cores 0"),
        ({"memory": 8}, "least is 16"), ({"network": {"ip": "10.0.0.5"}}, "no prefix"), ({"vmid": 99}, "least is 100"),
        ({"network": {"ip": "auto"}}, "network.range"), ({"network": {"gateway": "10.0.0.1"}}, "needs a fixed address"),
        ({"network": {"ip": "10.0.0.5/24", "gateway": "10.1.0.1"}}, "is not in 10.0.0.0/24"),
        ({"network": {"ip": "10.0.0.5/24", "nameserver": "dns"}}, "network.nameserver"),
        ({"network": {"ip": "10.0.0.5", "prefix": 40}}, "network.prefix 40"),
        ({"ssh_public_keys": ["x"]}, "SSH public key"), ({"description": "x\nnhi: op-1"}, "kept for our own mark"),
        ({"network": {"ip": "nowhere"}}, "no prefix length"),
        ({"network": {"ip": "10.0.0.1/24", "gateway": "10.0.0.1"}}, "gateway's own"),
    ],
)  # fmt: skip
def test_an_invalid_option_is_refused_before_the_api_is_asked(lab: Lab, options: dict[str, Any], words: str) -> None:
    with pytest.raises(PreflightError, match=words):
        lab.run({**REDIS, **options})
    assert lab.pve.calls == []
