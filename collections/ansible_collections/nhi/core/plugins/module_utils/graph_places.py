# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the services of the dependency graph run, and how they are: the graph and state.json side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .graph import DependencyGraph, Service


@dataclass(frozen=True)
class Place:
    """A service as the last scan saw it; None is what nobody knows."""

    guest: str | None = None
    vmid: int | None = None
    type: str | None = None
    node: str | None = None
    address: str | None = None
    running: bool | None = None
    tags: tuple[str, ...] = ()
    # The service of the catalogue that it is.
    offered: str | None = None
    health: str = "unknown"


def places(graph: DependencyGraph, document: Mapping[str, Any] | None) -> dict[str, Place]:
    """Every service of the graph by name; without a state nothing is known."""
    infrastructure = document["infrastructure"] if document else {"guests": [], "services": []}
    by_name = {g["name"]: g for g in infrastructure["guests"]}
    by_vmid = {g["vmid"]: g for g in infrastructure["guests"]}
    offered: dict[str, list[Mapping[str, Any]]] = {}
    for service in infrastructure["services"]:
        offered.setdefault(service["guest"], []).append(service)
    found = {}
    for name, service in graph.services.items():
        guest = by_vmid.get(service.vmid) if service.vmid else by_name.get(service.guest or name)
        found[name] = _place(graph, service, guest, offered) if guest else Place(service.guest, service.vmid)
    return found


def running_guests(document: Mapping[str, Any] | None) -> dict[str, bool]:
    """Whether each guest runs, by name."""
    guests = document["infrastructure"]["guests"] if document else []
    return {g["name"]: g["status"] == "running" for g in guests}


def discrepancies(graph: DependencyGraph, document: Mapping[str, Any] | None) -> list[str]:
    """Services that are on no guest of the lab, and guests of which no service is known, in sentences."""
    if document is None:
        return ["There is no state of the lab yet, so nothing is known of where services run: scan it."]
    return [*_missing(graph, document), *_unknown(graph, document)]


def _missing(graph: DependencyGraph, document: Mapping[str, Any]) -> Iterator[str]:
    guests = document["infrastructure"]["guests"]
    known = {g["name"] for g in guests} | {g["vmid"] for g in guests}
    for name, service in sorted(graph.services.items()):
        where = service.vmid or service.guest
        if where is not None and where not in known:
            yield f"{name} is said to run on {where}, which is no known guest: correct dependency_graph.json, or scan."


def _unknown(graph: DependencyGraph, document: Mapping[str, Any]) -> Iterator[str]:
    for guest in document["infrastructure"]["guests"]:
        if not guest["template"] and not graph.services_on(guest["name"], guest["vmid"]):
            yield f"Guest {guest['name']} is not in the dependency graph, so nobody knows what needs it: add it."


def _place(
    graph: DependencyGraph,
    service: Service,
    guest: Mapping[str, Any],
    offered: Mapping[str, list[Mapping[str, Any]]],
) -> Place:
    there = graph.services_on(guest["name"], guest["vmid"])
    alone = there == (service.name,)
    candidates = [
        c for c in offered.get(guest["name"], []) if c["service"] not in there or c["service"] == service.name
    ]
    own = _own(service, guest, candidates, alone=alone)
    return Place(
        guest["name"], guest["vmid"], guest["type"], guest["node"], guest["address"],
        None if guest["status"] == "unknown" else guest["status"] == "running", tuple(guest["tags"]),
        own["service"] if own else None, _health(guest, own, alone=alone or service.name == guest["name"]),
    )  # fmt: skip


def _own(
    service: Service, guest: Mapping[str, Any], candidates: list[Mapping[str, Any]], *, alone: bool
) -> Mapping[str, Any] | None:
    """Which of the catalogue's services on its guest it is: the one of its name, else the only one that is left."""
    same = [c for c in candidates if c["service"] == service.name]
    if same:
        return same[0]
    return candidates[0] if len(candidates) == 1 and (alone or service.name == guest["name"]) else None


def _health(guest: Mapping[str, Any], own: Mapping[str, Any] | None, *, alone: bool) -> str:
    """What was asked itself; else what its guest says, where that speaks for it. Old news is unknown."""
    if guest["freshness"] != "fresh":
        return "unknown"
    if guest["status"] != "running":
        return "stopped" if guest["status"] == "stopped" else "unknown"
    if own is not None:
        return str(own["health"]) if own["freshness"] == "fresh" else "unknown"
    return str(guest["health"]) if alone else "unknown"
