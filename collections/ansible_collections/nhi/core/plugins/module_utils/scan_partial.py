# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scan only some guests; what is known of everything else stays as it was, with its own time.

One ``/cluster/resources`` says where they are. Their status and configuration are always asked for, since a row may
be ten seconds older than the change that this scan is to see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import alerts as rules
from .catalogue import SERVICE_TAG, CatalogueEntry, Health, ServiceEndpoint
from .errors import ProxmoxError
from .probe import ProbeResult, Target, probe_all
from .scan import Scanner, ScanResult
from .scan_facts import (
    guest_facts,
    probe_targets,
    service_facts,
    set_guest_health,
    unreadable_nodes,
)
from .scan_guests import GuestReader, GuestReading
from .scan_options import GuestWish
from .scan_rows import Resources, is_vague, sort_rows
from .state_document import Document, as_stale, format_time, parse_time, utc_now

_SLACK_SECONDS = 1.0

Fact = dict[str, Any]
ServiceKey = tuple[str, int]


@dataclass
class PartialResult(ScanResult):
    """What was seen of some guests; ``infrastructure`` holds only theirs."""

    vmids: frozenset[int] = frozenset()
    kept_alerts: frozenset[str] = frozenset()
    missing: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


class PartialScanner(Scanner):
    """One scan of some guests of one endpoint."""

    def scan_guests(self, previous: Document) -> PartialResult:
        """Read the guests that the options name, on top of what the last scan left."""
        wish = self._options.guests
        started, calls = utc_now(), self._client.calls
        old = previous["infrastructure"]
        with self._phase("resources"):
            resources = sort_rows(self._client.get("/cluster/resources") or ())
            observed = utc_now()
        with self._phase("guests"):
            readings, dead = self._read_some(wish, resources, old["guests"], observed.timestamp())
            known = {guest["vmid"] for guest in old["guests"]}
            meant = (_known_as(wish, old["guests"]) | wish.vmids) & known
            gone = meant - readings.keys() - dead.keys()
            hidden = {vmid for vmid in gone if not self._is_free(vmid)}
        guests = guest_facts(readings, dead, old["guests"], format_time(observed))
        guests += [{**as_stale(guest), "health": "unknown"} for guest in old["guests"] if guest["vmid"] in hidden]
        with self._phase("probes"):
            services, carried = self._services(guests, old)
        found = self._found_alerts(guests, services, carried, previous)
        vmids = frozenset(readings) | frozenset(dead) | gone
        for vmid in gone - hidden:
            self._memory.guests.pop(vmid, None)
        return PartialResult(
            infrastructure={"guests": guests, "services": services},
            found_alerts=found,
            started_at=format_time(started),
            observed_at=format_time(observed),
            kind="partial",
            api_calls=self._client.calls - calls,
            read_guests=sum(reading.asked for reading in readings.values()),
            durations=self._durations,
            vmids=vmids,
            kept_alerts=frozenset(self._kept_alerts(guests, carried, previous)),
            missing=_missing(wish, vmids, [*guests, *old["guests"]]),
            unread=tuple(f"{guest['name']} ({guest['vmid']})" for guest in guests if guest["freshness"] != "fresh"),
        )

    def _read_some(
        self, wish: GuestWish, resources: Resources, known: Iterable[Fact], now: float
    ) -> tuple[dict[int, GuestReading], dict[int, Mapping[str, Any]]]:
        """Readings of the guests that are meant, and rows of those whose node is offline."""
        rows = resources.guests
        named = {vmid for vmid, row in rows.items() if row.get("name") in wish.names}
        certain = (named | wish.vmids | _known_as(wish, known)) & rows.keys()
        found = {rows[vmid].get("name") for vmid in named}
        # A guest made a moment ago has no name in the list yet: it may be the one that is meant.
        nameless = {vmid for vmid, row in rows.items() if is_vague(row)} if wish.names - found else set()
        offline = unreadable_nodes(resources)
        alive = {vmid: rows[vmid] for vmid in certain | nameless if rows[vmid]["node"] not in offline}
        dead = {vmid: rows[vmid] for vmid in certain if rows[vmid]["node"] in offline}
        reader = GuestReader(self._client, self._options.lifetimes, per_node=self._options.per_node, now=now)
        # As if a task had touched each of them just now.
        activity = dict.fromkeys(alive, now)
        readings = reader.read_all(alive, self._memory.guests, activity, everything=self._options.everything)
        meant = {v: r for v, r in readings.items() if v in certain or r.row.get("name") in wish.names}
        for vmid, reading in meant.items():
            if reading.memory is not None:
                self._memory.guests[vmid] = reading.memory
        return meant, dead

    def _is_free(self, vmid: int) -> bool:
        """Whether a guest that is not listed is gone, and not only hidden from this token."""
        try:
            self._client.get("/cluster/nextid", {"vmid": vmid})
        except ProxmoxError:
            return False
        return True

    def _services(self, guests: list[Fact], old: Mapping[str, Any]) -> tuple[list[Fact], set[ServiceKey]]:
        """What the guests offer, and which of it could not be asked and has run on since it was asked last."""
        results: dict[Target, ProbeResult] = {}
        port = self._options.guest_health_port
        if self._options.health_checks:
            targets = probe_targets(guests, self._catalogue, port)
            results = probe_all(targets, deadline_seconds=self._options.probe_deadline_seconds)
        now = format_time(utc_now())
        services = service_facts(guests, {**_remembered(old["services"]), **self._catalogue}, results, now)
        before = {_key(service): service for service in old["services"]}
        same = _unbroken(guests, old["guests"])
        unasked = {_key(service) for service in services if service["source"] != "probe"}
        carried = {key for key in unasked & before.keys() if key[1] in same}
        services = [_carry(before[key], s) if (key := _key(s)) in carried else s for s in services]
        set_guest_health(guests, services, results, port)
        serving = {service["vmid"] for service in services}
        for guest in guests:
            if not self._options.health_checks and guest["vmid"] in same.keys() - serving:
                guest["health"] = same[guest["vmid"]]["health"]
        return services, carried

    def _found_alerts(
        self, guests: list[Fact], services: list[Fact], carried: set[ServiceKey], previous: Document
    ) -> list[dict[str, Any]]:
        onboot = {vmid for vmid, memory in self._memory.guests.items() if memory.onboot}
        asked = [service for service in services if _key(service) not in carried]
        return [
            *rules.guest_alerts(
                guests,
                onboot=onboot,
                stopped_unasked=self._stopped_unasked(guests, previous),
                dead_nodes={
                    node["name"] for node in previous["infrastructure"]["nodes"] if node["status"] == "offline"
                },
                serving={service["vmid"] for service in services},
            ),
            *rules.service_alerts(asked, self._catalogue),
            *rules.unknown_service_alerts(guests, self._catalogue, SERVICE_TAG),
        ]

    def _stopped_unasked(self, guests: Iterable[Mapping[str, Any]], previous: Document | None) -> set[int]:
        """As in a whole scan, but the tasks are asked for only when a guest stopped since it was last seen."""
        known = previous["infrastructure"]["guests"] if previous else []
        if rules.newly_stopped(guests, known):
            self._tasks = self._optional("/cluster/tasks") or []
        return super()._stopped_unasked(guests, previous)

    def _kept_alerts(self, guests: Iterable[Fact], carried: set[ServiceKey], previous: Document) -> set[str]:
        """Alerts about these guests that nothing was found out about this time."""
        kept = {f"service-unhealthy:{name}:{vmid}" for name, vmid in carried}
        if not self._catalogue:
            tags = ((guest["vmid"], tag.removeprefix(SERVICE_TAG)) for guest in guests for tag in guest["tags"])
            kept |= {f"service-unknown:{vmid}:{name}" for vmid, name in tags}
        return kept & {alert["id"] for alert in previous["alerts"]}


