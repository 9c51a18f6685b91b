# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a scan down on top of what others wrote, and tell what it changed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .alerts import compute_alerts
from .catalogue import CatalogueEntry
from .errors import ConflictError
from .scan import Client, Scanner, ScanResult
from .scan_changes import changed_guests, difference, meaning, merge_infrastructure
from .scan_memory import ScanMemory
from .scan_options import ScanOptions
from .scan_partial import PartialResult, PartialScanner, patched
from .scan_quotas import Providers, scan_quotas
from .state_document import Document, counts, empty_document, utc_now

if TYPE_CHECKING:
    from .state import StateSnapshot, StateStore


def new_document(
    result: ScanResult,
    base: Document | None,
    current: Document | None,
    by: Mapping[str, str],
    duration_seconds: float,
    providers: Providers | None = None,
) -> Document:
    """The document to write: the scan on top of the current state, whose other domains stay as they are.

    ``providers`` are the quotas that the scan read; None where it did not ask for them.
    """
    document = dict(current) if current else empty_document(by, utc_now())
    old = current["infrastructure"] if current else None
    if current is not None and current is not base:
        infrastructure = merge_infrastructure(
            base["infrastructure"] if base else None, result.infrastructure, old, result.started_at
        )
    else:
        infrastructure = result.infrastructure
    document["infrastructure"] = infrastructure
    if providers is not None:
        document["api_providers"] = dict(providers)
    document["alerts"] = compute_alerts(result.found_alerts, current["alerts"] if current else (), result.observed_at)
    document["meta"] = {
        **document["meta"],
        "generated_at": result.observed_at,
        "generated_by": dict(by),
        "scan": {
            "kind": result.kind,
            "duration_seconds": round(duration_seconds, 4),
            "api_calls": result.api_calls,
        },
    }
    return document


def write_scan(
    store: StateStore,
    result: ScanResult,
    base: StateSnapshot | None,
    by: Mapping[str, str],
    duration_seconds: float,
    providers: Providers | None = None,
) -> StateSnapshot:
    """Write a scan down; when somebody else wrote since base was read, on top of what they wrote."""
    before = base.document if base else None
    try:
        return store.write(
            new_document(result, before, before, by, duration_seconds, providers),
            expected_checksum=base.checksum if base else None,
        )
    except ConflictError:
        return store.amend(lambda current: new_document(result, before, current, by, duration_seconds, providers))


def write_partial(store: StateStore, result: PartialResult, base: StateSnapshot) -> StateSnapshot:
    """Put some guests into the state as it is now; the time of the last whole scan stays."""
    return store.amend(lambda current: patched(current or base.document, result))


@dataclass(frozen=True)
class ScanReport:
    """A whole scan as its callers report it."""

    document: Document
    changed: bool
    diff: dict[str, Any]
    changed_guests: list[dict[str, Any]]
    durations: dict[str, float]
    result: ScanResult
    warnings: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many of everything the state holds."""
        guests = self.document["infrastructure"]["guests"]
        return {
            **counts(self.document),
            "running": sum(guest["status"] == "running" for guest in guests),
            "stale": sum(guest["freshness"] != "fresh" for guest in guests),
            "read": self.result.read_guests,
        }

    def as_data(self) -> dict[str, Any]:
        """What a module returns and a program reads."""
        meta = self.document["meta"]
        return {
            "changed": self.changed,
            "counts": self.counts,
            "durations": self.durations,
            "api_calls": self.result.api_calls,
            "kind": self.result.kind,
            "changed_guests": self.changed_guests,
            "nodes": self.document["infrastructure"]["nodes"],
            "alerts": self.document["alerts"],
            "revision": meta["revision"],
            "topology_fingerprint": meta["topology_fingerprint"],
        }


def run_scan(
    store: StateStore,
    client: Client,
    catalogue: Mapping[str, CatalogueEntry],
    options: ScanOptions,
    *,
    endpoint: str,
    identity: str,
    by: Mapping[str, str],
    dry_run: bool = False,
) -> ScanReport:
    """Read the last state, scan, write state.json and the scanner's memory; with dry_run nothing is written.

    When the options name guests only those are read, unless there is no state yet that they could be put into.
    """
    started = time.perf_counter()
    directory = Path(store.directory)
    base = store.read_or_none()
    memory = ScanMemory.load(directory, endpoint)
    result: ScanResult
    warnings: tuple[str, ...] = ()
    if options.guests and base is not None:
        result = partial = PartialScanner(client, memory, catalogue, options, identity=identity).scan_guests(
            base.document
        )
        writing = time.perf_counter()
        document = patched(base.document, partial) if dry_run else write_partial(store, partial, base).document
        if not dry_run:
            memory.save_only(directory, partial.vmids)
    else:
        result = Scanner(client, memory, catalogue, options, identity=identity).scan(base.document if base else None)
        old = base.document if base else None
        seen = scan_quotas(options.quotas, old["api_providers"] if old else {}) if options.quotas is not None else None
        warnings = (seen.warning,) if seen and seen.warning else ()
        providers = seen.providers if seen else None
        writing = time.perf_counter()
        if dry_run:
            document = new_document(result, old, old, by, writing - started, providers)
        else:
            document = write_scan(store, result, base, by, writing - started, providers).document
            memory.save(directory)
    diff = difference(meaning(base.document if base else None), meaning(document))
    ended = time.perf_counter()
    durations = {**result.durations, "write": round(ended - writing, 4), "total": round(ended - started, 4)}
    changed = base is None or diff["before"] != diff["after"]
    return ScanReport(document, changed, diff, changed_guests(diff, document), durations, result, warnings)
