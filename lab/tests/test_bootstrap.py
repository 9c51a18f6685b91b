"""The prepared tokens can do their own work and nothing else."""

from __future__ import annotations

import stat

import pytest

from lab.tests.harness import TEMPLATE, RunningLab

GUEST = {"ostemplate": TEMPLATE, "rootfs": "local-lvm:1", "net0": "name=eth0,bridge=vmbr0,ip=dhcp", "hostname": "x"}


@pytest.mark.parametrize("who", ["reader", "operator", "creator", "demo"])
def test_everyone_may_look(lab: RunningLab, who: str) -> None:
    lab.container(101)
    rows = lab.request("GET", "/cluster/resources", headers=lab.token(who)).data
    assert {"lxc/101", "node/pve", "storage/pve/local", "storage/pve/local-lvm"} <= {row["id"] for row in rows}


def test_the_reader_changes_nothing(lab: RunningLab) -> None:
    lab.container(101)
    for method, path in (("POST", "/nodes/pve/lxc/101/status/start"), ("DELETE", "/nodes/pve/lxc/101")):
        assert lab.request(method, path, headers=lab.token("reader")).status == 403


def test_the_operator_runs_guests_but_makes_none(lab: RunningLab) -> None:
    lab.container(101)
    operator = lab.token("operator")
    assert lab.wait(lab.request("POST", "/nodes/pve/lxc/101/status/start", headers=operator).data) == "OK"
    assert lab.wait(lab.request("POST", "/nodes/pve/lxc/101/snapshot", {"snapname": "s1"}, operator).data) == "OK"
    assert lab.request("POST", "/nodes/pve/lxc", {"vmid": 102, **GUEST}, operator).status == 403
    assert lab.request("DELETE", "/nodes/pve/lxc/101", headers=operator).status == 403


def test_the_creator_works_in_its_pool_only(lab: RunningLab) -> None:
    lab.container(101)
    creator = lab.token("creator")
    assert lab.request("POST", "/nodes/pve/lxc", {"vmid": 102, **GUEST}, creator).status == 403
    made = lab.request("POST", "/nodes/pve/lxc", {"vmid": 102, "pool": "ai-lab", **GUEST}, creator)
    assert lab.wait(made.data) == "OK"
    assert lab.wait(lab.request("POST", "/nodes/pve/lxc/102/status/start", headers=creator).data) == "OK"
    assert lab.request("PUT", "/nodes/pve/lxc/102/config", {"memory": 256}, creator).status == 200
    assert lab.wait(lab.request("DELETE", "/nodes/pve/lxc/102", {"force": 1}, creator).data) == "OK"
    assert lab.request("DELETE", "/nodes/pve/lxc/101", headers=creator).status == 403


def test_the_demo_token_makes_a_topology(lab: RunningLab) -> None:
    demo = lab.token("demo")
    machine = {"vmid": 100, "name": "brain", "scsi0": "local-lvm:8", "net0": "virtio,bridge=vmbr0", "agent": "1"}
    assert (
        lab.wait(lab.request("POST", "/nodes/pve/qemu", {**machine, "start": 1, "pool": "ai-lab"}, demo).data) == "OK"
    )
    assert lab.wait(lab.request("POST", "/nodes/pve/lxc", {"vmid": 101, "start": 1, **GUEST}, demo).data) == "OK"
    assert lab.request("POST", "/pools", {"poolid": "more"}, demo).status == 200


@pytest.mark.parametrize("name", ["env", "credentials.json", "ssh/id_ed25519", "tls/key.pem", "lab.db"])
def test_secrets_are_for_their_owner_only(lab: RunningLab, name: str) -> None:
    assert stat.S_IMODE((lab.directory / name).stat().st_mode) == 0o600
