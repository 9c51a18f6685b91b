# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests in each form, through the router, to providers of each dialect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .mock_provider import cut, raw, slam, status
from .router_world import World, play
from .told import Part, Said, parts_of, read_chat, read_messages, read_responses
from .valkey_server import ValkeyServer

HELLO = [{"role": "user", "content": "Say hello."}]
SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}}
# Path, request, and how its stream is read.
FORMS: dict[str, tuple[str, Part, Callable[[bytes], tuple[list[Said], Part]]]] = {
    "chat": (
        "/v1/chat/completions",
        {"messages": HELLO, "tools": [{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}]},
        read_chat,
    ),
    "messages": (
        "/v1/messages",
        {"messages": HELLO, "max_tokens": 99, "tools": [{"name": "look", "input_schema": SCHEMA}]},
        read_messages,
    ),
    "responses": (
        "/v1/responses",
        {"input": "Say hello.", "tools": [{"type": "function", "name": "look", "parameters": SCHEMA}]},
        read_responses,
    ),
}
# The better provider speaks Anthropic's dialect, the other one OpenAI's, or the other way round.
MIXED: dict[str, Any] = {"providers": {"good": {"dialect": "anthropic"}}}
OTHER: dict[str, Any] = {"providers": {"fair": {"dialect": "anthropic"}}}


async def send(world: World, form: str, *, stream: bool = False, **more: Any) -> tuple[int, Any, dict[str, str]]:
    path, body, _read = FORMS[form]
    headers = more.pop("headers", {})
    return await world.post(path, {"model": "nhi/code", **body, "stream": stream, **more}, **headers)


