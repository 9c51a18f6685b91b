# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which names, VMIDs and addresses are taken by guests made here, or about to be: a small ledger.

Proxmox VE reserves nothing, and a guest that is being created is invisible to a run that read the cluster a moment
ago. So a run writes down what it chose before it acts (``reserved``). Once the guest exists its line is bound to it
(``used``) and stays as long as the guest does. When the guest is gone its address rests for a while
(``quarantined``), as others may still talk to it. The ledger is written under the infrastructure lock, which is never
held while a task runs.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from .addresses import Address
from .errors import NHIError, PreflightError, StateError
from .files import explain, read_if_exists, replace_file
from .guest_capacity import Ask, Asked
from .guest_spec import aside_name
from .journal import path_of
from .lock import Holder
from .shared_lock import SharedLock, infrastructure_lock

FILE_NAME = "reservations.json"
QUARANTINE_SECONDS = 300.0
_VERSION = 3
# Long after every run that could still act on an older reading of the cluster.
_KEPT = timedelta(hours=1)
_RESERVED, _USED, _QUARANTINED = "reserved", "used", "quarantined"
_LOCK_SECONDS = 60.0
# The cluster tells what a guest has and whether it runs up to ten seconds late.
_LAG = timedelta(seconds=20)


class AppearedMeanwhileError(NHIError):
    """Another run made the guest after this one looked: look again."""


@dataclass(frozen=True)
class Choice:
    """What a run settled on: a VMID, fixed addresses by the number of their interface, and what the guest takes."""

    vmid: int
    addresses: Mapping[int, IPv4Address] = field(default_factory=dict)
    six: Mapping[int, IPv6Address] = field(default_factory=dict)
    ask: Ask | None = None  # None: a guest that is there takes no more than it has

    @property
    def all_addresses(self) -> list[Address]:
        """Of both families, each once."""
        return list(dict.fromkeys([*self.addresses.values(), *self.six.values()]))


@dataclass(frozen=True)
class Reservation:
    """One line of the ledger. ``operation`` is also the mark in the description of the guest that was made."""

    operation: str
    name: str
    vmid: int
    address: str | None
    status: str
    at: str
    holder: dict[str, Any]
    type: str | None = None
    macs: list[str] = field(default_factory=list)
    until: str | None = None
    ask: dict[str, Any] | None = None

    @property
    def since(self) -> datetime:
        """When it was last written."""
        return datetime.fromisoformat(self.at)

    @property
    def rests_until(self) -> datetime:
        """When a quarantined address may be given out again."""
        return datetime.fromisoformat(self.until) if self.until else self.since

    def is_of(self, row: Mapping[str, Any]) -> bool:
        """Whether the guest that the cluster lists under this VMID is the one that was made."""
        # While it is replaced it has another name, and may get its own back.
        names = (self.name, aside_name(self.name, self.vmid))
        return row.get("name") in names and self.type in (None, row.get("type"))

    def is_abandoned(self) -> bool:
        """Whether the run that made it died before it could say what became of it."""
        return self.status == _RESERVED and Holder(**self.holder).is_gone()


@dataclass(frozen=True)
class Quarantined:
    """An address that belonged to a guest until lately, or to several: a restored copy has that of its original."""

    names: frozenset[str]
    until: datetime


@dataclass(frozen=True)
class Held:
    """VMIDs and addresses that others hold, with who holds them.

    ``departed`` has the MACs that lately had an address and are gone: neighbours may remember them still. ``asked`` has
    the guests by VMID that were not there, or not seen whole, when the cluster was read.
    """

    vmids: dict[int, str]
    addresses: dict[Address, str]
    quarantined: dict[Address, Quarantined] = field(default_factory=dict)
    departed: dict[Address, frozenset[str]] = field(default_factory=dict)
    asked: dict[int, Asked] = field(default_factory=dict)


