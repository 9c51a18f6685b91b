# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reservations of quota: the calls of the scripts in ``quota_scripts.py``, and what their answers mean.

Pure: whoever has a connection runs a `Call` and hands the answer back, the router without waiting for anything else,
`nhi_quota` at its leisure. Every candidate of one call must share the key of pending reservations, ``book``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple

from . import redis_keys
from .quota import Day, Limits, Usage, day_at, next_day
from .quota_scripts import AT_LEAST, RESERVE, SETTLE, STARTED, USAGE

# How long a reservation stays when its router does not come back to it, and how near the end of a day a request may
# be counted by the provider for either day.
LEASE_MS: Final = 900_000
GUARD_MS: Final = 30_000
# No wait is known for what was looked at with the wrong day: ask again.
OTHER_DAY: Final = "other_day"
COOLDOWN: Final = "cooldown"
_NOTHING: Final = Usage()

Answer = Any


@dataclass(frozen=True)
class Parts:
    """What a candidate's share of a call is made of, all but its tokens: the same for every request of a day."""

    day: Day
    after: Day
    keys: tuple[str, ...]
    day_args: tuple[str | int, ...]
    limit_args: tuple[int, ...]


@dataclass(frozen=True)
class Scope:
    """A model of a provider with the limits that hold for both, and whose midnight ends its day."""

    provider: str
    model: str
    zone: str = "UTC"
    provider_limits: Limits = field(default_factory=Limits)
    model_limits: Limits = field(default_factory=Limits)

    @cached_property
    def limits_models(self) -> bool:
        """Whether there is a limit of the model alone."""
        return self.model_limits.any

    @cached_property
    def limits_tokens(self) -> bool:
        """Whether there is a limit of tokens."""
        both = (self.provider_limits, self.model_limits)
        return any(one.tokens_per_day is not None or one.tokens_per_minute is not None for one in both)

    def windows(self) -> list[str]:
        """Keys of the windows of the provider and of the model."""
        return [redis_keys.quota_window_key(self.provider), redis_keys.quota_window_key(self.provider, self.model)]

    def parts(self, day: Day) -> Parts:
        """What calls on a day consist of; remembered, since it is the same for every request of that day."""
        known: Parts | None = self.__dict__.get("_parts")
        if known is None or known.day is not day:
            known = self.__dict__["_parts"] = _parts(self, day)
        return known


class Call(NamedTuple):
    """One run of a script."""

    script: str
    keys: tuple[str, ...]
    args: tuple[str | int, ...]


class Wish(NamedTuple):
    """A candidate of a reservation: so many tokens of that model; a forced one is counted whatever the limits say."""

    scope: Scope
    tokens: int = 0
    forced: bool = False


class Refusal(NamedTuple):
    """Why a candidate was not reserved, and in how many ms it could be."""

    model: str
    reason: str
    retry_ms: int


@dataclass(slots=True)
class Reservation:
    """Quota that is counted already; settle it in any case."""

    id: str
    book: str
    scope: Scope
    tokens: int
    day: Day
    after: Day
    both_days: bool

    def started(self, now_ms: int = 0) -> Call:
        """The provider answered with headers."""
        return Call(STARTED, tuple(self.scope.windows()), (now_ms, self.id))

    def settle(self, tokens: int, since_headers_ms: int = 0, now_ms: int = 0) -> Call:
        """It was used, with so many tokens in all; ms since the provider's headers."""
        return self._end(max(0, tokens), since_headers_ms, now_ms, 0)

    def refund(self, now_ms: int = 0) -> Call:
        """The provider never got the request: all is given back."""
        return self._end(-1, 0, now_ms, 0)

    def refund_of(self, candidate: int) -> Call:
        """Give back what may have been reserved for the candidate of that number, whose answer was lost."""
        return self._end(-1, 0, 0, candidate)

    def _end(self, tokens: int, since_headers_ms: int, now_ms: int, candidate: int) -> Call:
        return Call(
            SETTLE,
            # The keys of both days and of both windows.
            (self.book, *self.scope.parts(self.day).keys[:4]),
            (
                now_ms, self.id, self.scope.model, self.tokens, tokens, self.day.end_ms, self.after.end_ms,
                candidate, max(0, since_headers_ms),
            ),
        )  # fmt: skip


class Verdict(NamedTuple):
    """The answer to a reservation: what was reserved, if anything, and why not what came before it."""

    now_ms: int
    reservation: Reservation | None
    refusals: tuple[Refusal, ...]
    provider_usage: Usage = _NOTHING
    model_usage: Usage = _NOTHING

    @property
    def is_other_day(self) -> bool:
        """Whether the caller's clock named another day than Redis's: build the call again with `now_ms`."""
        return any(refusal.reason == OTHER_DAY for refusal in self.refusals)

    @property
    def retry_ms(self) -> int | None:
        """In how many ms the first candidate could be reserved; None where nothing was refused."""
        return min((refusal.retry_ms for refusal in self.refusals), default=None)


