# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Room for a guest that is there: when it starts, or is given more than it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .guest import CONFIGURE, RESIZE, START, Check, Found, GuestPlan
from .guest_capacity import Overcommit, check_cpu, check_memory
from .guest_config import memory_mib, root_disk
from .guest_reader import Api, Cluster, storages
from .guest_room import read_spaces, room_on


def check_growth(api: Api, cluster: Cluster, found: Found, plan: GuestPlan, limits: Overcommit) -> list[Check]:
    """Checks of the node and of the storage, for what the plan adds to them."""
    will = {**found.config, **next((a.data for a in plan.actions if a.kind == CONFIGURE), {})}
    starts = any(a.kind == START for a in plan.actions) and not found.running
    checks: list[Check] = []
    if starts or (found.running and memory_mib(will) > memory_mib(found.config)):
        checks.append(check_memory(cluster.rows, found.node, memory_mib(will), limits.memory, but=found.vmid))
    if starts or (found.running and _cores(will) > _cores(found.config)):
        checks.append(check_cpu(cluster.rows, found.node, _cores(will), limits.cpu, but=found.vmid))
    for action in plan.actions:
        if action.kind == RESIZE:
            checks.append(_check_disk(api, found, action.data, limits))
    return checks


def _check_disk(api: Api, found: Found, data: Mapping[str, Any], limits: Overcommit) -> Check:
    storage = str(found.config.get(data["disk"]) or "").partition(":")[0]
    name, present = root_disk(found.config, found.type)
    more = float(str(data["size"]).removesuffix("G")) - (present if name == data["disk"] and present else 0.0)
    (space,) = read_spaces(api, storages(api, found.node), found.node, [storage])
    return room_on(space, found.node, more, limits)


def _cores(config: Mapping[str, Any]) -> int:
    return int(config.get("cores") or 1)