class Reservations:
    """The ledger of one state directory."""

    def __init__(self, directory: Path, quarantine_seconds: float = QUARANTINE_SECONDS) -> None:
        self.directory = directory
        self._path = directory / FILE_NAME
        self._quarantine = timedelta(seconds=quarantine_seconds)

    def peek(
        self,
        gone: Collection[str] = (),
        read_at: datetime | None = None,
        leaving: tuple[str, int] | None = None,
    ) -> Held:
        """What is held right now, for a check run: takes no lock and writes nothing.

        ``leaving`` is name and VMID of the guest whose place the new one takes: what it has is not held against that.
        """
        return _held(_staying(self._freed(self._read(), lambda r: r.operation in gone), leaving), read_at)

    def used(self) -> list[Reservation]:
        """Lines of guests that were made and have an address, to be compared with what is there."""
        return [r for r in self._read() if r.status == _USED and r.address]

    def abandoned(self) -> list[Reservation]:
        """What runs still hold that are gone, and that nobody settled."""
        return [r for r in self._read() if r.is_abandoned()]

    def under_way(self) -> list[Reservation]:
        """Lines of runs that have not said yet what became of them."""
        return [r for r in self._read() if r.status == _RESERVED]

    def reserve(
        self,
        operation: str,
        name: str,
        read_at: datetime,
        choose: Callable[[Held], Choice],
        gone: Collection[str] = (),
        leaving: tuple[str, int] | None = None,
    ) -> Choice:
        """Let ``choose`` pick, knowing what others hold, and write it down before anybody else can pick.

        ``read_at`` is when the caller read the cluster, ``gone`` the operations whose guests it did not find there any
        more. Reserving again under the same operation replaces its lines. ``leaving`` is as for ``peek``.
        """
        with self._locked(f"reserve an address for {name}") as lock:
            others = [r for r in self._read() if r.operation != operation]
            for other in others:
                if other.name == name:
                    _refuse_rival(other, read_at)
            others = self._freed(others, lambda r: r.operation in gone and r.since < read_at)
            choice = choose(_held(_staying(others, leaving), read_at))
            holder = asdict(Holder.me(operation))
            ask = asdict(choice.ask) if choice.ask else None
            addresses: list[str | None] = [*map(str, choice.all_addresses)] or [None]
            mine = [
                Reservation(operation, name, choice.vmid, address, _RESERVED, _now(), holder, ask=ask)
                for address in addresses
            ]
            self._write([*others, *mine], lock)
        return choice

    def keep(self, operation: str, kind: str | None = None, macs: Iterable[str] = ()) -> None:
        """The guest exists: bind the line to it. An address that it had before is free."""

        def kept(lines: list[Reservation]) -> list[Reservation]:
            mine = [r for r in lines if r.operation == operation]
            guests = {(r.name, r.vmid) for r in mine}
            addresses = {r.address for r in mine}
            others = [r for r in lines if r.operation != operation]
            # This line takes the place of an earlier operation's for an address that the guest has still.
            rest = [
                r for r in others
                if r.status != _USED or (r.name, r.vmid) not in guests or r.address not in addresses
            ]  # fmt: skip
            had = self._freed(rest, lambda r: (r.name, r.vmid) in guests)
            at, known = _now(), sorted(macs)
            return had + [replace(r, status=_USED, at=at, type=kind or r.type, macs=known or r.macs) for r in mine]

        self._rewrite(operation, kept)

    def take_over(self, operation: str, name: str, vmid: int, had: Mapping[str, str]) -> None:
        """The guest of this operation stands in the place of another: what it did not get of ``had`` rests.

        ``had`` has the addresses that the configuration of the other gave it, each with its MAC.
        """

        def taken_over(lines: list[Reservation]) -> list[Reservation]:
            mine = [replace(r, status=_USED, at=_now()) for r in lines if r.operation == operation]
            kept = {r.address for r in mine}
            others = [r for r in lines if r.operation != operation]
            left = [r for r in others if (r.name, r.vmid) == (name, vmid) and r.address not in {None, *kept}]
            holder = asdict(Holder.me(operation))
            left += [
                Reservation(operation, name, vmid, address, _USED, _now(), holder, macs=[mac])
                for address, mac in had.items()
                if address not in kept | {r.address for r in left}
            ]
            rest = [r for r in others if (r.name, r.vmid) != (name, vmid)]
            return [*rest, *mine, *map(self._rest, left)]

        self._rewrite(name, taken_over)

    def release(self, operation: str) -> None:
        """The guest was not made, or is gone again."""
        self._rewrite(operation, lambda rs: [r for r in rs if r.operation != operation])

    def forget(self, name: str, vmid: int, addresses: Mapping[str, str] | None = None) -> None:
        """A guest was destroyed: its name is free at once, its addresses (each with its MAC) after a while."""
        had = addresses or {}

        def forgotten(lines: list[Reservation]) -> list[Reservation]:
            others = [r for r in lines if r.address not in had or (r.name, r.vmid) != (name, vmid)]
            holder = asdict(Holder.me("destroy"))
            return self._freed(others, lambda r: (r.name, r.vmid) == (name, vmid)) + [
                self._rest(Reservation("destroy", name, vmid, address, _USED, _now(), holder, macs=[mac]))
                for address, mac in had.items()
            ]

        if had or any((r.name, r.vmid) == (name, vmid) for r in self._read()):
            self._rewrite(name, forgotten)

    def _freed(self, lines: Iterable[Reservation], is_free: Callable[[Reservation], bool]) -> list[Reservation]:
        """The lines, with those of guests that are gone resting; a line without address has nothing to rest."""
        found: list[Reservation] = []
        for line in lines:
            if line.status != _USED or not is_free(line):
                found.append(line)
            elif line.address:
                found.append(self._rest(line))
        return found

    def _rest(self, line: Reservation) -> Reservation:
        until = datetime.now(UTC) + self._quarantine
        return replace(line, status=_QUARANTINED, at=_now(), until=until.isoformat())

    def _rewrite(self, what: str, change: Callable[[list[Reservation]], list[Reservation]]) -> None:
        with self._locked(f"settle the reservation of {what}") as lock:
            self._write(change(self._read()), lock)

    @contextlib.contextmanager
    def _locked(self, operation: str) -> Iterator[SharedLock]:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with infrastructure_lock(self.directory, operation, timeout=_LOCK_SECONDS) as lock:
                yield lock
        except OSError as e:
            raise StateError(
                f"{self._path} can not be written: {explain(e)}; nothing was chosen, make room or correct state_dir"
            ) from e

    def _read(self) -> list[Reservation]:
        try:
            raw = read_if_exists(self._path)
            document = {"reservations": []} if raw is None else json.loads(raw)
            if document.get("schema_version", _VERSION) > _VERSION:
                raise StateError(
                    f"{self._path} has schema version {document['schema_version']}, this NHI understands {_VERSION}:"
                    " upgrade the collection nhi.core here"
                )
            found = [Reservation(**r) for r in document["reservations"]]
            return [r for r in found if self._counts(r)]
        except OSError as e:
            raise StateError(f"{self._path} can not be read: {explain(e)}; correct state_dir or its owner") from e
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise StateError(f"{self._path} is damaged ({e}): remove it while no run is under way") from e

    def _counts(self, line: Reservation) -> bool:
        recent = line.since > datetime.now(UTC) - _KEPT
        if line.status == _QUARANTINED:
            return recent or line.rests_until > datetime.now(UTC)
        if line.status == _USED:
            return recent or line.address is not None
        if path_of(self.directory, line.operation).exists():
            return True  # under way, or cut off and not settled: its guest may be there
        return recent and not line.is_abandoned()  # before its first step nothing was made

    def _write(self, reservations: list[Reservation], lock: SharedLock) -> None:
        document = {"schema_version": _VERSION, "reservations": [asdict(r) for r in reservations]}
        lock.confirm()
        replace_file(self._path, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())


