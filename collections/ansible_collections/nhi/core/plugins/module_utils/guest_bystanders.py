# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests that took the VMID of one that an operation worked on: they are not to enter the state unseen.

What the state knows of a VMID is what tells a newcomer from the guest that a later plan means. A run that writes the
newcomer down would let the next one through without anybody having looked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .addresses import guest_nics
from .errors import NotFoundError, PermissionDeniedError, ProxmoxError
from .guest_reader import Api, guest_path, vmid_is_free
from .guest_record import MAKE, REPLACE, Target, guests_of
from .guest_spec import LXC, split_marker


@dataclass
class _Worked:
    """A guest as the journal has it: how it was, and every name and MAC address that it may have been given."""

    target: Target
    names: set[str] = field(default_factory=set)
    macs: set[str] = field(default_factory=set)

    def is_same(self, name: str, mark: str | None, macs: set[str]) -> bool:
        """Whether a guest that was just read is this one."""
        if name not in {self.target.name, *self.names} or self.target.mark != mark:
            return False
        return not self.macs or not macs or bool(self.macs & macs)


def own_guests(api: Api, operation: str, entries: Iterable[Mapping[str, Any]]) -> set[int]:
    """VMIDs of the guests that an operation began something with, without those that are another guest's now."""
    entries = list(entries)
    vmids = guests_of(entries)
    worked = {vmid: found for vmid, found in _worked_on(operation, entries).items() if vmid in vmids}
    return vmids - {vmid for vmid, found in worked.items() if _is_another(api, found)}


def _worked_on(operation: str, entries: Iterable[Mapping[str, Any]]) -> dict[int, _Worked]:
    found: dict[int, _Worked] = {}
    replaced: set[int] = set()
    for entry in entries:
        if entry["step"] == MAKE:
            guest = entry["guest"]
            target = Target(guest["kind"], guest["node"], int(guest["vmid"]), guest["name"], operation)
            found[target.vmid] = _Worked(target)
        elif "target" in entry:
            target = Target.parse(entry["target"])
            known = found.setdefault(target.vmid, _Worked(target))
            given = entry.get("set") or {}
            known.macs |= {*target.macs, *_macs(target.kind, given)}
            known.names |= {target.name, *(str(given[key]) for key in ("hostname", "name") if given.get(key))}
            if entry["step"] == REPLACE:
                replaced.add(target.vmid)  # by a backup, whose guest may have borne another name
    return {vmid: guest for vmid, guest in found.items() if vmid not in replaced}


def _is_another(api: Api, worked: _Worked) -> bool:
    """Whether another guest, of whatever kind, has the VMID now; what can not be read is left to the scan."""
    target = worked.target
    try:
        config = api.get(guest_path(target.kind, target.node, target.vmid, "config"))
    except (NotFoundError, PermissionDeniedError):
        return not _is_free(api, target.vmid)
    except ProxmoxError:
        return False
    name = str(config.get("hostname" if target.kind == LXC else "name") or "")
    mark = split_marker(config.get("description"))[1]
    return not worked.is_same(name, mark, _macs(target.kind, config))


def _is_free(api: Api, vmid: int) -> bool:
    try:
        return vmid_is_free(api, vmid)
    except ProxmoxError:
        return True


def _macs(kind: str, config: Mapping[str, Any]) -> set[str]:
    return {nic.mac for nic in guest_nics(kind, config) if nic.mac}
