# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of the router's books: what a request cost, why a model was chosen; no text of a prompt or an answer."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import orjson

REQUESTS: Final = "api_requests"
DECISIONS: Final = "routing_log"
# Columns as the migrations make them; a line of the spool has the same names.
COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    REQUESTS: {
        "timestamp": "timestamptz", "request_id": "uuid", "attempt": "smallint", "provider": "text", "model": "text",
        "agent": "text", "task_type": "text", "input_tokens": "integer", "output_tokens": "integer",
        "latency_ms": "integer", "first_token_ms": "integer", "cost_usd": "numeric", "user_agent": "text",
        "status": "smallint", "success": "boolean", "degraded": "text",
    },
    DECISIONS: {
        "timestamp": "timestamptz", "request_id": "uuid", "agent": "text", "task_type": "text", "asked_for": "text",
        "chosen": "text", "provider": "text", "reason": "text", "prompt_tokens": "integer", "queued_ms": "integer",
        "attempts": "jsonb", "candidates": "jsonb",
    },
}  # fmt: skip
_MOST: Final = 2**31 - 1


@dataclass(slots=True)
class Entry:
    """One attempt of a request: who asked whom for what, and what it took (ms, tokens, USD).

    The same request, attempt and timestamp are one row, however often they are sent.
    """

    timestamp: datetime
    request_id: UUID | str
    provider: str
    model: str
    agent: str
    task: str
    attempt: int = 1
    status: int = 200
    success: bool = True
    input_tokens: int = 0
    output_tokens: int = 0
    latency_ms: float = 0.0
    first_token_ms: float | None = None
    cost_usd: Decimal = Decimal(0)
    user_agent: str | None = None
    degraded: str | None = None

    def as_row(self) -> dict[str, Any]:
        """The table and its columns."""
        return {
            "table": REQUESTS, "timestamp": self.timestamp, "request_id": str(self.request_id), "attempt": self.attempt,
            "provider": self.provider[:50], "model": self.model[:100], "agent": self.agent[:64],
            "task_type": self.task[:64], "input_tokens": _whole(self.input_tokens),
            "output_tokens": _whole(self.output_tokens), "latency_ms": _whole(self.latency_ms),
            "first_token_ms": None if self.first_token_ms is None else _whole(self.first_token_ms),
            "cost_usd": str(round(self.cost_usd, 8)), "user_agent": _text(self.user_agent, 200) or None,
            "status": self.status, "success": self.success, "degraded": _text(self.degraded, 200) or None,
        }  # fmt: skip


@dataclass(slots=True)
class Choice:
    """A decision: which model was chosen, why, and what was known of all candidates."""

    timestamp: datetime
    request_id: UUID | str
    agent: str
    task: str
    chosen: str | None
    reason: str
    provider: str | None = None
    asked_for: str | None = None
    prompt_tokens: int = 0
    queued_ms: float = 0.0
    attempts: Sequence[Any] = ()
    candidates: Sequence[Any] = ()

    def as_row(self) -> dict[str, Any]:
        """The table and its columns."""
        return {
            "table": DECISIONS, "timestamp": self.timestamp, "request_id": str(self.request_id),
            "agent": self.agent[:64], "task_type": self.task[:64],
            "asked_for": _text(self.asked_for, 200) or None, "chosen": _text(self.chosen, 100) or None,
            "provider": _text(self.provider, 50) or None, "reason": _text(self.reason, 500),
            "prompt_tokens": _whole(self.prompt_tokens), "queued_ms": _whole(self.queued_ms),
            "attempts": list(self.attempts), "candidates": list(self.candidates),
        }  # fmt: skip


Row = Entry | Choice


def line_of(row: Row) -> bytes:
    """A row as a line of the spool, without the end of the line."""
    columns = row.as_row()
    try:
        line = orjson.dumps(columns)
    except TypeError:
        line = b"\\u0000"
    return line if b"\\u0000" not in line else orjson.dumps(_clean(columns))


def table_of(line: bytes) -> str:
    """The table that a line belongs to; empty for what is no line of ours, such as a torn one."""
    try:
        found = json.loads(line)
    except ValueError:
        return ""
    table = str(found.get("table")) if isinstance(found, dict) else ""
    return table if table in COLUMNS and set(COLUMNS[table]) <= set(found) else ""


def of_table(lines: Sequence[bytes], table: str) -> str:
    """The lines that belong to a table, as one JSON array; empty where there is none."""
    begin = f'{{"table":"{table}",'.encode()
    found = b",".join(line for line in lines if line.startswith(begin))
    return f"[{found.decode()}]" if found else ""


def _insertion(table: str) -> str:
    names = ", ".join(f'"{name}"' for name in COLUMNS[table])
    typed = ", ".join(f'"{name}" {kind}' for name, kind in COLUMNS[table].items())
    # PostgreSQL reads json faster, but makes jsonb of it for a column that is jsonb.
    kind = "jsonb" if "jsonb" in COLUMNS[table].values() else "json"
    return (
        f"INSERT INTO router.{table} ({names}) SELECT {names}"  # noqa: S608 -- names of ours
        f" FROM {kind}_to_recordset(%s::text::{kind}) AS row ({typed}) ON CONFLICT DO NOTHING"
    )


# One statement for a batch, so that the trigger that makes the sums runs once for it.
INSERTIONS: Final[Mapping[str, str]] = {table: _insertion(table) for table in COLUMNS}


def _whole(number: float) -> int:
    return max(0, min(_MOST, round(number)))


def _text(text: str | None, length: int) -> str:
    return (text or "")[:length]


def _clean(value: Any) -> Any:
    """What PostgreSQL takes: no NUL, no half of a surrogate pair, no number that is none."""
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {_clean(str(name)): _clean(one) for name, one in value.items()}
    return [_clean(one) for one in value] if isinstance(value, list | tuple) else value
