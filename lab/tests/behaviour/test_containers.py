"""Measured behaviour, section 5: creating containers and reading them. There is no 404 anywhere."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest

from lab.tests.behaviour.client import expect
from lab.tests.behaviour.world import MISSING, NODE, World, ct, until, vm

DENIED = "403 Permission check failed"
LOST = f"Configuration file 'nodes/{NODE}/lxc/{MISSING}.conf' does not exist"


class TestCreate:
    def test_ok_and_the_config_is_there_before_the_answer(self, world: World) -> None:
        vmid = world.vmid()
        answer = world.create(vmid=vmid)
        config = world.config(vmid)
        assert config.get("lock", "create") == "create"
        world.succeeds(answer)
        assert "lock" not in world.config(vmid)

    def test_locked_while_creating(self, world: World, slowly: None) -> None:
        vmid = world.vmid()
        answer = world.create(vmid=vmid)
        assert world.config(vmid)["lock"] == "create"
        assert world.resources()[f"lxc/{vmid}"]["lock"] == "create"
        expect(world.create(vmid=vmid), f"500 CT {vmid} already exists on node '{NODE}'")
        assert world.root.get("/cluster/nextid", vmid=vmid).errors == {"vmid": f"VM {vmid} already exists"}
        world.succeeds(answer)

    @pytest.mark.parametrize("force", [None, 1])
    def test_vmid_of_a_container(self, world: World, container: int, force: int | None) -> None:
        expect(world.create(vmid=container, force=force), f"500 CT {container} already exists on node '{NODE}'")

    def test_vmid_of_a_virtual_machine(self, world: World, machine: int) -> None:
        expect(world.create(vmid=machine), f"500 VM {machine} already exists on node '{NODE}'")

    def test_virtual_machine_on_the_vmid_of_a_container(self, world: World, container: int) -> None:
        expect(
            world.root.post(f"/nodes/{NODE}/qemu", vmid=container),
            f"500 CT {container} already exists on node '{NODE}'",
        )

    def test_race_for_a_vmid_has_one_winner(self, world: World) -> None:
        vmid = world.vmid()
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: world.create(vmid=vmid), range(8)))
        taken = f"CT {vmid} already exists on node '{NODE}'"
        assert sorted(a.status for a in answers) == [200] + [500] * 7
        assert {a.reason for a in answers if a.status == 500} <= {taken, f"unable to create CT {vmid} - {taken}"}
        world.succeeds(next(a for a in answers if a.status == 200))

    def test_missing_template(self, world: World) -> None:
        vmid, volume = world.vmid(), "local:vztmpl/nosuch.tar.zst"
        world.fails(
            world.create(vmid=vmid, ostemplate=volume), f"unable to create CT {vmid} - volume '{volume}' does not exist"
        )
        assert f"lxc/{vmid}" not in world.resources()
        assert world.root.get("/cluster/nextid", vmid=vmid).data == str(vmid)

    def test_template_that_is_no_volume(self, world: World) -> None:
        expect(
            world.create(world.operator, ostemplate="debian-12"),
            "500 Only root can pass arbitrary filesystem paths. at /usr/share/perl5/PVE/Storage.pm line 581.",
        )

    @pytest.mark.parametrize(
        "wanted",
        [
            pytest.param({"ostemplate": "nosuch:vztmpl/a.tar.zst"}, id="template"),
            pytest.param({"rootfs": "nosuch:1"}, id="rootfs"),
            pytest.param({"storage": "nosuch"}, id="storage"),
        ],
    )
    def test_unknown_storage(self, world: World, wanted: dict[str, Any]) -> None:
        expect(world.create(**wanted), "500 storage 'nosuch' does not exist")

    @pytest.mark.parametrize(
        "wanted",
        [
            pytest.param({"storage": "local"}, id="named"),
            pytest.param({"storage": None}, id="default"),
        ],
    )
    def test_storage_without_directories(self, world: World, wanted: dict[str, Any]) -> None:
        assert world.create(**wanted).errors == {"storage": "storage 'local' does not support container directories"}

    def test_a_mount_point_without_rootfs(self, world: World) -> None:
        assert world.create(mp0=f"{world.storage}:1,mp=/data").status == 500

    def test_unknown_bridge_fails_at_the_start(self, world: World) -> None:
        vmid = world.container(net0="name=eth0,bridge=vmbr9,ip=dhcp")
        world.fails(world.root.post(ct(vmid, "/status/start")), "bridge 'vmbr9' does not exist")

    def test_unknown_pool(self, world: World) -> None:
        expect(world.create(pool="nosuch"), f"{DENIED} (pool 'nosuch' does not exist)")

    def test_bad_ssh_key(self, world: World) -> None:
        expect(world.create(None, **{"ssh-public-keys": "nonsense"}), "500 SSH public key validation error")

    def test_defaults_are_written(self, world: World) -> None:
        vmid = world.container(memory=None)
        config = world.config(vmid)
        assert config["hostname"] == f"CT{vmid}"
        assert (config["memory"], config["swap"]) == (512, 512)
        assert re.fullmatch(rf"{world.storage}:.+,size=4G", config["rootfs"])

    @pytest.mark.parametrize("form", ["3", "{storage}:3", "volume={storage}:3"])
    def test_forms_of_rootfs(self, world: World, form: str) -> None:
        vmid = world.container(rootfs=form.format(storage=world.storage))
        assert re.fullmatch(rf"{world.storage}:.+,size=3G", world.config(vmid)["rootfs"])

    def test_keys_are_url_encoded_lines(self, world: World) -> None:
        lines = ["# comment", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx4F0vV0lqN8tmsC4Wq0gXkq0m1 one@lab", ""]
        options: dict[str, Any] = {"ssh-public-keys": quote("\n".join(lines))}
        world.container(**options)

    def test_start_is_a_second_task(self, world: World) -> None:
        vmid = world.vmid()
        world.succeeds(world.create(vmid=vmid, start=1))
        until(lambda: world.root.get(ct(vmid, "/status/current")).data["status"] == "running", "running")
        tasks = world.root.get(f"/nodes/{NODE}/tasks", vmid=vmid).data
        assert {row["type"] for row in tasks} == {"vzcreate", "vzstart"}

    def test_a_failing_start_does_not_fail_the_create(self, world: World) -> None:
        vmid = world.vmid()
        world.succeeds(world.create(vmid=vmid, start=1, net0="name=eth0,bridge=vmbr9,ip=dhcp"))

        def started() -> list[dict[str, Any]]:
            rows = world.root.get(f"/nodes/{NODE}/tasks", vmid=vmid, typefilter="vzstart").data
            return [row for row in rows if "endtime" in row]

        assert until(started, "vzstart")[0]["status"] == "bridge 'vmbr9' does not exist"

    def test_duplicate_hostname_and_address(self, world: World) -> None:
        same: dict[str, Any] = {"hostname": "twin", "net0": f"name=eth0,bridge={world.bridge},ip=10.99.0.5/24"}
        assert world.container(**same) != world.container(**same)

    def test_stopping_the_task_removes_the_container(self, world: World, endlessly: None) -> None:
        vmid = world.vmid()
        upid = world.create(vmid=vmid).data
        assert world.root.delete(f"/nodes/{NODE}/tasks/{upid}").data is None
        assert world.exit_status(upid).endswith("received interrupt")
        assert f"lxc/{vmid}" not in world.resources()

    def test_start_during_create_waits_and_starts(self, world: World, slowly: None) -> None:
        vmid = world.vmid()
        created = world.create(vmid=vmid)
        world.succeeds(world.root.post(ct(vmid, "/status/start")))
        world.succeeds(created)


class TestMissing:
    @pytest.mark.parametrize(
        ("method", "leaf", "params"),
        [
            ("GET", "/config", {}),
            ("GET", "/status/current", {}),
            ("GET", "/snapshot", {}),
            ("PUT", "/config", {"onboot": 1}),
            ("PUT", "/resize", {"disk": "rootfs", "size": "+1G"}),
            ("DELETE", "", {}),
            ("POST", "/clone", {"newid": 99997}),
        ],
    )
    def test_at_once(self, world: World, method: str, leaf: str, params: dict[str, Any]) -> None:
        expect(world.root.call(method, ct(MISSING, leaf), params), f"500 {LOST}")

    @pytest.mark.parametrize(
        ("method", "leaf", "params"),
        [
            ("POST", "/status/start", {}),
            ("POST", "/snapshot", {"snapname": "s1"}),
            ("DELETE", "/snapshot/s1", {}),
        ],
    )
    def test_in_the_task(self, world: World, method: str, leaf: str, params: dict[str, Any]) -> None:
        world.fails(world.root.call(method, ct(MISSING, leaf), params), LOST)

    @pytest.mark.parametrize(
        ("verb", "line"),
        [
            ("stop", f"500 CT {MISSING} not running"),
            ("shutdown", f"500 CT {MISSING} not running"),
            ("reboot", f"500 VM {MISSING} not running"),
        ],
    )
    def test_not_running(self, world: World, verb: str, line: str) -> None:
        expect(world.root.post(ct(MISSING, f"/status/{verb}")), line)

    def test_the_vmid_is_free_when_the_destroy_has_ended(self, world: World) -> None:
        vmid = world.container()
        with world.fault("task-slow", task="vzdestroy", vmid=vmid, delay=1):
            answer = world.root.delete(ct(vmid))
            assert world.root.get("/cluster/nextid", vmid=vmid).errors == {"vmid": f"VM {vmid} already exists"}
            expect(world.create(vmid=vmid), f"500 CT {vmid} already exists on node '{NODE}'")
            world.succeeds(answer)
        assert world.root.get("/cluster/nextid", vmid=vmid).data == str(vmid)

    def test_grants_and_firewall_go_with_the_container(self, world: World) -> None:
        vmid = world.container()
        caller = world.someone({f"/vms/{vmid}": ["VM.Audit"]})
        world.root.post(ct(vmid, "/firewall/rules"), type="in", action="ACCEPT").data  # noqa: B018
        world.succeeds(world.root.delete(ct(vmid)))
        assert f"/vms/{vmid}" not in [row["path"] for row in world.root.get("/access/acl").data]
        world.container(vmid=vmid)
        expect(caller.get(ct(vmid, "/config")), f"403 Permission check failed (/vms/{vmid}, VM.Audit)")
        assert world.root.get(ct(vmid, "/firewall/rules")).data == []

    def test_destroyed_twice(self, world: World) -> None:
        vmid = world.container()
        world.succeeds(world.root.delete(ct(vmid)))
        expect(world.root.delete(ct(vmid)), f"500 Configuration file 'nodes/{NODE}/lxc/{vmid}.conf' does not exist")


class TestPower:
    def test_destroying_a_running_one(self, world: World, running: int) -> None:
        expect(world.root.delete(ct(running)), f"500 unable to destroy CT {running} - container is running")

    def test_destroying_a_running_one_by_force(self, world: World) -> None:
        vmid = world.container(running=True)
        upid = world.succeeds(world.root.delete(ct(vmid), force=1))
        assert f"forced to stop CT {vmid} before destroying!" in world.log(upid)

    def test_starting_a_running_one(self, world: World, running: int) -> None:
        expect(world.root.post(ct(running, "/status/start")), f"500 CT {running} already running")

    @pytest.mark.parametrize(("verb", "kind"), [("stop", "CT"), ("shutdown", "CT"), ("reboot", "VM")])
    def test_stopping_a_stopped_one(self, world: World, container: int, verb: str, kind: str) -> None:
        expect(world.root.post(ct(container, f"/status/{verb}")), f"500 {kind} {container} not running")

    @pytest.mark.parametrize(("verb", "status"), [("stop", "stopped"), ("shutdown", "stopped"), ("reboot", "running")])
    def test_verbs(self, world: World, verb: str, status: str) -> None:
        vmid = world.container(running=True)
        world.succeeds(world.root.post(ct(vmid, f"/status/{verb}")))
        assert world.root.get(ct(vmid, "/status/current")).data["status"] == status


class TestTemplate:
    def test_of_a_running_one(self, world: World, running: int) -> None:
        expect(world.root.post(ct(running, "/template")), "500 you can't convert a CT to template if the CT is running")

    def test_cannot_be_started_or_snapshot(self, world: World) -> None:
        vmid = world.container()
        assert world.root.post(ct(vmid, "/template")).line == "200 OK"
        world.fails(world.root.post(ct(vmid, "/status/start")), "you can't start a CT if it's a template")
        world.fails(
            world.root.post(ct(vmid, "/snapshot"), snapname="s1"), "you can't take a snapshot if it's a template"
        )


class TestReading:
    def test_types(self, world: World, container: int) -> None:
        row = next(r for r in world.root.get(f"/nodes/{NODE}/lxc").data if r["vmid"] == container)
        assert [type(row[name]) for name in ("vmid", "mem", "uptime")] == [int, int, int]

    def test_current_of_a_running_one(self, world: World, running: int) -> None:
        current = world.root.get(ct(running, "/status/current")).data
        assert set(current) == {
            "status",
            "vmid",
            "name",
            "type",
            "cpus",
            "cpu",
            "mem",
            "maxmem",
            "swap",
            "maxswap",
            "disk",
            "maxdisk",
            "netin",
            "netout",
            "diskread",
            "diskwrite",
            "uptime",
            "pid",
            "ha",
        }
        assert (current["status"], current["vmid"], current["type"]) == ("running", running, "lxc")
        assert current["ha"] == {"managed": 0}

    def test_current_of_a_stopped_one_has_no_pid(self, world: World, container: int) -> None:
        current = world.root.get(ct(container, "/status/current")).data
        assert current["status"] == "stopped"
        assert "pid" not in current

    def test_current_shows_tags_and_lock(self, world: World, locked: int) -> None:
        world.root.get(ct(locked, "/config"))
        current = world.root.get(ct(locked, "/status/current")).data
        assert (current["tags"], current["lock"]) == ("web", "backup")

    def test_interfaces_of_a_running_one(self, world: World) -> None:
        vmid = world.container(running=True, net0=f"name=eth0,bridge={world.bridge},ip=10.99.0.77/24")
        found = {row["name"]: row for row in world.root.get(ct(vmid, "/interfaces")).data}
        eth0 = found["eth0"]
        assert eth0["inet"] == "10.99.0.77/24"
        assert eth0["hwaddr"] == eth0["hardware-address"]
        assert {"ip-address": "10.99.0.77", "ip-address-type": "inet", "prefix": "24"} in [
            {**a, "prefix": str(a["prefix"])} for a in eth0["ip-addresses"]
        ]

    def test_interfaces_of_a_stopped_one_are_null(self, world: World, container: int) -> None:
        assert world.root.get(ct(container, "/interfaces")).json == {"data": None}

    def test_agent_of_a_machine(self, world: World) -> None:
        without = world.machine(running=True)
        stopped = world.machine(agent="1")
        path = "/agent/network-get-interfaces"
        expect(world.root.get(vm(without, path)), "500 No QEMU guest agent configured")
        expect(world.root.get(vm(stopped, path)), f"500 VM {stopped} is not running")

    def test_agent_interfaces(self, world: World) -> None:
        vmid = world.machine(
            running=True, agent="1", net0=f"virtio,bridge={world.bridge}", ipconfig0="ip=10.99.0.78/24"
        )
        result = world.root.get(vm(vmid, "/agent/network-get-interfaces")).data["result"]
        found = [row for row in result if row["name"] != "lo"]
        assert found
        assert {"name", "hardware-address", "ip-addresses", "statistics"} <= set(found[0])
        assert {"ip-address", "ip-address-type", "prefix"} <= set(found[0]["ip-addresses"][0])
        assert "10.99.0.78" in [a["ip-address"] for a in found[0]["ip-addresses"]]
