# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Alerts a scan raises, computed from what it saw and from what the last one saw."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from .catalogue import CatalogueEntry

Alert = dict[str, Any]
Fact = Mapping[str, Any]

STORAGE_WARNING, STORAGE_CRITICAL = 0.85, 0.90
# Alerts of other kinds belong to other programs and are left as they are.
SCAN_KINDS = frozenset(
    (
        "api_permission",
        "api_unreadable",
        "guest_address_unknown",
        "guest_down",
        "guest_stale",
        "guest_unhealthy",
        "node_offline",
        "service_unhealthy",
        "service_unknown",
        "storage_full",
    )
)
_STOPPING = ("vzstop", "vzshutdown", "vzsuspend", "qmstop", "qmshutdown", "qmsuspend", "hastop")


def compute_alerts(found: Iterable[Alert], previous: Iterable[Alert], observed_at: str) -> list[Alert]:
    """The alerts found now, with the time each began kept, beside those of other programs."""
    before = {alert["id"]: alert for alert in previous}
    ours = {
        alert["id"]: {
            **alert,
            "since": before.get(alert["id"], {}).get("since", observed_at),
            "observed_at": observed_at,
        }
        for alert in found
    }
    others = {key: alert for key, alert in before.items() if alert["kind"] not in SCAN_KINDS and key not in ours}
    return [alert for _key, alert in sorted({**others, **ours}.items())]


def guest_of(item: Mapping[str, Any]) -> int | None:
    """VMID of the guest that an alert is about, or whose service it is about; None for everything else."""
    kind, _slash, rest = str(item["subject"]).partition("/")
    vmid = rest.rpartition("/")[2]
    return int(vmid) if kind in ("guest", "service") and vmid.isdigit() else None


def alert(identity: str, severity: str, subject: str, message: str) -> Alert:
    """An alert whose kind is the first word of its id; times are added by compute_alerts."""
    kind = identity.partition(":")[0].replace("-", "_")
    return {"id": identity, "severity": severity, "kind": kind, "subject": subject, "message": message}


def node_alerts(nodes: Iterable[Fact], guests: Collection[Fact]) -> Iterator[Alert]:
    """A node that is not online takes its guests' freshness with it; that is one alert, not one per guest."""
    for node in nodes:
        if node["status"] == "offline":
            count = sum(guest["node"] == node["name"] for guest in guests)
            yield alert(
                f"node-offline:{node['name']}",
                "critical",
                f"node/{node['name']}",
                f"Node {node['name']} is offline; what is known of its {count} guests is no longer fresh.",
            )


def storage_alerts(storage: Iterable[Fact]) -> Iterator[Alert]:
    """A storage that fills up; one that several nodes share is told once."""
    seen: set[str] = set()
    for item in sorted(storage, key=lambda item: str(item["id"])):
        key = f"shared/{item['name']}" if item["shared"] else str(item["id"]).removeprefix("storage/")
        if key in seen or not item["total_mib"] or item["used_mib"] is None:
            continue
        seen.add(key)
        share = item["used_mib"] / item["total_mib"]
        if share > STORAGE_WARNING:
            free = (item["total_mib"] - item["used_mib"]) / 1024
            yield alert(
                f"storage-full:{key}",
                "critical" if share > STORAGE_CRITICAL else "warning",
                f"storage/{key}",
                f"Storage {item['name']} is {share:.0%} full, {free:.1f} GiB are left.",
            )


def guest_alerts(
    guests: Iterable[Fact],
    *,
    onboot: Collection[int],
    stopped_unasked: Collection[int],
    dead_nodes: Collection[str],
    serving: Collection[int],
) -> Iterator[Alert]:
    """Guests that are down and should not be, or about which too little is known; each set holds VMIDs or nodes.

    The health of a guest that is serving is told by the alerts of its services.
    """
    for guest in guests:
        vmid, name = guest["vmid"], f"{guest['name']} ({guest['vmid']})"
        if guest["freshness"] != "fresh":
            if guest["node"] not in dead_nodes:
                since = guest["observed_at"]
                known = f"its facts are those of {since[:19]} UTC" if since else "nothing is known of it"
                yield alert(
                    f"guest-stale:{vmid}", "warning", f"guest/{vmid}", f"Guest {name} could not be read; {known}."
                )
        elif guest["template"]:
            continue
        elif guest["status"] == "stopped" and vmid in stopped_unasked:
            text = f"Guest {name} was running and is stopped, and no task stopped it."
            yield alert(f"guest-down:{vmid}", "critical", f"guest/{vmid}", text)
        elif guest["status"] == "stopped" and vmid in onboot:
            text = f"Guest {name} is stopped although it is set to start at boot."
            yield alert(f"guest-down:{vmid}", "warning", f"guest/{vmid}", text)
        elif guest["status"] == "running" and not guest["address"]:
            text = f"Guest {name} runs and no address of it is known."
            yield alert(f"guest-address-unknown:{vmid}", "info", f"guest/{vmid}", text)
        elif guest["health"] == "unhealthy" and vmid not in serving:
            text = f"Guest {name} runs and does not answer at {guest['address']}."
            yield alert(f"guest-unhealthy:{vmid}", "warning", f"guest/{vmid}", text)


