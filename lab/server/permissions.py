"""Who may do what where: ACL paths with propagation, pools, and tokens with privileges of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lab.server.errors import forbidden
from lab.server.privileges import all_privileges
from lab.store import Store

ROOT = "root@pam"
Privileges = dict[str, int]  # privilege -> 1 when it propagates to deeper paths

_SEGMENT = r"[A-Za-z0-9.\-_]+"
ACL_PATH = re.compile(
    rf"/|/access(/groups(/{_SEGMENT})?|/realm(/{_SEGMENT})?)?|/nodes(/{_SEGMENT})?|/pool(/{_SEGMENT}){{0,3}}"
    rf"|/sdn(/zones(/{_SEGMENT}){{0,3}}|/controllers(/{_SEGMENT})?|/dns(/{_SEGMENT})?|/ipams(/{_SEGMENT})?)?"
    rf"|/storage(/{_SEGMENT})?|/vms(/[1-9][0-9]{{2,}})?|/mapping(/{_SEGMENT}){{0,2}}"
)
TOP_PATHS = ("/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms")


def normalize_path(path: str) -> str | None:
    """A valid ACL path without doubled or trailing slashes, else None."""
    clean = "/" + "/".join(part for part in path.split("/") if part)
    return clean if path.startswith("/") and ACL_PATH.fullmatch(clean) else None


class Permissions:
    """Answers for users (`user@realm`) and tokens (`user@realm!name`)."""

    def __init__(self, store: Store, pve_version: int) -> None:
        self._store = store
        self.known = all_privileges(pve_version)
        self._index: dict[str, dict[str, dict[str, int]]] = {}
        self._indexed = -1

    def on(self, auth_id: str, path: str) -> Privileges:
        """Effective privileges of a user or token on a path."""
        if auth_id == ROOT:
            return dict.fromkeys(self.known, 1)
        userid, _, tokenid = auth_id.partition("!")
        if not tokenid:
            return self._own(userid, path)
        token = self._store.tokens[auth_id]
        owner = self.on(userid, path)
        if not token.privsep:
            return owner
        own = self._own(auth_id, path)
        return {name: own[name] & owner[name] for name in own.keys() & owner.keys()}

    def has(self, auth_id: str, path: str, *any_of: str) -> bool:
        granted = self.on(auth_id, path)
        return any(name in granted for name in any_of)

    def require(self, auth_id: str, path: str, *names: str) -> None:
        """Every one of the privileges, else 403 naming the first that is missing."""
        granted = self.on(auth_id, path)
        for name in names:
            if name not in granted:
                raise forbidden(f"{path}, {name}")

    def require_any(self, auth_id: str, path: str, names: Iterable[str]) -> None:
        wanted = list(names)
        if not self.has(auth_id, path, *wanted):
            raise forbidden(f"{path}, {'|'.join(wanted)}")

    def _own(self, ugid: str, path: str) -> Privileges:
        """What is granted to this very id; guests and storages also inherit from their pools."""
        roles = self._roles(ugid, path)
        if "NoAccess" in roles:
            return {}
        found: Privileges = {}
        for roleid, propagate in roles.items():
            for name in self._role_privileges(roleid):
                found[name] = max(found.get(name, 0), propagate)
        for pool in self._pools_of(path):
            pool_roles = self._roles(ugid, f"/pool/{pool}")
            for roleid in {} if "NoAccess" in pool_roles else pool_roles:
                for name in self._role_privileges(roleid):
                    found.setdefault(name, 0)
        return found

    def _grants(self) -> dict[str, dict[str, dict[str, int]]]:
        """The ACL by id and path: role -> propagate."""
        if self._indexed != self._store.acl.revision:
            index: dict[str, dict[str, dict[str, int]]] = {}
            for acl in self._store.acl.values():
                index.setdefault(acl.ugid, {}).setdefault(acl.path, {})[acl.roleid] = acl.propagate
            self._index, self._indexed = index, self._store.acl.revision
        return self._index

    def _roles(self, ugid: str, path: str) -> dict[str, int]:
        """Roles in force on a path: those of the deepest level that grants any."""
        grants = self._grants().get(ugid, {})
        parts = [part for part in path.split("/") if part]
        roles: dict[str, int] = {}
        for depth in range(len(parts) + 1):
            here = "/" + "/".join(parts[:depth])
            final = depth == len(parts)
            granted = {roleid: propagate for roleid, propagate in grants.get(here, {}).items() if final or propagate}
            roles = granted or roles
        return roles

    def _role_privileges(self, roleid: str) -> set[str]:
        role = self._store.roles.get(roleid)
        return self.known.intersection(role.privs) if role else set()

    def _pools_of(self, path: str) -> list[str]:
        parts = path.split("/")
        if len(parts) != 3:
            return []
        if parts[1] == "vms" and parts[2].isdigit():
            guest = self._store.guests.get(int(parts[2]))
            return [guest.pool] if guest and guest.pool else []
        if parts[1] == "storage":
            return [pool.poolid for pool in self._store.pools.values() if parts[2] in pool.storages]
        return []

    def table(self, auth_id: str, only: str | None = None) -> dict[str, Privileges]:
        """Paths with their privileges, as /access/permissions shows them."""
        paths = [only] if only else sorted({*TOP_PATHS, *(acl.path for acl in self._store.acl.values())})
        shown = {path: self.on(auth_id, path) for path in paths}
        return shown if only else {path: privileges for path, privileges in shown.items() if privileges}
