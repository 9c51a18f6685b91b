# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log's copy in PostgreSQL: rows are added in the order of the log and compared with it, never changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from ansible_collections.nhi.core.plugins.module_utils.errors import AuditError

from nhi_services.postgres import DatabaseSettings, conninfo_of, explained

# Where it is missing, conninfo_of says so before anything else is done.
with contextlib.suppress(ImportError):
    import psycopg

_ABOUT = "of the audit log"
_STATEMENT_MILLISECONDS = 30_000


@dataclass(frozen=True)
class Copied:
    """How far the copy of a log goes."""

    seq: int
    hash: str


class AuditDatabase:
    """One connection, as a context; every failure is an AuditError that names the database and never the password."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self._conninfo = conninfo_of(settings, _ABOUT, "nhi audit")
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def __enter__(self) -> Self:
        try:
            self._connection = psycopg.connect(self._conninfo, autocommit=True)
            self._connection.execute(f"SET statement_timeout = {_STATEMENT_MILLISECONDS}")
        except psycopg.Error as error:
            raise self._explained("can not be reached", error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    def copied(self, chain: str) -> Copied:
        """How far the copy of a log goes; number 0 where there is none."""
        rows = self._ask("SELECT seq, hash FROM audit.audit_chain WHERE chain = %s", chain)
        return Copied(*rows[0]) if rows else Copied(0, "")

    def other_logs(self, host: str, chain: str) -> list[tuple[str, int, Any]]:
        """Logs of the same host that have another name: name, number of entries, time of the last."""
        return self._ask(
            "SELECT chain, seq, last_at FROM audit.audit_chain WHERE host = %s AND chain <> %s ORDER BY last_at",
            host,
            chain,
        )

    def rows(self, chain: str) -> Iterator[tuple[int, str, bool]]:
        """Number and hash of every row of a log, and whether it follows the one before, in order."""
        yield from self._ask("SELECT seq, hash, follows FROM audit.audit_log WHERE chain = %s ORDER BY seq", chain)

    def add(self, lines: Sequence[tuple[str, bytes]]) -> None:
        """Add entries, each with its time, all of them or none."""
        rows = [(timestamp, line.decode("ascii")) for timestamp, line in lines]
        try:
            with self._open.transaction(), self._open.cursor() as cursor:
                cursor.executemany('INSERT INTO audit.audit_log ("timestamp", entry) VALUES (%s, %s)', rows)
        except psycopg.Error as error:
            raise self._explained("did not take new entries", error) from error

    def _ask(self, query: str, *values: Any) -> list[Any]:
        try:
            return self._open.execute(query, values).fetchall()
        except psycopg.Error as error:
            raise self._explained("can not be read", error) from error

    @property
    def _open(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None:
            raise RuntimeError("the database is not open")
        return self._connection

    def _explained(self, what: str, error: psycopg.Error) -> AuditError:
        return AuditError(f"the database {_ABOUT} {what}: {explained(error)}")
