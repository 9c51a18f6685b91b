# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The router's door to quotas: nothing is lost and nothing counted twice when Redis goes and comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.quota import Limits
from ansible_collections.nhi.core.plugins.module_utils.quota_book import Call, Reservation, Scope, UsageCall, Wish
from nhi_services.router import quota_store
from nhi_services.router.quota_store import QuotaStore, wall_ms
from nhi_services.router.redis_scripts import redis_client

from .valkey_server import ValkeyServer, valkey

DAILY = Scope("claude", "sonnet", "UTC", Limits(requests_per_day=1000))
UNLIMITED = Scope("gpu", "local")
Work = Callable[[QuotaStore, ValkeyServer], Awaitable[None]]


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with valkey() as running:
        yield running


def play(server: ValkeyServer, work: Work, instances: int = 1) -> None:
    async def run() -> None:
        client = redis_client(server.url)
        store = QuotaStore(client, "one", instances)
        store.settler.start()
        try:
            await work(store, server)
        finally:
            await store.settler.close(0)
            await client.aclose()

    asyncio.run(run())


async def settled(store: QuotaStore) -> None:
    await store.settler.flush(10)
    assert store.settler.backlog == 0


async def used(store: QuotaStore, provider: str = "claude", model: str = "sonnet") -> tuple[int, int]:
    call = UsageCall(provider, [model], "UTC", wall_ms())
    usage, _models = call.usages(await store.runner.run(call.call))
    return usage.requests_today, usage.tokens_today


def test_a_request_is_counted_before_and_corrected_behind_it(server: ValkeyServer) -> None:
    async def work(store: QuotaStore, _server: ValkeyServer) -> None:
        verdicts = [await store.reserve([Wish(DAILY, 100)]) for _number in range(3)]
        first, second, third = (one.reservation for one in verdicts)
        assert first
        assert second
        assert third
        assert await used(store) == (3, 300)
        store.started(first)
        store.settle(first, 40, time.monotonic())
        store.refund(second)
        await settled(store)
        assert await used(store) == (2, 140)
        assert await store.runner._client.hlen(store.book) == 1

    play(server, work)


def test_while_redis_is_gone_only_what_was_set_aside_is_used_and_it_is_counted_once(server: ValkeyServer) -> None:
    async def work(store: QuotaStore, server: ValkeyServer) -> None:
        await store.set_aside(DAILY, 3)
        before = await store.reserve([Wish(DAILY, 100)])
        assert before.reservation
        assert await used(store) == (4, 3 * 4000 + 100)
        server.kill()
        taken: list[Reservation] = []
        for _number in range(5):
            verdict = await store.reserve([Wish(DAILY, 100)])
            taken += [verdict.reservation] if verdict.reservation else []
        assert (store.is_lost, len(taken)) == (True, 3)
        assert [r.reason for r in verdict.refusals] == ["redis_lost"]
        store.settle(before.reservation, 10, time.monotonic())
        for one in taken:
            store.settle(one, 10, time.monotonic())
        server.start()
        assert (await store.reserve([Wish(DAILY, 7)])).reservation
        await settled(store)
        assert (store.is_lost, await used(store)) == (False, (5, 4 * 10 + 7))

    play(server, work)


def test_what_has_no_limit_is_asked_without_redis(server: ValkeyServer) -> None:
    async def work(store: QuotaStore, server: ValkeyServer) -> None:
        server.kill()
        verdict = await store.reserve([Wish(DAILY, 1), Wish(UNLIMITED, 1)])
        assert verdict.reservation
        assert verdict.reservation.scope.model == "local"
        store.settle(verdict.reservation, 5, None)
        store.refund(verdict.reservation)
        server.start()
        await store.reserve([Wish(UNLIMITED, 1)])
        await settled(store)
        assert await used(store, "gpu", "local") == (1, 1)

    play(server, work)


def test_a_limit_by_the_minute_waits_a_minute_and_then_has_its_share(server: ValkeyServer) -> None:
    by_minute = Scope("claude", "sonnet", "UTC", Limits(requests_per_day=1000, requests_per_minute=10))

    async def work(store: QuotaStore, server: ValkeyServer) -> None:
        await store.set_aside(by_minute, 9)
        server.kill()
        refused = await store.reserve([Wish(by_minute, 1)])
        assert refused.reservation is None
        assert 59_000 < refused.refusals[0].retry_ms <= 60_000
        store.grants.lost_since_ms = store.now_ms - 60_001
        taken = [(await store.reserve([Wish(by_minute, 1)])).reservation for _number in range(7)]
        assert sum(one is not None for one in taken) == 5, "half of ten, as there are two routers"

    play(server, work, instances=2)


def test_what_is_settled_late_counts_for_the_moment_of_its_answer(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_minute = Scope("claude", "sonnet", "UTC", Limits(requests_per_minute=10))
    [window, _of_model] = by_minute.windows()

    async def work(store: QuotaStore, server: ValkeyServer) -> None:
        reservation = (await store.reserve([Wish(by_minute, 1)])).reservation
        assert reservation
        server.kill()
        store.settle(reservation, 1, time.monotonic())
        later = SimpleNamespace(monotonic=lambda: time.monotonic() + 20, time_ns=time.time_ns)
        monkeypatch.setattr(quota_store, "time", later)
        server.start()
        await settled(store)
        answered_ago = wall_ms() - (await store.runner._client.zscore(window, reservation.id) or 0)
        assert 20_000 <= answered_ago < 30_000

    play(server, work)


def test_an_answer_that_was_lost_is_given_back(server: ValkeyServer) -> None:
    async def work(store: QuotaStore, _server: ValkeyServer) -> None:
        await store.reserve([Wish(DAILY, 1)])
        run = store.runner.run

        async def lose(call: Call, undo: Any = None) -> Any:
            await run(call)
            raise ConnectionResetError

        store.runner.run = lose  # type: ignore[method-assign]
        full = Scope("other", "m", "UTC", Limits(requests_per_day=0))
        verdict = await store.reserve([Wish(full, 1), Wish(DAILY, 50)])
        assert verdict.reservation is None
        store.runner.run = run  # type: ignore[method-assign]
        await settled(store)
        assert await used(store) == (1, 1)

    play(server, work)


def test_what_was_set_aside_is_given_back_when_less_is_wanted(server: ValkeyServer) -> None:
    async def work(store: QuotaStore, _server: ValkeyServer) -> None:
        await store.set_aside(DAILY, 8)
        await store.set_aside(DAILY, 2)
        await settled(store)
        assert await used(store) == (2, 8000)
        await store.set_aside(DAILY, 0)
        await settled(store)
        assert await used(store) == (0, 0)

    play(server, work)
