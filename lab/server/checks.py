"""The permission check that the schema declares for a method, carried out."""

from __future__ import annotations

import re
from typing import Any

from lab.server.errors import ApiError, forbidden
from lab.server.permissions import Permissions, normalize_path

Check = list[Any]


class DeclaredCheck:
    """`params` are as sent: checks come before verification."""

    def __init__(self, permissions: Permissions, auth_id: str, params: dict[str, Any]) -> None:
        self._permissions = permissions
        self._auth_id = auth_id
        self._params = params

    def enforce(self, check: Check) -> None:
        kind, *rest = check
        if kind == "and":
            for part in rest:
                self.enforce(part)
        elif kind == "or":
            if not any(self._passes(part) for part in rest):
                raise forbidden()
        elif kind == "perm":
            self._perm(*rest)
        elif kind == "perm-modify":
            self._perm_modify(self._expand(rest[0]))
        elif kind == "userid-param":
            self._userid_param(rest[0])
        elif kind == "userid-group":
            self._permissions.require_any(self._auth_id, "/access/groups", rest[0])
        else:
            raise ValueError(f"schema declares an unknown permission check: {kind}")

    def _passes(self, check: Check) -> bool:
        try:
            self.enforce(check)
        except ApiError:
            return False
        return True

    def _expand(self, template: str) -> str:
        return re.sub(r"\{([\w-]+)\}", lambda m: str(self._params.get(m[1], "")), template)

    def _perm(self, template: str, names: list[str], *options: Any) -> None:
        settings = dict(zip(options[::2], options[1::2], strict=True))
        needed = settings.get("require_param")
        if needed and needed not in self._params:
            raise forbidden()
        path = self._expand(template)
        if settings.get("any"):
            self._permissions.require_any(self._auth_id, path, dict.fromkeys(names))
        else:
            self._permissions.require(self._auth_id, path, *names)

    def _perm_modify(self, path: str) -> None:
        """Handing out grants: Permissions.Modify, or the owner's privilege of that part of the tree."""
        clean = normalize_path(path) or path
        names = ["Permissions.Modify"]
        for prefix, name in (
            ("/storage/", "Datastore.Allocate"),
            ("/vms/", "VM.Allocate"),
            ("/pool/", "Pool.Allocate"),
        ):
            if clean.startswith(prefix):
                names.append(name)
        self._permissions.require_any(self._auth_id, clean, names)

    def _userid_param(self, wanted: str) -> None:
        userid = str(self._params.get("userid", ""))
        if wanted == "self":
            # A token is not its user: it can make no token beside itself.
            if userid != self._auth_id:
                raise forbidden()
        else:
            realm = userid.rpartition("@")[2]
            self._permissions.require(self._auth_id, f"/access/realm/{realm}", wanted)
