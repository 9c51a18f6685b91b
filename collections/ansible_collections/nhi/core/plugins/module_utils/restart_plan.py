# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restart of services would do: steps in order, what speaks against it, and whether now is the time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .catalogue import CatalogueEntry, Health, ServiceEndpoint
from .graph import DependencyGraph
from .graph_places import Place, places, running_guests
from .guest import Check
from .impact import Impact, Outlook, assess
from .restart_history import Estimate

UNIT, GUEST = "unit", "guest"
RESTART, SCHEDULE = "restart", "schedule"
_TCP_SECONDS = 2.0


@dataclass(frozen=True)
class RestartWish:
    """What was asked for."""

    services: tuple[str, ...]
    # Services whose restart somebody stands for by name.
    confirm: frozenset[str] = frozenset()
    # Now, whatever the hour.
    at_once: bool = False
    # Each with its guest, also where only a unit would have to be.
    whole_guests: bool = False

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> RestartWish:
        """As ``as_dict`` wrote it."""
        return cls(
            tuple(data["services"]), frozenset(data["confirm"]), bool(data["at_once"]), bool(data["whole_guests"])
        )

    def as_dict(self) -> dict[str, Any]:
        """For storing."""
        return {**self.as_request(), "confirm": sorted(self.confirm)}

    def as_request(self) -> dict[str, Any]:
        """What a plan is bound to; who stands for it is another matter."""
        return {"services": sorted(self.services), "at_once": self.at_once, "whole_guests": self.whole_guests}


@dataclass(frozen=True)
class Surroundings:
    """What is known while planning."""

    graph: DependencyGraph
    document: Mapping[str, Any] | None
    catalogue: Mapping[str, CatalogueEntry]
    estimates: Mapping[str, Estimate]
    brain_vmid: int = 100
    guest_health_port: int = 22


@dataclass(frozen=True)
class Step:
    """One restart, and where to knock until the service is well again."""

    service: str
    how: str
    guest: str
    vmid: int
    type: str
    node: str
    address: str | None
    unit: str | None = None
    gate: tuple[ServiceEndpoint, ...] = ()

    @property
    def text(self) -> str:
        """In words."""
        what = f"unit {self.unit} on {self.guest}" if self.how == UNIT else f"guest {self.guest} (VMID {self.vmid})"
        ports = ", ".join(f"{e.health.type} :{e.port}" for e in self.gate if e.health.type != "none")
        return f"Restart {self.service}: {what}; then wait for {ports or 'nothing, as it has no health check'}"

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        facts = ("service", "how", "guest", "vmid", "unit", "address", "text")
        return {name: getattr(self, name) for name in facts}


@dataclass
class RestartPlan:
    """Everything a run would do."""

    wish: RestartWish
    steps: list[Step] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    impact: Impact = field(default_factory=Impact)
    seconds: float | None = None
    graph: DependencyGraph | None = None

    @property
    def outlook(self) -> Outlook:
        """When it may be done."""
        if self.impact.outlook is None:
            raise ValueError("nothing was asked for")
        return self.impact.outlook

    @property
    def action(self) -> str:
        """Whether it is done now or later."""
        return RESTART if self.wish.at_once or self.outlook.open else SCHEDULE

    @property
    def failed(self) -> list[Check]:
        return [c for c in self.checks if not c.passed]

    def is_guarded(self, step: Step) -> bool:
        """Whether the step is not left to everybody: by the graph, or as it is done outside the safe hours."""
        if self.wish.at_once and not self.outlook.open:
            return True
        services = self.graph.services if self.graph else {}
        there = [services[n] for n in self.impact.services if services[n].runs_on(step.guest, step.vmid)]
        return not all(service.can_restart_without_approval for service in there)

    def promise(self) -> list[str]:
        """What would be done, in words that stay the same as long as that does."""
        hours = self.outlook.hours
        safe = f"Only in the safe hours of {', '.join(self.outlook.limited_by)}: {hours}."
        when = "At any hour." if hours.always else "Now, whatever the hour." if self.wish.at_once else safe
        return [*(step.text for step in self.steps), *self.impact.sentences(window=False), when]

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "action": self.action,
            "steps": [step.as_dict() for step in self.steps],
            "preflight": [{"check": c.name, "passed": c.passed, "message": c.message} for c in self.checks],
            "impact": self.impact.as_dict(),
            "duration_seconds": self.seconds,
            "summary": self.summary(),
        }

    def summary(self) -> list[str]:
        """For a person."""
        later = self.action == SCHEDULE
        hours = f"by the hours of {', '.join(self.outlook.limited_by)}"
        return [
            *([f"Not now, but in the next safe window: {self.outlook}, {hours}."] if later else []),
            *(step.text for step in self.steps),
            *self.impact.sentences(window=not later),
            *(f"Refused: {c.message}" for c in self.failed),
        ]


