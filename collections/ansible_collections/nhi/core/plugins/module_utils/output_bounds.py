# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Output of a command, kept within bounds: as bytes with their two ends, or as the last lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator


class Capture:
    """The first and the last half of a stream, and how long it was."""

    def __init__(self, limit_bytes: int) -> None:
        self.size = 0
        self._half = max(1, limit_bytes // 2)
        self._head = b""
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """Take some of the stream."""
        self.size += len(chunk)
        room = self._half - len(self._head)
        self._head += chunk[:room]
        self._tail = (self._tail + chunk[room:])[-self._half :]

    @property
    def left_out(self) -> int:
        """How many bytes in the middle are not there any more."""
        return self.size - len(self._head) - len(self._tail)

    @property
    def text(self) -> str:
        """What is left, with a line that tells of what is not."""
        if not self.left_out:
            return (self._head + self._tail).decode(errors="replace")
        head, tail = (part.decode(errors="replace") for part in (self._head, self._tail))
        return f"{head}\n... ({self.left_out} bytes left out) ...\n{tail}"


class Lines:
    """A stream as lines, each of bounded length; ``show`` gets them as they come."""

    def __init__(self, show: Callable[[str], None], longest_bytes: int = 8192) -> None:
        self.size = 0
        self._show = show
        self._longest = longest_bytes
        self._held = b""
        self._cut = 0

    def feed(self, chunk: bytes) -> None:
        """Take some of the stream."""
        self.size += len(chunk)
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            self._hold(part)
            self._end()
        self._hold(rest)

    def close(self) -> None:
        """The stream ended, perhaps within a line."""
        if self._held:
            self._end()

    def _hold(self, part: bytes) -> None:
        room = self._longest - len(self._held)
        self._held += part[:room]
        self._cut += max(0, len(part) - room)

    def _end(self) -> None:
        more = f"... ({self._cut} bytes left out)" if self._cut else ""
        line, self._held, self._cut = self._held.decode(errors="replace").removesuffix("\r") + more, b"", 0
        self._show(line)


class LastLines:
    """The last lines, of which all together are not longer than the limit."""

    def __init__(self, limit_bytes: int) -> None:
        self.left_out = 0
        self._limit = limit_bytes
        self._lines: deque[str] = deque()
        self._size = 0

    def add(self, line: str) -> None:
        """Take one more."""
        self._lines.append(line)
        self._size += len(line.encode(errors="replace")) + 1
        while self._size > self._limit and len(self._lines) > 1:
            self._size -= len(self._lines.popleft().encode(errors="replace")) + 1
            self.left_out += 1

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)
