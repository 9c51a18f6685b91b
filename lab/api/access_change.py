"""/access: users, tokens, roles and grants."""

from __future__ import annotations

import re
from typing import Any

from lab.api.access import REALMS
from lab.model import Acl, Role, Token, User
from lab.server.auth import hash_password
from lab.server.call import Call
from lab.server.errors import ApiError, bad_parameter, bad_parameters, failure
from lab.server.permissions import normalize_path
from lab.server.router import route

USER_FIELDS = ("enable", "expire", "comment", "email", "firstname", "lastname")


def _items(text: Any) -> list[str]:
    return [item for item in re.split(r"[,;\s]+", str(text)) if item]


# -- users ------------------------------------------------------------------------------------------------------


def _user(call: Call) -> User:
    user = call.lab.store.users.get(call.params["userid"])
    if user is None:
        raise failure(f"no such user ('{call.params['userid']}')")
    return user


def _shown_user(user: User, *, with_id: bool = True) -> dict[str, Any]:
    shown: dict[str, Any] = {"userid": user.userid, "realm-type": user.userid.rpartition("@")[2]} if with_id else {}
    shown |= {"enable": user.enable, "expire": user.expire}
    extra = {name: getattr(user, name) for name in ("comment", "email", "firstname", "lastname")}
    return shown | {name: value for name, value in extra.items() if value}


def _shown_token(token: Token) -> dict[str, Any]:
    shown: dict[str, Any] = {"privsep": token.privsep, "expire": token.expire}
    return {**shown, "comment": token.comment} if token.comment else shown


@route("GET", "/access/users")
async def users(call: Call) -> Any:
    audit = call.has("/access/groups", "User.Modify", "Sys.Audit")
    wanted = call.params.get("enabled")
    found = []
    for user in call.lab.store.users.values():
        if not (audit or user.userid == call.userid) or wanted not in (None, user.enable):
            continue
        shown = _shown_user(user)
        if call.params.get("full"):
            shown |= {
                "groups": "",
                "tokens": [{"tokenid": t.tokenid, **_shown_token(t)} for t in _tokens(call, user.userid)],
            }
        found.append(shown)
    return found


@route("POST", "/access/users")
async def create_user(call: Call) -> None:
    userid, password = call.params["userid"], call.params.get("password", "")
    realm = userid.rpartition("@")[2]
    if realm not in {entry["realm"] for entry in REALMS}:
        raise failure(f"create user failed: realm '{realm}' does not exist")
    if userid in call.lab.store.users:
        raise failure(f"create user failed: user '{userid}' already exists")
    fields = {name: call.params[name] for name in USER_FIELDS if name in call.params}
    call.lab.store.users[userid] = User(userid, password=hash_password(password) if password else "", **fields)


@route("GET", "/access/users/{userid}")
async def read_user(call: Call) -> Any:
    user = _user(call)
    tokens = {token.tokenid: _shown_token(token) for token in _tokens(call, user.userid)}
    return {**_shown_user(user, with_id=False), "groups": [], "tokens": tokens}


@route("PUT", "/access/users/{userid}")
async def update_user(call: Call) -> None:
    user = _user(call)
    for name in USER_FIELDS:
        if name in call.params:
            setattr(user, name, call.params[name])
    call.lab.store.users.save(user.userid)


@route("DELETE", "/access/users/{userid}")
async def delete_user(call: Call) -> None:
    user = _user(call)
    if user.userid == call.userid:
        raise failure("unable to delete the user that is logged in")
    with call.lab.store.database.transaction():
        for token in _tokens(call, user.userid):
            _drop_token(call, token)
        _drop_grants(call, user.userid)
        del call.lab.store.users[user.userid]


@route("PUT", "/access/password")
async def change_password(call: Call) -> None:
    user = _user(call)
    if not call.is_root:
        call.lab.auth.login(call.userid, str(call.params.get("confirmation-password", "")))
    user.password = hash_password(call.params["password"])
    call.lab.store.users.save(user.userid)


@route("GET", "/access/groups")
async def groups(call: Call) -> Any:
    """The lab has no groups."""
    return []


