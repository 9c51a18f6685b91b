# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The doctor's questions to Proxmox VE: is it there, whose token is this, do the clocks agree, is a guest stuck."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from .doctor import FAIL, OK, WARN, Finding
from .errors import NotFoundError, PermissionDeniedError, ProxmoxError
from .guest_locks import LockedGuest, judge_locks, nodes_of
from .guest_reader import Api, Cluster, guest_path, read_cluster

# What is beyond a second of rounding and the way there and back; and what plans and approvals suffer from.
_SKEW_WARN_SECONDS, _SKEW_FAIL_SECONDS = 3.0, 60.0


def look_at_api(api: Api, who: str, clock: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Findings about the API; ``who`` names token and server."""
    try:
        version = api.get("/version")
        cluster = read_cluster(api)
    except ProxmoxError as e:
        yield Finding("api", FAIL, f"{who} gets no answer that can be used", str(e))
        return
    guests = len(cluster.guests)
    yield Finding("api", OK, f"Proxmox VE {version.get('version', '?')} answers {who}, who sees {guests} guests")
    nodes = sorted(str(row["node"]) for row in cluster.rows if row.get("type") == "node")
    away = [str(r["node"]) for r in cluster.rows if r.get("type") == "node" and r.get("status") == "offline"]
    if away:
        yield Finding("nodes", FAIL, f"{', '.join(away)} is offline", "look at it, and at the network to it")
    yield from (_clock(api, node, clock) for node in nodes if node not in away)
    yield from judge_locks(_locked(api, cluster), clock())


def _clock(api: Api, node: str, clock: Callable[[], float]) -> Finding:
    check = f"clock of {node}"
    before = clock()
    try:
        there = float(api.get(("nodes", node, "time"))["time"])
    except PermissionDeniedError:
        return Finding(check, WARN, "it can not be asked", f"give the token Sys.Audit on /nodes/{node}")
    except (ProxmoxError, KeyError, TypeError, ValueError) as e:
        return Finding(check, WARN, f"it can not be asked ({e})", "look at the node")
    after = clock()
    # Its seconds are whole: it may be up to one more.
    skew = max(before - there - 1, there - after, 0.0)
    if skew <= _SKEW_WARN_SECONDS:
        return Finding(check, OK, "it agrees with the clock here")
    verdict = FAIL if skew > _SKEW_FAIL_SECONDS else WARN
    return Finding(check, verdict, f"it differs by {skew:.0f} s from the clock here", "run chrony or NTP on both")


def _locked(api: Api, cluster: Cluster) -> list[LockedGuest]:
    guests = [
        LockedGuest(
            int(row["vmid"]), str(row.get("name") or row["vmid"]), str(row["type"]), str(row["node"]), str(row["lock"])
        )
        for row in cluster.guests
        if row.get("lock")
    ]
    tasks = {node: _tasks(api, node) for node in nodes_of(guests)}
    seen = {node: _sees_all(api, node) for node in tasks}
    found = (replace(guest, tasks=tasks[guest.node], all_seen=seen[guest.node]) for guest in guests)
    # A task that ended just before the list was made has taken its lock away by now.
    return [guest for guest in found if guest.holders or _is_locked_still(api, guest)]


def _is_locked_still(api: Api, guest: LockedGuest) -> bool:
    try:
        status = api.get(guest_path(guest.type, guest.node, guest.vmid, "status", "current"))
    except NotFoundError:
        return False
    except ProxmoxError:
        return True
    return bool(status.get("lock"))


def _tasks(api: Api, node: str) -> tuple[Mapping[str, Any], ...] | None:
    try:
        return tuple(api.get(("nodes", node, "tasks"), {"source": "active", "limit": 1000}))
    except ProxmoxError:
        return None


def _sees_all(api: Api, node: str) -> bool:
    path = f"/nodes/{node}"
    try:
        return "Sys.Audit" in (api.get("/access/permissions", {"path": path}).get(path) or ())
    except ProxmoxError:
        return False
