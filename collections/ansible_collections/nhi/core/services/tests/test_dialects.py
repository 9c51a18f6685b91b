# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Translators between the forms: what is said survives, however it is cut."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nhi_services.router.adapted import Adapted
from nhi_services.router.api_errors import ApiError
from nhi_services.router.asks import CHAT, MESSAGES, RESPONSES, Ask, read_ask
from nhi_services.router.attempts import _seen
from nhi_services.router.chat_as_messages import messages_body
from nhi_services.router.config import ModelConfig, ProviderConfig
from nhi_services.router.forms import adapt, failure_event
from nhi_services.router.messages_as_chat import chat_body
from nhi_services.router.phrasebook import Phrasebook
from nhi_services.router.streams import EventSplitter, GarbageError, StreamWatch
from nhi_services.router.upstream import UpstreamError

from .told import (
    Part,
    Said,
    chat_stream,
    chat_whole,
    merged,
    messages_stream,
    messages_whole,
    parts_of,
    read_chat,
    read_messages,
    read_responses,
    said_in,
)

MODEL = ModelConfig(upstream="m", quality=5, context=8000, max_output=1000)
OPENAI = ProviderConfig(base_url="http://x/v1", models={"m": MODEL})
ANTHROPIC = ProviderConfig(base_url="http://x/v1", dialect="anthropic", models={"m": MODEL})
HELLO = [{"role": "user", "content": "hello"}]
BODIES: dict[str, Part] = {
    CHAT: {"messages": HELLO, "stream_options": {"include_usage": True}},
    MESSAGES: {"messages": HELLO, "max_tokens": 50},
    RESPONSES: {"input": "hello"},
}
READ: dict[str, Callable[[bytes], tuple[list[Said], Part]]] = {
    CHAT: read_chat,
    MESSAGES: read_messages,
    RESPONSES: read_responses,
}
# Who asks in which form, and how the provider is spoken to.
WAYS = [(MESSAGES, OPENAI), (RESPONSES, OPENAI), (CHAT, ANTHROPIC), (RESPONSES, ANTHROPIC)]

words = st.text(min_size=1, max_size=12)
names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
arguments = st.dictionaries(words, st.none() | st.integers() | words | st.lists(words, max_size=2), max_size=3)
texts = st.tuples(st.just("text"), words)
calls = st.tuples(st.just("call"), st.uuids().map(lambda one: f"call_{one.hex}"), names, arguments)


def ask(form: str, body: Part | None = None, *, stream: bool = False) -> Ask:
    return read_ask(form, {"model": "m", "stream": stream, **(body or BODIES[form])}, b"0123456789" * 6)


def relayed(adapted: Adapted, stream: bytes, cuts: list[int]) -> bytes:
    """What a client gets of a stream that comes in pieces."""
    splitter, watch, got, at = EventSplitter(), StreamWatch(), b"", 0
    for cut in sorted({*(cut % (len(stream) + 1) for cut in cuts), len(stream)}):
        got += _seen(splitter, watch, adapted, stream[at:cut])
        at = cut
    assert not watch.fault
    return got


def streamed(provider: ProviderConfig, said: list[Said], size: int = 3, **more: Any) -> list[bytes]:
    return (chat_stream if provider is OPENAI else messages_stream)(said, size, **more)


def whole(provider: ProviderConfig, said: list[Said], reason: str = "") -> Part:
    return (chat_whole if provider is OPENAI else messages_whole)(said, reason)


