"""Several nodes: what each of them has, what all share, and guests on either."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lab.tests.harness import TEMPLATE, RunningLab, running

NODES = ("pve", "pve2")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running(tmp_path_factory.mktemp("cluster"), nodes=NODES) as lab:
        assert lab.task("POST", "/nodes/pve2/lxc", wanted(201)) == "OK"
        yield lab


def wanted(vmid: int, **options: Any) -> dict[str, Any]:
    return {"vmid": vmid, "ostemplate": TEMPLATE, "rootfs": "local-lvm:1", "hostname": f"ct{vmid}", **options}


def volumes(lab: RunningLab, node: str, storage: str, **params: Any) -> list[str]:
    return [entry["volid"] for entry in lab.get(f"/nodes/{node}/storage/{storage}/content", **params)]


def test_guests_live_on_either_node_and_are_found_on_theirs_only(cluster: RunningLab) -> None:
    rows = {row["vmid"]: row["node"] for row in cluster.get("/cluster/resources", type="vm")}
    assert rows[201] == "pve2"
    reply = cluster.request("GET", "/nodes/pve/lxc/201/config")
    assert reply.reason == "Configuration file 'nodes/pve/lxc/201.conf' does not exist"
    assert cluster.task("POST", "/nodes/pve2/lxc/201/status/start") == "OK"
    assert cluster.get("/nodes/pve2/lxc/201/status/current")["status"] == "running"
    cluster.task("POST", "/nodes/pve2/lxc/201/status/stop")


def test_a_storage_has_a_row_per_node_and_says_whether_it_is_shared(cluster: RunningLab) -> None:
    rows = {row["id"]: row["shared"] for row in cluster.get("/cluster/resources", type="storage")}
    assert {name: rows[f"storage/{name}/local"] for name in NODES} == {"pve": 0, "pve2": 0}
    assert {name: rows[f"storage/{name}/shared"] for name in NODES} == {"pve": 1, "pve2": 1}
    assert cluster.get("/storage/shared")["shared"] == 1


def test_a_single_node_has_no_shared_storage(tmp_path: Path) -> None:
    with running(tmp_path) as lab:
        assert [entry["storage"] for entry in lab.get("/storage")] == ["local", "local-lvm", "local-dir"]


def test_a_storage_can_be_on_some_nodes_only(cluster: RunningLab) -> None:
    options = {"storage": "shelf", "type": "dir", "path": "/srv", "content": "rootdir,vztmpl", "nodes": "pve2"}
    assert cluster.request("POST", "/storage", options).status == 200
    assert [row["id"] for row in cluster.get("/cluster/resources", type="storage") if row["storage"] == "shelf"] == [
        "storage/pve2/shelf"
    ]
    assert "shelf" not in [entry["storage"] for entry in cluster.get("/nodes/pve/storage")]
    text = "storage 'shelf' is not available on node 'pve'"
    template = volumes(cluster, "pve2", "shelf")[0]
    assert cluster.request("GET", "/nodes/pve/storage/shelf/content").reason == text
    assert cluster.request("POST", "/nodes/pve/lxc", wanted(210, ostemplate=template)).reason == text
    assert cluster.request("POST", "/nodes/pve/lxc", wanted(210, rootfs="shelf:1")).reason == text
    assert cluster.task("POST", "/nodes/pve2/lxc", wanted(210, ostemplate=template, rootfs="shelf:1")) == "OK"


def test_a_clone_goes_to_another_node_on_shared_storage_only(cluster: RunningLab) -> None:
    clone = {"newid": 221, "target": "pve2"}
    assert cluster.task("POST", "/nodes/pve/lxc", wanted(220, rootfs="shared:1")) == "OK"
    assert cluster.task("POST", "/nodes/pve/lxc/220/clone", clone) == "OK"
    assert cluster.get("/nodes/pve2/lxc/221/config")["rootfs"].startswith("shared:")
    reply = cluster.request("POST", "/nodes/pve/lxc/220/clone", {**clone, "newid": 222, "storage": "local-lvm"})
    assert reply.reason == "can't clone to non-shared storage 'local-lvm'"
    cluster.task("POST", "/nodes/pve/lxc", wanted(223))
    reply = cluster.request("POST", "/nodes/pve/lxc/223/clone", {**clone, "newid": 224})
    assert reply.reason == "can't clone CT to node 'pve2' (CT uses local storage)"


def test_backups_on_local_storage_are_seen_by_the_node_that_wrote_them(cluster: RunningLab) -> None:
    for storage in ("local", "shared"):
        assert cluster.task("POST", "/nodes/pve2/vzdump", {"vmid": 201, "storage": storage, "mode": "stop"}) == "OK"
    [backup] = volumes(cluster, "pve2", "local", content="backup")
    assert volumes(cluster, "pve", "local", content="backup") == []
    restore = {"vmid": 230, "ostemplate": backup, "restore": 1, "storage": "local-lvm"}
    reply = cluster.request("POST", "/nodes/pve/lxc", restore)
    assert reply.reason == f"unable to restore CT 230 - volume '{backup}' does not exist"
    reply = cluster.request("GET", "/nodes/pve/vzdump/extractconfig", {"volume": backup})
    assert reply.reason == f"volume '{backup}' does not exist"
    [backup] = volumes(cluster, "pve", "shared", content="backup")
    assert cluster.task("POST", "/nodes/pve/lxc", {**restore, "ostemplate": backup}) == "OK"
    assert cluster.get("/nodes/pve/lxc/230/config")["hostname"] == "ct201"


def test_vzdump_answers_ok_in_place_of_a_task_for_guests_of_another_node(cluster: RunningLab) -> None:
    reply = cluster.request("POST", "/nodes/pve/vzdump", {"vmid": 201, "storage": "local"})
    assert reply.data == "OK"


class TestNetworks:
    """VLAN tags, IPv6 and several interfaces are kept, given back and shown."""

    NETS: ClassVar[dict[str, str]] = {
        "net0": "name=eth0,bridge=vmbr0,ip=10.99.0.60/24,gw=10.99.0.1,ip6=fd00:99::60/64,gw6=fd00:99::1,tag=30",
        "net1": "name=eth1,bridge=vmbr0,ip=dhcp,ip6=auto",
        "net2": "name=eth2,bridge=vmbr0,ip6=fd00:98::60/64",
    }

    def test_of_a_container(self, cluster: RunningLab) -> None:
        assert cluster.task("POST", "/nodes/pve2/lxc", {**wanted(240), **self.NETS, "start": 1}) == "OK"
        config = cluster.get("/nodes/pve2/lxc/240/config")
        for option, value in self.NETS.items():
            assert set(value.split(",")) <= set(config[option].split(","))
        while not (found := cluster.get("/nodes/pve2/lxc/240/interfaces")):
            pass
        shown = {entry["name"]: [a["ip-address"] for a in entry["ip-addresses"]] for entry in found}
        assert shown["eth0"][:2] == ["10.99.0.60", "fd00:99::60"]
        assert [address.partition(":")[0].partition(".")[0] for address in shown["eth1"]] == ["127", "fe80"]
        assert shown["eth2"][0] == "fd00:98::60"

    def test_of_a_machine(self, cluster: RunningLab) -> None:
        options = {
            "vmid": 241, "name": "vm241", "scsi0": "local-lvm:1", "agent": "1", "net0": "virtio,bridge=vmbr0,tag=30",
            "net1": "virtio,bridge=vmbr0", "ipconfig0": "ip=10.99.0.61/24,ip6=fd00:99::61/64", "ipconfig1": "ip6=auto",
        }  # fmt: skip
        assert cluster.task("POST", "/nodes/pve/qemu", options) == "OK"
        assert cluster.get("/nodes/pve/qemu/241/config")["net0"].endswith(",tag=30")
        cluster.task("POST", "/nodes/pve/qemu/241/status/start")
        result = cluster.get("/nodes/pve/qemu/241/agent/network-get-interfaces")["result"]
        shown = {entry["name"]: [a["ip-address-type"] for a in entry["ip-addresses"]] for entry in result}
        assert shown == {"lo": ["ipv4", "ipv6"], "eth0": ["ipv4", "ipv6", "ipv6"], "eth1": ["ipv6"]}

    def test_a_vlan_needs_its_own_permission(self, cluster: RunningLab) -> None:
        headers = cluster.new_token("nhi@pve", "vlan")
        acl = {"path": "/", "roles": "NHICreator,NHIStorage", "tokens": "nhi@pve!vlan"}
        cluster.request("PUT", "/access/acl", acl)
        cluster.request(
            "PUT", "/access/acl", {"path": "/sdn/zones/localnetwork", "roles": "NHINetwork", "users": "nhi@pve"}
        )
        reply = cluster.request("POST", "/nodes/pve/lxc", {**wanted(242), "net0": self.NETS["net0"]}, headers)
        assert reply.reason == "Permission check failed (/sdn/zones/localnetwork/vmbr0/30, SDN.Use)"


class TestPending:
    """What a running machine takes over only when it starts again."""

    @pytest.fixture
    def machine(self, tmp_path: Path) -> Iterator[RunningLab]:
        with running(tmp_path) as lab:
            lab.machine(200, cores=1, memory=512)
            lab.task("POST", "/nodes/pve/qemu/200/status/start")
            lab.request("PUT", "/nodes/pve/qemu/200/config", {"cores": 2, "memory": 1024, "tags": "a", "vga": "std"})
            yield lab

    def pending(self, lab: RunningLab, *options: str) -> list[dict[str, Any]]:
        return [entry for entry in lab.get("/nodes/pve/qemu/200/pending") if entry["key"] in options]

    def test_waits_and_is_shown(self, machine: RunningLab) -> None:
        assert machine.get("/nodes/pve/qemu/200/config")["cores"] == 2
        assert machine.get("/nodes/pve/qemu/200/status/current")["cpus"] == 1
        assert self.pending(machine, "cores", "tags", "vga") == [
            {"key": "cores", "value": 1, "pending": 2},
            {"key": "tags", "value": "a"},
            {"key": "vga", "pending": "std"},
        ]

    def test_a_removal_waits_too(self, machine: RunningLab) -> None:
        machine.request("PUT", "/nodes/pve/qemu/200/config", {"delete": "cores"})
        assert self.pending(machine, "cores") == [{"key": "cores", "value": 1, "delete": 1}]

    def test_going_back_leaves_nothing_to_wait_for(self, machine: RunningLab) -> None:
        machine.request("PUT", "/nodes/pve/qemu/200/config", {"cores": 1})
        assert self.pending(machine, "cores") == [{"key": "cores", "value": 1}]
        machine.request("PUT", "/nodes/pve/qemu/200/config", {"revert": "memory"})
        assert self.pending(machine, "memory") == [{"key": "memory", "value": "512"}]

    @pytest.mark.parametrize("calls", [["reboot"], ["stop", "start"]])
    def test_a_start_brings_it(self, machine: RunningLab, calls: list[str]) -> None:
        for name in calls:
            assert machine.task("POST", f"/nodes/pve/qemu/200/status/{name}") == "OK"
        assert self.pending(machine, "cores") == [{"key": "cores", "value": 2}]
        assert machine.get("/nodes/pve/qemu/200/status/current")["cpus"] == 2

    def test_a_container_takes_cores_and_memory_at_once(self, machine: RunningLab) -> None:
        machine.container(101, cores=1)
        machine.task("POST", "/nodes/pve/lxc/101/status/start")
        machine.request("PUT", "/nodes/pve/lxc/101/config", {"cores": 2, "features": "nesting=1"})
        entries = {entry["key"]: entry for entry in machine.get("/nodes/pve/lxc/101/pending")}
        assert entries["cores"] == {"key": "cores", "value": 2}
        assert entries["features"] == {"key": "features", "pending": "nesting=1"}