# -- tokens -----------------------------------------------------------------------------------------------------


def _tokens(call: Call, userid: str) -> list[Token]:
    return [token for token in call.lab.store.tokens.values() if token.userid == userid]


def _token(call: Call) -> Token:
    _user(call)
    token = call.lab.store.tokens.get(f"{call.params['userid']}!{call.params['tokenid']}")
    if token is None:
        raise failure(f"no such token '{call.params['tokenid']}' for user '{call.params['userid']}'")
    return token


def _drop_grants(call: Call, ugid: str) -> None:
    for key in [key for key, acl in call.lab.store.acl.items() if acl.ugid == ugid]:
        del call.lab.store.acl[key]


def _drop_token(call: Call, token: Token) -> None:
    full = f"{token.userid}!{token.tokenid}"
    _drop_grants(call, full)
    del call.lab.store.tokens[full]


@route("GET", "/access/users/{userid}/token")
async def tokens(call: Call) -> Any:
    user = _user(call)
    return [{"tokenid": token.tokenid, **_shown_token(token)} for token in _tokens(call, user.userid)]


@route("GET", "/access/users/{userid}/token/{tokenid}")
async def read_token(call: Call) -> Any:
    return _shown_token(_token(call))


@route("POST", "/access/users/{userid}/token/{tokenid}")
async def create_token(call: Call) -> Any:
    userid, tokenid = _user(call).userid, call.params["tokenid"]
    full = f"{userid}!{tokenid}"
    if full in call.lab.store.tokens:
        raise bad_parameter("tokenid", "Token already exists.")
    fields = {name: call.params[name] for name in ("privsep", "expire", "comment") if name in call.params}
    secret = call.lab.auth.issue_token(userid, tokenid, **fields)
    return {"full-tokenid": full, "info": _shown_token(call.lab.store.tokens[full]), "value": secret}


@route("PUT", "/access/users/{userid}/token/{tokenid}")
async def update_token(call: Call) -> Any:
    token = _token(call)
    fields: dict[str, Any] = {"privsep": token.privsep, "expire": token.expire, "comment": token.comment}
    fields |= {name: call.params[name] for name in fields if name in call.params}
    fields |= {
        name: default
        for name, default in (("comment", ""), ("expire", 0))
        if name in _items(call.params.get("delete", ""))
    }
    if call.params.get("regenerate"):
        secret = call.lab.auth.issue_token(token.userid, token.tokenid, **fields)
        return {**fields, "full-tokenid": f"{token.userid}!{token.tokenid}", "value": secret}
    token.privsep, token.expire, token.comment = fields["privsep"], fields["expire"], fields["comment"]
    call.lab.store.tokens.save(f"{token.userid}!{token.tokenid}")
    return _shown_token(token)


@route("DELETE", "/access/users/{userid}/token/{tokenid}")
async def delete_token(call: Call) -> None:
    with call.lab.store.database.transaction():
        _drop_token(call, _token(call))


# -- roles ------------------------------------------------------------------------------------------------------


def _privileges(call: Call) -> list[str]:
    names = _items(call.params.get("privs", ""))
    for name in names:
        if name not in call.lab.permissions.known:
            raise bad_parameter("privs", f"invalid format - invalid privilege '{name}'\n")
    return sorted(set(names))


def _role(call: Call, to: str = "") -> Role:
    name = call.params["roleid"]
    role = call.lab.store.roles.get(name)
    if role is None:
        raise failure((f"{to} role failed: " if to else "") + f"role '{name}' does not exist")
    if to and role.special:
        raise failure(f"auto-generated role '{name}' cannot be {'deleted' if to == 'delete' else 'modified'}")
    return role


@route("GET", "/access/roles")
async def roles(call: Call) -> Any:
    known = call.lab.store.roles
    return [
        {"roleid": name, "privs": ",".join(known[name].privs), "special": known[name].special} for name in sorted(known)
    ]


@route("POST", "/access/roles")
async def create_role(call: Call) -> None:
    name = call.params["roleid"]
    if name in call.lab.store.roles:
        raise failure(f"create role failed: role '{name}' already exists")
    if name.startswith("PVE"):
        raise bad_parameter("roleid", "cannot use role ID starting with the (case-insensitive) 'PVE' namespace")
    call.lab.store.roles[name] = Role(name, _privileges(call))


