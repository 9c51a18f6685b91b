"""A crash-safe dictionary of JSON values in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, key)
) WITHOUT ROWID
"""


class Database:
    """The file. WAL without fsync: a killed process loses nothing, a power cut may lose the last change."""

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)  # before SQLite: the files beside it are made with the same mode
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.execute(SCHEMA)

    def load(self, kind: str) -> Iterator[tuple[str, Any]]:
        for key, value in self._connection.execute("SELECT key, value FROM records WHERE kind = ?", (kind,)):
            yield key, json.loads(value)

    def put(self, kind: str, key: str, value: Any) -> None:
        self._connection.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (kind, key, json.dumps(value)))

    def delete(self, kind: str, key: str) -> None:
        self._connection.execute("DELETE FROM records WHERE kind = ? AND key = ?", (kind, key))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside happen together or not at all."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()
