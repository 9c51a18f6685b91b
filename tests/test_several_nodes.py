"""A cluster of three nodes: where guests go, how they are found elsewhere, and what only one node has."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import ProxmoxClient, endpoint_from_params

from .conftest import Operator, running_lab, tool

pytestmark = pytest.mark.e2e

NODES = ("pve", "pve2", "pve3")
vmids = itertools.count(120)


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    directory = tmp_path_factory.mktemp("cluster")
    with running_lab(directory / "lab", "--driver", "memory", "--no-lag", "--nodes", ",".join(NODES)) as lab:
        (directory / "infrastructure").mkdir()
        yield Operator(lab, directory / "infrastructure")


@pytest.fixture(autouse=True)
def no_faults(operator: Operator) -> Iterator[None]:
    yield
    operator.lab.fault("clear")


def client(operator: Operator) -> ProxmoxClient:
    env = operator.lab.env
    params = {
        "api_host": "127.0.0.1", "api_port": operator.lab.port, "validate_certs": False, "api_user": "nhi@pve",
        "api_token_id": env["PROXMOX_TOKEN_ID"], "api_token_secret": env["PROXMOX_TOKEN_SECRET"],
    }  # fmt: skip
    return ProxmoxClient(endpoint_from_params(params))


def do(operator: Operator, module: str, /, **options: Any) -> dict[str, Any]:
    result = operator.module(module, **options)
    assert not result.get("failed"), result
    return result


def refused(operator: Operator, module: str, /, **options: Any) -> str:
    before = len(operator.lab.writes())
    result = operator.module(module, **options)
    assert result.get("failed"), result
    assert len(operator.lab.writes()) == before
    message: str = result["msg"]
    assert "\n" not in message
    return message


def container(operator: Operator, name: str, **options: Any) -> dict[str, Any]:
    vmid = next(vmids)
    wanted: dict[str, Any] = {
        "template": "debian-12",
        "state": "started",
        "memory": 256,
        "storage": "local-lvm",
        "cores": 1,
    }
    if "networks" not in options:
        wanted["network"] = {"ip": f"127.86.30.{vmid}/24"}
    made: dict[str, Any] = do(operator, "nhi_vm", name=name, vmid=vmid, **{**wanted, **options})["vm"]
    return made


def test_a_guest_stays_on_its_node_when_it_is_replaced_unless_another_one_is_named(operator: Operator) -> None:
    made = container(operator, "nomad", node="pve2", disk=3)
    wish = {"name": "nomad", "state": "started", "template": "debian-12", "storage": "local-lvm", "replace": "nomad"}
    smaller = do(operator, "nhi_vm", **wish, disk=2)
    assert (smaller["vm"]["node"], smaller["replaced"]["vmid"]) == ("pve2", made["vmid"])
    moved = do(operator, "nhi_vm", **wish, disk=2, node="pve3")
    assert (moved["vm"]["node"], moved["replaced"]["node"]) == ("pve3", "pve2")
    assert moved["vm"]["address"] == made["address"]
    assert do(operator, "nhi_vm", **wish, disk=2, node="pve3")["changed"] is False


def as_root(operator: Operator, code: str) -> None:
    """Run a line of Python on a client of the lab that may do everything."""
    root = json.loads((operator.lab.directory / "credentials.json").read_text())["root_password"]
    script = (
        "import proxmoxer, sys, warnings; warnings.simplefilter('ignore');"
        f" pve = proxmoxer.ProxmoxAPI('127.0.0.1', port={operator.lab.port}, user='root@pam', password=sys.argv[1],"
        f" verify_ssl=False); {code}"
    )
    subprocess.run([sys.executable, "-c", script, root], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def shelf(operator: Operator) -> str:
    """A storage that only pve3 has, with a template on it."""
    as_root(
        operator,
        "pve.storage.post(storage='shelf', type='dir', path='/srv/shelf', content='rootdir,images,vztmpl,backup',"
        " nodes='pve3')",
    )
    return "shelf"


class TestPlacement:
    def test_a_guest_goes_to_the_node_that_was_asked_for_and_is_found_there(self, operator: Operator) -> None:
        made = container(operator, "far", node="pve2")
        assert made["node"] == "pve2"
        again = do(operator, "nhi_vm", name="far", memory=512)
        assert (again["changed"], again["vm"]["node"]) == (True, "pve2")
        assert do(operator, "nhi_vm", name="far", state="stopped")["vm"]["status"] == "stopped"
        assert "is not on node pve3" in refused(operator, "nhi_vm", name="far", node="pve3", memory=1024)

    def test_a_node_that_does_not_exist_or_is_offline_is_named_with_those_there_are(self, operator: Operator) -> None:
        words = refused(operator, "nhi_vm", name="x", state="started", template="debian-12", node="pve9")
        assert "node pve9 does not exist: nodes are pve (online), pve2 (online), pve3 (online)" in words
        operator.lab.fault("set", "node-offline", "--node", "pve2")
        words = refused(operator, "nhi_vm", name="x", state="started", template="debian-12", node="pve2")
        assert "node pve2 is not online" in words

    def test_a_node_that_is_offline_is_passed_over(self, operator: Operator) -> None:
        operator.lab.fault("set", "node-offline", "--node", "pve")
        assert container(operator, "spared")["node"] in ("pve2", "pve3")

    def test_the_node_is_the_one_that_has_the_storage_that_was_asked_for(self, operator: Operator, shelf: str) -> None:
        assert container(operator, "shelved", storage=shelf)["node"] == "pve3"
        words = refused(operator, "nhi_vm", name="x", state="started", template="debian-12", storage=shelf, node="pve")
        assert f"storage {shelf} does not exist on pve" in words

    def test_the_node_is_the_one_that_has_the_template_that_was_asked_for(self, operator: Operator, shelf: str) -> None:
        content = client(operator).get(f"/nodes/pve3/storage/{shelf}/content", {"content": "vztmpl"})
        template = content[0]["volid"]
        assert container(operator, "from-shelf", template=template)["node"] == "pve3"
        words = refused(operator, "nhi_vm", name="x", state="started", template=template, node="pve2")
        assert f"template {template} does not exist on pve2" in words

    def test_a_short_name_of_a_template_steers_the_choice_of_the_node(self, tmp_path: Path) -> None:
        """Only pve2 has templates, and no node is better than another but for that."""
        with running_lab(tmp_path / "lab", "--driver", "memory", "--no-lag", "--nodes", ",".join(NODES)) as lab:
            apart = Operator(lab, tmp_path / "infrastructure")
            apart.state_dir.mkdir()
            as_root(
                apart,
                "[pve.storage(name).delete() for name in ('local', 'shared')];"
                " pve.storage.post(storage='books', type='dir', path='/srv/books', content='vztmpl', nodes='pve2')",
            )
            wish = {"state": "started", "storage": "local-lvm", "disk": 1}
            made = do(apart, "nhi_vm", name="shelved", template="debian-12", **wish)["vm"]
            assert made["node"] == "pve2"
            words = refused(apart, "nhi_vm", name="x", template="debian-12", node="pve3", **wish)
            assert "template debian-12 does not exist on pve3" in words
            words = refused(apart, "nhi_vm", name="x", template="plan9", **wish)
            assert "template plan9 does not exist on pve;" in words
            lab.fault("set", "node-offline", "--node", "pve2")
            words = refused(apart, "nhi_vm", name="x", template="debian-12", **wish)
            assert "template debian-12 does not exist on pve;" in words

    def test_a_vmid_is_one_for_all_nodes(self, operator: Operator) -> None:
        made = container(operator, "first", node="pve3")
        words = refused(
            operator, "nhi_vm", name="second", state="started", template="debian-12", vmid=made["vmid"], node="pve"
        )
        assert f"VMID {made['vmid']} is LXC {made['vmid']} first on pve3, not second" in words

    def test_an_address_is_one_for_all_nodes(self, operator: Operator) -> None:
        made = container(operator, "addressed", node="pve3")
        network = {"ip": f"{made['address']}/24"}
        words = refused(
            operator, "nhi_vm", name="same", state="started", template="debian-12", node="pve", network=network
        )
        assert f"belongs to LXC {made['vmid']} addressed on pve3" in words


class TestClones:
    @pytest.fixture(scope="class")
    @classmethod
    def templates(cls, operator: Operator) -> dict[str, int]:
        """A template on shared storage and one on local storage, both on pve2."""
        api, found = client(operator), {}
        for storage in ("shared", "local-lvm"):
            vmid = found[storage] = next(vmids) + 800
            options = {"vmid": vmid, "name": f"golden-{storage}", "memory": 512, "net0": "virtio,bridge=vmbr0"}
            api.wait_task(api.post("/nodes/pve2/qemu", {**options, "scsi0": f"{storage}:1"}))
            api.wait_task(api.post(("nodes", "pve2", "qemu", vmid, "template")))
        return found

    def test_from_shared_storage_onto_any_node(self, operator: Operator, templates: dict[str, int]) -> None:
        made = do(
            operator, "nhi_vm", name="cloned", type="qemu", template=str(templates["shared"]), node="pve3",
            vmid=next(vmids), state="present",
        )["vm"]  # fmt: skip
        assert made["node"] == "pve3"
        config = client(operator).get(("nodes", "pve3", "qemu", made["vmid"], "config"))
        assert config["scsi0"].startswith("shared:")

    def test_from_local_storage_on_the_node_of_the_template(
        self, operator: Operator, templates: dict[str, int]
    ) -> None:
        made = do(
            operator, "nhi_vm", name="cloned-local", type="qemu", template=str(templates["local-lvm"]),
            vmid=next(vmids), state="present",
        )["vm"]  # fmt: skip
        assert made["node"] == "pve2"


class TestNetworks:
    """Several interfaces, VLANs and both families, through the module."""

    WISH: ClassVar[list[dict[str, Any]]] = [
        {"ip": "127.86.32.5/24", "gateway": "127.86.32.1", "ip6": "fd00:32::5/64", "gateway6": "fd00:32::1", "tag": 30},
        {"ip": "dhcp", "ip6": "auto"},
        {"ip": "manual", "ip6": "fd00:34::5/64"},
    ]

    @pytest.mark.parametrize("node", ["pve", "pve3"])
    def test_are_made_kept_and_corrected(self, operator: Operator, node: str) -> None:
        name = f"wired-{node}"
        wish = [dict(net) for net in self.WISH]
        wish[0] |= {"ip": f"127.86.32.{next(vmids)}/24", "ip6": f"fd00:32::{next(vmids)}/64"}
        wish[2]["ip6"] = f"fd00:34::{next(vmids)}/64"
        vmid = container(operator, name, node=node, networks=wish)["vmid"]
        config = client(operator).get(("nodes", node, "lxc", vmid, "config"))
        assert "tag=30" in config["net0"].split(",")
        assert f"ip6={wish[0]['ip6']}" in config["net0"].split(",")
        assert "ip6=auto" in config["net1"].split(",")
        assert f"ip6={wish[2]['ip6']}" in config["net2"].split(",")
        assert do(operator, "nhi_vm", name=name, networks=wish)["changed"] is False
        wish[0]["tag"] = 31
        assert do(operator, "nhi_vm", name=name, networks=wish)["changed"]
        after = client(operator).get(("nodes", node, "lxc", vmid, "config"))
        assert after["net0"] == config["net0"].replace("tag=30", "tag=31")
        assert (after["net1"], after["net2"]) == (config["net1"], config["net2"])


class TestSnapshotsAndBackups:
    def test_a_snapshot_is_taken_where_the_guest_is(self, operator: Operator) -> None:
        container(operator, "kept", node="pve2")
        assert do(operator, "nhi_vm_snapshot", name="kept", snapshot="s1")["changed"]
        assert do(operator, "nhi_vm_snapshot", name="kept", snapshot="s1")["changed"] is False
        rollback = {"name": "kept", "snapshot": "s1", "state": "rollback", "confirm": "kept"}
        assert do(operator, "nhi_vm_snapshot", **rollback)["changed"]
        assert do(operator, "nhi_vm_snapshot", name="kept", snapshot="s1", state="absent")["changed"]

    @pytest.mark.parametrize("storage", ["local", "shared"])
    @pytest.mark.parametrize("node", ["pve", "pve3"])
    def test_a_backup_is_listed_restored_and_removed_wherever_it_lies(
        self, operator: Operator, storage: str, node: str
    ) -> None:
        name = f"saved-{storage}-{node}"
        made = container(operator, name, node=node)
        volid = do(operator, "nhi_vm_backup", name=name, storage=storage)["backup"]["volid"]
        listed = do(operator, "nhi_vm_backup_info", name=name)["backups"]
        assert [b["volid"] for b in listed] == [volid]
        assert do(operator, "nhi_vm_backup", name=name, storage=storage, max_age=3600)["changed"] is False

        replaced = do(operator, "nhi_vm_backup", name=name, state="restored", backup=volid, confirm=name)
        assert (replaced["vm"]["vmid"], replaced["vm"]["node"]) == (made["vmid"], node)
        copy = next(vmids)
        restored = do(operator, "nhi_vm_backup", name=f"copy-{copy}", vmid=copy, state="restored", backup=volid)["vm"]
        assert storage == "shared" or restored["node"] == node

        assert do(operator, "nhi_vm_backup", name=name, state="absent", backup=volid)["changed"]
        assert do(operator, "nhi_vm_backup", name=name, state="absent", backup=volid)["changed"] is False
        assert do(operator, "nhi_vm_backup_info", name=name)["backups"] == []

    def test_a_shared_backup_is_restored_onto_the_node_that_was_asked_for(self, operator: Operator) -> None:
        container(operator, "mover", node="pve")
        volid = do(operator, "nhi_vm_backup", name="mover", storage="shared")["backup"]["volid"]
        copy = next(vmids)
        wish = {"name": "moved", "vmid": copy, "state": "restored", "backup": volid, "node": "pve2"}
        assert do(operator, "nhi_vm_backup", **wish)["vm"]["node"] == "pve2"

    def test_a_local_backup_is_not_restored_onto_another_node(self, operator: Operator) -> None:
        container(operator, "stayer", node="pve")
        volid = do(operator, "nhi_vm_backup", name="stayer", storage="local")["backup"]["volid"]
        wish = {"name": "strayed", "vmid": next(vmids), "state": "restored", "backup": volid, "node": "pve2"}
        words = refused(operator, "nhi_vm_backup", **wish)
        assert f"{volid} is on pve, not on pve2" in words


class TestState:
    """A scan, and what reads it."""

    @pytest.fixture(scope="class")
    @classmethod
    def state(cls, operator: Operator) -> dict[str, Any]:
        api = client(operator)
        template = api.get("/nodes/pve/storage/local/content", {"content": "vztmpl"})[0]["volid"]
        nets = {
            "net0": "name=eth0,bridge=vmbr0,ip=127.86.31.5/24,gw=127.86.31.1,ip6=fd00:31::5/64,gw6=fd00:31::1,tag=30",
            "net1": "name=eth1,bridge=vmbr0,ip=dhcp,ip6=auto",
            "net2": "name=eth2,bridge=vmbr0,ip6=fd00:32::5/64",
        }
        wanted = {
            "vmid": 700, "hostname": "wired", "ostemplate": template, "rootfs": "shared:1", "pool": "ai-lab",
            "unprivileged": 1, "tags": "svc-redis", **nets,
        }  # fmt: skip
        api.wait_task(api.post("/nodes/pve3/lxc", wanted))
        api.wait_task(api.post("/nodes/pve3/lxc/700/status/start"))
        only6 = {"vmid": 701, "hostname": "six", "net0": "name=eth0,bridge=vmbr0,ip6=fd00:33::5/64,gw6=fd00:33::1"}
        api.wait_task(api.post("/nodes/pve2/lxc", {**wanted, **only6, "net1": None, "net2": None, "tags": None}))
        do(operator, "nhi_state_scan", health_checks=False)
        return operator.state()

    def guest(self, state: dict[str, Any], vmid: int) -> dict[str, Any]:
        found: dict[str, Any] = next(g for g in state["infrastructure"]["guests"] if g["vmid"] == vmid)
        return found

    def test_every_node_and_every_storage_of_each_is_there(self, state: dict[str, Any]) -> None:
        assert [node["name"] for node in state["infrastructure"]["nodes"]] == list(NODES)
        shared = [s for s in state["infrastructure"]["storage"] if s["name"] == "shared"]
        local = [s for s in state["infrastructure"]["storage"] if s["name"] == "local"]
        assert [(s["node"], s["shared"]) for s in shared] == [(node, True) for node in NODES]
        assert [(s["node"], s["shared"]) for s in local] == [(node, False) for node in NODES]

    def test_a_guest_with_several_networks_has_the_addresses_of_all(self, state: dict[str, Any]) -> None:
        found = self.guest(state, 700)
        assert (found["node"], found["pool"], found["address"]) == ("pve3", "ai-lab", "127.86.31.5")
        by_interface: dict[str, list[str]] = {}
        for record in found["addresses"]:
            by_interface.setdefault(record["interface"], []).append(record["address"])
        assert by_interface["eth0"] == ["127.86.31.5", "fd00:31::5"]
        assert by_interface["eth2"] == ["fd00:32::5"]
        assert [address.partition(".")[0] for address in by_interface["eth1"]] == ["127"]

    def test_a_guest_with_ipv6_alone_is_reached_by_it(self, state: dict[str, Any]) -> None:
        found = self.guest(state, 701)
        assert found["address"] == "fd00:33::5"
        assert [record["family"] for record in found["addresses"]] == ["ipv6"]

    def test_a_second_scan_finds_no_change(self, operator: Operator, state: dict[str, Any]) -> None:
        assert do(operator, "nhi_state_scan", health_checks=False)["changed"] is False

    def test_the_inventory_groups_by_node_and_knows_both_families(
        self, operator: Operator, state: dict[str, Any]
    ) -> None:
        done = operator.run(tool("ansible-inventory"), "-i", "inventory/lab.nhi_state.yml", "--list")
        assert done.returncode == 0, done.stderr
        inventory = json.loads(done.stdout)
        hosts = inventory["_meta"]["hostvars"]
        assert hosts["wired"]["ansible_host"] == "127.86.31.5"
        assert hosts["six"]["ansible_host"] == "fd00:33::5"
        groups = {name: set(group.get("hosts", [])) for name, group in inventory.items() if name != "_meta"}
        assert any("wired" in hosts and "six" not in hosts for name, hosts in groups.items() if "pve3" in name)

    def test_a_node_that_goes_away_leaves_the_guests_of_the_others_alone(
        self, operator: Operator, state: dict[str, Any]
    ) -> None:
        operator.lab.fault("set", "node-offline", "--node", "pve3")
        do(operator, "nhi_state_scan", health_checks=False)
        now = operator.state()
        assert self.guest(now, 700)["freshness"] == "stale"
        assert self.guest(now, 701)["freshness"] == "fresh"
        assert "node-offline:pve3" in [alert["id"] for alert in now["alerts"]]

    def test_a_change_keeps_every_other_network(self, operator: Operator, state: dict[str, Any]) -> None:
        api = client(operator)
        before = api.get("/nodes/pve3/lxc/700/config")
        assert do(operator, "nhi_vm", name="wired", memory=1024)["changed"]
        after = api.get("/nodes/pve3/lxc/700/config")
        assert [after[f"net{n}"] for n in range(3)] == [before[f"net{n}"] for n in range(3)]
        network = {"ip": "127.86.31.6/24", "gateway": "127.86.31.1"}
        assert do(operator, "nhi_vm", name="wired", network=network)["changed"]
        after = api.get("/nodes/pve3/lxc/700/config")
        assert [after[f"net{n}"] for n in (1, 2)] == [before[f"net{n}"] for n in (1, 2)]
        assert set(after["net0"].split(",")) == set(before["net0"].replace("31.5/24", "31.6/24").split(","))
