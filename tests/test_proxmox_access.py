"""Three tokens of Proxmox VE: a playbook makes them from nothing, each does its work, and what none of them can do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from ansible_collections.nhi.core.plugins.module_utils._proxmox import ProxmoxClient, endpoint_from_params
from ansible_collections.nhi.core.plugins.module_utils.errors import AuthenticationError, ParameterError, ProxmoxError

from .api_client import administrator
from .conftest import ROOT, Operator, tool

USER, POOL = "nhi-tokens@pve", "ai-lab"
MINE, FOREIGN, MACHINE = 301, 302, 303
CT = "nodes/pve/lxc"
NEW = {"ostemplate": "local:vztmpl/debian-12-standard_12.12-1_amd64.tar.zst", "storage": "local-lvm", "unprivileged": 1}


@dataclass
class Tokens:
    """A lab in which the playbook was run three times: as a dry run, in earnest, and again."""

    operator: Operator
    root: ProxmoxClient
    outputs: list[str]
    writes: list[int]
    read: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)

    def playbook(self, *args: str, check: bool = True) -> str:
        done = self.operator.playbook("proxmox_access.yml", *args)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def secrets(self) -> dict[str, dict[str, str]]:
        """The vault's, by token."""
        file = self.operator.lab.directory / "vault/proxmox/tokens.yml"
        encrypted = file.read_text()
        assert encrypted.startswith("$ANSIBLE_VAULT;")
        if encrypted not in self.read:
            shown = self.operator.run(tool("ansible-vault"), "view", str(file)).stdout
            self.read[encrypted] = yaml.safe_load(shown)
        return {name.removeprefix("vault_proxmox_"): dict(entry) for name, entry in self.read[encrypted].items()}

    def options(self, name: str) -> dict[str, Any]:
        return {**self.secrets()[name], "validate_certs": False}

    def client(self, name: str) -> ProxmoxClient:
        host = {"api_host": "127.0.0.1", "api_port": self.operator.lab.port}
        return ProxmoxClient(endpoint_from_params({**host, **self.options(name)}))


@pytest.fixture(scope="module")
def made(shared_lab: Operator) -> Iterator[Tokens]:
    lab = shared_lab.lab
    password = json.loads((lab.directory / "credentials.json").read_text())["root_password"]
    # Whatever did without its token would be root's doing.
    shared_lab.extra |= {"PROXMOX_USER": "root@pam", "PROXMOX_PASSWORD": password}
    for name in ("PROXMOX_TOKEN_ID", "PROXMOX_TOKEN_SECRET"):
        shared_lab.extra[name] = ""
    with administrator(lab) as root:
        tokens = Tokens(shared_lab, root, [], [])
        for arguments in (["--check", "--diff"], ["-vvv", "--diff"], []):
            tokens.outputs.append(tokens.playbook(*arguments))
            tokens.writes.append(len(lab.writes()))
        for vmid, pool in ((MINE, POOL), (FOREIGN, "")):
            root.wait_task(root.post(CT, {**NEW, "vmid": vmid, "hostname": f"ct{vmid}", "pool": pool or None}))
        machine = {"vmid": MACHINE, "name": "vm303", "pool": POOL, "agent": 1, "memory": 128}
        root.wait_task(root.post("nodes/pve/qemu", machine))
        yield tokens


def test_a_dry_run_tells_all_and_writes_nothing(made: Tokens) -> None:
    assert made.writes[0] == 0
    assert "Create token creator-1 (the vault has none)" in made.outputs[0]
    assert "+        NHI-Operator:" in made.outputs[0]
    assert "changed=1" in made.outputs[0]


def test_all_is_made_from_nothing_and_a_second_run_changes_nothing(made: Tokens) -> None:
    assert "changed=1" in made.outputs[1]
    assert "changed=0" in made.outputs[2]
    assert "Nothing differs." in made.outputs[2]
    assert made.writes[1] == made.writes[2] > 0
    assert {name: entry["api_token_id"] for name, entry in made.secrets().items()} == {
        "reader": "reader-1", "operator": "operator-1", "creator": "creator-1",
    }  # fmt: skip


