"""The modules of community.proxmox as published: containers, machines, snapshots, backups, pools, facts."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from lab.tests.contract.conftest import Clients

pytestmark = pytest.mark.slow

NODE = "pve"
NUMBERS = itertools.count(200)


@pytest.fixture(scope="module")
def template(clients: Clients) -> str:
    content = clients.ok("proxmox_storage_contents_info", node=NODE, storage="local")["proxmox_storage_content"]
    return next(str(volume["volid"]) for volume in content if volume["content"] == "vztmpl")


@pytest.fixture(scope="module")
def storage(clients: Clients) -> str:
    stores = clients.ok("proxmox_storage_info")["proxmox_storages"]
    return next(str(store["storage"]) for store in stores if "rootdir" in store["content"])


@pytest.fixture
def vmid() -> int:
    return next(NUMBERS)


@pytest.fixture
def container(clients: Clients, template: str, storage: str, vmid: int) -> int:
    made = clients.ok(
        "proxmox",
        vmid=vmid,
        node=NODE,
        hostname=f"ct{vmid}",
        ostemplate=template,
        storage=storage,
        memory=64,
        state="present",
    )
    assert made["changed"]
    return vmid


@pytest.fixture
def machine(clients: Clients, vmid: int) -> int:
    assert clients.ok("proxmox_kvm", vmid=vmid, node=NODE, name=f"vm{vmid}", memory=64, state="present")["changed"]
    return vmid


def status(clients: Clients, vmid: int) -> str:
    [row] = clients.ok("proxmox_vm_info", vmid=vmid)["proxmox_vms"]
    return str(row["status"])


class TestContainers:
    def test_life(self, clients: Clients, container: int) -> None:
        for state, running in (("started", "running"), ("restarted", "running"), ("stopped", "stopped")):
            assert clients.ok("proxmox", vmid=container, state=state)["changed"], state
            assert status(clients, container) == running
        assert clients.ok("proxmox", vmid=container, state="absent")["changed"]
        assert clients.ok("proxmox_vm_info", vmid=container)["proxmox_vms"] == []

    @pytest.mark.parametrize("state", ["stopped", "present"])
    def test_a_second_time_nothing_changes(self, clients: Clients, template: str, container: int, state: str) -> None:
        again = {"ostemplate": template, "hostname": f"ct{container}", "node": NODE} if state == "present" else {}
        assert not clients.ok("proxmox", vmid=container, state=state, **again)["changed"]

    def test_options_arrive(self, clients: Clients, template: str, storage: str, vmid: int) -> None:
        clients.ok(
            "proxmox",
            vmid=vmid,
            node=NODE,
            hostname="web",
            ostemplate=template,
            disk=f"{storage}:2",
            cores=2,
            memory=128,
            swap=0,
            onboot=True,
            tags=["web", "lab"],
            unprivileged=True,
            features=["nesting=1"],
            netif={"net0": "name=eth0,bridge=vmbr0,ip=10.99.0.9/24"},
            pubkey=None,
            description="made by a test",
        )
        [row] = clients.ok("proxmox_vm_info", vmid=vmid, config="current", network=False)["proxmox_vms"]
        config = row["config"]
        assert (config["cores"], config["memory"], config["swap"], config["onboot"]) == (2, 128, 0, 1)
        assert (config["tags"], config["features"], config["hostname"]) == ("lab;web", "nesting=1", "web")
        assert "ip=10.99.0.9/24" in config["net0"]
        assert config["rootfs"].endswith("size=2G")

    def test_update(self, clients: Clients, container: int) -> None:
        change = {
            "vmid": container,
            "node": NODE,
            "memory": 96,
            "hostname": f"ct{container}",
            "update": True,
            "state": "present",
        }
        assert clients.ok("proxmox", **change)["changed"]
        assert not clients.ok("proxmox", **change)["changed"]

    def test_clone(self, clients: Clients, container: int, storage: str) -> None:
        new = next(NUMBERS)
        assert clients.ok("proxmox", vmid=new, node=NODE, clone=container, hostname="copy", storage=storage)["changed"]
        [row] = clients.ok("proxmox_vm_info", name="copy")["proxmox_vms"]
        assert row["vmid"] == new

    def test_template(self, clients: Clients, container: int) -> None:
        assert clients.ok("proxmox", vmid=container, state="template")["changed"]
        assert not clients.ok("proxmox", vmid=container, state="template")["changed"]

    def test_a_missing_template_is_told(self, clients: Clients, storage: str, vmid: int) -> None:
        answer = clients.module(
            "proxmox", vmid=vmid, node=NODE, hostname="x", ostemplate="local:vztmpl/nosuch.tar.zst", storage=storage
        )
        assert answer["failed"]
        assert "nosuch.tar.zst" in answer["msg"]


class TestMachines:
    def test_life(self, clients: Clients, machine: int) -> None:
        for state, running in (("started", "running"), ("restarted", "running"), ("stopped", "stopped")):
            clients.ok("proxmox_kvm", vmid=machine, node=NODE, state=state, force=state == "stopped")
            assert status(clients, machine) == running
        assert clients.ok("proxmox_kvm", vmid=machine, node=NODE, state="absent")["changed"]
        assert clients.ok("proxmox_vm_info", vmid=machine)["proxmox_vms"] == []

    def test_a_second_time_nothing_changes(self, clients: Clients, machine: int) -> None:
        again = clients.ok("proxmox_kvm", vmid=machine, node=NODE, name=f"vm{machine}", state="present")
        assert not again["changed"]

    def test_update_and_current(self, clients: Clients, machine: int) -> None:
        clients.ok("proxmox_kvm", vmid=machine, node=NODE, name=f"vm{machine}", memory=128, cores=2, update=True)
        [row] = clients.ok("proxmox_vm_info", vmid=machine, config="current")["proxmox_vms"]
        assert (int(row["config"]["memory"]), row["config"]["cores"]) == (128, 2)
        assert clients.ok("proxmox_kvm", vmid=machine, node=NODE, state="current")["status"] == "stopped"

    def test_clone(self, clients: Clients, machine: int) -> None:
        new = next(NUMBERS)
        clients.ok(
            "proxmox_kvm",
            vmid=machine,
            newid=new,
            node=NODE,
            clone=f"vm{machine}",
            name=f"vm{new}",
            full=True,
            timeout=60,
        )
        assert status(clients, new) == "stopped"

    def test_disk(self, clients: Clients, machine: int) -> None:
        disk = {"vmid": machine, "disk": "scsi1"}
        assert clients.ok("proxmox_disk", **disk, storage="local-lvm", size=1, state="present")["changed"]
        assert clients.ok("proxmox_disk", **disk, size="+1G", state="resized")["changed"]
        [row] = clients.ok("proxmox_vm_info", vmid=machine, config="current")["proxmox_vms"]
        assert "size=2G" in row["config"]["scsi1"]

    def test_network_card(self, clients: Clients, machine: int) -> None:
        card = {"vmid": machine, "interface": "net3", "bridge": "vmbr0", "firewall": True}
        told = [clients.ok("proxmox_nic", **card, state=state)["msg"] for state in ("present", "present", "absent")]
        assert [text.removesuffix(f" on VM with vmid {machine}") for text in told] == [
            "Nic net3 updated",
            "Nic net3 unchanged",
            "Nic net3 deleted",
        ]


class TestSnapshots:
    @pytest.mark.parametrize("kind", ["container", "machine"])
    def test_life(self, clients: Clients, request: pytest.FixtureRequest, kind: str) -> None:
        vmid = request.getfixturevalue(kind)
        snap = {"vmid": vmid, "snapname": "before", "timeout": 30}
        assert clients.ok("proxmox_snap", **snap, state="present", description="text")["changed"]
        assert not clients.ok("proxmox_snap", **snap, state="present")["changed"]
        assert clients.ok("proxmox_snap", **snap, state="rollback")["changed"]
        assert clients.ok("proxmox_snap", **snap, state="absent")["changed"]
        assert not clients.ok("proxmox_snap", **snap, state="absent")["changed"]

    def test_retention(self, clients: Clients, container: int) -> None:
        for n in range(3):
            clients.ok("proxmox_snap", vmid=container, snapname=f"s{n}", state="present", retention=2, timeout=30)
        assert not clients.ok("proxmox_snap", vmid=container, snapname="s0", state="absent")["changed"]


class TestBackups:
    def test_backup_and_restore(self, clients: Clients, machine: int) -> None:
        done = clients.ok(
            "proxmox_backup",
            mode="include",
            vmids=[machine],
            storage="local",
            backup_mode="stop",
            compress="zstd",
            wait=True,
            wait_timeout=30,
            description="{{guestname}}",
        )
        assert [backup["status"] for backup in done["backups"]] == ["success"]
        content = clients.ok(
            "proxmox_storage_contents_info", node=NODE, storage="local", content="backup", vmid=machine
        )
        [archive] = content["proxmox_storage_content"]
        assert archive["notes"].strip() == f"vm{machine}"
        new = next(NUMBERS)
        assert clients.ok("proxmox_kvm", vmid=new, node=NODE, name="restored", archive=archive["volid"])["changed"]
        assert status(clients, new) == "stopped"


class TestPools:
    def test_life(self, clients: Clients, container: int) -> None:
        assert clients.ok("proxmox_pool", poolid="team", comment="x")["changed"]
        assert not clients.ok("proxmox_pool", poolid="team")["changed"]
        member: dict[str, Any] = {"poolid": "team", "member": str(container), "type": "vm"}
        assert clients.ok("proxmox_pool_member", **member)["changed"]
        assert not clients.ok("proxmox_pool_member", **member)["changed"]
        assert "remove members" in clients.module("proxmox_pool", poolid="team", state="absent")["msg"]
        assert clients.ok("proxmox_pool_member", **member, state="absent")["changed"]
        assert clients.ok("proxmox_pool", poolid="team", state="absent")["changed"]


class TestAccess:
    def test_users(self, clients: Clients) -> None:
        user = {"userid": "alice@pve", "firstname": "Alice"}
        assert clients.ok("proxmox_user", **user, password="correct-horse")["changed"]
        assert not clients.ok("proxmox_user", **user)["changed"]
        [found] = clients.ok("proxmox_user_info", userid="alice@pve")["proxmox_users"]
        assert found["firstname"] == "Alice"
        assert clients.ok("proxmox_user", userid="alice@pve", state="absent")["changed"]

    def test_grants(self, clients: Clients) -> None:
        clients.ok("proxmox_user", userid="bob@pve")
        grant = {"path": "/vms", "type": "user", "ugid": "bob@pve", "roleid": "PVEVMAdmin"}
        changes = [
            clients.ok("proxmox_access_acl", **grant, state=state)["changed"]
            for state in ("present", "present", "absent", "absent")
        ]
        assert changes == [True, False, True, False]

    def test_realms_and_groups(self, clients: Clients) -> None:
        assert {d["realm"] for d in clients.ok("proxmox_domain_info")["proxmox_domains"]} == {"pam", "pve"}
        assert clients.ok("proxmox_group_info")["proxmox_groups"] == []


class TestFacts:
    def test_nodes(self, clients: Clients) -> None:
        [node] = clients.ok("proxmox_node_info")["proxmox_nodes"]
        assert (node["node"], node["status"]) == (NODE, "online")
        assert {"cpu", "maxcpu", "mem", "maxmem", "disk", "maxdisk", "uptime", "ssl_fingerprint"} <= set(node)

    def test_storages(self, clients: Clients) -> None:
        assert "local" in [s["storage"] for s in clients.ok("proxmox_storage_info")["proxmox_storages"]]
        [local] = clients.ok("proxmox_storage_info", storage="local")["proxmox_storages"]
        assert local["type"] == "dir"
        assert {s["type"] for s in clients.ok("proxmox_storage_info", type="dir")["proxmox_storages"]} == {"dir"}

    def test_tasks(self, clients: Clients, container: int) -> None:
        tasks = clients.ok("proxmox_tasks_info", node=NODE)["proxmox_tasks"]
        [task] = [t for t in tasks if t["id"] == str(container) and t["type"] == "vzcreate"]
        assert task["status"] == "OK"
        assert clients.ok("proxmox_tasks_info", node=NODE, task=task["upid"])["proxmox_tasks"] == [task]

    def test_users(self, clients: Clients) -> None:
        users = clients.ok("proxmox_user_info")["proxmox_users"]
        assert "root@pam" in [user["userid"] for user in users]
        [root] = clients.ok("proxmox_user_info", userid="root@pam")["proxmox_users"]
        assert root["enabled"]

    def test_machines_with_configuration_and_network(self, clients: Clients, container: int) -> None:
        clients.ok("proxmox", vmid=container, state="started")
        [row] = clients.ok("proxmox_vm_info", vmid=container, config="current", network=True)["proxmox_vms"]
        assert row["config"]["hostname"] == f"ct{container}"
        assert isinstance(row["network"], list)

    def test_template_that_is_there(self, clients: Clients, template: str) -> None:
        name = template.rpartition("/")[2]
        answer = clients.ok("proxmox_template", node=NODE, storage="local", template=name, content_type="vztmpl")
        assert not answer["changed"]

    def test_absent_template(self, clients: Clients) -> None:
        answer = clients.ok("proxmox_template", node=NODE, storage="local", template="nosuch.tar.zst", state="absent")
        assert not answer["changed"]