@route("GET", "/access/roles/{roleid}")
async def read_role(call: Call) -> Any:
    return dict.fromkeys(_role(call).privs, 1)


@route("PUT", "/access/roles/{roleid}")
async def update_role(call: Call) -> None:
    role = _role(call, "update")
    wanted = _privileges(call)
    role.privs = sorted({*role.privs, *wanted}) if call.params.get("append") else wanted
    call.lab.store.roles.save(role.roleid)


@route("DELETE", "/access/roles/{roleid}")
async def delete_role(call: Call) -> None:
    role = _role(call, "delete")
    with call.lab.store.database.transaction():
        for key in [key for key, acl in call.lab.store.acl.items() if acl.roleid == role.roleid]:
            del call.lab.store.acl[key]
        del call.lab.store.roles[role.roleid]


# -- grants -----------------------------------------------------------------------------------------------------


@route("GET", "/access/acl")
async def acl_list(call: Call) -> Any:
    """All of it for those who may audit or hand out grants, else what is about paths one may change."""
    everything = call.has("/access", "Sys.Audit", "Permissions.Modify")
    return [
        {"path": acl.path, "ugid": acl.ugid, "type": acl.type, "roleid": acl.roleid, "propagate": acl.propagate}
        for acl in call.lab.store.acl.values()
        if everything or call.has(acl.path, "Permissions.Modify")
    ]


@route("PUT", "/access/acl")
async def update_acl(call: Call) -> None:
    """All names are checked before the first grant changes."""
    path = normalize_path(call.params["path"])
    if path is None:
        raise bad_parameter("path", f"invalid ACL path '{call.params['path']}'")
    if call.params.get("groups"):
        raise failure(f"group '{call.params['groups']}' does not exist")
    roleids = _items(call.params["roles"])
    targets = [(userid, "user") for userid in _items(call.params.get("users", ""))]
    targets += [(token, "token") for token in _items(call.params.get("tokens", ""))]
    if not targets:
        text = "either 'users', 'groups' or 'tokens' is required."
        raise bad_parameters(dict.fromkeys(("users", "groups", "tokens"), text))
    _check_grant(call, path, roleids, targets)
    with call.lab.store.database.transaction():
        for roleid in roleids:
            for ugid, kind in targets:
                acl = Acl(path, ugid, kind, roleid, int(call.params.get("propagate", 1)))
                if call.params.get("delete"):
                    call.lab.store.acl.pop(acl.key, None)
                else:
                    call.lab.store.acl[acl.key] = acl


def _check_grant(call: Call, path: str, roleids: list[str], targets: list[tuple[str, str]]) -> None:
    held = call.lab.permissions.on(call.auth_id, path)
    for roleid in roleids:
        role = call.lab.store.roles.get(roleid)
        if role is None:
            raise failure(f"role '{roleid}' does not exist")
        if "Permissions.Modify" not in held:
            _check_own(call, roleid, [held.get(name) for name in role.privs])
    for ugid, kind in targets:
        known = call.lab.store.users if kind == "user" else call.lab.store.tokens
        if ugid not in known:
            raise ApiError(500, f"{kind} '{ugid}' does not exist")


def _check_own(call: Call, roleid: str, held: list[int | None]) -> None:
    """Who only owns what is on the path hands out (or takes) no more than they have there; never NoAccess."""
    verb = "remove" if call.params.get("delete") else "add"
    needs = "requires 'Permissions.Modify' or "
    if None in held:
        raise bad_parameter("role", f"Cannot {verb} role '{roleid}' - {needs}superset of privileges.")
    if verb == "add" and call.params.get("propagate", 1) and 0 in held:
        text = f"Cannot {verb} role '{roleid}' with propagation - {needs}propagated superset of privileges."
        raise bad_parameter("role", text)
    if roleid == "NoAccess":
        raise bad_parameter("role", f"Cannot {verb} role '{roleid}' - requires 'Permissions.Modify'")
