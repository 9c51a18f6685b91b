# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What providers say of their limits, in the forms in which they say it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.provider_limits import (
    Heard,
    duration_ms,
    heard_in_headers,
    heard_in_refusal,
)
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_795_780_800_000  # 2026-11-27T12:00:00Z


def test_anthropic() -> None:
    headers = {
        "anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-tokens-limit": "40000", "anthropic-ratelimit-tokens-remaining": "0",
        "anthropic-ratelimit-tokens-reset": "2026-11-27T12:00:30Z",
    }  # fmt: skip
    heard = heard_in_headers(headers, NOW)
    assert heard.limits == {"requests_per_minute": 50, "tokens_per_minute": 40000}
    assert heard.left == {"requests_per_minute": 49, "tokens_per_minute": 0}
    assert heard.wait_ms == 30_000


def test_groq_counts_requests_by_day_and_tokens_by_minute() -> None:
    headers = {
        "X-RateLimit-Limit-Requests": "1000", "X-RateLimit-Remaining-Requests": "0",
        "X-RateLimit-Reset-Requests": "2m59.56s", "X-RateLimit-Limit-Tokens": "6000",
    }  # fmt: skip
    heard = heard_in_headers(headers, NOW, "day")
    assert heard.limits == {"requests_per_day": 1000, "tokens_per_minute": 6000}
    assert (heard.left, heard.wait_ms) == ({"requests_per_day": 0}, 179_560)


def gemini(quota_id: str, value: str, delay: str = "36s") -> bytes:
    details: list[dict[str, Any]] = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure",
         "violations": [{"quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
                         "quotaId": quota_id, "quotaDimensions": {"model": "gemini-2.0-flash"}, "quotaValue": value}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay},
    ]  # fmt: skip
    return json.dumps([{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details}}]).encode()


def test_gemini_by_minute_waits_and_by_day_waits_for_the_reset() -> None:
    minute = heard_in_refusal({}, gemini("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", "15"), NOW)
    assert minute == Heard({"requests_per_minute": 15}, {}, 36_000, until_reset=False, of_model=True)
    day = heard_in_refusal({}, gemini("GenerateRequestsPerDayPerProjectPerModel-FreeTier", "20"), NOW)
    assert day == Heard({"requests_per_day": 20}, {}, None, until_reset=True, of_model=True)


def test_openrouter_names_the_moment_in_its_body() -> None:
    body = {"error": {"code": 429, "metadata": {"headers": {"X-RateLimit-Reset": str(NOW + 5000)}}}}
    assert heard_in_refusal({}, json.dumps(body), NOW).wait_ms == 5000


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "7"}, 7000),
        ({"retry-after": "1.5"}, 1500),
        ({"retry-after-ms": "250", "retry-after": "1"}, 250),
        ({"Retry-After": "Fri, 27 Nov 2026 12:01:00 GMT"}, 60_000),
        ({"Retry-After": "Fri, 27 Nov 2026 11:00:00 GMT"}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "99999999999"}, 7 * 24 * 3_600_000),
        ({}, None),
    ],
)
def test_retry_after_in_each_form(headers: dict[str, str], wait: int | None) -> None:
    assert heard_in_refusal(headers, b"<html>", NOW).wait_ms == wait


@pytest.mark.parametrize(
    ("text", "ms"), [("6m0s", 360_000), ("120ms", 120), ("1h2m", 3_720_000), ("36", None), ("x5s", None), ("", None)]
)
def test_durations(text: str, ms: int | None) -> None:
    assert duration_ms(text) == ms


@given(st.binary() | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(json.dumps), st.text())
def test_no_answer_breaks_it(body: bytes | str, value: str) -> None:
    heard = heard_in_refusal({"retry-after": value, "x-ratelimit-limit-requests": value}, body, NOW)
    assert heard.wait_ms is None or heard.wait_ms >= 0
