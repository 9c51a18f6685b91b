# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A router between a real Valkey and mock providers, in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from nhi_services.router.config import parse_config
from nhi_services.router.main import Router

from .mock_provider import MockProvider
from .ports import free_port
from .valkey_server import ValkeyServer

KEY = "key-of-aider"
CHAT = {"messages": [{"role": "user", "content": "Say hello."}]}


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def configuration(server: ValkeyServer, providers: dict[str, MockProvider], **more: Any) -> dict[str, Any]:
    """One model for each provider, all in the task `code`; the better the earlier."""
    models = {
        name: {
            "base_url": provider.url,
            "limits": {"requests_per_day": 1000},
            "timeouts": {"connect": 1, "first_byte": 2, "idle": 2, "total": 5},
            "models": {
                f"{name}-model": {
                    "upstream": f"{name}-upstream", "quality": 9 - at, "context": 8000, "max_output": 1000,
                    "capabilities": ["chat", "completions", "embeddings", "tools", "images", "json"],
                },
            },
        }
        for at, (name, provider) in enumerate(providers.items())
    }  # fmt: skip
    base: dict[str, Any] = {
        "listen": {"port": 1, "drain_seconds": 2},
        "redis": {"url": server.url},
        "agents": [{"name": "aider", "key_sha256": digest(KEY), "task": "code"}],
        "providers": models,
        "tasks": {"code": {"chain": [f"{name}-model" for name in providers]}},
        "routing": {"wait_seconds": 3},
    }
    return merge(base, more)


def merge(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Deep: mappings are joined, everything else is replaced."""
    result = dict(one)
    for name, value in other.items():
        there = result.get(name)
        result[name] = merge(there, value) if isinstance(there, dict) and isinstance(value, dict) else value
    return result


@dataclass
class World:
    """What a test talks to."""

    router: Router
    providers: dict[str, MockProvider]
    server: ValkeyServer
    session: aiohttp.ClientSession
    url: str = ""
    headers: dict[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {KEY}"})

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any, dict[str, str]]:
        named = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with self.session.post(self.url + path, json=body, headers=named) as answer:
            raw = await answer.read()
            parsed = await answer.json() if answer.content_type == "application/json" else raw
            return answer.status, parsed, dict(answer.headers)

    async def chat(self, model: str = "nhi/code", **more: Any) -> tuple[int, Any, dict[str, str]]:
        headers = more.pop("headers", {})
        return await self.post("/v1/chat/completions", {"model": model, **CHAT, **more}, **headers)

    async def used(self, provider: str) -> int:
        """Requests of today, after all is settled."""
        await self.router.live.store.settler.flush(5)
        await self.router._refresher.once()
        return self.router.live.setup.picture.really_used(provider).requests_today


async def until(is_so: Callable[[], object], seconds: float = 15) -> None:
    """Wait for what comes soon, on a busy machine later; AssertionError when it does not."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that"
        await asyncio.sleep(0.02)


Play = Callable[[World], Awaitable[None]]


def play(server: ValkeyServer, work: Play, names: list[str] | None = None, **config: Any) -> None:
    """Run a test against a router that is up."""

    async def run() -> None:
        async with world(server, names, **config) as there:
            await work(there)

    asyncio.run(run())


@contextlib.asynccontextmanager
async def world(server: ValkeyServer, names: list[str] | None = None, **config: Any) -> AsyncIterator[World]:
    """A router that is up, with its providers."""
    providers = {name: MockProvider(name) for name in names or ["good", "fair"]}
    for provider in providers.values():
        await provider.start()
    async with aiohttp.ClientSession() as session:
        port = free_port()
        settings = merge(configuration(server, providers), merge(config, {"listen": {"port": port}}))
        router = Router(parse_config(settings))
        await router.start()
        await router._refresher.once()
        try:
            yield World(router, providers, server, session, f"http://127.0.0.1:{port}")
        finally:
            await router.stop()
            for provider in providers.values():
                await provider.stop()
