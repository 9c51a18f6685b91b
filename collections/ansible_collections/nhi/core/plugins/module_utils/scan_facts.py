# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put what a scan read together to the ``infrastructure`` of a state document.

What could not be read this time keeps its last known facts, its old time and the word ``stale``; what was never
read is ``unknown``. Neither is ever healthy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from .addresses import primary_address
from .catalogue import (
    PURPOSE_TAG,
    SERVICE_TAG,
    CatalogueEntry,
    Health,
    OfferedService,
    ServiceEndpoint,
    offered_services,
)
from .probe import ProbeResult, Target
from .scan_guests import GuestReading, known_addresses
from .scan_rows import Fact, Resources, guest_fact, guest_name, node_fact, storage_fact
from .state_document import as_stale, format_time

_HEALTH_FROM_WORST = ("unhealthy", "unknown", "healthy")
_ANSWERS = Health("tcp")  # what is asked of a guest without a service
Targets = dict[Target, ProbeResult]


def node_facts(resources: Resources, failing: Iterable[str], previous: Iterable[Fact], observed_at: str) -> list[Fact]:
    """Every node; the numbers of one that does not answer are those it was last seen with."""
    before = {node["name"]: node for node in previous}
    facts = []
    for name, row in sorted(resources.nodes.items()):
        fact = node_fact(name, row, observed_at)
        if fact["status"] != "online" and name in before:
            fact = {**as_stale(before[name]), "status": fact["status"]}
        elif name in failing:
            fact["freshness"] = "stale"
        facts.append(fact)
    return facts


def storage_facts(resources: Resources, previous: Iterable[Fact], observed_at: str) -> list[Fact]:
    """Every storage; sizes of one that is not available are those it was last seen with."""
    before = {storage["id"]: storage for storage in previous}
    facts = []
    for identity, row in sorted(resources.storage.items()):
        fact = storage_fact(identity, row, observed_at)
        if fact["status"] != "available" and identity in before:
            fact = {**as_stale(before[identity]), "status": fact["status"]}
        facts.append(fact)
    return facts


def unreadable_nodes(resources: Resources) -> set[str]:
    """Nodes whose guests can not be asked, by their own row; a node without a row is taken to be there."""
    return {name for name, row in resources.nodes.items() if row.get("status") == "offline"}


def guest_facts(
    readings: Mapping[int, GuestReading],
    on_dead_nodes: Mapping[int, Mapping[str, Any]],
    previous: Iterable[Fact],
    observed_at: str,
) -> list[Fact]:
    """Every guest of the lab: those that were read, and those whose node is not there to be asked."""
    before = {guest["vmid"]: guest for guest in previous}
    facts = [_guest(reading, before.get(vmid), observed_at) for vmid, reading in readings.items() if not reading.gone]
    facts += [_unread(vmid, row, before.get(vmid), observed_at) for vmid, row in on_dead_nodes.items()]
    return sorted(facts, key=lambda fact: fact["vmid"])


def _guest(reading: GuestReading, before: Fact | None, observed_at: str) -> Fact:
    if reading.memory is None or (reading.error is not None and reading.row.get("status") in (None, "unknown")):
        return _unread(reading.vmid, reading.row, before, observed_at)
    memory = reading.memory
    fact = guest_fact(reading.vmid, reading.row, observed_at)
    addresses = known_addresses(reading)
    fact.update(
        protection=memory.protection,
        config_digest=memory.digest,
        created_at=memory.created_at,
        description=memory.description,
        addresses=addresses,
        address=primary_address(addresses, memory.nics),
        health="unknown" if reading.running else "stopped",
    )
    oldest = _oldest_kept(reading)
    if oldest is not None:
        fact.update(freshness="stale", observed_at=format_time(datetime.fromtimestamp(oldest, UTC)), health="unknown")
    return fact


def _oldest_kept(reading: GuestReading) -> float | None:
    """When the oldest part was read that should have been read again this time; None when all is as fresh as wanted."""
    memory = reading.memory
    if memory is None:
        return None
    if reading.error is not None:
        return memory.config_at
    return memory.live_at if reading.running and memory.live and memory.live_problem else None


