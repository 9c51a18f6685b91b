# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations that were cut off: their journals are read, and what they left half done is undone, or finished where
that is safer. A creation is undone; a removal or a restore that was under way is finished."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from .errors import NHIError, PermissionDeniedError, ProxmoxError
from .freeze import frozen
from .guest import Found
from .guest_bystanders import own_guests
from .guest_doubt import patiently
from .guest_reader import Api, guest_path, vmid_is_free
from .guest_record import GuestRecord, Made, Replaced, Target
from .guest_rescan import Rescan
from .guest_undo import Undone, await_idle, look_at, remove, retire, undo, undo_stop
from .history_keeper import keep_nothing
from .interrupts import Interrupts
from .journal import Journal, abandoned, cut_off
from .reservations import Reservations

_TASK_SECONDS = 3600.0


def settle(
    api: Api,
    state_dir: Path,
    *,
    check_mode: bool,
    tell: Callable[[str], None],
    rescan: Rescan | None = None,
    keep: Callable[[str], None] = keep_nothing,
    only: Collection[str] | None = None,
) -> list[str]:
    """Settle every operation that was cut off, or ``only`` some of them, and tell a sentence of each.

    In check mode, and while changes are frozen, they are only named. The guests that they had begun something with are
    read again for state.json.
    """
    told: list[str] = []
    warnings: list[str] = []
    freeze = frozen(state_dir)
    with Interrupts():
        if check_mode or freeze:
            when = "once changes are possible again" if freeze else "first"
            told = [f"{title} was cut off: the next real run settles it {when}." for title in cut_off(state_dir)]
        for journal in () if check_mode or freeze else abandoned(state_dir):
            if only is not None and journal.operation not in only:
                continue
            keep(f"{journal.operation} settled")
            told.append(_recover(api, state_dir, journal))
            warnings += rescan(api, own_guests(api, journal.operation, journal.entries)) if rescan else []
    for text in (*told, *warnings):
        tell(text)
    return told


def foretell(record: GuestRecord) -> str:
    """What settling an operation means, as far as its journal tells; the guests themselves have the last word."""
    if record.made is not None:
        if not record.complete:
            back = f"; {record.aside.label} gets its name and place back" if record.aside else ""
            return f"undo: {record.made.label} is destroyed again, if it is there{back}"
        old = f"; {record.retired.target.label}, whose place it took, is destroyed" if record.retired else ""
        return f"finish: {record.made.label} stays{' and is protected' if record.protect else ''}{old}"
    again = f"{record.stopped.label} is started again" if record.stopped else ""
    if record.replaced is not None:
        return f"finish: {record.replaced.target.label} is restored again from its backup"
    if record.destroying is not None:
        return f"finish: {record.destroying.label} is destroyed if that had begun{', else ' + again if again else ''}"
    former = [f"{c.target.label} gets its former configuration back" for c in record.of_another]
    parts = [*former, *filter(None, [again])]
    return f"undo: {'; '.join(parts)}" if parts else "nothing is to be undone: only its journal goes"


def _recover(api: Api, state_dir: Path, journal: Journal) -> str:
    record = GuestRecord.of(journal.operation, journal.entries)
    try:
        undone = _settle(api, record)
        if undone.settled:
            _settle_ledger(api, state_dir, journal, record)
            journal.close()
    except NHIError as e:
        undone = Undone(f"It could not be settled ({e}): look at {journal.path}.", settled=False)
    return f"{journal.title} was cut off. {undone.text or 'It had changed nothing.'}"


def _settle(api: Api, record: GuestRecord) -> Undone:
    if record.made is not None:
        # Without the new guest there is nothing to go on with: then the one that it was to replace comes back.
        record.complete = record.complete and _is_there(api, record.made)
        return _finish(api, record, record.made) if record.complete else undo(api, record)
    if record.replaced is not None:
        return _replace(api, record.replaced, restart=record.stopped is not None)
    if record.destroying is not None:
        return _destroy(api, record.destroying, restart=record.stopped is not None)
    return undo(api, record)


def _settle_ledger(api: Api, state_dir: Path, journal: Journal, record: GuestRecord) -> None:
    """Only what the operation itself reserved: the line of a guest that is gone goes when somebody chooses next."""
    ledger = Reservations(state_dir)
    if record.made is not None and record.complete:
        ledger.keep(journal.operation)
        old = record.retired
        if old is not None and vmid_is_free(api, old.target.vmid):
            ledger.take_over(journal.operation, old.name, old.target.vmid, old.addresses)
    else:
        ledger.release(journal.operation)


def _is_there(api: Api, made: Made) -> bool:
    """Whether the guest that was made is there; ProxmoxError when this token can not tell."""
    found = _read(api, Target(made.kind, made.node, made.vmid, made.name))
    if found is None and not vmid_is_free(api, made.vmid):
        raise PermissionDeniedError(f"VMID {made.vmid} is taken by a guest that this token can not see")
    return found is not None and found.operation == made.operation


def _finish(api: Api, record: GuestRecord, made: Made) -> Undone:
    """The guest was complete but for its protection, and for the end of the one whose place it took."""
    if record.protect:
        path = guest_path(made.kind, made.node, made.vmid, "config")
        patiently(lambda: api.put(path, {"protection": 1}))
    done = Undone(f"Finished: {made.label} is complete{' and protected' if record.protect else ''}.")
    return Undone.all([done, retire(api, record.retired)] if record.retired else [done])


def _destroy(api: Api, target: Target, *, restart: bool) -> Undone:
    await_idle(api, target)
    found = _read(api, target)
    if found is None or not target.is_same(found):
        return Undone(f"Finished: {target.label} is destroyed.")
    if found.lock == "destroyed":
        # Its disks may be gone already: there is nothing to go back to.
        remove(api, found)
        return Undone(f"Finished: {target.label} is destroyed.")
    if restart:
        return undo_stop(api, target)
    return Undone(f"{target.label} was not destroyed yet and stays.")


def _replace(api: Api, replaced: Replaced, *, restart: bool) -> Undone:
    """Restore again: half a restore is no guest, and the backup is still there."""
    target = replaced.target
    await_idle(api, target)
    try:
        task = patiently(lambda: api.post(("nodes", target.node, target.kind), replaced.data))
        api.wait_task(str(task), _TASK_SECONDS)
    except ProxmoxError as e:
        return Undone(
            f"{target.label} may be incomplete and could not be restored again ({e}): restore it from its backup.",
            settled=False,
        )
    text = f"Finished: {target.label} was restored again from its backup."
    if not restart:
        return Undone(text)
    task = patiently(lambda: api.post(guest_path(target.kind, target.node, target.vmid, "status", "start")))
    api.wait_task(str(task), _TASK_SECONDS)
    return Undone(f"{text} It runs.")


def _read(api: Api, target: Target) -> Found | None:
    return patiently(lambda: look_at(api, target))
