# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The official Python clients of OpenAI and Anthropic, as they are shipped, through the router to either dialect."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest

from .mock_provider import cut, status
from .router_world import KEY, World, play
from .valkey_server import ValkeyServer

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}
HELLO: Any = [{"role": "user", "content": "Say hello."}]
CHAT_TOOLS: Any = [{"type": "function", "function": {"name": "look", "parameters": SCHEMA}}]
TOOLS: Any = [{"type": "function", "name": "look", "parameters": SCHEMA, "strict": True}]
CLAUDE_TOOLS: Any = [{"name": "look", "input_schema": SCHEMA}]
DIALECTS = pytest.mark.parametrize("dialect", ["openai", "anthropic"])


def gpt(world: World, key: str = KEY, retries: int = 0) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{world.url}/v1", api_key=key, max_retries=retries)


def claude(world: World, key: str = KEY, retries: int = 0) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=world.url, api_key=key, max_retries=retries)


def run(server: ValkeyServer, work: Any, dialect: str = "openai", **config: Any) -> None:
    play(server, work, ["good"], providers={"good": {"dialect": dialect}}, **config)


@DIALECTS
def test_openai_chat(server: ValkeyServer, dialect: str) -> None:
    async def work(world: World) -> None:
        world.providers["good"].calls = (("look", {"at": "it"}),)
        async with gpt(world) as client:
            answer = await client.chat.completions.create(model="nhi/code", messages=HELLO)
            assert answer.choices[0].message.content == "Hello!"
            assert answer.choices[0].finish_reason == "stop"
            assert answer.usage is not None
            assert answer.usage.total_tokens == 15
            assert answer._request_id
            answer = await client.chat.completions.create(model="nhi/code", messages=HELLO, tools=CHAT_TOOLS)
            [call] = answer.choices[0].message.tool_calls or []
            assert call.type == "function"
            assert (call.function.name, call.function.arguments) == ("look", '{"at": "it"}')
            events = [event async for event in await _chat_stream(client)]
            assert "".join(e.choices[0].delta.content or "" for e in events if e.choices) == "Hello!"
            assert events[-1].usage.total_tokens == 15
            async with client.chat.completions.stream(model="nhi/code", messages=HELLO, tools=CHAT_TOOLS) as stream:
                whole = (await stream.get_final_completion()).choices[0].message
            assert whole.content == "Hello!"
            assert (whole.tool_calls or [])[0].function.arguments == '{"at": "it"}'
            raw = await client.chat.completions.with_raw_response.create(model="nhi/code", messages=HELLO)
            assert raw.headers["x-nhi-provider"] == "good"

    run(server, work, dialect)


async def _chat_stream(client: openai.AsyncOpenAI) -> Any:
    options: Any = {"include_usage": True}
    return await client.chat.completions.create(model="nhi/code", messages=HELLO, stream=True, stream_options=options)


def test_openai_embeddings_completions_and_models(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        async with gpt(world) as client:
            told = await client.embeddings.create(model="good-model", input="x", encoding_format="float")
            assert told.data[0].embedding == [0.5]
            assert (await client.completions.create(model="good-model", prompt="x")).choices[0].text == "Hello!"
            assert [one.id async for one in client.models.list()] == ["good-model", "nhi/code"]
            assert (await client.models.retrieve("nhi/code")).owned_by == "nhi"

    run(server, work)


@DIALECTS
def test_openai_responses(server: ValkeyServer, dialect: str) -> None:
    async def work(world: World) -> None:
        world.providers["good"].calls = (("look", {"at": "it"}),)
        async with gpt(world) as client:
            answer = await client.responses.create(model="nhi/code", input="hello", instructions="Be kind.")
            assert (answer.output_text, answer.status) == ("Hello!", "completed")
            assert answer.usage is not None
            assert (answer.usage.input_tokens, answer.usage.output_tokens) == (10, 5)
            conversation: Any = [{"role": "user", "content": "hello"}]
            async with client.responses.stream(model="nhi/code", input=conversation, tools=TOOLS) as stream:
                kinds = [event.type async for event in stream]
                final = await stream.get_final_response()
            assert kinds[0] == "response.created"
            assert kinds[-1] == "response.completed"
            assert {"response.output_text.delta", "response.function_call_arguments.delta"} <= set(kinds)
            assert final.output_text == "Hello!"
            call = final.output[-1]
            assert call.type == "function_call"
            assert (call.name, call.arguments) == ("look", '{"at": "it"}')
            # The whole conversation goes back, with what the tool said.
            conversation += [item.model_dump(exclude_none=True) for item in final.output]
            conversation.append({"type": "function_call_output", "call_id": call.call_id, "output": "dark"})
            answer = await client.responses.create(model="nhi/code", input=conversation)
            assert answer.output_text == "Hello!"
            with pytest.raises(openai.BadRequestError, match="send the whole conversation"):
                await client.responses.create(model="nhi/code", input="more", previous_response_id=answer.id)

    run(server, work, dialect)


@DIALECTS
def test_anthropic_messages(server: ValkeyServer, dialect: str) -> None:
    async def work(world: World) -> None:
        world.providers["good"].calls = (("look", {"at": "it"}),)
        async with claude(world) as client:
            answer = await client.messages.create(model="nhi/code", max_tokens=50, messages=HELLO, system="Be kind.")
            assert answer.content[0].type == "text"
            assert answer.content[0].text == "Hello!"
            assert (answer.stop_reason, answer.usage.input_tokens, answer.usage.output_tokens) == ("end_turn", 10, 5)
            assert answer._request_id
            async with client.messages.stream(
                model="nhi/code", max_tokens=50, messages=HELLO, tools=CLAUDE_TOOLS
            ) as stream:
                said = "".join([text async for text in stream.text_stream])
                final = await stream.get_final_message()
            assert said == "Hello!"
            assert (final.stop_reason, final.usage.output_tokens) == ("tool_use", 5)
            call = final.content[-1]
            assert call.type == "tool_use"
            assert (call.name, call.input) == ("look", {"at": "it"})
            result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "dark"}
            more: Any = [
                *HELLO, {"role": "assistant", "content": final.content}, {"role": "user", "content": [result]},
            ]  # fmt: skip
            answer = await client.messages.create(model="nhi/code", max_tokens=50, messages=more, tools=CLAUDE_TOOLS)
            assert answer.content[-1].type == "text"
            beta = await client.beta.messages.create(
                model="nhi/code", max_tokens=50, messages=HELLO, betas=["context-1m-2025-08-07"]
            )
            assert beta.content[0].type == "text"
            assert (await client.messages.count_tokens(model="nhi/code", messages=HELLO)).input_tokens > 5
            assert [one.id async for one in client.models.list()] == ["good-model", "nhi/code"]

    run(server, work, dialect)


