# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The deployment or removal of a service on a guest, written down from its first step to its last.

Many processes carry one out, each task of the playbook in its own. ``deployments/GUEST.jsonl`` in the state directory
joins them: a line, flushed to the disk, before each thing is made, so that whoever comes after a crash knows what the
unfinished deployment made and what was there before it. The process that runs the playbook holds the record; when it
is gone another run takes the record over. The file is locked while a step works, also one that outlived its playbook.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from .errors import PreflightError, StateError
from .files import explain, sync_directory
from .journal import append_entry, read_entries
from .lock import Holder

DIRECTORY = "deployments"
DEPLOYMENT, REMOVAL = "deployment", "removal"
# Longest time that a step of a run that was killed is waited for: to start a guest may take a few minutes.
STEP_SECONDS = 300.0

_SUFFIX = ".jsonl"
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_VERSION = 1
_PAUSE_SECONDS = 0.05
_BEGUN, _MADE, _GENERATED, _REGISTERED, _UNDONE = "begun", "made", "generated", "registered", "undone"


@dataclass(frozen=True)
class Record:
    """What is known of a guest: which run works on its service now or did last, and what was made.

    ``deployment`` and ``removal`` name the runs that began what is not finished. ``made`` are the operations that may
    have made the guest, ``generated`` the names of secrets, ``registration`` what was registered before.
    """

    guest: str
    service: str | None = None
    purpose: str | None = None
    holder: Holder | None = None
    removes: bool = False
    deployment: Holder | None = None
    removal: Holder | None = None
    made: tuple[str, ...] = ()
    generated: tuple[str, ...] = ()
    registration: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, guest: str, entries: Iterable[Mapping[str, Any]]) -> Record:
        """The record that these lines tell."""
        record = cls(guest)
        try:
            for entry in entries:
                record = record._after(entry)
        except (KeyError, TypeError) as e:
            raise StateError(
                f"{DIRECTORY}/{guest}{_SUFFIX} is no record of a deployment: look at {guest}, then remove that file"
            ) from e
        return record

    def _after(self, entry: Mapping[str, Any]) -> Record:
        step = entry["step"]
        if step == _BEGUN:
            return self._begun(entry)
        if step == _MADE:
            return replace(self, made=_with(self.made, entry["operation"]))
        if step == _GENERATED:
            return replace(self, generated=_with(self.generated, *entry["names"]))
        if step == _REGISTERED:
            return self if self.registration is not None else replace(self, registration=entry["before"])
        if not self.removes:
            return replace(self, holder=None, deployment=None, made=(), generated=(), registration=None)
        # A removal that was cut off before is still to be finished.
        return replace(self, holder=None, removal=None if self.removal == self.holder else self.removal)

    def _begun(self, entry: Mapping[str, Any]) -> Record:
        if entry["schema_version"] > _VERSION:
            raise StateError(f"What was begun with {self.guest} was begun by a newer NHI: finish it with that one")
        holder, removes = Holder(**entry["holder"]), entry["what"] == REMOVAL
        service, purpose = entry["service"] or self.service, entry["purpose"] or self.purpose
        begun = replace(self, holder=holder, removes=removes, service=service, purpose=purpose)
        if removes:
            return replace(begun, removal=self.removal or holder)
        return replace(begun, deployment=self.deployment or holder)

    @property
    def begun(self) -> Holder | None:
        """Who began what is to be finished now; None where there is nothing."""
        return (self.removal or self.deployment) if self.removes else (self.deployment or self.removal)

    @property
    def what(self) -> str:
        """A word for it."""
        return REMOVAL if self.begun == self.removal else DEPLOYMENT

    @property
    def is_under_way(self) -> bool:
        """Whether the run that holds it lives, as far as can be told."""
        return self.holder is not None and not self.holder.is_gone()

    @property
    def story(self) -> str:
        """One sentence: what is unfinished and whose it is."""
        if self.is_under_way and (by := self.holder):
            doing = "removed" if self.removes else "deployed"
            return f"{self.guest} is being {doing} by {by.actor} (pid {by.pid} on {by.host}, since {by.since})."
        if by := self.begun:
            service = f" ({self.service})" if self.service else ""
            return f"The {self.what} of {self.guest}{service} was cut off: {by.actor} began it at {by.since}."
        return f"Nothing is unfinished with {self.guest}."

    @property
    def advice(self) -> str:
        """What to do about it."""
        if self.begun is None or self.is_under_way:
            return ""
        if self.what == REMOVAL:
            return f"Finish it with `{_line(self.command)}`."
        return f"Finish it with `{_line(self.command)}`, or remove what it made with `{_line(self._remove)}`."

    @property
    def command(self) -> list[str]:
        """The playbook that finishes it, with its options."""
        if self.what == REMOVAL:
            return self._remove
        words = [f"service={self.service}"]
        words += [f"purpose={self.purpose}"] if self.purpose not in (None, "default") else []
        words += [f"guest={self.guest}"] if self.guest != f"{self.service}-{self.purpose or 'default'}" else []
        return ["playbooks/service.yml", *(part for word in words for part in ("-e", word))]

    def checked_command(self) -> list[str]:
        """The same for who runs it; PreflightError where more than words was written down."""
        _require_words(self.service, self.purpose)
        return self.command

    @property
    def _remove(self) -> list[str]:
        return ["playbooks/remove_service.yml", "-e", f"guest={self.guest}", "-e", f"confirm={self.guest}"]

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        begun = self.begun
        return {
            "guest": self.guest,
            "what": self.what,
            "service": self.service,
            "purpose": self.purpose,
            "actor": begun.actor if begun else None,
            "since": begun.since if begun else None,
            "under_way": self.is_under_way,
            "message": f"{self.story} {self.advice}".strip(),
        }


