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
from typing import Any

from .about import this_program
from .catalogue import CatalogueEntry
from .errors import NHIError
from .guest import Found
from .proxmox_client import Endpoint
from .scan_guests import Reader
from .scan_options import GuestWish, ScanOptions
from .scan_partial import PartialResult
from .scan_write import ScanReport, run_scan
from .state import StateStore


class _Counted:
    """A client that knows how much a scan asked of it."""

    def __init__(self, api: Reader) -> None:
        self._api = api
        self.calls = 0

    def get(self, path: Any, params: Mapping[str, Any] | None = None) -> Any:
        self.calls += 1
        return self._api.get(path, params)


@dataclass
class Rescan:
    """Reads guests anew at the end of a run."""

    state_dir: Path
    endpoint: Endpoint
    program: str
    catalogue: Mapping[str, CatalogueEntry] = field(default_factory=dict)

    def __call__(self, api: Reader, vmids: Iterable[int] = (), names: Iterable[str] = ()) -> list[str]:
        """Read these guests anew and write them into state.json; without a state everything is read.

        It never fails: what was done stands, and the warnings that are returned tell what the state does not show.
        """
        wish = GuestWish(frozenset(vmids), frozenset(names))
        if not wish:
            return []
        try:
            report = self._scan(api, wish)
        except NHIError as e:
            return [f"state.json may not show what this run did, so scan again: {e}"]
        unread = report.result.unread if isinstance(report.result, PartialResult) else ()
        return [f"state.json shows {who} as it was before, because it could not be read: scan again" for who in unread]

    def shows(self, name: str, found: Found | None) -> bool:
        """Whether the state shows the guest as a run that changed nothing saw it; None means that there is none."""
        try:
            snapshot = StateStore(self.state_dir).read_or_none()
        except NHIError:
            return False
        guests = snapshot.document["infrastructure"]["guests"] if snapshot else ()
        if found is None:
            return all(guest["name"] != name for guest in guests)
        now = (found.vmid, found.type, found.node, found.name, found.running, found.config.get("digest"))
        return now in [
            (g["vmid"], g["type"], g["node"], g["name"], g["status"] == "running", g["config_digest"]) for g in guests
        ]

    def _scan(self, api: Reader, wish: GuestWish) -> ScanReport:
        return run_scan(
            StateStore(self.state_dir),
            _Counted(api),
            self.catalogue,
            ScanOptions(health_checks=False, guests=wish),
            endpoint=f"{self.endpoint.identity} at {self.endpoint.server}",
            identity=self.endpoint.identity,
            by=this_program(self.program),
        )
