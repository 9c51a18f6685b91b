# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep state.json true for the guests that a module worked on, whatever became of them.

Nobody is asked whether services are well here: a guest that was made a moment ago has none yet. What the last scan
found out stays where the guest has run on since, and is unknown elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .about import this_program
from .catalogue import CatalogueEntry
from .errors import NHIError
from .proxmox_client import Endpoint
from .scan import Client
from .scan_options import GuestWish, ScanOptions
from .scan_partial import PartialResult
from .scan_write import ScanReport, run_scan
from .state import StateStore


@dataclass
class Rescan:
    """What is needed to read guests anew; ``warnings`` tell what came of it, since it never fails."""

    state_dir: Path
    endpoint: Endpoint
    program: str
    catalogue: Mapping[str, CatalogueEntry] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def __call__(self, api: Client, vmids: Iterable[int] = (), names: Iterable[str] = ()) -> None:
        """Read these guests anew and write them into state.json; without a state everything is read."""
        wish = GuestWish(frozenset(vmids), frozenset(names))
        if not wish:
            return
        try:
            report = self._scan(api, wish)
        except NHIError as e:
            self.warnings.append(f"state.json does not show what this run did, so scan again: {e}")
            return
        if isinstance(report.result, PartialResult) and report.result.unread:
            who = ", ".join(report.result.unread)
            self.warnings.append(f"state.json shows {who} as it was before, since it could not be read: scan again")

    def _scan(self, api: Client, wish: GuestWish) -> ScanReport:
        return run_scan(
            StateStore(self.state_dir),
            api,
            self.catalogue,
            ScanOptions(health_checks=False, guests=wish),
            endpoint=f"{self.endpoint.identity} at {self.endpoint.server}",
            identity=self.endpoint.identity,
            by=this_program(self.program),
        )
