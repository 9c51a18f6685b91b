# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of a guest: a wish against what there is, as a plan."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .errors import PreflightError
from .guest import UNPLANNED, Action, Check, Found, GuestPlan
from .guest_checks import check_unlocked, check_unprotected
from .guest_config import flag
from .guest_guards import Guards, GuestName
from .guest_spec import QEMU, guest_name
from .impact import Impact

TAKE, DESCRIBE, REMOVE, ROLLBACK = "snapshot", "describe_snapshot", "remove_snapshot", "rollback"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{1,39}")
_RESERVED = ("current", "pending", "vzdump")
# Of a snapshot itself or of the moment; a rollback leaves them as they are.
_NOT_ROLLED_BACK = frozenset(
    {
        "description", "digest", "lock", "lxc", "nets-host-mtu", "parent", "pending", "runningcpu", "runningmachine",
        "snapstate", "snaptime", "vmgenid", "vmstate",
    }
)  # fmt: skip


@dataclass(frozen=True)
class SnapshotWish:
    """A snapshot as the operator asked for it."""

    guest: GuestName
    snapshot: str
    state: str = "present"
    description: str | None = None
    vmstate: bool | None = None


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that is there. ``unfinished`` names the operation that left it half done."""

    name: str
    description: str = ""
    taken_at: str | None = None
    parent: str | None = None
    vmstate: bool = False
    unfinished: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For the result of a module."""
        return {
            "name": self.name,
            "description": self.description,
            "taken_at": self.taken_at,
            "parent": self.parent,
            "vmstate": self.vmstate,
        }


def wish_from_params(params: Mapping[str, Any]) -> SnapshotWish:
    """The options of nhi_vm_snapshot; PreflightError names the first that can not be meant."""
    name = params["snapshot"]
    if not _NAME.fullmatch(name) or name.lower() in _RESERVED:
        raise PreflightError(
            f"'{name}' can not name a snapshot: use a letter, then letters, digits, _ and -, 2 to 40 characters,"
            f" and none of {', '.join(_RESERVED)}"
        )
    guest = GuestName(guest_name(params["name"]), params.get("vmid"))
    description = params.get("description")
    return SnapshotWish(
        guest, name, params["state"], None if description is None else description.strip(), params.get("vmstate")
    )


def snapshots_of(rows: Iterable[Mapping[str, Any]]) -> list[Snapshot]:
    """The API's list without the row for the present, oldest first."""
    real = [r for r in rows if r.get("name") != "current"]
    return [_snapshot(r) for r in sorted(real, key=lambda r: (int(r.get("snaptime") or 0), str(r["name"])))]


def plan_present(wish: SnapshotWish, found: Found, snapshots: Sequence[Snapshot], *, supported: bool) -> GuestPlan:
    """Take the snapshot, or correct its description."""
    there = _named(snapshots, wish.snapshot)
    plan = GuestPlan()
    if there is None:
        _plan_take(plan, wish, found, snapshots, supported=supported)
    if wish.vmstate and found.type != QEMU:
        text = f"{found.label} is a container, whose memory can not be kept: leave vmstate out"
        plan.checks.append(Check("vmstate", passed=False, message=text))
    if there is None:
        return plan
    if there.unfinished:
        text = (
            f"snapshot {there.name} of {found.label} was left half done ({there.unfinished}):"
            " remove it with state: absent, then take it again"
        )
        plan.checks.append(Check("complete", passed=False, message=text))
        return plan
    if wish.vmstate and not there.vmstate:
        plan.warnings.append(f"Snapshot {there.name} of {found.label} is there without memory, which can not be added.")
    if wish.description is not None and wish.description != there.description:
        plan.actions.append(Action(DESCRIBE, f"Describe snapshot {there.name} of {found.label} anew"))
        plan.before["description"], plan.after["description"] = there.description, wish.description
    return plan


def plan_absent(wish: SnapshotWish, found: Found, snapshots: Sequence[Snapshot]) -> GuestPlan:
    """Remove the snapshot; the guest itself stays as it is."""
    plan = GuestPlan()
    if _named(snapshots, wish.snapshot) is None:
        return plan
    plan.actions.append(Action(REMOVE, f"Remove snapshot {wish.snapshot} of {found.label}"))
    plan.before["snapshots"] = [s.name for s in snapshots]
    plan.after["snapshots"] = [s.name for s in snapshots if s.name != wish.snapshot]
    plan.checks.append(check_unlocked(found))
    return plan