@pytest.mark.parametrize("dialects", [MIXED, OTHER], ids=["anthropic-first", "openai-first"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_answered_by_every_dialect_and_falls_back_to_the_other(
    server: ValkeyServer, form: str, dialects: dict[str, Any]
) -> None:
    async def work(world: World) -> None:
        for provider in world.providers.values():
            provider.calls = (("look", {"at": "it"}),)
        for fault, answered in (
            (None, "good"),
            (status(500), "fair"),
            (slam, "fair"),
            (raw(b'{"choices": 3}'), "fair"),
        ):
            for stream in (False, True):
                world.providers["good"].faults.extend([fault] if fault else [])
                code, told, headers = await send(world, form, stream=stream)
                assert (code, headers["X-NHI-Provider"]) == (200, answered), told
                if stream:
                    said, end = FORMS[form][2](told)
                    assert said == [("text", "Hello!"), ("call", "call_0", "look", {"at": "it"})]
                    assert form == "chat" or end["usage"]["output_tokens"] == 5
        paths = [path for path, _body, _headers in world.providers["good"].seen]
        assert set(paths) == {"/v1/messages" if dialects is MIXED else "/v1/chat/completions"}
        assert await world.used("fair") == 6

    play(server, work, routing={"breaker_failures": 100}, **dialects)


@pytest.mark.parametrize("dialects", [MIXED, OTHER], ids=["anthropic-first", "openai-first"])
@pytest.mark.parametrize("form", FORMS)
def test_a_stream_that_is_cut_ends_with_the_error_of_its_form(
    server: ValkeyServer, form: str, dialects: dict[str, Any]
) -> None:
    async def work(world: World) -> None:
        good = world.providers["good"]
        path = "/v1/messages" if dialects is MIXED else "/v1/chat/completions"
        events = good.events({"model": "x", "stream_options": {"include_usage": True}}, path)
        ended = next(at for at, event in enumerate(events) if b'"end_turn"' in event or b'"stop"' in event)
        outcomes = []
        for until in range(len(events)):
            good.faults.append(cut(good, until))
            code, stream, headers = await send(world, form, stream=True)
            assert code == 200
            if headers["X-NHI-Model"] == "fair-model" or until > ended:
                assert FORMS[form][2](stream)[0] == [("text", "Hello!")]
                outcomes.append("whole")
                continue
            last = parts_of(stream)[-1]
            error = last["response"]["error"] if form == "responses" else last["error"]
            assert error["message"].startswith("The answer of good-model broke off")
            assert last.get("type") == {"chat": None, "messages": "error", "responses": "response.failed"}[form]
            outcomes.append("cut")
        assert outcomes[0] == "whole", "nothing had come yet, so the next one answered"
        assert outcomes.count("cut") >= 3

    play(server, work, routing={"breaker_failures": 100}, **dialects)


def test_a_cut_chat_goes_on_with_a_provider_of_another_dialect(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        good = world.providers["good"]
        good.faults.append(cut(good, 4))
        _code, stream, _headers = await send(world, "chat", stream=True, headers={"X_NHI_Continue": "true"})
        assert stream.endswith(b"[DONE]\n\n")
        [(path, sent, _headers)] = world.providers["fair"].seen
        assert path == "/v1/chat/completions"
        assert sent["messages"][-2] == {"role": "assistant", "content": "Hel"}

    play(server, work, **MIXED)


def test_claude_code_gets_all_of_anthropics_own_api_and_its_headers_pass(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        more: Part = {
            "new_field": {"kept": True},
            "thinking": {"type": "adaptive"},
            "tools": [{"type": "web_search_20250305"}],
        }
        headers: dict[str, Any] = {
            "anthropic_version": "2023-06-01",
            "anthropic_beta": "a,b",
            "x_api_key": "key-of-aider",
        }
        world.headers = {}
        code, told, answered = await send(world, "messages", headers=headers, **more)
        assert (code, told["content"]) == (200, [{"type": "text", "text": "Hello!"}])
        assert answered["request-id"] == answered["X-NHI-Request-Id"]
        [(path, sent, sent_headers)] = world.providers["good"].seen
        assert path == "/v1/messages"
        assert sent == {**FORMS["messages"][1], "model": "good-upstream", "stream": False, **more}
        assert (sent_headers["anthropic-beta"], sent_headers["anthropic-version"]) == ("a,b", "2023-06-01")
        assert "x-api-key" not in {name.lower() for name in sent_headers}, "an agent's key stays here"

    play(server, work, **MIXED)


def test_what_only_one_dialect_can_say_goes_to_a_provider_of_that(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        searching: Part = {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}
        code, _told, headers = await send(world, "messages", **searching)
        assert (code, headers["X-NHI-Model"]) == (200, "fair-model")
        assert "the tool web_search_20250305" in headers["X-NHI-Degraded"]
        assert world.providers["good"].seen == []
        assert await world.used("good") == 0, "nothing was sent"
        for stream in (False, True):
            code, told, _headers = await send(world, "messages", model="good-model", stream=stream, **searching)
            assert (code, told["error"]["type"]) == (400, "invalid_request_error")
            assert "good-model: it can not be asked for the tool web_search_20250305" in told["error"]["message"]
        assert (await send(world, "messages", model="good-model"))[0] == 200, "nobody was at fault"

    play(server, work, routing={"breaker_failures": 1}, **OTHER)


def test_what_is_left_out_is_told(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        for stream in (False, True):
            code, _told, headers = await send(world, "responses", stream=stream, tools=[{"type": "web_search"}])
            assert code == 200
            assert headers["X-NHI-Degraded"] == "its provider was not told of the tool web_search"
        assert "tools" not in world.providers["good"].seen[0][1]

    play(server, work)


@pytest.mark.parametrize("dialects", [MIXED, OTHER], ids=["anthropic", "openai"])
@pytest.mark.parametrize("form", FORMS)
def test_a_refusal_has_the_shape_that_the_client_knows(
    server: ValkeyServer, form: str, dialects: dict[str, Any]
) -> None:
    async def work(world: World) -> None:
        refusal: Part = {"error": {"type": "invalid_request_error", "message": "temperature is wrong"}}
        world.providers["good"].always = status(400, {"type": "error", **refusal} if dialects is MIXED else refusal)
        for stream in (False, True):
            code, told, _headers = await send(world, form, stream=stream)
            assert (code, told["error"]["message"]) == (400, "temperature is wrong")
            assert told["error"]["type"] == "invalid_request_error"
            assert (told.get("type") == "error") == (form == "messages")

    play(server, work, **dialects)


def test_faults_of_ours_have_anthropics_shape_where_its_clients_ask(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        world.providers["good"].always = world.providers["fair"].always = status(429, None, Retry_After="30")
        code, told, headers = await send(world, "messages")
        assert (code, told["type"], told["error"]["type"]) == (529, "error", "overloaded_error")
        assert 28 <= int(headers["Retry-After"]) <= 30
        code, told, _headers = await send(world, "responses")
        assert (code, told["error"]["code"]) == (503, "all_busy")
        expected = {"model": (404, "not_found_error"), "messages": (400, "invalid_request_error")}
        asked = {"model": "nhi/code", **FORMS["messages"][1]}
        for name, (wanted, kind) in expected.items():
            code, told, _headers = await world.post("/v1/messages", {**asked, name: "nothing"})
            assert (code, told["type"], told["error"]["type"]) == (wanted, "error", kind)
        world.headers = {"x-api-key": "wrong"}
        code, told, _headers = await send(world, "messages")
        assert (code, told["error"]["type"]) == (401, "authentication_error")

    play(server, work)


def test_tokens_are_counted_by_who_does_that_for_nothing_else_estimated(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        path, body = "/v1/messages/count_tokens", {"model": "nhi/code", **FORMS["messages"][1]}
        assert (await world.post(path, body))[:2] == (200, {"input_tokens": 10})
        [(seen, sent, _headers)] = world.providers["good"].seen
        assert seen == path
        assert (sent["model"], "max_tokens" in sent) == ("good-upstream", False)
        for fault in (status(404), slam, raw(b"{}"), raw(b"no")):
            world.providers["good"].faults.append(fault)
            code, told, _headers = await world.post(path, body)
            assert code == 200
            assert 20 < told["input_tokens"] < 200
        assert (await world.post(path, {**body, "model": "fair-model"}))[1]["input_tokens"] > 10
        assert world.providers["fair"].seen == []
        assert await world.used("good") == 0, "a count is no request"

    play(server, work, providers={"good": {"dialect": "anthropic", "counts_tokens": True}})


def test_models_are_listed_for_both_families_of_clients(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        async def get(path: str, **headers: str) -> tuple[int, Any]:
            async with world.session.get(world.url + path, headers={**world.headers, **headers}) as answer:
                return answer.status, await answer.json()

        names = ["good-model", "fair-model", "nhi/code"]
        _code, told = await get("/v1/models")
        assert (told["object"], [one["id"] for one in told["data"]]) == ("list", names)
        anthropic = {"anthropic-version": "2023-06-01"}
        _code, told = await get("/v1/models", **anthropic)
        assert (told["has_more"], [one["id"] for one in told["data"]]) == (False, names)
        _code, told = await get("/v1/models/good-model", **anthropic)
        assert (told["type"], told["max_tokens"]) == ("model", 1000)
        code, told = await get("/v1/models/other", **anthropic)
        assert (code, told["error"]["type"]) == (404, "not_found_error")
        assert (await get("/v1/models/nhi/code"))[1]["owned_by"] == "nhi"

    play(server, work)


def test_a_dialect_without_embeddings_is_not_asked_for_them(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        for path, body in (("/v1/embeddings", {"input": "x"}), ("/v1/completions", {"prompt": "x"})):
            code, _told, headers = await world.post(path, {"model": "nhi/code", **body})
            assert (code, headers["X-NHI-Model"]) == (200, "fair-model")
        assert world.providers["good"].seen == []

    play(server, work, **MIXED)
