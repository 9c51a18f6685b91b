# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who holds what in a state directory: locks, leases in Redis, reservations. What is unfinished is in open_work.py.

A lock's own file only says who took it last; whether it is held is asked of the kernel, by trying.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from .errors import LockBackendError, NHIError
from .files import explain
from .lease import HeldLease, look
from .lock import Holder
from .lock_settings import LockSettings, lock_settings
from .reservations import Reservations
from .shared_lock import BUDGETS_LOCK, INFRASTRUCTURE_LOCK, SHARED_LOCKS, STATE_LOCK

# States: nobody has it; a process has it; what had it died before it was done; nobody can tell.
FREE, HELD, CUT_OFF, UNKNOWN = "free", "held", "cut off", "unknown"
_ABOUT = {
    STATE_LOCK: "writing state.json",
    INFRASTRUCTURE_LOCK: "choosing VMIDs and addresses",
    BUDGETS_LOCK: "counting against budgets",
    "history.lock": "snapshots of the state",
    "audit.lock": "adding to the audit log",
    "run.lock": "restarting services",
    "jobs.lock": "scheduling restarts",
}
_METADATA_LIMIT = 4096
_A_MOMENT_SECONDS = 0.05
_NEVER_REMOVE = "Never remove the file."


@dataclass(frozen=True)
class Hold:
    """One thing that can be held. lives is whether its holder's process does, None where that can not be told."""

    kind: str
    name: str
    about: str
    state: str
    holder: Holder | None = None
    lives: bool | None = None
    advice: str = ""
    fence: int | None = None
    expires_in_seconds: float | None = None

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "holder": asdict(self.holder) if self.holder else None}


def holds_in(state_dir: Path) -> list[Hold]:
    """Locks and reservations; takes nothing for longer than a look. Raises NHIError where nothing can be read."""
    return [*locks_in(state_dir), *_reservations(state_dir)]


def locks_in(state_dir: Path) -> list[Hold]:
    """Every lock that was ever taken, each with its lease where several Brains work. Raises NHIError."""
    try:
        paths = sorted({*state_dir.glob("*.lock"), *state_dir.glob("*/*.lock")})
    except OSError as error:
        raise NHIError(f"{state_dir} can not be read: {explain(error)}. Correct its owner.") from error
    return _with_leases([_file_lock(path) for path in paths], state_dir)


def _file_lock(path: Path) -> Hold:
    empty = Hold("lock", path.name, _ABOUT.get(path.name, ""), FREE)
    try:
        held, holder = _is_held(path), _named_in(path)
        if held and holder is None:
            time.sleep(_A_MOMENT_SECONDS)  # just taken: the name comes after
            held, holder = _is_held(path), _named_in(path)
    except OSError as error:
        return replace(empty, state=UNKNOWN, advice=f"{path} can not be opened: {explain(error)}; look as its owner.")
    if not held:
        if holder is None:
            return empty
        left = f"{holder} was killed, or let go without taking its name out. The lock is free: nothing is to be done."
        return replace(empty, holder=holder, lives=not holder.is_gone(), advice=left)
    if holder and not holder.is_gone():
        return _held_by(replace(empty, holder=holder), holder)
    return _held_namelessly(empty, path, holder)


def _held_by(hold: Hold, holder: Holder) -> Hold:
    if holder.host != os.uname().nodename:
        advice = f"Ask on {holder.host} whether process {holder.pid} lives. {_NEVER_REMOVE}"
        return replace(hold, state=HELD, lives=None, advice=advice)
    advice = f"Wait; if it hangs, `kill {holder.pid}` ends it and frees the lock. {_NEVER_REMOVE}"
    return replace(hold, state=HELD, lives=True, advice=advice)


def _held_namelessly(hold: Hold, path: Path, holder: Holder | None) -> Hold:
    """The kernel says held, the file names nobody, or somebody who is gone."""
    why = "no room on the disk, or another user's file"
    said = f"the file still names {holder}, who is gone, as" if holder else "the file names nobody, as"
    if pid := _locked_by(path):
        advice = f"Process {pid} holds it; {said} it could not write its name ({why}). Look with `ps -fp {pid}`."
        return replace(hold, state=HELD, lives=True, advice=f"{advice} {_NEVER_REMOVE}")
    advice = f"Its holder is not known: {said} it could not be written ({why}). Find it as root with `fuser -v {path}`."
    return replace(hold, state=UNKNOWN, advice=f"{advice} {_NEVER_REMOVE}")


def _is_held(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _named_in(path: Path) -> Holder | None:
    with path.open("rb") as file:
        return Holder.parse(file.read(_METADATA_LIMIT))


def _locked_by(path: Path) -> int | None:
    """The process that holds a lock on the file, where the kernel lists it."""
    try:
        status = path.stat()
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in lines:
        # 1: FLOCK  ADVISORY  WRITE 4711 fe:01:1234 0 EOF; waiters have an arrow.
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == wanted and int(fields[4]) > 0:
            return int(fields[4])
    return None


def _with_leases(found: list[Hold], state_dir: Path) -> list[Hold]:
    try:
        settings = lock_settings(state_dir)
        if settings.backend == "file":
            return found
        leases = dict(_leases(settings))
    except LockBackendError as error:
        return [*found, Hold("lease", "redis", "locks of several Brains", UNKNOWN, advice=str(error))]
    names = {hold.name for hold in found}
    found += [Hold("lock", name, _ABOUT[name], FREE) for name in leases if name not in names]
    return [_with_lease(hold, leases.get(hold.name)) if hold.kind == "lock" else hold for hold in found]


def _leases(settings: LockSettings) -> Iterator[tuple[str, HeldLease]]:
    from ._redis import lock_client

    for name in SHARED_LOCKS:
        if lease := look(lock_client(settings), settings.lab, name):
            yield name, lease


def _with_lease(hold: Hold, lease: HeldLease | None) -> Hold:
    if lease is None:
        return hold
    known = replace(hold, fence=lease.fence, expires_in_seconds=lease.expires_in_seconds)
    if hold.state == HELD:
        return known
    left = f"{lease.expires_in_seconds:.0f} s" if lease.expires_in_seconds is not None else "no time that is known"
    ends = f"its lease in Redis ends in {left}, unless it is renewed"
    gone = lease.holder is not None and lease.holder.is_gone()
    if lease.holder and gone:
        return replace(known, state=HELD, holder=lease.holder, lives=False, advice=f"Its holder is gone: {ends}.")
    where = f"Held on {lease.holder.host}" if lease.holder else "Held by a Brain that left no name"
    return replace(known, state=HELD, holder=lease.holder, lives=None, advice=f"{where}: {ends}.")


def _reservations(state_dir: Path) -> Iterator[Hold]:
    for line in Reservations(state_dir).under_way():
        what = f"VMID {line.vmid}" + (f", {line.address}" if line.address else "")
        hold = Hold("reservation", line.name, what, HELD, Holder(**line.holder), lives=True)
        if line.is_abandoned():
            hold = replace(hold, state=CUT_OFF, lives=False, advice=f"Its run is gone: `nhi recover {line.operation}`.")
        yield hold