def plan_rollback(
    wish: SnapshotWish,
    found: Found,
    snapshots: Sequence[Snapshot],
    then: Mapping[str, Any],
    guards: Guards,
    impact: Impact,
) -> GuestPlan:
    """Go back to the snapshot; ``then`` is the configuration it holds, if it is there."""
    there = _named(snapshots, wish.snapshot)
    guarding = [check_unprotected(found), *guards.checks(found, impact, "rolling back")]
    if there is None:
        names = ", ".join(s.name for s in snapshots) or "none"
        text = f"snapshot {wish.snapshot} of {found.label} does not exist: its snapshots are {names}"
        checks = [check_unlocked(found), Check("snapshot", passed=False, message=text), *guarding]
        return GuestPlan(checks=checks, impact=impact, idle=UNPLANNED)
    again = " and start it again" if found.running and not there.vmstate else ""
    plan = GuestPlan(impact=impact)
    text = f"Take {found.label} back to snapshot {there.name} of {there.taken_at}, which loses all since then{again}"
    plan.actions.append(Action(ROLLBACK, text, {"start": int(found.running)}))
    plan.before, plan.after = config_change(found.config, then)
    plan.checks = [
        check_unlocked(found),
        Check.of(
            "complete",
            passed=not there.unfinished,
            good=f"snapshot {there.name} is complete",
            bad=f"snapshot {there.name} was left half done ({there.unfinished}): choose another one",
        ),
        *guarding,
    ]
    plan.warnings += guards.unknown_impact(found)
    return plan


def has(snapshots: Iterable[Snapshot], name: str) -> bool:
    """Whether there is a snapshot of that name."""
    return _named(snapshots, name) is not None


def config_change(now: Mapping[str, Any], then: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What differs between two configurations, as Proxmox VE writes them: before and after."""
    keys = sorted((now.keys() | then.keys()) - _NOT_ROLLED_BACK)
    differing = [k for k in keys if not k.startswith("unused") and str(now.get(k)) != str(then.get(k))]
    return {k: now.get(k) for k in differing}, {k: then.get(k) for k in differing}


def foretold(wish: SnapshotWish, snapshots: Sequence[Snapshot], plan: GuestPlan) -> list[Snapshot]:
    """The list as it would be, for a check run."""
    kinds = {a.kind for a in plan.actions}
    if TAKE in kinds:
        return [*snapshots, Snapshot(wish.snapshot, wish.description or "", vmstate=bool(wish.vmstate))]
    if REMOVE in kinds:
        return [s for s in snapshots if s.name != wish.snapshot]
    return list(snapshots)


def _plan_take(
    plan: GuestPlan, wish: SnapshotWish, found: Found, snapshots: Sequence[Snapshot], *, supported: bool
) -> None:
    memory = " with its memory" if wish.vmstate and found.running else ""
    data: dict[str, Any] = {"snapname": wish.snapshot, "description": wish.description or None}
    if found.type == QEMU:
        data["vmstate"] = int(bool(wish.vmstate))
    plan.actions.append(Action(TAKE, f"Take snapshot {wish.snapshot} of {found.label}{memory}", data))
    plan.before["snapshots"] = [s.name for s in snapshots]
    plan.after["snapshots"] = [*plan.before["snapshots"], wish.snapshot]
    plan.checks = [
        check_unlocked(found),
        Check.of(
            "template",
            passed=not found.template,
            good=f"{found.label} is not a template",
            bad=f"{found.label} is a template, which never changes: take snapshots of its clones",
        ),
        Check.of(
            "storage",
            passed=supported,
            good=f"every disk of {found.label} can be snapshot",
            bad=f"a disk of {found.label} can not be snapshot where it is: move it to a storage that can (LVM-thin,"
            " ZFS, Ceph), or make a backup with nhi_vm_backup",
        ),
    ]


def _named(snapshots: Iterable[Snapshot], name: str) -> Snapshot | None:
    return next((s for s in snapshots if s.name == name), None)


def _snapshot(row: Mapping[str, Any]) -> Snapshot:
    taken = row.get("snaptime")
    return Snapshot(
        name=str(row["name"]),
        description=str(row.get("description") or "").strip(),
        taken_at=datetime.fromtimestamp(int(taken), UTC).isoformat() if taken else None,
        parent=row.get("parent") or None,
        vmstate=flag(row.get("vmstate")),
        unfinished=row.get("snapstate") or None,
    )
