# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing a guest back from a backup, beside others or in its own place: the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .allocation import parse_vmid_range
from .guest import (
    REPLACE,
    START,
    STOP,
    Action,
    Check,
    Found,
    GuestPlan,
)
from .guest_archive import Archive
from .guest_backup import Backup, check_archive_is_of, guest_from_params
from .guest_checks import check_unlocked, check_unprotected, is_brain
from .guest_config import fixed_address
from .guest_guards import Guards, GuestName
from .guest_snapshot import config_change
from .guest_spec import KINDS, LXC, with_marker
from .impact import Impact

RESTORE = "restore"


@dataclass(frozen=True)
class RestoreWish:
    """What to restore, and as which guest."""

    guest: GuestName
    backup: str
    storage: str | None = None
    node: str | None = None
    pool: str | None = None
    vmids: range = range(105, 1000)


def wish_from_params(params: Mapping[str, Any]) -> RestoreWish:
    """The options of nhi_vm_backup that say what to restore."""
    return RestoreWish(
        guest=guest_from_params(params),
        backup=params["backup"],
        storage=params.get("storage"),
        node=params.get("node"),
        pool=params.get("pool"),
        vmids=parse_vmid_range(params["vmid_range"]),
    )


def is_restored_from(found: Found, backup: str) -> bool:
    """Whether the guest was made from this backup and its notes still say so."""
    return _origin(backup) in str(found.config.get("description") or "").splitlines()


def plan_beside(
    wish: RestoreWish, backup: Backup, archive: Archive, node: str, vmid: int, guards: Guards, operation: str
) -> GuestPlan:
    """A new guest from a backup: it is not started, does not start with its node, and has MACs of its own."""
    label = f"{KINDS[backup.type]} {vmid} {wish.guest.name}"
    facts = {"vmid": vmid, "name": wish.guest.name, "type": backup.type, "node": node, "status": "stopped"}
    address = fixed_address(archive.config, backup.type)
    plan = GuestPlan(after={**facts, "address": str(address.ip) if address else None, "pool": wish.pool})
    text = f"Restore {label} on {node} from {backup.volid}, a backup of {archive.name} from {backup.taken_at}"
    name_option = "hostname" if backup.type == LXC else "name"
    notes = "\n\n".join(filter(None, (archive.notes, _origin(backup.volid))))
    data = {
        **_source(backup, wish.storage),
        "vmid": vmid,
        name_option: wish.guest.name,
        "pool": wish.pool,
        "unique": 1,
        "onboot": 0,
        "protection": 0,
        "description": with_marker(notes, operation, archive.origin),
    }
    plan.actions.append(Action(RESTORE, text, data))
    brain = "brain" in archive.tags
    plan.checks.append(
        Check.of(
            "critical",
            passed=guards.allow_brain or not brain,
            good=f"{backup.volid} is not of the Brain" if not brain else "allow_brain is true",
            bad=f"{backup.volid} is of the Brain, and a guest made from it would count as the Brain: if that is meant,"
            " set allow_brain: true",
        )
    )
    return plan


def plan_replace(
    wish: RestoreWish, backup: Backup, archive: Archive, found: Found, guards: Guards, impact: Impact
) -> GuestPlan:
    """The backup in place of the guest it was made of."""
    plan = GuestPlan(impact=impact)
    if found.running:
        plan.actions.append(Action(STOP, f"Shut {found.label} down, and stop it if it does not end"))
    text = f"Replace {found.label} by {backup.volid} from {backup.taken_at}, which loses all since"
    data = {**_source(backup, wish.storage), "vmid": found.vmid, "force": 1}
    plan.actions.append(Action(REPLACE, text, data))
    if found.running:
        plan.actions.append(Action(START, f"Start {found.label}"))
    plan.before, plan.after = config_change(found.config, archive.config)
    plan.checks = [
        check_unlocked(found),
        check_unprotected(found),
        Check.of(
            "same_guest",
            passed=(backup.vmid, backup.type) == (found.vmid, found.type),
            good=f"{backup.volid} was made of {KINDS[found.type]} {found.vmid}",
            bad=f"{backup.volid} was made of {KINDS[backup.type]} {backup.vmid}, not of {found.label}:"
            " restore it under a name that is free",
        ),
        check_archive_is_of(found.name, backup, archive),
        *guards.checks(found, impact, "replacing"),
    ]
    plan.warnings += guards.unknown_impact(found)
    if is_brain(found, guards.brain_vmid) and found.running:
        plan.warnings.append(f"{found.label} is the Brain: a run on it ends when it is shut down.")
    return plan


def _source(backup: Backup, storage: str | None) -> dict[str, Any]:
    if backup.type == LXC:
        return {"ostemplate": backup.volid, "restore": 1, "storage": storage}
    return {"archive": backup.volid, "storage": storage}


def _origin(volid: str) -> str:
    return f"Restored from {volid}."
