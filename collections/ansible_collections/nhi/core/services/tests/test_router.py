# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a client through the router to a provider and back."""

from __future__ import annotations

import json
import time

import pytest
from nhi_services.router.live import Setup
from nhi_services.router.trail import Trail

from .mock_provider import cut, dribble, hang, raw, slam, status
from .router_world import CHAT, World, play
from .valkey_server import ValkeyServer


def test_an_answer_comes_from_the_best_model_and_says_so(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        code, body, headers = await world.chat(custom_field={"kept": [1, None]})
        assert (code, body["choices"][0]["message"]["content"]) == (200, "Hello!")
        assert (headers["X-NHI-Provider"], headers["X-NHI-Model"]) == ("good", "good-model")
        assert (headers["X-NHI-Attempts"], headers["X-NHI-Quota-Left"]) == ("1", str(1000 - 1 - 20))
        assert "X-NHI-Degraded" not in headers
        [(path, sent, sent_headers)] = world.providers["good"].seen
        assert (path, sent["model"], sent["custom_field"]) == (
            "/v1/chat/completions", "good-upstream", {"kept": [1, None]},
        )  # fmt: skip
        assert "Authorization" not in sent_headers, "an agent's key stays here"
        assert not [name for name in sent_headers if name.lower().startswith("x-nhi")]

    play(server, work)


def test_a_stream_comes_as_it_is_without_what_nobody_asked_for(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        code, stream, headers = await world.chat(stream=True)
        assert (code, headers["X-NHI-Model"]) == (200, "good-model")
        events = [event for event in stream.split(b"\n\n") if event]
        assert events[-1] == b"data: [DONE]"
        parts = [json.loads(event[6:]) for event in events[:-1]]
        assert "".join(p["choices"][0]["delta"].get("content", "") for p in parts) == "Hello!"
        assert not [part for part in parts if part.get("usage")]
        assert world.providers["good"].seen[0][1]["stream_options"] == {"include_usage": True}
        _code, stream, _headers = await world.chat(stream=True, stream_options={"include_usage": True})
        assert b'"total_tokens": 15' in stream

    play(server, work)


@pytest.mark.parametrize(
    ("fault", "counted"),
    [
        (status(500), 1), (status(429), 0), (status(401), 0), (hang, 1), (slam, 1), (raw(b"not json"), 1),
        (raw(b"{}", "text/html"), 1), (raw(b'{"error": {"message": "inside"}}'), 1), (raw(b"[]"), 1),
        (status(400, {"error": {"message": "maximum context length is 8192 tokens"}}), 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_the_next_model_answers_where_one_fails(
    server: ValkeyServer, fault: object, counted: int, stream: bool
) -> None:
    async def work(world: World) -> None:
        world.providers["good"].always = fault  # type: ignore[assignment]
        code, body, headers = await world.chat(stream=stream)
        assert code == 200, body
        assert (headers["X-NHI-Model"], headers["X-NHI-Attempts"]) == ("fair-model", "2")
        assert headers["X-NHI-Degraded"].startswith("fair-model answered in place of good-model: ")
        assert await world.used("good") == counted

    play(server, work)


def test_a_head_that_comes_a_letter_at_a_time_is_not_waited_for(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        world.providers["good"].always = dribble
        began = time.monotonic()
        code, _body, headers = await world.chat()
        assert (code, headers["X-NHI-Model"]) == (200, "fair-model")
        assert "it did not answer in time" in headers["X-NHI-Degraded"]
        assert time.monotonic() - began < 10
        assert await world.used("good") == 1, "it may have counted"

    play(server, work, providers={"good": {"timeouts": {"first_byte": 0.3, "idle": 60}}})


def test_books_are_kept_of_what_is_over_when_somebody_looks_and_when_it_stops(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nhi_services.router.live._TOGETHER_SECONDS", 3600)
    told: list[str] = []

    class Teller:
        def record(self, trail: Trail, _setup: Setup) -> None:
            told.append(trail.outcome)

    async def work(world: World) -> None:
        world.router.live.recorders.append(Teller())
        await world.chat()
        assert told == []
        async with world.session.get(world.url + "/metrics") as answer:
            assert 'api_requests_total{provider="good",status="done"} 1.0' in await answer.text()
        await world.chat()
        async with world.session.get(world.url + "/v1/nhi/status", headers=world.headers) as answer:
            assert len((await answer.json())["last"]) == 2
        await world.chat()
        assert told == ["done"] * 2

    play(server, work)
    assert told == ["done"] * 3


def test_what_the_client_did_wrong_is_told_to_it_and_to_nobody_else(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        world.providers["good"].always = status(400, {"error": {"message": "temperature is wrong", "type": "x"}})
        code, body, _headers = await world.chat()
        assert (code, body["error"]["message"]) == (400, "temperature is wrong")
        assert world.providers["fair"].seen == []

    play(server, work)


def test_when_all_fail_the_error_says_what_each_did(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        world.providers["good"].always = status(503, None)
        world.providers["good"].always = status(500)
        world.providers["fair"].always = slam
        code, body, headers = await world.chat()
        assert code == 502
        assert body["error"]["code"] == "upstream_failed"
        assert "good-model: HTTP 500; fair-model: it closed the connection" in body["error"]["message"]
        assert headers["X-NHI-Attempts"] == "2"

    play(server, work)


def test_a_provider_that_wants_a_pause_is_left_alone_until_then(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        world.providers["good"].faults.append(status(429, None, Retry_After="1"))
        first = await world.chat()
        second = await world.chat()
        assert [one[2]["X-NHI-Model"] for one in (first, second)] == ["fair-model"] * 2
        assert len(world.providers["good"].seen) == 1
        code, _body, headers = await world.chat("good-model")
        assert (code, headers["X-NHI-Model"]) == (200, "good-model"), "it was waited for"
        assert float(headers["X-NHI-Queue-Ms"]) > 500

    play(server, work)


def test_a_stream_that_is_cut_ends_with_an_error_and_never_as_if_it_were_whole(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        provider = world.providers["good"]
        whole = len(provider.events({"model": "x", "stream_options": {"include_usage": True}}))
        for until in range(whole):

            async def cut(request, body, until=until):  # type: ignore[no-untyped-def]
                return await provider.stream(request, body, until)

            provider.faults.append(cut)
            code, stream, headers = await world.chat(stream=True)
            assert code == 200
            if headers["X-NHI-Model"] == "fair-model":
                assert stream.endswith(b"[DONE]\n\n")
                assert until <= 1, "nothing had come yet"
            elif until <= 5:
                assert b'"code":"stream_cut"' in stream
                assert b"[DONE]" not in stream
            else:
                assert stream.endswith(b"[DONE]\n\n"), "the model had come to its end"

    play(server, work, routing={"breaker_failures": 100})


def test_a_cut_stream_goes_on_with_the_next_model_where_that_is_wanted(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        provider = world.providers["good"]

        async def cut(request, body):  # type: ignore[no-untyped-def]
            return await provider.stream(request, body, 4)

        provider.faults.append(cut)
        _code, stream, _headers = await world.chat(stream=True, headers={"X_NHI_Continue": "true"})
        assert stream.endswith(b"[DONE]\n\n")
        assert world.providers["fair"].seen[0][1]["messages"][-2] == {"role": "assistant", "content": "Hello"}

    play(server, work)


def test_a_cut_completion_goes_on_where_it_stopped(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        world.providers["good"].faults.append(cut(world.providers["good"], 4))
        body = {"model": "nhi/code", "prompt": "Say", "stream": True}
        _code, stream, _headers = await world.post("/v1/completions", body, X_NHI_Continue="true")
        assert stream.endswith(b"[DONE]\n\n")
        assert world.providers["fair"].seen[0][1]["prompt"] == "SayHello"

    play(server, work)


@pytest.mark.parametrize(("path", "events", "more"), [
    ("/v1/completions", 5, {"prompt": ["one", "two"]}),
    ("/v1/chat/completions", 5, {**CHAT, "n": 2}),
    ("/v1/chat/completions", 6, {**CHAT, "tools": [{"type": "function", "function": {"name": "look"}}]}),
])  # fmt: skip
def test_a_stream_of_more_than_one_text_is_not_gone_on_with(
    server: ValkeyServer, path: str, events: int, more: dict[str, object]
) -> None:
    async def work(world: World) -> None:
        good = world.providers["good"]
        good.calls = (("look", {"at": "it"}),)
        good.faults.append(cut(good, events))
        body = {"model": "nhi/code", "stream": True, **more}
        _code, stream, _headers = await world.post(path, body, X_NHI_Continue="true")
        assert b"stream_cut" in stream
        assert b"[DONE]" not in stream
        assert world.providers["fair"].seen == []

    play(server, work)


def test_status_and_metrics_tell_what_happened_and_no_word_of_what_was_said(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        world.providers["good"].faults.append(status(500))
        await world.chat(messages=[{"role": "user", "content": "top secret"}])
        async with world.session.get(world.url + "/v1/nhi/status", headers=world.headers) as answer:
            told = await answer.json()
        assert told["providers"]["good"]["limits"]["requests_per_day"] == 1000
        [last] = told["last"]
        assert [one["what"] for one in last["attempts"]] == ["HTTP 500", "good"]
        async with world.session.get(world.url + "/metrics") as answer:
            metrics = await answer.text()
        assert 'api_requests_total{provider="fair",status="done"} 1.0' in metrics
        assert 'api_errors_total{model="good-model",provider="good"} 1.0' in metrics
        assert 'routing_decision{provider="fair",task_type="code"} 1.0' in metrics
        assert 'api_quota_remaining{limit="requests_per_day",model="fair-model",provider="fair"}' in metrics
        assert "secret" not in metrics + json.dumps(told)
        async with world.session.get(world.url + "/v1/nhi/status") as answer:
            assert answer.status == 401

    play(server, work)
