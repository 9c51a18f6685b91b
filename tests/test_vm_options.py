"""nhi_vm's options against a lab in memory: networks, clones, volumes, cloud-init, what waits for a restart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import Endpoint, ProxmoxClient

from .conftest import Operator
from .guest_modules import Result, failure, guest_numbers

SOURCE: dict[str, Any] = {
    "state": "present", "template": "debian-12", "storage": "local-lvm", "memory": 256, "disk": 2,
    "tags": ["svc-redis"],
    "networks": [{"ip": "127.86.14.5/24"}, {"ip": "127.86.15.5/24", "tag": 30}],
    "mount_volumes": [{"id": "mp0", "mountpoint": "/srv", "size": 1}],
}  # fmt: skip
NUMBERS: Iterator[int] = guest_numbers(400)


@pytest.fixture
def vm(shared_lab: Operator) -> VM:
    return VM(shared_lab)


class VM:
    """nhi_vm for a guest with a name that no other test uses."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.number = next(NUMBERS)
        self.name = f"guest-{self.number}"

    def __call__(self, **options: Any) -> Result:
        return self.operator.module("nhi_vm", **{"name": self.name, "vmid_range": "400-499", **options})

    def made(self, **options: Any) -> Result:
        result = self(**options)
        assert not result.get("failed"), result
        assert result["changed"], result
        return result

    def unchanged(self, **options: Any) -> Result:
        before = len(self.operator.lab.writes())
        result = self(**options)
        assert (result.get("failed"), result["changed"]) == (None, False), result
        assert len(self.operator.lab.writes()) == before
        return result

    def refused(self, **options: Any) -> str:
        before = len(self.operator.lab.writes())
        result = self(**options)
        assert len(self.operator.lab.writes()) == before
        return failure(result)


def networks(result: Result) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = result["vm"]["networks"]
    return found


@pytest.mark.parametrize("kind", ["lxc", "qemu"])
def test_a_guest_with_two_networks_from_birth_to_end(vm: VM, kind: str) -> None:
    template = {"template": "debian-12"} if kind == "lxc" else {}
    first = {"ip": f"127.86.16.{vm.number - 380}/24", "gateway": "127.86.16.1", "ip6": f"fd00:86::{vm.number}/64"}
    second = {"bridge": "vmbr0", "tag": 30, "mtu": 1400, "firewall": True, "ip": "manual", "rate": 10}
    wish = {"type": kind, "networks": [first, second], "startup": {"order": 3, "up": 5}, "searchdomain": "example.org"}
    foretold = vm(**template, **wish, _check=True)
    made = vm.made(**template, **wish)
    assert [a["text"] for a in foretold["actions"]] == [a["text"] for a in made["actions"]]
    assert made["vmid"] == made["vm"]["vmid"]
    one, two = networks(made)
    assert (one["ip"], one["gateway"], one["ip6"]) == (first["ip"], first["gateway"], first["ip6"])
    assert (two["tag"], two["mtu"], two["firewall"], two["rate"], two["ip"]) == (30, 1400, True, 10, None)
    vm.unchanged(**wish)
    changed = vm.made(networks=[first, {**second, "tag": 31}])
    assert changed["diff"] == {"before": {"networks[1].tag": 30}, "after": {"networks[1].tag": 31}}
    assert [n["mac"] for n in networks(changed)] == [n["mac"] for n in networks(made)]
    vm.unchanged(networks=[first])
    vm.made(state="absent", confirm=vm.name)


def test_a_container_is_cloned_and_takes_nothing_that_may_exist_once(vm: VM) -> None:
    source = vm.made(**{**SOURCE, "protection": True})
    copy = vm.made(name=f"{vm.name}-copy", clone=vm.name, memory=512, disk=3, purpose="trial", pool="ai-lab")
    guest = copy["vm"]
    assert (guest["type"], guest["memory"], guest["tags"], guest["pool"]) == ("lxc", 512, ["purpose-trial"], "ai-lab")
    assert (guest["protection"], guest["managed"], guest["address"]) == (False, True, None)
    assert [(n["ip"], n["tag"]) for n in networks(copy)] == [("dhcp", None), (None, 30)]
    macs = [n["mac"] for n in (*networks(source), *networks(copy))]
    assert len(set(macs)) == len(macs) == 4
    vm.unchanged(name=f"{vm.name}-copy", clone=vm.name, memory=512, disk=3, purpose="trial")
    assert vm(name=f"{vm.name}-copy", state="started")["vm"]["status"] == "running"


def test_a_machine_is_cloned_with_its_cloud_init(vm: VM) -> None:
    vm.made(type="qemu", disk=1, network={"ip": "127.86.14.9/24"})
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@here"
    wish = {"name": f"{vm.name}-copy", "clone": vm.name, "ciuser": "admin", "nameserver": "127.86.14.2"}
    copy = vm.made(**wish, network={"ip": "127.86.14.10/24"}, cipassword="s3cret-pass", ssh_public_keys=[key])
    assert "no cloud-init drive" in str(copy["warnings"])
    assert copy["vm"]["address"] == "127.86.14.10"
    assert "s3cret-pass" not in str(copy)
    vm.unchanged(**wish, network={"ip": "127.86.14.10/24"}, cipassword="another")


