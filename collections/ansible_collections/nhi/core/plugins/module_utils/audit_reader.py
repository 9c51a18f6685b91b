# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the audit log: entries of a time, about a guest, by an actor.

Reading takes no lock and needs no right to write. A damaged line is skipped here; ``audit_verify.py`` tells of it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from .audit_entry import read_line
from .audit_log import Segment, directory_of, segments
from .errors import AuditError
from .files import explain

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Query:
    """What is looked for; None and empty mean any. Times are inclusive and carry their offset."""

    actor: str | None = None
    guest: str | None = None
    operation: str | None = None
    outcome: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None

    def matches(self, entry: dict[str, Any], line: bytes) -> bool:
        """Whether an entry, written down as the line, is one of those."""
        return (
            self.actor in (None, entry.get("actor"), entry.get("user"))
            and self.guest in (None, entry.get("subject"))
            and self.outcome in (None, entry["outcome"])
            and (self.operation is None or self.operation in (entry["operation"], entry["operation"].split("/")[0]))
            and (self.text is None or self.text.lower() in line.decode("ascii", "replace").lower())
            and self._in_time(entry)
        )

    def _in_time(self, entry: dict[str, Any]) -> bool:
        at = time_of(entry)
        return (self.since is None or at >= self.since) and (self.until is None or at <= self.until)


def time_of(entry: dict[str, Any]) -> datetime:
    """When an entry was written."""
    try:
        at = datetime.fromisoformat(entry["timestamp"])
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def find(state_dir: Path | str, query: Query) -> Iterator[dict[str, Any]]:
    """Entries that match, oldest first; AuditError when the log can not be read."""
    with _reporting(state_dir):
        for segment in _files(state_dir, query):
            for line in _lines(segment):
                with contextlib.suppress(ValueError):
                    entry = read_line(line)
                    if query.matches(entry, line):
                        yield entry


def entries_about(
    state_dir: Path | str, name: str, since: datetime | None = None, until: datetime | None = None
) -> list[dict[str, Any]]:
    """What was done, tried or refused on the guest of that name between two moments, oldest first."""
    return list(find(state_dir, Query(guest=name, since=since, until=until)))


def newest(state_dir: Path | str, count: int, query: Query | None = None) -> list[dict[str, Any]]:
    """The last entries that match, oldest of them first."""
    wanted, query, found = max(count, 0), query or Query(), deque[dict[str, Any]]()
    with _reporting(state_dir):
        for segment in reversed(_files(state_dir, query)):
            in_file = deque[dict[str, Any]](maxlen=wanted - len(found))
            for line in _lines(segment):
                with contextlib.suppress(ValueError):
                    entry = read_line(line)
                    if query.matches(entry, line):
                        in_file.append(entry)
            found.extendleft(reversed(in_file))
            if len(found) >= wanted:
                break
    return list(found)


def after(state_dir: Path | str, seq: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Entries with a higher number, each with its line, in the order of the files."""
    with _reporting(state_dir):
        files = segments(directory_of(state_dir))
        for at, segment in enumerate(files):
            if at + 1 < len(files) and files[at + 1].first <= seq + 1:
                continue
            for line in _lines(segment):
                with contextlib.suppress(ValueError):
                    entry = read_line(line)
                    if entry["seq"] > seq:
                        yield entry, line


def _files(state_dir: Path | str, query: Query) -> list[Segment]:
    """Files in which a match can be: a file holds entries of its day, or later ones where a clock was set back."""
    files = segments(directory_of(state_dir))
    if query.since is not None:
        first = (query.since.astimezone(UTC) - _DAY).date().isoformat()
        files = [s for at, s in enumerate(files) if s.day >= first or at == len(files) - 1]
    return files


def _lines(segment: Segment) -> Iterator[bytes]:
    with segment.path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1]


@contextlib.contextmanager
def _reporting(state_dir: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise AuditError(
            f"the audit log in {directory_of(state_dir)} can not be read: {explain(e)}. "
            "Ask for the right to read it: its group may."
        ) from e
