# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines on disk that wait for PostgreSQL: appended and flushed, read again by whichever router comes first.

A directory that several routers may share. Each writes files of its own, which it holds a lock on; a file that nobody
holds is that of a router that was killed, or is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

LOG: Final = logging.getLogger("nhi.router.spool")
_SUFFIX: Final = ".jsonl"
_LARGEST_FILE: Final = 4 * 1024 * 1024
_PARTS: Final = 16


class SpoolFile:
    """A file that nobody writes to any more, held for reading; a context, so that it is let go."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def lines(self) -> list[bytes]:
        """All lines, a torn last one included."""
        return self.path.read_bytes().splitlines()

    def remove(self) -> None:
        """It was taken over as a whole."""
        self.path.unlink(missing_ok=True)


class Spool:
    """Appends batches of lines; at its bound it gives up the oldest file, and counts what is lost.

    Blocking: called in a thread.
    """

    def __init__(self, directory: Path, max_bytes: int = 256 * 1024 * 1024) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.dropped = 0
        self._file_bytes = max(1, min(_LARGEST_FILE, max_bytes // _PARTS))
        # A call whose caller was cancelled may still be at work.
        self._turn = threading.RLock()
        self._path: Path | None = None
        self._descriptor = -1
        self._written = 0
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _path, size in self._files())

    def append(self, lines: Sequence[bytes]) -> None:
        """Add lines and flush them to the disk, all or none; OSError when the disk does not take them."""
        content = b"".join(line + b"\n" for line in lines)
        with self._turn:
            self._append(content)

    def _append(self, content: bytes) -> None:
        self._make_room(len(content))
        if self._path is None or not self._path.exists():
            self.rotate()
            self._begin()
        try:
            at = 0
            while at < len(content):
                at += os.write(self._descriptor, content[at:])
            os.fsync(self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._written)
            raise
        self._written += len(content)
        if self._written >= self._file_bytes:
            self.rotate()

    def rotate(self) -> None:
        """Complete the file that is written to, so that it can be read."""
        with self._turn:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._path, self._descriptor, self._written = None, -1, 0

    def oldest(self) -> SpoolFile | None:
        """The oldest file that nobody else holds; None where there is none."""
        with self._turn:
            self.rotate()
            for path, _size in self._files():
                if (found := _hold(path)) is not None:
                    return found
        return None

    def _begin(self) -> None:
        path = self.directory / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}{_SUFFIX}"
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._path = path
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _make_room(self, needed: int) -> None:
        while self.size + needed > self.max_bytes:
            oldest = self.oldest()
            if oldest is None:
                return
            with oldest:
                lost = len(oldest.lines())
                oldest.remove()
            self.dropped += lost
            LOG.error(
                "%s is full (%d bytes): %d entries, the oldest, are lost. Start the database, or give spool_mib more.",
                self.directory, self.max_bytes, lost,
            )  # fmt: skip

    def _files(self) -> Iterator[tuple[Path, int]]:
        """By age, the oldest first."""
        for path in sorted(self.directory.glob(f"*{_SUFFIX}")):
            # Another router may have taken it over meanwhile.
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat().st_size


def _hold(path: Path) -> SpoolFile | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return SpoolFile(path, descriptor)
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None