def test_a_running_container_is_cloned_from_a_snapshot_only(vm: VM) -> None:
    source = vm.made(**{**SOURCE, "state": "started", "networks": [{"ip": "127.86.14.20/24"}]})
    copy = {"name": f"{vm.name}-copy", "clone": str(source["vmid"])}
    assert "is running, and a running guest is cloned from a snapshot only" in vm.refused(**copy)
    assert "has no snapshot good; its snapshots: none" in vm.refused(**copy, snapname="good")
    taken = vm.operator.module("nhi_vm_snapshot", name=vm.name, snapname="good", state="present")
    assert not taken.get("failed"), taken
    vm.made(memory=1024)
    assert vm.made(**copy, snapname="good")["vm"]["memory"] == 256, "as it was when the snapshot was taken"
    assert "only templates have linked clones" in vm.refused(name="other", clone=vm.name, snapname="good", full=False)


def test_a_clone_that_fails_half_way_is_undone(vm: VM) -> None:
    vm.made(**{**SOURCE, "networks": [{"ip": "127.86.14.30/24"}]})
    for task in ("vzclone", "resize", "vzstart"):
        vm.operator.lab.fault("set", "task-fail", "--task", task, "--text", "no space left", "--count", "1")
        message = failure(vm(name=f"{vm.name}-copy", clone=vm.name, state="started", disk=3))
        assert "no space left" in message
        assert vm(name=f"{vm.name}-copy", state="absent", confirm=f"{vm.name}-copy")["changed"] is False
    vm.unchanged(memory=256)


def test_volumes_grow_and_what_no_token_may_do_is_explained(vm: VM) -> None:
    vm.made(**{**SOURCE, "networks": [{"ip": "127.86.14.40/24"}]})
    volumes = [{"id": "mp0", "mountpoint": "/srv", "size": 2}, {"id": "mp1", "mountpoint": "/data", "size": 1}]
    grown = vm.made(mount_volumes=volumes)
    assert [a["kind"] for a in grown["actions"]] == ["configure", "resize"]
    vm.unchanged(mount_volumes=volumes)
    assert "can not shrink" in vm.refused(mount_volumes=[{**volumes[0], "size": 1}])
    bind = [{"id": "mp2", "mountpoint": "/media", "host_path": "/tank"}]
    assert "only root@pam" in vm.refused(mount_volumes=bind)
    assert "only root@pam" in vm.refused(features=["keyctl"])
    assert "is unprivileged, which can not be changed" in vm.refused(unprivileged=False)


def test_what_waits_for_a_restart_is_told_until_the_restart(vm: VM) -> None:
    vm.made(type="qemu", state="started", disk=1, memory=256, network={"ip": "127.86.14.50/24"})
    assert vm.made(memory=512, onboot=True)["restart_required"] == ["memory"]
    again = vm.unchanged(memory=512)
    assert again["restart_required"] == ["memory"]
    assert "Takes effect at the next restart: memory." in again["summary"]
    assert vm.made(state="restarted")["restart_required"] == []
    assert vm.unchanged(memory=512)["restart_required"] == []


def test_a_guest_that_somebody_else_made_is_corrected_and_never_replaced(vm: VM) -> None:
    made = vm.made(**{**SOURCE, "networks": [{"ip": "127.86.14.60/24"}], "description": "By hand."})
    assert made["vm"]["managed"] is True
    describe(vm.operator, made["vmid"], "By hand.")
    adopted = vm.made(memory=512, swap=0, startup={"order": 9})
    assert (adopted["vmid"], adopted["vm"]["managed"]) == (made["vmid"], False)
    assert [a["kind"] for a in adopted["actions"]] == ["configure"]
    refusals = ({"type": "qemu"}, {"disk": 1}, {"unprivileged": False}, {"node": "elsewhere"})
    for wish in refusals:
        assert made["vm"]["name"] in vm.refused(**wish)


def describe(operator: Operator, vmid: int, description: str) -> None:
    """What a person at the web page may do: notes of their own, without our mark."""
    env = operator.lab.env
    endpoint = Endpoint(
        host=env["PROXMOX_HOST"], port=int(env["PROXMOX_PORT"]), user=env["PROXMOX_USER"],
        token_id=env["PROXMOX_TOKEN_ID"], token_secret=env["PROXMOX_TOKEN_SECRET"], validate_certs=False,
    )  # fmt: skip
    with ProxmoxClient(endpoint) as api:
        api.put(f"/nodes/pve/lxc/{vmid}/config", {"description": description})
