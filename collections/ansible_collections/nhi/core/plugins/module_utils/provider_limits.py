# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What providers say of their limits in headers and in the bodies of 429 answers.

Sources: the rate limit pages of Anthropic, OpenAI, Groq and OpenRouter, and google.rpc.QuotaFailure and RetryInfo as
Gemini sends them. Whatever can not be understood is left out: limits of the configuration stand then.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

PER_DAY: Final = "day"
PER_MINUTE: Final = "minute"
_MOST_MS: Final = 7 * 24 * 3_600_000
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|h|m|s)")
_UNIT_MS: Final = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1, "us": 0.001, "µs": 0.001, "ns": 0.000001}
_GEMINI_PERIODS: Final = {"perday": PER_DAY, "perminute": PER_MINUTE}


@dataclass(frozen=True)
class Heard:
    """What one answer said.

    ``limits`` and ``left`` are by the names of `quota.Limits`. ``wait_ms`` is how long not to ask; ``until_reset`` that
    the day's quota is used up, so that nothing but its reset helps. ``of_model`` says that it is about the model alone.
    """

    limits: Mapping[str, int] = field(default_factory=dict)
    left: Mapping[str, int] = field(default_factory=dict)
    wait_ms: int | None = None
    until_reset: bool = False
    of_model: bool = False


def heard_in_headers(headers: Mapping[str, str], now_ms: int, requests_per: str = PER_MINUTE) -> Heard:
    """From the headers of any answer; OpenAI-style request limits are per minute or per day, as the provider has it."""
    lower = {name.lower(): value for name, value in headers.items()}
    limits: dict[str, int] = {}
    left: dict[str, int] = {}
    wait = retry_after_ms(lower, now_ms)
    for what in ("requests", "tokens"):
        period = requests_per if what == "requests" else PER_MINUTE
        for limit_name, left_name, name in (
            (f"anthropic-ratelimit-{what}-limit", f"anthropic-ratelimit-{what}-remaining", f"{what}_per_minute"),
            (f"x-ratelimit-limit-{what}", f"x-ratelimit-remaining-{what}", f"{what}_per_{period}"),
        ):
            for into, header in ((limits, limit_name), (left, left_name)):
                value = _whole(lower.get(header))
                if value is not None:
                    into[name] = value
        if wait is None and 0 in (left.get(f"{what}_per_minute"), left.get(f"{what}_per_{period}")):
            wait = _reset_ms(lower, what, now_ms)
    return Heard(limits, left, wait)


def _reset_ms(headers: Mapping[str, str], what: str, now_ms: int) -> int | None:
    """When nothing is left any more until a moment or for a duration: in how many ms that ends."""
    moment = moment_ms(headers.get(f"anthropic-ratelimit-{what}-reset", ""))
    return _sane(moment - now_ms) if moment is not None else duration_ms(headers.get(f"x-ratelimit-reset-{what}", ""))


def retry_after_ms(headers: Mapping[str, str], now_ms: int) -> int | None:
    """The header Retry-After in ms, seconds or a date; retry-after-ms where a provider sends it."""
    precise = _number(headers.get("retry-after-ms"))
    if precise is not None:
        return _sane(precise)
    value = headers.get("retry-after", "").strip()
    seconds = _number(value)
    if seconds is not None:
        return _sane(seconds * 1000)
    with contextlib.suppress(ValueError, TypeError, IndexError, OverflowError):
        moment = parsedate_to_datetime(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return _sane(moment.timestamp() * 1000 - now_ms)
    return None


def heard_in_refusal(
    headers: Mapping[str, str], body: bytes | str, now_ms: int, requests_per: str = PER_MINUTE
) -> Heard:
    """From a 429 (or 529, 503) answer: its headers and, where that says more, its body."""
    heard = heard_in_headers(headers, now_ms, requests_per)
    found = list(_details(_parsed(body)))
    waits = [wait for wait in (_retry_delay(one) for one in found) if wait is not None]
    resets = [wait for wait in (_openrouter_reset(one, now_ms) for one in found) if wait is not None]
    periods, limits, of_model = _violations(found)
    until_reset = PER_DAY in periods
    wait = max([*waits, *resets, *([heard.wait_ms] if heard.wait_ms is not None else [])], default=None)
    return Heard({**heard.limits, **limits}, heard.left, None if until_reset else wait, until_reset, of_model)


def _parsed(body: bytes | str) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(body)
    return None


def _details(value: Any, depth: int = 12) -> Iterator[Mapping[str, Any]]:
    """Every object in a body, wherever the provider has put it."""
    if depth and isinstance(value, Mapping):
        yield value
        for part in value.values():
            yield from _details(part, depth - 1)
    elif depth and isinstance(value, list):
        for part in value:
            yield from _details(part, depth - 1)


def _retry_delay(detail: Mapping[str, Any]) -> int | None:
    """`retryDelay` of google.rpc.RetryInfo: "36s", "1.5s"."""
    value = detail.get("retryDelay")
    return duration_ms(value) if isinstance(value, str) else None


def _openrouter_reset(detail: Mapping[str, Any], now_ms: int) -> int | None:
    value = detail.get("X-RateLimit-Reset")
    number = _number(str(value)) if value is not None else None
    return _sane(number - now_ms) if number is not None and number > 1e12 else None


def _violations(details: Iterable[Mapping[str, Any]]) -> tuple[set[str], dict[str, int], bool]:
    """Periods, limits, and whether they are of the model, of google.rpc.QuotaFailure."""
    periods: set[str] = set()
    limits: dict[str, int] = {}
    of_model = False
    for detail in details:
        quota = detail.get("quotaId")
        if not isinstance(quota, str):
            continue
        words = quota.lower()
        found = [period for word, period in _GEMINI_PERIODS.items() if word in words]
        periods.update(found)
        of_model = of_model or "permodel" in words
        value = _whole(str(detail.get("quotaValue", "")))
        what = "tokens" if "token" in f"{words} {str(detail.get('quotaMetric', '')).lower()}" else "requests"
        if value is not None and found:
            limits[f"{what}_per_{found[0]}"] = value
    return periods, limits, of_model


def duration_ms(text: str) -> int | None:
    """A duration such as "6m0s", "36s", "120ms", "1.5s"."""
    text = text.strip()
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return _sane(sum(float(number) * _UNIT_MS[unit] for number, unit in parts))


def _whole(text: str | None) -> int | None:
    number = _number(text)
    return int(number) if number is not None and number >= 0 and number == int(number) else None


def _number(text: str | None) -> float | None:
    if text is None or not re.fullmatch(r"\d{1,16}(\.\d{1,9})?", text.strip()):
        return None
    return float(text)


def _sane(ms: float) -> int:
    return int(min(_MOST_MS, max(0.0, ms)))


def moment_ms(text: str) -> int | None:
    """An RFC 3339 moment, as in anthropic-ratelimit-requests-reset, in Unix ms."""
    with contextlib.suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    return None
