"""Measured behaviour, section 5: locks, protection, configuration, disks, clones; lock before digest."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lab.tests.behaviour.client import expect
from lab.tests.behaviour.world import NODE, World, ct

UNKNOWN_OPTION = "unknown option 'nosuch'"


class TestLocked:
    @pytest.mark.parametrize(
        ("method", "leaf", "params"),
        [
            pytest.param("DELETE", "", {}, id="DELETE"),
            pytest.param("DELETE", "", {"force": 1}, id="DELETE force=1"),
            pytest.param("PUT", "/config", {"onboot": 1}, id="PUT config"),
            pytest.param("PUT", "/resize", {"disk": "rootfs", "size": "+1G"}, id="resize"),
            pytest.param("POST", "/clone", {"newid": 99996}, id="clone"),
        ],
    )
    def test_at_once(self, world: World, locked: int, method: str, leaf: str, params: dict[str, Any]) -> None:
        expect(world.root.call(method, ct(locked, leaf), params), "500 CT is locked (backup)")

    @pytest.mark.parametrize(
        ("leaf", "params"),
        [
            pytest.param("/status/start", {}, id="start"),
            pytest.param("/snapshot", {"snapname": "s1"}, id="snapshot"),
        ],
    )
    def test_in_the_task(self, world: World, locked: int, leaf: str, params: dict[str, Any]) -> None:
        world.fails(world.root.post(ct(locked, leaf), **params), "CT is locked (backup)")

    def test_the_lock_comes_before_the_digest(self, world: World, locked: int) -> None:
        expect(world.root.put(ct(locked, "/config"), onboot=1, digest="0" * 40), "500 CT is locked (backup)")

    def test_skiplock_starts_it_for_root(self, world: World) -> None:
        vmid = world.container()
        with world.fault("stuck-lock", vmid=vmid, text="backup"):
            world.succeeds(world.root.post(ct(vmid, "/status/start"), skiplock=1))

    def test_the_lock_of_a_container_cannot_be_deleted(self, world: World, locked: int) -> None:
        assert world.root.put(ct(locked, "/config"), delete="lock").status in (400, 500)
        assert world.config(locked)["lock"] == "backup"

    def test_the_lock_is_shown(self, world: World, locked: int) -> None:
        assert world.resources()[f"lxc/{locked}"]["lock"] == "backup"
        assert world.root.get(ct(locked, "/status/current")).data["lock"] == "backup"
        assert world.config(locked)["lock"] == "backup"


class TestProtection:
    @pytest.fixture
    def protected(self, world: World) -> int:
        return world.container(protection=1)

    def test_destroying(self, world: World, protected: int) -> None:
        expect(world.root.delete(ct(protected)), f"500 can't remove CT {protected} - protection mode enabled")

    def test_destroying_by_force(self, world: World, protected: int) -> None:
        expect(world.root.delete(ct(protected), force=1), f"500 can't remove CT {protected} - protection mode enabled")

    def test_restoring_over_it(self, world: World, protected: int) -> None:
        store = world.storage_for("backup")
        world.succeeds(world.root.post(f"/nodes/{NODE}/vzdump", vmid=protected, storage=store, mode="stop"))
        [backup] = world.root.get(f"/nodes/{NODE}/storage/{store}/content", content="backup", vmid=protected).data
        answer = world.create(vmid=protected, ostemplate=backup["volid"], restore=1, force=1, memory=None)
        assert answer.status == 500
        assert "protection mode enabled" in answer.reason

    def test_removing_a_disk(self, world: World) -> None:
        disks: dict[str, Any] = {"rootfs": f"{world.storage}:1", "mp0": f"{world.storage}:1,mp=/data"}
        vmid = world.container(protection=1, **disks)
        answer = world.root.put(ct(vmid, "/config"), delete="mp0")
        assert answer.status == 500
        assert answer.reason.endswith("protection mode enabled")
        assert "mp0" in world.config(vmid)

    def test_lifting_it_needs_config_options(self, world: World, protected: int) -> None:
        caller = world.someone({f"/vms/{protected}": ["VM.Allocate", "VM.Config.CPU"]})
        expect(
            caller.put(ct(protected, "/config"), protection=0),
            f"403 Permission check failed (/vms/{protected}, VM.Config.Options)",
        )

    def test_lifted(self, world: World, protected: int) -> None:
        assert world.root.put(ct(protected, "/config"), protection=0).line == "200 OK"
        world.succeeds(world.root.delete(ct(protected)))


class TestConfig:
    @pytest.fixture
    def vmid(self, world: World) -> int:
        return world.container(onboot=1, memory=64)

    def put(self, world: World, vmid: int, **params: Any) -> Any:
        return world.root.put(ct(vmid, "/config"), **params)

    def test_ok(self, world: World, vmid: int) -> None:
        answer = self.put(world, vmid, memory=128, tags="web")
        assert answer.json == {"data": None}
        assert (world.config(vmid)["memory"], world.config(vmid)["tags"]) == (128, "web")

    def test_no_option(self, world: World, vmid: int) -> None:
        expect(self.put(world, vmid), "500 no options specified")

    def test_delete(self, world: World, vmid: int) -> None:
        assert self.put(world, vmid, delete="onboot").line == "200 OK"
        assert "onboot" not in world.config(vmid)

    def test_delete_a_required_option(self, world: World, vmid: int) -> None:
        expect(self.put(world, vmid, delete="memory"), "500 unable to delete required option 'memory'")

    def test_delete_an_unknown_option(self, world: World, vmid: int) -> None:
        assert self.put(world, vmid, delete="nosuch").errors == {"delete": UNKNOWN_OPTION}

    def test_wrong_digest(self, world: World, vmid: int) -> None:
        expect(
            self.put(world, vmid, onboot=0, digest="0" * 40),
            "500 detected modified configuration - file changed by other user? Try again.",
        )
        assert world.config(vmid)["onboot"] == 1

    def test_right_digest_and_a_new_one_afterwards(self, world: World, vmid: int) -> None:
        before = world.config(vmid)["digest"]
        assert re.fullmatch(r"[0-9a-f]{40}", before)
        assert self.put(world, vmid, onboot=0, digest=before).line == "200 OK"
        assert world.config(vmid)["digest"] != before
        expect(
            self.put(world, vmid, onboot=1, digest=before),
            "500 detected modified configuration - file changed by other user? Try again.",
        )

    def test_the_digest_stays_when_nothing_changes(self, world: World, vmid: int) -> None:
        assert world.config(vmid)["digest"] == world.config(vmid)["digest"]

    def test_unprivileged(self, world: World, vmid: int) -> None:
        expect(self.put(world, vmid, unprivileged=1), "500 unable to modify read-only option: 'unprivileged'")

    def test_tags_are_lower_case_sorted_and_unique(self, world: World, vmid: int) -> None:
        self.put(world, vmid, tags="web;App,web").data  # noqa: B018
        assert world.config(vmid)["tags"] == "app;web"

    @pytest.mark.slow
    def test_config_lock_held_fails_the_stop_task(self, world: World) -> None:
        vmid = world.container(running=True)
        with world.fault("config-lock", vmid=vmid, delay=0.1):
            world.fails(
                world.root.post(ct(vmid, "/status/stop")),
                f"can't lock file '/run/lock/lxc/pve-config-{vmid}.lock' - got timeout",
            )


class TestResize:
    def test_larger(self, world: World) -> None:
        vmid = world.container(rootfs=f"{world.storage}:1")
        upid = world.succeeds(world.root.put(ct(vmid, "/resize"), disk="rootfs", size="+1G"))
        assert upid.split(":")[5] == "resize"
        assert world.config(vmid)["rootfs"].endswith("size=2G")
        world.succeeds(world.root.put(ct(vmid, "/resize"), disk="rootfs", size="4G"))
        assert world.config(vmid)["rootfs"].endswith("size=4G")

    def test_smaller(self, world: World) -> None:
        vmid = world.container(rootfs=f"{world.storage}:2")
        expect(world.root.put(ct(vmid, "/resize"), disk="rootfs", size="1G"), "500 unable to shrink disk size")


class TestClone:
    def test_of_a_running_one_without_snapshot(self, world: World, running: int) -> None:
        expect(
            world.root.post(ct(running, "/clone"), newid=world.vmid(), full=1),
            "500 Cannot do full clones on a running container without snapshots",
        )

    def test_full_copy(self, world: World) -> None:
        vmid, new = world.container(tags="web", net0=f"name=eth0,bridge={world.bridge},ip=dhcp"), world.vmid()
        world.succeeds(world.root.post(ct(vmid, "/clone"), newid=new, hostname="copy", full=1))
        config = world.config(new)
        assert (config["hostname"], config["tags"]) == ("copy", "web")
        hwaddr = re.compile(r"hwaddr=([0-9A-F:]{17})")
        assert hwaddr.findall(config["net0"]) != hwaddr.findall(world.config(vmid)["net0"])

    def test_onto_a_vmid_that_is_taken(self, world: World, container: int) -> None:
        answer = world.root.post(ct(world.container(), "/clone"), newid=container, full=1)
        assert answer.status == 500
        assert f"CT {container} already exists on node '{NODE}'" in answer.reason

    def test_of_a_snapshot(self, world: World) -> None:
        vmid, new = world.container(hostname="old", running=True), world.vmid()
        world.succeeds(world.root.post(ct(vmid, "/snapshot"), snapname="s1"))
        assert world.root.put(ct(vmid, "/config"), hostname="newer").line == "200 OK"
        world.succeeds(world.root.post(ct(vmid, "/clone"), newid=new, snapname="s1", full=1))
        assert world.config(new)["memory"] == world.config(vmid)["memory"]
