# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Four routers, one provider with a limit: it is never exceeded, whoever is killed, and used up where nobody is.

`NHI_ROUTER_REQUESTS` is the number of requests to each router (10000 for the whole trial).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from .mock_provider import MockProvider
from .router_process import RouterProcess
from .router_world import CHAT, KEY, configuration
from .valkey_server import ValkeyServer, valkey

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROUTERS = 4
REQUESTS = int(os.environ.get("NHI_ROUTER_REQUESTS", "200"))
AT_ONCE = 16


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with valkey() as running:
        yield running


class Counting(MockProvider):
    """Counts, and keeps nothing else."""

    def __init__(self, limit: int) -> None:
        super().__init__("good")
        self.count, self.limit, self.third = 0, limit, asyncio.Event()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.count += 1
        if self.count >= self.limit // 3:
            self.third.set()
        return web.json_response(self.whole(request, body))


class Trial:
    """Routers under load, and what came back."""

    def __init__(self, server: ValkeyServer, home: Path, limit: int) -> None:
        self.limit = limit
        self.provider = Counting(limit)
        self.server = server
        self.home = home
        self.routers: list[RouterProcess] = []
        self.codes: Counter[int] = Counter()

    async def start(self) -> None:
        await self.provider.start()
        config = configuration(self.server, {"good": self.provider}, instances=ROUTERS)
        # Midnight is far away there.
        zone = "Etc/GMT+6" if time.gmtime().tm_hour in (23, 0) else "UTC"
        config["providers"]["good"].update(
            limits={"requests_per_day": self.limit}, reset_zone=zone,
            timeouts={"connect": 10, "first_byte": 20, "idle": 20, "total": 30},
        )  # fmt: skip
        self.routers = [RouterProcess(self.home / f"router{n}", config) for n in range(ROUTERS)]
        await asyncio.gather(*(asyncio.to_thread(router.start) for router in self.routers))

    async def stop(self) -> None:
        for router in self.routers:
            await asyncio.to_thread(router.end, signal.SIGKILL)
        await self.provider.stop()

    async def ask(self, session: aiohttp.ClientSession, router: RouterProcess) -> None:
        """One request; a router that was killed is no answer."""
        body, headers = {"model": "nhi/code", **CHAT}, {"Authorization": f"Bearer {KEY}"}
        try:
            async with session.post(router.url + "/v1/chat/completions", json=body, headers=headers) as answer:
                await answer.read()
                self.codes[answer.status] += 1
        except aiohttp.ClientError:
            self.codes[0] += 1

    async def load(self, number: int) -> None:
        """So many requests to each router."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def one(router: RouterProcess, share: int) -> None:
                for _one in range(share):
                    await self.ask(session, router)

            await asyncio.gather(*(one(r, number // AT_ONCE + 1) for r in self.routers for _one in range(AT_ONCE)))

    async def use_up(self, seconds: float = 20.0) -> None:
        """Until the last request of the day is used, which routers keep aside for a second or two."""
        deadline = time.monotonic() + seconds
        while self.provider.count < self.limit and time.monotonic() < deadline:
            await self.load(1)
            await asyncio.sleep(0.5)

    def check(self, allowed: set[int]) -> None:
        assert self.provider.count <= self.limit
        assert set(self.codes) <= allowed, self.codes
        assert self.codes[200] <= self.provider.count


def trial(server: ValkeyServer, home: Path, work: Any) -> None:
    async def run() -> None:
        # Half of what is asked for.
        there = Trial(server, home, REQUESTS * ROUTERS // 2)
        try:
            await there.start()
            began = time.monotonic()
            await work(there)
            print(f"{time.monotonic() - began:.1f} s, limit {there.limit}, sent {there.provider.count}, {there.codes}")
        finally:
            await there.stop()

    asyncio.run(run())


def test_the_limit_is_used_up_and_not_exceeded(server: ValkeyServer, tmp_path: Path) -> None:
    async def work(there: Trial) -> None:
        await there.load(REQUESTS)
        await there.use_up()
        there.check({200, 503})
        assert there.provider.count == there.limit == there.codes[200]

    trial(server, tmp_path, work)


def test_a_router_that_is_killed_lets_nobody_send_more(server: ValkeyServer, tmp_path: Path) -> None:
    async def work(there: Trial) -> None:
        loading = asyncio.create_task(there.load(REQUESTS))
        await there.provider.third.wait()
        await asyncio.to_thread(there.routers[0].end, signal.SIGKILL)
        await loading
        await asyncio.to_thread(there.routers[0].start)
        await there.use_up(2)
        there.check({0, 200, 503})
        # What the killed one had set aside or under way counts as used.
        assert there.provider.count >= there.limit - 20 - AT_ONCE

    trial(server, tmp_path, work)


def test_a_redis_that_is_killed_lets_nobody_send_more(server: ValkeyServer, tmp_path: Path) -> None:
    async def work(there: Trial) -> None:
        loading = asyncio.create_task(there.load(REQUESTS))
        await there.provider.third.wait()
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.start)
        await loading
        await there.use_up()
        there.check({200, 503})
        assert there.provider.count >= there.limit * 0.9

    trial(server, tmp_path, work)
