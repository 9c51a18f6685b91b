# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scan a Proxmox VE cluster: what to read, in which order, and how to write it down without losing anything.

A scan is one ``/cluster/resources`` (with ``/version`` and ``/cluster/tasks`` beside it), then details only of guests
that are new, changed, lately touched by a task, or due, then probes of what the guests offer. It fails only when the
first call fails or shows nothing that could be true; everything else that can not be read becomes a stale fact and an
alert.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from . import alerts as rules
from .catalogue import SERVICE_TAG, CatalogueEntry
from .errors import PermissionDeniedError, ProxmoxError
from .lanes import run_in_lanes
from .plain_text import printable_parts
from .probe import ProbeResult, Target, probe_all
from .proxmox_rows import refuse_blindness
from .scan_facts import (
    guest_facts,
    node_facts,
    probe_targets,
    service_facts,
    set_guest_health,
    storage_facts,
    unreadable_nodes,
)
from .scan_guests import GuestReader, GuestReading
from .scan_memory import ScanMemory
from .scan_options import ScanOptions
from .scan_rows import Resources, guest_activity, sort_rows
from .state_document import Document, format_time, parse_time, utc_now

if TYPE_CHECKING:
    from collections.abc import Iterator

_STOP_SEEN_BEFORE_SECONDS = 60


class Client(Protocol):
    """What a scan needs of a client."""

    @property
    def calls(self) -> int: ...

    def get(self, path: Any, params: Mapping[str, Any] | None = None) -> Any: ...


@dataclass
class ScanResult:
    """What a scan saw, before it is written."""

    infrastructure: dict[str, Any]
    found_alerts: list[dict[str, Any]]
    started_at: str
    observed_at: str
    kind: str
    api_calls: int
    read_guests: int
    durations: dict[str, float]

    def __post_init__(self) -> None:
        # Names, notes and what services answered are up to whoever owns a guest: from here on they are only text.
        self.infrastructure = printable_parts(self.infrastructure)
        self.found_alerts = printable_parts(self.found_alerts)