def service_alerts(services: Iterable[Fact], catalogue: Mapping[str, CatalogueEntry]) -> Iterator[Alert]:
    """Services that were asked and are not well."""
    for service in services:
        if service["freshness"] != "fresh" or service["health"] != "unhealthy":
            continue
        criticality = catalogue[service["service"]].raw.get("criticality", "medium")
        bad = [item for item in service["endpoints"] if item["health"] == "unhealthy"]
        where = "; ".join(f"{item['url']}: {item['detail']}" for item in bad)
        yield alert(
            f"service-unhealthy:{service['service']}:{service['vmid']}",
            "critical" if criticality in ("high", "critical") else "warning",
            f"service/{service['service']}/{service['vmid']}",
            f"Service {service['name']} on {service['guest']} is not well ({where}).",
        )


def unknown_service_alerts(
    guests: Iterable[Fact], catalogue: Mapping[str, CatalogueEntry], prefix: str
) -> Iterator[Alert]:
    """Guests whose tags name a service that the catalogue does not have; without a catalogue nothing is said."""
    for guest in guests:
        for tag in guest["tags"]:
            name = tag.removeprefix(prefix)
            if catalogue and tag.startswith(prefix) and name not in catalogue:
                yield alert(
                    f"service-unknown:{guest['vmid']}:{name}",
                    "info",
                    f"guest/{guest['vmid']}",
                    f"Guest {guest['name']} has the tag {tag}, and the catalogue has no service {name}.",
                )


def newly_stopped(guests: Iterable[Fact], previous: Iterable[Fact]) -> set[int]:
    """Guests that ran at the last scan and are stopped now."""
    ran = {guest["vmid"] for guest in previous if guest["status"] == "running"}
    return {g["vmid"] for g in guests if g["vmid"] in ran and g["status"] == "stopped" and g["freshness"] == "fresh"}


def still_down(previous: Iterable[Alert]) -> set[int]:
    """Guests whose unasked stop an earlier scan found already."""
    return {
        int(item["id"].rpartition(":")[2])
        for item in previous
        if item["kind"] == "guest_down" and item["severity"] == "critical"
    }


def stopped_by_task(tasks: Iterable[Mapping[str, Any]], since: float) -> set[int]:
    """Guests that a task stopped after a moment (seconds since the epoch)."""
    return {
        int(task["id"])
        for task in tasks
        if task.get("type") in _STOPPING
        and str(task.get("id", "")).isdigit()
        and float(task.get("starttime") or 0) >= since
    }


def unreadable_alerts(failing: Iterable[str], guests: Collection[Fact]) -> Iterator[Alert]:
    """Nodes that are said to be online and stopped answering in the middle of the scan."""
    for node in failing:
        stale = sum(guest["node"] == node and guest["freshness"] != "fresh" for guest in guests)
        yield alert(
            f"api-unreadable:{node}",
            "warning",
            f"node/{node}",
            f"Node {node} stopped answering during the scan; {stale} of its guests could not be read.",
        )


def permission_alerts(refusals: Iterable[tuple[int, str]], identity: str) -> Iterator[Alert]:
    """Privileges the token lacks, each with how many guests stay partly unread for it."""
    by_privilege: dict[str, list[int]] = {}
    for vmid, privilege in refusals:
        by_privilege.setdefault(privilege or "an unnamed privilege", []).append(vmid)
    for privilege, vmids in by_privilege.items():
        names = privilege.replace("|", " or ")
        yield alert(
            f"api-permission:{privilege}",
            "warning",
            f"token/{identity}",
            f"{identity} lacks {names} on {len(vmids)} guests (first /vms/{min(vmids)}); their addresses are not read.",
        )