def test_no_secret_is_told_even_where_everything_is(made: Tokens) -> None:
    hidden = [entry["api_token_secret"] for entry in made.secrets().values()]
    hidden.append(made.operator.extra["PROXMOX_PASSWORD"])
    told = [(made.operator.lab.directory / "requests.jsonl").read_text(), *made.outputs]
    told += [file.read_text() for file in made.operator.state_dir.rglob("*.jsonl")]
    assert any('"nhi_proxmox_access"' in text for text in told[-2:])
    assert not [secret for secret in hidden if secret in "".join(told)]


def test_a_role_and_grants_changed_by_hand_are_put_right_and_shown(made: Tokens) -> None:
    made.root.put("access/roles/NHI-Operator", {"privs": "VM.Allocate", "append": 1})
    made.root.put("access/acl", {"path": "/", "roles": "Administrator", "tokens": f"{USER}!reader-1"})
    shown = made.playbook("--diff")
    assert "Correct role NHI-Operator (-VM.Allocate)" in shown
    assert "-        - VM.Allocate" in shown
    assert f"Withdraw Administrator on / from {USER}!reader-1" in shown
    assert "-            - / Administrator" in shown
    assert "VM.Allocate" not in made.root.get("access/roles/NHI-Operator")
    assert not [acl for acl in made.root.get("access/acl") if acl["roleid"] == "Administrator"]


def test_who_is_no_administrator_is_told_so_in_one_sentence(made: Tokens) -> None:
    weak = made.secrets()["creator"]
    names = {"PROXMOX_USER": "api_user", "PROXMOX_TOKEN_ID": "api_token_id", "PROXMOX_TOKEN_SECRET": "api_token_secret"}
    other = Operator(made.operator.lab, made.operator.state_dir, {name: weak[key] for name, key in names.items()})
    said = other.playbook("proxmox_access.yml")
    assert said.returncode != 0
    assert "Nothing was changed: the token lacks Permissions.Modify on /" in " ".join(said.stdout.split())


def test_a_vault_that_can_not_be_written_leaves_no_new_token_and_the_old_ones_work(made: Tokens) -> None:
    before = made.secrets()
    in_the_way = made.operator.lab.directory / "vault/proxmox/tokens.yml.tmp"
    in_the_way.mkdir()
    try:
        said = made.playbook("-e", "proxmox_access_rotate=true", check=False)
    finally:
        in_the_way.rmdir()
    assert "tokens.yml can not be written" in " ".join(said.split())
    assert made.secrets() == before
    assert sorted(token["tokenid"] for token in made.root.get(f"access/users/{USER}/token")) == [
        "creator-1", "operator-1", "reader-1",
    ]  # fmt: skip
    with made.client("creator") as creator:
        assert creator.get("version")


def test_rotated_tokens_work_and_the_old_ones_are_dead(made: Tokens) -> None:
    with made.client("reader") as old:
        assert old.get("version")
        made.playbook("-e", "proxmox_access_rotate=true")
        with pytest.raises(AuthenticationError):
            old.get("version")
    assert made.secrets()["reader"]["api_token_id"] == "reader-2"
    for name in ("reader", "operator", "creator"):
        with made.client(name) as client:
            assert client.get("version")
    assert "changed=0" in made.playbook()


# -- what each does ---------------------------------------------------------------------------------------------------


def did(made: Tokens, since: int) -> dict[str, set[str]]:
    """Names of the tokens that asked since then, by whether they wrote."""
    found: dict[str, set[str]] = {"GET": set(), "write": set()}
    for request in made.operator.lab.requests()[since:]:
        found["GET" if request["method"] == "GET" else "write"].add(request["user"].partition("!")[2].partition("-")[0])
    return found


def test_playbooks_scan_with_the_reader_and_destroy_with_the_creator(made: Tokens) -> None:
    state = {"node": "pve", "state_dir": str(made.operator.state_dir)}
    guest = {"name": "passing", "type": "lxc", "template": "debian-12", "pool": POOL, "vmid_range": "105-120"}
    place = {"storage": "local-lvm", "cores": 1, "memory": 64, "disk": 1, "network": {"bridge": "vmbr0"}}
    result = made.operator.module("nhi_vm", **made.options("creator"), **state, **guest, **place, state="started")
    assert not result.get("failed"), result
    since = len(made.operator.lab.requests())
    done = made.operator.playbook("scan.yml")
    assert done.returncode == 0, done.stdout
    assert did(made, since) == {"GET": {"reader"}, "write": set()}
    done = made.operator.playbook("destroy_guest.yml", "-e", "guest=passing", "-e", "confirm=passing")
    assert done.returncode == 0, done.stdout
    assert did(made, since) == {"GET": {"reader", "creator"}, "write": {"creator"}}


