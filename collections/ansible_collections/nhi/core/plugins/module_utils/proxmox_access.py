# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three tokens instead of one: which roles, user, pool, grants and tokens there are, which are wanted, what differs.

A token with privilege separation may do what it was granted and its user was granted too, so the user gets the union.
A grant on a deeper path replaces those above it, so a role for a storage or a bridge also reads it. Guests of a pool
have the pool's grants beside their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import ParameterError
from .guest_privileges import configuration_privileges

READER, OPERATOR, CREATOR = "reader", "operator", "creator"
TOKENS = (READER, OPERATOR, CREATOR)
# Of the user: enabled, and for ever.
VALID_USER: Mapping[str, int] = {"enable": 1, "expire": 0}
COMMENT = "made by nhi.core.proxmox_access"
# Since this version the guest agent has privileges of its own; before it one, with which commands can be run too.
_AGENT_SINCE = 9

_READ = {"Datastore.Audit", "Pool.Audit", "SDN.Audit", "Sys.Audit", "VM.Audit"}
_OPERATE = {"Pool.Audit", "VM.Backup", "VM.PowerMgmt", "VM.Snapshot"}
_CREATE = {"Pool.Audit", "VM.Allocate", "VM.Backup", "VM.Clone", "VM.PowerMgmt"}
_STORE = {"Datastore.AllocateSpace", "Datastore.Audit"}
_CONNECT = {"SDN.Audit", "SDN.Use"}
_COPY = {"VM.Audit", "VM.Clone"}

_USERID = re.compile(r"[^\s:/@!]+@[A-Za-z][A-Za-z0-9.\-_]+")
_NAME = re.compile(r"[A-Za-z0-9.\-_]+")


@dataclass(frozen=True, order=True)
class Grant:
    """One line of the ACL: ``who`` is a user or a token's full name."""

    path: str
    who: str
    role: str
    propagate: bool = True

    @property
    def key(self) -> tuple[str, str, str]:
        """What the API knows it by."""
        return self.path, self.who, self.role

    def __str__(self) -> str:
        return f"{self.path} {self.role}" + ("" if self.propagate else " (not below)")


@dataclass(frozen=True)
class Token:
    """What is known of a token, but for its secret. ``expire`` is in seconds since 1970, 0 for never."""

    tokenid: str
    separated: bool = True
    expire: int = 0


@dataclass(frozen=True)
class AccessWish:
    """What the three tokens are for; the names of storages, bridges and templates (by VMID) that creations use."""

    user: str
    pool: str
    prefix: str = "NHI-"
    storages: tuple[str, ...] = ()
    backup_storages: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()
    templates: tuple[int, ...] = ()
    read_agents_before_9: bool = False

    def roles(self, version: int) -> dict[str, frozenset[str]]:
        """Privileges by role, for a major version of Proxmox VE."""
        modern = version >= _AGENT_SINCE
        read_agent = {"VM.GuestAgent.Audit"} if modern else {"VM.Monitor"} if self.read_agents_before_9 else set()
        # Host keys of a new machine are read from a file in it.
        meet = {"VM.GuestAgent.FileRead"} if modern else {"VM.Monitor"}
        named = {
            "Reader": _READ | read_agent,
            "Operator": _OPERATE,
            "Creator": _CREATE | configuration_privileges() | meet,
            "Storage": _STORE,
            "Bridge": _CONNECT,
        }
        if self.templates:
            named["Template"] = _COPY
        return {self.prefix + name: frozenset(privileges) for name, privileges in named.items()}

    def places(self) -> dict[str, frozenset[tuple[str, str]]]:
        """Path and role of each grant, by token."""
        read = {("/", "Reader")}
        backups = {(f"/storage/{name}", "Storage") for name in self.backup_storages}
        operate = read | backups | {(f"/pool/{self.pool}", "Operator")}
        create = read | backups | {(f"/pool/{self.pool}", "Creator")}
        create |= {(f"/storage/{name}", "Storage") for name in self.storages}
        create |= {(f"/sdn/zones/localnetwork/{name}", "Bridge") for name in self.bridges}
        create |= {(f"/vms/{vmid}", "Template") for vmid in self.templates}
        found = {READER: read, OPERATOR: operate, CREATOR: create}
        return {
            token: frozenset((path, self.prefix + role) for path, role in grants) for token, grants in found.items()
        }

    def user_grants(self) -> frozenset[Grant]:
        """The union of what the tokens get."""
        return frozenset(Grant(path, self.user, role) for grants in self.places().values() for path, role in grants)

    def token_grants(self, token: str, tokenid: str) -> frozenset[Grant]:
        """What one token gets, under the name that it has now."""
        return frozenset(Grant(path, f"{self.user}!{tokenid}", role) for path, role in self.places()[token])


