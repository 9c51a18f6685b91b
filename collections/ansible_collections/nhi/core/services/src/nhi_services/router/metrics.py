# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics of the router, named as in blueprint 8.1. Labels are names of the configuration: their number is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from nhi_services.router.live import Live, Setup
    from nhi_services.router.trail import Trail

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


class _Counts(Collector):
    """Counters that are counted in dictionaries, since those of prometheus_client cost more than they count."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[str, list[str]]] = {}
        self.counts: dict[str, dict[tuple[str, ...], float]] = {}

    def family(self, name: str, text: str, labels: list[str]) -> dict[tuple[str, ...], float]:
        """Where something is counted, by its labels."""
        self._told[name] = (text, labels)
        return self.counts.setdefault(name, {})

    def collect(self) -> Iterator[Metric]:
        """All families."""
        for name, (text, labels) in self._told.items():
            family = CounterMetricFamily(name, text, labels=labels)
            for values, count in list(self.counts[name].items()):
                family.add_metric(values, count)
            yield family


class Metrics:
    """A recorder that counts."""

    def __init__(self, live: Live) -> None:
        self.registry = CollectorRegistry()
        counts = _Counts()
        self._requests = counts.family("api_requests", "Requests by how they ended.", ["provider", "status"])
        self._errors = counts.family("api_errors", "Attempts that failed.", ["provider", "model"])
        self._tokens = counts.family("api_tokens", "Tokens.", ["provider", "model", "direction"])
        self._cost = counts.family("api_cost_usd", "What requests cost.", ["provider", "model", "agent"])
        self._agents = counts.family("api_agent_requests", "Requests by agent.", ["agent", "task_type"])
        self._degraded = counts.family("api_degraded", "Answers of a worse model.", ["provider"])
        self._latency = Histogram(
            "api_latency_seconds", "From the request's arrival to the end of its answer.", ["provider", "model"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._first_token = Histogram(
            "api_first_token_seconds", "From the request's arrival to the first part of a stream.",
            ["provider", "model"], buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._histograms: dict[tuple[Histogram, str, str], Histogram] = {}
        self._decisions: dict[tuple[str, str], int] = {}
        for collector in (counts, _Now(live, self._decisions), *live.collectors):
            self.registry.register(collector)

    def record(self, trail: Trail, setup: Setup) -> None:
        """Count a request that is over."""
        provider = trail.provider or "none"
        _add(self._requests, (provider, trail.outcome or "failed"), 1)
        _add(self._agents, (trail.agent, trail.task), 1)
        for one in trail.tried:
            if one.what:
                _add(self._errors, (one.provider, one.model), 1)
            _add(self._tokens, (one.provider, one.model, "input"), one.input_tokens)
            _add(self._tokens, (one.provider, one.model, "output"), one.output_tokens)
            price = setup.prices.of(one.model)
            if not price.is_free:
                cost = float(price.cost(one.input_tokens, one.output_tokens))
                _add(self._cost, (one.provider, one.model, trail.agent), cost)
        if not trail.model:
            return
        key = (trail.task, provider)
        self._decisions[key] = self._decisions.get(key, 0) + 1
        self._observe(self._latency, provider, trail.model, trail.ms / 1000)
        if trail.first_token_ms is not None:
            self._observe(self._first_token, provider, trail.model, trail.first_token_ms / 1000)
        if trail.degraded:
            _add(self._degraded, (provider,), 1)

    def _observe(self, histogram: Histogram, provider: str, model: str, seconds: float) -> None:
        key = (histogram, provider, model)
        if key not in self._histograms:
            self._histograms[key] = histogram.labels(provider, model)
        self._histograms[key].observe(seconds)

    def text(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self.registry)


def _add(counts: dict[tuple[str, ...], float], labels: tuple[str, ...], number: float) -> None:
    counts[labels] = counts.get(labels, 0) + number
