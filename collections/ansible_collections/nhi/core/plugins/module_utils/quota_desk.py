# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A provider's quota for whoever looks at it or changes it by hand: read, reserve, set, reset, project.

Limits, models and the zone of the reset are those that the router has published in Redis, unless a caller names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from . import redis_keys
from .errors import QuotaError
from .quota import GRANT_TOKENS, LIMIT_NAMES, Limits, Usage, day_at
from .quota_book import (
    Call,
    Reservation,
    ReserveCall,
    Scope,
    UsageCall,
    Wish,
    learned_limits,
    set_aside_by_model,
)
from .quota_projection import Sample, project

_MANUAL_BOOK = redis_keys.quota_book_key("manual")


class QuotaRedis(Protocol):
    """What is asked of Redis; a client of the package redis has it all."""

    def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any:
        """Run a script."""

    def hgetall(self, name: str) -> Any:
        """A whole hash."""

    def hset(self, name: str, *, mapping: Any) -> Any:
        """Set fields of a hash."""

    def delete(self, *names: str) -> Any:
        """Remove keys."""

    def pexpireat(self, name: str, when: int) -> Any:
        """Let a key end at a moment."""

    def get(self, name: str) -> Any:
        """A text."""

    def pttl(self, name: str) -> Any:
        """How long a key stays, in ms."""

    def time(self) -> Any:
        """Seconds and microseconds."""


@dataclass(frozen=True)
class Terms:
    """What a provider allows, as it is known: limits by model (empty: of the provider), and whose midnight counts."""

    zone: str = "UTC"
    limits: Mapping[str, Limits] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """Models that have limits of their own, or were published."""
        return tuple(sorted(name for name in self.limits if name))

    def of(self, model: str) -> Limits:
        """Limits of a model, or of the provider for an empty name."""
        return self.limits.get(model, Limits())

    def scope(self, provider: str, model: str) -> Scope:
        """For a reservation."""
        return Scope(provider, model or "any", self.zone, self.of(""), self.of(model) if model else Limits())


def published(terms: Terms) -> dict[str, str]:
    """The hash in which a router publishes the terms of a provider."""
    fields = {"zone": terms.zone}
    for model, limits in terms.limits.items():
        fields[f"{model}|models"] = "1"
        fields.update({f"{model}|{name}": str(value) for name, value in limits.as_dict().items() if value is not None})
    return fields


