# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which model answers a request: filters, score, order of attempts, and the reasons (blueprint 4.2 and 4.3).

Pure: what a router knows of quotas, latencies and the GPU comes in as readings, a decision with every term goes out.
A score is quota left * 0.5 + latency term * 0.3 + quality / 10 * 0.2, each term in 0..1 (DESIGN.md section 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, NamedTuple

CLOUD: Final = "cloud"
LOCAL: Final = "local"
_LATENCY_FOR_A_FULL_TERM_MS: Final = 1000.0
_BEST_QUALITY: Final = 10.0
_SCORE: Final = attrgetter("score")


@dataclass(frozen=True)
class Model:
    """A model as the configuration describes it; quality from 0 to 10, context and output in tokens."""

    name: str
    provider: str
    kind: str = CLOUD
    quality: float = 5.0
    context: int = 8192
    max_output: int = 4096
    capabilities: frozenset[str] = frozenset({"chat"})


class Reading(NamedTuple):
    """What is known of a model now.

    ``quota_left`` is the smallest part of any daily limit that is left, ``runway`` the part of the time until the reset
    for which it lasts at the rate of the last hours. ``closed`` says why the model can not be asked at all: a limit, a
    cooldown, a breaker, a GPU that is not free; then ``retry_ms`` says when that ends, if it is known.
    """

    quota_left: float = 1.0
    runway: float = 1.0
    latency_ms: float | None = None
    closed: str = ""
    retry_ms: int | None = None


_NOTHING_KNOWN: Final = Reading()


@dataclass(slots=True)
class Demand:
    """A request, as far as routing has to know it; tokens are those of the prompt and the most that is asked for."""

    task: str
    chain: tuple[str, ...]
    prompt_tokens: int = 0
    output_tokens: int = 0
    needs: frozenset[str] = frozenset({"chat"})
    pinned: bool = False


@dataclass(frozen=True)
class Weights:
    """How much each term counts, the score below which the GPU is asked, and when a provider is too slow to be used."""

    quota: float = 0.5
    latency: float = 0.3
    quality: float = 0.2
    preferred: float = 0.1
    threshold: float = 0.3
    latency_cutoff_ms: float = 5000.0
    assumed_latency_ms: float = 1000.0


class Candidate(NamedTuple):
    """A model with its terms, each 0..1, or with the reason why it is out."""

    model: str
    provider: str
    local: bool
    quota: float = 0.0
    latency: float = 0.0
    quality: float = 0.0
    score: float = 0.0
    out: str = ""
    retry_ms: int | None = None

    @property
    def terms(self) -> dict[str, float]:
        """What its score is made of, by name."""
        return {"quota": self.quota, "latency": self.latency, "quality": self.quality}

    def as_data(self) -> dict[str, Any]:
        """For people who ask why."""
        data: dict[str, Any] = {"model": self.model, "provider": self.provider, "local": self.local}
        if self.out:
            return {**data, "out": self.out, **({"retry_ms": self.retry_ms} if self.retry_ms is not None else {})}
        terms = {name: int(value * 10_000 + 0.5) / 10_000 for name, value in self.terms.items()}
        return {**data, "score": int(self.score * 10_000 + 0.5) / 10_000, "terms": terms}


@dataclass(slots=True)
class Decision:
    """Models to try, best first, and everything that was looked at."""

    demand: Demand
    attempts: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    reason: str

    @property
    def retry_ms(self) -> int | None:
        """When the first of those that are out could be asked again; None where nobody knows."""
        return min((c.retry_ms for c in self.candidates if c.out and c.retry_ms is not None), default=None)

    def as_data(self) -> dict[str, Any]:
        """The whole explanation."""
        return {
            "task": self.demand.task,
            "chosen": self.attempts[0] if self.attempts else None,
            "attempts": list(self.attempts),
            "reason": self.reason,
            "prompt_tokens": self.demand.prompt_tokens,
            "candidates": [candidate.as_data() for candidate in self.candidates],
        }


def decide(
    demand: Demand,
    models: Mapping[str, Model],
    readings: Mapping[str, Reading],
    weights: Weights | None = None,
    preferred: str | None = None,
) -> Decision:
    """Order the models of the demand's chain: cloud by score, then local ones in the chain's order.

    Local models come first where no cloud model reaches the threshold. A pinned model is asked whatever its score is.
    """
    weights = weights or Weights()
    looked_at = [
        _judge(models[name], readings.get(name, _NOTHING_KNOWN), demand, weights, preferred)
        for name in dict.fromkeys(demand.chain)
        if name in models
    ]
    usable = [candidate for candidate in looked_at if not candidate.out]
    cloud = sorted([c for c in usable if not c.local], key=_SCORE, reverse=True)
    local = [c for c in usable if c.local]
    best = cloud[0].score if cloud else 0.0
    if demand.pinned:
        order, reason = [*cloud, *local], "the model was named"
    elif cloud and best >= weights.threshold:
        order, reason = [*cloud, *local], f"best score {best:.2f}"
    elif local:
        order = [*local, *cloud]
        why = f"best score {best:.2f} is below {weights.threshold}" if cloud else "no cloud model can be asked"
        reason = f"{why}: the local GPU"
    elif cloud:
        order, reason = cloud, f"best score {best:.2f} is below {weights.threshold}, and no local model can be asked"
    else:
        order, reason = [], "no model can be asked now"
    return Decision(demand, tuple(c.model for c in order), tuple(looked_at), reason)


def _judge(model: Model, reading: Reading, demand: Demand, weights: Weights, preferred: str | None) -> Candidate:
    left, runway, known, _closed, _retry = reading
    local = model.kind == LOCAL
    objection = _objection(model, reading, demand, weights)
    if objection is not None:
        return Candidate(model.name, model.provider, local, out=objection[0], retry_ms=objection[1])
    ms = weights.assumed_latency_ms if known is None else known
    quota = left * runway
    quota = 1.0 if quota > 1.0 else max(quota, 0.0)
    latency = _LATENCY_FOR_A_FULL_TERM_MS / ms if ms > _LATENCY_FOR_A_FULL_TERM_MS else 1.0
    quality = 1.0 if model.quality > _BEST_QUALITY else max(model.quality, 0.0) / _BEST_QUALITY
    score = quota * weights.quota + latency * weights.latency + quality * weights.quality
    if preferred == model.provider:
        score += weights.preferred
    return Candidate(model.name, model.provider, local, quota, latency, quality, score)


def _objection(model: Model, reading: Reading, demand: Demand, weights: Weights) -> tuple[str, int | None] | None:
    """Why a model can not take the request, and when that ends; None where it can."""
    left, _runway, latency, closed, retry = reading
    asked, most = demand.output_tokens, model.max_output
    if not demand.needs <= model.capabilities:
        return f"can not do {', '.join(sorted(demand.needs - model.capabilities))}", None
    if demand.prompt_tokens + min(most, asked) > model.context:
        return f"about {demand.prompt_tokens} tokens do not fit its context of {model.context}", None
    if demand.pinned and asked > most:
        return f"{asked} tokens are more than the {most} that it answers with", None
    if closed:
        return closed, retry
    if left <= 0:
        return "its quota of the day is used up", retry
    if latency is not None and latency >= weights.latency_cutoff_ms and model.kind == CLOUD and not demand.pinned:
        return f"its mean latency of {latency:.0f} ms is too long", retry
    return None


def degradation(decision: Decision, models: Mapping[str, Model], used: str, failures: Mapping[str, str]) -> str:
    """Why a worse model than the best of the chain answered; empty where it did not, or was merely outscored.

    ``failures`` are the models that were tried in vain, with what happened.
    """
    out = {c.model: c.out for c in decision.candidates if c.out}
    if not out and not failures:
        return ""
    better = [
        c.model for c in decision.candidates
        if models[c.model].quality > models[used].quality and (c.model in out or c.model in failures)
    ]  # fmt: skip
    if not better:
        return ""
    best = max(better, key=lambda name: models[name].quality)
    return f"{used} answered in place of {best}: {failures.get(best) or out[best]}"
