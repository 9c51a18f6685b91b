# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clones of containers and machines: what is refused beforehand, and what a clone never takes from its source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import GuestChangeError, PreflightError, ProxmoxError
from ansible_collections.nhi.core.plugins.module_utils.guest_spec import split_marker
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.guest_lab import NETWORK, GuestLab

SOURCE: dict[str, Any] = {
    "description": "The original.\n\nnhi: op-of-the-source\n", "protection": 1, "tags": "brain;svc-redis",
    "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=10.99.0.5/24,gw=10.99.0.1",
    "net1": "name=eth1,bridge=vmbr0,hwaddr=BC:24:11:00:00:02,ip=10.99.1.5/24,ip6=fd00::5/64,gw6=fd00::1",
    "net2": "name=eth2,bridge=vmbr0,hwaddr=BC:24:11:00:00:03,ip=dhcp,ip6=auto",
    "mp0": "local-lvm:vm-120-disk-1,size=2G,mp=/srv",
}  # fmt: skip
COPY = {"name": "copy", "clone": "origin"}


@pytest.fixture
def lab(tmp_path: Path) -> GuestLab:
    found = GuestLab(tmp_path)
    found.pve.add(120, "origin", **SOURCE)
    return found


def test_a_container_is_cloned_and_nothing_that_may_exist_once_is_in_the_clone(lab: GuestLab) -> None:
    outcome = lab.run({**COPY, "state": "started", "network": NETWORK, "pool": "ai-lab", "memory": 1024, "disk": 8,
                       "mount_volumes": [{"id": "mp0", "mountpoint": "/srv", "size": 3}]})  # fmt: skip
    clone = lab.pve.guests[105]
    config = clone["config"]
    assert (config["hostname"], clone["pool"], config["memory"], clone["running"]) == ("copy", "ai-lab", 1024, True)
    assert split_marker(config["description"]) == ("", outcome.operation)
    assert not {"protection", "tags"} & config.keys()
    assert config["net0"] == "name=eth0,bridge=vmbr0,ip=10.99.0.105/24,gw=10.99.0.1"
    assert config["net1"] == "name=eth1,bridge=vmbr0"
    assert config["net2"] == "name=eth2,bridge=vmbr0,ip=dhcp,ip6=auto"
    assert (config["rootfs"][-2:], "size=3G" in config["mp0"]) == ("8G", True)
    assert SOURCE.items() <= lab.pve.guests[120]["config"].items(), "the source stays as it is"
    call = next(data for _method, path, data in lab.pve.calls if path == "/nodes/pve/lxc/120/clone")
    assert (call["full"], call["newid"], call.get("target")) == (1, 105, None)
    assert not lab.run({**COPY, "state": "started", "network": NETWORK, "memory": 1024}).plan.changed


def test_a_clone_is_of_its_sources_kind_and_check_mode_foretells_it(lab: GuestLab) -> None:
    lab.pve.add(121, "machine", "qemu", protection=1, scsi0="local-lvm:vm-121-disk-0,size=3G",
                net0="virtio=BC:24:11:00:00:09,bridge=vmbr0,firewall=1", ipconfig0="ip=10.99.0.21/24",
                net1="virtio=BC:24:11:00:00:0A,bridge=vmbr0", ipconfig1="ip=10.99.1.21/24")  # fmt: skip
    foretold = lab.run({"name": "copy", "clone": "121"}, check_mode=True)
    assert lab.pve.writes() == []
    done = lab.run({"name": "copy", "clone": "121"})
    assert [a.text for a in foretold.plan.actions] == [a.text for a in done.plan.actions]
    assert "as a clone of VM 121" in done.plan.actions[0].text
    config = lab.pve.guests[105]["config"]
    assert (config["net0"], config["net1"]) == ("virtio,bridge=vmbr0,firewall=1", "virtio,bridge=vmbr0")
    assert config["ipconfig0"] == "ip=dhcp"
    assert not {"ipconfig1", "protection"} & config.keys()
    assert foretold.vm == done.vm


