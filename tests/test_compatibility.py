"""The modules against a lab that plays Proxmox VE 8 and one that plays 9: the same tasks, whatever differs below."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import proxmoxer
import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    AlreadyExistsError,
    PermissionDeniedError,
    PowerStateError,
)
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import ProxmoxClient, endpoint_from_params

from .conftest import Lab, Operator, running_lab

pytestmark = [pytest.mark.e2e, pytest.mark.filterwarnings("ignore:Unverified HTTPS request")]

Options = dict[str, Any]
vmids = itertools.count(120)


@dataclass
class House:
    """A lab of one version with its operator."""

    version: int
    operator: Operator

    @property
    def lab(self) -> Lab:
        return self.operator.lab

    @property
    def root(self) -> proxmoxer.ProxmoxAPI:
        """root@pam with its password, who may make users and tokens."""
        password = json.loads((self.lab.directory / "credentials.json").read_text())["root_password"]
        return proxmoxer.ProxmoxAPI(
            "127.0.0.1", port=self.lab.port, user="root@pam", password=password, verify_ssl=False
        )

    def token(self, user: str, name: str, roles: dict[str, str], *, privsep: int = 1) -> Options:
        """Options of a module with a token that has these roles on these paths."""
        secret = self.root.access.users(user).token(name).post(privsep=privsep)["value"]
        for path, role in roles.items():
            self.root.access.acl.put(path=path, roles=role, tokens=f"{user}!{name}")
        return {"api_user": user, "api_token_id": name, "api_token_secret": secret}

    def client(self, token: Options | None = None) -> ProxmoxClient:
        env = self.lab.env
        params = {
            "api_host": "127.0.0.1", "api_port": self.lab.port, "validate_certs": False, "api_user": "nhi@pve",
            "api_token_id": env["PROXMOX_TOKEN_ID"], "api_token_secret": env["PROXMOX_TOKEN_SECRET"], **(token or {}),
        }  # fmt: skip
        return ProxmoxClient(endpoint_from_params(params))

    def do(self, module: str, /, **options: Any) -> dict[str, Any]:
        """The result of a module that has to succeed."""
        result = self.operator.module(module, **options)
        assert not result.get("failed"), result
        return result

    def refused(self, module: str, /, **options: Any) -> str:
        """The one line of a module that has to fail before anything is written."""
        before = len(self.lab.writes())
        result = self.operator.module(module, **options)
        assert result.get("failed"), result
        message: str = result["msg"]
        assert "\n" not in message
        assert len(self.lab.writes()) == before
        return message

    def container(self, name: str, **options: Any) -> int:
        vmid = next(vmids)
        wanted = {"template": "debian-12", "state": "started", "memory": 256, "storage": "local-lvm", "cores": 1}
        network = {"ip": f"127.86.{40 + self.version}.{vmid}/24"}
        made = self.do("nhi_vm", name=name, vmid=vmid, network=network, **{**wanted, **options})
        return int(made["vm"]["vmid"])


@pytest.fixture(scope="module", params=[8, 9], ids=["PVE 8", "PVE 9"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    version: int = request.param
    directory = tmp_path_factory.mktemp(f"pve{version}")
    options = ("--driver", "memory", "--no-lag", "--pve-version", str(version), "--auth-delay", "0.1")
    with running_lab(directory / "lab", *options) as lab:
        (directory / "infrastructure").mkdir()
        yield House(version, Operator(lab, directory / "infrastructure"))


@pytest.fixture(scope="module")
def blind(house: House) -> Options:
    """A token without any right."""
    return house.token("nhi@pve", "blind", {})


@pytest.fixture(scope="module")
def late(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Another lab of that version, whose rows lag as on a real node."""
    directory = tmp_path_factory.mktemp("late")
    with running_lab(directory / "lab", "--driver", "memory", "--pve-version", str(house.version)) as lab:
        (directory / "infrastructure").mkdir()
        yield House(house.version, Operator(lab, directory / "infrastructure"))


@pytest.fixture(autouse=True)
def no_faults(house: House) -> Iterator[None]:
    yield
    house.lab.fault("clear")


def test_the_lab_plays_the_version_that_is_asked_for(house: House) -> None:
    assert str(house.client().get("/version")["version"]).startswith(f"{house.version}.")


def test_a_guest_from_birth_to_end(house: House) -> None:
    vmid = house.container("birth", pool="ai-lab", tags=["Web", "app"])
    config = house.client().get(("nodes", "pve", "lxc", vmid, "config"))
    assert int(config["unprivileged"]) == 1, "the default differs between releases, so it has to be sent"
    assert config["tags"] == "app;web"
    assert house.do("nhi_vm", name="birth", tags=["app", "WEB"])["changed"] is False
    assert house.do("nhi_vm", name="birth", memory=512, cores=2)["changed"]
    assert house.do("nhi_vm", name="birth", memory=512, cores=2)["changed"] is False
    assert house.do("nhi_vm", name="birth", state="absent", confirm="birth")["changed"]
    assert house.do("nhi_vm", name="birth", state="absent", confirm="birth")["changed"] is False


