# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three tokens: what they may, what differs, and that one of old and new works at any moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    NHIError,
    NotFoundError,
    ParameterError,
    PreflightError,
    StateError,
    UnreachableError,
)
from ansible_collections.nhi.core.plugins.module_utils.proxmox_access import TOKENS, AccessWish, wish_from_params
from ansible_collections.nhi.core.plugins.module_utils.proxmox_access_manager import AccessManager, variable_of

USER = "nhi-tokens@pve"
WISH = AccessWish(USER, "ai-lab", storages=("local-lvm",), backup_storages=("local",), bridges=("vmbr0",))
ADMINISTRATOR = ("Permissions.Modify", "Sys.Modify", "User.Modify", "Realm.AllocateUser", "Pool.Allocate")


class FakeAccess:
    """The part of the API that is about access, in memory. ``before_write`` may break a call or look at the world."""

    def __init__(self, version: str = "9.2.3") -> None:
        self.version = version
        self.privileges = set(ADMINISTRATOR)
        self.roles: dict[str, str] = {"Administrator": "VM.Audit"}
        self.pools: set[str] = set()
        self.users: dict[str, dict[str, Any]] = {}
        self.tokens: dict[str, dict[str, Any]] = {}
        self.secrets: dict[str, str] = {}
        self.acl: dict[tuple[str, str, str], int] = {}
        self.writes: list[str] = []
        self.before_write: Callable[[str], None] = lambda call: None
        self.after_write: Callable[[str], None] = lambda call: None

    def get(self, path: Any, params: Mapping[str, Any] | None = None) -> Any:
        if path == "version":
            return {"version": self.version}
        if path == "/access/permissions":
            return {(params or {})["path"]: dict.fromkeys(self.privileges, 1)}
        if path == "access/roles":
            return [{"roleid": name, "privs": privs} for name, privs in self.roles.items()]
        if path == "pools":
            return [{"poolid": name} for name in self.pools]
        if path == "access/users":
            return [{"userid": name, **user, "tokens": list(self.tokens.values())} for name, user in self.users.items()]
        assert path == "access/acl"
        return [
            {"path": p, "ugid": who, "roleid": role, "propagate": propagate, "type": "token" if "!" in who else "user"}
            for (p, who, role), propagate in self.acl.items()
        ]

    def post(self, path: Any, data: Mapping[str, Any] | None = None) -> Any:
        return self._write("POST", path, dict(data or {}))

    def put(self, path: Any, data: Mapping[str, Any] | None = None) -> Any:
        return self._write("PUT", path, dict(data or {}))

    def delete(self, path: Any, params: Mapping[str, Any] | None = None) -> Any:
        return self._write("DELETE", path, {})

    def wait_task(self, upid: str, timeout_seconds: float = 0) -> Any:
        raise AssertionError(upid)

    def _write(self, method: str, path: Any, data: dict[str, Any]) -> Any:
        call = f"{method} {path if isinstance(path, str) else '/'.join(path)}"
        self.before_write(call)
        self.writes.append(call)
        try:
            return self._done(method, path, data)
        finally:
            self.after_write(call)

    def _done(self, method: str, path: Any, data: dict[str, Any]) -> Any:
        if path == "access/acl":
            key = (data["path"], data.get("users") or data["tokens"], data["roles"])
            if data.get("delete"):
                del self.acl[key]
            else:
                assert data["roles"] in self.roles
                self.acl[key] = int(data["propagate"])
        elif path == "access/roles":
            self.roles[data["roleid"]] = data["privs"]
        elif path[:2] == ("access", "roles"):
            self.roles[path[2]] = data["privs"]
        elif path == "pools":
            self.pools.add(data["poolid"])
        elif path == "access/users":
            self.users[data["userid"]] = {"enable": data["enable"], "expire": data["expire"]}
        elif "token" not in path:
            self.users[path[2]].update(data)
        else:
            return self._token(method, path[4], data)
        return None

    def _token(self, method: str, tokenid: str, data: dict[str, Any]) -> Any:
        if method == "POST":
            self.secrets[tokenid] = f"secret of {tokenid}"
            self.tokens[tokenid] = {"tokenid": tokenid, "privsep": 1, "expire": 0}
            return {"value": self.secrets[tokenid]}
        if tokenid not in self.tokens:
            raise NotFoundError(f"no such token '{tokenid}'")
        if method == "PUT":
            self.tokens[tokenid].update({k: int(v) for k, v in data.items()})
        else:
            del self.tokens[tokenid], self.secrets[tokenid]
            self.acl = {key: value for key, value in self.acl.items() if key[1] != f"{USER}!{tokenid}"}
        return None

    def accepts(self, tokenid: str, secret: str) -> bool:
        return self.secrets.get(tokenid) == secret