def _staying(lines: list[Reservation], leaving: tuple[str, int] | None) -> list[Reservation]:
    return [r for r in lines if (r.name, r.vmid) != leaving]


def _refuse_rival(other: Reservation, read_at: datetime) -> None:
    """Judge another run's line for our name: raises when the guest is being made, or was since we looked."""
    if other.status == _RESERVED and not other.is_abandoned():
        who = Holder(**other.holder)
        raise PreflightError(
            f"{other.name} is being made as VMID {other.vmid} right now: {who}; run again when it is done"
        )
    if other.status == _USED and other.since >= read_at:
        raise AppearedMeanwhileError(f"{other.name} was made as VMID {other.vmid} meanwhile; run again")


def _held(reservations: list[Reservation], read_at: datetime | None = None) -> Held:
    """What the lines hold; a VMID only until the caller's reading of the cluster shows it."""
    now = datetime.now(UTC)
    new = [r for r in reservations if r.status == _USED and r.since >= (read_at or now)]
    with_address = [(ip_address(r.address), r) for r in reservations if r.address]
    resting = [(address, r) for address, r in with_address if r.status == _QUARANTINED]
    departed: dict[Address, frozenset[str]] = {}
    for address, line in resting:
        departed[address] = departed.get(address, frozenset()) | {mac.lower() for mac in line.macs}
    return Held(
        {r.vmid: r.name for r in (*new, *(r for r in reservations if r.status == _RESERVED))},
        {address: r.name for address, r in with_address if r.status != _QUARANTINED},
        _quarantined((address, r) for address, r in resting if r.rests_until > now),
        departed,
        {r.vmid: Asked(r.name, Ask(**r.ask)) for r in reservations if r.ask and _is_asked(r, read_at or now)},
    )


def _is_asked(line: Reservation, read_at: datetime) -> bool:
    """Whether what the guest takes was not to be seen whole when the cluster was read."""
    return line.status == _RESERVED or (line.status == _USED and line.since >= read_at - _LAG)


def _quarantined(lines: Iterable[tuple[Address, Reservation]]) -> dict[Address, Quarantined]:
    found: dict[Address, Quarantined] = {}
    for address, line in lines:
        known = found.get(address, Quarantined(frozenset(), line.rests_until))
        found[address] = Quarantined(known.names | {line.name}, max(known.until, line.rests_until))
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat()