def _parts(scope: Scope, day: Day) -> Parts:
    after = next_day(scope.zone, day)
    keys = [redis_keys.quota_key(scope.provider, one.date) for one in (day, after)]
    cooldowns = [redis_keys.cooldown_key(scope.provider), redis_keys.cooldown_key(scope.provider, scope.model)]
    limits = [*scope.provider_limits.as_arguments(), *scope.model_limits.as_arguments()]
    day_args = (scope.model, day.start_ms, day.end_ms, after.end_ms)
    return Parts(day, after, (*keys, *scope.windows(), *cooldowns), day_args, tuple(limits))


class ReserveCall:
    """Reserve the first of several candidates that has room in every limit."""

    def __init__(
        self,
        reservation_id: str,
        wishes: Sequence[Wish],
        now_ms: int,
        *,
        book: str,
        simulated: bool = False,
        lease_ms: int = LEASE_MS,
        guard_ms: int = GUARD_MS,
    ) -> None:
        self.id = reservation_id
        self.book = book
        self._wishes = tuple(wishes)
        self._parts = [wish.scope.parts(day_at(wish.scope.zone, now_ms)) for wish in wishes]
        keys: list[str] = [book]
        args: list[str | int] = [now_ms if simulated else 0, reservation_id, lease_ms, guard_ms]
        for wish, part in zip(self._wishes, self._parts, strict=True):
            keys += part.keys
            args += (*part.day_args, max(0, wish.tokens), *part.limit_args, int(wish.forced))
        self.call = Call(RESERVE, tuple(keys), tuple(args))

    def promised(self, at: int, *, both_days: bool = False) -> Reservation:
        """The reservation of a candidate, counted from 0, as it is if the script reserves that one."""
        wish, part = self._wishes[at], self._parts[at]
        return Reservation(self.id, self.book, wish.scope, max(0, wish.tokens), part.day, part.after, both_days)

    def verdict(self, answer: Answer) -> Verdict:
        """What the script's answer means."""
        now, chosen, both, refused, used = answer
        refusals: tuple[Refusal, ...] = ()
        if refused:
            pairs = zip(refused[::2], refused[1::2], strict=True)
            refusals = tuple(
                Refusal(wish.scope.model, _text(reason), int(wait))
                for wish, (reason, wait) in zip(self._wishes, pairs, strict=False)
            )
        if not chosen:
            return Verdict(int(now), None, refusals)
        reservation = self.promised(int(chosen) - 1, both_days=bool(both))
        requests, tokens, model_requests, model_tokens = [int(value or 0) for value in used]
        return Verdict(int(now), reservation, refusals, Usage(requests, tokens), Usage(model_requests, model_tokens))


def at_least(scope: Scope, now_ms: int, *, requests: int = -1, tokens: int = -1, of_model: bool = False) -> Call:
    """The provider itself says that so much was used today; its count stands where it is higher than ours."""
    day = day_at(scope.zone, now_ms)
    model = scope.model if of_model else ""
    return Call(AT_LEAST, (redis_keys.quota_key(scope.provider, day.date),), (0, model, requests, tokens, day.end_ms))


class UsageCall:
    """What of a provider and its models was used."""

    def __init__(
        self, provider: str, models: Sequence[str], zone: str, now_ms: int, *, simulated: bool = False
    ) -> None:
        self.models = tuple(models)
        self.day = day_at(zone, now_ms)
        windows = [redis_keys.quota_window_key(provider, model) for model in (None, *models)]
        keys = (redis_keys.quota_key(provider, self.day.date), *windows)
        self.call = Call(USAGE, keys, (now_ms if simulated else 0,))

    def usages(self, answer: Answer) -> tuple[Usage, dict[str, Usage]]:
        """Of the provider, and by model."""
        _now, flat, windows = answer
        day = {_text(name): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
        found = [
            Usage(
                int(day.get(f"requests_made{suffix}", 0)), int(day.get(f"tokens_used{suffix}", 0)),
                int(windows[2 * at]), int(windows[2 * at + 1]),
            )
            for at, suffix in enumerate(("", *(f"|{model}" for model in self.models)))
        ]  # fmt: skip
        return found[0], dict(zip(self.models, found[1:], strict=True))


def set_aside_by_model(raw: Mapping[Any, Any]) -> dict[str, int]:
    """Requests that are set aside, by model, from the hash in which routers say so."""
    found: dict[str, int] = {}
    for name, value in raw.items():
        model = _text(name).rpartition("|")[2]
        found[model] = found.get(model, 0) + int(value)
    return found


def learned_limits(raw: Mapping[Any, Any]) -> dict[str, dict[str, int]]:
    """Limits by model (empty: of the provider) from the hash in which they are kept."""
    found: dict[str, dict[str, int]] = {}
    for name, value in raw.items():
        model, _bar, limit = _text(name).rpartition("|")
        found.setdefault(model, {})[limit] = int(value)
    return found


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
