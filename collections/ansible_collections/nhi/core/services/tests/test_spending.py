# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Budgets against a real Valkey: never exceeded by however many routers, nor while it is gone."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.api_costs import IN_TOTAL, PER_AGENT, BudgetRefusal, Budgets
from ansible_collections.nhi.core.plugins.module_utils.quota_book import Call
from ansible_collections.nhi.core.plugins.module_utils.spend_book import Taken
from nhi_services.router.quota_store import Settler
from nhi_services.router.redis_scripts import ScriptRunner, redis_client
from nhi_services.router.spending import Spending

from .valkey_server import ValkeyServer, valkey

DAY_MS = 86_400_000
# Tomorrow's, as keys of the past would be gone at once.
NOON_MS = (time.time_ns() // 1_000_000 // DAY_MS + 1) * DAY_MS + DAY_MS // 2
TOMORROW = datetime.fromtimestamp(NOON_MS / 1000, UTC).date()
KEY = f"api_spend:{TOMORROW}"
USD = 1_000_000


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with valkey() as running:
        yield running


class Clock:
    now_ms = NOON_MS

    def __call__(self) -> int:
        return self.now_ms


@asynccontextmanager
async def router(
    server: ValkeyServer, name: str = "one", *, clock: Clock | None = None, instances: int = 1,
    budgets: Budgets | None = None,
) -> AsyncIterator[Spending]:  # fmt: skip
    client = redis_client(server.url)
    settler = Settler(ScriptRunner(client))
    settler.start()
    spending = Spending(client, settler, clock or Clock(), name, instances)
    spending.budgets = budgets or Budgets(Decimal(5), {"aider": Decimal(1)})
    try:
        yield spending
    finally:
        await settler.close(2)
        await client.aclose()


def play(work: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await work()

    asyncio.run(run())


def counted(server: ValkeyServer) -> dict[str, int]:
    return {name.decode(): int(value) for name, value in server.client().hgetall(KEY).items()}  # type: ignore[union-attr]


async def taken(spending: Spending, agent: str, micro_usd: int) -> Taken:
    found = await spending.take(agent, micro_usd)
    assert isinstance(found, Taken)
    return found


async def refused(spending: Spending, agent: str, micro_usd: int) -> BudgetRefusal:
    found = await spending.take(agent, micro_usd)
    assert isinstance(found, BudgetRefusal)
    return found


def test_what_a_request_may_cost_is_taken_and_corrected(server: ValkeyServer) -> None:
    async def work() -> None:
        async with router(server) as spending:
            first = await taken(spending, "aider", 900_000)
            no = await refused(spending, "aider", 100_001)
            assert (no.reason, no.budget, no.spent) == (PER_AGENT, Decimal(1), Decimal("0.9"))
            assert f"{no.until:%Y-%m-%d %H:%M}" == f"{TOMORROW + timedelta(days=1)} 00:00"
            assert spending.today() == {"aider": 900_000, "*": 900_000}
            spending.settle(first, 250_000)
            await spending._settler.flush(2)
            second = await taken(spending, "aider", 750_000)
            spending.settle(second, 0)
            await spending._settler.flush(2)
            assert counted(server) == {"aider": 250_000, "*": 250_000}
            assert server.client().keys("api_spend_pending:*") == []
            assert server.client().pttl(KEY) > DAY_MS

    play(work)


def test_the_budget_of_all_holds_for_each(server: ValkeyServer) -> None:
    async def work() -> None:
        async with router(server) as spending:
            await taken(spending, "oi", 4_500_000)
            no = await refused(spending, "aider", 500_001)
            assert (no.reason, no.budget) == (IN_TOTAL, Decimal(5))

    play(work)


def test_eight_routers_at_once_never_exceed_a_budget_and_use_all_of_it(server: ValkeyServer) -> None:
    async def work() -> None:
        budgets = Budgets(Decimal(1), {"aider": Decimal("0.6")})
        most: list[int] = []

        async def one(number: int) -> int:
            random_ = random.Random(number)
            used = 0
            async with router(server, str(number), budgets=budgets) as spending:
                misses = 0
                while misses < 30:
                    found = await spending.take(random_.choice(["aider", "oi"]), 5_000)
                    if isinstance(found, BudgetRefusal):
                        misses += 1
                        # What others gave back is on its way.
                        await asyncio.sleep(0.01)
                        continue
                    if random_.random() < 0.3:
                        await asyncio.sleep(0)
                    cost = random_.choice([0, 1_000, 2_500, 5_000])
                    used += cost
                    spending.settle(found, cost)
                    if random_.random() < 0.1:
                        now = await spending._client.hmget(KEY, "aider", "*")
                        most.append(int(now[1] or 0))
                        assert int(now[0] or 0) <= 600_000
            return used

        used = sum(await asyncio.gather(*(one(number) for number in range(8))))
        assert max(most) <= USD
        assert counted(server)["*"] == used, "what was not used was given back"
        assert USD - 5_000 < used <= USD

    play(work)


def test_settling_twice_or_after_midnight_counts_once_and_for_its_own_day(server: ValkeyServer) -> None:
    async def work() -> None:
        clock = Clock()
        async with router(server, clock=clock) as spending:
            first = await taken(spending, "aider", 900_000)
            clock.now_ms += DAY_MS
            spending.settle(first, 400_000)
            spending.settle(first, 400_000)
            assert spending.today() == {}, "a new day has a new budget"
            await taken(spending, "aider", USD)
            await spending._settler.flush(2)
        assert counted(server) == {"aider": 400_000, "*": 400_000}

    play(work)


def test_an_answer_that_was_lost_takes_nothing(server: ValkeyServer) -> None:
    async def work() -> None:
        async with router(server) as spending:
            run = spending._runner.run

            async def lose(call: Call, undo: Any = None) -> Any:
                await run(call)
                raise ConnectionResetError

            await spending.refresh()
            spending._runner.run = lose  # type: ignore[method-assign]
            apart = await taken(spending, "aider", 300_000)
            spending._runner.run = run  # type: ignore[method-assign]
            spending.settle(apart, 200_000)
            await spending._settler.flush(2)
            assert counted(server) == {"aider": 200_000, "*": 200_000}

    play(work)


def test_while_redis_is_gone_each_router_has_its_share_and_all_is_counted_afterwards(server: ValkeyServer) -> None:
    async def work() -> None:
        async with router(server, "a", instances=2) as one, router(server, "b", instances=2) as two:
            await taken(one, "aider", 200_000)
            await one.refresh()
            await two.refresh()
            server.kill()
            held = []
            for spending in (one, two):
                while isinstance(found := await spending.take("aider", 90_000), Taken):
                    held.append((spending, found))
                assert spending.is_lost
            assert len(held) == 8, "four times 90,000 of 400,000, twice"
            for spending, found in held[:-1]:
                spending.settle(found, 70_000)
            server.start()
            await asyncio.gather(one._settler.flush(5), two._settler.flush(5))
            assert counted(server)["aider"] == 200_000 + 7 * 70_000
            # The last one is still under way, and its router does not forget that.
            await two.refresh()
            assert two.today() == {"aider": 780_000, "*": 780_000}
            assert isinstance(await two.take("aider", 220_001), BudgetRefusal)
            await taken(two, "aider", 220_000)
            two.settle(held[-1][1], 10_000)
            await two._settler.flush(2)
            assert counted(server)["aider"] == 200_000 + 7 * 70_000 + 220_000 + 10_000
            await two.refresh()
            assert two.today()["aider"] == 920_000

    play(work)


def test_a_router_that_starts_without_redis_spends_nothing_of_a_budget(server: ValkeyServer) -> None:
    async def work() -> None:
        clock = Clock()
        async with router(server, clock=clock) as spending:
            server.kill()
            assert (await refused(spending, "aider", 1)).reason == PER_AGENT
            await taken(spending, "aider", 0)
            clock.now_ms += DAY_MS
            await taken(spending, "aider", USD)
            await refused(spending, "aider", 1)
        server.start()

    play(work)


def test_who_has_no_budget_is_counted_all_the_same(server: ValkeyServer) -> None:
    async def work() -> None:
        async with router(server, budgets=Budgets(None, {"aider": Decimal(1)})) as spending:
            for _one in range(3):
                spending.settle(await taken(spending, "oi", 9_000_000), 7_000_000)
            spending.settle(await taken(spending, "aider", 0), 0)
            await spending._settler.flush(2)
            await spending.refresh()
            assert counted(server) == {"oi": 21_000_000, "*": 21_000_000}
            assert spending.today() == counted(server)

    play(work)
