# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Budgets from a client's side: nothing is sent that has no room in them, and what is free goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .mock_provider import status
from .router_world import KEY, Play, World, digest, merge, world
from .valkey_server import ValkeyServer

# An answer of the mock provider has 10 and 5 tokens: 0.15 USD.
PRICE = {"input": 10_000, "output": 10_000}


def play_dear(server: ValkeyServer, work: Play, providers: dict[str, Any] | None = None, **config: Any) -> None:
    """With a good model that costs something, and a fair one that is free."""

    async def run() -> None:
        dear = merge({"good": {"models": {"good-model": {"price": PRICE}}}}, providers or {})
        async with world(server, providers=dear, **config) as there:
            await work(there)

    asyncio.run(run())


def agent(**more: Any) -> list[dict[str, Any]]:
    return [{"name": "aider", "key_sha256": digest(KEY), "task": "code", **more}]


async def spent(world: World) -> dict[str, Any]:
    await world.router.live.store.settler.flush(5)
    purse = world.router.live.purse
    assert purse
    await purse.refresh()
    return purse.as_data()


def test_a_budget_is_never_exceeded_by_requests_at_once_and_what_is_free_answers_instead(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        answers = await asyncio.gather(*(world.chat(max_tokens=5) for _one in range(30)))
        assert {code for code, _body, _headers in answers} == {200}
        for _one in range(8):
            await world.router.live.store.settler.flush(5)
            answers.append(await world.chat(max_tokens=5))
        dear = len(world.providers["good"].seen)
        assert 3 <= dear <= 6
        assert await spent(world) == {
            "usd": pytest.approx(dear * 0.15), "budget": None,
            "agents": {"aider": {"usd": pytest.approx(dear * 0.15), "budget": 1.0}},
        }  # fmt: skip
        metrics = await world.session.get(world.url + "/metrics")
        lines = (await metrics.text()).splitlines()
        assert f'api_spent_today_usd{{agent="aider"}} {round(dear * 0.15, 2)}' in lines
        assert 'api_budget_usd{agent="aider"} 1.0' in lines
        [cost] = [one for one in lines if one.startswith("api_cost_usd_total{")]
        assert 'agent="aider",model="good-model",provider="good"' in cost
        assert float(cost.split()[-1]) == pytest.approx(dear * 0.15)
        assert "router_books_dropped_total 0.0" in lines
        last = answers[-1][2]
        assert last["X-NHI-Model"] == "fair-model"
        assert "the daily budget has no room for it" in last["X-NHI-Degraded"]

    play_dear(server, work, agents=agent(daily_budget_usd=1.0))


def test_where_nothing_is_free_the_client_is_told_until_when(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        code, body, headers = await world.chat("good-model", max_tokens=5)
        assert code == 429
        assert body["error"]["code"] == "budget_exceeded"
        assert "the daily budget of all agents is $0.10" in body["error"]["message"]
        assert 0 < int(headers["Retry-After"]) <= 86_400
        assert world.providers["good"].seen == []
        assert (await spent(world))["usd"] == 0

    play_dear(server, work, budget={"daily_usd": 0.1})


def test_what_a_provider_refused_or_never_got_is_given_back(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        world.providers["good"].faults.extend([status(503), status(429)])
        for _one in range(2):
            assert (await world.chat(max_tokens=5))[0] == 200
        assert (await spent(world))["usd"] < 0.5, "only what may have been counted"

    play_dear(server, work, agents=agent(daily_budget_usd=5.0))


def test_what_was_taken_for_a_model_without_quota_is_given_back(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        answers = await asyncio.gather(*(world.chat("good-model", max_tokens=5) for _one in range(6)))
        assert sorted(code for code, _body, _headers in answers) == [200, 503, 503, 503, 503, 503]
        assert (await spent(world))["usd"] == pytest.approx(0.15)

    limits = {"good": {"limits": {"requests_per_minute": 1}}}
    play_dear(server, work, limits, agents=agent(daily_budget_usd=50.0))


def test_who_has_no_budget_is_counted(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        await asyncio.gather(*(world.chat(max_tokens=5) for _one in range(3)))
        assert await spent(world) == {
            "usd": pytest.approx(0.45), "budget": None,
            "agents": {"aider": {"usd": pytest.approx(0.45), "budget": None}},
        }  # fmt: skip

    play_dear(server, work)