class FakeVault:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {"another": "value"}
        self.failure: BaseException | None = None
        self.written_before_failure = False

    def read(self) -> dict[str, Any]:
        return dict(self.values)

    def write(self, values: Mapping[str, Any]) -> None:
        if self.written_before_failure or not self.failure:
            self.values = dict(values)
        for failure in self.failures():
            raise failure

    def failures(self) -> list[BaseException]:
        return [self.failure] if self.failure else []


class World:
    def __init__(self, wish: AccessWish = WISH, version: str = "9.2.3") -> None:
        self.api, self.vault = FakeAccess(version), FakeVault()
        self.manager = AccessManager(self.api, wish, self.vault, self.api.accepts)

    def run(self, *, rotate: bool = False) -> list[str]:
        """What was done."""
        plan = self.manager.plan(rotate=rotate)
        self.manager.apply(plan)
        return plan.actions()

    def works(self, name: str) -> bool:
        """Whether the token that the vault has is good for something."""
        entry = self.vault.values.get(variable_of(name), {"api_token_id": "", "api_token_secret": ""})
        return self.api.accepts(entry["api_token_id"], entry["api_token_secret"])


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def made(world: World) -> World:
    world.run()
    world.api.writes.clear()
    return world


def test_all_is_made_from_nothing_and_nothing_twice(world: World) -> None:
    assert "Create token reader-1 (the vault has none) and keep its secret in the vault" in world.run()
    assert all(world.works(name) for name in TOKENS)
    assert world.vault.values["another"] == "value"
    world.api.writes.clear()
    assert world.run() == []
    assert world.api.writes == []


def test_a_plan_writes_nothing(world: World) -> None:
    plan = world.manager.plan()
    assert plan.changed
    assert world.api.writes == []
    assert plan.diff()["before"]["roles"] == {}
    assert plan.diff()["after"]["tokens"]["reader-1"] == {"privsep": 1, "expire": 0, "grants": ["/ NHI-Reader"]}


def test_who_may_not_hand_out_grants_is_told_what_is_missing_before_anything(world: World) -> None:
    world.api.privileges -= {"Permissions.Modify", "User.Modify"}
    with pytest.raises(
        PreflightError, match=r"Nothing was changed.*Permissions.Modify on /, User.Modify on /access/gr"
    ):
        world.run()
    assert world.api.writes == []


def test_a_role_changed_by_hand_is_put_right_and_told(made: World) -> None:
    made.api.roles["NHI-Operator"] = "Pool.Audit,VM.Allocate,VM.Backup,VM.PowerMgmt"
    assert made.run() == ["Correct role NHI-Operator (+VM.Snapshot, -VM.Allocate)"]
    assert made.api.roles["NHI-Operator"] == "Pool.Audit,VM.Backup,VM.PowerMgmt,VM.Snapshot"


