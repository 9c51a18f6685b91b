"""/access: login, and reading who may do what."""

from __future__ import annotations

import re
from typing import Any

from lab.server.call import Call
from lab.server.errors import Unauthorized, bad_parameter
from lab.server.permissions import normalize_path
from lab.server.router import route

REALMS = (
    {"realm": "pam", "type": "pam", "comment": "Linux PAM standard authentication"},
    {"realm": "pve", "type": "pve", "comment": "Proxmox VE authentication server"},
)


@route("GET", "/access")
async def index(call: Call) -> Any:
    return [{"subdir": name} for name in ("users", "groups", "domains", "acl", "roles", "ticket", "password")]


@route("GET", "/access/domains")
async def domains(call: Call) -> Any:
    return [dict(realm) for realm in REALMS]


@route("GET", "/access/ticket")
async def ticket_form(call: Call) -> Any:
    return None


@route("POST", "/access/ticket")
async def create_ticket(call: Call) -> Any:
    userid = str(call.params["username"])
    if "@" not in userid:
        realm = call.params.get("realm")
        if not realm:
            raise Unauthorized("authentication failure", body=True)
        userid = f"{userid}@{realm}"
    call.lab.auth.login(userid, str(call.params["password"]))
    if call.params.get("path"):
        call.lab.permissions.require(userid, call.params["path"], *re.split(r"[ ,;]+", call.params["privs"]))
    return {
        "username": userid,
        "ticket": call.lab.auth.ticket(userid),
        "CSRFPreventionToken": call.lab.auth.csrf_token(userid),
        "clustername": call.lab.config.nodes[0],
        "cap": _capabilities(call, userid),
    }


def _capabilities(call: Call, userid: str) -> dict[str, dict[str, int]]:
    """What the web interface shows or hides."""
    paths = {"dc": "/", "vms": "/vms", "storage": "/storage", "access": "/access", "nodes": "/nodes", "sdn": "/sdn"}
    return {part: dict.fromkeys(call.lab.permissions.on(userid, path), 1) for part, path in paths.items()}


@route("GET", "/access/permissions")
async def permissions(call: Call) -> Any:
    wanted = call.params.get("userid", call.auth_id)
    if wanted != call.auth_id and not (wanted.startswith(f"{call.auth_id}!") or wanted == call.userid):
        call.require("/access", "Sys.Audit")
    known = call.lab.store.tokens if "!" in wanted else call.lab.store.users
    if wanted not in known:
        raise bad_parameter("userid", f"no such {'token' if '!' in wanted else 'user'} ('{wanted}')")
    path = call.params.get("path")
    if path is not None:
        clean = normalize_path(path)
        if clean is None:
            raise bad_parameter("path", f"invalid ACL path '{path}'")
        return call.lab.permissions.table(wanted, clean)
    return call.lab.permissions.table(wanted)
