# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is about to use which name, VMID and address: a small ledger, so that parallel runs never choose the same.

Proxmox VE reserves nothing, and a guest that is being created is invisible to a run that read the
cluster a moment ago. The ledger covers that moment. It is written under the infrastructure lock, which
is never held while a task runs.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from .errors import NHIError, PreflightError, StateError
from .files import discard, explain, read_if_exists, sync_directory, write_new
from .lock import Holder, infrastructure_lock

FILE_NAME = "reservations.json"
# Long after every run that could still act on an older reading of the cluster.
_KEPT = timedelta(hours=1)
_RESERVED, _USED = "reserved", "used"
_LOCK_SECONDS = 60.0


class AppearedMeanwhileError(NHIError):
    """Another run made the guest after this one looked: look again."""


@dataclass(frozen=True)
class Choice:
    """What a run settled on."""

    vmid: int
    address: IPv4Address | None


@dataclass(frozen=True)
class Reservation:
    """One line of the ledger."""

    operation: str
    name: str
    vmid: int
    address: str | None
    status: str
    at: str
    holder: dict[str, Any]

    @property
    def since(self) -> datetime:
        """When it was last written."""
        return datetime.fromisoformat(self.at)

    def is_abandoned(self) -> bool:
        """Whether the run that made it died before it could say what became of it."""
        return self.status == _RESERVED and Holder(**self.holder).is_gone()


@dataclass(frozen=True)
class Held:
    """VMIDs and addresses that other runs hold, with who holds them."""

    vmids: dict[int, str]
    addresses: dict[IPv4Address, str]


class Reservations:
    """The ledger of one state directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / FILE_NAME

    def peek(self) -> Held:
        """What is held right now, for a check run: takes no lock and writes nothing."""
        return _held(self._read())

    def reserve(self, operation: str, name: str, read_at: datetime, choose: Callable[[Held], Choice]) -> Choice:
        """Let ``choose`` pick, knowing what others hold, and write it down before anybody else can pick.

        ``read_at`` is when the caller read the cluster. Reserving again under the same operation replaces its line.
        """
        with self._locked(f"reserve an address for {name}"):
            others = [r for r in self._read() if r.operation != operation]
            others = [r for r in others if r.name != name or _still_counts(r, read_at)]
            choice = choose(_held(others))
            holder = asdict(Holder.me(operation))
            mine = Reservation(
                operation, name, choice.vmid, str(choice.address) if choice.address else None, _RESERVED, _now(), holder
            )
            self._write([*others, mine])
        return choice

    def keep(self, operation: str) -> None:
        """The guest exists: hold its name and address until every run has seen it."""
        self._rewrite(
            operation, lambda rs: [replace(r, status=_USED, at=_now()) if r.operation == operation else r for r in rs]
        )

    def release(self, operation: str) -> None:
        """The guest was not made, or is gone again."""
        self._rewrite(operation, lambda rs: [r for r in rs if r.operation != operation])

    def forget(self, name: str, vmid: int) -> None:
        """A guest was destroyed: its name and address are free at once."""
        if any((r.name, r.vmid) == (name, vmid) for r in self._read()):
            self._rewrite(name, lambda rs: [r for r in rs if (r.name, r.vmid) != (name, vmid)])

    def _rewrite(self, what: str, change: Callable[[list[Reservation]], list[Reservation]]) -> None:
        with self._locked(f"settle the reservation of {what}"):
            self._write(change(self._read()))

    @contextlib.contextmanager
    def _locked(self, operation: str) -> Iterator[None]:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with infrastructure_lock(self.directory, operation, timeout=_LOCK_SECONDS):
                yield
        except OSError as e:
            raise StateError(
                f"{self._path} can not be written: {explain(e)}; nothing was chosen, make room or correct state_dir"
            ) from e

    def _read(self) -> list[Reservation]:
        try:
            raw = read_if_exists(self._path)
            found = [] if raw is None else [Reservation(**r) for r in json.loads(raw)["reservations"]]
            oldest = datetime.now(UTC) - _KEPT
            return [r for r in found if r.since > oldest]
        except OSError as e:
            raise StateError(f"{self._path} can not be read: {explain(e)}; correct state_dir or its owner") from e
        except (ValueError, KeyError, TypeError) as e:
            raise StateError(f"{self._path} is damaged ({e}): remove it while no run is under way") from e

    def _write(self, reservations: list[Reservation]) -> None:
        document = {"schema_version": 1, "reservations": [asdict(r) for r in reservations]}
        new = self._path.with_suffix(".json.tmp")
        try:
            write_new(new, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())
            new.replace(self._path)
        except OSError:
            discard(new)
            raise
        sync_directory(self.directory)


def _still_counts(other: Reservation, read_at: datetime) -> bool:
    """Judge another run's line for our name: False when it is over; raises when it is not."""
    if other.is_abandoned():
        return False
    if other.status == _RESERVED:
        who = Holder(**other.holder)
        raise PreflightError(
            f"{other.name} is being made as VMID {other.vmid} right now: {who}; run again when it is done"
        )
    if other.since >= read_at:
        raise AppearedMeanwhileError(f"{other.name} was made as VMID {other.vmid} meanwhile; run again")
    return False  # the caller read the cluster later than this, and the guest was not there


def _held(reservations: list[Reservation]) -> Held:
    # An abandoned run may have made its guest after all, so its VMID and address stay held until the line expires.
    return Held(
        {r.vmid: r.name for r in reservations if r.status == _RESERVED},
        {IPv4Address(r.address): r.name for r in reservations if r.address},
    )


def _now() -> str:
    return datetime.now(UTC).isoformat()
