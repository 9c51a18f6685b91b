# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is written down about a deployed service besides state.json: its place in the dependency graph, its monitoring.

Two small files for each guest, so that parallel deployments never touch the same one, and removing a service is
removing its files. The hand-edited dependency graph is never written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .catalogue import CatalogueEntry
from .errors import StateError
from .files import explain, read_if_exists, replace_file, sync_directory
from .graph import OVERLAY_NAME, DependencyGraph

MONITORING_NAME = "monitoring"
TARGETS_NAME = "targets"


@dataclass(frozen=True)
class Deployed:
    """A service on a guest."""

    entry: CatalogueEntry
    guest: str
    purpose: str | None
    address: str

    @property
    def title(self) -> str:
        """What it is, for people."""
        return f"{self.entry.title} for {self.purpose}" if self.purpose else self.entry.title


@dataclass(frozen=True)
class Records:
    """What the two files of a guest hold; None where there is no file."""

    graph: Any = None
    targets: Any = None

    def as_data(self) -> dict[str, Any]:
        """As a module's diff and the record of a deployment have it: only what there is."""
        found = {"dependency_graph": self.graph, "monitoring_targets": self.targets}
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Records:
        """The reverse."""
        return cls(data.get("dependency_graph"), data.get("monitoring_targets"))


def wanted_records(deployed: Deployed, graph: DependencyGraph | None) -> Records:
    """What to write down; of its dependencies only those that the graph knows."""
    known = [name for name in deployed.entry.depends_on if graph is not None and name in graph.services]
    service = {
        "depends_on": known,
        "criticality": deployed.entry.criticality,
        "guest": deployed.guest,
        "description": deployed.title,
    }
    return Records({"services": {deployed.guest: service}}, list(_targets(deployed)))


def unknown_dependencies(deployed: Deployed, graph: DependencyGraph | None) -> list[str]:
    """What the catalogue says it depends on and the graph does not know."""
    return [name for name in deployed.entry.depends_on if graph is None or name not in graph.services]


def _targets(deployed: Deployed) -> Iterator[dict[str, Any]]:
    """One group for each endpoint, as Prometheus reads them with file_sd; label values are texts."""
    host = f"[{deployed.address}]" if ":" in deployed.address else deployed.address
    for endpoint in deployed.entry.endpoints:
        yield {
            "targets": [f"{host}:{endpoint.port}"],
            "labels": {
                "job": deployed.entry.name,
                "service": deployed.entry.name,
                "endpoint": endpoint.name,
                "guest": deployed.guest,
                "purpose": deployed.purpose or "",
                "criticality": deployed.entry.criticality,
                "probe": endpoint.health.type,
            },
        }


class ServiceRecords:
    """The files of one guest in a state directory; ``before_write`` is called before one of them is changed."""

    def __init__(self, state_dir: Path | str, guest: str) -> None:
        self.before_write: Callable[[], None] = lambda: None
        directory = Path(state_dir)
        self.guest = guest
        self._graph = directory / OVERLAY_NAME / f"{guest}.json"
        self._targets = directory / MONITORING_NAME / TARGETS_NAME / f"{guest}.json"

    @property
    def files(self) -> dict[str, str]:
        """Where they are."""
        return {"dependency_graph": str(self._graph), "monitoring_targets": str(self._targets)}

    def read(self) -> Records:
        """What is written now; a file that holds no JSON counts as something else than what is wanted."""
        return Records(_read(self._graph), _read(self._targets))

    def write(self, wanted: Records) -> None:
        """Replace what differs, each file at once or not at all."""
        now = self.read()
        for path, old, new in ((self._graph, now.graph, wanted.graph), (self._targets, now.targets, wanted.targets)):
            if old == new:
                continue
            self.before_write()
            if new is None:
                _remove(path)
            else:
                _write(path, new)


def _read(path: Path) -> Any:
    try:
        raw = read_if_exists(path)
    except OSError as e:
        raise StateError(f"{path} can not be read: {explain(e)}; correct state_dir or its owner") from e
    if raw is None:
        return None
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode("utf-8", "replace")


def _write(path: Path, content: Mapping[str, Any] | list[Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
    except OSError as e:
        raise StateError(f"{path} can not be written: {explain(e)}; make room or correct state_dir") from e


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as e:
        raise StateError(f"{path} can not be removed: {explain(e)}; remove it by hand") from e