def test_a_snapshot_is_cloned_as_it_was(lab: GuestLab) -> None:
    lab.pve.guests[120]["running"] = True
    lab.pve.guests[120]["snapshots"]["good"] = {"config": {**lab.pve.guests[120]["config"], "memory": 256}}
    outcome = lab.run({**COPY, "snapname": "good"})
    assert outcome.vm is not None
    assert outcome.vm["memory"] == 256
    assert "at snapshot good" in outcome.plan.actions[0].text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clone": "nosuch"}, r"clone nosuch is not a guest that this token can see; guests: origin \(120 on pve\)"),
        ({"snapname": "gone"}, "LXC 120 origin has no snapshot gone; its snapshots: good"),
        ({"full": False}, "is not a template, and only templates have linked clones: set full: true"),
        ({"type": "qemu"}, "is of type lxc, and so is its clone"), ({"disk": 2}, "a clone can not shrink to 2 GiB"),
        ({"ssh_public_keys": ["ssh-ed25519 AAAA me"]}, "can not be put into a clone of a container"),
        ({"unprivileged": False}, "which can not be changed"), ({"ciuser": "me"}, "only virtual machines"),
        ({"features": ["fuse"]}, "can not be set with an API token"), ({"storage": "local"}, "does not take rootdir"),
        ({"mount_volumes": [{"id": "mp0", "mountpoint": "/srv", "size": 1}]}, "mp0 of copy has 2 GiB and can not"),
        ({"node": "pve9"}, "can not be cloned to node pve9: storage local-lvm is local to pve"),
    ],
)  # fmt: skip
def test_what_proxmox_would_refuse_is_said_before_anything_is_done(
    lab: GuestLab, options: dict[str, Any], words: str
) -> None:
    lab.pve.guests[120]["snapshots"]["good"] = {"config": lab.pve.guests[120]["config"]}
    with pytest.raises(PreflightError, match=words):
        lab.run({**COPY, **options})
    assert lab.pve.writes() == []
    assert lab.reserved() == []


def test_everything_that_is_wrong_with_a_source_is_said_at_once(lab: GuestLab) -> None:
    lab.pve.guests[120]["running"] = True
    lab.pve.guests[120]["config"] |= {"lock": "backup", "mp1": "/tank/media,mp=/media"}
    with pytest.raises(PreflightError) as e:
        lab.run({**COPY, "disk": 1, "pool": "nosuch"})
    for words in ("is locked (backup)", "is running, and a running guest is cloned from a snapshot only: set snapname",
                  "mp1 (/tank/media)", "can not shrink to 1 GiB", "pool nosuch"):  # fmt: skip
        assert words in str(e.value)
    assert lab.pve.writes() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"template": "debian-12"}, "give one of them"), ({"clone": None, "snapname": "x1"}, "does not say of which"),
        ({"clone": None, "full": False}, "not say which guest"), ({"snapname": "current"}, "can not name a snapshot"),
        ({"full": False, "storage": "local-lvm"}, "lies where its template lies"),
    ],
)  # fmt: skip
def test_options_that_contradict_each_other_are_refused(lab: GuestLab, options: dict[str, Any], words: str) -> None:
    with pytest.raises(PreflightError, match=words):
        lab.run({**COPY, **options})
    assert lab.pve.calls == []


def test_a_linked_clone_is_made_from_a_template_whose_storage_can(lab: GuestLab) -> None:
    lab.pve.guests[120]["config"]["template"] = 1
    lab.pve.snapshots_possible = False
    with pytest.raises(PreflightError, match=r"storage of LXC 120 origin \(local-lvm\) can not make linked clones"):
        lab.run({**COPY, "full": False})
    lab.pve.snapshots_possible = True
    outcome = lab.run({**COPY, "full": False})
    call = next(data for _method, path, data in lab.pve.calls if path == "/nodes/pve/lxc/120/clone")
    assert call["full"] == 0
    assert "as a linked clone of LXC 120" in outcome.plan.actions[0].text


def test_rights_on_the_source_its_storage_and_its_networks_are_asked_for(lab: GuestLab) -> None:
    lab.pve.guests[120]["config"]["net1"] += ",tag=40"
    lab.pve.lacking = {("VM.Clone", "/vms/120"), ("Datastore.AllocateSpace", "/storage/local-lvm"),
                       ("SDN.Use", "/sdn/zones/localnetwork/vmbr0/40")}  # fmt: skip
    with pytest.raises(PreflightError) as e:
        lab.run(COPY)
    for privilege, path in lab.pve.lacking:
        assert f"{privilege} on {path}" in str(e.value)