def wish_from_params(params: Mapping[str, Any]) -> AccessWish:
    """From a module's options; ParameterError for names that Proxmox VE could not have."""
    if not _USERID.fullmatch(params["user"]):
        raise ParameterError(f"user '{params['user']}' is no user of Proxmox VE: write it as name@pve")
    if params["user"] == "root@pam":
        raise ParameterError("user root@pam may do everything, and so could its tokens: name a user of their own")
    lists = {"storages", "backup_storages", "bridges"}
    for option in ("pool", "role_prefix", *sorted(lists)):
        for name in params[option] if option in lists else [params[option]]:
            if not _NAME.fullmatch(name):
                raise ParameterError(f"{option} '{name}' is no name of Proxmox VE: letters, digits, dots and dashes")
    if params["role_prefix"].upper().startswith("PVE"):
        raise ParameterError(
            f"role_prefix '{params['role_prefix']}' begins with PVE, which Proxmox VE keeps for itself"
        )
    return AccessWish(
        user=params["user"],
        pool=params["pool"],
        prefix=params["role_prefix"],
        templates=tuple(sorted(set(params["templates"]))),
        read_agents_before_9=params["read_agents_before_9"],
        **{option: tuple(sorted(set(params[option]))) for option in lists},
    )


@dataclass(frozen=True)
class Access:
    """What there is; only ``roles`` of the wish, and grants and tokens of its user."""

    version: int
    roles: Mapping[str, frozenset[str]] = field(default_factory=dict)
    pool: bool = False
    user: Mapping[str, Any] | None = None
    tokens: Mapping[str, Token] = field(default_factory=dict)
    grants: frozenset[Grant] = frozenset()

    def grants_of(self, who: str) -> frozenset[Grant]:
        """What was granted to a user or token."""
        return frozenset(grant for grant in self.grants if grant.who == who)


@dataclass(frozen=True)
class TokenPlan:
    """What becomes of one of the three: it stays, or a new one takes its place once that is in the vault.

    ``old`` are all earlier ones, and those that a run which was cut off left without a secret.
    """

    name: str
    tokenid: str
    new: bool
    why: str = ""
    mend: bool = False
    old: tuple[str, ...] = ()


@dataclass(frozen=True)
class AccessPlan:
    """Differences, in the order in which they are put right."""

    wish: AccessWish
    found: Access
    roles: tuple[str, ...]
    pool: bool
    user: bool
    grant: tuple[Grant, ...]
    withdraw: tuple[Grant, ...]
    tokens: tuple[TokenPlan, ...]

    @property
    def changed(self) -> bool:
        """Whether anything differs."""
        return bool(self.actions())

    def actions(self) -> list[str]:
        """All of it in sentences."""
        return list(self._sentences())

    def _sentences(self) -> Iterator[str]:
        wanted = self.wish.roles(self.found.version)
        for role in self.roles:
            before = self.found.roles.get(role)
            yield f"Create role {role}" if before is None else _role_change(role, before, wanted[role])
        if self.pool:
            yield f"Create pool {self.wish.pool}"
        if self.user:
            yield f"{'Create' if self.found.user is None else 'Correct'} user {self.wish.user}"
        yield from self._granting(self.wish.user)
        for token in self.tokens:
            if token.new:
                yield f"Create token {token.tokenid} ({token.why}) and keep its secret in the vault"
            if token.mend:
                yield f"Correct token {token.tokenid}"
            yield from self._granting(f"{self.wish.user}!{token.tokenid}")
            yield from (f"Remove token {tokenid}" for tokenid in token.old)
        for grant in self.withdraw:
            yield f"Withdraw {grant.role} on {grant.path} from {grant.who}"

    def grants_to(self, who: str) -> list[Grant]:
        """What a user or token is granted now."""
        return [grant for grant in self.grant if grant.who == who]

    def _granting(self, who: str) -> Iterator[str]:
        return (f"Grant {who} {grant.role} on {grant.path}" for grant in self.grants_to(who))

    def diff(self) -> dict[str, Any]:
        """Before and after, for Ansible."""
        found, wish, ours = self.found, self.wish, {t.name: t for t in self.tokens}
        tokens = {tokenid: token for tokenid, token in found.tokens.items() if name_of(tokenid)}
        before: dict[str, Any] = {
            "roles": {role: sorted(privileges) for role, privileges in sorted(found.roles.items())},
            "pools": [wish.pool] if found.pool else [],
            "users": {} if found.user is None else {wish.user: _grants_shown(found.grants_of(wish.user), found.user)},
            "tokens": {
                tokenid: _grants_shown(found.grants_of(f"{wish.user}!{tokenid}"), _token_shown(token))
                for tokenid, token in sorted(tokens.items())
            },
        }
        after: dict[str, Any] = {
            "roles": {role: sorted(p) for role, p in sorted(wish.roles(found.version).items())},
            "pools": [wish.pool],
            "users": {wish.user: _grants_shown(wish.user_grants(), VALID_USER)},
            "tokens": {
                token.tokenid: _grants_shown(wish.token_grants(name, token.tokenid), _token_shown(Token(token.tokenid)))
                for name, token in sorted(ours.items())
            },
        }
        return {"before": before, "after": after}


