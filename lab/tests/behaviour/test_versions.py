"""Measured behaviour, section 9: what --pve-version 8 and 9 answer differently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lab.tests.behaviour.client import expect
from lab.tests.behaviour.test_authorization_of_changes import creator
from lab.tests.behaviour.world import MISSING, NODE, World, ct, vm

DENIED = "403 Permission check failed"
UNKNOWN = "property is not defined in schema and the schema does not allow additional properties"
UNKNOWN_KEY = "invalid key in comma-separated list property"


@pytest.fixture(scope="module")
def eight(world: World) -> World:
    return world


@pytest.fixture(scope="module")
def nine(lab: Callable[..., World]) -> World:
    return lab("--pve-version", "9")


@pytest.fixture(params=["8", "9"])
def either(request: pytest.FixtureRequest, eight: World, nine: World) -> World:
    return eight if request.param == "8" else nine


def test_version_8(eight: World) -> None:
    data = eight.nobody.get("/version").data
    assert data["version"].startswith("8.4.")
    assert set(data) >= {"version", "release", "repoid"}


def test_version_9(nine: World) -> None:
    assert nine.nobody.get("/version").data["version"].startswith("9.")


class TestUnprivileged:
    def test_default_on_8(self, eight: World) -> None:
        assert int(eight.config(eight.container()).get("unprivileged", 0)) == 0

    def test_default_on_9(self, nine: World) -> None:
        assert nine.config(nine.container())["unprivileged"] == 1

    @pytest.mark.parametrize("wanted", [0, 1])
    def test_asked_for(self, either: World, wanted: int) -> None:
        assert int(either.config(either.container(unprivileged=wanted)).get("unprivileged", 0)) == wanted

    def test_an_ordinary_user_may_be_privileged_on_8(self, eight: World) -> None:
        eight.succeeds(eight.create(creator(eight), unprivileged=0))

    def test_privileged_needs_sys_modify_on_9(self, nine: World) -> None:
        expect(nine.create(creator(nine), unprivileged=0), f"{DENIED} (/, Sys.Modify)")
        nine.succeeds(nine.create(creator(nine, {"/": ["Sys.Modify"]}), unprivileged=0))

    def test_an_ordinary_user_may_be_unprivileged_on_9(self, nine: World) -> None:
        nine.succeeds(nine.create(creator(nine)))

    def test_nesting_on_a_privileged_container_is_for_root(self, either: World) -> None:
        answer = either.create(either.operator, unprivileged=0, features="nesting=1")
        assert answer.line.startswith(DENIED)
        assert "only allowed for root@pam" in answer.reason


NEW_IN_9 = [
    pytest.param({"ha-managed": 0}, "ha-managed", UNKNOWN, id="ha-managed"),
    pytest.param({"entrypoint": "/sbin/init"}, "entrypoint", UNKNOWN, id="entrypoint"),
    pytest.param({"env": "A=b"}, "env", UNKNOWN, id="env"),
    pytest.param(
        {"net0": "name=eth0,bridge=vmbr0,host-managed=1"},
        "net0",
        f"invalid format - {UNKNOWN_KEY}: host-managed\n",
        id="net0 host-managed",
    ),
]


class TestParameters:
    @pytest.mark.parametrize(("wanted", "name", "text"), NEW_IN_9)
    def test_unknown_on_8(self, eight: World, wanted: dict[str, Any], name: str, text: str) -> None:
        assert eight.create(**wanted).errors == {name: text}

    @pytest.mark.parametrize(("wanted", "name", "text"), NEW_IN_9)
    def test_taken_by_9(self, nine: World, wanted: dict[str, Any], name: str, text: str) -> None:
        nine.succeeds(nine.create(**wanted))

    @pytest.mark.parametrize(("key", "value"), [("idmap", "passthrough"), ("keepattrs", "1")])
    def test_mount_point_options_unknown_on_8(self, eight: World, key: str, value: str) -> None:
        answer = eight.create(mp0=f"{eight.storage}:1,mp=/data,{key}={value}")
        assert answer.errors == {"mp0": f"invalid format - {UNKNOWN_KEY}: {key}\n"}

    def test_mount_point_keepattrs_taken_by_9(self, nine: World) -> None:
        nine.succeeds(nine.create(rootfs=f"{nine.storage}:1", mp0=f"{nine.storage}:1,mp=/data,keepattrs=1"))

    def test_ha_needs_sys_console_on_9(self, nine: World) -> None:
        expect(nine.create(creator(nine), **{"ha-managed": 1}), f"{DENIED} (/, Sys.Console)")

    def test_maxfiles_is_taken_by_8(self, eight: World) -> None:
        store = eight.storage_for("backup")
        eight.succeeds(
            eight.root.post(f"/nodes/{NODE}/vzdump", vmid=eight.container(), storage=store, maxfiles=1, mode="stop")
        )

    def test_maxfiles_is_gone_in_9(self, nine: World) -> None:
        assert nine.root.post(f"/nodes/{NODE}/vzdump", all=1, maxfiles=1).errors == {"maxfiles": UNKNOWN}


class TestPrivileges:
    def test_monitor_exists_on_8(self, eight: World) -> None:
        assert eight.root.post("/access/roles", roleid="Monitor", privs="VM.Monitor").line == "200 OK"

    def test_monitor_is_gone_in_9(self, nine: World) -> None:
        answer = nine.root.post("/access/roles", roleid="Monitor", privs="VM.Monitor")
        assert answer.status in (400, 500)
        assert "invalid privilege 'VM.Monitor'" in answer.text

    def test_guest_agent_privileges_are_new_in_9(self, eight: World, nine: World) -> None:
        wanted = {"roleid": "Agent", "privs": "VM.GuestAgent.Audit"}
        assert nine.root.post("/access/roles", **wanted).line == "200 OK"
        assert "invalid privilege 'VM.GuestAgent.Audit'" in eight.root.post("/access/roles", **wanted).text

    def test_replicate_is_new_in_9(self, eight: World, nine: World) -> None:
        wanted = {"roleid": "Replicator", "privs": "VM.Replicate"}
        assert nine.root.post("/access/roles", **wanted).line == "200 OK"
        assert "invalid privilege 'VM.Replicate'" in eight.root.post("/access/roles", **wanted).text

    @pytest.mark.parametrize("privilege", ["VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted"])
    def test_reading_the_agent_on_9(self, nine: World, privilege: str) -> None:
        vmid = nine.machine(running=True, agent="1")
        path = vm(vmid, "/agent/network-get-interfaces")
        expect(
            nine.someone({"/vms": ["VM.Audit"]}).get(path),
            f"{DENIED} (/vms/{vmid}, VM.GuestAgent.Audit|VM.GuestAgent.Unrestricted)",
        )
        assert nine.someone({f"/vms/{vmid}": [privilege]}).get(path).line == "200 OK"

    def machine_rights(self) -> dict[str, list[str]]:
        return {"/vms": ["VM.Allocate", "VM.Config.Memory"]}

    def test_starting_a_new_machine_needs_power_management_on_9(self, eight: World, nine: World) -> None:
        vmid = nine.vmid()
        path = f"/nodes/{NODE}/qemu"
        expect(
            nine.someone(self.machine_rights()).post(path, vmid=vmid, memory=64, start=1),
            f"{DENIED} (/vms/{vmid}, VM.PowerMgmt)",
        )
        assert eight.someone(self.machine_rights()).post(path, vmid=eight.vmid(), memory=64, start=1).status == 200


class TestResources:
    def test_networks_are_new_in_9(self, eight: World, nine: World) -> None:
        assert "network" not in {row["type"] for row in eight.resources().values()}
        assert [row for row in nine.resources().values() if row["type"] == "network"]

    def test_host_memory_of_guests_is_new_in_9(self, eight: World, nine: World) -> None:
        old, new = eight.machine(running=True), nine.machine(running=True)
        assert "memhost" not in eight.resources()[f"qemu/{old}"]
        assert "memhost" in nine.resources()[f"qemu/{new}"]

    def test_architecture_of_hosts_is_new_in_9(self, eight: World, nine: World) -> None:
        assert "host-arch" not in eight.resources()[f"node/{NODE}"]
        assert nine.resources()[f"node/{NODE}"]["host-arch"] == "x86_64"


def test_errors_carry_a_message_in_both(either: World) -> None:
    expect(
        either.root.get(ct(MISSING, "/config")),
        f"500 Configuration file 'nodes/{NODE}/lxc/{MISSING}.conf' does not exist",
    )


def test_interfaces_list_addresses_in_both(either: World) -> None:
    vmid = either.container(running=True, net0=f"name=eth0,bridge={either.bridge},ip=10.99.3.5/24")
    [eth0] = [row for row in either.root.get(ct(vmid, "/interfaces")).data if row["name"] == "eth0"]
    assert eth0["ip-addresses"][0]["ip-address"] == "10.99.3.5"
