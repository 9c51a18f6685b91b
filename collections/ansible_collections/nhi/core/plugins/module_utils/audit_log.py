# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log's files: appended to under a lock, flushed before anything relies on them, never rewritten.

``audit/`` in the state directory holds one file for each day, and another when one grows too large. A file is named
after the number of its first entry, ``audit_000000000042_2026-11-27.jsonl``, so that names sort as the chain goes on,
whatever the clock does. ``head.json`` says where the chain has come to; an entry counts once both are written, and what
a crash left between the two is taken up, or cut off where it is torn, by the next writer.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from .audit_entry import ENTRY_LIMIT_BYTES, Position, canonical, compact, read_line
from .errors import AuditError, NHIError
from .files import discard, explain, give_to_owner_of, read_if_exists, sync_directory, write_new
from .lock import FileLock

DIRECTORY: Final = "audit"
HEAD: Final = "head.json"
_LOCK: Final = "audit.lock"
_FIELD_LIMIT_BYTES: Final = ENTRY_LIMIT_BYTES // 4
_FILE_LIMIT_BYTES: Final = 16 * 1024 * 1024
# Whoever is in the directory's group may read; nobody but its owner writes.
_DIRECTORY_MODE: Final = 0o750
_FILE_MODE: Final = 0o640
_NAME: Final = re.compile(r"audit_(\d{12})_(\d{4}-\d\d-\d\d)\.jsonl")


@dataclass(frozen=True)
class Segment:
    """One file of the log: the number of its first entry and the day (UTC) on which it was begun."""

    path: Path
    first: int
    day: str


@dataclass(frozen=True)
class Head:
    """What was certainly written: the last entry, the file it is in, and how long that file was after it."""

    position: Position
    file: str
    size: int

    def as_bytes(self) -> bytes:
        """The content of head.json."""
        at = self.position
        data = {"chain": at.chain, "seq": at.seq, "hash": at.hash, "file": self.file, "size": self.size}
        return json.dumps(data, sort_keys=True).encode() + b"\n"

    @classmethod
    def parse(cls, raw: bytes) -> Head | None:
        """What head.json says; None when it can not be made out."""
        try:
            data = json.loads(raw)
            at = Position(str(data["chain"]), int(data["seq"]), str(data["hash"]))
            return cls(at, str(data["file"]), int(data["size"]))
        except (ValueError, KeyError, TypeError):
            return None


def directory_of(state_dir: Path | str) -> Path:
    """Where the log of a state directory is."""
    return Path(state_dir) / DIRECTORY


