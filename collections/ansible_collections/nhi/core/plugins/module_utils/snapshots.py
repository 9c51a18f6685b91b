# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of the state: how they are named, what is noted of them, and which one tells of a moment.

A snapshot is `state_YYYY-MM-DD_HH-MM.json`, in UTC, with `_2`, `_3` before the ending for more in the same minute and
`state_CRITICAL_` in front of those that are kept for ever. Beside it stands `NAME.json.checksum`: the SHA-256 of the
document, which `sha256sum -c` understands, below a comment that says why, for whom and when the snapshot was taken. A
snapshot that was compressed to `NAME.json.gz` keeps that file, so its checksum is the document's from birth to end.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .state_document import format_time, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

DOCUMENT, COMPRESSED, CHECKSUM = ".json", ".json.gz", ".json.checksum"
_MINUTE = "%Y-%m-%d_%H-%M"
_STEM = re.compile(
    r"state_(?P<critical>CRITICAL_)?(?P<minute>\d{4}-\d\d-\d\d_\d\d-\d\d)(?:_(?P<number>[1-9]\d{0,5}))?", re.ASCII
)
_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64})(?:[ ][ *].*)?", re.ASCII)


@dataclass(frozen=True)
class KnownState:
    """A state as verified bytes, and since when it is the state."""

    raw: bytes
    checksum: str
    written_at: datetime


@dataclass(frozen=True)
class SnapshotName:
    """When a snapshot was taken, to the minute, in UTC; number tells those of one minute apart."""

    minute: datetime
    number: int = 1
    critical: bool = False

    @classmethod
    def at(cls, moment: datetime, number: int = 1, *, critical: bool = False) -> SnapshotName:
        """The name of a snapshot that is taken at a moment."""
        return cls(moment.astimezone(UTC).replace(second=0, microsecond=0), number, critical)

    @classmethod
    def parse(cls, stem: str) -> SnapshotName | None:
        """What a name without its ending says; None when it is not that of a snapshot."""
        match = _STEM.fullmatch(stem)
        if match is None:
            return None
        try:
            minute = datetime.strptime(match["minute"], _MINUTE).replace(tzinfo=UTC)
        except ValueError:
            return None
        return cls(minute, int(match["number"] or 1), bool(match["critical"]))

    def __str__(self) -> str:
        critical = "CRITICAL_" if self.critical else ""
        number = f"_{self.number}" if self.number > 1 else ""
        return f"state_{critical}{self.minute.strftime(_MINUTE)}{number}"


@dataclass(frozen=True)
class Note:
    """What was written down when a snapshot was taken; None is what nobody wrote."""

    reason: str = ""
    actor: str = ""
    taken_at: datetime | None = None
    written_at: datetime | None = None

    def line(self) -> str:
        """As the comment in the checksum's file."""
        data = {
            "reason": self.reason,
            "actor": self.actor,
            "taken_at": format_time(self.taken_at) if self.taken_at else None,
            "written_at": format_time(self.written_at) if self.written_at else None,
        }
        return json.dumps(data, sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> Note:
        """What a comment says; an empty note when it is not ours."""
        try:
            data = json.loads(text)
            taken, written = (parse_time(data[key]) if data[key] else None for key in ("taken_at", "written_at"))
            if not all(moment is None or moment.tzinfo for moment in (taken, written)):
                return cls()
            return cls(str(data["reason"]), str(data["actor"]), taken, written)
        except (ValueError, KeyError, TypeError):
            return cls()


def checksum_file(name: SnapshotName, checksum: str, note: Note) -> bytes:
    """The content of the file beside a snapshot."""
    return f"# {note.line()}\n{checksum}  {name}{DOCUMENT}\n".encode()


def parse_checksum_file(raw: bytes) -> tuple[str | None, Note]:
    """The checksum in such a file, None when it holds none, and what is noted of the snapshot."""
    checksum, note = None, Note()
    for line in raw.decode("utf-8", "replace").splitlines():
        if line.startswith("#"):
            note = Note.parse(line[1:])
        elif match := _CHECKSUM_LINE.fullmatch(line.strip()):
            checksum = match[1]
    return checksum, note


@dataclass(frozen=True)
class Snapshot:
    """One snapshot as it lies in the history; nothing here says that it is intact."""

    name: SnapshotName
    path: Path
    checksum: str | None
    note: Note = field(default_factory=Note)

    @property
    def taken_at(self) -> datetime:
        """When it was taken: to the microsecond where that was noted, else the minute in its name."""
        noted = self.note.taken_at
        return noted if noted is not None and SnapshotName.at(noted).minute == self.name.minute else self.name.minute

    @property
    def since(self) -> datetime:
        """Since when its document was the state, as far as is known; never later than it was taken."""
        return min(self.note.written_at or self.taken_at, self.taken_at)

    @property
    def order(self) -> tuple[datetime, datetime, int, bool]:
        """Sorts snapshots by age."""
        return self.name.minute, self.taken_at, self.name.number, self.name.critical

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": str(self.name),
            "path": str(self.path),
            "taken_at": format_time(self.taken_at),
            "since": format_time(self.since),
            "critical": self.name.critical,
            "compressed": self.path.name.endswith(COMPRESSED),
            "checksum": self.checksum,
            "reason": self.note.reason,
            "actor": self.note.actor,
        }


def oldest_first(snapshots: Iterable[Snapshot]) -> list[Snapshot]:
    """In the order in which they were taken."""
    return sorted(snapshots, key=lambda snapshot: snapshot.order)


def candidates_at(snapshots: Iterable[Snapshot], moment: datetime) -> list[Snapshot]:
    """Those that can tell of a moment, the best first.

    A snapshot tells of the time since its document was written, which may be well before it was taken: the one that is
    taken just before a change shows the lab as it was since the last scan.
    """
    known = [snapshot for snapshot in snapshots if snapshot.since <= moment]
    return sorted(known, key=lambda snapshot: (snapshot.since, *snapshot.order), reverse=True)
