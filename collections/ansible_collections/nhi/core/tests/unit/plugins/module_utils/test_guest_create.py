# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a guest comes to be: where it goes, with which VMID and address, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import PreflightError
from ansible_collections.nhi.core.plugins.module_utils.guest_wait import Patience
from ansible_collections.nhi.core.plugins.module_utils.reservations import Choice, Reservations
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.guest_lab import NETWORK, REDIS, GuestLab


@pytest.fixture
def lab(tmp_path: Path) -> GuestLab:
    return GuestLab(tmp_path)


def test_a_missing_guest_is_created_then_started_and_reported(lab: GuestLab) -> None:
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


def test_the_second_run_changes_nothing(lab: GuestLab) -> None:
    options = {**REDIS, "cores": 2, "memory": 256, "disk": 2, "tags": ["B", "a"], "purpose": "cache", "onboot": True}
    lab.run({**options, "protection": True, "description": "Cache.", "nesting": True})
    lab.pve.calls.clear()
    again = lab.run({**options, "protection": True, "description": "Cache.", "nesting": True})
    assert (again.plan.changed, lab.pve.writes()) == (False, [])
    assert again.vm is not None
    assert again.vm["address"] == "10.99.0.105"


def test_check_mode_only_reads_and_foretells_the_real_run(lab: GuestLab) -> None:
    foretold = lab.run(REDIS, check_mode=True)
    assert foretold.plan.changed
    assert lab.pve.writes() == []
    assert not lab.state_dir.exists()
    done = lab.run(REDIS)
    assert [a.text for a in foretold.plan.actions] == [a.text for a in done.plan.actions]
    assert foretold.vm is not None
    assert done.vm is not None
    assert {k: v for k, v in foretold.vm.items() if k != "cores"} == {k: v for k, v in done.vm.items() if k != "cores"}


def test_everything_missing_is_said_at_once_before_anything_is_done(lab: GuestLab) -> None:
    wish = {**REDIS, "template": "debian-99", "storage": "local", "pool": "nosuch"}
    with pytest.raises(PreflightError) as e:
        lab.run({**wish, "network": {**NETWORK, "bridge": "vmbr9"}})
    for words in ("debian-12-standard_12.2-1", "local on pve does not take rootdir", "vmbr9", "pool nosuch"):
        assert words in str(e.value)
    assert lab.pve.writes() == []
    with pytest.raises(PreflightError, match=r"node pve9 does not exist: nodes are pve \(online\)"):
        lab.run({**REDIS, "node": "pve9"})


def test_the_next_vmid_is_taken_when_somebody_was_faster(lab: GuestLab) -> None:
    def steal() -> None:
        lab.pve.hooks.clear()
        lab.pve.add(105, "stolen")

    lab.pve.hooks["POST /nodes/pve/lxc"] = steal
    outcome = lab.run(REDIS)
    assert outcome.vm is not None
    assert outcome.vm["vmid"] == 106
    assert lab.pve.guests[105]["config"]["hostname"] == "stolen"


def test_a_vmid_that_was_asked_for_and_taken_is_refused_not_replaced(lab: GuestLab) -> None:
    lab.pve.add(120, "secret")
    lab.pve.hidden.add(120)
    with pytest.raises(PreflightError, match="VMID 120 is taken by a guest that is new or that this token can not see"):
        lab.run({**REDIS, "vmid": 120})


def test_vmids_of_hidden_guests_are_passed_over(lab: GuestLab) -> None:
    lab.pve.add(105, "secret")
    lab.pve.hidden.add(105)
    outcome = lab.run(REDIS, check_mode=True)
    assert outcome.vm is not None
    assert outcome.vm["vmid"] == 106


def test_addresses_of_guests_and_of_other_runs_are_passed_over(lab: GuestLab) -> None:
    lab.pve.add(120, "web", net0="name=eth0,bridge=vmbr0,ip=10.99.0.105/24")
    other = Choice(106, {0: IPv4Address("10.99.0.106")})
    Reservations(lab.state_dir).reserve("op-other", "other", datetime.now(UTC), lambda held: other)
    outcome = lab.run(REDIS)
    assert outcome.vm is not None
    assert (outcome.vm["vmid"], outcome.vm["address"]) == (105, "10.99.0.107")


