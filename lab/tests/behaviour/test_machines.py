"""Virtual machines: the same texts with VM in place of CT, and what only they have."""

from __future__ import annotations

from typing import Any

import pytest

from lab.tests.behaviour.client import Api, expect
from lab.tests.behaviour.world import MISSING, NODE, World, vm

DENIED = "403 Permission check failed"
MACHINES = f"/nodes/{NODE}/qemu"
LOST = f"500 Configuration file 'nodes/{NODE}/qemu-server/{MISSING}.conf' does not exist"


class TestCreate:
    """Who may make one."""

    ALL = frozenset(
        {
            "VM.Allocate",
            "VM.Config.Disk",
            "VM.Config.CPU",
            "VM.Config.Memory",
            "VM.Config.Network",
            "VM.Config.Options",
            "VM.Config.Cloudinit",
            "VM.Config.HWType",
        }
    )

    def creator(self, world: World, without: str = "") -> Api:
        acl = {
            "/vms": self.ALL - {without},
            f"/storage/{world.storage}": {"Datastore.AllocateSpace"} - {without},
            "/sdn/zones/localnetwork": {"SDN.Use"} - {without},
        }
        return world.someone(acl)

    def wanted(self, world: World, option: str) -> dict[str, Any]:
        values = {
            "scsi0": f"{world.storage}:1",
            "cores": 1,
            "memory": 64,
            "net0": f"virtio,bridge={world.bridge}",
            "name": "web",
            "ciuser": "admin",
            "bios": "seabios",
        }
        return {option: values[option]}

    def test_with_everything(self, world: World) -> None:
        options: dict[str, Any] = {}
        for option in ("scsi0", "cores", "memory", "net0", "name", "ciuser", "bios"):
            options |= self.wanted(world, option)
        world.succeeds(self.creator(world).post(MACHINES, vmid=world.vmid(), **options))

    def test_without_allocate(self, world: World) -> None:
        expect(self.creator(world, "VM.Allocate").post(MACHINES, vmid=world.vmid()), DENIED)

    @pytest.mark.parametrize(
        ("option", "privilege"),
        [
            ("scsi0", "VM.Config.Disk"),
            ("cores", "VM.Config.CPU"),
            ("memory", "VM.Config.Memory"),
            ("net0", "VM.Config.Network"),
            ("name", "VM.Config.Options"),
            ("ciuser", "VM.Config.Cloudinit"),
            ("bios", "VM.Config.HWType"),
        ],
    )
    def test_an_option_needs_its_privilege(self, world: World, option: str, privilege: str) -> None:
        vmid = world.vmid()
        answer = self.creator(world, privilege).post(MACHINES, vmid=vmid, **self.wanted(world, option))
        expect(answer, f"{DENIED} (/vms/{vmid}, {privilege})")

    def test_a_disk_needs_allocate_space(self, world: World) -> None:
        answer = self.creator(world, "Datastore.AllocateSpace").post(
            MACHINES, vmid=world.vmid(), **self.wanted(world, "scsi0")
        )
        expect(answer, f"{DENIED} (/storage/{world.storage}, Datastore.AllocateSpace)")

    def test_a_bridge_needs_use(self, world: World) -> None:
        answer = self.creator(world, "SDN.Use").post(MACHINES, vmid=world.vmid(), **self.wanted(world, "net0"))
        expect(answer, f"{DENIED} (/sdn/zones/localnetwork/{world.bridge}, SDN.Use)")


@pytest.mark.parametrize(
    ("method", "leaf", "params"),
    [
        ("GET", "/config", {}),
        ("GET", "/status/current", {}),
        ("GET", "/snapshot", {}),
        ("PUT", "/config", {"onboot": 1}),
        ("DELETE", "", {}),
        ("POST", "/clone", {"newid": 99993}),
    ],
)
def test_missing(world: World, method: str, leaf: str, params: dict[str, Any]) -> None:
    expect(world.root.call(method, vm(MISSING, leaf), params), LOST)


def test_running(world: World) -> None:
    vmid = world.machine(running=True)
    expect(world.root.post(vm(vmid, "/status/start")), f"500 VM {vmid} already running")
    expect(world.root.delete(vm(vmid)), f"500 VM {vmid} is running - destroy failed")


def test_protected(world: World) -> None:
    vmid = world.machine(protection=1)
    expect(world.root.delete(vm(vmid)), f"500 can't remove VM {vmid} - protection mode enabled")


def test_put_config_answers_at_once_and_post_with_a_task(world: World) -> None:
    vmid = world.machine()
    assert world.root.put(vm(vmid, "/config"), onboot=1).json == {"data": None}
    world.succeeds(world.root.post(vm(vmid, "/config"), onboot=0))
    assert int(world.root.get(vm(vmid, "/config")).data["onboot"]) == 0


def test_wrong_digest(world: World) -> None:
    expect(
        world.root.put(vm(world.machine(), "/config"), onboot=1, digest="0" * 40),
        "500 detected modified configuration - file changed by other user? Try again.",
    )


def test_clone_onto_a_vmid_that_is_taken(world: World, container: int, machine: int) -> None:
    path = vm(world.machine(), "/clone")
    expect(
        world.root.post(path, newid=machine, full=1), f"500 unable to create VM {machine}: config file already exists"
    )
    expect(world.root.post(path, newid=container, full=1), f"500 CT {container} already exists on node '{NODE}'")


class TestLock:
    """A failed snapshot leaves a real one behind."""

    @pytest.fixture
    def vmid(self, world: World) -> int:
        vmid = world.machine()
        with world.fault("task-fail", task="qmsnapshot", vmid=vmid, text="snapshot failed"):
            world.fails(world.root.post(vm(vmid, "/snapshot"), snapname="s1"), "snapshot failed")
        return vmid

    def test_is_in_the_way(self, world: World, vmid: int) -> None:
        expect(world.root.put(vm(vmid, "/config"), onboot=1), "500 VM is locked (snapshot)")
        expect(world.root.delete(vm(vmid)), "500 VM is locked (snapshot)")
        world.fails(world.root.post(vm(vmid, "/status/start")), "VM is locked (snapshot)")

    def test_may_be_skipped_by_root_only(self, world: World, vmid: int) -> None:
        path = vm(vmid, "/status/start")
        assert world.operator.post(path, skiplock=1).errors == {"skiplock": "Only root may use this option."}
        world.succeeds(world.root.post(path, skiplock=1))

    def test_may_be_taken_away_by_root_only(self, world: World, vmid: int) -> None:
        answer = world.operator.put(vm(vmid, "/config"), delete="lock", skiplock=1)
        assert answer.errors == {"skiplock": "Only root may use this option."}
        assert world.root.put(vm(vmid, "/config"), delete="lock", skiplock=1).json == {"data": None}
        assert "lock" not in world.root.get(vm(vmid, "/config")).data


def test_a_failed_restore_leaves_its_remains_locked(world: World) -> None:
    store, origin, vmid = world.storage_for("backup"), world.machine(), world.vmid()
    world.succeeds(world.root.post(f"/nodes/{NODE}/vzdump", vmid=origin, storage=store, mode="stop"))
    [backup] = world.root.get(f"/nodes/{NODE}/storage/{store}/content", content="backup", vmid=origin).data
    with world.fault("task-fail", task="qmrestore", vmid=vmid, text="restore failed"):
        world.fails(world.root.post(MACHINES, vmid=vmid, archive=backup["volid"]), "restore failed")
    assert world.resources()[f"qemu/{vmid}"]["lock"] == "create"