def segments(directory: Path) -> list[Segment]:
    """The files of the log, in the order of the chain; OSError when they can not be listed."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    found = [(match, directory / name) for name in names if (match := _NAME.fullmatch(name))]
    return sorted((Segment(path, int(m[1]), m[2]) for m, path in found), key=lambda s: (s.first, s.path.name))


def read_head(directory: Path) -> Head | None:
    """What head.json says; None where there is none. OSError when it can not be read."""
    raw = read_if_exists(directory / HEAD)
    return None if raw is None else Head.parse(raw)


class AuditLog:
    """The log of one state directory."""

    def __init__(
        self, state_dir: Path | str, *, file_limit_bytes: int = _FILE_LIMIT_BYTES, timeout_seconds: float = 30.0
    ) -> None:
        self.directory = directory_of(state_dir)
        self._file_limit = file_limit_bytes
        self._timeout = timeout_seconds

    def append(self, fields: Mapping[str, Any]) -> Position:
        """Write an entry and wait until it is on the disk; AuditError when that can not be done.

        ``fields`` are all but those of the chain itself. After an error the entry does not count.
        """
        with self._reporting():
            self._make_directory()
            with FileLock(self.directory / _LOCK, "audit", timeout=self._timeout):
                return self._append(_small_enough(fields))

    def require_writable(self) -> None:
        """AuditError unless an entry of the largest size could be written now."""
        with self._reporting():
            self._make_directory()
            with tempfile.TemporaryFile(dir=self.directory, buffering=0) as probe:
                if probe.write(bytes(ENTRY_LIMIT_BYTES)) != ENTRY_LIMIT_BYTES:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            for path in (self.directory / HEAD, *(s.path for s in segments(self.directory)[-1:])):
                if path.exists() and not os.access(path, os.W_OK):
                    raise PermissionError(errno.EACCES, f"{path.name} belongs to somebody else")

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise AuditError(
                f"the audit log in {self.directory} can not be written: {explain(e)}: make room there, or run as a"
                " user who may write to it"
            ) from e
        except AuditError:
            raise
        except NHIError as e:
            raise AuditError(f"the audit log in {self.directory} can not be written: {e}") from e

    def _make_directory(self) -> None:
        if self.directory.is_dir():
            return
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            self.directory.mkdir()
            self.directory.chmod(_DIRECTORY_MODE)
            give_to_owner_of(self.directory.parent, self.directory)
            sync_directory(self.directory.parent)

    def _append(self, fields: Mapping[str, Any]) -> Position:
        now = datetime.now(UTC)
        files = segments(self.directory)
        position, tail, size = self._where(files)
        position, line = position.next({"timestamp": now.isoformat(timespec="microseconds"), **fields})
        day = now.date().isoformat()
        if tail is None or tail.day != day or size + len(line) > self._file_limit:
            tail = Segment(self.directory / f"audit_{position.seq:012d}_{day}.jsonl", position.seq, day)
        self._write_head(Head(position, tail.path.name, self._write(tail.path, line)))
        return position

    def _where(self, files: list[Segment]) -> tuple[Position, Segment | None, int]:
        """Where the chain goes on, the file to append to, and its size; None where a new file is to be begun.

        What was written after the head counts as far as it is whole and follows. What is torn at the end was never
        relied on and is cut off. Where something is missing that the head knows, the chain goes on after the head in
        a new file: nothing of what is left is touched, and the gap stays for everybody to see.
        """
        head = read_head(self.directory)
        if head is None and not files:
            return Position.start_of(uuid4().hex), None, 0
        position, start, rest = self._known(head, files)
        if rest is None:
            return position, None, 0
        tail: Segment | None = None
        end = 0
        for segment in rest:
            new = _read_from(segment.path, start)
            lines = new.split(b"\n")
            for line in lines[:-1]:
                with contextlib.suppress(ValueError):
                    entry = read_line(line)
                    if position.follows(entry):
                        position = Position.at(entry)
            tail, end, start = segment, start + len(new) - len(lines[-1]), 0
            if lines[-1]:
                _cut(segment.path, end)
        return position, tail, end

    def _known(self, head: Head | None, files: list[Segment]) -> tuple[Position, int, list[Segment] | None]:
        """The last entry that is certain, where to read on, and the files to read; None where the head is ahead."""
        if head is None:
            # The head is lost: the last whole entry of the last files is the best there is.
            for number in range(len(files) - 1, -1, -1):
                if (last := _last_entry(files[number].path)) is not None:
                    return Position.at(last[0]), last[1], files[number:]
            return Position.start_of(uuid4().hex), 0, files
        names = [s.path.name for s in files]
        if head.file not in names:
            return head.position, 0, None
        rest = files[names.index(head.file) :]
        if rest[0].path.stat().st_size < head.size:
            return head.position, 0, None
        return head.position, head.size, rest

    def _write(self, path: Path, line: bytes) -> int:
        """Append the line; how long the file is then."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _FILE_MODE)
        size = os.fstat(descriptor).st_size
        try:
            if not size:
                os.fchmod(descriptor, _FILE_MODE)
                give_to_owner_of(self.directory, descriptor)
            if os.write(descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
            if not size:
                sync_directory(self.directory)
        except OSError:
            # An entry that was reported as not written must not turn up later.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
        finally:
            os.close(descriptor)
        return size + len(line)

    def _write_head(self, head: Head) -> None:
        # The entry is safe: a head that lags is set right by the next writer.
        new = self.directory / f"{HEAD}.tmp"
        try:
            write_new(new, head.as_bytes(), _FILE_MODE)
            os.replace(new, self.directory / HEAD)
        except OSError:
            discard(new)


def _small_enough(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that fit: values of any kind and size, as the log keeps them."""
    kept = {name: compact(value) for name, value in fields.items()}
    for name, value in kept.items():
        if len(canonical(value)) > _FIELD_LIMIT_BYTES:
            kept[name] = f"({len(canonical(value))} bytes left out)"
    return kept


def _cut(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_from(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()


def _last_entry(path: Path) -> tuple[dict[str, Any], int] | None:
    """The last whole entry of a file, and where the whole lines end."""
    content = path.read_bytes()
    for line in reversed(content.split(b"\n")[:-1]):
        with contextlib.suppress(ValueError):
            return read_line(line), content.rfind(b"\n") + 1
    return None
