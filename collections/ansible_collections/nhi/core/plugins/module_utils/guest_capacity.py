# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node may be asked to carry: memory, cores and disk of its guests against what it has, times a limit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import PreflightError
from .guest import Check
from .guest_config import flag
from .guest_spec import KINDS, LXC

Row = Mapping[str, Any]
_MIB, _GIB = 1 << 20, 1 << 30
# Storages where a disk takes room only as it is written to.
_THIN = frozenset({"btrfs", "lvmthin", "rbd", "zfspool"})


@dataclass(frozen=True)
class Overcommit:
    """How many times of what it has a node may promise to its guests; 0 is any number of times."""

    memory: float = 1.5
    cpu: float = 32.0
    disk: float = 2.0

    def __post_init__(self) -> None:
        for what in ("memory", "cpu", "disk"):
            limit: float = getattr(self, what)
            if limit < 0:
                raise PreflightError(
                    f"max_{what}_overcommit {limit:g} is no limit: use a number such as 1.5, or 0 for none"
                )


@dataclass(frozen=True)
class Ask:
    """What a guest that is to be made takes of its node and of its storages (GiB by name)."""

    node: str
    memory_mib: int = 0
    cores: int = 0
    disks_gib: Mapping[str, float] = field(default_factory=dict)
    runs: bool = False  # whether it is started


@dataclass(frozen=True)
class Asked:
    """A guest that another run is making, or made a moment ago, with what it takes."""

    name: str
    ask: Ask


def node_row(rows: Iterable[Row], node: str) -> Row:
    """The row of a node, which is bare where the token may not see its numbers."""
    return next((r for r in rows if r.get("type") == "node" and r.get("node") == node), {})


def check_memory(rows: Iterable[Row], node: str, mib: int, limit: float, *, but: int | None = None) -> Check:
    """Room for ``mib`` of memory beside the guests that run there; the guest ``but`` is the one that is asked for."""
    rows = list(rows)
    total = node_row(rows, node).get("maxmem")
    if not total:
        return _unseen("memory", node)
    promised = sum(int(r.get("maxmem") or 0) for r in _running(rows, node, but)) // _MIB
    has = int(total) // _MIB
    return Check.of(
        "memory",
        passed=not limit or promised + mib <= has * limit,
        good=f"node {node} has {has} MiB of memory, its running guests {promised} MiB, this one {mib} MiB",
        bad=f"{mib} MiB more than the {promised} MiB of the guests that run on {node} is over {limit:g} times its"
        f" {has} MiB of memory: ask for less, stop a guest, choose another node, or raise max_memory_overcommit",
    )


def check_cpu(rows: Iterable[Row], node: str, cores: int, limit: float, *, but: int | None = None) -> Check:
    """The node has as many cores as one guest wants, and room for them beside the guests that run there."""
    rows = list(rows)
    has = int(node_row(rows, node).get("maxcpu") or 0)
    if not has:
        return _unseen("cpu", node)
    if cores > has:
        text = f"{cores} cores are more than the {has} that {node} has: ask for less, or choose another node"
        return Check("cpu", passed=False, message=text)
    promised = sum(_cores(r, has) for r in _running(rows, node, but))
    return Check.of(
        "cpu",
        passed=not limit or promised + cores <= has * limit,
        good=f"node {node} has {has} cores, its running guests {promised}, this one {cores}",
        bad=f"{cores} cores more than the {promised} of the guests that run on {node} are over {limit:g} times its"
        f" {has}: ask for less, stop a guest, choose another node, or raise max_cpu_overcommit",
    )


def is_thin(storage: Row) -> bool:
    """Whether disks on the storage take room only as they are written to."""
    return storage.get("type") in _THIN


def check_disk(storage: Row, node: str, gib: float, promised: int, limit: float) -> Check:
    """Room for ``gib`` more; on thin storage beside the ``promised`` bytes of all disks that lie there."""
    name, free, total = storage.get("storage"), storage.get("avail"), storage.get("total")
    if free is None:
        return Check("disk", passed=True, message=f"storage {name} on {node} does not say how much room it has")
    room = f"storage {name} on {node} has {int(free) / _GIB:.1f} GiB free"
    if not is_thin(storage) or not total:
        return Check.of(
            "disk",
            passed=int(free) >= gib * _GIB,
            good=room,
            bad=f"{room}, the disk needs {gib:.9g} GiB: make room, ask for less, or choose another storage",
        )
    lacking = int(free) < min(gib, 1.0) * _GIB
    promised_gib, has = promised / _GIB, int(total) / _GIB
    over = bool(limit) and promised_gib + gib > has * limit
    why = "" if lacking else f", and with {promised_gib:.1f} GiB promised already {gib:.9g} GiB more would be over"
    why += "" if lacking else f" {limit:g} times its {has:.1f} GiB"
    remedy = "make room, ask for less, or choose another storage"
    return Check.of(
        "disk",
        passed=not lacking and not over,
        good=f"{room} of {has:.1f} GiB, {promised_gib:.1f} GiB are promised already",
        bad=f"{room}{why}: {remedy}{'' if lacking else ', or raise max_disk_overcommit'}",
    )


def _running(rows: Iterable[Row], node: str, but: int | None) -> list[Row]:
    """Guests that run, or of which nobody knows that they do not."""
    guests = [r for r in rows if r.get("type") in KINDS and r.get("node") == node and r.get("vmid") != but]
    return [r for r in guests if r.get("status") != "stopped" and not flag(r.get("template"))]


def _cores(row: Row, has: int) -> int:
    """A container without a limit shows all cores of its node, and was promised none of them."""
    cores = int(row.get("maxcpu") or 1)
    return 1 if row.get("type") == LXC and cores >= has else cores


def _unseen(what: str, node: str) -> Check:
    text = f"this token does not see how much node {node} has (Sys.Audit on /nodes/{node})"
    return Check(what, passed=True, message=f"{text}, so its {what} was not counted")
