# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One entry of the audit log: its fields, its canonical form, and the hash that chains it to the one before.

An entry is one line of JSON in canonical form: sorted names, no spaces, ASCII only. Its ``hash`` is the SHA-256 of
that line without the hash itself; ``previous`` is the hash of the entry before it. Whoever changes, removes or moves an
entry breaks the chain at that place.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

ALLOWED: Final = "allowed"
REFUSED: Final = "refused"
FAILED: Final = "failed"
DONE: Final = "done"
OUTCOMES: Final = (ALLOWED, REFUSED, FAILED, DONE)

FIRST_PREVIOUS: Final = "0" * 64
ENTRY_LIMIT_BYTES: Final = 65536
_VALUE_LIMIT_BYTES: Final = 2048
_TEXT_LIMIT: Final = 1000

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Position:
    """Where a chain has come to: its name, the number of the last entry, and that entry's hash."""

    chain: str
    seq: int
    hash: str

    @classmethod
    def start_of(cls, chain: str) -> Position:
        """Before the first entry."""
        return cls(chain, 0, FIRST_PREVIOUS)

    def next(self, fields: Mapping[str, Any]) -> tuple[Position, bytes]:
        """The entry that follows, as a line of the file, and where the chain is then."""
        body = {**fields, "chain": self.chain, "seq": self.seq + 1, "previous": self.hash}
        digest = digest_of(body)
        return Position(self.chain, self.seq + 1, digest), canonical({**body, "hash": digest}) + b"\n"

    def follows(self, entry: Entry) -> bool:
        """Whether a sound entry is the next one of this chain."""
        return (entry["chain"], entry["seq"], entry["previous"]) == (self.chain, self.seq + 1, self.hash)

    @classmethod
    def at(cls, entry: Entry) -> Position:
        """After a sound entry."""
        return cls(entry["chain"], entry["seq"], entry["hash"])


def canonical(value: Any) -> bytes:
    """The one way to write a value down; ValueError for what JSON has no word for."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def digest_of(entry: Entry) -> str:
    """The hash that belongs to an entry."""
    return hashlib.sha256(canonical({k: v for k, v in entry.items() if k != "hash"})).hexdigest()


def read_line(line: bytes) -> dict[str, Any]:
    """The entry in a line without its end; ValueError says what is wrong with it."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise ValueError("it is not JSON") from e
    if not isinstance(entry, dict):
        raise ValueError("it is not an object")  # noqa: TRY004 -- the caller has one question: is it sound?
    kinds = {"chain": str, "seq": int, "previous": str, "hash": str, "timestamp": str, "operation": str, "outcome": str}
    for name, kind in kinds.items():
        if not isinstance(entry.get(name), kind) or isinstance(entry[name], bool):
            raise ValueError(f"it has no {name}")  # noqa: TRY004 -- as above
    try:
        as_written = canonical(entry)
    except ValueError as e:
        raise ValueError("it is not in canonical form") from e
    if as_written != line:
        raise ValueError("it is not in canonical form")
    if digest_of(entry) != entry["hash"]:
        raise ValueError("its content does not match its hash")
    return entry


def compact(value: Any) -> Any:
    """A value as the log keeps it: what JSON knows, long texts cut, bulky parts replaced by their size."""
    plain = _plain(value, 6)
    if isinstance(plain, dict):
        return {name: _bounded(part) for name, part in plain.items()}
    return _bounded(plain)


def _bounded(value: Any) -> Any:
    size = len(canonical(value))
    return value if size <= _VALUE_LIMIT_BYTES else f"({size} bytes left out)"


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (Mapping, list, tuple, set, frozenset)) and not depth:
        return "(more left out)"
    if isinstance(value, Mapping):
        return {cut(str(name)): _plain(part, depth - 1) for name, part in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(cut(str(part)) for part in value)
    if isinstance(value, (list, tuple)):
        return [_plain(part, depth - 1) for part in value]
    return cut(str(value))


def cut(text: str) -> str:
    """A text of bounded length, with escapes for what JSON can say and PostgreSQL can not hold."""
    text = text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _TEXT_LIMIT else f"{text[:_TEXT_LIMIT]}... ({len(text)} characters)"
