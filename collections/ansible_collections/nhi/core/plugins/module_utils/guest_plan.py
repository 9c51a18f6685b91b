# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A wanted guest against a found one: the plan that a check run shows and a real run carries out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from .guest import (
    CLONE,
    CONFIGURE,
    CREATE,
    DESTROY,
    PROTECT,
    RESIZE,
    START,
    STOP,
    Action,
    Check,
    Found,
    GuestPlan,
    guest_facts,
)
from .guest_checks import (
    check_confirmed,
    check_dependents,
    check_kind,
    check_runnable,
    check_survives,
    check_unlocked,
    check_unprotected,
)
from .guest_config import Drift, Placement, flag, memory_mib, restart_words
from .guest_creation import new_address
from .guest_drift import drift
from .guest_interfaces import clone_interfaces, interface_facts, new_interfaces
from .guest_spec import DEFAULT_BRIDGE, KINDS, LXC, Wanted
from .impact import Impact

# Checks that fail for what a guest is from its beginning.
_OF_NEW_GUESTS = ("type", "node", "disk", "unprivileged")


def plan_create(wanted: Wanted, place: Placement) -> GuestPlan:
    """Make a guest that is not there."""
    kind = wanted.type or LXC
    label = f"{KINDS[kind]} {place.vmid or '(no VMID)'} {wanted.name}"
    plan = GuestPlan(after=_new_facts(wanted, place, kind))
    plan.actions.append(Action(CLONE if place.clone_of else CREATE, _creation_sentence(wanted, place, label)))
    if place.clone_of:
        own = "its own size and network" if kind == LXC else "its own size, network and SSH keys"
        plan.actions.append(Action(CONFIGURE, f"Give {label} {own}"))
        if wanted.disk_gib or wanted.volumes:
            sizes = [f"the disk of {label} to {wanted.disk_gib} GiB"] if wanted.disk_gib else []
            sizes += [f"{v.id} to {v.size_gib} GiB" for v in wanted.volumes if v.size_gib]
            plan.actions.append(Action(RESIZE, f"Grow {' and '.join(sizes)} where it is smaller"))
    if wanted.state == "started":
        plan.actions.append(Action(START, f"Start {label}"))
    if wanted.protection:
        plan.actions.append(Action(PROTECT, f"Protect {label} against being destroyed"))
    return plan


def plan_existing(wanted: Wanted, found: Found, impact: Impact) -> GuestPlan:
    """Correct what differs, then bring the guest into the wanted state of power."""
    difference = drift(wanted, found.config, found.type)
    plan = GuestPlan(impact=impact if wanted.state in ("stopped", "restarted") else Impact())
    problems = [Check(name, passed=False, message=message) for name, message in difference.problems]
    plan.checks += [_or_anew(c, found) for c in (*check_kind(wanted.type, wanted.node, found), *problems)]
    _plan_drift(plan, difference, found)
    _plan_power(plan, wanted, found)
    plan.before.update(difference.before)
    plan.after.update(difference.after)
    restarted = any(a.kind == STOP for a in plan.actions) or not found.running
    plan.waiting = {} if restarted else difference.needs_restart
    present = [] if restarted else found.pending or []
    plan.restart_required = restart_words({*present, *plan.waiting.values()}, plan.waiting)
    if wanted.pool and found.pool != wanted.pool:
        plan.warnings.append(
            f"{found.label} is in pool {found.pool or '(none)'}, not {wanted.pool}: a pool is set at creation only"
        )
    if plan.actions:
        plan.checks.append(check_unlocked(found))
    return plan


def plan_absent(
    wanted: Wanted, found: Found, impact: Impact, *, brain_vmid: int, confirm: str | None, allow_impact: bool
) -> GuestPlan:
    """Destroy a guest, but the Brain never."""
    plan = GuestPlan(impact=impact, before=guest_facts(found))
    if found.running:
        plan.actions.append(Action(STOP, f"Shut {found.label} down, and stop it if it does not end"))
    plan.actions.append(Action(DESTROY, f"Destroy {found.label} with its disks"))
    plan.checks = [
        *check_kind(wanted.type, None, found),
        check_survives(found, brain_vmid, impact, allow_impact=allow_impact),
        check_unlocked(found),
        check_unprotected(found),
        check_dependents(found, impact, allow_impact=allow_impact),
        check_confirmed(found, confirm, "destroying"),
    ]
    return plan


