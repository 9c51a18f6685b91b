# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What this router knows now of each model: what is left, how fast it answers, whether it is closed and until when.

The hot path reads and writes only here; ``refresh`` brings in once a second what other routers have learned.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ansible_collections.nhi.core.plugins.module_utils.quota import Limits, Usage, day_at, share_left
from ansible_collections.nhi.core.plugins.module_utils.quota_book import Refusal, Scope, Verdict
from ansible_collections.nhi.core.plugins.module_utils.quota_projection import Projection
from ansible_collections.nhi.core.plugins.module_utils.routing import Model, Reading

from nhi_services.router.config import RouterConfig

LATENCIES: Final = 100
GPU_IS: Final = "the GPU is "
_DAY_LOOK_SECONDS: Final = 1.0


class Ring:
    """The last 100 times, each with its moment; old ones do not count, so that a slow model gets another chance."""

    def __init__(self, memory_seconds: float) -> None:
        self._memory = memory_seconds
        self._times: deque[tuple[float, float]] = deque(maxlen=LATENCIES)
        self._sum = 0.0

    def add(self, ms: float) -> None:
        """One more."""
        if len(self._times) == LATENCIES:
            self._sum -= self._times[0][1]
        self._times.append((time.monotonic(), ms))
        self._sum += ms

    def mean(self, now: float) -> float | None:
        """Their mean in ms at a moment of time.monotonic(); None where there is none."""
        times = self._times
        if not times:
            return None
        oldest = now - self._memory
        while times[0][0] < oldest:
            self._sum -= times.popleft()[1]
            if not times:
                return None
        return max(0.0, self._sum / len(times))


@dataclass
class Breaker:
    """Opens after failures in a row, and lets one request through when its time is over."""

    failures: int
    seconds: float
    in_a_row: int = 0
    open_until: float = 0.0
    probing: bool = False

    def failed(self) -> None:
        """A request failed."""
        self.in_a_row += 1
        self.probing = False
        if self.in_a_row >= self.failures:
            self.open_until = time.monotonic() + self.seconds * min(8, 2 ** (self.in_a_row - self.failures))

    def succeeded(self) -> None:
        """A request went well."""
        self.in_a_row = 0
        self.open_until = 0.0
        self.probing = False

    def is_open(self) -> bool:
        """Whether nothing goes through now."""
        return self.in_a_row >= self.failures and (self.probing or time.monotonic() < self.open_until)

    def begin(self) -> None:
        """A request goes through: while half open it is the only one."""
        self.probing = self.in_a_row >= self.failures

    def retry_ms(self) -> int:
        """When one can go through."""
        return max(1000 if self.probing else 0, round((self.open_until - time.monotonic()) * 1000))


@dataclass
class ModelState:
    """What is known of one model."""

    model: Model
    scope: Scope
    times: Ring
    first_tokens: Ring
    breaker: Breaker
    usage: Usage = field(default_factory=Usage)
    closed: str = ""
    closed_until: float = 0.0
    # When there is hope, where that is later than the next look.
    hope_at: float = 0.0
    in_flight: int = 0
    failures_in_a_row: int = 0

    def close(self, reason: str, seconds: float, hope_seconds: float = 0.0) -> None:
        """Do not ask it for so many seconds; those who wait are told of the hope, if that is later."""
        now = time.monotonic()
        self.closed, self.closed_until = reason, max(self.closed_until, now + seconds)
        self.hope_at = now + hope_seconds

    def reopen(self) -> None:
        """It can be asked."""
        self.closed, self.closed_until, self.hope_at = "", 0.0, 0.0


