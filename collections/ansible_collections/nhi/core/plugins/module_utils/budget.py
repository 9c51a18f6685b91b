# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each actor has made and removed, against what the policy allows: the ledger that stops a loop.

A change is written down before it is made, under a lock of its own, so that several runs at once can not each take
the last one. A change that failed is taken out again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from .errors import BudgetError, StateError
from .files import explain, read_if_exists, replace_file
from .shared_lock import BUDGETS_LOCK, SharedLock

FILE_NAME = "budgets.json"
_LOCK_SECONDS = 30.0
_HOUR = timedelta(hours=1)
_MADE, _REMOVED, _RESTARTED, _OTHER = "made", "removed", "restarted", "other"
_MAKING, _REMOVING = frozenset({"create", "clone", "restore"}), frozenset({"destroy"})
_RESTARTING = frozenset({"restart", "restart_guarded"})
# How each limit reads in a sentence.
_WORDS = {
    "guests": "guests", "creates_per_hour": "creations within an hour", "destroys_per_hour": "removals within an hour",
    "restarts_per_hour": "restarts of services within an hour",
    "cores": "cores", "memory_mib": "MiB of memory", "disk_gib": "GiB of disk",
    "outstanding_plans": "plans that could still be applied",
}  # fmt: skip
_WAYS_OUT = {
    "guests": "remove one that is no longer needed", "creates_per_hour": "wait", "destroys_per_hour": "wait",
    "restarts_per_hour": "wait",
    "cores": "ask for less", "memory_mib": "ask for less", "disk_gib": "ask for less",
    "outstanding_plans": "apply or take back one of them",
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """What a guest takes of a host; zero for what stays as it is."""

    cores: int = 0
    memory_mib: int = 0
    disk_gib: int = 0


@dataclass(frozen=True)
class Spending:
    """One change about to be made: kinds of its actions, the guest, and what it takes more than before."""

    operations: tuple[str, ...]
    guest: str
    size: Size = field(default_factory=Size)

    @property
    def makes(self) -> bool:
        return bool(_MAKING & set(self.operations))

    @property
    def removes(self) -> bool:
        return bool(_REMOVING & set(self.operations))

    @property
    def restarts(self) -> bool:
        return bool(_RESTARTING & set(self.operations))


@dataclass(frozen=True)
class Entry:
    """A line of the ledger; ``gone`` once the guest is."""

    operation: str
    actor: str
    at: str
    kind: str
    guest: str
    cores: int = 0
    memory_mib: int = 0
    disk_gib: int = 0
    gone: bool = False

    @property
    def since(self) -> datetime:
        return datetime.fromisoformat(self.at)


class BudgetLedger:
    """The ledger of one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir
        self._path = state_dir / FILE_NAME

    def spend(
        self,
        operation: str,
        actor: str,
        spending: Spending,
        budgets: Callable[[str | None], Mapping[str, int]],
        existing: Collection[str],
        now: datetime,
        commit: Callable[[], None] = lambda: None,
    ) -> None:
        """Write a change down, or BudgetError with every limit that it would pass.

        ``budgets`` gives the limits of an actor, or of all together for None; ``existing`` are the guests there are.
        ``commit`` is called under the lock once the budget allows the change; what it raises leaves the ledger alone.
        """
        with self._locked(operation) as lock:
            entries = _living(self._read(), existing, now)
            new = _entry(operation, actor, spending, now)
            problems = [
                problem
                for who in (actor, None)
                for problem in _over(budgets(who), [e for e in entries if who in (None, e.actor)], new, who, now)
            ]
            if problems:
                raise BudgetError("; ".join(problems))
            lock.confirm()
            commit()
            if new is not None:
                self._write([*entries, new])

    def withdraw(self, operation: str) -> None:
        """The change was not made after all."""
        with self._locked(operation) as lock:
            entries = self._read()
            kept = [e for e in entries if e.operation != operation]
            if kept != entries:
                lock.confirm()
                self._write(kept)

    def is_young(self, operation: str, actor: str, now: datetime) -> bool:
        """Whether this actor's operation made a guest within the hour."""
        mine = (e for e in self._read() if e.operation == operation and e.actor == actor and e.kind == _MADE)
        return any(now - entry.since < _HOUR for entry in mine)

    def usage(self, actor: str | None, existing: Collection[str], now: datetime) -> dict[str, int]:
        """What counts against the limits now; of all actors for None. Takes no lock."""
        entries = [e for e in _living(self._read(), existing, now) if actor in (None, e.actor)]
        return _usage(entries, now)

    @contextlib.contextmanager
    def _locked(self, operation: str) -> Iterator[SharedLock]:
        what = f"count {operation} against a budget"
        with SharedLock(self._directory, BUDGETS_LOCK, what, timeout=_LOCK_SECONDS) as lock:
            yield lock

    def _read(self) -> list[Entry]:
        try:
            raw = read_if_exists(self._path)
            return [Entry(**line) for line in json.loads(raw)["entries"]] if raw else []
        except OSError as e:
            raise StateError(f"{self._path} can not be read: {explain(e)}; correct its owner") from e
        except (ValueError, KeyError, TypeError) as e:
            raise StateError(
                f"{self._path} is damaged ({e}), so nobody knows what was spent: an operator removes it, and counting"
                " starts anew"
            ) from e

    def _write(self, entries: Iterable[Entry]) -> None:
        data = {"schema_version": 1, "entries": [asdict(entry) for entry in entries]}
        try:
            replace_file(self._path, json.dumps(data, sort_keys=True).encode() + b"\n", 0o640)
        except OSError as e:
            raise StateError(f"{self._path} can not be written: {explain(e)}; nothing was done, make room") from e


def _entry(operation: str, actor: str, spending: Spending, now: datetime) -> Entry | None:
    kind = _RESTARTED if spending.restarts else _OTHER
    kind = _MADE if spending.makes else _REMOVED if spending.removes else kind
    if kind == _OTHER and spending.size == Size():
        return None
    return Entry(operation, actor, now.isoformat(), kind, spending.guest, **asdict(spending.size))


def _living(entries: Iterable[Entry], existing: Collection[str], now: datetime) -> list[Entry]:
    """The ledger without what no longer counts. A guest made lately may not be listed by the cluster yet."""
    kept, lines = [], list(entries)
    for number, entry in enumerate(lines):
        recent = now - entry.since < _HOUR
        passing = entry.kind in (_REMOVED, _RESTARTED)  # counts for its hour only
        gone = entry.gone or (not passing and not recent and entry.guest not in existing)
        gone = gone or any(
            later.kind in (_MADE, _REMOVED) and later.guest == entry.guest for later in lines[number + 1 :]
        )
        if recent or (not passing and not gone):
            kept.append(Entry(**{**asdict(entry), "gone": gone}))
    return kept


def _usage(entries: Iterable[Entry], now: datetime) -> dict[str, int]:
    entries = list(entries)
    there = [e for e in entries if e.kind != _REMOVED and not e.gone]
    lately = [e for e in entries if now - e.since < _HOUR]
    return {
        "guests": sum(e.kind == _MADE for e in there),
        "creates_per_hour": sum(e.kind == _MADE for e in lately),
        "destroys_per_hour": sum(e.kind == _REMOVED for e in lately),
        "restarts_per_hour": sum(e.kind == _RESTARTED for e in lately),
        "cores": sum(e.cores for e in there),
        "memory_mib": sum(e.memory_mib for e in there),
        "disk_gib": sum(e.disk_gib for e in there),
    }


def _over(
    limits: Mapping[str, int], entries: list[Entry], new: Entry | None, actor: str | None, now: datetime
) -> Iterator[str]:
    if new is None:
        return
    before, after = _usage(entries, now), _usage([*entries, new], now)
    for name, limit in limits.items():
        if name in after and after[name] > limit and after[name] > before[name]:
            yield over_budget(actor, name, limit, before[name], after[name] - before[name])


def over_budget(actor: str | None, name: str, limit: int, used: int, more: int) -> str:
    """What an agent is told that would pass a limit, with what it can do."""
    who, where = (actor, f"budgets of {actor}") if actor else ("all actors together", "budgets.total")
    has = "have" if actor is None else "has"
    return (
        f"{who} {has} {used} {_WORDS[name]} of the {limit} that the policy allows, and this takes {more} more:"
        f" {_WAYS_OUT[name]}, or have an operator raise {name} in {where}"
    )
