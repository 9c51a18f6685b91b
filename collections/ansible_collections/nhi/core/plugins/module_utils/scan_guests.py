# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read what ``/cluster/resources`` does not tell of a guest: configuration, live addresses, a status that lags.

Only guests that are new, changed or due are asked about, a few at a time per node. A node that stops answering is
left alone after its second failure, and no guest's failure touches another's.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from .addresses import (
    agent_addresses,
    config_addresses,
    guest_nics,
    has_agent,
    interface_addresses,
    merge_addresses,
    needs_live_addresses,
    parse_properties,
)
from .errors import NotFoundError, PermissionDeniedError, ProxmoxError, UnreachableError
from .guest_spec import split_marker
from .lanes import run_in_lanes
from .scan_memory import GuestMemory, spread, started_at
from .scan_rows import Row, is_vague, row_signature

_FAILURES_UNTIL_NODE_IS_LEFT_ALONE = 2
_YOUNG_SECONDS = 300.0
_YOUNG_RETRY_SECONDS = 30.0
_MAX_CONNECTIONS = 64
# Status and numbers of a row are broadcast every 10 s and cached for 2 s on the way; clocks differ a little.
_LAG_SECONDS = 15.0
_STATUS_KEYS = (
    *("name", "status", "template", "tags", "lock", "uptime"),
    *("cpu", "mem", "maxmem", "disk", "maxdisk"),
)
_NO_ADDRESS_YET = "the guest reports no address yet"


class Reader(Protocol):
    """The one call of a client that reading needs."""

    def get(self, path: Any, params: Mapping[str, Any] | None = None) -> Any: ...


@dataclass(frozen=True)
class Lifetimes:
    """How long what was read is taken to hold while the row shows no change."""

    config_seconds: float = 3600.0
    address_seconds: float = 900.0
    dead_agent_seconds: float = 600.0


@dataclass
class GuestReading:
    """What became known of one guest: its row, its memory, and why that may be incomplete."""

    vmid: int
    row: Row
    memory: GuestMemory | None = None
    gone: bool = False
    error: ProxmoxError | None = None
    asked: bool = False
    activity: float = 0.0
    confirmed: bool = False

    @property
    def running(self) -> bool:
        """Whether the guest runs now."""
        return self.row.get("status") == "running" and not int(self.row.get("template") or 0)