def _role_change(role: str, before: frozenset[str], after: frozenset[str]) -> str:
    parts = [f"+{privilege}" for privilege in sorted(after - before)]
    parts += [f"-{privilege}" for privilege in sorted(before - after)]
    return f"Correct role {role} ({', '.join(parts)})"


def _grants_shown(grants: Iterable[Grant], more: Mapping[str, Any]) -> dict[str, Any]:
    return {**{k: int(v) for k, v in more.items()}, "grants": [str(grant) for grant in sorted(grants)]}


def _token_shown(token: Token) -> dict[str, Any]:
    return {"privsep": token.separated, "expire": token.expire}


def name_of(tokenid: str) -> str | None:
    """Which of the three a token is one of, by its name: ``reader-4`` is the fourth reader."""
    name, _dash, number = tokenid.rpartition("-")
    return name if name in TOKENS and number.isdecimal() else None


def plan_access(
    wish: AccessWish, found: Access, kept: Mapping[str, str], refused: Mapping[str, str], *, rotate: bool = False
) -> AccessPlan:
    """The difference. ``kept`` are the names of the three tokens in the vault, ``refused`` says why one is no good."""
    wanted_roles = wish.roles(found.version)
    tokens = tuple(_plan_token(name, found, kept.get(name), refused.get(name), rotate=rotate) for name in TOKENS)
    wanted = set(wish.user_grants())
    for token in tokens:
        wanted |= wish.token_grants(token.name, token.tokenid)
    gone = {f"{wish.user}!{tokenid}" for token in tokens for tokenid in token.old}
    ours = {wish.user, *(f"{wish.user}!{token.tokenid}" for token in tokens)}
    keys = {grant.key for grant in wanted}
    return AccessPlan(
        wish=wish,
        found=found,
        roles=tuple(role for role in sorted(wanted_roles) if found.roles.get(role) != wanted_roles[role]),
        pool=not found.pool,
        user=found.user is None or found.user != VALID_USER,
        grant=tuple(sorted(wanted - found.grants)),
        withdraw=tuple(sorted(g for g in found.grants if g.who in ours - gone and g.key not in keys)),
        tokens=tokens,
    )


def _plan_token(name: str, found: Access, kept: str | None, refused: str | None, *, rotate: bool) -> TokenPlan:
    mine = [tokenid for tokenid in found.tokens if name_of(tokenid) == name]
    current = found.tokens.get(kept or "")
    why = (
        "the vault has none" if kept is None
        else f"{kept} is gone" if current is None
        else refused or ("rotation" if rotate else "")
    )  # fmt: skip
    if current is not None and not why:
        mend = not current.separated or current.expire != 0
        return TokenPlan(name, current.tokenid, new=False, mend=mend, old=_sorted(set(mine) - {current.tokenid}))
    # A number is never used again, so that a copy of the vault can not speak of another token by the same name.
    numbers = [_number(tokenid) for tokenid in [*mine, *([kept] if kept and name_of(kept) == name else [])]]
    return TokenPlan(name, f"{name}-{max(numbers, default=0) + 1}", new=True, why=why, old=_sorted(mine))


def _number(tokenid: str) -> int:
    return int(tokenid.rpartition("-")[2])


def _sorted(tokenids: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(tokenids, key=_number))
