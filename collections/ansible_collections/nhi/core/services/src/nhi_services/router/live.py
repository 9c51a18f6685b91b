# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a running router consists of, and what a request keeps of it even if the configuration is reloaded meanwhile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Protocol

from ansible_collections.nhi.core.plugins.module_utils.api_costs import PriceTable
from ansible_collections.nhi.core.plugins.module_utils.redis_keys import cooldown_key, quota_limits_key
from prometheus_client.registry import Collector
from redis.asyncio import Redis

from nhi_services.router.config import AgentConfig, RouterConfig
from nhi_services.router.deferred import DeferredStore
from nhi_services.router.picture import Picture
from nhi_services.router.quota_store import QuotaStore
from nhi_services.router.spending import Spending
from nhi_services.router.trail import Trail
from nhi_services.router.upstream import Provider, Upstream
from nhi_services.router.waiting import WaitRoom

LOG: Final = logging.getLogger("nhi.router")
# How long requests that are over are gathered before books are kept of them: many in a row cost a third of each alone.
_TOGETHER_SECONDS: Final = 0.02


class Recorder(Protocol):
    """Is told of each request when it is over; never waits, never fails."""

    def record(self, trail: Trail, setup: Setup) -> None:
        """Take it down."""


@dataclass(frozen=True)
class Setup:
    """One configuration and what was made of it; a reload makes another."""

    config: RouterConfig
    picture: Picture
    providers: Mapping[str, Provider]
    agents: Mapping[str, AgentConfig]

    @cached_property
    def prices(self) -> PriceTable:
        """The price of each model."""
        return self.config.prices()

    @cached_property
    def queued(self) -> frozenset[str]:
        """Models of GPUs that have a queue."""
        providers = self.config.providers.values()
        return frozenset(name for provider in providers if provider.queue for name in provider.models)

    @classmethod
    def of(cls, config: RouterConfig, before: Setup | None = None) -> Setup:
        """Read everything that the configuration names; ConfigError leaves the old one at work."""
        providers = {name: Provider.load(name, provider) for name, provider in config.providers.items()}
        picture = Picture(config)
        if before is not None:
            picture.adopt(before.picture)
        return cls(config, picture, providers, {agent.key_sha256: agent for agent in config.agents})


@dataclass
class Live:
    """The running router."""

    setup: Setup
    redis: Redis
    store: QuotaStore
    upstream: Upstream
    recorders: list[Recorder] = field(default_factory=list)
    purse: Spending | None = None
    # None where no PostgreSQL is configured.
    deferred: DeferredStore | None = None
    collectors: list[Collector] = field(default_factory=list)
    room: WaitRoom = field(default_factory=WaitRoom)
    # What others add to the status, by name.
    told: dict[str, Callable[[], Any]] = field(default_factory=dict)
    in_flight: int = 0
    draining: bool = False
    _over: list[tuple[Trail, Setup]] = field(default_factory=list)

    def finish(self, trail: Trail, setup: Setup) -> None:
        """A request is over: whoever keeps books is told of it in a moment, with others."""
        trail.ended, trail.ended_at = time.monotonic(), time.time()
        self._over.append((trail, setup))
        if len(self._over) == 1:
            asyncio.get_running_loop().call_later(_TOGETHER_SECONDS, self.record)

    def record(self) -> None:
        """Have books kept of all requests that are over."""
        over, self._over = self._over, []
        for recorder in self.recorders:
            for trail, setup in over:
                try:
                    recorder.record(trail, setup)
                except Exception:
                    LOG.exception("a request was not recorded by %s", type(recorder).__name__)

    def pause(self, provider: str, model: str | None, reason: str, ms: int) -> None:
        """Let all routers know that a provider, or one of its models, is not to be asked for a while."""
        key = cooldown_key(provider, model)
        self.store.settler.put(lambda pipeline: pipeline.set(key, reason[:200], px=max(1, ms)))

    def learn(self, provider: str, limits: Mapping[str, int], model: str | None) -> None:
        """Let all routers know limits that the provider itself named."""
        fields: dict[Any, Any] = {f"{model or ''}|{name}": value for name, value in limits.items()}
        if fields:
            self.store.settler.put(lambda pipeline: pipeline.hset(quota_limits_key(provider), mapping=fields))
