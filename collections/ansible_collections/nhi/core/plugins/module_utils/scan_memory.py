# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the scanner remembers between runs, so that it asks only about what may have changed.

The memory is a file of its own, ``scan_cache.json`` beside state.json, and not part of the state: it is the
scanner's bookkeeping (when each guest's configuration and addresses were read, which agents do not answer), nobody
else reads it, and losing it costs one cold scan and no fact. It holds the facts it keeps account of, so that a
state restored from a snapshot can never be taken for freshly read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .addresses import Nic
from .files import discard, read_if_exists

CACHE_NAME = "scan_cache.json"
_VERSION = 1
# A guest's start, computed from two rows, moves by the lag of the broadcast and by rounding.
_START_SLACK_SECONDS = 30.0


@dataclass
class GuestMemory:
    """What was read of one guest besides its row, and when (seconds since the epoch)."""

    signature: list[Any]
    status: str = ""
    started: float | None = None
    config_at: float | None = None
    activity: float = 0.0
    digest: str | None = None
    protection: bool | None = None
    onboot: bool = False
    agent: bool = False
    created_at: str | None = None
    description: str | None = None
    nics: list[Nic] = field(default_factory=list)
    live: list[dict[str, Any]] = field(default_factory=list)
    live_at: float | None = None
    live_retry_at: float = 0.0
    live_problem: str = ""
    live_privilege: str = ""

    def same_boot(self, started: float | None) -> bool:
        """Whether the guest has run without a restart since the memory was made."""
        if started is None or self.started is None:
            return False
        return abs(started - self.started) <= _START_SLACK_SECONDS


def started_at(uptime: Any, now: float) -> float | None:
    """When a running guest was started; None while its row does not know."""
    return now - float(uptime) if isinstance(uptime, (int, float)) and uptime > 0 else None


def spread(ttl_seconds: float, vmid: int) -> float:
    """A lifetime between three quarters and all of the given one, so that not everything expires in one scan."""
    return ttl_seconds * (0.75 + 0.25 * (vmid * 2654435761 % 1024) / 1024)


class ScanMemory:
    """The memories of all guests of one endpoint."""

    def __init__(self, endpoint: str, guests: dict[int, GuestMemory] | None = None) -> None:
        self.endpoint = endpoint
        self.guests = guests or {}

    @classmethod
    def load(cls, directory: Path, endpoint: str = "") -> ScanMemory:
        """The memory in a directory; an empty one when there is none for this endpoint that can be understood.

        Without an endpoint, that of whichever endpoint it is.
        """
        try:
            raw = read_if_exists(directory / CACHE_NAME)
            document = json.loads(raw) if raw else {}
            found = str(document.get("endpoint") or "")
            if document.get("version") != _VERSION or endpoint not in ("", found):
                return cls(endpoint)
            return cls(found, {int(vmid): _memory(item) for vmid, item in document["guests"].items()})
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return cls(endpoint)

    def save_only(self, directory: Path, vmids: Iterable[int]) -> None:
        """Replace what the file remembers of some guests; what belongs to another endpoint only forgets them."""
        saved = ScanMemory.load(directory)
        for vmid in vmids:
            saved.guests.pop(vmid, None)
            if saved.endpoint == self.endpoint and vmid in self.guests:
                saved.guests[vmid] = self.guests[vmid]
        if saved.endpoint:
            saved.save(directory)

    def save(self, directory: Path) -> None:
        """Replace the file as a whole; without a flush to the disk, a lost memory costs one cold scan."""
        document = {
            "version": _VERSION,
            "endpoint": self.endpoint,
            "guests": {str(vmid): _plain(memory) for vmid, memory in sorted(self.guests.items())},
        }
        # Parallel runs write it at the same time.
        temporary = directory / f"{CACHE_NAME}.{os.getpid()}.tmp"
        try:
            temporary.write_text(json.dumps(document, separators=(",", ":")), encoding="utf-8")
            temporary.replace(directory / CACHE_NAME)
        except OSError:
            # A full disk: the state was already written, and the next scan only reads more.
            discard(temporary)

    def forget_others(self, vmids: Iterable[int]) -> None:
        """Drop the memories of guests that no longer exist."""
        kept = set(vmids)
        self.guests = {vmid: memory for vmid, memory in self.guests.items() if vmid in kept}


_NAMES = tuple(item.name for item in fields(GuestMemory))


def _plain(memory: GuestMemory) -> dict[str, Any]:
    plain = {name: getattr(memory, name) for name in _NAMES}
    plain["nics"] = [asdict(nic) for nic in memory.nics]
    return plain


def _memory(item: dict[str, Any]) -> GuestMemory:
    return GuestMemory(**{**item, "nics": [Nic(**nic) for nic in item["nics"]]})
