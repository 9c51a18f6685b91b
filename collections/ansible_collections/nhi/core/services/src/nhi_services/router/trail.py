# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happened to one request: for its headers, its log line, its costs and its metrics."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.nhi.core.plugins.module_utils.routing import Decision


def new_id() -> str:
    """128 random bits in hexadecimal."""
    return os.urandom(16).hex()


def new_request_id() -> str:
    """A UUID of version 7 (RFC 9562) in hexadecimal: those of a moment are near each other in the database's index."""
    chance = os.urandom(9).hex()
    return f"{time.time_ns() // 1_000_000:012x}7{chance[:3]}8{chance[3:]}"


@dataclass(slots=True)
class Tried:
    """One attempt."""

    model: str
    provider: str
    what: str = ""  # empty: it went well
    status: int = 0
    ms: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class Trail:
    """From the request's arrival to its end."""

    agent: str
    task: str
    form: str
    asked_for: str
    stream: bool = False
    user_agent: str = ""
    request_id: str = field(default_factory=new_request_id)
    arrived: float = field(default_factory=time.monotonic)
    decision: Decision | None = None
    tried: list[Tried] = field(default_factory=list)
    model: str = ""
    provider: str = ""
    queued_ms: float = 0.0
    first_token_ms: float | None = None
    degraded: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    status: int = 0
    outcome: str = ""  # done, failed, refused, cut, deferred, gone (the client hung up)
    quota_left: int | None = None
    ended: float | None = None
    ended_at: float = 0.0  # Unix time

    @property
    def ms(self) -> float:
        """Since it arrived, until it ended."""
        return ((self.ended or time.monotonic()) - self.arrived) * 1000

    def headers(self) -> dict[str, str]:
        """What every answer says."""
        told = {
            "X-NHI-Request-Id": self.request_id, "X-NHI-Attempts": str(len(self.tried)),
            # Where the clients of either family look for it.
            "request-id" if self.form == "messages" else "x-request-id": self.request_id,
        }  # fmt: skip
        if self.model:
            told["X-NHI-Provider"], told["X-NHI-Model"] = self.provider, self.model
        if self.queued_ms >= 1:
            told["X-NHI-Queue-Ms"] = str(round(self.queued_ms))
        if self.quota_left is not None:
            told["X-NHI-Quota-Left"] = str(self.quota_left)
        if self.degraded:
            told["X-NHI-Degraded"] = header_text(self.degraded)
        return told

    def as_log(self) -> dict[str, Any]:
        """One line of the log, without prompt, answer or key."""
        return {
            "request_id": self.request_id, "agent": self.agent, "task": self.task, "form": self.form,
            "asked_for": self.asked_for, "stream": self.stream, "provider": self.provider, "model": self.model,
            "attempts": [{"model": one.model, "what": one.what or "good"} for one in self.tried],
            "outcome": self.outcome, "status": self.status, "ms": round(self.ms, 1),
            "queued_ms": round(self.queued_ms, 1),
            "first_token_ms": None if self.first_token_ms is None else round(self.first_token_ms, 1),
            "input_tokens": self.input_tokens, "output_tokens": self.output_tokens, "degraded": self.degraded,
        }  # fmt: skip


def header_text(text: str) -> str:
    """A text that is safe in a header: printable ASCII, one line, bounded."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)[:500]
