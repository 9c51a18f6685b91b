# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until a service answers as its catalogue entry says, asked from outside, for a bounded time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .catalogue import CatalogueEntry, ServiceEndpoint
from .probe import ProbeResult, Target, probe_all

_FIRST_PAUSE, _LONGEST_PAUSE, _FACTOR = 0.1, 1.0, 1.5
# What has no health check can not be unwell.
_NO_CHECK = ProbeResult("unknown", "its catalogue entry has no health check")

Probe = Callable[[Iterable[Target]], Mapping[Target, ProbeResult]]


def await_health(
    entry: CatalogueEntry, address: str, timeout_seconds: float, *, probe: Probe = probe_all
) -> list[dict[str, Any]]:
    """Every endpoint with its health, as soon as all are well, or as they are when the time is up."""
    deadline, pause = time.monotonic() + timeout_seconds, _FIRST_PAUSE
    while True:
        endpoints = _ask(entry, address, probe)
        left = deadline - time.monotonic()
        if not unwell(endpoints) or left <= 0:
            return endpoints
        time.sleep(min(pause, left))
        pause = min(pause * _FACTOR, _LONGEST_PAUSE)


def not_asked(entry: CatalogueEntry, address: str) -> list[dict[str, Any]]:
    """Every endpoint, none of which was asked; the guest may not be there yet."""
    return [_endpoint(endpoint, address, ProbeResult("unknown", "not asked")) for endpoint in entry.endpoints]


def unwell(endpoints: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The endpoints that have a health check and do not pass it."""
    return [e for e in endpoints if e["probe"] != "none" and e["health"] != "healthy"]


def overall(endpoints: Iterable[Mapping[str, Any]]) -> str:
    """The health of the whole service: the worst of what was asked."""
    found = {e["health"] for e in endpoints if e["probe"] != "none"}
    return next((health for health in ("unhealthy", "unknown", "healthy") if health in found), "unknown")


def _ask(entry: CatalogueEntry, address: str, probe: Probe) -> list[dict[str, Any]]:
    targets = {endpoint.name: Target(address, endpoint.port, endpoint.health) for endpoint in entry.endpoints}
    results = probe(targets.values())
    return [_endpoint(e, address, results.get(targets[e.name], _NO_CHECK)) for e in entry.endpoints]


def _endpoint(endpoint: ServiceEndpoint, address: str, result: ProbeResult) -> dict[str, Any]:
    return {
        "name": endpoint.name,
        "protocol": endpoint.protocol,
        "port": endpoint.port,
        "url": endpoint.url(address) if address else None,
        "probe": endpoint.health.type,
        "health": result.health,
        "detail": result.detail,
        "latency_ms": result.latency_ms,
    }