class Picture:
    """All models, as they are known now."""

    def __init__(self, config: RouterConfig) -> None:
        self.config = config
        self.models = config.models()
        self.weights = config.routing.weights()
        self.preferred: str | None = None
        self.gpu_light: str | None = None
        self.projections: dict[str, Projection] = {}
        self.provider_usage: dict[str, Usage] = dict.fromkeys(config.providers, Usage())
        # Requests that routers keep for the time that Redis is lost, by model.
        self.set_aside: dict[str, int] = {}
        self.provider_in_flight: dict[str, int] = dict.fromkeys(config.providers, 0)
        self.learned: dict[str, dict[str, dict[str, int]]] = {}
        memory, routing = config.routing.latency_memory_seconds, config.routing
        self.states = {
            name: ModelState(
                model, config.scope(name), Ring(memory), Ring(memory),
                Breaker(routing.breaker_failures, routing.breaker_seconds),
            )
            for name, model in self.models.items()
        }  # fmt: skip

    def adopt(self, before: Picture) -> None:
        """Take over from the configuration before a reload what is still about the same models."""
        for name, state in self.states.items():
            old = before.states.get(name)
            if old is not None and old.model.provider == state.model.provider:
                state.times, state.first_tokens, state.usage = old.times, old.first_tokens, old.usage
                state.closed, state.closed_until, state.hope_at = old.closed, old.closed_until, old.hope_at
                state.breaker = old.breaker
        self.preferred, self.gpu_light = before.preferred, before.gpu_light
        for provider, learned in before.learned.items():
            if provider in self.config.providers:
                self.learn(provider, learned)

    def learn(self, provider: str, learned: Mapping[str, Mapping[str, int]]) -> None:
        """Limits that the provider itself named, by model (empty: of the provider)."""
        known = {model: dict(limits) for model, limits in learned.items()}
        if self.learned.get(provider) == known:
            return
        self.learned[provider] = known
        for name in self.config.providers[provider].models:
            self.states[name].scope = self.config.scope(name, known)

    def readings(self, names: Iterable[str], *, stream: bool) -> dict[str, Reading]:
        """What routing has to know of models."""
        now, states = time.monotonic(), self.states
        return {name: self._reading(states[name], now, stream=stream) for name in names if name in states}

    def _reading(self, state: ModelState, now: float, *, stream: bool) -> Reading:
        provider, scope = state.model.provider, state.scope
        left = share_left(self.provider_usage[provider], scope.provider_limits)
        if scope.limits_models:
            left = min(left, share_left(state.usage, scope.model_limits))
        projection = self.projections.get(provider)
        runway = projection.runway if projection else 1.0
        latency = (state.first_tokens if stream else state.times).mean(now)
        closed, retry = self._closed(state, now)
        if left <= 0 and retry is None:
            wall = time.time_ns() // 1_000_000
            retry = max(1, day_at(scope.zone, wall).end_ms - wall)
        return Reading(left, runway, latency, closed, retry)

    def _closed(self, state: ModelState, now: float) -> tuple[str, int | None]:
        if state.closed_until > now:
            return state.closed or "closed", max(1, round((max(state.closed_until, state.hope_at) - now) * 1000))
        if state.breaker.in_a_row and state.breaker.is_open():
            return f"it failed {state.breaker.in_a_row} times in a row", state.breaker.retry_ms()
        config = self.config.providers[state.model.provider]
        most = config.max_concurrent
        if most is not None and self.provider_in_flight[state.model.provider] >= most:
            return f"{most} requests are under way there already", 1000
        if config.kind == "local" and config.semaphore and self.gpu_light != "GREEN":
            return f"{GPU_IS}{self.gpu_light or 'RED: its monitor does not answer'}", None
        return "", None

    def reserved(self, verdict: Verdict) -> None:
        """What a reservation told of quotas."""
        for refusal in verdict.refusals:
            self._refused(refusal)
        if verdict.reservation is not None:
            scope = verdict.reservation.scope
            self.provider_usage[scope.provider] = verdict.provider_usage
            state = self.states.get(scope.model)
            if state is not None:
                state.usage = verdict.model_usage

    def _refused(self, refusal: Refusal) -> None:
        state = self.states.get(refusal.model)
        if state is not None:
            words, seconds = _REASONS.get(refusal.reason, refusal.reason.replace("_", " ")), refusal.retry_ms / 1000
            # What others have reserved of a day may come back long before it is over.
            is_daily = refusal.reason.endswith("_per_day")
            state.close(words, min(seconds, _DAY_LOOK_SECONDS) if is_daily else seconds, seconds)

    def begin(self, name: str) -> None:
        """A request goes to a model."""
        state = self.states[name]
        state.breaker.begin()
        state.in_flight += 1
        self.provider_in_flight[state.model.provider] += 1

    def end(self, name: str) -> None:
        """It is over."""
        state = self.states.get(name)
        if state is not None:
            state.in_flight -= 1
            self.provider_in_flight[state.model.provider] -= 1

    def really_used(self, provider: str) -> Usage:
        """What of a provider was used, without what is only set aside."""
        return self.provider_usage[provider].without(self.set_aside_of(provider))

    def set_aside_of(self, provider: str) -> int:
        """Requests of a provider that are set aside."""
        return sum(self.set_aside.get(name, 0) for name in self.config.providers[provider].models)

    def requests_left(self, name: str) -> int | None:
        """What is left of the requests of the day of a model and its provider, the smaller of both."""
        state = self.states[name]
        scope = state.scope
        limit, of_model = scope.provider_limits.requests_per_day, scope.model_limits.requests_per_day
        left = None if limit is None else max(0, limit - self.provider_usage[scope.provider].requests_today)
        if of_model is None:
            return left
        left_of_model = max(0, of_model - state.usage.requests_today)
        return left_of_model if left is None else min(left, left_of_model)

    def left(self, name: str) -> dict[str, int | None]:
        """What is left of the limits of a model and its provider, the smaller of both."""
        state = self.states[name]
        provider = self.provider_usage[state.model.provider].left(state.scope.provider_limits)
        model = state.usage.left(state.scope.model_limits)
        return {limit: _smaller(provider[limit], model[limit]) for limit in Limits().as_dict()}


_REASONS: Final = {
    "requests_per_day": "its requests of the day are used up",
    "tokens_per_day": "its tokens of the day are used up",
    "requests_per_minute": "its requests of the minute are used up",
    "tokens_per_minute": "its tokens of the minute are used up",
    "model_requests_per_day": "its requests of the day are used up",
    "model_tokens_per_day": "its tokens of the day are used up",
    "model_requests_per_minute": "its requests of the minute are used up",
    "model_tokens_per_minute": "its tokens of the minute are used up",
    "cooldown": "its provider asked for a pause",
    "redis_lost": "Redis is lost, and nothing is set aside for it",
}


def _smaller(one: int | None, other: int | None) -> int | None:
    there = [value for value in (one, other) if value is not None]
    return min(there) if there else None
