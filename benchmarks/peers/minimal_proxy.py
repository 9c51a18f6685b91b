# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The least that a Python proxy with a quota can do: uvicorn, one Lua call to Redis, aiohttp; nothing is checked.

Its libraries work as they do by default; LIMITS=no takes away redis-py's time limit, which costs much.

Reads UPSTREAM (a URL) and REDIS (a URL). Run by `uvicorn --app-dir benchmarks/peers minimal_proxy:app`.
"""

from __future__ import annotations

import os
from typing import Any

import aiohttp
from redis.asyncio import Redis

COUNT = """local used = redis.call('INCR', KEYS[1])
if used == 1 then redis.call('EXPIRE', KEYS[1], 86400) end
if used > tonumber(ARGV[1]) then return 0 end
return 1"""


class Proxy:
    """One ASGI application."""

    def __init__(self) -> None:
        limits: dict[str, Any] = {} if os.environ.get("LIMITS", "yes") == "yes" else {"socket_timeout": None}
        self._redis = Redis.from_url(os.environ["REDIS"], **limits)
        self._session: aiohttp.ClientSession | None = None
        self._digest = ""

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._digest = await self._redis.script_load(COUNT)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._session.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        assert self._session is not None  # noqa: S101 -- since the start
        admitted: Any = await self._redis.evalsha(self._digest, 1, "minimal:used", 1_000_000_000)
        if not admitted:
            await send({"type": "http.response.start", "status": 429, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        headers = {"Content-Type": "application/json"}
        async with self._session.post(os.environ["UPSTREAM"] + scope["path"], data=body, headers=headers) as answer:
            kind = answer.headers.get("Content-Type", "").encode()
            start = {"type": "http.response.start", "status": answer.status, "headers": [(b"content-type", kind)]}
            if answer.content_type == "text/event-stream":
                await send(start)
                async for part in answer.content.iter_any():
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
                return
            whole = await answer.read()
            start["headers"].append((b"content-length", str(len(whole)).encode()))  # type: ignore[attr-defined]
            await send(start)
            await send({"type": "http.response.body", "body": whole})


app = Proxy()
