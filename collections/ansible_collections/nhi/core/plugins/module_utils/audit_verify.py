# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is the audit log whole? Finds every entry that was edited, removed, added or moved, also at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .audit_entry import Position, read_line
from .audit_log import HEAD, Head, Segment, directory_of, read_head, segments
from .errors import AuditError
from .files import explain


@dataclass
class Report:
    """What a verification found: nothing, when the log is whole."""

    files: int = 0
    entries: int = 0
    first: str | None = None
    last: str | None = None
    position: Position | None = None
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hashes: dict[int, str] = field(default_factory=dict, repr=False)

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        at = self.position
        return {
            "whole": self.whole, "files": self.files, "entries": self.entries, "first": self.first, "last": self.last,
            "chain": at.chain if at else None, "seq": at.seq if at else 0, "hash": at.hash if at else None,
            "findings": self.findings, "notes": self.notes,
        }  # fmt: skip


def verify(state_dir: Path | str) -> Report:
    """Go through the whole log; AuditError when it can not be read."""
    directory = directory_of(state_dir)
    report = Report()
    try:
        # First the head: what is written meanwhile makes the files longer, never shorter.
        head_there, head = (directory / HEAD).exists(), read_head(directory)
        files = segments(directory)
        for number, segment in enumerate(files):
            _verify_file(report, segment, last=number == len(files) - 1)
    except OSError as e:
        raise AuditError(
            f"the audit log in {directory} can not be read: {explain(e)}. Ask for the right to read it: its group may."
        ) from e
    _verify_head(report, head, there=head_there)
    return report


def _verify_file(report: Report, segment: Segment, *, last: bool) -> None:
    report.files += 1
    name = segment.path.name
    number = 0
    for number, line in enumerate(_lines(segment.path), 1):
        where = f"{name} line {number}"
        if not line.endswith(b"\n"):
            if last:
                report.notes.append(f"{where} is torn: a writer was cut off, and the next one removes it")
            else:
                report.findings.append(f"{where} is torn, though the log goes on after it")
            continue
        try:
            entry = read_line(line[:-1])
        except ValueError as e:
            report.findings.append(f"{where} is damaged: {e}")
            continue
        if number == 1 and entry["seq"] != segment.first:
            report.findings.append(f"{name} should begin with entry {segment.first}, not with {entry['seq']}")
        _verify_entry(report, entry, where)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _verify_entry(report: Report, entry: dict[str, Any], where: str) -> None:
    at, seq = report.position, entry["seq"]
    expected = at or Position.start_of(entry["chain"])
    if not expected.follows(entry):
        report.findings.append(f"{where}: {_what_is_wrong(expected, entry)}")
    report.entries += 1
    report.first = report.first or entry["timestamp"]
    report.last = entry["timestamp"]
    report.position = Position.at(entry)
    report.hashes.setdefault(seq, entry["hash"])


def _what_is_wrong(expected: Position, entry: dict[str, Any]) -> str:
    seq, wanted = entry["seq"], expected.seq + 1
    if entry["chain"] != expected.chain:
        return f"entry {seq} belongs to another log ({entry['chain'][:8]}, not {expected.chain[:8]})"
    if seq > wanted:
        missing = f"entry {wanted} is" if seq == wanted + 1 else f"entries {wanted} to {seq - 1} are"
        return f"{missing} missing before entry {seq}"
    if seq < wanted:
        return f"entry {seq} stands after entry {expected.seq}: it was moved, or added"
    return f"entry {seq} does not follow the entry before it, which was changed or replaced"


def _verify_head(report: Report, head: Head | None, *, there: bool) -> None:
    at = report.position
    if head is None:
        if there:
            report.findings.append(f"{HEAD} is damaged: it can not tell whether entries are missing at the end")
        elif at is not None and at.seq > 1:
            # Whoever was cut off while writing the very first entry left none.
            report.findings.append(f"{HEAD} is missing: it can not tell whether entries are missing at the end")
        return
    wanted = head.position
    if at is None or wanted.seq > at.seq:
        report.findings.append(
            f"{wanted.seq - (at.seq if at else 0)} entries are missing at the end: {HEAD} says that the log goes on to "
            f"entry {wanted.seq}"
        )
    elif wanted.chain != at.chain or report.hashes.get(wanted.seq) != wanted.hash:
        report.findings.append(f"entry {wanted.seq} is not the one that {HEAD} tells of: it was replaced")
