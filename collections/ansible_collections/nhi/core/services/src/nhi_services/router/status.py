# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the router stands, for people and programs: quotas, health, who waits, the last decisions."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nhi_services.router.live import Live, Setup
    from nhi_services.router.picture import ModelState, Picture
    from nhi_services.router.trail import Trail

_LAST = 50


class LastRequests:
    """A recorder that remembers the last requests, without what was said."""

    def __init__(self) -> None:
        self._last: deque[Trail] = deque(maxlen=_LAST)

    def record(self, trail: Trail, _setup: Setup) -> None:
        """Remember one."""
        self._last.append(trail)

    def as_data(self) -> list[dict[str, Any]]:
        """Newest first."""
        return [
            {
                "at": round(trail.ended_at, 3),
                **trail.as_log(),
                "reason": trail.decision.reason if trail.decision else "",
            }
            for trail in reversed(self._last)
        ]


def status_of(live: Live, last: LastRequests) -> dict[str, Any]:
    """The whole status."""
    live.record()
    picture = live.setup.picture
    return {
        "time": round(time.time(), 3),
        "redis": "lost" if live.store.is_lost else "ok",
        "draining": live.draining,
        "in_flight": live.in_flight,
        "waiting": len(live.room),
        "unsettled": live.store.settler.backlog,
        "gpu": picture.gpu_light or "RED",
        "preferred_provider": picture.preferred,
        "providers": {name: _provider(picture, name) for name in live.setup.config.providers},
        "tasks": {name: list(task.chain) for name, task in live.setup.config.tasks.items()},
        "last": last.as_data(),
        **{name: told() for name, told in live.told.items()},
    }


def _provider(picture: Picture, name: str) -> dict[str, Any]:
    config, usage, used = picture.config.providers[name], picture.provider_usage[name], picture.really_used(name)
    states = [picture.states[model] for model in config.models]
    limits = states[0].scope.provider_limits
    projection = picture.projections.get(name)
    return {
        "kind": config.kind,
        "zone": config.reset_zone,
        "in_flight": picture.provider_in_flight[name],
        "used": {"requests": used.requests_today, "tokens": used.tokens_today},
        "set_aside": picture.set_aside_of(name),
        "limits": limits.as_dict(),
        "left": usage.left(limits),
        "projection": projection.as_data() if projection else None,
        "models": {state.model.name: _model(picture, state) for state in states},
    }


def _model(picture: Picture, state: ModelState) -> dict[str, Any]:
    reading = picture.readings([state.model.name], stream=False)[state.model.name]
    now = time.monotonic()
    mean, first = state.times.mean(now), state.first_tokens.mean(now)
    return {
        "quality": state.model.quality,
        "context": state.model.context,
        "open": not reading.closed,
        "closed": reading.closed or None,
        "retry_ms": reading.retry_ms,
        "latency_ms": None if mean is None else round(mean),
        "first_token_ms": None if first is None else round(first),
        "failures": state.breaker.in_a_row,
        "in_flight": state.in_flight,
        "left": picture.left(state.model.name),
    }
