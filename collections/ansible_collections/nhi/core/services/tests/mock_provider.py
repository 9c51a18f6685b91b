# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A provider of language models for tests: counts what it is asked, keeps to its limits, and fails as it is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from .told import Said, messages_stream, messages_whole

Fault = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse | None]]


@dataclass
class MockProvider:
    """Speaks the OpenAI form; the Anthropic one at /messages."""

    name: str = "mock"
    tokens: tuple[int, int] = (10, 5)
    words: tuple[str, ...] = ("Hel", "lo", "!")
    # Calls of tools that follow the words, where tools are offered and none has answered yet: name and arguments.
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    delay: float = 0.0
    per_day: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    faults: deque[Fault] = field(default_factory=deque)
    always: Fault | None = None
    seen: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    hung_up: int = 0
    port: int = 0
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        for path in ("chat/completions", "completions", "embeddings", "messages", "messages/count_tokens"):
            app.router.add_post(f"/v1/{path}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.times.append(time.time())
        self.seen.append((request.path, body, dict(request.headers)))
        try:
            fault = self.faults.popleft() if self.faults else self.always
            if fault is not None and (answer := await fault(request, body)) is not None:
                return answer
            if self.per_day is not None and len(self.times) > self.per_day:
                return web.json_response({"error": {"message": "quota"}}, status=429)
            await asyncio.sleep(self.delay)
            if body.get("stream"):
                return await self.stream(request, body)
            return web.json_response(self.whole(request, body), headers=self.headers)
        except (asyncio.CancelledError, ConnectionResetError):
            self.hung_up += 1
            raise

    def whole(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        into, out = self.tokens
        text = "".join(self.words)
        if request.path.endswith("/count_tokens"):
            return {"input_tokens": into}
        if request.path.endswith("/messages"):
            usage = {"input_tokens": into, "output_tokens": out}
            return {**messages_whole(self.said(body)), "model": body["model"], "usage": usage}
        usage = {"prompt_tokens": into, "completion_tokens": out, "total_tokens": into + out}
        if request.path.endswith("/embeddings"):
            return {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}], "usage": usage}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": "stop", "message": message, "text": text}
        if tools := _tool_calls(self.said(body)):
            message["tool_calls"], choice["finish_reason"] = tools, "tool_calls"
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [choice],
            "usage": usage,
        }

    def said(self, body: dict[str, Any]) -> list[Said]:
        """What it answers, in order."""
        last = (body.get("messages") or [{}])[-1]
        if not body.get("tools") or last.get("role") == "tool" or '"tool_result"' in json.dumps(last):
            return [("text", "".join(self.words))]
        called = [("call", f"call_{at}", *call) for at, call in enumerate(self.calls)]
        return [("text", "".join(self.words)), *called]

    def events(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> list[bytes]:
        """The whole stream, event by event."""
        if path.endswith("/messages"):
            return messages_stream(self.said(body), 3, self.tokens)
        parts: list[Any] = [{"role": "assistant", "content": ""}, *({"content": word} for word in self.words)]
        tools = _tool_calls(self.said(body))
        parts += [{"tool_calls": [{"index": at, **tool}]} for at, tool in enumerate(tools)]
        chunks = [_chunk(body, part, None) for part in parts] + [_chunk(body, {}, "tool_calls" if tools else "stop")]
        if not path.endswith("/chat/completions"):
            for chunk in chunks:
                [choice] = chunk["choices"]
                choice["text"] = choice.pop("delta").get("content", "")
        if (body.get("stream_options") or {}).get("include_usage"):
            into, out = self.tokens
            usage = {"prompt_tokens": into, "completion_tokens": out, "total_tokens": into + out}
            chunks.append({**_chunk(body, {}, None), "choices": [], "usage": usage})
        return [
            b": keep-alive\n\n",
            *(b"data: " + json.dumps(c).encode() + b"\n\n" for c in chunks),
            b"data: [DONE]\n\n",
        ]

    async def stream(self, request: web.Request, body: dict[str, Any], until: int | None = None) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **self.headers})
        await response.prepare(request)
        for event in self.events(body, request.path)[:until]:
            await response.write(event)
            await asyncio.sleep(self.delay / 10)
        if until is None:
            await response.write_eof()
        elif request.transport is not None:
            request.transport.close()
        return response


def _tool_calls(said: list[Said]) -> list[dict[str, Any]]:
    return [
        {"id": one[1], "type": "function", "function": {"name": one[2], "arguments": json.dumps(one[3])}}
        for one in said
        if one[0] == "call"
    ]


def _chunk(body: dict[str, Any], delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": body["model"], "choices": [choice]}


def status(code: int, body: Any = None, **headers: str) -> Fault:
    """Answer with a status."""

    async def fault(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        given = {"error": {"message": "no", "type": "x"}} if body is None else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=code, text=json.dumps(given), content_type="application/json", headers=named)

    return fault


def raw(body: bytes, content_type: str = "application/json", code: int = 200) -> Fault:
    """Answer with exactly this."""

    async def fault(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=code, body=body, content_type=content_type)

    return fault


def cut(provider: MockProvider, until: int) -> Fault:
    """Hang up after so many events of a stream."""

    async def fault(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await provider.stream(request, body, until)

    return fault


async def hang(_request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
    """Never answer."""
    await asyncio.sleep(3600)
    raise AssertionError("unreachable")


async def slam(request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
    """Close the connection without a word."""
    if request.transport is not None:
        request.transport.close()
    raise ConnectionResetError


async def dribble(request: web.Request, _body: dict[str, Any]) -> web.StreamResponse:
    """Begin an answer a letter at a time, and never come to the end of its head."""
    letters = b"HTTP/1.1 200 OK\r\nX-Slow: "
    while request.transport is not None and not request.transport.is_closing():
        request.transport.write(letters)
        letters = b"x"
        await asyncio.sleep(0.05)
    raise ConnectionResetError
