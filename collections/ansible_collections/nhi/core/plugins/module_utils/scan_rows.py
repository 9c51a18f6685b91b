# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of ``/cluster/resources`` as facts of a state document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .proxmox_rows import with_numbers

Row = Mapping[str, Any]
Fact = dict[str, Any]

SOURCE = "api:/cluster/resources"
_MIB = 1024 * 1024
_GIB = 1024 * _MIB
_TAG_SEPARATORS = re.compile(r"[;,\s]+")


@dataclass
class Resources:
    """One answer of ``/cluster/resources``, sorted by what the rows are."""

    nodes: dict[str, Row] = field(default_factory=dict)
    guests: dict[int, Row] = field(default_factory=dict)
    storage: dict[str, Row] = field(default_factory=dict)


def sort_rows(rows: Iterable[Row]) -> Resources:
    """Nodes by name, guests by VMID, storage by id; other kinds (sdn, pool, network) are passed over."""
    found = Resources()
    for row in map(with_numbers, rows):
        kind = row.get("type")
        if kind == "node" and row.get("node"):
            found.nodes[str(row["node"])] = row
        elif kind in ("lxc", "qemu") and row.get("vmid") and row.get("node"):
            found.guests[int(row["vmid"])] = row
        elif kind == "storage" and row.get("id"):
            found.storage[str(row["id"])] = row
    return found


def node_fact(name: str, row: Row, observed_at: str) -> Fact:
    """A node; its numbers are None where the token may not see them or the node is offline."""
    status = row.get("status")
    return {
        "name": name,
        "status": status if status in ("online", "offline") else "unknown",
        "cpu_cores": _whole(row.get("maxcpu")),
        "cpu_usage": _fraction(row.get("cpu")),
        "memory_total_mib": _mib(row.get("maxmem")),
        "memory_used_mib": _mib(row.get("mem")),
        "disk_total_mib": _mib(row.get("maxdisk")),
        "disk_used_mib": _mib(row.get("disk")),
        "uptime_seconds": _whole(row.get("uptime")),
        "observed_at": observed_at,
        "source": SOURCE,
        "freshness": "fresh",
    }


def storage_fact(identity: str, row: Row, observed_at: str) -> Fact:
    """A storage as one node sees it."""
    content = str(row.get("content") or "")
    return {
        "id": identity,
        "name": str(row.get("storage") or identity.rpartition("/")[2]),
        "node": row.get("node"),
        "type": row.get("plugintype"),
        "status": str(row.get("status") or "unknown"),
        "content": sorted(item for item in content.split(",") if item),
        "shared": bool(_whole(row.get("shared"))),
        "total_mib": _mib(row.get("maxdisk")),
        "used_mib": _mib(row.get("disk")),
        "observed_at": observed_at,
        "source": SOURCE,
        "freshness": "fresh",
    }


def guest_fact(vmid: int, row: Row, observed_at: str) -> Fact:
    """What the row alone tells of a guest; its configuration and addresses are filled in by others."""
    running = row.get("status") == "running"
    return {
        "vmid": vmid,
        "name": guest_name(vmid, row),
        "type": str(row["type"]),
        "node": str(row["node"]),
        "status": str(row.get("status") or "unknown"),
        "template": bool(_whole(row.get("template"))),
        "tags": tag_list(row.get("tags")),
        "pool": row.get("pool") or None,
        "lock": row.get("lock") or None,
        "protection": None,
        "cores": row.get("maxcpu"),
        "memory_mib": _mib(row.get("maxmem")),
        "disk_mib": _mib(row.get("maxdisk")),
        "uptime_seconds": _whole(row.get("uptime")) if running else None,
        "cpu_usage": _fraction(row.get("cpu")) if running else None,
        "memory_used_mib": _mib(row.get("mem")) if running else None,
        "config_digest": None,
        "created_at": None,
        "description": None,
        "addresses": [],
        "address": None,
        "health": "unknown",
        "observed_at": observed_at,
        "source": SOURCE,
        "freshness": "fresh",
    }


def guest_name(vmid: int, row: Row) -> str:
    """The guest's name; one without is called as Proxmox VE would, and as an inventory can."""
    return str(row.get("name") or f"{'CT' if row.get('type') == 'lxc' else 'VM'}{vmid}")


def tag_list(text: Any) -> list[str]:
    """The tags of a row or configuration, sorted."""
    return sorted({tag for tag in _TAG_SEPARATORS.split(str(text or "").lower()) if tag})


def is_vague(row: Row) -> bool:
    """Whether the row lags behind a new guest: no status or no name yet (up to 10 s, 300 s on a quiet node)."""
    return row.get("status") in (None, "", "unknown") or not row.get("name")


def row_signature(row: Row) -> list[Any]:
    """What changes in a row when the configuration changed in a way that the row can show."""
    return [
        row.get("type"),
        row.get("node"),
        row.get("name"),
        row.get("tags") or "",
        row.get("lock") or "",
        _whole(row.get("template")) or 0,
        row.get("maxcpu"),
        row.get("maxmem"),
        _whole(row["maxdisk"] / _GIB) if row.get("maxdisk") else None,
    ]


def guest_activity(tasks: Iterable[Row], now: float) -> dict[int, float]:
    """When a task last touched each guest, of the tasks that the token may see; one that still runs does it now."""
    activity: dict[int, float] = {}
    for task in tasks:
        if str(task.get("id", "")).isdigit():
            vmid, ended = int(task["id"]), float(task.get("endtime") or now)
            activity[vmid] = max(ended, activity.get(vmid, 0.0))
    return activity


def _whole(value: Any) -> int | None:
    try:
        return max(0, int(value))
    except (TypeError, ValueError):
        return None


def _mib(value: Any) -> int | None:
    number = _whole(value)
    return None if number is None else number // _MIB


def _fraction(value: Any) -> float | None:
    return round(max(0.0, float(value)), 4) if isinstance(value, (int, float)) else None
