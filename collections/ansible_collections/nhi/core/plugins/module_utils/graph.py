# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dependency graph: what a person declared to depend on what, and what follows from it.

``depends_on`` is the truth. ``required_by`` says the same from the other side and is checked against
it wherever it is written down, so that a forgotten edge is found before somebody acts on it.

Services that were made here by name stand in a directory beside that file, one file for each guest, so that what a
person wrote is never rewritten. Where both speak of a service, the person is right.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from .errors import GraphError
from .files import explain
from .graph_schema import CRITICALITIES, GRAPH_SCHEMA
from .safe_hours import SafeHours, find_zone
from .state_validation import faults_against

__all__ = [
    "CRITICALITIES",
    "OVERLAY_NAME",
    "DependencyGraph",
    "Service",
    "find_graph",
    "graph_digest",
    "load_graph",
    "parse_graph",
    "require_graph",
]

OVERLAY_NAME = "dependency_graph.d"
_SHOWN_FAULTS = 3


@dataclass(frozen=True)
class Need:
    """An edge of the graph: which service is needed, at which port and for what, where that was said."""

    service: str
    port: int | None = None
    use: str | None = None

    @property
    def label(self) -> str:
        """What the edge says beside its two ends."""
        return " ".join(part for part in (self.use, f":{self.port}" if self.port else None) if part)


@dataclass(frozen=True)
class Service:
    """One node of the graph; ``guest`` and ``vmid`` say where it runs, when that is a guest of the lab."""

    name: str
    needs: tuple[Need, ...] = ()
    criticality: str = "medium"
    can_restart_without_approval: bool = False
    safe_hours: SafeHours = field(default_factory=SafeHours)
    guest: str | None = None
    vmid: int | None = None
    unit: str | None = None
    description: str | None = None

    @property
    def depends_on(self) -> tuple[str, ...]:
        """Names of the services that it needs."""
        return tuple(need.service for need in self.needs)

    def runs_on(self, guest: str, vmid: int | None = None) -> bool:
        """Whether this service runs on that guest; a service without ``guest`` may bear its name."""
        if self.vmid is not None and self.vmid == vmid:
            return True
        return (self.guest or self.name) == guest


@dataclass(frozen=True)
class Dependent:
    """A service that stops working when another one goes; ``through`` is the one it lost."""

    service: Service
    through: str


@dataclass(frozen=True)
class DependencyGraph:
    """A valid graph: every name is known and there is no cycle."""

    services: Mapping[str, Service]
    time_zone: str | None = None

    @cached_property
    def zone(self) -> ZoneInfo:
        """On whose clock safe hours are read: the zone that the file names, else this host's."""
        return find_zone(self.time_zone)

    @cached_property
    def _required_by(self) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {name: [] for name in self.services}
        for name in sorted(self.services):
            for needed in self.services[name].depends_on:
                found[needed].append(name)
        return {name: tuple(others) for name, others in found.items()}

    def services_on(self, guest: str, vmid: int | None = None) -> tuple[str, ...]:
        """Names of the services that run on a guest."""
        return tuple(sorted(name for name, s in self.services.items() if s.runs_on(guest, vmid)))

    def required_by(self, name: str) -> tuple[str, ...]:
        """Names of the services that directly depend on it."""
        return self._required_by[name]

    def dependents(self, names: Iterable[str]) -> tuple[Dependent, ...]:
        """Everything that depends on the given services, directly or not, in the order to stop it."""
        roots = self._known(names)
        through: dict[str, str] = {}
        edge = list(roots)
        while edge:
            lost = edge.pop(0)
            for name in self.required_by(lost):
                if name not in through and name not in roots:
                    through[name] = lost
                    edge.append(name)
        return tuple(Dependent(self.services[n], through[n]) for n in self.stop_order(through))

    def start_order(self, names: Iterable[str]) -> tuple[str, ...]:
        """The given services, each after what it depends on; equals in alphabetical order."""
        return self._order({n: s.depends_on for n, s in self.services.items()}, names)

    def stop_order(self, names: Iterable[str]) -> tuple[str, ...]:
        """The given services, each before what it depends on; equals in alphabetical order."""
        return self._order(self._required_by, names)

    def safe_hours(self, names: Iterable[str]) -> SafeHours:
        """The hours that are safe for all of these services."""
        hours = SafeHours()
        for name in names:
            hours &= self.services[name].safe_hours
        return hours

    def _order(self, after: Mapping[str, Iterable[str]], names: Iterable[str]) -> tuple[str, ...]:
        known = self._known(names)
        sorter = TopologicalSorter(after)
        sorter.prepare()
        order: list[str] = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready())
            order.extend(n for n in ready if n in known)
            sorter.done(*ready)
        return tuple(order)

    def _known(self, names: Iterable[str]) -> frozenset[str]:
        wanted = frozenset(names)
        unknown = sorted(wanted - self.services.keys())
        if unknown:
            raise GraphError(
                f"the dependency graph has no service {unknown[0]}: it has {', '.join(sorted(self.services))}"
            )
        return wanted