class Scanner:
    """One scan of one endpoint."""

    def __init__(
        self,
        client: Client,
        memory: ScanMemory,
        catalogue: Mapping[str, CatalogueEntry],
        options: ScanOptions,
        *,
        identity: str = "the API token",
    ) -> None:
        self._client = client
        self._memory = memory
        self._catalogue = catalogue
        self._options = options
        self._identity = identity
        self._durations: dict[str, float] = {}
        self._tasks: list[Mapping[str, Any]] = []

    def scan(self, previous: Document | None) -> ScanResult:
        """Read everything; previous is what the last scan left."""
        started, calls = utc_now(), self._client.calls
        old = previous["infrastructure"] if previous else None
        kind = "warm" if self._memory.guests and not self._options.everything else "cold"
        with self._phase("resources"):
            resources, cluster = self._overview(old)
            observed = utc_now()
        refuse_blindness(self._client, resources.guests.values(), self._identity)
        with self._phase("guests"):
            readings, dead, failing = self._read_guests(resources, observed)
        infrastructure = self._assemble(resources, cluster, readings, dead, failing, old, format_time(observed))
        with self._phase("probes"):
            self._probe(infrastructure)
        found = self._alerts(infrastructure, readings, failing, dead, previous)
        return ScanResult(
            infrastructure=infrastructure,
            found_alerts=found,
            started_at=format_time(started),
            observed_at=format_time(observed),
            kind=kind,
            api_calls=self._client.calls - calls,
            read_guests=sum(reading.asked for reading in readings.values()),
            durations=self._durations,
        )

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._durations[name] = round(time.perf_counter() - started, 4)

    def _overview(self, old: Mapping[str, Any] | None) -> tuple[Resources, dict[str, Any]]:
        """The cluster's rows, and its version, name and tasks; only the rows are indispensable."""
        # Alone: a token that is refused is refused once, or a guard such as fail2ban would ban us for four at a time.
        resources = sort_rows(self._client.get("/cluster/resources") or ())
        # A node that is no member of a cluster has no name to ask for again.
        known = old["cluster"] if old and self._memory.guests else None
        paths = ["/version", "/cluster/tasks", *([] if known else ["/cluster/status"])]
        answers = dict(run_in_lanes([(path, path) for path in paths], self._answer, per_lane=1, in_total=len(paths)))
        self._tasks = answers["/cluster/tasks"] or []
        cluster = {
            "name": known["name"] if known else _cluster_name(answers["/cluster/status"]),
            "version": (answers["/version"] or {}).get("version"),
            "observed_at": format_time(utc_now()),
            "source": "api:/version",
        }
        return resources, cluster

    def _answer(self, path: str) -> tuple[str, Any]:
        return path, self._optional(path)

    def _optional(self, path: str) -> Any:
        try:
            return self._client.get(path)
        except ProxmoxError:
            return None

    def _read_guests(
        self, resources: Resources, observed: datetime
    ) -> tuple[dict[int, GuestReading], dict[int, Mapping[str, Any]], set[str]]:
        offline = unreadable_nodes(resources)
        alive = {vmid: row for vmid, row in resources.guests.items() if row["node"] not in offline}
        dead = {vmid: row for vmid, row in resources.guests.items() if row["node"] in offline}
        reader = GuestReader(
            self._client, self._options.lifetimes, per_node=self._options.per_node, now=observed.timestamp()
        )
        activity = guest_activity(self._tasks, observed.timestamp())
        readings = reader.read_all(alive, self._memory.guests, activity, everything=self._options.everything)
        for vmid, reading in readings.items():
            if reading.memory is not None:
                self._memory.guests[vmid] = reading.memory
        self._memory.forget_others(resources.guests)
        return readings, dead, set(reader.failing_nodes())

    def _assemble(
        self,
        resources: Resources,
        cluster: dict[str, Any],
        readings: Mapping[int, GuestReading],
        dead: Mapping[int, Mapping[str, Any]],
        failing: Iterable[str],
        old: Mapping[str, Any] | None,
        observed_at: str,
    ) -> dict[str, Any]:
        before = old or {"nodes": (), "guests": (), "storage": ()}
        return {
            "cluster": cluster,
            "nodes": node_facts(resources, failing, before["nodes"], observed_at),
            "guests": guest_facts(readings, dead, before["guests"], observed_at),
            "storage": storage_facts(resources, before["storage"], observed_at),
            "services": [],
        }

    def _probe(self, infrastructure: dict[str, Any]) -> None:
        guests, port = infrastructure["guests"], self._options.guest_health_port
        results: dict[Target, ProbeResult] = {}
        if self._options.health_checks:
            targets = probe_targets(guests, self._catalogue, port)
            results = probe_all(targets, deadline_seconds=self._options.probe_deadline_seconds)
        infrastructure["services"] = service_facts(guests, self._catalogue, results, format_time(utc_now()))
        set_guest_health(guests, infrastructure["services"], results, port)

    def _alerts(
        self,
        infrastructure: Mapping[str, Any],
        readings: Mapping[int, GuestReading],
        failing: Iterable[str],
        dead: Mapping[int, Mapping[str, Any]],
        previous: Document | None,
    ) -> list[dict[str, Any]]:
        guests = infrastructure["guests"]
        dead_nodes = {str(row["node"]) for row in dead.values()} | set(failing)
        onboot = {vmid for vmid, memory in self._memory.guests.items() if memory.onboot}
        return [
            *rules.node_alerts(infrastructure["nodes"], guests),
            *rules.storage_alerts(infrastructure["storage"]),
            *rules.guest_alerts(
                guests,
                onboot=onboot,
                stopped_unasked=self._stopped_unasked(guests, previous),
                dead_nodes=dead_nodes,
                serving={service["vmid"] for service in infrastructure["services"]},
            ),
            *rules.service_alerts(infrastructure["services"], self._catalogue),
            *rules.unknown_service_alerts(guests, self._catalogue, SERVICE_TAG),
            *rules.unreadable_alerts(failing, guests),
            *rules.permission_alerts(_refusals(readings), self._identity),
        ]

    def _stopped_unasked(self, guests: Iterable[Mapping[str, Any]], previous: Document | None) -> set[int]:
        """Guests that stopped since the last scan without a task that stopped them, now or earlier."""
        if previous is None:
            return set()
        down = rules.newly_stopped(guests, previous["infrastructure"]["guests"])
        if down:
            seen = parse_time(previous["meta"]["generated_at"]) - timedelta(seconds=_STOP_SEEN_BEFORE_SECONDS)
            down -= rules.stopped_by_task(self._tasks, seen.timestamp())
        return down | rules.still_down(previous["alerts"])


def _cluster_name(rows: Any) -> str | None:
    """The cluster's name; a node that is no member of a cluster has none."""
    return next((str(row["name"]) for row in rows or () if row.get("type") == "cluster" and row.get("name")), None)


def _refusals(readings: Mapping[int, GuestReading]) -> Iterator[tuple[int, str]]:
    for vmid, reading in readings.items():
        if isinstance(reading.error, PermissionDeniedError):
            yield vmid, reading.error.privilege
        elif reading.memory is not None and reading.memory.live_privilege and reading.running:
            yield vmid, reading.memory.live_privilege
