"""Firewall rules and options of guests: kept and given back; the lab filters nothing."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from lab.model import Guest
from lab.server.call import Call
from lab.server.errors import bad_parameter, failure
from lab.server.router import guest_route, route

RULE_FIELDS = ("type", "action", "comment", "dest", "dport", "enable", "icmp-type", "iface", "log", "macro", "proto",
               "source", "sport")  # fmt: skip
CLUSTER_OPTIONS = "cluster-firewall"


def _guest(call: Call) -> Guest:
    return call.lab.guest(call.node, call.kind, call.vmid)


def _digest(value: Any) -> str:
    return hashlib.sha1(json.dumps(value, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def _rules(guest: Guest) -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = guest.firewall["rules"]
    return rules


def _check_digest(call: Call, value: Any) -> None:
    if call.params.get("digest", _digest(value)) != _digest(value):
        raise failure("detected modified configuration - file changed by other user? Try again.")


def _at(call: Call, guest: Guest) -> int:
    position = int(call.params["pos"])
    if position >= len(_rules(guest)):
        raise bad_parameter("pos", f"no rule at position {position}")
    return position


@guest_route("GET", "/{vmid}/firewall")
async def index(call: Call) -> Any:
    return [{"name": "rules"}, {"name": "options"}]


@guest_route("GET", "/{vmid}/firewall/rules")
async def rules(call: Call) -> Any:
    guest = _guest(call)
    digest = _digest(_rules(guest))
    return [{"pos": position, **rule, "digest": digest} for position, rule in enumerate(_rules(guest))]


@guest_route("POST", "/{vmid}/firewall/rules")
async def create_rule(call: Call) -> None:
    """A new rule goes first unless a position is given."""
    guest = _guest(call)
    _check_digest(call, _rules(guest))
    rule = {name: call.params[name] for name in RULE_FIELDS if name in call.params}
    rule.setdefault("enable", 0)
    _rules(guest).insert(int(call.params.get("pos", 0)), rule)
    call.lab.store.guests.save(guest.vmid)


@guest_route("GET", "/{vmid}/firewall/rules/{pos}")
async def read_rule(call: Call) -> Any:
    guest = _guest(call)
    position = _at(call, guest)
    return {"pos": position, **_rules(guest)[position], "digest": _digest(_rules(guest))}


@guest_route("PUT", "/{vmid}/firewall/rules/{pos}")
async def update_rule(call: Call) -> None:
    guest = _guest(call)
    position = _at(call, guest)
    _check_digest(call, _rules(guest))
    known = _rules(guest)
    if "moveto" in call.params:
        known.insert(int(call.params["moveto"]), known.pop(position))
    else:
        changes = {name: call.params[name] for name in RULE_FIELDS if name in call.params}
        removed = set(re.split(r"[,;\s]+", str(call.params.get("delete", ""))))
        kept = {name: value for name, value in known[position].items() if name not in removed}
        known[position] = {**kept, **changes}
    call.lab.store.guests.save(guest.vmid)


@guest_route("DELETE", "/{vmid}/firewall/rules/{pos}")
async def delete_rule(call: Call) -> None:
    guest = _guest(call)
    position = _at(call, guest)
    _check_digest(call, _rules(guest))
    del _rules(guest)[position]
    call.lab.store.guests.save(guest.vmid)


def _changed_options(call: Call, old: dict[str, Any]) -> dict[str, Any]:
    _check_digest(call, old)
    removed = set(re.split(r"[,;\s]+", str(call.params.get("delete", ""))))
    kept = {name: value for name, value in old.items() if name not in removed}
    return {**kept, **{name: value for name, value in call.options.items() if name not in ("delete", "digest")}}


@guest_route("GET", "/{vmid}/firewall/options")
async def options(call: Call) -> Any:
    known = _guest(call).firewall["options"]
    return {**known, "digest": _digest(known)}


@guest_route("PUT", "/{vmid}/firewall/options")
async def update_options(call: Call) -> None:
    guest = _guest(call)
    guest.firewall["options"] = _changed_options(call, guest.firewall["options"])
    call.lab.store.guests.save(guest.vmid)


@route("GET", "/cluster/firewall/options")
async def cluster_options(call: Call) -> Any:
    known = json.loads(call.lab.store.meta(CLUSTER_OPTIONS, "{}"))
    return {**known, "digest": _digest(known)}


@route("PUT", "/cluster/firewall/options")
async def update_cluster_options(call: Call) -> None:
    known = json.loads(call.lab.store.meta(CLUSTER_OPTIONS, "{}"))
    call.lab.store.set_meta(CLUSTER_OPTIONS, json.dumps(_changed_options(call, known)))
