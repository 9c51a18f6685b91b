# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A provider that streams: the first token after 50 ms, 25 tokens at 20 ms. Its port is the argument."""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop
from aiohttp import web

FIRST_SECONDS, BETWEEN_SECONDS, TOKENS = 0.05, 0.02, 25


def event(delta: dict[str, str], reason: str | None = None) -> bytes:
    """One chunk of the OpenAI form."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


async def answer(request: web.Request) -> web.StreamResponse:
    """A whole stream."""
    await request.read()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(event({"role": "assistant", "content": ""}))
    await asyncio.sleep(FIRST_SECONDS)
    for at in range(TOKENS):
        await response.write(event({"content": f"word{at} "}))
        await asyncio.sleep(BETWEEN_SECONDS)
    await response.write(event({}, "stop") + b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def main() -> None:
    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_post("/v1/chat/completions", answer)
    uvloop.install()
    web.run_app(application, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)


if __name__ == "__main__":
    main()