class Deployment:
    """The record of one guest, locked from ``open`` to ``close``; a line is written before its step is taken."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        try:
            self._entries = _read_whole(descriptor)
        except OSError as e:
            os.close(descriptor)
            raise StateError(f"{path} can not be read: {explain(e)}; correct its owner") from e

    @classmethod
    def open(cls, state_dir: Path, guest: str, *, create: bool = False) -> Self | None:
        """Wait until nobody works on it, up to STEP_SECONDS; None where there is none."""
        path = path_of(state_dir, guest)
        deadline = time.monotonic() + STEP_SECONDS
        while True:
            try:
                if create:
                    path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0)
                descriptor = os.open(path, flags, 0o644)
            except FileNotFoundError:
                return None
            except OSError as e:
                raise StateError(f"{path} can not be opened: {explain(e)}; correct state_dir or its owner") from e
            if _lock(descriptor):
                return cls(path, descriptor)
            os.close(descriptor)
            if time.monotonic() > deadline:
                raise StateError(f"A step of a run that is gone still works on {guest}: wait for it and run this again")
            time.sleep(_PAUSE_SECONDS)

    def close(self) -> None:
        """Let others work on it."""
        os.close(self._descriptor)

    @property
    def record(self) -> Record:
        """What it says."""
        return Record.of(self.path.stem, self._entries)

    def begin(self, what: str, holder: Holder, service: str | None, purpose: str | None) -> None:
        """A run takes the record."""
        self._write(
            _BEGUN, schema_version=_VERSION, what=what, holder=asdict(holder), service=service, purpose=purpose
        )  # fmt: skip

    def makes(self, operation: str) -> None:
        """An operation, whose mark the guest will carry, is about to make the guest."""
        self._write(_MADE, operation=operation)

    def generates(self, names: Iterable[str]) -> None:
        """Secrets of these names are about to be generated."""
        self._write(_GENERATED, names=list(names))

    def registers(self, before: Mapping[str, Any]) -> None:
        """The service is about to be registered in place of ``before``, which is empty where there was nothing."""
        self._write(_REGISTERED, before=dict(before))

    def undone(self) -> None:
        """What the run began is undone; what an earlier run began to remove is still to be removed."""
        self._write(_UNDONE)
        if self.record.begun is None:
            self.end()

    def end(self) -> None:
        """All is done: the record goes."""
        try:
            self.path.unlink(missing_ok=True)
            sync_directory(self.path.parent)
        except OSError as e:
            raise StateError(f"{self.path} can not be removed: {explain(e)}; remove it by hand") from e

    def _write(self, step: str, **data: Any) -> None:
        entry = {"step": step, "at": datetime.now(UTC).isoformat(), **data}
        try:
            append_entry(self._descriptor, entry)
            if not self._entries:
                sync_directory(self.path.parent)
        except OSError as e:
            raise StateError(
                f"{self.path} can not be written: {explain(e)}; the step was not taken, make room or correct state_dir"
            ) from e
        self._entries.append(entry)


def begin(
    state_dir: Path, guest: str, what: str, run: Holder, service: str | None = None, purpose: str | None = None
) -> tuple[Record, Record | None]:
    """Let a run deploy or remove a service on a guest; the record now, and as it was where something was cut off.

    StateError, naming who, when another run that lives holds it. The same process may begin as often as it likes.
    PreflightError for a service or purpose that is none: both become part of a command that people paste.
    """
    _require_words(service, purpose)
    _refuse_others(look(state_dir, guest), run, state_dir)
    opened = Deployment.open(state_dir, guest, create=True)
    if opened is None:
        raise StateError(f"{path_of(state_dir, guest)} can not be made: correct state_dir")
    with contextlib.closing(opened) as deployment:
        before = deployment.record
        _refuse_others(before, run, state_dir)
        if _is_same(before.holder, run) and before.removes == (what == REMOVAL):
            return before, None
        deployment.begin(what, run, service, purpose)
        return deployment.record, None if before.begun is None else before


@contextlib.contextmanager
def step(state_dir: Path, guest: str, run: str | None) -> Iterator[Deployment | None]:
    """Work on what a run began, named by its ``operation``; StateError when that run does not hold it any more.

    Without a run nothing is held: whoever works then belongs to no deployment.
    """
    if not run:
        yield None
        return
    opened = Deployment.open(state_dir, guest)
    if opened is None:
        raise StateError(f"What {run} began with {guest} was ended meanwhile, so nothing was done: run the same again")
    with contextlib.closing(opened) as deployment:
        holder = deployment.record.holder
        if holder is None or holder.operation != run:
            raise StateError(f"{deployment.record.story} Nothing was done for {run}, which is not held any more")
        yield deployment


def look(state_dir: Path, guest: str) -> Record | None:
    """The record of a guest, without holding it; None where nothing is unfinished."""
    path = path_of(state_dir, guest)
    try:
        record = Record.of(guest, read_entries(path.read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as e:
        raise StateError(f"{path} can not be read: {explain(e)}; correct state_dir or its owner") from e
    return None if record.begun is None else record


def unfinished(state_dir: Path) -> list[Record]:
    """What was begun and not finished, by guest; also what is under way."""
    try:
        guests = sorted(p.stem for p in (state_dir / DIRECTORY).iterdir() if p.suffix == _SUFFIX)
    except FileNotFoundError:
        return []
    except OSError as e:
        raise StateError(f"{state_dir / DIRECTORY} can not be read: {explain(e)}; correct its owner") from e
    return [record for guest in guests if (record := look(state_dir, guest)) is not None]


def path_of(state_dir: Path, guest: str) -> Path:
    """Where the record of a guest stands as long as there is one."""
    return state_dir / DIRECTORY / f"{guest}{_SUFFIX}"


def _require_words(service: str | None, purpose: str | None) -> None:
    """PreflightError for what would be more than a word in a command: for -e a template is evaluated."""
    for word, kind in ((service, "service"), (purpose, "purpose")):
        if word and not _WORD.fullmatch(word):
            raise PreflightError(f"'{word}' is no {kind}: use letters, digits, and _ . + - after the first character")


def _line(command: Iterable[str]) -> str:
    # Somebody pastes this into a shell.
    return shlex.join(["ansible-playbook", *command])


def _with(known: tuple[str, ...], *more: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*known, *more)))


def _refuse_others(record: Record | None, run: Holder, state_dir: Path) -> None:
    if record is None or record.begun is None or not record.is_under_way or _is_same(record.holder, run):
        return
    file = path_of(state_dir, record.guest)
    away = record.holder is not None and record.holder.host != run.host
    advice = f", or remove {file} if it ended there" if away else ""
    raise StateError(f"{record.story} Wait for it to end{advice}, and run this again")


def _is_same(holder: Holder | None, run: Holder) -> bool:
    return holder is not None and (holder.host, holder.pid, holder.started) == (run.host, run.pid, run.started)


def _lock(descriptor: int) -> bool:
    """Lock the file, unless somebody else has it or it was removed meanwhile."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return bool(os.fstat(descriptor).st_nlink)


def _read_whole(descriptor: int) -> list[Mapping[str, Any]]:
    """All lines; a torn one at the end, whose step was not taken, goes so that the next is not joined to it."""
    raw = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    whole = raw[: raw.rfind(b"\n") + 1]
    if whole != raw:
        os.ftruncate(descriptor, len(whole))
    return list(read_entries(whole))
