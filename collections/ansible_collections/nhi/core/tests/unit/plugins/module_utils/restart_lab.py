# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab of a few services for tests of restarts, and a restarter that only writes down what it was asked to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.nhi.core.plugins.module_utils.catalogue import CatalogueEntry, parse_entry
from ansible_collections.nhi.core.plugins.module_utils.errors import GuestShellError
from ansible_collections.nhi.core.plugins.module_utils.graph import DependencyGraph, parse_graph
from ansible_collections.nhi.core.plugins.module_utils.restart_history import Estimate
from ansible_collections.nhi.core.plugins.module_utils.restart_plan import (
    RestartPlan,
    RestartWish,
    Step,
    Surroundings,
    plan_restart,
)
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
