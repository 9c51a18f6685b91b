# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A day on which a provider is used too fast, as the router's samples tell it: it is spared before it runs out."""

from __future__ import annotations

import time
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.quota import day_at
from ansible_collections.nhi.core.plugins.module_utils.quota_desk import Quota
from ansible_collections.nhi.core.plugins.module_utils.redis_keys import (
    PREFERRED_PROVIDER,
    quota_samples_key,
)

from .router_world import World, play
from .valkey_server import ValkeyServer

HOUR_MS, STEP_MS = 3_600_000, 300_000
LIMIT = 1000


def zone_where_it_is_noon() -> str:
    """So that half of a day lies behind, and half before, whenever the test runs."""
    ahead = 12 - time.gmtime().tm_hour
    # Etc/GMT-5 is five hours ahead of UTC.
    return f"Etc/GMT{-ahead:+d}" if ahead else "UTC"


async def live_through(world: World, zone: str, per_hour: float) -> None:
    """A morning at that rate of the better provider, as it stands in Redis then; the other one has 30 an hour."""
    client, now = world.server.client(), int(time.time() * 1000)
    start = day_at(zone, now).start_ms
    for provider, rate in (("good", per_hour), ("fair", 30)):
        # The router takes a sample every five minutes.
        samples: dict[Any, Any] = {str(at): round((at - start) / HOUR_MS * rate) for at in range(start, now, STEP_MS)}
        client.delete(quota_samples_key(provider))
        client.hset(quota_samples_key(provider), mapping=samples)
        quota = Quota(client, provider)
        quota.set_used(quota.terms(), round((now - start) / HOUR_MS * rate), None)
    await world.router._refresher.once()


async def order(world: World) -> list[str]:
    async with world.session.get(f"{world.url}/v1/nhi/route?task=code", headers=world.headers) as answer:
        return list((await answer.json())["attempts"])


async def metric(world: World, begin: str) -> list[str]:
    async with world.session.get(f"{world.url}/metrics") as answer:
        return [line for line in (await answer.text()).splitlines() if line.startswith(begin)]


def test_a_provider_that_will_run_out_early_is_spared_until_it_lasts(server: ValkeyServer) -> None:
    zone = zone_where_it_is_noon()
    limits = {"requests_per_day": LIMIT}
    config: Any = {name: {"reset_zone": zone, "limits": limits} for name in ("good", "fair")}

    async def work(world: World) -> None:
        picture, client = world.router.live.setup.picture, server.client()
        # At 30 an hour 720 will be used at midnight: all is well.
        await live_through(world, zone, 30)
        assert not picture.projections["good"].is_short
        assert await order(world) == ["good-model", "fair-model"]
        assert client.get(PREFERRED_PROVIDER) is None
        # At 60 an hour nothing is left after about 16:40.
        await live_through(world, zone, 60)
        projection = picture.projections["good"]
        assert 50 < projection.per_hour < 70
        assert projection.exhausted_at_ms is not None
        assert 2 * HOUR_MS < projection.exhausted_at_ms - time.time() * 1000 < 6 * HOUR_MS
        assert await order(world) == ["fair-model", "good-model"], "the weight shifts"
        assert client.get(PREFERRED_PROVIDER) == b"fair"
        assert 14_000 < client.ttl(PREFERRED_PROVIDER) <= 14_400
        _code, _body, headers = await world.chat()
        assert headers["X-NHI-Model"] == "fair-model"
        async with world.session.get(f"{world.url}/v1/nhi/status", headers=world.headers) as answer:
            told = await answer.json()
        assert told["preferred_provider"] == "fair"
        assert told["providers"]["good"]["projection"]["exhausted_at_ms"] == projection.exhausted_at_ms
        assert told["providers"]["fair"]["projection"]["exhausted_at_ms"] is None
        [ends] = await metric(world, "api_quota_exhausted_timestamp_seconds")
        assert 'provider="good"' in ends
        assert float(ends.split()[-1]) == pytest.approx(projection.exhausted_at_ms / 1000)
        # Spared through the afternoon it lasts again; the preference ends by itself.
        await live_through(world, zone, 30)
        client.delete(PREFERRED_PROVIDER)
        await world.router._refresher.once()
        assert await order(world) == ["good-model", "fair-model"]
        assert await metric(world, "api_quota_exhausted_timestamp_seconds{") == []

    play(server, work, providers=config)