def describe_drift(difference: Drift) -> str:
    """``memory 512 -> 1024, tags ...`` for a sentence."""
    return ", ".join(
        f"{k} {_plain(difference.before[k])} -> {_plain(v)}"
        for k, v in difference.after.items()
        if k != "disk" and not k.endswith(".size")
    )


def _or_anew(check: Check, found: Found) -> Check:
    """What only a new guest can be is refused with how to have one."""
    if check.name not in _OF_NEW_GUESTS:
        return check
    return replace(check, message=f"{check.message}, or have it made anew without its data (replace: {found.name})")


def _plan_drift(plan: GuestPlan, difference: Drift, found: Found) -> None:
    if difference.set or difference.delete:
        data = {**difference.set, "delete": ",".join(difference.delete) or None, "digest": found.config.get("digest")}
        plan.actions.append(Action(CONFIGURE, f"Set on {found.label}: {describe_drift(difference)}", data))
    for disk, size in difference.grow:
        data = {"disk": disk, "size": f"{size}G"}
        plan.actions.append(Action(RESIZE, f"Grow {disk} of {found.label} to {size} GiB", data))


def _plan_power(plan: GuestPlan, wanted: Wanted, found: Found) -> None:
    wants_running = {"started": True, "restarted": True, "stopped": False}.get(wanted.state)
    if wants_running is None:
        return
    if wants_running and found.template:
        plan.checks.append(check_runnable(found))
    if found.running and wanted.state in ("stopped", "restarted"):
        plan.actions.append(Action(STOP, f"Shut {found.label} down, and stop it if it does not end"))
    if wants_running and (not found.running or wanted.state == "restarted"):
        plan.actions.append(Action(START, f"Start {found.label}"))
    if found.running != wants_running:
        plan.before["status"] = "running" if found.running else "stopped"
        plan.after["status"] = "running" if wants_running else "stopped"


def _creation_sentence(wanted: Wanted, place: Placement, label: str) -> str:
    if place.clone_of:
        how = "" if place.full else "linked "
        snapshot = f" at snapshot {place.snapname}" if place.snapname else ""
        origin = f"as a {how}clone of {KINDS[wanted.type or LXC]} {place.clone_of}{snapshot}"
    elif place.template:
        origin = f"from {place.template}"
    elif wanted.source or (wanted.type or LXC) == LXC:
        origin = "from a template that is still to be named"
    else:
        origin = "with an empty disk"
    size: Iterable[str] = (
        f"{wanted.cores} core{'s' if wanted.cores > 1 else ''}" if wanted.cores else "",
        f"{wanted.memory_mib} MiB" if wanted.memory_mib else "",
        f"{wanted.disk_gib} GiB" if wanted.disk_gib else "",
        f"on {place.storage}" if place.storage else "",
    )
    more = len(wanted.more_networks)
    address = place.addresses.get(0) or wanted.network.ip6 or "an address by DHCP"
    bridge = f"{wanted.network.bridge or DEFAULT_BRIDGE}{f' VLAN {wanted.network.tag}' if wanted.network.tag else ''}"
    others = f" and {more} more interface{'s' if more > 1 else ''}" if more else ""
    return (
        f"Create {label} on {place.node or 'a node'} {origin} ({', '.join(filter(None, size)) or 'default size'}),"
        f" {address} on {bridge}{others}"
    )


def _new_facts(wanted: Wanted, place: Placement, kind: str) -> dict[str, Any]:
    return {
        "vmid": place.vmid or None,
        "name": wanted.name,
        "type": kind,
        "node": place.node or None,
        "status": "running" if wanted.state == "started" else "stopped",
        "address": new_address(wanted, place),
        "cores": wanted.cores or int(place.source.get("cores") or 0) or None,
        "memory": wanted.memory_mib or memory_mib(place.source),
        "tags": list(wanted.all_tags() or ()),
        "pool": wanted.pool,
        "protection": bool(wanted.protection),
        "onboot": flag(place.source.get("onboot")) if wanted.onboot is None else wanted.onboot,
        "description": wanted.description or "",
        "networks": _new_networks(wanted, place, kind),
        "managed": True,
    }


def _new_networks(wanted: Wanted, place: Placement, kind: str) -> list[dict[str, Any]]:
    if place.clone_of:
        return interface_facts(clone_interfaces(wanted, place, place.source, kind), kind)
    return interface_facts(new_interfaces(wanted, place, kind), kind)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"
    return "none" if value is None or value == "" else str(value)