@DIALECTS
def test_the_clients_raise_what_they_should(server: ValkeyServer, dialect: str) -> None:
    async def work(world: World) -> None:
        good = world.providers["good"]
        async with gpt(world, "wrong") as one, claude(world, "wrong") as other:
            with pytest.raises(openai.AuthenticationError):
                await one.chat.completions.create(model="nhi/code", messages=HELLO)
            with pytest.raises(openai.AuthenticationError):
                await one.responses.create(model="nhi/code", input="x")
            with pytest.raises(anthropic.AuthenticationError) as refused:
                await other.messages.create(model="nhi/code", max_tokens=5, messages=HELLO)
            assert refused.value.type == "authentication_error"
        async with gpt(world) as one, claude(world) as other:
            with pytest.raises(openai.NotFoundError):
                await one.chat.completions.create(model="gpt-9", messages=HELLO)
            with pytest.raises(anthropic.NotFoundError):
                await other.messages.create(model="claude-9", max_tokens=5, messages=HELLO)
            error = {"error": {"type": "invalid_request_error", "message": "temperature is wrong"}}
            good.always = status(400, error)
            with pytest.raises(openai.BadRequestError, match="temperature is wrong"):
                await one.chat.completions.create(model="nhi/code", messages=HELLO)
            with pytest.raises(anthropic.BadRequestError) as bad:
                await other.messages.create(model="nhi/code", max_tokens=5, messages=HELLO)
            assert (bad.value.type, bad.value.api_message) == ("invalid_request_error", "temperature is wrong")
            await _cut_streams(one, other, world)
            good.always = status(429, None, Retry_After="30")
            with pytest.raises(openai.InternalServerError) as busy:
                await one.chat.completions.create(model="nhi/code", messages=HELLO)
            assert 28 <= int(busy.value.response.headers["retry-after"]) <= 30
            with pytest.raises(anthropic.OverloadedError) as overloaded:
                await other.messages.create(model="nhi/code", max_tokens=5, messages=HELLO)
            assert 28 <= int(overloaded.value.response.headers["retry-after"]) <= 30

    run(server, work, dialect, routing={"breaker_failures": 100})


async def _cut_streams(one: openai.AsyncOpenAI, other: anthropic.AsyncAnthropic, world: World) -> None:
    """A stream that breaks off is an error to each client, and never an answer."""
    good = world.providers["good"]
    good.always = cut(good, 4)
    with pytest.raises(openai.APIError, match="broke off"):
        [event async for event in await _chat_stream(one)]
    events = [event async for event in await one.responses.create(model="nhi/code", input="x", stream=True)]
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "broke off" in last.response.error.message
    with pytest.raises(anthropic.APIStatusError, match="broke off"):
        async with other.messages.stream(model="nhi/code", max_tokens=5, messages=HELLO) as stream:
            await stream.get_final_message()


@pytest.mark.parametrize("make", [gpt, claude])
def test_a_client_that_keeps_to_retry_after_gets_its_answer(server: ValkeyServer, make: Any) -> None:
    async def work(world: World) -> None:
        world.providers["good"].faults.append(status(429, None, Retry_After="1"))
        async with make(world, retries=1) as client:
            if make is gpt:
                await client.chat.completions.create(model="nhi/code", messages=HELLO)
            else:
                await client.messages.create(model="nhi/code", max_tokens=5, messages=HELLO)
        assert len(world.providers["good"].seen) == 2

    run(server, work, routing={"wait_seconds": 0.1})