def test_snapshots_and_backups_go_and_come_back(house: House) -> None:
    vmid = house.container("keeper")
    assert house.do("nhi_vm_snapshot", name="keeper", snapshot="s1")["changed"]
    assert house.do("nhi_vm_snapshot", name="keeper", snapshot="s1")["changed"] is False
    rollback = {"name": "keeper", "snapshot": "s1", "state": "rollback", "confirm": "keeper"}
    assert house.do("nhi_vm_snapshot", **rollback)["changed"]
    volid = house.do("nhi_vm_backup", name="keeper", storage="local")["backup"]["volid"]
    copy = next(vmids)
    restored = house.do("nhi_vm_backup", name=f"copy-{copy}", vmid=copy, state="restored", backup=volid)
    assert restored["vm"]["vmid"] == copy
    assert int(house.client().get(("nodes", "pve", "lxc", copy, "config"))["unprivileged"]) == 1
    assert house.do("nhi_vm", name="keeper")["vm"]["vmid"] == vmid


def test_a_machine_s_address_comes_from_its_agent(house: House) -> None:
    vmid = next(vmids)
    api = house.client()
    options = {"vmid": vmid, "name": "vm", "memory": 512, "agent": "1", "net0": "virtio,bridge=vmbr0"}
    api.wait_task(api.post("/nodes/pve/qemu", {**options, "scsi0": "local-lvm:1"}))
    api.wait_task(api.post(("nodes", "pve", "qemu", vmid, "status", "start")))
    house.do("nhi_state_scan", health_checks=False)
    found = next(g for g in house.operator.state()["infrastructure"]["guests"] if g["vmid"] == vmid)
    assert found["address"]
    assert all(record["source"] == "agent" for record in found["addresses"])


def test_the_privilege_for_agents_is_named_as_this_version_calls_it(house: House) -> None:
    """VM.Monitor was removed in 9, and the privileges that follow it do not exist in 8."""
    vmid = next(vmids)
    api = house.client()
    options = {"vmid": vmid, "name": f"silent-{vmid}", "memory": 512, "agent": "1", "net0": "virtio,bridge=vmbr0"}
    api.wait_task(api.post("/nodes/pve/qemu", {**options, "scsi0": "local-lvm:1"}))
    api.wait_task(api.post(("nodes", "pve", "qemu", vmid, "status", "start")))
    house.root.access.roles.post(roleid="Plain", privs="VM.Audit,Datastore.Audit,Sys.Audit")
    token = house.token("nhi@pve", "plain", {"/": "Plain"})
    house.do("nhi_state_scan", health_checks=False, full=True, **token)
    [alert] = [a for a in house.operator.state()["alerts"] if a["subject"] == "token/nhi@pve!plain"]
    assert ("VM.Monitor" if house.version == 8 else "VM.GuestAgent.Audit") in alert["message"]
    assert ("VM.GuestAgent" if house.version == 8 else "VM.Monitor") not in alert["message"]


def test_an_agent_that_is_silent_fails_nothing(house: House) -> None:
    vmid = next(vmids)
    api = house.client()
    options = {"vmid": vmid, "name": f"dead-{vmid}", "memory": 512, "agent": "1", "net0": "virtio,bridge=vmbr0"}
    api.wait_task(api.post("/nodes/pve/qemu", {**options, "scsi0": "local-lvm:1"}))
    api.wait_task(api.post(("nodes", "pve", "qemu", vmid, "status", "start")))
    house.lab.fault("set", "dead-agent", "--vmid", str(vmid), "--delay", "0.1")
    assert house.do("nhi_vm", name=f"dead-{vmid}")["vm"]["address"] is None
    house.do("nhi_state_scan", health_checks=False)