def unknown_guests(result: ScanResult) -> tuple[str, ...]:
    """What a partial scan was asked for in vain; a whole scan is asked for nothing by name."""
    return result.missing if isinstance(result, PartialResult) else ()


def patched(current: Document, result: PartialResult) -> Document:
    """The current state with what a partial scan saw; of each guest the later observation stands."""
    infrastructure = current["infrastructure"]
    ours = {guest["vmid"]: guest for guest in result.infrastructure["guests"]}
    theirs = {guest["vmid"]: guest["observed_at"] or "" for guest in infrastructure["guests"]}
    settled = {
        vmid
        for vmid in result.vmids
        # A guest whose last facts had to be kept has their old time; one that is gone was looked for just now.
        if theirs.get(vmid, "") <= ((ours[vmid]["observed_at"] or "") if vmid in ours else result.observed_at)
    }
    lists = {
        kind: [item for item in infrastructure[kind] if item["vmid"] not in settled]
        + [item for item in result.infrastructure[kind] if item["vmid"] in settled]
        for kind in ("guests", "services")
    }
    about = [alert for alert in current["alerts"] if rules.guest_of(alert) in settled]
    kept = [alert for alert in about if alert["id"] in result.kept_alerts]
    dropped = {alert["id"] for alert in about}
    found = [alert for alert in result.found_alerts if rules.guest_of(alert) in settled]
    return {
        **current,
        "infrastructure": {**infrastructure, **lists},
        "alerts": [
            *(alert for alert in current["alerts"] if alert["id"] not in dropped),
            *rules.compute_alerts(found, [alert for alert in about if alert not in kept], result.observed_at),
            *kept,
        ],
    }


