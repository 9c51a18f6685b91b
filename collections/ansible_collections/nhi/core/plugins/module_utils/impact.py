# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stops working when services stop, in which order to stop and start, and when that disturbs nobody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from .graph import CRITICALITIES, DependencyGraph
from .safe_hours import SafeHours, Window, window_facts, window_words


@dataclass(frozen=True)
class Outlook:
    """When a set of services may be disturbed: hours on a clock, and the next window from a moment on."""

    hours: SafeHours
    window: Window | None
    zone: ZoneInfo
    at: datetime
    # Whose hours leave others out.
    limited_by: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        """Whether now is a good time."""
        return self.window is not None and self.window.start <= self.at

    def __str__(self) -> str:
        return window_words(self.window, self.at, self.zone)

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        facts = window_facts(self.window, self.at, self.zone)
        return {**facts, "hours": str(self.hours), "limited_by": list(self.limited_by)}


@dataclass(frozen=True)
class Impact:
    """What services that stop take with them, in the order to stop it."""

    services: tuple[str, ...] = ()
    dependents: tuple[Mapping[str, Any], ...] = ()
    critical: tuple[str, ...] = ()  # of the services themselves
    outlook: Outlook | None = None

    @property
    def active(self) -> tuple[str, ...]:
        """Dependents that run, or of which nobody knows that they do not."""
        return tuple(d["name"] for d in self.dependents if d["active"])

    @property
    def stop_order(self) -> tuple[str, ...]:
        """The dependents, each before what it needs."""
        return tuple(d["name"] for d in self.dependents)

    @property
    def criticality(self) -> str | None:
        """Of the most important dependent; None where there is none."""
        worst = max((CRITICALITIES.index(d["criticality"]) for d in self.dependents), default=None)
        return None if worst is None else CRITICALITIES[worst]

    def as_dict(self) -> dict[str, Any]:
        """For the result of a module."""
        return {
            "services": list(self.services),
            "critical_services": list(self.critical),
            "dependents": [dict(d) for d in self.dependents],
            "stop_order": list(self.stop_order),
            "start_order": list(reversed(self.stop_order)),
            "criticality": self.criticality,
            "safe_window": self.outlook.as_dict() if self.outlook else None,
        }

    def sentences(self, *, window: bool = True) -> list[str]:
        """For a person; without the window where it was told already."""
        lines = [
            f"{d['name']} ({d['criticality']}) would stop working: it needs {d['through']}." for d in self.dependents
        ]
        if len(self.dependents) > 1:
            lines.append(f"Stop first {' -> '.join(self.stop_order)}, and start in the opposite order afterwards.")
        if window and self.outlook and not self.outlook.hours.always:
            lines.append(f"Next safe window: {self.outlook}, by the hours of {', '.join(self.outlook.limited_by)}.")
        return lines


def assess(
    graph: DependencyGraph,
    services: Iterable[str],
    running: Mapping[str, bool],
    now: datetime | None = None,
    seconds: float = 0,
) -> Impact:
    """What depends on services. ``running`` has every known guest by name; GraphError names an unknown service.

    The outlook is for work of that many seconds.
    """
    names = graph.start_order(services)
    dependents = []
    for dependent in graph.dependents(names):
        service = dependent.service
        carrier = service.guest or (service.name if service.name in running else None)
        dependents.append(
            {
                "name": service.name,
                "criticality": service.criticality,
                "through": dependent.through,
                "guest": carrier,
                # A service nobody placed on a guest can not be seen: unknown is never "not running".
                "active": True if carrier is None else running.get(carrier, False),
            }
        )
    touched = [*names, *(str(d["name"]) for d in dependents)]
    critical = tuple(n for n in names if graph.services[n].criticality == "critical")
    return Impact(names, tuple(dependents), critical, outlook(graph, touched, now, seconds) if touched else None)


def outlook(graph: DependencyGraph, names: Iterable[str], now: datetime | None = None, seconds: float = 0) -> Outlook:
    """When all of these services may be disturbed for that many seconds; the hours of each count."""
    names, now = tuple(names), now or datetime.now(UTC)
    hours = graph.safe_hours(names)
    limiting = tuple(sorted(n for n in names if not graph.services[n].safe_hours.always))
    return Outlook(hours, hours.next_window(now, graph.zone, seconds), graph.zone, now, limiting)


def downtimes(graph: DependencyGraph, restarted: Mapping[str, float | None]) -> dict[str, float | None]:
    """How long each service is away when some are restarted one after the other, each for so many seconds.

    A dependent is away as long as anything is that it needs, directly or not; None where somebody's time is unknown.
    """
    lost: dict[str, set[str]] = {}
    for name in graph.start_order(graph.services):
        lost[name] = {name} if name in restarted else set()
        for needed in graph.services[name].depends_on:
            lost[name] |= lost[needed]
    return {name: _sum(restarted[other] for other in sorted(others)) for name, others in lost.items() if others}


def _sum(seconds: Iterable[float | None]) -> float | None:
    total = 0.0
    for one in seconds:
        if one is None:
            return None
        total += one
    return round(total, 2)