def test_a_machine_without_a_cloud_init_drive_is_warned_about(lab: GuestLab) -> None:
    lab.pve.add(121, "machine", "qemu", template=1, scsi0="local-lvm:base-121-disk-0,size=3G")
    wish = {"name": "copy", "clone": "machine", "network": {"ip": "10.99.0.9/24"}, "ciuser": "me", "cipassword": "x"}
    warnings = lab.run(wish, check_mode=True).plan.warnings
    assert "no cloud-init drive, so its clone never hears of an address, ciuser, cipassword: add one" in str(warnings)
    assert lab.run({"name": "copy", "clone": "machine"}, check_mode=True).plan.warnings == []
    lab.pve.guests[121]["config"]["ide2"] = "local-lvm:vm-121-cloudinit,media=cdrom"
    done = lab.run(wish)
    assert done.plan.warnings == []
    assert lab.pve.guests[105]["config"]["cipassword"] == "x"


@pytest.mark.parametrize("task", ["vzclone", "resize", "start"])
def test_a_clone_that_fails_half_way_is_destroyed_again_and_its_source_stays(lab: GuestLab, task: str) -> None:
    lab.pve.failing_tasks[task] = "no space left"
    if task == "vzclone":
        lab.pve.guests[120]["config"]["protection"] = 0  # a clone that failed is no guest that Proxmox VE protects
    with pytest.raises(GuestChangeError, match=r"no space left.*LXC 105 copy was destroyed again"):
        lab.run({**COPY, "state": "started", "disk": 8, "network": NETWORK})
    assert list(lab.pve.guests) == [120]
    assert lab.reserved() == []


# Half-made clones of a protected source, which are protected like it until they are configured


def fail() -> None:
    raise ProxmoxError("no", status=500)


@pytest.mark.parametrize("failing", ["PUT /nodes/pve/lxc/105/config", "GET /nodes/pve/lxc/105/status/current"])
def test_a_half_made_clone_of_a_protected_source_is_destroyed_again(lab: GuestLab, failing: str) -> None:
    def once() -> None:
        del lab.pve.hooks[failing]
        fail()

    lab.pve.hooks[failing] = once
    with pytest.raises(GuestChangeError, match=r"Undone: LXC 105 copy was destroyed again"):
        lab.run(COPY)
    assert list(lab.pve.guests) == [120]
    assert lab.pve.guests[120]["config"]["protection"] == 1


def test_a_clone_that_somebody_protected_since_is_not_destroyed(lab: GuestLab) -> None:
    def protected() -> None:
        lab.pve.hooks.clear()
        lab.pve.guests[105]["config"]["protection"] = 1
        fail()

    lab.pve.hooks["POST /nodes/pve/lxc/105/status/start"] = protected
    with pytest.raises(GuestChangeError, match=r"may be left on pve and could not be removed"):
        lab.run({**COPY, "state": "started"})
    assert lab.pve.guests[105]["config"]["protection"] == 1


def test_a_new_guest_that_somebody_protected_is_not_destroyed(lab: GuestLab) -> None:
    def protected() -> None:
        lab.pve.hooks.clear()
        lab.pve.guests[105]["config"]["protection"] = 1
        fail()

    lab.pve.hooks["POST /nodes/pve/lxc/105/status/start"] = protected
    with pytest.raises(GuestChangeError, match=r"could not be removed"):
        lab.run({"name": "fresh", "template": "debian-12", "state": "started"})
    assert lab.pve.guests[105]["config"]["protection"] == 1


def test_a_protected_guest_that_took_the_vmid_is_left_alone(lab: GuestLab) -> None:
    def swapped() -> None:
        lab.pve.hooks.clear()
        lab.pve.add(105, "theirs", protection=1)
        fail()

    lab.pve.hooks["PUT /nodes/pve/lxc/105/config"] = swapped
    with pytest.raises(GuestChangeError, match="which this run did not make: it was left alone"):
        lab.run(COPY)
    assert lab.pve.guests[105]["config"]["protection"] == 1