def _key(service: Fact) -> ServiceKey:
    return service["service"], service["vmid"]


def _carry(before: Fact, now: Fact) -> Fact:
    """A service as it was asked last, on a guest as it is now."""
    return {**before, **{fact: now[fact] for fact in ("guest", "purpose", "tags")}}


def _known_as(wish: GuestWish, known: Iterable[Fact]) -> set[int]:
    """VMIDs that bear a wanted name in the last state: the guest may be gone, or called otherwise by now."""
    return {guest["vmid"] for guest in known if guest["name"] in wish.names}


def _missing(wish: GuestWish, vmids: frozenset[int], guests: Iterable[Fact]) -> tuple[str, ...]:
    """What was asked for and is neither there nor was known to be."""
    names = {guest["name"] for guest in guests}
    return (*map(str, sorted(wish.vmids - vmids)), *sorted(wish.names - names))


def _remembered(services: Iterable[Fact]) -> dict[str, CatalogueEntry]:
    """Where services listen, as far as the last state tells: for callers that have no catalogue."""
    return {
        service["service"]: CatalogueEntry(
            name=service["service"],
            endpoints=tuple(
                ServiceEndpoint(item["name"], item["protocol"], item["port"], Health("none"))
                for item in service["endpoints"]
            ),
            raw={},
        )
        for service in services
    }


def _unbroken(guests: Iterable[Fact], known: Iterable[Fact]) -> dict[int, Fact]:
    """Guests that have run on at the same address since they were last observed, as they were then."""
    before = {guest["vmid"]: guest for guest in known}
    return {
        guest["vmid"]: before[guest["vmid"]]
        for guest in guests
        if guest["freshness"] == "fresh" and _ran_on(guest, before.get(guest["vmid"]))
    }


def _ran_on(guest: Fact, before: Fact | None) -> bool:
    if before is None or not before["observed_at"] or guest["uptime_seconds"] is None:
        return False
    facts = ("type", "status", "address")
    elapsed = (parse_time(guest["observed_at"]) - parse_time(before["observed_at"])).total_seconds()
    return [guest[f] for f in facts] == [before[f] for f in facts] and guest[
        "uptime_seconds"
    ] >= elapsed - _SLACK_SECONDS