def test_no_free_address_and_no_free_vmid_are_said_with_numbers(lab: GuestLab) -> None:
    lab.pve.add(120, "web", net0="name=eth0,bridge=vmbr0,ip=10.99.0.105/24")
    with pytest.raises(PreflightError, match=r"10.99.0.105-10.99.0.105: all 1 are taken"):
        lab.run({**REDIS, "network": {"range": "10.99.0.105", "prefix": 24}})
    with pytest.raises(PreflightError, match="120-120: all 1 are taken"):
        lab.run({**REDIS, "vmid_range": "120"})
    assert lab.pve.writes() == []
    assert lab.reserved() == []


def test_an_address_of_another_guest_is_refused_for_new_and_present_guests(lab: GuestLab) -> None:
    lab.pve.add(120, "web", net0="name=eth0,bridge=vmbr0,ip=10.99.0.105/24")
    lab.pve.add(121, "old", net0="name=eth0,bridge=vmbr0,ip=10.99.0.121/24")
    with pytest.raises(PreflightError, match=r"10.99.0.105 belongs to LXC 120 web"):
        lab.run({**REDIS, "network": {"ip": "10.99.0.105/24"}})
    with pytest.raises(PreflightError, match="belongs to LXC 120 web"):
        lab.run({"name": "old", "network": {"ip": "10.99.0.105/24"}})
    lab.run({"name": "old", "network": {"ip": "10.99.0.122/24"}})
    assert lab.pve.guests[121]["config"]["net0"] == "name=eth0,bridge=vmbr0,ip=10.99.0.122/24"


@pytest.mark.parametrize("values", [{"port": 99999}, {"port": 0}, {"task": 0}, {"shutdown": -1}])
def test_waiting_times_and_ports_out_of_range_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(PreflightError, match="out of range"):
        Patience(**values)  # type: ignore[arg-type]


def test_privileges_are_asked_for_before_anything_is_done(lab: GuestLab) -> None:
    lab.pve.lacking = {("VM.Allocate", "/vms/105"), ("SDN.Use", "/sdn/zones/localnetwork/vmbr0")}
    words = r"VM.Allocate on /vms/105, SDN.Use on /sdn/zones/localnetwork/vmbr0"
    with pytest.raises(PreflightError, match=words):
        lab.run(REDIS)
    (failed,) = lab.run(REDIS, check_mode=True).plan.failed
    assert (failed.name, "VM.Allocate on /vms/105" in failed.message) == ("privileges", True)
    assert not (lab.state_dir / "reservations.json").exists()
    lab.pve.lacking.discard(("SDN.Use", "/sdn/zones/localnetwork/vmbr0"))
    lab.run({**REDIS, "pool": "ai-lab"}, check_mode=True)  # the pool gives what the VMID does not
    lab.pve.add(106, "web", running=True)
    lab.pve.lacking = {("VM.PowerMgmt", "/vms/106"), ("VM.Config.Memory", "/vms/106"), ("VM.Config.CPU", "/vms/106")}
    with pytest.raises(PreflightError, match=r"lacks VM.Config.Memory on /vms/106, VM.PowerMgmt on /vms/106"):
        lab.run({"name": "web", "memory": 256, "state": "stopped"})
    assert lab.pve.writes() == []
    assert lab.reserved() == []


def test_a_machine_is_cloned_from_a_template_and_made_its_own(lab: GuestLab) -> None:
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


def test_a_clone_smaller_than_its_template_is_refused_before_anything_is_made(lab: GuestLab) -> None:
    lab.pve.add(9000, "debian-cloud", "qemu", template=1, scsi0="local-lvm:base-9000-disk-0,size=3G")
    wish = {**REDIS, "name": "webapp", "type": "qemu", "template": "debian-cloud"}
    with pytest.raises(PreflightError, match="scsi0 of template debian-cloud has 3 GiB and a clone can not shrink"):
        lab.run({**wish, "disk": 2})
    assert lab.pve.writes() == []
    assert lab.run({**wish, "disk": 3}).plan.changed


def test_a_machine_without_a_template_is_empty_and_not_waited_for(lab: GuestLab) -> None:
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
def test_an_invalid_option_is_refused_before_the_api_is_asked(
    lab: GuestLab, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(PreflightError, match=words):
        lab.run({**REDIS, **options})
    assert lab.pve.calls == []
