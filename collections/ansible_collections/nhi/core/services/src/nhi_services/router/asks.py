# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client asks for, as far as the router reads it: the rest of the body passes through untouched."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from nhi_services.router.api_errors import ApiError
from nhi_services.router.fast_json import loads

CHAT: Final = "chat"
COMPLETIONS: Final = "completions"
EMBEDDINGS: Final = "embeddings"
MESSAGES: Final = "messages"
RESPONSES: Final = "responses"
# Forms in which the answer always tells its tokens.
_TELLING: Final = (MESSAGES, RESPONSES)
PATHS: Final = {
    CHAT: "/chat/completions", COMPLETIONS: "/completions", EMBEDDINGS: "/embeddings", MESSAGES: "/messages",
}  # fmt: skip

# What would need a memory of earlier answers, and what to do in its place.
_MEMORIES: Final = {
    "previous_response_id": "send the whole conversation in 'input' each time",
    "conversation": "send the whole conversation in 'input' each time",
    "prompt": "send its text in 'instructions' and 'input'",
    "background": "send the header X-NHI-Mode: deferred",
}

# Rough but on the safe side for English and code; what a provider counts corrects it afterwards.
_BYTES_PER_TOKEN: Final = 3
_IMAGE_TOKENS: Final = 1600
_IMAGE: Final = re.compile(r'"(?:image_url|input_image|image)"')
# What each form needs of a model at least.
_PLAIN: Final = {form: frozenset({CHAT if form in _TELLING else form}) for form in (*PATHS, RESPONSES)}
_FORMAT_HOLDERS: Final = frozenset({"response_format", "text", "output_config"})
# Inline images are long in bytes and short in tokens.
_DATA_URL: Final = re.compile(r'"(?:data:[a-z]+/[^"]{64,}|[A-Za-z0-9+/=]{512,})"')
_CACHED: Final = ("cache_creation_input_tokens", "cache_read_input_tokens")
# Where tokens of a request of the Messages form are counted.
COUNT: Final = "/messages/count_tokens"


@dataclass(slots=True)
class Ask:
    """A request in one of the forms; tokens are estimates of the prompt and the most that is asked for (0: unsaid)."""

    form: str
    body: dict[str, Any]
    model: str
    stream: bool
    prompt_tokens: int
    output_tokens: int
    needs: frozenset[str]
    wants_usage: bool = False


def parse_json(raw: bytes) -> dict[str, Any]:
    """The body as an object; ApiError 400 for anything else."""
    try:
        body = loads(raw, exact=True)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is not JSON: {_where(error)}.", code="invalid_json") from error
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object.", code="invalid_json")
    return body


def _where(error: Exception) -> str:
    return str(error) if isinstance(error, json.JSONDecodeError) else type(error).__name__


def read_ask(form: str, body: dict[str, Any], raw: bytes) -> Ask:
    """Check what the router needs to know, and nothing else; ApiError 400 names the field."""
    model = body.get("model", "")
    if not isinstance(model, str) or len(model) > 200:
        raise _wrong("model", "must be a text")
    stream = body.get("stream", False)
    if stream is None:
        stream = False
    if not isinstance(stream, bool):
        raise _wrong("stream", "must be true or false")
    _require(form, body)
    options = body.get("stream_options")
    return Ask(
        form, body, model, stream and form != EMBEDDINGS, estimate_tokens(raw), _output_tokens(body),
        _needs(form, body, raw),
        form in _TELLING or (isinstance(options, dict) and options.get("include_usage") is True),
    )  # fmt: skip


def _require(form: str, body: Mapping[str, Any]) -> None:
    if form in (CHAT, MESSAGES):
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise _wrong("messages", "must be a list with at least one message")
        if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
            raise _wrong("messages", "must be objects with a role")
    elif form == COMPLETIONS and not isinstance(body.get("prompt"), (str, list)):
        raise _wrong("prompt", "must be a text or a list")
    elif form == RESPONSES:
        _require_responses(body)
    elif form == EMBEDDINGS and not isinstance(body.get("input"), (str, list)):
        raise _wrong("input", "must be a text or a list")


def _require_responses(body: Mapping[str, Any]) -> None:
    if not isinstance(body.get("input"), (str, list)) or not body["input"]:
        raise _wrong("input", "must be a text or a list with at least one item")
    if not all(isinstance(item, Mapping) for item in body["input"] if not isinstance(body["input"], str)):
        raise _wrong("input", "must be a list of objects")
    for name, instead in _MEMORIES.items():
        if body.get(name):
            message = f"'{name}' is not possible, as the router keeps no answers: {instead}."
            raise ApiError(400, message, param=name, code="unsupported")


def _output_tokens(body: Mapping[str, Any]) -> int:
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 10_000_000:
            raise _wrong(name, "must be a whole number from 1 on")
        return value
    return 0


def _needs(form: str, body: Mapping[str, Any], raw: bytes) -> frozenset[str]:
    more = []
    if body.get("tools") or body.get("functions"):
        more.append("tools")
    formats = _formats(body) if not _FORMAT_HOLDERS.isdisjoint(body) else ()
    if formats and any(wanted.get("type") in ("json_object", "json_schema") for wanted in formats):
        more.append("json")
    if b"image" in raw and _IMAGE.search(raw.decode("utf-8", "replace")):
        more.append("images")
    return _PLAIN[form].union(more) if more else _PLAIN[form]


def _formats(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The wished format of the answer, wherever a form has it."""
    holders = [body.get(name) for name in ("text", "output_config")]
    wished = [body.get("response_format"), *(h.get("format") for h in holders if isinstance(h, Mapping))]
    return [one for one in wished if isinstance(one, Mapping)]


def estimate_tokens(raw: bytes) -> int:
    """About how many tokens a body is, rather too many than too few."""
    if b"data:" not in raw and b"base64" not in raw:
        return len(raw) // _BYTES_PER_TOKEN + 8
    text, images = _DATA_URL.subn('""', raw.decode("utf-8", "replace"))
    return len(text.encode()) // _BYTES_PER_TOKEN + 8 + images * _IMAGE_TOKENS


def _wrong(name: str, what: str) -> ApiError:
    return ApiError(400, f"'{name}' {what}.", param=name, code="invalid_value")


def tokens_of(usage: Any) -> tuple[int, int] | None:
    """Tokens in and out as a provider counts them, in any of the forms; None where it does not say."""
    if not isinstance(usage, dict):
        return None
    into = _whole(usage.get("prompt_tokens", usage.get("input_tokens")))
    out = _whole(usage.get("completion_tokens", usage.get("output_tokens")))
    cached = sum([_whole(usage[name]) or 0 for name in _CACHED if name in usage])
    if into is None and out is None:
        return None
    return (into or 0) + cached, out or 0


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
