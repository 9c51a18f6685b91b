# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads who may do what, and puts right what differs. A new token's secret goes from the answer into the vault.

A token is replaced by another one: made, granted, tried, kept in the vault, and only then the old one is removed, so
that one of both works at any moment. Whatever fails before the vault has the new secret removes the new token again; a
run that is killed there leaves a token whose secret nobody knows, which the next run removes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import NHIError, NotFoundError, PreflightError, ProxmoxError, UnreachableError
from .guest_privileges import Need, check_privileges
from .guest_reader import Api
from .proxmox_access import (
    COMMENT,
    TOKENS,
    VALID_USER,
    Access,
    AccessPlan,
    AccessWish,
    Grant,
    Token,
    TokenPlan,
    plan_access,
)

# Whether the API accepts a token's name and secret.
Accepts = Callable[[str, str], bool]


class Vault(Protocol):
    """Where secrets are kept."""

    def read(self) -> dict[str, Any]: ...

    def write(self, values: Mapping[str, Any]) -> None: ...


def variable_of(token: str) -> str:
    """The variable under which the vault has one of the three."""
    return f"vault_proxmox_{token}"


@dataclass
class AccessManager:
    """Over an administrator's client."""

    api: Api
    wish: AccessWish
    vault: Vault
    accepts: Accepts

    def plan(self, *, rotate: bool = False) -> AccessPlan:
        """What differs from the wish; reads only. PreflightError where the caller may not put it right."""
        self._require_administrator()
        found = self._read()
        secrets = self._secrets()
        kept = {name: tokenid for name, (tokenid, _secret) in secrets.items()}
        refused = {
            name: f"the secret of {tokenid} in the vault is refused"
            for name, (tokenid, secret) in secrets.items()
            if _must_be_accepted(found, tokenid) and not self.accepts(tokenid, secret)
        }
        return plan_access(self.wish, found, kept, refused, rotate=rotate)

    def _require_administrator(self) -> None:
        user, pool = self.wish.user, self.wish.pool
        check = check_privileges(
            self.api,
            [
                Need("Permissions.Modify", ("/",)),
                Need("Sys.Modify", ("/access",)),
                Need("User.Modify", ("/access/groups",)),
                Need("Realm.AllocateUser", (f"/access/realm/{user.rpartition('@')[2]}",)),
                Need("Pool.Allocate", (f"/pool/{pool}",)),
            ],
        )
        if not check.passed:
            raise PreflightError(f"Nothing was changed: {check.message}, or run it as root@pam")

    def _read(self) -> Access:
        version = int(str(self.api.get("version")["version"]).partition(".")[0])
        names = self.wish.roles(version)
        roles = {
            row["roleid"]: frozenset(filter(None, str(row.get("privs") or "").split(",")))
            for row in self.api.get("access/roles")
            if row["roleid"] in names
        }
        user = next((u for u in self.api.get("access/users", {"full": 1}) if u["userid"] == self.wish.user), None)
        shown = None if user is None else {"enable": int(user.get("enable", 0)), "expire": int(user.get("expire") or 0)}
        return Access(
            version=version,
            roles=roles,
            pool=any(pool["poolid"] == self.wish.pool for pool in self.api.get("pools")),
            user=shown,
            tokens={row["tokenid"]: _token(row) for row in (user or {}).get("tokens") or ()},
            grants=frozenset(
                Grant(row["path"], row["ugid"], row["roleid"], bool(int(row.get("propagate", 1))))
                for row in self.api.get("access/acl")
                if row["ugid"].partition("!")[0] == self.wish.user
            ),
        )

    def _secrets(self) -> dict[str, tuple[str, str]]:
        """Token name and secret of each of the three that the vault has for this user."""
        kept, found = self.vault.read(), {}
        for name in TOKENS:
            entry = kept.get(variable_of(name))
            if isinstance(entry, Mapping) and entry.get("api_user") == self.wish.user:
                found[name] = (str(entry.get("api_token_id")), str(entry.get("api_token_secret")))
        return found

    # -- changes ------------------------------------------------------------------------------------------------

    def apply(self, plan: AccessPlan) -> None:
        """All of it, in order; what was done before an error stays, and another run goes on from there."""
        self._prepare(plan)
        for token in plan.tokens:
            grants = plan.grants_to(self._full(token.tokenid))
            if token.new:
                self._replace(token, grants)
            else:
                self._mend(token, grants)
            for tokenid in token.old:
                self._remove(tokenid)
        for grant in plan.withdraw:
            self._grant(grant, withdraw=True)

    def _prepare(self, plan: AccessPlan) -> None:
        wanted = self.wish.roles(plan.found.version)
        for role in plan.roles:
            privileges = ",".join(sorted(wanted[role]))
            if role in plan.found.roles:
                self.api.put(("access", "roles", role), {"privs": privileges})
            else:
                self.api.post("access/roles", {"roleid": role, "privs": privileges})
        if plan.pool:
            self.api.post("pools", {"poolid": self.wish.pool, "comment": COMMENT})
        if plan.user and plan.found.user is None:
            self.api.post("access/users", {"userid": self.wish.user, "comment": COMMENT, **VALID_USER})
        elif plan.user:
            self.api.put(("access", "users", self.wish.user), VALID_USER)
        for grant in plan.grants_to(self.wish.user):
            self._grant(grant)

    def _replace(self, token: TokenPlan, grants: list[Grant]) -> None:
        secret = self._create(token.tokenid)
        try:
            for grant in grants:
                self._grant(grant)
            if not self.accepts(token.tokenid, secret):
                raise ProxmoxError(
                    f"the API refuses token {self._full(token.tokenid)} that it has just made: try again"
                )
            entry = {"api_user": self.wish.user, "api_token_id": token.tokenid, "api_token_secret": secret}
            self.vault.write({**self.vault.read(), variable_of(token.name): entry})
        except BaseException as e:
            self._take_back(token.tokenid, e)
            raise

    def _create(self, tokenid: str) -> str:
        try:
            made = self.api.post(self._path(tokenid), {"privsep": True, "comment": COMMENT})
        except UnreachableError as e:
            # It may have been made all the same, with a secret that is lost.
            self._take_back(tokenid, e)
            raise
        return str(made["value"])

    def _take_back(self, tokenid: str, error: BaseException) -> None:
        """Remove a token that did not get into the vault. One that did, although that failed, is kept."""
        try:
            if not any(kept == tokenid for kept, _secret in self._secrets().values()):
                self._remove(tokenid)
        except NHIError as e:
            raise NHIError(
                f"{error}; and token {self._full(tokenid)} is left, which the next run removes ({e})"
            ) from error

    def _mend(self, token: TokenPlan, grants: list[Grant]) -> None:
        if token.mend:
            self.api.put(self._path(token.tokenid), {"privsep": True, "expire": 0})
        for grant in grants:
            self._grant(grant)

    def _remove(self, tokenid: str) -> None:
        try:
            self.api.delete(self._path(tokenid))
        except NotFoundError:
            return

    def _grant(self, grant: Grant, *, withdraw: bool = False) -> None:
        to_whom = "tokens" if "!" in grant.who else "users"
        data = {"path": grant.path, "roles": grant.role, to_whom: grant.who, "propagate": grant.propagate}
        self.api.put("access/acl", {**data, **({"delete": 1} if withdraw else {})})

    def _full(self, tokenid: str) -> str:
        return f"{self.wish.user}!{tokenid}"

    def _path(self, tokenid: str) -> tuple[str, ...]:
        return ("access", "users", self.wish.user, "token", tokenid)


def _token(row: Mapping[str, Any]) -> Token:
    return Token(row["tokenid"], bool(int(row.get("privsep", 1))), int(row.get("expire") or 0))


def _must_be_accepted(found: Access, tokenid: str) -> bool:
    """Whether only a wrong secret can be why a token is refused: it and its user are there and valid for ever."""
    token = found.tokens.get(tokenid)
    return token is not None and token.expire == 0 and found.user == VALID_USER