def graph_digest(graph: DependencyGraph | None) -> str:
    """Changes with anything in the graph."""
    if graph is None:
        return "none"
    services = {name: asdict(service) for name, service in graph.services.items()}
    text = json.dumps([graph.time_zone, services], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def load_graph(path: Path, overlay: Path | None = None) -> DependencyGraph:
    """The graph in a file, with the services registered in a directory; GraphError says what to correct where."""
    document = _decoded(path)
    try:
        return parse_graph(document, _registered(overlay))
    except GraphError as e:
        raise GraphError(f"{path}: {e}") from e


def find_graph(named: str | None, state_dir: str) -> DependencyGraph | None:
    """The graph in the named file, else in the state directory, with the services that are registered there.

    None where nobody wrote a graph and nothing is registered.
    """
    default, overlay = Path(state_dir) / "dependency_graph.json", Path(state_dir) / OVERLAY_NAME
    if named:
        return load_graph(Path(named), overlay)
    try:
        if default.exists():
            return load_graph(default, overlay)
    except OSError as e:
        raise GraphError(f"{default} can not be looked at: {explain(e)}; correct state_dir or its owner") from e
    registered = _registered(overlay)
    return parse_graph({"services": {}}, registered) if registered else None


def require_graph(named: str | None, state_dir: str) -> DependencyGraph:
    """Like ``find_graph``, for who can do nothing without one; GraphError where there is none."""
    graph = find_graph(named, state_dir)
    if graph is None:
        raise GraphError(f"{state_dir} has no dependency_graph.json: write it, or name one with dependency_graph")
    return graph


def parse_graph(document: Any, registered: Mapping[str, Any] | None = None) -> DependencyGraph:
    """Validate a decoded ``dependency_graph.json``; ``registered`` has further services by name."""
    _refuse_faults(document)
    raw: dict[str, Any] = document["services"]
    added = {name: entry for name, entry in (registered or {}).items() if name not in raw}
    services = {name: _service(name, entry) for name, entry in {**raw, **added}.items()}
    for name in added:
        # Nobody edits these: what the graph no longer has is not needed any more.
        known = tuple(need for need in services[name].needs if need.service in services)
        services[name] = replace(services[name], needs=known)
    for service in services.values():
        for needed in service.depends_on:
            if needed not in services:
                raise GraphError(
                    f"{service.name} depends on {needed}, which is not among the services: add it or correct the name"
                )
    _refuse_cycles(services)
    graph = DependencyGraph(services, document.get("time_zone"))
    if graph.time_zone:
        find_zone(graph.time_zone)
    for name, entry in raw.items():
        _check_required_by(graph, name, entry.get("required_by"), added.keys())
    return graph


def _refuse_faults(document: Any) -> None:
    faults = faults_against(GRAPH_SCHEMA, document)
    if faults:
        more = f" (and {len(faults) - _SHOWN_FAULTS} more)" if len(faults) > _SHOWN_FAULTS else ""
        raise GraphError(f"it does not follow its schema: {'; '.join(faults[:_SHOWN_FAULTS])}{more}")


def _decoded(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_duplicates)
    except FileNotFoundError as e:
        raise GraphError(f"{path} does not exist: write it, or leave the option dependency_graph out") from e
    except (OSError, ValueError) as e:
        raise GraphError(f"{path} can not be read as JSON: {e}") from e
    except GraphError as e:
        raise GraphError(f"{path}: {e}") from e


def _registered(directory: Path | None) -> dict[str, Any]:
    """What the files of a directory register, by name; nothing where there is no directory."""
    found: dict[str, Any] = {}
    try:
        files = sorted(directory.glob("*.json")) if directory else []
    except OSError as e:
        raise GraphError(f"{directory} can not be read: {explain(e)}; correct its owner") from e
    for file in files:
        document = _decoded(file)
        try:
            _refuse_faults(document)
        except GraphError as e:
            raise GraphError(f"{file} registers no services: remove it, and deploy the service again ({e})") from e
        found.update(document["services"])
    return found


def _service(name: str, entry: Mapping[str, Any]) -> Service:
    needs = [Need(**item) if isinstance(item, dict) else Need(item) for item in entry.get("depends_on", ())]
    return Service(
        name,
        # What was written twice counts once, with what was said last, in the place where it stood first.
        tuple({need.service: need for need in needs}.values()),
        entry.get("criticality", "medium"),
        entry.get("can_restart_without_approval", False),
        SafeHours.parse(entry.get("restart_safe_hours", ())),
        entry.get("guest"), entry.get("vmid"), entry.get("unit"), entry.get("description"),
    )  # fmt: skip


def _refuse_cycles(services: Mapping[str, Service]) -> None:
    try:
        TopologicalSorter({name: s.depends_on for name, s in services.items()}).prepare()
    except CycleError as e:
        # graphlib lists a node before the one that depends on it; people read it the other way round.
        cycle = " -> ".join(reversed(e.args[1]))
        raise GraphError(
            f"the services depend on each other in a circle: {cycle}; remove one of these depends_on"
        ) from e


def _check_required_by(graph: DependencyGraph, name: str, declared: Any, added: Iterable[str]) -> None:
    """``added`` came later, by itself: the file need not list it."""
    if declared is None:
        return
    written = set(declared)
    derived = {other for other in graph.required_by(name) if other in written or other not in added}
    for other in sorted(written - graph.services.keys()):
        raise GraphError(f"{name} is required by {other}, which is not among the services: add it or correct the name")
    for other in sorted(written - derived):
        raise GraphError(f"{name} says it is required by {other}, but {other} does not list it in depends_on")
    for other in sorted(derived - written):
        raise GraphError(f"{other} depends on {name}, but required_by of {name} does not list it")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _value in pairs]
        raise GraphError(f"{next(n for n in names if names.count(n) > 1)} is defined twice")
    return found
