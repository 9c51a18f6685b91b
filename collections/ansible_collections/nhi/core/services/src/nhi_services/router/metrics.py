# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics of the router, named as in blueprint 8.1. Labels are names of the configuration: their number is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from nhi_services.router.live import Live, Setup
    from nhi_services.router.trail import Trail

Child = TypeVar("Child", Counter, Histogram)
_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class _Now(Collector):
    """What is read from the picture when somebody asks."""

    def __init__(self, live: Live, decisions: dict[tuple[str, str], int]) -> None:
        self._live = live
        self._decisions = decisions

    def collect(self) -> Iterator[Metric]:
        """All families."""
        picture, live = self._live.setup.picture, self._live
        labels = ["provider", "model"]
        left = GaugeMetricFamily("api_quota_remaining", "What is left of a limit.", labels=[*labels, "limit"])
        light = {"RED": 0, "YELLOW": 1, "GREEN": 2}
        open_ = GaugeMetricFamily("api_model_open", "Whether a model can be asked now.", labels=labels)
        readings = picture.readings(picture.states, stream=False)
        for name, state in picture.states.items():
            for limit, value in picture.left(name).items():
                if value is not None:
                    left.add_metric([state.model.provider, name, limit], value)
            open_.add_metric([state.model.provider, name], 0 if readings[name].closed else 1)
        yield left
        yield open_
        ends = GaugeMetricFamily(
            "api_quota_exhausted_timestamp_seconds",
            "When the requests of the day will be used up.",
            labels=["provider"],
        )
        for provider, projection in picture.projections.items():
            if projection.exhausted_at_ms is not None:
                ends.add_metric([provider], projection.exhausted_at_ms / 1000)
        yield ends
        chosen = Metric("routing_decision", "How often a provider was chosen for a task.", "counter")
        for (task, provider), count in list(self._decisions.items()):
            chosen.add_sample("routing_decision", {"task_type": task, "provider": provider}, count)
        yield chosen
        for metric, text, number in (
            ("router_requests_in_flight", "Requests under way.", live.in_flight),
            ("router_requests_waiting", "Requests that wait for a model.", len(live.room)),
            ("router_settlements_waiting", "Settlements that Redis has not been told yet.", live.store.settler.backlog),
            ("router_redis_up", "Whether Redis answers.", 0 if live.store.is_lost else 1),
            ("gpu_semaphore_state", "0 RED, 1 YELLOW, 2 GREEN.", light.get(picture.gpu_light or "RED", 0)),
        ):
            yield GaugeMetricFamily(metric, text, value=number)


class Metrics:
    """A recorder that counts."""

    def __init__(self, live: Live) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "api_requests", "Requests by how they ended.", ["provider", "status"], registry=self.registry
        )
        self._errors = Counter("api_errors", "Attempts that failed.", ["provider", "model"], registry=self.registry)
        self._latency = Histogram(
            "api_latency_seconds", "From the request's arrival to the end of its answer.", ["provider", "model"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._first_token = Histogram(
            "api_first_token_seconds", "From the request's arrival to the first part of a stream.",
            ["provider", "model"], buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._tokens = Counter("api_tokens", "Tokens.", ["provider", "model", "direction"], registry=self.registry)
        self._cost = Counter(
            "api_cost_usd", "What requests cost.", ["provider", "model", "agent"], registry=self.registry
        )
        self._agents = Counter(
            "api_agent_requests", "Requests by agent.", ["agent", "task_type"], registry=self.registry
        )
        self._degraded = Counter("api_degraded", "Answers of a worse model.", ["provider"], registry=self.registry)
        self._decisions: dict[tuple[str, str], int] = {}
        self._children: dict[tuple[Counter | Histogram, tuple[str, ...]], Counter | Histogram] = {}
        for collector in (_Now(live, self._decisions), *live.collectors):
            self.registry.register(collector)

    def record(self, trail: Trail, setup: Setup) -> None:
        """Count a request that is over."""
        provider = trail.provider or "none"
        self._child(self._requests, provider, trail.outcome or "failed").inc()
        self._child(self._agents, trail.agent, trail.task).inc()
        for one in trail.tried:
            if one.what:
                self._child(self._errors, one.provider, one.model).inc()
            self._child(self._tokens, one.provider, one.model, "input").inc(one.input_tokens)
            self._child(self._tokens, one.provider, one.model, "output").inc(one.output_tokens)
            price = setup.prices.of(one.model)
            if not price.is_free:
                cost = float(price.cost(one.input_tokens, one.output_tokens))
                self._child(self._cost, one.provider, one.model, trail.agent).inc(cost)
        if not trail.model:
            return
        key = (trail.task, provider)
        self._decisions[key] = self._decisions.get(key, 0) + 1
        self._child(self._latency, provider, trail.model).observe(trail.ms / 1000)
        if trail.first_token_ms is not None:
            self._child(self._first_token, provider, trail.model).observe(trail.first_token_ms / 1000)
        if trail.degraded:
            self._child(self._degraded, provider).inc()

    def _child(self, metric: Child, *labels: str) -> Child:
        """A metric with its labels; looking one up there costs more than counting."""
        key = (metric, labels)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = metric.labels(*labels)
        return found  # type: ignore[return-value]

    def text(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self.registry)
