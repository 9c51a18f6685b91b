# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a new guest can go: rows of the API in, one name or a refusal that lists what there is out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .errors import PreflightError
from .guest_config import flag
from .guest_spec import QEMU, Wanted

Row = Mapping[str, Any]
_GIB = 1 << 30


def choose_node(rows: Iterable[Row], wanted: str | None) -> str:
    """The wanted node if it is online, else the online node with the most free memory."""
    nodes = sorted((r for r in rows if r.get("type") == "node"), key=lambda r: str(r["node"]))
    names = ", ".join(f"{r['node']} ({r.get('status', 'unknown')})" for r in nodes) or "none"
    online = [r for r in nodes if r.get("status") == "online"]
    if wanted is not None:
        online = [r for r in online if r["node"] == wanted]
        if not online:
            known = any(r["node"] == wanted for r in nodes)
            raise PreflightError(f"node {wanted} {'is not online' if known else 'does not exist'}: nodes are {names}")
    if not online:
        raise PreflightError(f"no node is online: nodes are {names}")
    return str(max(online, key=lambda r: (r.get("maxmem") or 0) - (r.get("mem") or 0))["node"])


def choose_storage(rows: Iterable[Row], wanted: str | None, content: str, disk_gib: int, node: str) -> str:
    """A storage of the node that takes guest disks and has room; without a wish the one with the most room."""
    rows = [r for r in rows if flag(r.get("enabled", 1))]
    fit = [r for r in rows if content in _content(r) and flag(r.get("active", 1))]
    names = ", ".join(sorted(str(r["storage"]) for r in fit)) or "none that this token may use"
    what = f"storages of {node} for such disks (content {content}): {names}"
    if wanted is not None:
        if not any(r["storage"] == wanted for r in rows):
            raise PreflightError(f"storage {wanted} does not exist on {node} or this token may not use it; {what}")
        fit = [r for r in fit if r["storage"] == wanted]
        if not fit:
            raise PreflightError(f"storage {wanted} on {node} does not take {content} or is not active; {what}")
    if not fit:
        raise PreflightError(
            f"no storage of {node} takes {content}: allow that content on one,"
            " or give this token Datastore.AllocateSpace on it"
        )
    best = max(sorted(fit, key=lambda r: str(r["storage"])), key=lambda r: r.get("avail") or 0)
    if best.get("avail") is not None and best["avail"] < disk_gib * _GIB:
        raise PreflightError(
            f"storage {best['storage']} on {node} has {best['avail'] / _GIB:.1f} GiB free,"
            f" the disk needs {disk_gib} GiB: make room, ask for less, or choose another storage"
        )
    return str(best["storage"])


def choose_template(volumes: Sequence[str], wanted: str | None, node: str) -> str:
    """The volume meant by a volume id, a file name, or a short name such as ``debian-12`` (then the newest)."""
    names = ", ".join(sorted(volumes)) or "none (download one: pveam available, pveam download)"
    if not wanted:
        raise PreflightError(f"a new container needs a template; templates on {node}: {names}")
    if wanted in volumes:
        return wanted
    fit = [v for v in volumes if is_template(v, wanted)]
    if not fit:
        raise PreflightError(f"template {wanted} does not exist on {node}; templates there: {names}")
    return max(fit, key=_version)


def is_template(volume: str, wanted: str) -> bool:
    """Whether a template can be meant by a volume id, a file name, or a short name."""
    if ":" in wanted:
        return volume == wanted
    return _file(volume) == wanted or bool(re.match(re.escape(wanted) + r"[-_.]", _file(volume)))


def choose_clone_source(rows: Iterable[Row], wanted: Wanted) -> Row:
    """The guest to clone, by name or VMID; the option ``template`` means a VM template only."""
    wish = str(wanted.source)
    if wanted.clone is None:
        rows = [r for r in rows if r.get("type") == QEMU and flag(r.get("template"))]
        what, option = "a VM template that this token can see; templates", "template"
    else:
        rows, what, option = list(rows), "a guest that this token can see; guests", "clone"
    fit = [r for r in rows if wish in (str(r["vmid"]), r.get("name"))]
    names = ", ".join(f"{r.get('name') or '(no name yet)'} ({r['vmid']} on {r['node']})" for r in rows) or "none"
    if not fit:
        raise PreflightError(f"{option} {wish} is not {what}: {names}")
    if len(fit) > 1:
        raise PreflightError(f"{option} {wish} is ambiguous: give the VMID of one of {names}")
    return fit[0]


def check_bridge(rows: Iterable[Row], bridge: str, node: str) -> str:
    """Refuse a bridge that the node does not have: Proxmox VE finds out only at the first start."""
    names = sorted(str(r["iface"]) for r in rows if r.get("iface"))
    if bridge not in names:
        raise PreflightError(
            f"bridge {bridge} does not exist on {node} or this token may not use it (SDN.Use);"
            f" bridges: {', '.join(names) or 'none'}"
        )
    return bridge


def check_pool(rows: Iterable[Row], pool: str) -> str:
    """Refuse a pool that does not exist."""
    names = sorted(str(r["poolid"]) for r in rows if r.get("poolid"))
    if pool not in names:
        raise PreflightError(
            f"pool {pool} does not exist or this token can not see it (Pool.Audit on /pool/{pool});"
            f" pools: {', '.join(names) or 'none'}"
        )
    return pool


def _content(row: Row) -> list[str]:
    return str(row.get("content") or "").split(",")


def _file(volume: str) -> str:
    return volume.rpartition("/")[2]


def _version(volume: str) -> tuple[tuple[int, str], ...]:
    """A key that puts 12.7-1 after 12.2-1 and 9 before 12."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", _file(volume)))
