# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies the audit log to PostgreSQL, each entry exactly once, and compares the copy with the files.

The database itself keeps an entry from being added twice: it knows where the log has come to, and the row and that
knowledge are one transaction. Whoever is cut off in between asks it again and goes on from there.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from ansible_collections.nhi.core.plugins.module_utils.audit_log import directory_of, read_head
from ansible_collections.nhi.core.plugins.module_utils.audit_reader import after
from ansible_collections.nhi.core.plugins.module_utils.audit_verify import Report
from ansible_collections.nhi.core.plugins.module_utils.errors import AuditError
from ansible_collections.nhi.core.plugins.module_utils.files import explain
from ansible_collections.nhi.core.plugins.module_utils.lock import FileLock

from nhi_services.audit_database import AuditDatabase, Copied

_LOCK: Final = "replay.lock"
_BATCH: Final = 500


class Target(Protocol):
    """What a replay needs of the database."""

    def copied(self, chain: str) -> Copied: ...
    def add(self, lines: list[tuple[str, bytes]]) -> None: ...


def replay(state_dir: Path, database: Target, *, batch: int = _BATCH) -> int:
    """Add to the database what it does not have yet; how many entries that were.

    Only entries that count are sent: those up to the head, which no writer takes back any more. AuditError when the
    copy and the log contradict each other.
    """
    directory = directory_of(state_dir)
    try:
        head = read_head(directory)
    except OSError as e:
        raise AuditError(f"the audit log in {directory} can not be read: {explain(e)}. Its group may.") from e
    if head is None:
        return 0
    at = head.position
    sent = 0
    with FileLock(directory / _LOCK, "nhi audit replay", timeout=60.0):
        copied = database.copied(at.chain)
        if copied.seq > at.seq:
            raise AuditError(
                f"the database has the audit log up to entry {copied.seq}, and the files end with {at.seq}: entries "
                "are missing here. Look with 'nhi audit verify', and bring the files back from a backup"
            )
        for lines in _batches(_new_entries(state_dir, at.chain, at.seq, copied), batch):
            database.add(lines)
            sent += len(lines)
    return sent


def _new_entries(state_dir: Path, chain: str, last: int, copied: Copied) -> Iterator[tuple[str, bytes]]:
    for entry, line in after(state_dir, max(copied.seq - 1, 0)):
        if entry["chain"] != chain or entry["seq"] > last:
            continue
        if entry["seq"] > copied.seq:
            yield entry["timestamp"], line
        elif entry["seq"] == copied.seq and entry["hash"] != copied.hash:
            raise AuditError(
                f"entry {copied.seq} of the audit log is another one than the database has: one of them was changed. "
                "Look with 'nhi audit verify'"
            )


def _batches(entries: Iterator[tuple[str, bytes]], size: int) -> Iterator[list[tuple[str, bytes]]]:
    batch: list[tuple[str, bytes]] = []
    for entry in entries:
        batch.append(entry)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def compare(report: Report, database: AuditDatabase) -> None:
    """Add to the report what the copy shows: entries that differ, or that only the database has."""
    if report.position is None:
        others = database.other_logs(socket.gethostname(), "")
        if others:
            name, seq, at = others[-1]
            report.findings.append(
                f"there are no entries here, and the database has {seq} of log {name[:8]} of this host, "
                f"the last of {at}"
            )
        return
    chain = report.position.chain
    copied = database.copied(chain)
    report.notes.append(f"the database has the log up to entry {copied.seq}")
    if copied.seq > report.position.seq:
        report.findings.append(
            f"entries {report.position.seq + 1} to {copied.seq} are missing at the end: the database has them"
        )
    elif copied.seq and report.hashes.get(copied.seq) != copied.hash:
        report.findings.append(f"entry {copied.seq} is not the one that the database has")
    _compare_rows(report, database, chain, copied)
    for name, seq, at in database.other_logs(socket.gethostname(), chain):
        report.notes.append(f"the database also has an earlier log of this host, {name[:8]}: {seq} entries until {at}")


def _compare_rows(report: Report, database: AuditDatabase, chain: str, copied: Copied) -> None:
    before: int | None = None
    for seq, digest, follows in database.rows(chain):
        if report.hashes.get(seq, digest) != digest:
            report.findings.append(f"entry {seq} is not the one that the database has")
        if before is not None and seq != before + 1:
            report.findings.append(f"entries {before + 1} to {seq - 1} are missing in the database")
        elif not follows and before is not None:
            report.findings.append(f"entry {seq} in the database does not follow the one before it")
        before = seq
    if before is not None and before != copied.seq:
        report.findings.append(f"entries {before + 1} to {copied.seq} are missing in the database")