def test_grants_changed_by_hand_are_put_right_and_those_of_others_left_alone(made: World) -> None:
    reader = f"{USER}!reader-1"
    made.api.acl[("/", reader, "Administrator")] = 1
    made.api.acl[("/", reader, "NHI-Reader")] = 0
    made.api.acl[("/", "ann@pve", "Administrator")] = 1
    assert made.run() == [f"Grant {reader} NHI-Reader on /", f"Withdraw Administrator on / from {reader}"]
    assert {key: value for key, value in made.api.acl.items() if key[1] in (reader, "ann@pve")} == {
        ("/", reader, "NHI-Reader"): 1,
        ("/", "ann@pve", "Administrator"): 1,
    }


def test_a_token_without_privilege_separation_is_given_it_back(made: World) -> None:
    made.api.tokens["creator-1"]["privsep"] = 0
    assert made.run() == ["Correct token creator-1"]
    assert made.api.tokens["creator-1"]["privsep"] == 1


def test_a_disabled_user_is_enabled_and_its_tokens_stay(made: World) -> None:
    made.api.users[USER]["enable"] = 0
    made.manager.accepts = lambda tokenid, secret: False
    assert made.manager.plan().actions() == [f"Correct user {USER}"]


def test_another_token_of_the_user_is_left_alone(made: World) -> None:
    made.api.tokens["reader"] = {"tokenid": "reader", "privsep": 0, "expire": 0}
    assert made.run() == []


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (lambda w: w.api.delete(("access", "users", USER, "token", "reader-1")), "reader-1 is gone"),
        (lambda w: w.vault.values.pop("vault_proxmox_reader"), "the vault has none"),
        (lambda w: w.api.secrets.update({"reader-1": "x"}), "the secret of reader-1 in the vault is refused"),
    ],
    ids=["removed by hand", "forgotten by the vault", "regenerated by hand"],
)
def test_a_token_nobody_can_use_is_replaced_under_a_new_number(made: World, break_it: Any, why: str) -> None:
    break_it(made)
    assert f"Create token reader-2 ({why}) and keep its secret in the vault" in made.run()
    assert made.works("reader")
    assert sorted(made.api.tokens) == ["creator-1", "operator-1", "reader-2"]


def test_while_tokens_are_rotated_the_vault_always_has_one_that_works_and_is_granted(made: World) -> None:
    granted = {name: made.manager.wish.places()[name] for name in TOKENS}

    def look(call: str) -> None:
        for name in TOKENS:
            assert made.works(name), (name, call)
            who = f"{USER}!{made.vault.values[variable_of(name)]['api_token_id']}"
            assert {(path, role) for path, ugid, role in made.api.acl if ugid == who} >= granted[name], (name, call)

    made.api.after_write = look
    done = made.run(rotate=True)
    assert done.index("Create token reader-2 (rotation) and keep its secret in the vault") < done.index(
        "Remove token reader-1"
    )
    assert sorted(made.api.tokens) == ["creator-2", "operator-2", "reader-2"]


def test_a_secret_that_can_not_be_kept_takes_its_token_with_it_and_the_old_one_works_on(made: World) -> None:
    made.vault.failure = StateError("the disk is full")
    with pytest.raises(StateError, match=r"^the disk is full$"):
        made.run(rotate=True)
    assert sorted(made.api.tokens) == ["creator-1", "operator-1", "reader-1"]
    assert all(made.works(name) for name in TOKENS)


def test_an_interrupted_run_takes_its_token_back_too(world: World) -> None:
    world.vault.failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        world.run()
    assert world.api.tokens == {}


def test_a_token_that_got_into_the_vault_stays_although_writing_failed(made: World) -> None:
    made.vault.failure, made.vault.written_before_failure = StateError("can not be flushed"), True
    with pytest.raises(StateError):
        made.run(rotate=True)
    assert made.works("reader")
    made.vault.failure = None
    assert "Remove token reader-1" in made.run()
    assert sorted(made.api.tokens) == ["creator-1", "operator-1", "reader-2"]


