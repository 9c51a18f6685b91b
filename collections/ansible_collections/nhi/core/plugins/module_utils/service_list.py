# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which services can be had, which run where, and which are unfinished: catalogue, state and records side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .catalogue import CatalogueEntry
from .deployment import Record
from .state_document import Document

RUNNING_HEADINGS = ("SERVICE", "PURPOSE", "GUEST", "VMID", "URL", "HEALTH")
CATALOGUE_HEADINGS = ("SERVICE", "PORTS", "PURPOSES", "WHAT IT IS")


def list_services(
    catalogue: Mapping[str, CatalogueEntry], document: Document | None, unfinished: Iterable[Record]
) -> dict[str, Any]:
    """All lists for programs; without a state nothing is known to run and ``observed_at`` is None."""
    services = document["infrastructure"]["services"] if document else []
    return {
        "catalogue": [_offer(entry) for _name, entry in sorted(catalogue.items())],
        "services": [_instance(service) for service in services],
        "unfinished": [record.as_data() for record in unfinished],
        "observed_at": document["meta"]["generated_at"] if document else None,
    }


def _offer(entry: CatalogueEntry) -> dict[str, Any]:
    return {
        "service": entry.name,
        "title": entry.title,
        "summary": str(entry.raw["summary"]),
        "ports": [endpoint.port for endpoint in entry.endpoints],
        "purposes": list(entry.raw["sizes"]),
        "criticality": entry.criticality,
        "backup": entry.backup,
    }


def _instance(service: Mapping[str, Any]) -> dict[str, Any]:
    facts = ("service", "purpose", "guest", "vmid", "address", "health", "freshness", "observed_at")
    found = {fact: service[fact] for fact in facts}
    return {**found, "urls": [endpoint["url"] for endpoint in service["endpoints"] if endpoint["url"]]}


def running_rows(listing: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What runs, as texts under RUNNING_HEADINGS."""
    return [
        (s["service"], s["purpose"] or "-", s["guest"], str(s["vmid"]), " ".join(s["urls"]) or "-", s["health"])
        for s in listing["services"]
    ]


def catalogue_rows(listing: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What can be had, as texts under CATALOGUE_HEADINGS."""
    return [
        (offer["service"], " ".join(map(str, offer["ports"])) or "-", " ".join(offer["purposes"]), offer["summary"])
        for offer in listing["catalogue"]
    ]


def unfinished_lines(listing: Mapping[str, Any]) -> list[str]:
    """What is being deployed or removed, or was cut off while it was, one line each, then an empty one."""
    lines = [str(record["message"]) for record in listing["unfinished"]]
    return [*lines, ""] if lines else []


def table(listing: Mapping[str, Any]) -> list[str]:
    """All lists as lines for people."""
    running = running_rows(listing)
    lines = list(_lines(RUNNING_HEADINGS, running)) if running else ["No service is known to run."]
    offered = _lines(CATALOGUE_HEADINGS, catalogue_rows(listing))
    return [*lines, "", *unfinished_lines(listing), *offered]


def _lines(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