class GuestReader:
    """Brings the memories of guests up to date."""

    def __init__(self, client: Reader, lifetimes: Lifetimes, *, per_node: int, now: float | None = None) -> None:
        self._client = client
        self._lifetimes = lifetimes
        self._per_node = per_node
        self._now = time.time() if now is None else now
        self._failures: Counter[str] = Counter()
        self._failures_lock = threading.Lock()

    def read_all(
        self,
        rows: Mapping[int, Row],
        memories: Mapping[int, GuestMemory],
        activity: Mapping[int, float],
        *,
        everything: bool = False,
    ) -> dict[int, GuestReading]:
        """A reading of every guest; activity is when a task last touched it, with everything no memory is trusted."""
        readings = {
            vmid: GuestReading(vmid, row, None if everything else memories.get(vmid), activity=activity.get(vmid, 0.0))
            for vmid, row in rows.items()
        }
        due = [(str(r.row["node"]), r) for r in readings.values() if self._is_due(r)]
        run_in_lanes(due, self._read, per_lane=self._per_node, in_total=_MAX_CONNECTIONS)
        for reading in readings.values():
            if reading.memory is not None and reading.error is None:
                reading.memory.status = str(reading.row.get("status") or "")
        return readings

    def failing_nodes(self) -> list[str]:
        """Nodes that were left alone because they stopped answering."""
        return sorted(node for node, count in self._failures.items() if count >= _FAILURES_UNTIL_NODE_IS_LEFT_ALONE)

    def _is_due(self, reading: GuestReading) -> bool:
        return (
            self._row_may_lag(reading)
            or self._config_is_due(reading)
            or self._live_is_due(reading)
            or _is_doubtful(reading)
        )

    def _row_may_lag(self, reading: GuestReading) -> bool:
        """Whether the guest is new, or a task touched it so lately that its row may not show it yet."""
        return is_vague(reading.row) or self._now - reading.activity < _LAG_SECONDS

    def _config_is_due(self, reading: GuestReading) -> bool:
        memory = reading.memory
        if memory is None or memory.config_at is None or memory.signature != row_signature(reading.row):
            return True
        # No comparison with our own clock: that of the node may differ.
        if reading.activity and reading.activity != memory.activity:
            return True
        # Changes of a virtual machine's configuration wait for its restart, and a VMID may be somebody else's by now.
        if reading.running and not memory.same_boot(self._started(reading)):
            return True
        return self._now - memory.config_at > spread(self._lifetimes.config_seconds, reading.vmid)

    def _live_is_due(self, reading: GuestReading) -> bool:
        memory = reading.memory
        if memory is None or not reading.running or not _has_live_addresses(reading.row, memory):
            return False
        if memory.live_problem:
            return self._now >= memory.live_retry_at
        return memory.live_at is None or self._now - memory.live_at > spread(
            self._lifetimes.address_seconds, reading.vmid
        )

    def _started(self, reading: GuestReading) -> float | None:
        return started_at(reading.row.get("uptime"), self._now)

    def _read(self, reading: GuestReading) -> None:
        node = str(reading.row["node"])
        if self._failures[node] >= _FAILURES_UNTIL_NODE_IS_LEFT_ALONE:
            reading.error = UnreachableError(f"node {node} stopped answering, so it was not asked again")
            return
        reading.asked = True
        try:
            if self._row_may_lag(reading):
                self._read_status(reading)
            if self._config_is_due(reading):
                self._read_config(reading)
            if _is_doubtful(reading):
                self._read_status(reading)
            if reading.memory is not None and self._live_is_due(reading):
                self._read_live(reading, reading.memory)
        except NotFoundError:
            reading.gone = True
        except UnreachableError as error:
            reading.error = error
            with self._failures_lock:
                self._failures[node] += 1
        except ProxmoxError as error:
            reading.error = error

    def _path(self, reading: GuestReading, *rest: str) -> tuple[str | int, ...]:
        return ("nodes", str(reading.row["node"]), str(reading.row["type"]), reading.vmid, *rest)

    def _read_status(self, reading: GuestReading) -> None:
        current = self._client.get(self._path(reading, "status", "current"))
        reading.confirmed = True
        known = {key: current[key] for key in _STATUS_KEYS if current.get(key) is not None}
        reading.row = {**reading.row, **known, "maxcpu": current.get("cpus", reading.row.get("maxcpu"))}

    def _read_config(self, reading: GuestReading) -> None:
        config = self._client.get(self._path(reading, "config"))
        kind, old = str(reading.row["type"]), reading.memory
        memory = old or GuestMemory(signature=[])
        memory.signature = row_signature(reading.row)
        memory.config_at = self._now
        memory.activity = reading.activity
        memory.digest = config.get("digest")
        memory.protection = str(config.get("protection", "0")) == "1"
        memory.onboot = str(config.get("onboot", "0")) == "1"
        memory.agent = kind == "qemu" and has_agent(config)
        memory.created_at = _created_at(config)
        memory.description = _first_line(config.get("description"))
        nics = guest_nics(kind, config)
        started = self._started(reading) if reading.running else None
        if nics != memory.nics or not memory.same_boot(started):
            memory.live, memory.live_at, memory.live_problem = [], None, ""
        memory.nics, memory.started = nics, started
        reading.memory = memory

    def _read_live(self, reading: GuestReading, memory: GuestMemory) -> None:
        try:
            found = self._ask_guest(reading)
        except (UnreachableError, NotFoundError):
            raise
        except ProxmoxError as error:
            self._remember_silence(reading, memory, error)
            return
        if found is None:
            self._read_status(reading)
            return
        memory.live, memory.live_at = found, self._now
        has_ipv4 = any(record["family"] == "ipv4" for record in found)
        self._set_problem(reading, memory, "" if has_ipv4 else _NO_ADDRESS_YET)

    def _ask_guest(self, reading: GuestReading) -> list[dict[str, Any]] | None:
        """The addresses a running guest reports; None when it turns out not to run."""
        if reading.row["type"] == "lxc":
            items = self._client.get(self._path(reading, "interfaces"))
            return None if items is None else interface_addresses(items)
        return agent_addresses(self._client.get(self._path(reading, "agent", "network-get-interfaces")))

    def _remember_silence(self, reading: GuestReading, memory: GuestMemory, error: ProxmoxError) -> None:
        if error.reason.strip().endswith(" is not running") and "agent" not in error.reason:
            self._read_status(reading)
            return
        self._set_problem(reading, memory, error.reason.strip() or str(error))
        memory.live_privilege = error.privilege if isinstance(error, PermissionDeniedError) else ""

    def _set_problem(self, reading: GuestReading, memory: GuestMemory, problem: str) -> None:
        uptime = float(reading.row.get("uptime") or 0)
        pause = _YOUNG_RETRY_SECONDS if uptime < _YOUNG_SECONDS else self._lifetimes.dead_agent_seconds
        memory.live_problem, memory.live_privilege = problem, ""
        memory.live_retry_at = self._now + min(pause, self._lifetimes.dead_agent_seconds) if problem else 0.0


def known_addresses(reading: GuestReading) -> list[dict[str, Any]]:
    """Static addresses, and what the running guest reported since it was started."""
    memory = reading.memory
    if memory is None:
        return []
    return merge_addresses(config_addresses(memory.nics), memory.live if reading.running else ())


def _has_live_addresses(row: Row, memory: GuestMemory) -> bool:
    """Whether asking the running guest can tell more than its configuration."""
    return needs_live_addresses(memory.nics) and (row["type"] == "lxc" or memory.agent)


def _is_doubtful(reading: GuestReading) -> bool:
    """Whether "stopped" may be what the row says of a guest that was started up to 10 s ago, by a task we can not see.

    Asked once, when it is news: of a guest that ran at the last scan, or that should have started with its node.
    """
    row, memory = reading.row, reading.memory
    if memory is None or reading.confirmed or row.get("status") != "stopped" or int(row.get("template") or 0):
        return False
    return memory.status == "running" or (memory.onboot and memory.status != "stopped")


def _created_at(config: Mapping[str, Any]) -> str | None:
    """Creation time of a virtual machine; containers do not record theirs."""
    stamp = parse_properties(str(config.get("meta", ""))).get("ctime", "")
    return datetime.fromtimestamp(int(stamp), UTC).isoformat() if stamp.isdigit() else None


def _first_line(description: Any) -> str | None:
    """What a person wrote first; the mark of the operation that made the guest is no description."""
    lines = split_marker(str(description or ""))[0].splitlines()
    return lines[0].strip() or None if lines else None
