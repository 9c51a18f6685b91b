# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn the guests of a state document into inventory hosts, without touching Ansible."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ansible_collections.nhi.core.plugins.module_utils.state_document import age_seconds, freshness_at

_NOT_IN_GROUP_NAMES = re.compile(r"[^A-Za-z0-9_]")
# What Ansible takes for a group or for the controller itself.
_RESERVED_NAMES = frozenset({"all", "ungrouped", "localhost", "127.0.0.1", "::1"})
# As Proxmox VE accepts names. Ansible makes the path of a file with variables from a host's name.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")
_COPIED_FACTS = (
    "vmid",
    "type",
    "node",
    "status",
    "health",
    "template",
    "tags",
    "pool",
    "lock",
    "protection",
    "cores",
    "memory_mib",
    "disk_mib",
    "address",
    "observed_at",
)

FIXED_GROUPS = ("nhi_guests", "nhi_stale", "nhi_unknown")
GUEST_GROUPS = ("nhi_lxc", "nhi_qemu")  # the children of nhi_guests


@dataclass(frozen=True, slots=True)
class InventoryHost:
    """One guest as the inventory shows it."""

    name: str
    groups: tuple[str, ...]
    variables: dict[str, Any]


def group_name(*words: str) -> str:
    """Join words to a group name that Ansible accepts and that no guest name can equal (it has an underscore)."""
    return _NOT_IN_GROUP_NAMES.sub("_", "_".join(("nhi", *words)))


def inventory_hosts(
    document: Mapping[str, Any], *, now: datetime, stale_after: int = 0, include_templates: bool = False
) -> Iterator[InventoryHost]:
    """Yield every guest of the state as a host, in the order of their VMIDs.

    A guest whose facts are older than stale_after seconds counts as stale; 0 leaves that to the scan.
    """
    infrastructure = document["infrastructure"]
    guests = [guest for guest in infrastructure["guests"] if include_templates or not guest["template"]]
    services = _services_by_vmid(infrastructure["services"])
    for guest, name in zip(guests, host_names(guests), strict=True):
        freshness = freshness_at(guest, now, stale_after or None)
        age = age_seconds(guest["observed_at"], now)
        offered = services.get(guest["vmid"], [])
        yield InventoryHost(
            name=name,
            groups=tuple(_groups(guest, freshness, offered)),
            variables=_variables(guest, freshness, None if age is None else int(age), offered),
        )


def host_names(guests: Iterable[Mapping[str, Any]]) -> list[str]:
    """Name each guest; where a name is missing, shared or means something to Ansible the VMID is added.

    Where the name could not be that of a guest, its type stands in its place.
    """
    guests = list(guests)
    uses = Counter(guest["name"] for guest in guests)
    taken = {name for name, count in uses.items() if name and count == 1}
    names = []
    for guest in guests:
        name: str = guest["name"] if _PLAIN_NAME.fullmatch(guest["name"] or "") else guest["type"]
        if uses[guest["name"]] > 1 or name != guest["name"] or name.lower() in _RESERVED_NAMES:
            name = f"{name}-{guest['vmid']}"
            while name in taken:
                name = f"{name}-{guest['vmid']}"
            taken.add(name)
        names.append(name)
    return names


def shared_names(guests: Iterable[Mapping[str, Any]]) -> list[str]:
    """Guest names that more than one guest carries, sorted."""
    uses = Counter(guest["name"] for guest in guests if guest["name"])
    return sorted(name for name, count in uses.items() if count > 1)


def _services_by_vmid(services: Iterable[Mapping[str, Any]]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for service in services:
        if service["vmid"] is not None:
            found.setdefault(service["vmid"], []).append(service["service"])
    return found


def _groups(guest: Mapping[str, Any], freshness: str, services: Iterable[str]) -> Iterator[str]:
    yield group_name(guest["type"])
    if guest["node"]:
        yield group_name("node", guest["node"])
    yield group_name("status", guest["status"] or "unknown")
    if guest["template"]:
        yield "nhi_templates"
    if freshness != "fresh":
        yield group_name(freshness)
    if guest["pool"]:
        yield group_name("pool", guest["pool"])
    for tag in guest["tags"]:
        yield group_name("tag", tag)
    for service in services:
        yield group_name("service", service)


def _variables(guest: Mapping[str, Any], freshness: str, age: int | None, services: list[str]) -> dict[str, Any]:
    variables: dict[str, Any] = {f"nhi_{fact}": guest[fact] for fact in _COPIED_FACTS}
    variables["nhi_name"] = guest["name"]
    variables["nhi_addresses"] = [entry["address"] for entry in guest["addresses"]]
    variables["nhi_services"] = services
    variables["nhi_freshness"] = freshness
    variables["nhi_age_seconds"] = age
    if guest["address"]:
        variables["ansible_host"] = guest["address"]
    return variables