def plan_restart(wish: RestartWish, known: Surroundings, now: datetime | None = None) -> RestartPlan:
    """The plan for now; GraphError names a service that the graph does not know."""
    now = now or datetime.now(UTC)
    estimates = {name: known.estimates.get(name, Estimate()) for name in wish.services}
    longest = sum(e.longest_seconds or 0 for e in estimates.values())
    seconds = [e.seconds for e in estimates.values()]
    impact = assess(known.graph, wish.services, running_guests(known.document), now, longest)
    total = None if None in seconds else sum(s or 0 for s in seconds)
    plan = RestartPlan(wish, impact=impact, seconds=total, graph=known.graph)
    found = places(known.graph, known.document)
    for name in impact.services:
        step, checks = _step(name, found[name], known, wish, {*impact.services, *impact.stop_order})
        plan.checks += checks
        if step is not None:
            plan.steps.append(step)
    plan.steps = _once_for_each_guest(plan.steps)
    plan.checks += [_check_approved(known.graph, impact.services, wish.confirm), _check_window(plan)]
    return plan


def _step(
    name: str, place: Place, known: Surroundings, wish: RestartWish, touched: Collection[str]
) -> tuple[Step | None, list[Check]]:
    if place.guest is None or place.vmid is None or place.type is None or place.node is None:
        where = f"on {place.guest}, which is no known guest" if place.guest else "on no guest that is known"
        text = f"{name} runs {where}: write its guest into dependency_graph.json, or scan"
        return None, [Check("placed", passed=False, message=text)]
    brain = place.vmid == known.brain_vmid or "brain" in place.tags
    entry = known.catalogue.get(place.offered or "")
    unit = known.graph.services[name].unit or (entry.unit if entry else None)
    how = UNIT if unit and not wish.whole_guests else GUEST
    checks = [
        Check.of(
            "runs",
            passed=place.running is True,
            good=f"{place.guest} runs",
            bad=f"{place.guest}, which carries {name}, does not run: start it with nhi_vm",
        ),
        Check.of(
            "brain",
            passed=not (brain and how == GUEST),
            good=f"{name} is not the Brain",
            bad=f"{place.guest} is the Brain, from which restarts are done: restart it by hand",
        ),
    ]
    if how == GUEST:
        checks.append(_check_alone(name, place, known.graph, touched))
    gate = _gate(name, place, entry, known, how)
    step = Step(
        name, how, place.guest, place.vmid, place.type, place.node, place.address, unit if how == UNIT else None, gate
    )
    return step, checks


def _check_alone(name: str, place: Place, graph: DependencyGraph, touched: Collection[str]) -> Check:
    """A guest is not restarted for one of its services where others would stop of which nobody spoke."""
    there = graph.services_on(place.guest or "", place.vmid)
    others = [n for n in there if n not in touched]
    return Check.of(
        "alone",
        passed=not others,
        good=f"nothing else runs on {place.guest}",
        bad=f"{name} has no unit that could be restarted, and {', '.join(others)} would stop with its guest"
        f" {place.guest}: write unit of {name} into dependency_graph.json, or restart {','.join(there)} together",
    )


def _gate(
    name: str, place: Place, entry: CatalogueEntry | None, known: Surroundings, how: str
) -> tuple[ServiceEndpoint, ...]:
    """Where the catalogue says to ask; else the ports that others use; else whether its guest answers."""
    if entry is not None:
        return entry.endpoints
    used = {n.port for s in known.graph.services.values() for n in s.needs if n.service == name and n.port}
    if not used and how == GUEST and known.guest_health_port and place.address:
        used = {known.guest_health_port}
    tcp = Health("tcp", _TCP_SECONDS)
    return tuple(ServiceEndpoint(f"port-{port}", "tcp", port, tcp) for port in sorted(used))


def _once_for_each_guest(steps: list[Step]) -> list[Step]:
    """A guest is restarted once, whatever it carries: the steps for its services become the first of them."""
    kept: list[Step] = []
    for step in steps:
        if step.how == UNIT:
            whole = any(s.how == GUEST and s.vmid == step.vmid for s in steps)
        else:
            whole = any(s.how == GUEST and s.vmid == step.vmid for s in kept)
        if not whole:
            kept.append(step)
    return kept


def _check_approved(graph: DependencyGraph, names: Iterable[str], confirm: Collection[str]) -> Check:
    """Who may not be restarted by just anybody was named by somebody who stands for it."""
    missing = [n for n in names if not graph.services[n].can_restart_without_approval and n not in confirm]
    return Check.of(
        "approved",
        passed=not missing,
        good="every service may be restarted, or was confirmed",
        bad=f"{', '.join(missing)} must not be restarted without approval (can_restart_without_approval is false):"
        f" a person who may decide that repeats it with confirm={','.join(missing)}",
    )


def _check_window(plan: RestartPlan) -> Check:
    """There is a time for it, or somebody stands for doing it at another one."""
    outlook, wish = plan.outlook, plan.wish
    if wish.at_once and not outlook.open:
        missing = [n for n in plan.impact.services if n not in wish.confirm]
        return Check.of(
            "window",
            passed=not missing,
            good="a restart outside the safe window was confirmed",
            bad=f"now is outside the safe window ({outlook}): repeat it with confirm={','.join(missing)}, or let it be"
            " scheduled",
        )
    return Check.of(
        "window",
        passed=outlook.window is not None,
        good=f"safe window: {outlook}",
        bad=f"no hour is safe for all of {', '.join(outlook.limited_by)}: correct their restart_safe_hours, or restart"
        " them at once, with confirm",
    )
