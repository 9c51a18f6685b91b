# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab of a few services for tests of restarts, and a restarter that only writes down what it was asked to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils import restart_run
from ansible_collections.nhi.core.plugins.module_utils import restarts as restarts_module
from ansible_collections.nhi.core.plugins.module_utils.catalogue import CatalogueEntry, parse_entry
from ansible_collections.nhi.core.plugins.module_utils.errors import GuestShellError
from ansible_collections.nhi.core.plugins.module_utils.graph import DependencyGraph, parse_graph
from ansible_collections.nhi.core.plugins.module_utils.guest_restarter import Site
from ansible_collections.nhi.core.plugins.module_utils.guest_shell import GuestShell
from ansible_collections.nhi.core.plugins.module_utils.restart_history import Estimate
from ansible_collections.nhi.core.plugins.module_utils.restart_plan import (
    RestartPlan,
    RestartWish,
    Step,
    Surroundings,
    plan_restart,
)
from ansible_collections.nhi.core.plugins.module_utils.restarts import Restarts
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_proxmox import FakeProxmox
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import (
    make_document,
    make_guest,
    make_service,
)

# Three at night in Berlin, three in the afternoon.
NIGHT, AFTERNOON = datetime(2026, 1, 20, 2, tzinfo=UTC), datetime(2026, 1, 19, 14, tzinfo=UTC)
FREE = {"can_restart_without_approval": True}
GRAPH: dict[str, Any] = {"time_zone": "Europe/Berlin", "services": {
    "brain-vm": {"criticality": "critical", "guest": "brain"},
    "redis-cache": {"depends_on": ["brain-vm"], **FREE},
    "nginx-web": {"depends_on": [{"service": "redis-cache", "port": 6379}], **FREE},
    "postgres": {"depends_on": ["brain-vm"], "criticality": "critical"},
    "minio": {"depends_on": ["brain-vm"], "restart_safe_hours": [2, 3, 4], **FREE},
    "grafana": {"guest": "tools", **FREE}, "loki": {"guest": "tools", "unit": "loki", **FREE},
    "lost": FREE, "away": {"guest": "gone", **FREE}, "off": FREE,
}}  # fmt: skip


def entry(name: str, port: int, unit: str) -> CatalogueEntry:
    return parse_entry({
        "name": name, "title": name, "summary": name, "role": f"nhi.core.{name}", "unit": unit,
        "guest": {"type": "lxc", "template": "debian-12"},
        "sizes": {"default": {"cores": 1, "memory_mib": 128, "disk_gib": 2}},
        "endpoints": [
            {"name": "main", "protocol": "tcp", "port": port, "health": {"type": "tcp", "timeout_seconds": 0.2}}
        ],
    })  # fmt: skip


CATALOGUE = {"redis": entry("redis", 6379, "redis-server"), "nginx": entry("nginx", 80, "nginx")}


def document() -> dict[str, Any]:
    names = {
        100: "brain",
        105: "redis-cache",
        106: "nginx-web",
        102: "postgres",
        104: "minio",
        107: "tools",
        108: "off",
    }
    guests = {n: make_guest(vmid, name=n, status="stopped" if n == "off" else "running") for vmid, n in names.items()}
    lab = make_document(guests.values())
    lab["infrastructure"]["services"] = [
        make_service(guests["redis-cache"], "redis"), make_service(guests["nginx-web"], "nginx")
    ]  # fmt: skip
    return lab


def graph(**changes: Any) -> DependencyGraph:
    return parse_graph({**GRAPH, "services": {**GRAPH["services"], **changes}})


def plan(
    *services: str, now: datetime = NIGHT, confirm: str = "", estimates: dict[str, Estimate] | None = None,
    changes: dict[str, Any] | None = None, **wish: Any,
) -> RestartPlan:  # fmt: skip
    known = Surroundings(graph(**(changes or {})), document(), CATALOGUE, estimates or {})
    return plan_restart(RestartWish(services, frozenset(confirm.split()), **wish), known, now)


@dataclass
class FakeRestarter:
    """Restarts are lines in a file, so that they are still there when the process is not."""

    file: Path
    at: Callable[[str, str], None] = lambda _moment, _service: None
    broken: set[str] = field(default_factory=set)

    def restarts(self) -> list[str]:
        return self.file.read_text().split() if self.file.exists() else []

    def mark(self, step: Step) -> str:
        return str(self.restarts().count(step.service))

    def was_restarted(self, step: Step, mark: str) -> bool:
        return self.mark(step) != mark

    def restart(self, step: Step) -> None:
        self.at("before", step.service)
        if step.service in self.broken:
            raise GuestShellError(f"'systemctl restart {step.unit}' failed on {step.address} with 1: no such unit")
        with self.file.open("a") as file:
            file.write(f"{step.service}\n")
        self.at("after", step.service)


class Lab:
    """A state directory, and services that answer unless they are told not to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "restarts.log"
        self.pve = FakeProxmox()
        for guest in document()["infrastructure"]["guests"]:
            self.pve.add(guest["vmid"], guest["name"], running=guest["status"] == "running")
        self.told: list[str] = []
        # How far its clock goes ahead.
        self.ahead = timedelta(0)
        self.scanned: list[list[str]] = []
        self.rescan: Callable[[list[str]], None] = self.scanned.append
        StateStore(directory).write(document(), expected_checksum=None)
        self.hours()

    @classmethod
    def ready(cls, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
        """A lab whose restarts are only written down, and whose services are well."""
        lab = cls(directory)
        monkeypatch.setattr(restarts_module, "GuestRestarter", lambda _site: FakeRestarter(lab.file))
        well = [{"probe": "tcp", "health": "healthy", "url": "x", "detail": "x"}]
        monkeypatch.setattr(restart_run, "await_health", lambda *_args: well)
        return lab

    def hours(self, hours: list[int | str] | None = None) -> None:
        """Rewrite the graph with safe hours for minio, whose night it is not."""
        graph = json.loads(json.dumps({**GRAPH, "time_zone": "UTC"}))
        graph["services"]["minio"]["restart_safe_hours"] = closed_now() if hours is None else hours
        (self.directory / "dependency_graph.json").write_text(json.dumps(graph))

    def restarts(self, plan_id: str | None = None) -> Restarts:
        return Restarts(
            Site(
                self.directory, CATALOGUE, GuestShell(), self.connect, self._rescan, tell=self.told.append,
                plan_id=plan_id, now=lambda: datetime.now(UTC) + self.ahead,
            )
        )  # fmt: skip

    def _rescan(self, guests: list[str]) -> None:
        self.rescan(guests)

    @contextmanager
    def connect(self) -> Iterator[FakeProxmox]:
        yield self.pve

    def request(
        self, *services: str, confirm: str = "", plan_id: str | None = None, check: bool = False, **options: Any
    ) -> Any:
        wish = RestartWish(services, frozenset(confirm.split()), **options)
        return self.restarts(plan_id).request(wish, check_mode=check)

    def done(self) -> list[str]:
        return FakeRestarter(self.file).restarts()

    def jobs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.restarts().listing()["jobs"]
        return found

    def make_due(self) -> None:
        """Let the hour of what is scheduled come, in the graph and in the job."""
        self.hours([])
        for path in (self.directory / "restarts/jobs").glob("*.json"):
            job = json.loads(path.read_text())
            path.write_text(json.dumps({**job, "not_before": "2026-01-01T00:00:00+00:00"}))


def closed_now() -> list[int | str]:
    return [(datetime.now(UTC).hour + 12) % 24]
