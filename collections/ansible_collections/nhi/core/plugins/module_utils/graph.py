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

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from .errors import GraphError
from .files import explain

OVERLAY_NAME = "dependency_graph.d"
CRITICALITIES = ("low", "medium", "high", "critical")
_KEYS = frozenset(
    {
        "depends_on", "required_by", "criticality", "can_restart_without_approval",
        "restart_safe_hours", "guest", "vmid", "description",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Service:
    """One node of the graph; ``guest`` and ``vmid`` say where it runs, when that is a guest of the lab."""

    name: str
    depends_on: tuple[str, ...] = ()
    criticality: str = "medium"
    can_restart_without_approval: bool = False
    restart_safe_hours: tuple[int, ...] = ()
    guest: str | None = None
    vmid: int | None = None

    def runs_on(self, guest: str, vmid: int | None = None) -> bool:
        """Whether this service runs on that guest; a service without ``guest`` may bear its name."""
        if self.vmid is not None and self.vmid == vmid:
            return True
        return (self.guest or self.name) == guest

    def may_restart_at(self, hour: int) -> bool:
        """Whether nobody needs to approve a restart in that hour (0 to 23, in the operator's time)."""
        return self.can_restart_without_approval and (not self.restart_safe_hours or hour in self.restart_safe_hours)


@dataclass(frozen=True)
class Dependent:
    """A service that stops working when another one goes; ``through`` is the one it lost."""

    service: Service
    through: str


@dataclass(frozen=True)
class DependencyGraph:
    """A valid graph: every name is known and there is no cycle."""

    services: Mapping[str, Service]

    def services_on(self, guest: str, vmid: int | None = None) -> tuple[str, ...]:
        """Names of the services that run on a guest."""
        return tuple(sorted(name for name, s in self.services.items() if s.runs_on(guest, vmid)))

    def required_by(self, name: str) -> tuple[str, ...]:
        """Names of the services that directly depend on it."""
        return tuple(sorted(other for other, s in self.services.items() if name in s.depends_on))

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
        return self._order({n: self.required_by(n) for n in self.services}, names)

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


def parse_graph(document: Any, registered: Mapping[str, Any] | None = None) -> DependencyGraph:
    """Validate a decoded ``dependency_graph.json``; ``registered`` has further services by name."""
    if not isinstance(document, dict) or not isinstance(document.get("services"), dict):
        raise GraphError('expected an object {"services": {NAME: {...}}}')
    raw: dict[str, Any] = document["services"]
    added = {name: entry for name, entry in (registered or {}).items() if name not in raw}
    services = {name: _service(name, entry) for name, entry in {**raw, **added}.items()}
    for name in added:
        # Nobody edits these: what the graph no longer has is not needed any more.
        known = tuple(needed for needed in services[name].depends_on if needed in services)
        services[name] = replace(services[name], depends_on=known)
    for service in services.values():
        for needed in service.depends_on:
            if needed not in services:
                raise GraphError(
                    f"{service.name} depends on {needed}, which is not among the services: add it or correct the name"
                )
    _refuse_cycles(services)
    graph = DependencyGraph(services)
    for name, entry in raw.items():
        _check_required_by(graph, name, entry.get("required_by"), added.keys())
    return graph


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
        try:
            found.update(_decoded(file)["services"])
        except (LookupError, TypeError, ValueError) as e:
            raise GraphError(f"{file} registers no services: remove it, and deploy the service again") from e
    return found


def _service(name: str, entry: Any) -> Service:
    if not isinstance(entry, dict):
        raise GraphError(f"service {name} must be an object")
    unknown = sorted(set(entry) - _KEYS)
    if unknown:
        raise GraphError(f"service {name} has the unknown key {unknown[0]}: known are {', '.join(sorted(_KEYS))}")
    criticality = entry.get("criticality", "medium")
    if criticality not in CRITICALITIES:
        raise GraphError(f"criticality of {name} is {criticality!r}: use one of {', '.join(CRITICALITIES)}")
    free = entry.get("can_restart_without_approval", False)
    if not isinstance(free, bool):
        raise GraphError(f"can_restart_without_approval of {name} must be true or false, not {free!r}")
    guest, vmid = entry.get("guest"), entry.get("vmid")
    if guest is not None and not isinstance(guest, str):
        raise GraphError(f"guest of {name} must be a guest's name, not {guest!r}")
    if vmid is not None and (not isinstance(vmid, int) or isinstance(vmid, bool)):
        raise GraphError(f"vmid of {name} must be a number, not {vmid!r}")
    return Service(
        name, _names(name, "depends_on", entry.get("depends_on", [])), criticality, free,
        _hours(name, entry.get("restart_safe_hours", [])), guest, vmid,
    )  # fmt: skip


def _names(service: str, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise GraphError(f"{key} of {service} must be a list of service names")
    return tuple(dict.fromkeys(value))


def _hours(service: str, value: Any) -> tuple[int, ...]:
    valid = isinstance(value, list) and all(
        isinstance(h, int) and not isinstance(h, bool) and 0 <= h <= 23 for h in value
    )
    if not valid:
        raise GraphError(f"restart_safe_hours of {service} must be a list of hours from 0 to 23")
    return tuple(value)


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
    written = set(_names(name, "required_by", declared))
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