class TestTokens:
    """Who asks: without rights, with a wrong secret, in the name of root."""

    @pytest.mark.parametrize(
        ("module", "options"),
        [
            ("nhi_state_scan", {"health_checks": False}),
            ("nhi_vm", {"name": "x", "state": "absent", "confirm": "x"}),
            ("nhi_vm", {"name": "x", "state": "started", "template": "debian-12"}),
            ("nhi_vm_snapshot", {"name": "x", "snapshot": "s1"}),
            ("nhi_vm_backup", {"name": "x", "storage": "local"}),
            ("nhi_vm_backup_info", {}),
        ],
        ids=["scan", "absent", "started", "snapshot", "backup", "backup_info"],
    )
    def test_a_token_without_rights_is_told_so_instead_of_that_nothing_is_there(
        self, house: House, blind: Options, module: str, options: Options
    ) -> None:
        assert "VM.Audit nowhere" in house.refused(module, **options, **blind)

    def test_a_wrong_secret_is_one_line_and_asked_once(self, house: House) -> None:
        before = len(house.lab.requests())
        wrong = "00000000-0000-0000-0000-000000000000"
        message = house.refused("nhi_vm", name="x", api_token_secret=wrong)
        assert "does not accept the API token nhi@pve!demo" in message
        assert [r["status"] for r in house.lab.requests()[before:]] == [401]

    @pytest.mark.parametrize(
        "option",
        [{"features": "keyctl=1"}, {"mp0": "/srv,mp=/mnt"}, {"dev0": "/dev/fuse"}],
        ids=["keyctl", "bind", "dev"],
    )
    @pytest.mark.parametrize("privsep", [0, 1])
    def test_a_token_of_root_is_not_root(self, house: House, option: Options, privsep: int) -> None:
        name = f"t{next(vmids)}"
        roles = {"/": "Administrator"} if privsep else {}
        client = house.client(house.token("root@pam", name, roles, privsep=privsep))
        template = client.get("/nodes/pve/storage/local/content", {"content": "vztmpl"})[0]["volid"]
        wanted = {"vmid": next(vmids), "ostemplate": template, "rootfs": "local-lvm:1", "unprivileged": 1}
        with pytest.raises(PermissionDeniedError, match="no API token may do that, not even one of root@pam"):
            client.post("/nodes/pve/lxc", {**wanted, **option})

    def test_nobody_s_container_is_a_matter_of_rights_to_those_who_have_none(self, house: House) -> None:
        client = house.client(house.token("nhi@pve", "poor", {}))
        with pytest.raises(PermissionDeniedError, match=r"VM\.Audit on /vms/987654"):
            client.get("/nodes/pve/lxc/987654/config")


class TestAnswers:
    """What the API says, as the client understands it."""

    def test_a_vmid_that_is_taken_is_told_by_nextid_and_by_the_create_call(self, house: House) -> None:
        vmid = house.container("taken")
        client = house.client()
        assert int(client.get("/cluster/nextid", {"vmid": 555555})) == 555555
        with pytest.raises(AlreadyExistsError):
            client.get("/cluster/nextid", {"vmid": vmid})
        wanted = {"vmid": vmid, "ostemplate": "local:vztmpl/x.tar.zst", "rootfs": "local-lvm:1"}
        with pytest.raises(AlreadyExistsError):
            client.post("/nodes/pve/lxc", wanted)

    def test_power_is_told_from_other_failures(self, house: House) -> None:
        vmid = house.container("power")
        client = house.client()
        path = ("nodes", "pve", "lxc", vmid)
        with pytest.raises(PowerStateError):
            client.post((*path, "status", "start"))
        with pytest.raises(PowerStateError):
            client.delete(path, {"purge": True})
        client.wait_task(client.post((*path, "status", "stop")))
        with pytest.raises(PowerStateError):
            client.post((*path, "status", "shutdown"))
        assert client.get((*path, "interfaces")) is None

    @pytest.mark.parametrize("kind", ["proxy-timeout", "task-warn"])
    def test_a_create_survives_a_proxy_that_gives_up_and_a_task_that_grumbles(self, house: House, kind: str) -> None:
        conditions = {
            "proxy-timeout": ("--path", "*/tasks/*/status", "--delay", "0.1", "--count", "2"),
            "task-warn": ("--task", "vzcreate", "--count", "1"),
        }
        house.lab.fault("set", kind, *conditions[kind])
        vmid = house.container(f"survivor-{kind}")
        assert house.client().get(("nodes", "pve", "lxc", vmid, "status", "current"))["status"] == "running"


class TestLag:
    """/cluster/resources is up to ten seconds behind."""

    def test_a_guest_younger_than_its_row_is_found_and_not_made_twice(self, late: House) -> None:
        vmid = late.container("young")
        [row] = [r for r in late.client().get("/cluster/resources", {"type": "vm"}) if r["vmid"] == vmid]
        assert "name" not in row, "the row has its name already: this test could not fail"
        again = late.do("nhi_vm", name="young")
        assert (again["changed"], again["vm"]["vmid"]) == (False, vmid)

    def test_the_next_guest_with_a_vmid_is_not_taken_for_the_last(self, late: House) -> None:
        first = late.container("former")
        deadline = time.monotonic() + 15
        while not [r for r in late.client().get("/cluster/resources", {"type": "vm"}) if r.get("name") == "former"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        api = late.client()
        api.wait_task(api.post(("nodes", "pve", "lxc", first, "status", "stop")))
        api.wait_task(api.delete(("nodes", "pve", "lxc", first)))
        template = api.get("/nodes/pve/storage/local/content", {"content": "vztmpl"})[0]["volid"]
        wanted = {"vmid": first, "ostemplate": template, "rootfs": "local-lvm:1", "hostname": "heir"}
        api.wait_task(api.post("/nodes/pve/lxc", wanted))
        [row] = [r for r in api.get("/cluster/resources", {"type": "vm"}) if r["vmid"] == first]
        assert row["name"] == "former", "the row has its new name already: this test could not fail"
        assert late.do("nhi_vm", name="former", state="absent", confirm="former")["changed"] is False
        assert "does not exist" in late.refused("nhi_vm", name="former", state="stopped")
        assert api.get(("nodes", "pve", "lxc", first, "config"))["hostname"] == "heir"