def test_the_creator_makes_the_topology_and_proxmox_protects_whom_the_policy_protects(made: Tokens) -> None:
    since = len(made.operator.lab.requests())
    done = made.operator.playbook("topology.yml")
    assert done.returncode == 0, done.stdout
    assert did(made, since) == {"GET": {"reader", "creator"}, "write": {"creator"}}
    protected = json.loads((ROOT / "infrastructure/policy.json").read_text())["protected"]["guests"]
    guests = {guest["name"]: guest for guest in made.operator.state()["infrastructure"]["guests"]}
    assert {name for name, guest in guests.items() if guest["protection"]} == set(protected)
    assert {"brain-vm", "postgres-lxc", "chromadb-lxc"} <= set(protected)


def test_the_operator_restarts_snapshots_and_backs_up(made: Tokens) -> None:
    options = {**made.options("operator"), "state_dir": str(made.operator.state_dir)}
    assert "changed=1" in made.playbook("-e", '{"proxmox_access_backup_storages": ["local"]}')
    made.root.wait_task(made.root.post(f"{CT}/{MINE}/status/start"))
    for name, wish in (
        ("nhi_vm", {"state": "stopped"}),
        ("nhi_vm", {"state": "started"}),
        ("nhi_vm_snapshot", {"snapshot": "before"}),
        ("nhi_vm_snapshot", {"snapshot": "before", "state": "rollback", "confirm": "ct301"}),
        ("nhi_vm_snapshot", {"snapshot": "before", "state": "absent"}),
        ("nhi_vm_backup", {"storage": "local"}),
    ):
        result = made.operator.module(name, **options, name="ct301", **wish)
        assert not result.get("failed"), (name, wish, result)
        assert result["changed"], (name, wish)


# -- what none of them can do -----------------------------------------------------------------------------------------

ACL = {"roles": "NHI-Reader", "users": "nhi@pve"}
READER, OPERATOR, CREATOR = "reader", "operator", "creator"

