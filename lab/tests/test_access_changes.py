"""Who may make tokens and hand out grants, and what the API says to others; as the access control's source has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.tests.harness import Reply, RunningLab, running

OWNER = "owner@pve"
MODIFY = "requires 'Permissions.Modify'"
REFUSED = "Parameter verification failed."


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running(Path(tmp_path_factory.mktemp("access"))) as started:
        assert started.request("POST", "/access/users", {"userid": OWNER}).status == 200
        started.container(101, onboot=1)
        started.container(102)
        yield started


@pytest.fixture(scope="module")
def owner(lab: RunningLab) -> dict[str, str]:
    """A token that may destroy guest 101, and has a little more there."""
    lab.request("POST", "/access/roles", {"roleid": "Own", "privs": "VM.Allocate,VM.Audit"})
    lab.request("POST", "/access/roles", {"roleid": "Part", "privs": "VM.Audit"})
    lab.request("PUT", "/access/acl", {"path": "/vms/101", "roles": "Own", "users": OWNER, "propagate": 0})
    return lab.new_token(OWNER, "free", privsep=0)


def grant(lab: RunningLab, headers: dict[str, str], **changes: Any) -> Reply:
    given = {"path": "/vms/101", "roles": "Part", "users": "nhi@pve", "propagate": 0}
    return lab.request("PUT", "/access/acl", given | changes, headers)


@pytest.mark.parametrize(
    ("method", "leaf"),
    [("GET", ""), ("POST", "/more"), ("GET", "/free"), ("PUT", "/free"), ("DELETE", "/free")],
)
def test_a_token_is_not_its_user_and_manages_no_tokens(
    lab: RunningLab, owner: dict[str, str], method: str, leaf: str
) -> None:
    reply = lab.request(method, f"/access/users/{OWNER}/token{leaf}", {}, owner)
    assert (reply.status, reply.reason) == (403, "Permission check failed")


def test_a_user_manages_their_own_tokens(lab: RunningLab) -> None:
    lab.request("POST", "/access/users", {"userid": "self@pve", "password": "long-enough"})
    login = lab.request("POST", "/access/ticket", {"username": "self@pve", "password": "long-enough"}, {}).data
    session = {
        "Cookie": "PVEAuthCookie=" + login["ticket"].replace("=", "%3D"),
        "CSRFPreventionToken": login["CSRFPreventionToken"],
    }
    assert lab.request("POST", "/access/users/self@pve/token/mine", {}, session).data["full-tokenid"] == "self@pve!mine"


def test_an_owner_hands_out_what_they_have_there(lab: RunningLab, owner: dict[str, str]) -> None:
    assert grant(lab, owner).status == 200
    assert grant(lab, owner, delete=1).status == 200
    assert grant(lab, owner, path="/vms/102").status == 403


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"roles": "PVEVMAdmin"},
            "Cannot add role 'PVEVMAdmin' - requires 'Permissions.Modify' or superset of privileges.",
        ),
        (
            {"propagate": 1},
            f"Cannot add role 'Part' with propagation - {MODIFY} or propagated superset of privileges.",
        ),
        ({"roles": "NoAccess"}, "Cannot add role 'NoAccess' - requires 'Permissions.Modify'"),
        (
            {"roles": "PVEVMAdmin", "delete": 1},
            "Cannot remove role 'PVEVMAdmin' - requires 'Permissions.Modify' or superset of privileges.",
        ),
    ],
    ids=["more", "propagated", "NoAccess", "taking more"],
)
def test_and_no_more(lab: RunningLab, owner: dict[str, str], changes: dict[str, Any], text: str) -> None:
    reply = grant(lab, owner, **changes)
    assert (reply.status, reply.reason, reply.errors) == (400, REFUSED, {"role": text})


def test_a_grant_is_for_somebody(lab: RunningLab) -> None:
    reply = lab.request("PUT", "/access/acl", {"path": "/", "roles": "Part"})
    assert reply.errors == dict.fromkeys(
        ("users", "groups", "tokens"), "either 'users', 'groups' or 'tokens' is required."
    )


@pytest.mark.parametrize(
    ("method", "path", "params", "text"),
    [
        ("POST", "/access/roles", {"roleid": "Part"}, "create role failed: role 'Part' already exists"),
        ("PUT", "/access/roles/nosuch", {"privs": ""}, "update role failed: role 'nosuch' does not exist"),
        ("DELETE", "/access/roles/nosuch", {}, "delete role failed: role 'nosuch' does not exist"),
        ("GET", "/access/roles/nosuch", {}, "role 'nosuch' does not exist"),
        ("PUT", "/access/roles/PVEAdmin", {}, "auto-generated role 'PVEAdmin' cannot be modified"),
        ("DELETE", "/access/roles/PVEAdmin", {}, "auto-generated role 'PVEAdmin' cannot be deleted"),
    ],
)  # fmt: skip
def test_roles_that_can_not_be_changed(
    lab: RunningLab, owner: dict[str, str], method: str, path: str, params: dict[str, str], text: str
) -> None:
    reply = lab.request(method, path, params)
    assert (reply.status, reply.reason) == (500, text)


def test_a_restarted_node_takes_its_guests_down_and_starts_those_that_start_with_it(
    lab: RunningLab, owner: dict[str, str]
) -> None:
    assert lab.request("POST", "/nodes/pve/status", {"command": "reboot"}, owner).reason == (
        "Permission check failed (/nodes/pve, Sys.PowerMgmt)"
    )
    assert lab.task("POST", "/nodes/pve/lxc/102/status/start") == "OK"
    assert lab.request("POST", "/nodes/pve/status", {"command": "reboot"}).json["data"] is None
    begun = next(task for task in lab.get("/nodes/pve/tasks", source="all") if task["type"] == "startall")
    assert lab.wait(begun["upid"]) == "OK"
    assert [lab.get(f"/nodes/pve/lxc/{vmid}/status/current")["status"] for vmid in (101, 102)] == ["running", "stopped"]
