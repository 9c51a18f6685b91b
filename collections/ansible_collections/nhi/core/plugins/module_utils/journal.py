# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operation is about to do, written down before each step, so that whoever comes after a crash can undo it.

One file for each operation under way, ``journal/OPERATION.jsonl`` in the state directory: a line for the operation,
then one for each step, each flushed to the disk before the step is taken. The process holds a lock on its file as
long as it lives, and the kernel drops that lock however the process ends: a journal nobody holds is that of an
operation that was cut off. A finished operation removes its journal.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import StateError
from .files import discard, explain, sync_directory
from .lock import Holder

DIRECTORY = "journal"
_SUFFIX, _NEW = ".jsonl", ".new"
_NEW_SECONDS = 60.0

Entry = Mapping[str, Any]


def new_operation() -> str:
    """A number that no other operation has."""
    return f"op-{uuid.uuid4().hex[:12]}"


class Journal:
    """The journal of one operation; nothing is written before its first step."""

    def __init__(self, state_dir: Path, operation: str, what: str) -> None:
        self.operation = operation
        self.what = what
        self.entries: list[Entry] = []
        self.holder: Holder | None = None
        self._directory = state_dir / DIRECTORY
        self._descriptor: int | None = None
        self._kept = False

    @property
    def path(self) -> Path:
        """Where it stands."""
        return path_of(self._directory.parent, self.operation)

    @property
    def title(self) -> str:
        """What was done and by whom, for messages."""
        by = f" by {self.holder.actor} since {self.holder.since}" if self.holder else ""
        return f"{self.operation} ({self.what}{by})"

    def write(self, step: str, **data: Any) -> None:
        """Write a step down; StateError, before the step is taken, when that can not be done."""
        entry = {"step": step, "at": datetime.now(UTC).isoformat(), **data}
        try:
            if self._descriptor is None:
                self._create()
            self._append(entry)
        except OSError as e:
            raise StateError(
                f"{self.path} can not be written: {explain(e)}; the step was not taken, make room or correct state_dir"
            ) from e
        self.entries.append(entry)

    def keep(self) -> None:
        """What was begun could not be settled: leave the journal to whoever comes next."""
        self._kept = True

    @property
    def kept(self) -> bool:
        """Whether something is left that could not be settled."""
        return self._kept

    def settled(self) -> None:
        """What was begun came to its end after all."""
        self._kept = False

    def close(self) -> None:
        """The operation ended. Its journal goes, unless it is to be kept."""
        if self._descriptor is None:
            return
        if not self._kept:
            discard(self.path)
            with contextlib.suppress(OSError):
                sync_directory(self._directory)
        os.close(self._descriptor)
        self._descriptor = None

    def _create(self) -> None:
        # Under another name until it is locked: nobody may take it for that of a dead process.
        self._directory.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(_NEW)
        self.holder = Holder.me(self.operation)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._descriptor = descriptor
            self._append({"schema_version": 1, "what": self.what, "holder": asdict(self.holder)})
            new.rename(self.path)
            sync_directory(self._directory)
        except OSError:
            self._descriptor = None
            os.close(descriptor)
            discard(new, self.path)
            raise

    def _append(self, entry: Entry) -> None:
        if self._descriptor is None:
            raise ValueError("the journal is not open")
        append_entry(self._descriptor, entry)


def append_entry(descriptor: int, entry: Entry) -> None:
    """Add a line to a file of entries and wait until it is on the disk; OSError when it is not."""
    line = json.dumps(entry, sort_keys=True, default=str).encode() + b"\n"
    before = os.fstat(descriptor).st_size
    try:
        written = os.write(descriptor, line)
        if written < len(line):
            raise OSError(28, "No space left on device")
        os.fsync(descriptor)
    except OSError:
        # Whoever comes after a crash must not find a step that was not taken.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, before)
        raise


def read_entries(raw: bytes) -> list[dict[str, Any]]:
    """The lines of a file of entries. One that is torn does not count: what it announced was not done."""
    entries: list[dict[str, Any]] = []
    for line in raw.splitlines():
        with contextlib.suppress(ValueError):
            entries.append(json.loads(line))
    return entries


def path_of(state_dir: Path, operation: str) -> Path:
    """Where the journal of an operation stands as long as there is one."""
    return state_dir / DIRECTORY / f"{operation}{_SUFFIX}"


def abandoned(state_dir: Path) -> Iterator[Journal]:
    """Journals of operations that were cut off, oldest first.

    Each is held while the caller settles it, and kept unless the caller closes it before asking for the next.
    """
    directory = state_dir / DIRECTORY
    for path in _oldest_first(directory):
        descriptor = _take(path)
        if descriptor is None:
            continue
        journal = _read(state_dir, path)
        journal._descriptor = descriptor
        try:
            yield journal
        finally:
            journal.keep()
            journal.close()


def survey(state_dir: Path) -> list[tuple[Journal, bool]]:
    """Every journal as it stands, oldest first, and whether a living process works on it; nothing is held."""
    found = []
    for path in _oldest_first(state_dir / DIRECTORY):
        descriptor = _take(path)
        with contextlib.suppress(FileNotFoundError):
            found.append((_read(state_dir, path), descriptor is None))
        if descriptor is not None:
            os.close(descriptor)
    return found


def is_under_way(state_dir: Path, operation: str) -> bool:
    """Whether a living process works on the operation."""
    path = path_of(state_dir, operation)
    descriptor = _take(path)
    if descriptor is None:
        return path.exists()
    os.close(descriptor)
    return False


def cut_off(state_dir: Path) -> list[str]:
    """Titles of the operations that were cut off, for who may only look."""
    return [journal.title for journal in abandoned(state_dir)]


def _oldest_first(directory: Path) -> list[Path]:
    def age(path: Path) -> tuple[float, str]:
        try:
            return path.stat().st_mtime, path.name
        except FileNotFoundError:
            return 0.0, path.name  # finished since it was listed

    try:
        paths = list(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as e:
        raise StateError(f"{directory} can not be read: {explain(e)}; correct state_dir or its owner") from e
    for leftover in paths:
        # Whoever was killed while making a journal had not begun anything yet; a young one may just be being made.
        old = time.time() - (age(leftover)[0] or time.time()) > _NEW_SECONDS
        if leftover.suffix == _NEW and old and (descriptor := _take(leftover)) is not None:
            discard(leftover)
            os.close(descriptor)
    return sorted((p for p in paths if p.suffix == _SUFFIX), key=age)


def _take(path: Path) -> int | None:
    """The file, open and locked, if nobody holds it and it is still there."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as e:
        raise StateError(f"{path} can not be opened: {explain(e)}; correct its owner") from e
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return descriptor
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None


def _read(state_dir: Path, path: Path) -> Journal:
    journal = Journal(state_dir, path.stem, "an operation of which nothing was written down")
    entries = read_entries(path.read_bytes())
    if entries and "step" not in entries[0]:
        head = entries.pop(0)
        journal.what, journal.holder = head["what"], Holder(**head["holder"])
    journal.entries = list(entries)
    return journal
