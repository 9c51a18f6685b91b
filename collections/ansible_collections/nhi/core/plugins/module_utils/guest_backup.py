# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of guests: a wish against what lies on a storage, as a plan."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from .errors import PreflightError
from .guest import UNPLANNED, Action, Check, Found, GuestPlan
from .guest_archive import Archive
from .guest_checks import check_unlocked
from .guest_config import flag
from .guest_guards import GuestName
from .guest_spec import KINDS, LXC, QEMU, guest_name

BACK_UP, REMOVE = "backup", "remove_backup"
COMPRESSIONS = {"zstd": "zstd", "lzo": "lzo", "gzip": "gzip", "none": "0"}
KEEP = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_KINDS = {"lxc": LXC, "ct": LXC, "qemu": QEMU, "vm": QEMU}
_KIND = re.compile(r":backup/(?:vzdump-(lxc|qemu)-|(ct|vm)/)")


@dataclass(frozen=True)
class BackupWish:
    """A backup as the operator asked for it."""

    guest: GuestName
    storage: str | None = None
    mode: str = "snapshot"
    compress: str = "zstd"
    notes: str | None = None
    protected: bool = False
    keep: Mapping[str, int] = field(default_factory=dict)
    max_age: timedelta | None = None


@dataclass(frozen=True)
class Backup:
    """A backup that lies on a storage. ``broken`` is what its last verification said, if that was bad."""

    volid: str
    vmid: int
    type: str
    taken_at: datetime
    size: int = 0
    notes: str = ""
    protected: bool = False
    broken: bool = False

    @property
    def storage(self) -> str:
        """The storage it lies on."""
        return self.volid.partition(":")[0]

    def as_dict(self) -> dict[str, Any]:
        """For the result of a module."""
        return {
            "volid": self.volid,
            "storage": self.storage,
            "vmid": self.vmid,
            "type": self.type,
            "taken_at": self.taken_at.isoformat(),
            "size": self.size,
            "notes": self.notes,
            "protected": self.protected,
        }


def wish_from_params(params: Mapping[str, Any]) -> BackupWish:
    """The options of nhi_vm_backup for a new backup; PreflightError names the first that can not be meant."""
    keep = {k: v for k, v in (params.get("keep") or {}).items() if v is not None}
    age = params.get("max_age")
    for option, number in (("max_age", age), *((f"keep.{k}", v) for k, v in keep.items())):
        if number is not None and number < 1:
            raise PreflightError(f"{option} {number} is too small: the least is 1")
    return BackupWish(
        guest=guest_from_params(params),
        storage=params.get("storage"),
        mode=params["mode"],
        compress=params["compress"],
        notes=params.get("notes"),
        protected=params["protected"],
        keep=keep,
        max_age=None if age is None else timedelta(seconds=age),
    )


def guest_from_params(params: Mapping[str, Any]) -> GuestName:
    """Which guest is meant."""
    return GuestName(guest_name(params["name"]), params.get("vmid"))


def backups_of(rows: Iterable[Mapping[str, Any]]) -> list[Backup]:
    """The backups of guests in a listing, newest first."""
    found = [b for b in map(_backup, rows) if b is not None]
    return sorted(found, key=lambda b: (b.taken_at, b.volid), reverse=True)


def young_enough(wish: BackupWish, found: Found, backups: Iterable[Backup], now: datetime) -> list[Backup]:
    """The backups that may make a new one needless, newest first; a VMID may have belonged to another guest."""
    if wish.max_age is None:
        return []
    return [b for b in backups if b.type == found.type and not b.broken and b.taken_at >= now - wish.max_age]


def plan_present(wish: BackupWish, found: Found, storage: str | None) -> GuestPlan:
    """Make a backup now; without a storage there is nothing to do but to say what else is wrong."""
    plan = GuestPlan(checks=[check_unlocked(found)])
    if storage is None:
        plan.idle = UNPLANNED
        return plan
    mode = {"snapshot": "while it runs", "suspend": "suspended meanwhile", "stop": "stopped meanwhile"}[wish.mode]
    how = f", {mode}" if found.running else ""
    plan.actions.append(Action(BACK_UP, f"Back up {found.label} to {storage}{how}", _parameters(wish, found, storage)))
    if wish.keep:
        kept = ", ".join(f"{k} {v}" for k, v in wish.keep.items())
        plan.warnings.append(
            f"Older backups of VMID {found.vmid} on {storage} that are not to be kept ({kept}) will be gone."
        )
    return plan


def plan_absent(name: str, backup: Backup, archive: Archive, backups: Sequence[Backup]) -> GuestPlan:
    """Remove one backup of the guest of that name."""
    plan = GuestPlan(before=backup.as_dict())
    plan.actions.append(Action(REMOVE, f"Remove {backup.volid}, a backup of {archive.name} from {backup.taken_at}"))
    plan.checks = [
        check_archive_is_of(name, backup, archive),
        Check.of(
            "protection",
            passed=not backup.protected,
            good=f"{backup.volid} is not protected",
            bad=f"{backup.volid} is protected: if it may really go, take its protection away in Proxmox VE first",
        ),
    ]
    if len(backups) < 2:
        plan.warnings.append(f"{backup.volid} is the last backup of {name} on {backup.storage}.")
    return plan


def check_archive_is_of(name: str, backup: Backup, archive: Archive) -> Check:
    """The guest inside the backup bears the name."""
    return Check.of(
        "identity",
        passed=archive.name == name,
        good=f"{backup.volid} is a backup of {name}",
        bad=f"{backup.volid} is a backup of {KINDS[backup.type]} {backup.vmid} {archive.name}, not of {name}:"
        " correct backup or name",
    )


def _parameters(wish: BackupWish, found: Found, storage: str) -> dict[str, Any]:
    """Of ``POST /nodes/NODE/vzdump``, which keeps what the storage's own rules say unless told otherwise."""
    notes = None if wish.notes is None else wish.notes.strip().replace("\\", "\\\\").replace("\n", "\\n")
    return {
        "vmid": found.vmid,
        "storage": storage,
        "mode": wish.mode,
        "compress": COMPRESSIONS[wish.compress],
        "notes-template": notes or None,
        "protected": 1 if wish.protected else None,
        "prune-backups": ",".join(f"keep-{k}={v}" for k, v in wish.keep.items()) or None,
    }


def _backup(row: Mapping[str, Any]) -> Backup | None:
    volid = str(row.get("volid") or "")
    match = _KIND.search(volid)
    kind = row.get("subtype") or (match and (match[1] or match[2]))
    if kind not in _KINDS or not row.get("vmid"):
        return None
    verification = row.get("verification")
    return Backup(
        volid=volid,
        vmid=int(row["vmid"]),
        type=_KINDS[kind],
        taken_at=datetime.fromtimestamp(int(row.get("ctime") or 0), UTC),
        size=int(row.get("size") or 0),
        notes=str(row.get("notes") or "").strip(),
        protected=flag(row.get("protected")),
        broken=isinstance(verification, Mapping) and verification.get("state") == "failed",
    )
