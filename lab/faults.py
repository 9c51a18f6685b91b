"""Faults to order: kept in DIR/faults.json, which the command line and the daemon share under a file lock."""

from __future__ import annotations

import fcntl
import fnmatch
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

KINDS = {
    "node-offline": "the node is offline in /cluster/resources, calls to it answer 595 (--node)",
    "slow": "calls take --delay seconds longer (--node, --path)",
    "dead-agent": "guest agents answer after --delay seconds (3) that they do not run (--vmid)",
    "task-fail": "tasks fail half-way, after the driver's work (--task TYPE, --vmid, --text)",
    "task-slow": "tasks take --delay seconds longer, before the driver's work (--task TYPE, --vmid)",
    "task-warn": "tasks that succeed end as `WARNINGS: 1` (--task TYPE, --vmid, --text)",
    "stuck-lock": "guests are locked (--vmid, --text LOCK, default backup)",
    "config-lock": "the guest's configuration file stays locked: calls time out after --delay seconds (10) (--vmid)",
    "storage-full": "a storage has no space left (--storage)",
    "proxy-timeout": "calls answer 596 after --delay seconds (30) (--path)",
    "captive-html": "calls answer 200 with an HTML page instead of JSON (--path)",
    "vmid-taken": "somebody else's guest takes the VMID just before the next create (--vmid)",
    "guest-swapped": "just before a call (--path, --method, --vmid) the guest is removed and another one has its VMID"
    " (--text: its name, default the same)",
    "daemon-crash": "the daemon ends itself with SIGKILL when a call matches (--path, --method)",
}


@dataclass(frozen=True)
class Fault:
    """Empty conditions match everything; `count` 0 means for ever."""

    kind: str
    id: int = 0
    path: str = ""
    method: str = ""
    node: str = ""
    vmid: int = 0
    storage: str = ""
    task: str = ""
    text: str = ""
    delay: float = 0.0
    count: int = 0

    def matches(self, kind: str, facts: dict[str, Any]) -> bool:
        if kind != self.kind:
            return False
        if self.path and not fnmatch.fnmatchcase(str(facts.get("path", "")), self.path):
            return False
        conditions = {
            "method": self.method,
            "node": self.node,
            "vmid": self.vmid,
            "storage": self.storage,
            "task": self.task,
        }
        return all(not wanted or facts.get(name) == wanted for name, wanted in conditions.items())


def fault_from(document: dict[str, Any]) -> Fault:
    """A fault from outside; ValueError says what is wrong with it."""
    known = {item.name: item for item in fields(Fault)}
    unknown = sorted(document.keys() - known.keys())
    if unknown:
        raise ValueError(f"unknown field of a fault: {', '.join(unknown)} (known: {', '.join(sorted(known))})")
    if document.get("kind") not in KINDS:
        raise ValueError(f"unknown kind of fault: {document.get('kind')!r} (known: {', '.join(sorted(KINDS))})")
    types: dict[str, Callable[[Any], Any]] = {"id": int, "vmid": int, "count": int, "delay": float}
    return Fault(**{name: types.get(name, str)(value) for name, value in document.items()})


class Faults:
    """The list; `take` answers whether one applies now and counts it down."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._faults: list[Fault] = []

    def all(self) -> list[Fault]:
        """All faults; the file is read again only when it changed."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._stamp, self._faults = None, []
            return []
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp != self._stamp:
            self._faults = [Fault(**entry) for entry in json.loads(self._path.read_text(encoding="utf-8"))]
            self._stamp = stamp
        return list(self._faults)

    def set(self, fault: Fault) -> Fault:
        """Add a fault and give it its number."""
        with self._locked():
            faults = self.all()
            numbered = Fault(**{**asdict(fault), "id": 1 + max((f.id for f in faults), default=0)})
            self._write([*faults, numbered])
        return numbered

    def clear(self, fault_id: int | None = None, kind: str | None = None) -> int:
        """Remove one fault, one kind, or all; answers how many went."""
        with self._locked():
            faults = self.all()
            kept = [f for f in faults if (fault_id and f.id != fault_id) or (kind and f.kind != kind)]
            self._write(kept)
        return len(faults) - len(kept)

    def find(self, kind: str, **facts: Any) -> Fault | None:
        """The first that applies, without counting it down."""
        return next((fault for fault in self.all() if fault.matches(kind, facts)), None)

    def take(self, kind: str, **facts: Any) -> Fault | None:
        """The first that applies, counted down; at zero it is gone."""
        fault = self.find(kind, **facts)
        if fault is None or not fault.count:
            return fault
        with self._locked():
            faults = self.all()
            current = next((f for f in faults if f.id == fault.id), None)
            if current is None:
                return None
            left = [] if current.count == 1 else [Fault(**{**asdict(current), "count": current.count - 1})]
            self._write([item for f in faults for item in (left if f.id == current.id else [f])])
        return current

    def _write(self, faults: list[Fault]) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps([asdict(f) for f in faults], indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self._path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
