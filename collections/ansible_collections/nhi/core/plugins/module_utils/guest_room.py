# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Room on a node and its storages for one more guest, beside those that are there and those that are being made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .guest import Check
from .guest_capacity import Ask, Asked, Overcommit, check_cpu, check_disk, check_memory, is_thin
from .guest_config import flag
from .guest_reader import Api, disks_on
from .guest_spec import KINDS, LXC

Row = Mapping[str, Any]
_MIB, _GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Space:
    """A storage as its node shows it, with the disks on it: bytes by the VMID of their guest."""

    row: Row
    disks: Mapping[int, int]


@dataclass(frozen=True)
class Room:
    """What was read of a node for a guest; without ``limits`` nothing is judged."""

    ask: Ask
    rows: Sequence[Row] = ()
    spaces: Sequence[Space] = ()
    limits: Overcommit | None = None

    def checks(self, asked: Mapping[int, Asked]) -> list[Check]:
        """Whether there is room for the guest beside ``asked``, which has the others by VMID."""
        limits, ask = self.limits, self.ask
        if limits is None:
            return []
        others = {vmid: other for vmid, other in asked.items() if other.ask.node == ask.node}
        rows = _with_asked(self.rows, ask.node, others)
        unseen = {vmid: other for vmid, other in others.items() if other.ask.runs and not self._shows(vmid, other.ask)}
        checks = [
            _counting(check_memory(rows, ask.node, ask.memory_mib, limits.memory), unseen),
            _counting(check_cpu(rows, ask.node, ask.cores, limits.cpu), unseen),
        ]
        return checks + [room_on(space, ask.node, ask.disks_gib[_name(space)], limits, asked) for space in self.spaces]

    def _shows(self, vmid: int, ask: Ask) -> bool:
        """Whether the cluster showed a guest that another run makes with all it takes."""
        row = next((r for r in self.rows if r.get("type") in KINDS and r.get("vmid") == vmid), {})
        return row.get("status") == "running" and int(row.get("maxmem") or 0) >= ask.memory_mib * _MIB


def room_on(space: Space, node: str, gib: float, limits: Overcommit, asked: Mapping[int, Asked] | None = None) -> Check:
    """Whether a storage of the node has room for so much more; disks of ``asked`` that are not there yet count."""
    name, row = _name(space), dict(space.row)
    shared = flag(row.get("shared"))
    to_come = {
        vmid: other
        for vmid, other in (asked or {}).items()
        if name in other.ask.disks_gib and vmid not in space.disks and (shared or other.ask.node == node)
    }
    more = round(sum(other.ask.disks_gib[name] for other in to_come.values()) * _GIB)
    promised = sum(space.disks.values())
    if is_thin(row) and row.get("total"):
        promised += more
    elif row.get("avail") is not None:
        row["avail"] = int(row["avail"]) - more
    return _counting(check_disk(row, node, gib, promised, limits.disk), to_come)


def read_spaces(api: Api, rows: Iterable[Row], node: str, names: Iterable[str]) -> list[Space]:
    """Storages of the node as they are now."""
    by_name = {str(r.get("storage")): r for r in rows}
    return [Space(by_name.get(name, {"storage": name}), disks_on(api, node, name)) for name in names]


def _name(space: Space) -> str:
    return str(space.row["storage"])


def _with_asked(rows: Iterable[Row], node: str, asked: Mapping[int, Asked]) -> list[Row]:
    """The rows as they will be; what the cluster says of a guest that is being made may come late."""
    found: list[Row] = []
    guests: dict[int, Row] = {}
    for row in rows:
        vmid = row.get("vmid")
        if row.get("type") in KINDS and vmid in asked:
            guests[int(str(vmid))] = row
        else:
            found.append(row)
    for vmid, other in asked.items():
        row = guests.get(vmid, {"type": LXC, "vmid": vmid})
        memory = max(int(row.get("maxmem") or 0), other.ask.memory_mib * _MIB)
        cores = max(int(row.get("maxcpu") or 0), other.ask.cores)
        status = "running" if other.ask.runs or row.get("status") == "running" else "stopped"
        found.append({**row, "node": node, "status": status, "maxmem": memory, "maxcpu": cores})
    return found


def _counting(check: Check, others: Mapping[int, Asked]) -> Check:
    """A refusal that says which guests count although nobody can see them yet."""
    if check.passed or not others:
        return check
    names = ", ".join(f"{vmid} {other.name}" for vmid, other in sorted(others.items()))
    return replace(check, message=f"{check.message} (this counts guests that other runs are making now: {names})")
