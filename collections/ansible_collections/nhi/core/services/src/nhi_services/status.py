# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi status`: the lab as a person wants to see it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, TextIO

from ansible_collections.nhi.core.plugins.module_utils.state_document import (
    age_seconds,
    document_age_seconds,
    freshness_at,
)
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nhi_services.words import age_in_words, amount, printable

if TYPE_CHECKING:
    from datetime import datetime

    from ansible_collections.nhi.core.plugins.module_utils.state_document import Document

# The timer scans every five minutes; what is older than three of them needs attention.
STALE_AFTER_SECONDS: Final = 900.0

_STYLES: Final = {
    "healthy": "green",
    "unhealthy": "bold red",
    "unknown": "yellow",
    "running": "green",
    "critical": "bold red",
    "warning": "yellow",
    "info": "cyan",
    "stale": "yellow",
}
# Where nobody looks at a width, a table is as wide as it needs to be.
_PIPE_WIDTH: Final = 1000


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


def status_of(document: Document, now: datetime) -> Status:
    """What a person wants to know of a state document."""
    infrastructure = document["infrastructure"]
    offered: dict[int, list[str]] = {}
    for service in infrastructure["services"]:
        offered.setdefault(service["vmid"], []).append(service["name"])
    alerts = sorted(document["alerts"], key=lambda alert: (_SEVERITY_ORDER.index(alert["severity"]), alert["id"]))
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
        alerts=tuple(
            AlertLine(alert["severity"], alert["message"], age_seconds(alert["since"], now)) for alert in alerts
        ),
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


def print_status(status: Status, out: TextIO) -> None:
    """The table and the alerts; colours and the terminal's width only on a terminal."""
    console = Console(file=out, highlight=False, width=None if out.isatty() else _PIPE_WIDTH)
    console.print(_headline(status))
    if status.guests:
        console.print(_guest_table(status.guests))
    else:
        console.print("There are no guests.")
    if status.alerts:
        console.print(_alert_table(status.alerts))
    else:
        console.print("No alerts.")


def _headline(status: Status) -> Text:
    version = f"Proxmox VE {status.version}" if status.version else "Proxmox VE"
    parts = [status.cluster, version, amount(len(status.guests), "guests"), f"state {status.revision}"]
    line = Text(printable(", ".join(part for part in parts if part)) + ", ")
    style = _STYLES["stale"] if status.age_seconds > STALE_AFTER_SECONDS else ""
    return line.append(f"{age_in_words(status.age_seconds)} old", style=style)


def _guest_table(guests: tuple[GuestLine, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("VMID", justify="right", no_wrap=True)
    table.add_column("GUEST", no_wrap=True, overflow="ellipsis", min_width=8)
    for heading in ("TYPE", "ADDRESS", "STATE", "HEALTH", "AGE"):
        table.add_column(heading, no_wrap=True)
    for line in guests:
        stale = "" if line.freshness == "fresh" else f" {line.freshness}"
        table.add_row(
            str(line.vmid),
            Text(printable(line.guest)),
            line.type,
            Text(printable(line.address or "-")),
            _coloured(line.state),
            _coloured(line.health),
            Text(age_in_words(line.age_seconds) + stale, style=_STYLES["stale"] if stale else ""),
        )
    return table


def _alert_table(alerts: tuple[AlertLine, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("ALERT", no_wrap=True)
    table.add_column("SINCE", no_wrap=True)
    table.add_column("MESSAGE", overflow="fold")
    for line in alerts:
        table.add_row(_coloured(line.severity), age_in_words(line.age_seconds), Text(printable(line.message)))
    return table


def _coloured(word: str) -> Text:
    return Text(printable(word), style=_STYLES.get(word, "dim"))
