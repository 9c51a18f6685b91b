# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a router does beside its requests: once a second it learns what others know, and keeps something aside."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any, Final

from ansible_collections.nhi.core.plugins.module_utils import redis_keys
from ansible_collections.nhi.core.plugins.module_utils.quota import day_at, emergency_share
from ansible_collections.nhi.core.plugins.module_utils.quota_book import UsageCall, learned_limits, set_aside_by_model
from ansible_collections.nhi.core.plugins.module_utils.quota_desk import Terms, published
from ansible_collections.nhi.core.plugins.module_utils.quota_projection import (
    LOOK_BACK_MS,
    Projection,
    Sample,
    preferred_provider,
    project,
)
from redis.exceptions import RedisError

from nhi_services.router.live import Live
from nhi_services.router.redis_scripts import PATIENCE_SECONDS
from nhi_services.router.tasks import end_task

LOG: Final = logging.getLogger("nhi.router.refresh")
EVERY_SECONDS: Final = 1.0
SAMPLE_EVERY_MS: Final = 300_000
PUBLISH_SECONDS: Final = 60.0
PREFERRED_SECONDS: Final = 14_400
HEARTBEAT_MEMORY_MS: Final = 30_000
ASIDE_MEMORY_MS: Final = 60_000


class Refresher:
    """Keeps the picture of a running router true."""

    def __init__(self, live: Live, instance: str) -> None:
        self._live = live
        self._instance = instance
        self._task: asyncio.Task[None] | None = None
        self._at_work = asyncio.Lock()
        self._published = 0
        self._published_at = 0.0

    def start(self) -> None:
        """Begin, in the running loop."""
        self._task = asyncio.create_task(self._work(), name="refresher")

    async def stop(self) -> None:
        """Give back what was set aside, and end."""
        await end_task(self._task)
        for state in self._live.setup.picture.states.values():
            with contextlib.suppress(RedisError, OSError):
                await self._live.store.set_aside(state.scope, 0)
        with contextlib.suppress(RedisError, OSError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                for provider in self._live.setup.config.providers:
                    await self._set_aside(provider)

    async def _work(self) -> None:
        while True:
            began = time.monotonic()
            try:
                async with asyncio.timeout(5):
                    await self.once()
            except (RedisError, OSError, TimeoutError) as error:
                LOG.debug("nothing new from redis: %s", type(error).__name__)
            except Exception:
                LOG.exception("the picture could not be brought up to date")
            await asyncio.sleep(max(0.05, EVERY_SECONDS - (time.monotonic() - began)))

    async def once(self) -> None:
        """One round; RedisError when there is no answer."""
        async with self._at_work:
            await self._round()

    async def _round(self) -> None:
        live, store = self._live, self._live.store
        picture, client, now = live.setup.picture, live.redis, store.now_ms
        await self._publish()
        for provider, config in live.setup.config.providers.items():
            learned: Any = await client.hgetall(redis_keys.quota_limits_key(provider))
            picture.learn(provider, learned_limits(learned))
            call = UsageCall(provider, list(config.models), config.reset_zone, now)
            usage, models = call.usages(await store.runner.run(call.call))
            picture.provider_usage[provider] = usage
            for name, of_model in models.items():
                picture.states[name].usage = of_model
            await self._set_aside(provider)
            await self._cooldowns(provider, list(config.models))
            await self._project(provider, now)
        preferred: Any = await client.get(redis_keys.PREFERRED_PROVIDER)
        picture.preferred = preferred.decode() if preferred else None
        picture.gpu_light = await self._gpu_light()
        if live.purse is not None:
            await live.purse.refresh()
        await self._prefer()
        await self._keep_aside(now)

    async def _publish(self) -> None:
        """Let modules and scans know the providers with what the configuration says of them, now and then."""
        setup = self._live.setup
        if self._published == id(setup) and time.monotonic() - self._published_at < PUBLISH_SECONDS:
            return
        for provider, config in setup.config.providers.items():
            limits = {name: model.limits.limits() for name, model in config.models.items()}
            terms = published(Terms(config.reset_zone, {"": config.limits.limits(), **limits}))
            key = redis_keys.quota_terms_key(provider)
            pipeline: Any = self._live.redis.pipeline(transaction=True)
            await pipeline.delete(key).hset(key, mapping=terms).sadd(redis_keys.PROVIDERS, provider).execute()
        self._published, self._published_at = id(setup), time.monotonic()

    async def _set_aside(self, provider: str) -> None:
        """Let others know what this router keeps, and learn what all of them do; what a lost one kept is used up."""
        live, key = self._live, redis_keys.quota_aside_key(provider)
        kept = {name: live.store.grants.held(name) for name in live.setup.config.providers[provider].models}
        pipeline: Any = live.redis.pipeline(transaction=False)
        pipeline.hset(key, mapping={f"{self._instance}|{name}": held for name, held in kept.items()})
        pipeline.pexpire(key, ASIDE_MEMORY_MS)
        pipeline.hgetall(key)
        pipeline.zrange(redis_keys.ROUTER_INSTANCES, 0, -1)
        *_done, told, instances = await pipeline.execute()
        there = {self._instance.encode(), *instances}
        lost = [name for name in told if name.rpartition(b"|")[0] not in there]
        if lost:
            await live.redis.hdel(key, *lost)
        by_model = set_aside_by_model({name: value for name, value in told.items() if name not in lost})
        live.setup.picture.set_aside.update({name: by_model.get(name, 0) for name in kept})

    async def _cooldowns(self, provider: str, models: list[str]) -> None:
        """Pauses that other routers were asked for."""
        picture, client = self._live.setup.picture, self._live.redis
        keys = [redis_keys.cooldown_key(provider), *(redis_keys.cooldown_key(provider, name) for name in models)]
        rests = [int(await client.pttl(key)) for key in keys]
        for name, rest in zip(models, rests[1:], strict=True):
            if max(rest, rests[0]) > 0:
                picture.states[name].close("its provider asked for a pause", max(rest, rests[0]) / 1000)

    async def _project(self, provider: str, now: int) -> None:
        """Take a sample of what was used now and then, and say how long the rest lasts."""
        live, config = self._live, self._live.setup.config.providers[provider]
        day = day_at(config.reset_zone, now)
        used = live.setup.picture.really_used(provider).requests_today
        key = redis_keys.quota_samples_key(provider)
        slot = now // SAMPLE_EVERY_MS * SAMPLE_EVERY_MS
        await live.redis.hsetnx(key, str(slot), used)
        await live.redis.pexpire(key, LOOK_BACK_MS * 2)
        raw: Any = await live.redis.hgetall(key)
        samples = [Sample(int(at), int(count)) for at, count in raw.items()]
        old = [str(one.at_ms) for one in samples if one.at_ms < now - LOOK_BACK_MS - SAMPLE_EVERY_MS]
        if old:
            await live.redis.hdel(key, *old)
        limit = self._daily_limit(provider)
        if limit is not None:
            projection = project(samples, used, limit, now, day.end_ms, day.start_ms)
            live.setup.picture.projections[provider] = projection

    def _daily_limit(self, provider: str) -> int | None:
        picture = self._live.setup.picture
        config = self._live.setup.config.providers[provider]
        return next((picture.states[name].scope.provider_limits.requests_per_day for name in config.models), None)

    async def _prefer(self) -> None:
        """Spare a provider that will run out early: another is preferred for the next hours."""
        picture = self._live.setup.picture
        qualities: dict[str, float] = {}
        for state in picture.states.values():
            if state.model.kind == "cloud":
                provider = state.model.provider
                qualities[provider] = max(qualities.get(provider, 0.0), state.model.quality)
        projections: dict[str, Projection] = {k: v for k, v in picture.projections.items() if k in qualities}
        wanted = preferred_provider(projections, qualities)
        if wanted and wanted != picture.preferred:
            set_it = await self._live.redis.set(redis_keys.PREFERRED_PROVIDER, wanted, ex=PREFERRED_SECONDS, nx=True)
            if set_it:
                short = ", ".join(name for name, projection in projections.items() if projection.is_short)
                LOG.warning("%s is preferred for the next hours, since %s will run out before the reset", wanted, short)
                picture.preferred = wanted

    async def _gpu_light(self) -> str | None:
        """The GPU's light; None, which is RED, without a fresh heartbeat of its monitor."""
        light: Any
        light, heartbeat = await self._live.redis.mget(redis_keys.GPU_SEMAPHORE, redis_keys.GPU_HEARTBEAT)
        if not light or not heartbeat:
            return None
        text: str = light.decode().upper()
        return text if text in ("GREEN", "YELLOW", "RED") else None

    async def _keep_aside(self, now: int) -> None:
        """A few requests of each model, for the time that Redis is lost."""
        live = self._live
        await live.redis.zadd(redis_keys.ROUTER_INSTANCES, {self._instance: now})
        await live.redis.zremrangebyscore(redis_keys.ROUTER_INSTANCES, "-inf", now - HEARTBEAT_MEMORY_MS)
        there = max(live.setup.config.instances, int(await live.redis.zcard(redis_keys.ROUTER_INSTANCES)))
        live.store.grants.instances = there
        for state in live.setup.picture.states.values():
            scope = state.scope
            pairs = (
                (scope.provider_limits.requests_per_day, live.setup.picture.provider_usage[scope.provider]),
                (scope.model_limits.requests_per_day, state.usage),
            )
            limited = [(limit, usage.requests_today) for limit, usage in pairs if limit is not None]
            if limited:
                models = len(live.setup.config.providers[scope.provider].models)
                wanted = min(emergency_share(limit, used, there * models) for limit, used in limited)
                await live.store.set_aside(scope, wanted)
