"""Who may do what: propagation, deeper grants, pools, tokens with privileges of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.model import Acl, Guest, Pool, Role, Token, User
from lab.server.errors import ApiError
from lab.server.permissions import Permissions, normalize_path
from lab.store import Store

USER, TOKEN = "ann@pve", "ann@pve!ci"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "lab.db")
    opened.users[USER] = User(USER)
    opened.roles["Audit"] = Role("Audit", ["VM.Audit"])
    opened.roles["Power"] = Role("Power", ["VM.PowerMgmt"])
    opened.roles["NoAccess"] = Role("NoAccess", [])
    yield opened
    opened.close()


@pytest.fixture
def permissions(store: Store) -> Permissions:
    return Permissions(store, 9)


def grant(store: Store, path: str, roleid: str, ugid: str = USER, *, propagate: int = 1) -> None:
    acl = Acl(path, ugid, "token" if "!" in ugid else "user", roleid, propagate)
    store.acl[acl.key] = acl


def test_a_grant_reaches_deeper_paths(store: Store, permissions: Permissions) -> None:
    grant(store, "/", "Audit")
    assert permissions.on(USER, "/vms/100") == {"VM.Audit": 1}


def test_a_grant_without_propagation_stays_where_it_is(store: Store, permissions: Permissions) -> None:
    grant(store, "/vms", "Audit", propagate=0)
    assert permissions.on(USER, "/vms") == {"VM.Audit": 0}
    assert permissions.on(USER, "/vms/100") == {}


def test_a_deeper_grant_replaces_those_above(store: Store, permissions: Permissions) -> None:
    grant(store, "/", "Audit")
    grant(store, "/vms/100", "Power")
    assert permissions.on(USER, "/vms/100") == {"VM.PowerMgmt": 1}
    assert permissions.on(USER, "/vms/101") == {"VM.Audit": 1}


def test_no_access_wins_over_everything_on_its_path(store: Store, permissions: Permissions) -> None:
    grant(store, "/vms/100", "NoAccess")
    grant(store, "/vms/100", "Audit")
    assert permissions.on(USER, "/vms/100") == {}


def test_a_pool_lends_its_grants_to_its_guests(store: Store, permissions: Permissions) -> None:
    store.pools["lab"] = Pool("lab")
    store.guests[100] = Guest(100, "lxc", "pve", {}, 0, pool="lab")
    grant(store, "/pool/lab", "Power")
    assert permissions.on(USER, "/vms/100") == {"VM.PowerMgmt": 0}
    assert permissions.on(USER, "/vms/101") == {}


def test_a_pool_lends_its_grants_to_its_storages(store: Store, permissions: Permissions) -> None:
    store.pools["lab"] = Pool("lab", storages=["local"])
    grant(store, "/pool/lab", "Audit")
    assert permissions.has(USER, "/storage/local", "VM.Audit")


def test_a_separated_token_has_only_what_its_user_has_too(store: Store, permissions: Permissions) -> None:
    store.tokens[TOKEN] = Token(USER, "ci", "hash", privsep=1)
    grant(store, "/", "Audit")
    grant(store, "/", "Audit", TOKEN)
    grant(store, "/", "Power", TOKEN)
    assert permissions.on(TOKEN, "/vms/100") == {"VM.Audit": 1}


def test_a_separated_token_without_grants_has_nothing(store: Store, permissions: Permissions) -> None:
    store.tokens[TOKEN] = Token(USER, "ci", "hash", privsep=1)
    grant(store, "/", "Audit")
    assert permissions.on(TOKEN, "/") == {}


def test_an_unseparated_token_is_as_its_user(store: Store, permissions: Permissions) -> None:
    store.tokens[TOKEN] = Token(USER, "ci", "hash", privsep=0)
    grant(store, "/", "Audit")
    assert permissions.on(TOKEN, "/") == {"VM.Audit": 1}


def test_a_withdrawn_grant_no_longer_counts(store: Store, permissions: Permissions) -> None:
    grant(store, "/", "Audit")
    assert permissions.on(USER, "/") == {"VM.Audit": 1}
    store.acl.clear()
    assert permissions.on(USER, "/") == {}


def test_a_privilege_the_version_does_not_know_is_ignored(store: Store, permissions: Permissions) -> None:
    store.roles["Old"] = Role("Old", ["VM.Monitor", "VM.Audit"])
    grant(store, "/", "Old")
    assert permissions.on(USER, "/") == {"VM.Audit": 1}


def test_refusals_name_path_and_privilege(permissions: Permissions) -> None:
    with pytest.raises(ApiError, match=r"Permission check failed \(/vms/100, VM.Audit\)"):
        permissions.require(USER, "/vms/100", "VM.Audit")
    with pytest.raises(ApiError, match=r"\(/vms/100, VM.Audit\|VM.Clone\)"):
        permissions.require_any(USER, "/vms/100", ["VM.Audit", "VM.Clone"])


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("/", "/"), ("/vms/", "/vms"), ("//vms//100", "/vms/100"), ("vms", None), ("/nosuch", None), ("/vms/x", None),
        ("/sdn/zones/localnetwork/vmbr0/12", "/sdn/zones/localnetwork/vmbr0/12"),
    ],
)  # fmt: skip
def test_paths(path: str, clean: str | None) -> None:
    assert normalize_path(path) == clean
