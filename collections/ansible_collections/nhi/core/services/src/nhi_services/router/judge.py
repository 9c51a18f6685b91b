# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an answer of a provider means: good, the client's fault, or a reason to ask the next one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from ansible_collections.nhi.core.plugins.module_utils.provider_limits import Heard, heard_in_headers, heard_in_refusal

from nhi_services.router.fast_json import loads

_TOO_LONG: Final = ("context_length", "context length", "too long", "maximum context", "too many tokens", "max_tokens")
_OVERLOADED: Final = frozenset({429, 503, 529})
# A key that is refused or a model that is gone does not mend itself within seconds.
KEY_PAUSE_SECONDS: Final = 300.0


class Kind(Enum):
    """What to do with an answer."""

    GOOD = "good"
    CLIENT = "client"  # the request itself is wrong: whoever asked is told
    LIMIT = "limit"  # the provider wants a pause
    KEY = "key"  # our key or the model's name is refused there
    TOO_LONG = "too_long"  # the prompt does not fit this model
    SERVER = "server"  # the provider is at fault


@dataclass(frozen=True)
class Judgement:
    """Kind, a short reason without content, and what the provider said of its limits."""

    kind: Kind
    what: str
    heard: Heard

    @property
    def refunds(self) -> bool:
        """Whether the provider did not count the request."""
        return self.kind in (Kind.LIMIT, Kind.KEY)


def judge_head(status: int, headers: Mapping[str, str], now_ms: int, requests_per: str) -> Judgement | None:
    """An answer that may be good, by its head; None where its body has to be read first."""
    return Judgement(Kind.GOOD, "", heard_in_headers(headers, now_ms, requests_per)) if status == 200 else None


def judge_refusal(status: int, headers: Mapping[str, str], body: bytes, now_ms: int, requests_per: str) -> Judgement:
    """An answer that is not 200."""
    what = f"HTTP {status}"
    if status in _OVERLOADED:
        return Judgement(Kind.LIMIT, what, heard_in_refusal(headers, body, now_ms, requests_per))
    heard = heard_in_headers(headers, now_ms, requests_per)
    if status in (401, 402, 403, 404):
        return Judgement(Kind.KEY, what, heard)
    if status in (400, 413, 422):
        words = body[:4000].decode("utf-8", "replace").lower()
        is_long = status == 413 or any(word in words for word in _TOO_LONG)
        return Judgement(Kind.TOO_LONG if is_long else Kind.CLIENT, what, heard)
    if 400 <= status < 500 and status not in (408, 409, 425):
        return Judgement(Kind.CLIENT, what, heard)
    return Judgement(Kind.SERVER, what, heard)


def parse_good(body: bytes, content_type: str) -> tuple[dict[str, Any] | None, str]:
    """The object in a 200 answer, or None with what is wrong with it."""
    if content_type != "application/json":
        return None, f"it answered 200 with {content_type or 'no type'} in place of JSON"
    try:
        parsed = loads(body)
    except (ValueError, RecursionError):
        return None, "it answered 200 with what is not JSON"
    if not isinstance(parsed, dict):
        return None, "it answered 200 with what is no object"
    if parsed.get("error") or parsed.get("type") == "error":
        return None, "it answered 200 with an error inside"
    return parsed, ""