class Quota:
    """The quota of one provider."""

    def __init__(self, client: QuotaRedis, provider: str, zone: str | None = None) -> None:
        self._client = client
        self.provider = provider
        self._zone = zone

    def now_ms(self) -> int:
        """Unix time by the clock of Redis."""
        seconds, micros = self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def terms(self, given: Limits | None = None) -> Terms:
        """What is allowed: as published, as the provider said since, as is given here."""
        raw = {_text(k): _text(v) for k, v in self._client.hgetall(redis_keys.quota_terms_key(self.provider)).items()}
        zone = self._zone or raw.pop("zone", "UTC")
        raw.pop("zone", None)
        found: dict[str, dict[str, int]] = {}
        for name, value in raw.items():
            model, _bar, limit = name.rpartition("|")
            found.setdefault(model, {}).update({limit: int(value)} if limit in LIMIT_NAMES else {})
        learned = learned_limits(self._client.hgetall(redis_keys.quota_limits_key(self.provider)))
        limits = {model: Limits(**values) for model, values in found.items()}
        for model, values in learned.items():
            limits[model] = limits.get(model, Limits()).overridden(values)
        if given is not None and given.any:
            limits[""] = limits.get("", Limits()).overridden(
                {name: value for name, value in given.as_dict().items() if value is not None}
            )
        return Terms(zone, limits)

    def read(self, terms: Terms) -> dict[str, Any]:
        """Usage, limits and what is left, of the provider and of its models."""
        now = self.now_ms()
        call = UsageCall(self.provider, terms.models, terms.zone, now)
        usage, models = call.usages(self._run(call.call))
        aside = self._set_aside()
        rest = int(self._client.pttl(redis_keys.cooldown_key(self.provider)))
        return {
            "provider": self.provider,
            "date": call.day.date,
            "zone": terms.zone,
            "resets_in_seconds": (call.day.end_ms - now) // 1000,
            "reset_at_ms": call.day.end_ms,
            **_told(usage, terms.of(""), sum(aside.values())),
            "cooldown_seconds": max(0, rest) / 1000,
            "models": {name: _told(one, terms.of(name), aside.get(name, 0)) for name, one in models.items()},
        }

    def reserve(
        self, terms: Terms, model: str, requests: int, tokens: int, new_id: Callable[[], str]
    ) -> dict[str, Any]:
        """Count requests as used, all or none; QuotaError with the wait where there is no room."""
        scope = terms.scope(self.provider, model)
        taken: list[Reservation] = []
        for _number in range(requests):
            call = ReserveCall(new_id(), [Wish(scope, tokens)], self.now_ms(), book=_MANUAL_BOOK)
            verdict = call.verdict(self._run(call.call))
            if verdict.reservation is None:
                for one in taken:
                    self._run(one.refund())
                refusal = verdict.refusals[0]
                raise QuotaError(
                    f"{self.provider} has no room for {requests} requests of {tokens} tokens: {refusal.reason}; "
                    f"again in {max(1, refusal.retry_ms // 1000)} s. Nothing was reserved."
                )
            taken.append(verdict.reservation)
        for one in taken:
            self._run(one.settle(tokens))
        return {"reserved": len(taken)}

    def could_reserve(self, terms: Terms, model: str, requests: int, tokens: int) -> bool:
        """Whether there is room now."""
        data = self.read(terms)
        lefts = [data["left"], *([data["models"][model]["left"]] if model in data["models"] else [])]
        wanted = {"requests": requests, "tokens": requests * tokens}
        return all(
            left[name] is None or left[name] >= wanted[name.partition("_")[0]] for left in lefts for name in LIMIT_NAMES
        )

    def set_limits(self, limits: Mapping[str, int], model: str = "") -> None:
        """Let other limits hold for all routers."""
        Limits.of(limits)
        self._client.hset(
            redis_keys.quota_limits_key(self.provider), mapping={f"{model}|{name}": n for name, n in limits.items()}
        )

    def set_used(self, terms: Terms, requests: int | None, tokens: int | None, model: str = "") -> None:
        """Correct what was used today."""
        day = day_at(terms.zone, self.now_ms())
        key = redis_keys.quota_key(self.provider, day.date)
        suffix, by_model = f"|{model}" if model else "", self._set_aside()
        aside = by_model.get(model, 0) if model else sum(by_model.values())
        # What is set aside stays counted.
        pairs = (("requests_made", requests, aside), ("tokens_used", tokens, aside * GRANT_TOKENS))
        values = {f"{name}{suffix}": value + kept for name, value, kept in pairs if value is not None}
        if values:
            self._client.hset(key, mapping={**values, "reset_at": day.end_ms // 1000})
            self._client.pexpireat(key, day.end_ms + 2 * 86_400_000)

    def reset(self, terms: Terms) -> None:
        """Forget what was used today and in the last minute, what the provider said of limits, and its pauses."""
        day = day_at(terms.zone, self.now_ms())
        windows = [redis_keys.quota_window_key(self.provider, model) for model in (None, *terms.models)]
        pauses = [redis_keys.cooldown_key(self.provider, model) for model in (None, *terms.models)]
        self._client.delete(
            redis_keys.quota_key(self.provider, day.date), *windows, *(f"{window}:tokens" for window in windows),
            *pauses, redis_keys.quota_limits_key(self.provider), redis_keys.quota_samples_key(self.provider),
        )  # fmt: skip
        aside = self._set_aside()
        for model in ("", *aside) if aside else ():
            self.set_used(terms, 0, 0, model)

    def _set_aside(self) -> dict[str, int]:
        """Requests that routers keep for the time that Redis is lost, by model."""
        return set_aside_by_model(self._client.hgetall(redis_keys.quota_aside_key(self.provider)))

    def project(self, terms: Terms) -> dict[str, Any] | None:
        """How long the requests of the day last; None where they are not limited."""
        limit = terms.of("").requests_per_day
        if limit is None:
            return None
        now = self.now_ms()
        day = day_at(terms.zone, now)
        raw = self._client.hgetall(redis_keys.quota_samples_key(self.provider))
        samples = [Sample(int(at), int(used)) for at, used in raw.items()]
        used = self.read(terms)["used"]["requests_today"]
        return project(samples, used, limit, now, day.end_ms, day.start_ms).as_data()

    def _run(self, call: Call) -> Any:
        return self._client.eval(call.script, len(call.keys), *call.keys, *call.args)


def all_providers(client: QuotaRedis, names: Sequence[str]) -> dict[str, Any]:
    """The part `api_providers` of state.json: what is known of each provider's quota."""
    found = {}
    for name in names:
        quota = Quota(client, name)
        terms = quota.terms()
        found[name] = {**quota.read(terms), "projection": quota.project(terms)}
    return found


def _told(usage: Usage, limits: Limits, set_aside: int) -> dict[str, Any]:
    used = usage.without(set_aside)
    return {
        "used": {
            "requests_today": used.requests_today, "tokens_today": used.tokens_today,
            "requests_in_window": used.requests_in_window, "tokens_in_window": used.tokens_in_window,
        },
        "set_aside": set_aside,
        "limits": limits.as_dict(),
        "left": usage.left(limits),
    }  # fmt: skip


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