def test_a_token_that_can_not_be_taken_back_is_named_and_removed_by_the_next_run(world: World) -> None:
    def fail(call: str) -> None:
        if call.startswith("DELETE"):
            raise UnreachableError("no answer")

    world.vault.failure, world.api.before_write = StateError("the disk is full"), fail
    with pytest.raises(
        NHIError, match="the disk is full; and token nhi-tokens@pve!reader-1 is left, which the next run"
    ):
        world.run()
    world.vault.failure, world.api.before_write = None, lambda call: None
    assert "Remove token reader-1" in world.run()
    assert sorted(world.api.tokens) == ["creator-1", "operator-1", "reader-2"]
    assert world.run() == []


def test_a_creation_whose_answer_is_lost_leaves_no_token(world: World) -> None:
    def lose(call: str) -> None:
        if call.startswith("POST") and "/token/" in call:
            raise UnreachableError("the answer was lost")

    world.api.after_write = lose
    with pytest.raises(UnreachableError, match=r"^the answer was lost$"):
        world.run()
    assert world.api.tokens == {}


def test_a_token_that_the_api_refuses_is_not_kept(world: World) -> None:
    world.manager.accepts = lambda tokenid, secret: False
    with pytest.raises(NHIError, match="refuses token nhi-tokens@pve!reader-1 that it has just made"):
        world.run()
    assert world.api.tokens == {}
    assert world.vault.values == {"another": "value"}


def test_the_guest_agent_has_privileges_of_its_own_since_version_9() -> None:
    assert "VM.GuestAgent.Audit" in WISH.roles(9)["NHI-Reader"]
    assert "VM.Monitor" not in {privilege for role in WISH.roles(9).values() for privilege in role}
    assert {role for role, privileges in WISH.roles(8).items() if "VM.Monitor" in privileges} == {"NHI-Creator"}
    asked = AccessWish(USER, "ai-lab", read_agents_before_9=True)
    assert "VM.Monitor" in asked.roles(8)["NHI-Reader"]


def test_only_the_creator_may_allocate_and_nobody_administers() -> None:
    roles = WISH.roles(9)
    assert [role for role, privileges in roles.items() if "VM.Allocate" in privileges] == ["NHI-Creator"]
    every = {privilege for privileges in roles.values() for privilege in privileges}
    assert not every & {
        "Permissions.Modify", "User.Modify", "Sys.Modify", "Sys.PowerMgmt", "Sys.Console", "Realm.AllocateUser",
        "Pool.Allocate", "Datastore.Allocate", "Group.Allocate",
    }  # fmt: skip
    # Above the pool, the named storages and bridges everything is for reading.
    assert {path for grants in WISH.places().values() for path, role in grants if role == "NHI-Reader"} == {"/"}
    assert {privilege.rpartition(".")[2] for privilege in roles["NHI-Reader"]} == {"Audit"}


def test_a_template_outside_the_pool_can_be_copied_and_nothing_else() -> None:
    wish = AccessWish(USER, "ai-lab", templates=(9000,))
    assert ("/vms/9000", "NHI-Template") in wish.places()["creator"]
    assert wish.roles(9)["NHI-Template"] == {"VM.Audit", "VM.Clone"}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"user": "root@pam"}, "name a user of their own"),
        ({"user": "nhi"}, "write it as name@pve"),
        ({"pool": "a/b"}, "pool 'a/b' is no name"),
        ({"storages": ["local lvm"]}, "storages 'local lvm' is no name"),
        ({"bridges": [""]}, "bridges '' is no name"),
        ({"role_prefix": "pve-"}, "begins with PVE"),
    ],
)
def test_names_that_can_not_be_are_refused(options: dict[str, Any], complaint: str) -> None:
    given: dict[str, Any] = {
        "user": USER, "pool": "ai-lab", "storages": [], "backup_storages": [], "bridges": [], "templates": [],
        "role_prefix": "NHI-", "read_agents_before_9": False,
    }  # fmt: skip
    with pytest.raises(ParameterError, match=complaint):
        wish_from_params({**given, **options})