# who, method, path, parameters
FORBIDDEN: list[tuple[str, str, str, dict[str, Any]]] = [
    (READER, "post", f"{CT}/{MINE}/status/start", {}),
    (READER, "post", f"{CT}/{MINE}/snapshot", {"snapname": "s"}),
    (READER, "post", "nodes/pve/vzdump", {"vmid": MINE, "storage": "local"}),
    (READER, "put", f"{CT}/{MINE}/config", {"memory": 1024}),
    (READER, "post", CT, {"vmid": 390, "pool": POOL, **NEW}),
    (READER, "delete", f"{CT}/{MINE}", {}),
    (READER, "get", f"nodes/pve/qemu/{MACHINE}/agent/file-read", {"file": "/etc/shadow"}),
    (OPERATOR, "post", CT, {"vmid": 390, "pool": POOL, **NEW}),
    (OPERATOR, "delete", f"{CT}/{MINE}", {}),
    (OPERATOR, "put", f"{CT}/{MINE}/config", {"memory": 1024}),
    (OPERATOR, "put", f"{CT}/{MINE}/config", {"protection": 0}),
    (OPERATOR, "put", f"{CT}/{MINE}/resize", {"disk": "rootfs", "size": "9G"}),
    (OPERATOR, "post", f"{CT}/{MINE}/clone", {"newid": 390}),
    (OPERATOR, "post", f"{CT}/{FOREIGN}/status/start", {}),
    (OPERATOR, "post", f"{CT}/{FOREIGN}/snapshot", {"snapname": "s"}),
    (OPERATOR, "post", "nodes/pve/vzdump", {"vmid": FOREIGN, "storage": "local"}),
    (OPERATOR, "get", f"nodes/pve/qemu/{MACHINE}/agent/file-read", {"file": "/etc/shadow"}),
    (CREATOR, "post", f"{CT}/{FOREIGN}/status/start", {}),
    (CREATOR, "put", f"{CT}/{FOREIGN}/config", {"memory": 1024}),
    (CREATOR, "delete", f"{CT}/{FOREIGN}", {}),
    (CREATOR, "post", f"{CT}/{FOREIGN}/clone", {"newid": 390, "pool": POOL}),
    (CREATOR, "post", CT, {"vmid": 390, **NEW}),
    (CREATOR, "post", CT, {"vmid": 390, "pool": POOL, **NEW, "storage": "local-dir"}),
    (CREATOR, "post", CT, {"vmid": 390, "pool": POOL, **NEW, "net0": "name=eth0,bridge=vmbr1"}),
    (CREATOR, "post", CT, {"vmid": 390, "pool": POOL, **NEW, "unprivileged": 0}),
    (CREATOR, "post", CT, {"vmid": 390, "pool": POOL, **NEW, "mp0": "/etc,mp=/mnt"}),
    (CREATOR, "post", f"{CT}/{MINE}/snapshot", {"snapname": "s"}),
    (CREATOR, "put", "pools", {"poolid": POOL, "vms": str(FOREIGN)}),
    (CREATOR, "put", "access/acl", {"path": f"/pool/{POOL}", **ACL}),
    (CREATOR, "put", "access/acl", {"path": f"/vms/{FOREIGN}", **ACL}),
]  # fmt: skip
# What only an administrator may do.
FORBIDDEN += [
    (who, method, path, dict(parameters))
    for who in (READER, OPERATOR, CREATOR)
    for method, path, parameters in (
        ("post", "nodes/pve/status", {"command": "reboot"}),
        ("post", "access/users", {"userid": "mallory@pve"}),
        ("put", f"access/users/{USER}", {"enable": 0}),
        ("get", f"access/users/{USER}/token", {}),
        ("post", f"access/users/{USER}/token/mallory", {"privsep": 0}),
        ("put", f"access/users/{USER}/token/{who}-2", {"privsep": 0}),
        ("delete", f"access/users/{USER}/token/{who}-2", {}),
        ("post", "access/roles", {"roleid": "Mallory", "privs": "VM.Allocate"}),
        ("put", "access/roles/NHI-Reader", {"privs": "VM.Allocate"}),
        ("put", "access/acl", {"path": "/", **ACL}),
        ("post", "pools", {"poolid": "mallory"}),
        ("delete", "pools", {"poolid": POOL}),
    )
]


@pytest.mark.parametrize(
    ("who", "method", "path", "parameters"), FORBIDDEN, ids=[f"{w} {m} {p} {' '.join(q)}" for w, m, p, q in FORBIDDEN]
)
def test_what_a_token_can_not_do(made: Tokens, who: str, method: str, path: str, parameters: dict[str, Any]) -> None:
    writes = len(made.root.get("cluster/tasks"))
    with made.client(who) as client, pytest.raises(ProxmoxError) as refused:
        getattr(client, method)(path, parameters)
    assert refused.value.status == 403, refused.value
    assert len(made.root.get("cluster/tasks")) == writes


def test_of_its_own_guests_the_creator_hands_out_no_more_than_it_has(made: Tokens) -> None:
    """Proxmox VE lets who may destroy a guest grant others their own privileges on it: those, and none besides."""
    path = {"path": f"/vms/{MINE}", "users": "nhi@pve"}
    with made.client("creator") as creator:
        with pytest.raises(ParameterError, match=r"Cannot add role 'PVEVMAdmin' - requires 'Permissions.Modify'"):
            creator.put("access/acl", {**path, "roles": "PVEVMAdmin"})
        with pytest.raises(ParameterError, match=r"Cannot add role 'NoAccess' - requires 'Permissions.Modify'"):
            creator.put("access/acl", {**path, "roles": "NoAccess", "propagate": 0})
        creator.put("access/acl", {**path, "roles": "NHI-Creator", "propagate": 0})
    made.root.put("access/acl", {**path, "roles": "NHI-Creator", "delete": 1})
