"""Measured behaviour, section 5: snapshots, rollback, backups and what they restore."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lab.tests.behaviour.client import Answer, expect
from lab.tests.behaviour.world import NODE, World, ct, until, vm


def snapshot(world: World, vmid: int, name: str = "s1", **options: Any) -> Answer:
    return world.root.post(ct(vmid, "/snapshot"), snapname=name, **options)


def rollback(world: World, vmid: int, name: str = "s1", **options: Any) -> Answer:
    return world.root.post(ct(vmid, f"/snapshot/{name}/rollback"), **options)


class TestSnapshots:
    def test_the_list_always_has_the_current_state(self, world: World, container: int) -> None:
        [current] = world.root.get(ct(container, "/snapshot")).data
        assert current == {
            "name": "current",
            "description": "You are here!",
            "running": 0,
            "digest": world.config(container)["digest"],
        }

    def test_of_a_running_one_says_so(self, world: World, running: int) -> None:
        assert world.root.get(ct(running, "/snapshot")).data[-1]["running"] == 1

    def test_taken(self, world: World) -> None:
        vmid = world.container(hostname="web")
        world.succeeds(snapshot(world, vmid, description="before the change"))
        rows = {row["name"]: row for row in world.root.get(ct(vmid, "/snapshot")).data}
        assert set(rows) == {"s1", "current"}
        assert rows["s1"]["description"].rstrip("\n") == "before the change"
        assert isinstance(rows["s1"]["snaptime"], int)
        assert rows["current"]["parent"] == "s1"
        assert world.root.get(ct(vmid, "/snapshot/s1/config")).data["hostname"] == "web"

    @pytest.mark.parametrize("name", ["current", "vzdump"])
    def test_reserved_name(self, world: World, container: int, name: str) -> None:
        expect(snapshot(world, container, name), f"500 unable to use snapshot name '{name}' (reserved name)")

    def test_name_taken(self, world: World) -> None:
        vmid = world.container()
        world.succeeds(snapshot(world, vmid))
        world.fails(snapshot(world, vmid), "snapshot name 's1' already used")

    def test_storage_without_snapshots(self, world: World) -> None:
        shelf = {"storage": "shelf", "type": "dir", "path": "/srv/shelf", "content": "rootdir"}
        assert world.root.post("/storage", **shelf).status == 200
        vmid = world.container(storage="shelf")
        world.fails(snapshot(world, vmid), "snapshot feature is not available")

    def test_deleted(self, world: World) -> None:
        vmid = world.container()
        world.succeeds(snapshot(world, vmid))
        world.succeeds(world.root.delete(ct(vmid, "/snapshot/s1")))
        assert [row["name"] for row in world.root.get(ct(vmid, "/snapshot")).data] == ["current"]

    @pytest.mark.parametrize(
        ("method", "leaf"),
        [
            ("DELETE", "/snapshot/nosuch"),
            ("POST", "/snapshot/nosuch/rollback"),
        ],
    )
    def test_unknown_fails_in_the_task(self, world: World, container: int, method: str, leaf: str) -> None:
        world.fails(world.root.call(method, ct(container, leaf), {}), "snapshot 'nosuch' does not exist")

    def test_unknown_config(self, world: World, container: int) -> None:
        expect(world.root.get(ct(container, "/snapshot/nosuch/config")), "500 snapshot 'nosuch' does not exist")

    def test_task_types(self, world: World) -> None:
        vmid = world.container()
        upids = [
            world.succeeds(snapshot(world, vmid)),
            world.succeeds(rollback(world, vmid)),
            world.succeeds(world.root.delete(ct(vmid, "/snapshot/s1"))),
        ]
        assert [upid.split(":")[5] for upid in upids] == ["vzsnapshot", "vzrollback", "vzdelsnapshot"]


class TestRollback:
    def test_restores_the_whole_configuration(self, world: World) -> None:
        net = f"name=eth0,bridge={world.bridge},ip=10.99.1.5/24"
        vmid = world.container(memory=64, tags="old", net0=net, hostname="old")
        before = world.config(vmid)
        world.succeeds(snapshot(world, vmid))
        changed = world.root.put(ct(vmid, "/config"), memory=128, tags="new", hostname="new", delete="net0")
        assert changed.line == "200 OK"
        world.succeeds(rollback(world, vmid))
        after = world.config(vmid)
        for name in ("memory", "tags", "net0", "hostname", "rootfs"):
            assert after[name] == before[name], name

    def test_sets_the_parent(self, world: World) -> None:
        vmid = world.container()
        for name in ("s1", "s2"):
            world.succeeds(snapshot(world, vmid, name))
        world.succeeds(rollback(world, vmid, "s2"))
        assert world.root.get(ct(vmid, "/snapshot")).data[-1]["parent"] == "s2"

    @pytest.mark.parametrize(("start", "status"), [(0, "stopped"), (1, "running")])
    def test_stops_the_container(self, world: World, start: int, status: str) -> None:
        vmid = world.container(running=True)
        world.succeeds(snapshot(world, vmid))
        world.succeeds(rollback(world, vmid, start=start))
        assert world.root.get(ct(vmid, "/status/current")).data["status"] == status

    def test_of_a_machine(self, world: World) -> None:
        vmid = world.machine(name="old")
        world.succeeds(world.root.post(vm(vmid, "/snapshot"), snapname="s1"))
        assert world.root.put(vm(vmid, "/config"), name="new").line == "200 OK"
        world.succeeds(world.root.post(vm(vmid, "/snapshot/s1/rollback")))
        assert world.root.get(vm(vmid, "/config")).data["name"] == "old"


class TestBackups:
    @pytest.fixture(scope="class")
    @classmethod
    def store(cls, world: World) -> str:
        return world.storage_for("backup")

    def backup(self, world: World, vmid: int, store: str, **options: Any) -> dict[str, Any]:
        upid = world.succeeds(
            world.root.post(
                f"/nodes/{NODE}/vzdump",
                **{"vmid": vmid, "storage": store, "mode": "stop", "compress": "zstd", **options},
            )
        )
        assert upid.split(":")[5] == "vzdump"
        return self.content(world, vmid, store)[-1]

    def content(self, world: World, vmid: int, store: str) -> list[dict[str, Any]]:
        rows = world.root.get(f"/nodes/{NODE}/storage/{store}/content", content="backup", vmid=vmid).data
        return sorted(rows, key=lambda row: str(row["volid"]))

    def test_listed_with_owner_size_and_format(self, world: World, store: str) -> None:
        vmid = world.container()
        row = self.backup(world, vmid, store)
        assert re.fullmatch(
            rf"{store}:backup/vzdump-lxc-{vmid}-\d{{4}}_\d\d_\d\d-\d\d_\d\d_\d\d\.tar\.zst", row["volid"]
        )
        assert (row["vmid"], row["content"], row["format"], row["subtype"]) == (vmid, "backup", "tar.zst", "lxc")
        assert isinstance(row["ctime"], int)
        assert row["size"] > 0

    def test_notes_and_protection(self, world: World, store: str) -> None:
        row = self.backup(
            world, world.container(hostname="web"), store, protected=1, **{"notes-template": "nightly of {{guestname}}"}
        )
        assert row["notes"].strip() == "nightly of web"
        assert row["protected"] in (1, True)

    def test_notes_require_a_storage(self, world: World, container: int) -> None:
        answer = world.root.post(f"/nodes/{NODE}/vzdump", **{"vmid": container, "notes-template": "x"})
        assert answer.errors == {"storage": "missing property - 'notes-template' requires this property"}

    def test_keeps_a_running_container_running(self, world: World, store: str) -> None:
        vmid = world.container(running=True)
        self.backup(world, vmid, store, mode="snapshot")
        assert world.root.get(ct(vmid, "/status/current")).data["status"] == "running"

    def test_nothing_to_do_here_is_ok(self, world: World, store: str) -> None:
        assert world.root.post(f"/nodes/{NODE}/vzdump", vmid=99995, storage=store).data == "OK"

    def test_one_at_a_time_on_a_node(self, world: World, store: str) -> None:
        wanted = {"storage": store, "mode": "stop"}
        with world.fault("task-slow", task="vzdump", delay=1, count=1):
            first = world.root.post(f"/nodes/{NODE}/vzdump", vmid=world.container(), **wanted)
            second = world.root.post(f"/nodes/{NODE}/vzdump", vmid=world.container(), **wanted)
            world.succeeds(second)
        assert world.root.get(f"/nodes/{NODE}/tasks/{first.data}/status").data["status"] == "stopped"
        world.succeeds(first)

    def test_the_configuration_inside(self, world: World, store: str) -> None:
        volume = self.backup(world, world.container(hostname="inside"), store)["volid"]
        text = world.root.get(f"/nodes/{NODE}/vzdump/extractconfig", volume=volume).data
        assert "hostname: inside" in text.splitlines()

    def test_restored_as_another_container(self, world: World, store: str) -> None:
        net = f"name=eth0,bridge={world.bridge},hwaddr=BC:24:11:00:00:99,ip=10.99.2.5/24"
        volume = self.backup(world, world.container(hostname="origin", tags="kept", net0=net), store)["volid"]
        vmid = world.vmid()
        upid = world.succeeds(world.create(vmid=vmid, ostemplate=volume, restore=1, memory=None))
        assert upid.split(":")[5] == "vzrestore"
        config = world.config(vmid)
        assert (config["hostname"], config["tags"], config["memory"]) == ("origin", "kept", 64)
        assert "hwaddr=BC:24:11:00:00:99" in config["net0"]

    def test_restored_and_started(self, world: World, store: str) -> None:
        volume, vmid = self.backup(world, world.container(), store)["volid"], world.vmid()
        world.succeeds(world.create(vmid=vmid, ostemplate=volume, restore=1, start=1, memory=None))
        until(lambda: world.root.get(ct(vmid, "/status/current")).data["status"] == "running", "it runs")

    def test_unique_restores_with_new_addresses(self, world: World, store: str) -> None:
        net = f"name=eth0,bridge={world.bridge},hwaddr=BC:24:11:00:00:98,ip=10.99.2.6/24"
        volume = self.backup(world, world.container(net0=net), store)["volid"]
        vmid = world.vmid()
        world.succeeds(world.create(vmid=vmid, ostemplate=volume, restore=1, unique=1, memory=None))
        net0 = world.config(vmid)["net0"]
        assert "ip=10.99.2.6/24" in net0
        assert "BC:24:11:00:00:98" not in net0

    def test_force_restores_over_the_container(self, world: World, store: str) -> None:
        vmid = world.container(hostname="first")
        volume = self.backup(world, vmid, store)["volid"]
        assert world.root.put(ct(vmid, "/config"), hostname="second").line == "200 OK"
        wanted = {"vmid": vmid, "ostemplate": volume, "restore": 1, "memory": None}
        expect(world.create(**wanted), f"500 CT {vmid} already exists on node '{NODE}'")
        world.succeeds(world.create(**wanted, force=1))
        assert world.config(vmid)["hostname"] == "first"

    def test_a_machine_is_restored_from_its_archive(self, world: World, store: str) -> None:
        volume = self.backup(world, world.machine(name="origin"), store)["volid"]
        vmid = world.vmid()
        upid = world.succeeds(world.root.post(f"/nodes/{NODE}/qemu", vmid=vmid, archive=volume))
        assert upid.split(":")[5] == "qmrestore"
        assert world.root.get(vm(vmid, "/config")).data["name"] == "origin"

    def test_force_on_a_machine_requires_an_archive(self, world: World) -> None:
        errors = world.root.post(f"/nodes/{NODE}/qemu", vmid=world.vmid(), force=1).errors
        assert errors == {"archive": "missing property - 'force' requires this property"}