@pytest.mark.parametrize(("form", "provider"), WAYS)
@settings(max_examples=40, deadline=None)
@given(
    said=st.tuples(st.lists(texts, max_size=1), st.lists(calls, max_size=3, unique_by=lambda c: c[1])),
    size=st.integers(1, 9),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_what_is_said_survives_wherever_a_stream_is_cut(
    form: str, provider: ProviderConfig, said: tuple[list[Said], list[Said]], size: int, cuts: list[int]
) -> None:
    everything = [*said[0], *said[1]]
    stream = b"".join(streamed(provider, everything, size))
    got, told = READ[form](relayed(adapt(ask(form, stream=True), provider, MODEL), stream, cuts))
    assert got == everything
    usage = told["usage"]
    assert (
        usage.get("prompt_tokens", usage.get("input_tokens")),
        sum(usage[n] for n in usage if n in ("completion_tokens", "output_tokens")),
    ) == (10, 5)
    ended = {CHAT: ("stop", "tool_calls"), MESSAGES: ("end_turn", "tool_use"), RESPONSES: ("completed",) * 2}[form]
    assert told["reason"] == ended[bool(said[1])]
    answer = json.loads(adapt(ask(form), provider, MODEL).whole(b"", whole(provider, everything)))
    assert said_in_whole(form, answer) == (everything or ([("text", "")] if form == RESPONSES else []))


def said_in_whole(form: str, answer: Part) -> list[Said]:
    if form == RESPONSES:
        return said_in(answer)
    if form == MESSAGES:
        return [
            ("text", b["text"]) if b["type"] == "text" else ("call", b["id"], b["name"], b["input"])
            for b in answer["content"]
        ]
    message = answer["choices"][0]["message"]
    called = [
        ("call", call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message.get("tool_calls") or ()
    ]
    return [*([("text", message["content"])] if message["content"] else []), *called]


@settings(max_examples=40, deadline=None)
@given(turns=st.lists(st.tuples(st.lists(texts, max_size=2), st.lists(calls, max_size=2), words), max_size=4))
def test_a_conversation_survives_from_messages_to_chat_and_back(
    turns: list[tuple[list[Said], list[Said], str]],
) -> None:
    messages: list[Part] = [{"role": "user", "content": [{"type": "text", "text": "begin"}]}]
    for said, called, result in turns:
        if not said and not called:
            continue
        content = [{"type": "text", "text": one[1]} for one in said]
        content += [{"type": "tool_use", "id": c[1], "name": c[2], "input": c[3]} for c in called]
        messages.append({"role": "assistant", "content": content})
        results: list[Part] = [{"type": "tool_result", "tool_use_id": c[1], "content": result} for c in called]
        messages.append({"role": "user", "content": [*results, {"type": "text", "text": result}]})
    chat = chat_body({"system": "be kind", "messages": messages, "max_tokens": 9}, "max_tokens")
    back = messages_body(chat, 1000)
    assert back["system"] == [{"type": "text", "text": "be kind"}]
    assert back["max_tokens"] == 9
    assert back["messages"] == [{**m, "content": one_text(m["content"])} for m in messages]


def one_text(blocks: list[Part]) -> list[Part]:
    """Texts that follow each other are one text in the chat form."""
    said = [block["text"] for block in blocks if block["type"] == "text"]
    text = [{"type": "text", "text": "\n\n".join(said)}] if said else []
    others = [block for block in blocks if block["type"] != "text"]
    return [*others, *text] if others and others[0]["type"] == "tool_result" else [*text, *others]


@settings(max_examples=40, deadline=None)
@given(turns=st.lists(st.tuples(words, st.lists(calls, max_size=2), words), max_size=4))
def test_the_items_of_a_response_are_a_conversation_again(turns: list[tuple[str, list[Said], str]]) -> None:
    items: list[Part] = [{"role": "user", "content": "begin"}]
    expected: list[Part] = [{"role": "user", "content": "begin"}]
    for said, called, result in turns:
        output = json.loads(adapt(ask(RESPONSES), OPENAI, MODEL).whole(b"", chat_whole([("text", said), *called])))[
            "output"
        ]
        results = [{"type": "function_call_output", "call_id": c[1], "output": result} for c in called]
        items += [*output, *results, {"role": "user", "content": [{"type": "input_text", "text": result}]}]
        expected.append(chat_whole([("text", said), *called])["choices"][0]["message"])
        expected += [{"role": "tool", "tool_call_id": c[1], "content": result} for c in called]
        expected.append({"role": "user", "content": result})
    assert Phrasebook().chat_body({"input": items}, "max_tokens")["messages"] == expected


@pytest.mark.parametrize(("form", "provider"), WAYS)
def test_a_stream_that_is_cut_never_looks_as_if_it_were_whole(form: str, provider: ProviderConfig) -> None:
    events = streamed(provider, [("text", "Hello"), ("call", "call_1", "look", {"at": "it"})])
    finished = next(at for at, event in enumerate(events) if b'_reason": "tool_' in event)
    for until in range(len(events)):
        adapted = adapt(ask(form, stream=True), provider, MODEL)
        watch = StreamWatch()
        got = _seen(EventSplitter(), watch, adapted, b"".join(events[:until]))
        if until > finished:
            assert not watch.fault
            assert READ[form](got + adapted.end())[0][-1][0] == "call", "the model had come to its end"
            continue
        assert watch.fault
        got += adapted.failed(ApiError(502, "It broke off.", code="stream_cut"))
        parts = parts_of(got)
        assert not {"message_stop", "response.completed"} & {part.get("type") for part in parts}
        assert {} not in parts, "no [DONE]"
        last = parts[-1]
        if form == RESPONSES:
            assert [part["sequence_number"] for part in parts] == list(range(len(parts)))
            assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
            assert last["response"]["error"] == {"code": "server_error", "message": "It broke off."}
        else:
            assert last["error"]["message"] == "It broke off."
            assert (last.get("type") == "error") == (form == MESSAGES)


def test_an_error_before_anything_else_has_the_shape_of_the_form() -> None:
    error = ApiError(503, "All are busy.", code="all_busy")
    assert parts_of(failure_event(CHAT, error))[0]["error"]["code"] == "all_busy"
    assert parts_of(failure_event(MESSAGES, error)) == [
        {"type": "error", "error": {"type": "overloaded_error", "message": "All are busy."}}
    ]
    kinds = [part["type"] for part in parts_of(failure_event(RESPONSES, error))]
    assert kinds == ["response.created", "response.in_progress", "response.failed"]


@pytest.mark.parametrize(("form", "provider"), WAYS)
@settings(max_examples=40, deadline=None)
@given(
    garbage=st.recursive(
        st.none() | st.integers() | words,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "choices",
                        "delta",
                        "message",
                        "content",
                        "tool_calls",
                        "function",
                        "type",
                        "usage",
                        "index",
                        "content_block",
                        "text",
                        "message_start",
                        "message_delta",
                        "content_block_delta",
                    ]
                ),
                inner,
                max_size=5,
            )
        ),
    )
)
def test_garbage_is_a_fault_of_the_provider_and_never_one_of_ours(
    form: str, provider: ProviderConfig, garbage: Any
) -> None:
    part = garbage if isinstance(garbage, dict) else {"choices": garbage, "content": garbage}
    adapted = adapt(ask(form, stream=True), provider, MODEL)
    with contextlib.suppress(UpstreamError):
        adapted.whole(b"", part)
    with contextlib.suppress(GarbageError):
        adapted.event(b"data: " + json.dumps(part).encode() + b"\n\n")


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        # Without an index, index 0 for each call, and the id in each piece.
        (
            [{"id": "a", "function": {"name": "f", "arguments": "{}"}}, {"id": "b", "function": {"name": "g"}}],
            ["a", "b"],
        ),
        (
            [
                {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}},
                {"index": 0, "id": "a", "function": {"arguments": "}"}},
            ],
            ["a"],
        ),
        (
            [
                {"index": 0, "id": "a", "function": {"name": "f", "arguments": {}}},
                {"index": 0, "id": "b", "function": {"name": "g"}},
            ],
            ["a", "b"],
        ),
    ],
)
def test_habits_of_providers_are_understood(entries: list[Part], expected: list[str]) -> None:
    adapted = adapt(ask(MESSAGES, stream=True), OPENAI, MODEL)
    chunks: list[Part] = [
        {"choices": [{"index": 0, "delta": {"tool_calls": [entry]}, "finish_reason": None}]} for entry in entries
    ]
    # Some say "stop" though they call.
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    stream = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    said, told = read_messages(relayed(adapted, stream, []))
    assert [one[1] for one in said] == expected
    assert told["reason"] == "tool_use"
    assert merged(said) == said


