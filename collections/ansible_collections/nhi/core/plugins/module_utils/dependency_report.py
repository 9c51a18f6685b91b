# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person or a program wants to know of a service before touching it: everything about its dependencies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from .graph import DependencyGraph
from .graph_places import Place, discrepancies, places, running_guests
from .impact import Impact, assess, downtimes
from .restart_history import Estimate


def dependency_report(
    graph: DependencyGraph,
    document: Mapping[str, Any] | None,
    names: Sequence[str],
    estimates: Mapping[str, Estimate],
    now: datetime | None = None,
) -> dict[str, Any]:
    """The whole graph, and for the named services what their restart means; GraphError names an unknown one."""
    found = places(graph, document)
    report: dict[str, Any] = {
        "services": [_entry(graph, name, found[name]) for name in sorted(graph.services)],
        "start_order": list(graph.start_order(graph.services)),
        "time_zone": graph.zone.key,
        "warnings": discrepancies(graph, document),
        "restart": None,
    }
    if names:
        own = {name: estimates.get(name, Estimate()) for name in graph.start_order(names)}
        seconds = sum(e.longest_seconds or 0 for e in own.values())
        impact = assess(graph, names, running_guests(document), now, seconds)
        report["restart"] = _restart(graph, impact, own)
    return report


def _restart(graph: DependencyGraph, impact: Impact, own: Mapping[str, Estimate]) -> dict[str, Any]:
    away = downtimes(graph, {name: estimate.seconds for name, estimate in own.items()})
    facts = impact.as_dict()
    for dependent in facts["dependents"]:
        dependent["downtime_seconds"] = away[dependent["name"]]
    # Everything that stops, not only what depends on the services.
    stop = list(graph.stop_order([*impact.services, *impact.stop_order]))
    known = [e.seconds for e in own.values() if e.seconds is not None]
    return {
        **facts,
        "stop_order": stop,
        "start_order": stop[::-1],
        "downtime": {name: estimate.as_dict() for name, estimate in own.items()},
        "duration_seconds": round(sum(known), 2) if len(known) == len(own) else None,
        "needs_approval": [n for n in impact.services if not graph.services[n].can_restart_without_approval],
        "summary": [*impact.sentences(), *(f"Downtime of {name}: {estimate}." for name, estimate in own.items())],
    }


def _entry(graph: DependencyGraph, name: str, place: Place) -> dict[str, Any]:
    service = graph.services[name]
    return {
        "name": name,
        "description": service.description,
        "criticality": service.criticality,
        "depends_on": [{"service": n.service, "port": n.port, "use": n.use} for n in service.needs],
        "required_by": list(graph.required_by(name)),
        "can_restart_without_approval": service.can_restart_without_approval,
        "safe_hours": str(service.safe_hours),
        "unit": service.unit,
        "guest": place.guest,
        "vmid": place.vmid,
        "health": place.health,
    }


def named(services: Iterable[str]) -> list[str]:
    """Names as people write them, ``redis,nginx`` or one each, without repetition."""
    return list(dict.fromkeys(name for text in services for name in (part.strip() for part in text.split(",")) if name))
