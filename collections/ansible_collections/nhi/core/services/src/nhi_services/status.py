# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi status`: the lab as a person wants to see it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from ansible_collections.nhi.core.plugins.module_utils.errors import PolicyError
from ansible_collections.nhi.core.plugins.module_utils.policy import find_policy, unprotected
from ansible_collections.nhi.core.plugins.module_utils.state_document import (
    age_seconds,
    document_age_seconds,
    freshness_at,
)

from nhi_services.table import Cell, Screen, lines_of
from nhi_services.words import age_in_words, amount

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from ansible_collections.nhi.core.plugins.module_utils.deployment import Record
    from ansible_collections.nhi.core.plugins.module_utils.state_document import Document

# The timer scans every five minutes; what is older than three of them needs attention.
STALE_AFTER_SECONDS: Final = 900.0

_COLOURS: Final = {
    "healthy": "green",
    "unhealthy": "red",
    "unknown": "yellow",
    "running": "green",
    "critical": "red",
    "warning": "yellow",
    "info": "cyan",
}
_LATE: Final = "yellow"


@dataclass(frozen=True)
class GuestLine:
    """One guest in the table."""

    vmid: int
    guest: str
    type: str
    node: str
    address: str | None
    state: str
    health: str
    services: tuple[str, ...]
    age_seconds: float | None
    freshness: str


@dataclass(frozen=True)
class AlertLine:
    """One alert below the table."""

    severity: str
    message: str
    age_seconds: float | None


@dataclass(frozen=True)
class Status:
    """The lab at a glance."""

    cluster: str | None
    version: str | None
    revision: int
    age_seconds: float
    guests: tuple[GuestLine, ...]
    alerts: tuple[AlertLine, ...]

    def as_data(self) -> dict[str, Any]:
        """The same for programs."""
        return asdict(self)


_SEVERITY_ORDER: Final = ("critical", "warning", "info")


def policy_alerts(document: Document, state_dir: Path, now: datetime) -> list[AlertLine]:
    """What of the policy beside state.json does not hold in Proxmox VE, or that it is broken."""
    try:
        policy = find_policy(None, state_dir)
    except PolicyError as e:
        return [AlertLine("critical", str(e), None)]
    if policy is None:
        return []
    return [
        AlertLine("warning", message, age_seconds(guest["observed_at"], now))
        for guest, message in unprotected(policy, document["infrastructure"]["guests"])
    ]


def status_of(
    document: Document, now: datetime, unfinished: Iterable[Record] = (), more: Iterable[AlertLine] = ()
) -> Status:
    """What a person wants to know of a state document, of deployments and removals that were cut off, and ``more``."""
    infrastructure = document["infrastructure"]
    offered: dict[int, list[str]] = {}
    for service in infrastructure["services"]:
        offered.setdefault(service["vmid"], []).append(service["name"])
    alerts = [
        AlertLine(alert["severity"], alert["message"], age_seconds(alert["since"], now))
        for alert in sorted(document["alerts"], key=lambda alert: str(alert["id"]))
    ]
    alerts += [
        AlertLine("warning", f"{record.story} {record.advice}", age_seconds(record.begun.since, now))
        for record in unfinished
        if record.begun and not record.is_under_way
    ]
    alerts += more
    return Status(
        cluster=infrastructure["cluster"]["name"],
        version=infrastructure["cluster"]["version"],
        revision=document["meta"]["revision"],
        age_seconds=document_age_seconds(document, now),
        guests=tuple(
            _guest_line(guest, offered.get(guest["vmid"], []), now)
            for guest in infrastructure["guests"]
            if not guest["template"]
        ),
        alerts=tuple(sorted(alerts, key=lambda alert: _SEVERITY_ORDER.index(alert.severity))),
    )


def _guest_line(guest: dict[str, Any], services: list[str], now: datetime) -> GuestLine:
    return GuestLine(
        vmid=guest["vmid"],
        guest=guest["name"],
        type=guest["type"],
        node=guest["node"],
        address=guest["address"],
        state=guest["status"],
        health=guest["health"],
        services=tuple(services),
        age_seconds=age_seconds(guest["observed_at"], now),
        freshness=freshness_at(guest, now, STALE_AFTER_SECONDS),
    )


def render(status: Status, screen: Screen) -> Iterator[str]:
    """The table and the alerts, line by line."""
    yield screen.line(*_headline(status))
    if status.guests:
        yield from lines_of(screen, _GUEST_HEADINGS, [_guest_cells(line) for line in status.guests], flexible="GUEST")
    else:
        yield "There are no guests."
    yield ""
    if status.alerts:
        yield from lines_of(screen, _ALERT_HEADINGS, [_alert_cells(line) for line in status.alerts], flexible="MESSAGE")
    else:
        yield "No alerts."


_GUEST_HEADINGS: Final = ("VMID", "GUEST", "TYPE", "ADDRESS", "STATE", "HEALTH", "AGE")
_ALERT_HEADINGS: Final = ("ALERT", "SINCE", "MESSAGE")


def _headline(status: Status) -> tuple[Cell, Cell]:
    version = f"Proxmox VE {status.version}" if status.version else "Proxmox VE"
    parts = [status.cluster, version, amount(len(status.guests), "guests"), f"state {status.revision}"]
    late = _LATE if status.age_seconds > STALE_AFTER_SECONDS else ""
    return Cell(", ".join(part for part in parts if part) + ", "), Cell(f"{age_in_words(status.age_seconds)} old", late)


def _guest_cells(line: GuestLine) -> list[Cell]:
    mark = f" {line.freshness}" if line.freshness == "stale" else ""
    return [
        Cell(str(line.vmid)),
        Cell(line.guest),
        Cell(line.type),
        Cell(line.address or "-"),
        coloured(line.state),
        coloured(line.health),
        Cell(age_in_words(line.age_seconds) + mark, "" if line.freshness == "fresh" else _LATE),
    ]


def _alert_cells(line: AlertLine) -> list[Cell]:
    return [coloured(line.severity), Cell(age_in_words(line.age_seconds)), Cell(line.message)]


def coloured(word: str) -> Cell:
    """A word of health, state or severity in its colour."""
    return Cell(word, _COLOURS.get(word, ""))