def test_a_model_that_thinks_for_long_is_heard_of() -> None:
    chunk = {"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}, "finish_reason": None}]}
    event = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    for form in (MESSAGES, RESPONSES):
        adapted = adapt(ask(form, stream=True), OPENAI, MODEL)
        heard = [adapted.event(event) for _at in range(100)]
        assert 3 <= sum(bool(one) for one in heard[1:]) <= 10


def test_calls_that_are_mixed_up_are_no_messages() -> None:
    """Blocks come one after the other there; each call of a response has events of its own."""
    entries = [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{"}},
        {"index": 0, "function": {"arguments": "}"}},
        {"index": 1, "function": {"arguments": "}"}},
    ]
    chunks: list[Part] = [{"choices": [{"delta": {"tool_calls": [entry]}}]} for entry in entries]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    stream = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    with pytest.raises(GarbageError, match="mixed up"):
        relayed(adapt(ask(MESSAGES, stream=True), OPENAI, MODEL), stream, [])
    said, _told = read_responses(relayed(adapt(ask(RESPONSES, stream=True), OPENAI, MODEL), stream, []))
    assert said == [("call", "a", "f", {}), ("call", "b", "g", {})]


def test_tokens_from_a_cache_are_counted_as_each_form_does() -> None:
    chat = {
        **chat_whole([("text", "x")]),
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 7}},
    }
    told = json.loads(adapt(ask(MESSAGES), OPENAI, MODEL).whole(b"", chat))["usage"]
    assert (told["input_tokens"], told["cache_read_input_tokens"], told["output_tokens"]) == (3, 7, 5)
    told = json.loads(adapt(ask(RESPONSES), OPENAI, MODEL).whole(b"", chat))["usage"]
    assert (told["input_tokens"], told["input_tokens_details"]["cached_tokens"], told["total_tokens"]) == (10, 7, 15)
    counted = {"input_tokens": 1, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 7, "output_tokens": 5}
    message = {**messages_whole([("text", "x")]), "usage": counted}
    told = json.loads(adapt(ask(CHAT), ANTHROPIC, MODEL).whole(b"", message))["usage"]
    assert (told["prompt_tokens"], told["prompt_tokens_details"], told["total_tokens"]) == (
        10,
        {"cached_tokens": 7},
        15,
    )


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("length", ("max_tokens", "incomplete")), ("content_filter", ("refusal", "incomplete"))],
)
def test_an_answer_that_is_too_short_says_why(reason: str, expected: tuple[str, str]) -> None:
    said: list[Said] = [("text", "Hel")]
    for form, name in ((MESSAGES, "stop_reason"), (RESPONSES, "status")):
        wanted = expected[form == RESPONSES]
        stream = b"".join(chat_stream(said, 3, reason=reason))
        assert READ[form](relayed(adapt(ask(form, stream=True), OPENAI, MODEL), stream, []))[1]["reason"] == wanted
        answer = json.loads(adapt(ask(form), OPENAI, MODEL).whole(b"", chat_whole(said, reason)))
        assert answer[name] == wanted
    assert answer["incomplete_details"] == {"reason": {"length": "max_output_tokens"}.get(reason, reason)}