def _unread(vmid: int, row: Mapping[str, Any], before: Fact | None, observed_at: str) -> Fact:
    """A guest of which nothing new is known but that it exists."""
    if before is not None and before["type"] == row.get("type"):
        kept = as_stale(before)
        kept.update(health="unknown", node=str(row["node"]))
        return kept
    fact = guest_fact(vmid, row, observed_at)
    fact.update(name=guest_name(vmid, row), observed_at=None, freshness="unknown")
    return fact


def probe_targets(
    guests: Iterable[Fact], catalogue: Mapping[str, CatalogueEntry], guest_port: int
) -> dict[Target, list[int]]:
    """What to knock at: the endpoints of services, or the guest's own port where it offers none."""
    targets: dict[Target, list[int]] = {}
    for guest in guests:
        if guest["status"] != "running" or guest["freshness"] == "unknown" or not guest["address"]:
            continue
        offered = offered_services(guest["tags"], catalogue)
        wanted = [_target(guest["address"], endpoint) for service in offered for endpoint in service.entry.endpoints]
        if not offered and guest_port:
            wanted = [Target(guest["address"], guest_port, _ANSWERS)]
        for target in wanted:
            targets.setdefault(target, []).append(guest["vmid"])
    return targets


def _target(address: str, endpoint: ServiceEndpoint) -> Target:
    return Target(address, endpoint.port, endpoint.health)


def service_facts(
    guests: Iterable[Fact], catalogue: Mapping[str, CatalogueEntry], results: Targets, observed_at: str
) -> list[Fact]:
    """Every service that a guest's tags say it offers."""
    facts = [
        _service(guest, offered, results, observed_at)
        for guest in guests
        if not guest["template"]
        for offered in offered_services(guest["tags"], catalogue)
    ]
    return sorted(facts, key=lambda fact: (fact["name"], fact["vmid"]))


def _service(guest: Fact, offered: OfferedService, results: Targets, observed_at: str) -> Fact:
    stopped = guest["status"] != "running" and guest["freshness"] == "fresh"
    endpoints = [
        _endpoint(guest, endpoint, results, observed_at, stopped=stopped) for endpoint in offered.entry.endpoints
    ]
    probed = any(endpoint["observed_at"] for endpoint in endpoints)
    return {
        "name": offered.entry.name,
        "service": offered.entry.name,
        "purpose": offered.purpose,
        "type": guest["type"],
        "tags": [tag for tag in guest["tags"] if tag.startswith((SERVICE_TAG, PURPOSE_TAG))],
        "guest": guest["name"],
        "vmid": guest["vmid"],
        "address": guest["address"],
        "endpoints": endpoints,
        "health": "stopped" if stopped else worst_health(endpoint["health"] for endpoint in endpoints),
        "observed_at": observed_at if probed else guest["observed_at"],
        "source": "probe" if probed else guest["source"],
        "freshness": "fresh" if probed else guest["freshness"],
    }


def _endpoint(guest: Fact, endpoint: ServiceEndpoint, results: Targets, observed_at: str, *, stopped: bool) -> Fact:
    address = guest["address"]
    result = results.get(_target(address, endpoint)) if address else None
    return {
        "name": endpoint.name,
        "protocol": endpoint.protocol,
        "port": endpoint.port,
        "url": endpoint.url(address) if address else None,
        "health": "stopped" if stopped else result.health if result else "unknown",
        "latency_ms": result.latency_ms if result else None,
        "detail": result.detail if result else None,
        "observed_at": observed_at if result else None,
    }


def set_guest_health(guests: Iterable[Fact], services: Iterable[Fact], results: Targets, guest_port: int) -> None:
    """A guest is as well as the worst of its services, or as its own port says where it offers none."""
    by_vmid: dict[int, list[str]] = {}
    for service in services:
        by_vmid.setdefault(service["vmid"], []).append(service["health"])
    for guest in guests:
        if guest["health"] == "stopped" or guest["freshness"] == "unknown":
            continue
        result = results.get(Target(guest["address"], guest_port, _ANSWERS)) if guest["address"] else None
        if guest["vmid"] in by_vmid:
            guest["health"] = worst_health(by_vmid[guest["vmid"]])
        elif result:
            guest["health"] = result.health


def worst_health(healths: Iterable[str]) -> str:
    """Unhealthy before unknown before healthy; nothing at all is unknown."""
    found = set(healths)
    return next((health for health in _HEALTH_FROM_WORST if health in found), "unknown")
