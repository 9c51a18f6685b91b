# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Quota in Redis for a router: reserve before a request is sent, settle behind its back.

While Redis is lost, a router has what it set aside before (``Grants``): requests that Redis has counted already, so
that no limit is exceeded whatever other routers do. Models without a limit need none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

from ansible_collections.nhi.core.plugins.module_utils.quota import GRANT_TOKENS, WINDOW_MS, Limits
from ansible_collections.nhi.core.plugins.module_utils.quota_book import (
    Call,
    Refusal,
    Reservation,
    ReserveCall,
    Scope,
    Verdict,
    Wish,
)
from ansible_collections.nhi.core.plugins.module_utils.redis_keys import quota_book_key
from redis.asyncio import Redis
from redis.exceptions import RedisError

from nhi_services.router.redis_scripts import PATIENCE_SECONDS, Command, ScriptRunner
from nhi_services.router.tasks import end_task
from nhi_services.router.trail import new_id

LOG: Final = logging.getLogger("nhi.router.quota")
_RETRY_SECONDS: Final = 0.2
_BATCH: Final = 200
# How long what is to be settled is gathered where much comes: nobody waits for it.
_GATHER_SECONDS: Final = 0.01


def wall_ms() -> int:
    """Unix time in ms by this machine's clock."""
    return time.time_ns() // 1_000_000


class Settlement(NamedTuple):
    """How a reservation ended, and when its provider had answered with headers (time.monotonic())."""

    reservation: Reservation
    tokens: int
    headers_at: float | None

    def call(self) -> Call:
        """What Redis is told; made when it is told, however long that takes."""
        since = 0 if self.headers_at is None else round((time.monotonic() - self.headers_at) * 1000)
        return self.reservation.settle(self.tokens, since)


class Settler:
    """Sends what became of reservations to Redis, in order and in batches; while Redis is lost they wait here."""

    def __init__(self, runner: ScriptRunner) -> None:
        self._runner = runner
        self._waiting: deque[Call | Command | Settlement] = deque()
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._hurry = False
        # How many calls were handed over so far, and how many of them Redis has been told of.
        self.taken = self.sent = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work, in the running loop."""
        self._task = asyncio.create_task(self._work(), name="settler")

    def put(self, call: Call | Command | Settlement) -> None:
        """Send a script, or another command, when its turn comes; it may be sent twice."""
        self._waiting.append(call)
        self.taken += 1
        self._idle.clear()
        self._more.set()

    @property
    def backlog(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    async def flush(self, patience: float) -> None:
        """Wait until all is sent, for so many seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._idle.wait()

    async def close(self, patience: float) -> int:
        """Send what is left, for so many seconds at most; how many calls were not sent."""
        self._hurry = True
        await self.flush(patience)
        await end_task(self._task)
        return len(self._waiting)

    async def _work(self) -> None:
        last = 0.0
        while True:
            await self._more.wait()
            is_busy = time.monotonic() - last < 2 * _GATHER_SECONDS
            if is_busy and len(self._waiting) < _BATCH and not self._hurry:
                await asyncio.sleep(_GATHER_SECONDS)
            last = time.monotonic()
            self._more.clear()
            while self._waiting:
                first = islice(self._waiting, _BATCH)
                batch = [one.call() if isinstance(one, Settlement) else one for one in first]
                try:
                    await self._runner.run_all(batch)
                except (RedisError, OSError) as error:
                    LOG.debug("settling waits: %s", error)
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                for _call in batch:
                    self._waiting.popleft()
                self.sent += len(batch)
            self._idle.set()


class Grants:
    """Requests that were set aside while Redis answered, by model; all of them are counted there already.

    A model with limits by the minute is not asked within a minute of the loss, since nobody knows what others have
    sent; afterwards each router keeps to its share of the minute.
    """

    def __init__(self, instances: int) -> None:
        self.instances = instances
        self._held: dict[str, list[Reservation]] = {}
        self._sent: dict[str, deque[int]] = {}
        self.lost_since_ms: int | None = None

    def held(self, model: str) -> int:
        """How many requests are set aside for a model."""
        return len(self._held.get(model, ()))

    def put(self, reservation: Reservation) -> None:
        """Set one aside."""
        self._held.setdefault(reservation.scope.model, []).append(reservation)

    def drop(self, model: str, now_ms: int, keep: int) -> list[Reservation]:
        """Take out what is more than is to be kept, or of another day; the caller gives it back."""
        there = self._held.get(model, [])
        good = [one for one in there if one.day.has(now_ms)]
        self._held[model], surplus = good[:keep], good[keep:]
        return [*surplus, *(one for one in there if not one.day.has(now_ms))]

    def take(self, wish: Wish, now_ms: int) -> Reservation | Refusal:
        """One of those set aside, where the limits of the minute allow it."""
        scope = wish.scope
        wait = self._wait_of_minute(scope, now_ms)
        if wait:
            return Refusal(scope.model, "redis_lost", wait)
        if not (scope.provider_limits.any or scope.model_limits.any):
            return _unlimited(scope, now_ms)
        there = [one for one in self._held.get(scope.model, []) if one.day.has(now_ms)]
        if not there or wish.tokens > there[-1].tokens:
            return Refusal(scope.model, "redis_lost", 1000)
        self._held[scope.model].remove(there[-1])
        self._sent.setdefault(scope.provider, deque()).append(now_ms)
        return there[-1]

    def _wait_of_minute(self, scope: Scope, now_ms: int) -> int:
        limits = [one.requests_per_minute for one in (scope.provider_limits, scope.model_limits)]
        by_minute = [limit for limit in limits if limit is not None]
        tokens = [one.tokens_per_minute for one in (scope.provider_limits, scope.model_limits)]
        if not by_minute and not any(limit is not None for limit in tokens):
            return 0
        since = now_ms - (self.lost_since_ms if self.lost_since_ms is not None else now_ms)
        if since < WINDOW_MS:
            return WINDOW_MS - since
        share = min((limit // self.instances for limit in by_minute), default=1)
        sent = self._sent.setdefault(scope.provider, deque())
        while sent and sent[0] <= now_ms - WINDOW_MS:
            sent.popleft()
        if len(sent) < share:
            return 0
        return sent[0] + WINDOW_MS - now_ms if sent else WINDOW_MS


def _unlimited(scope: Scope, now_ms: int) -> Reservation:
    call = ReserveCall(new_id(), [Wish(scope)], now_ms, book=quota_book_key("none"))
    return call.promised(0)


def daily_only(scope: Scope) -> Scope:
    """The scope without its limits by the minute, for what is set aside."""
    provider, model = (
        Limits(requests_per_day=one.requests_per_day, tokens_per_day=one.tokens_per_day)
        for one in (scope.provider_limits, scope.model_limits)
    )
    return Scope(scope.provider, scope.model, scope.zone, provider, model)


class QuotaStore:
    """Reserves, and has settled, the quota of requests."""

    def __init__(
        self,
        client: Redis,
        instance: str,
        instances: int = 1,
        now: Callable[[], int] = wall_ms,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.runner = ScriptRunner(client, patience)
        self.settler = Settler(self.runner)
        self.grants = Grants(instances)
        self.book = quota_book_key(instance)
        self._now = now
        self._skew_ms = 0

    @property
    def now_ms(self) -> int:
        """Unix time in ms by the clock of Redis, as far as it is known."""
        return self._now() + self._skew_ms

    @property
    def is_lost(self) -> bool:
        """Whether Redis did not answer last time."""
        return self.grants.lost_since_ms is not None

    async def reserve(self, wishes: Sequence[Wish]) -> Verdict:
        """Reserve the first that has room, in Redis, or while that is lost from what was set aside."""
        for _attempt in range(3):
            call = ReserveCall(new_id(), wishes, self.now_ms, book=self.book)
            try:
                # Taken back where the client hangs up, since nothing was sent for it.
                answer = await self.runner.run(call.call, partial(self._take_back, call, len(wishes)))
            except (RedisError, OSError) as error:
                self._lose(error)
                self._take_back(call, len(wishes))
                return self._from_grants(wishes)
            self._find(int(answer[0]))
            verdict = call.verdict(answer)
            if not verdict.is_other_day:
                return verdict
        return verdict

    def _take_back(self, call: ReserveCall, wishes: int) -> None:
        """It may have been counted; if so it is given back as soon as Redis can be told."""
        for at in range(wishes):
            self.settler.put(call.promised(at).refund_of(at + 1))

    def started(self, reservation: Reservation) -> None:
        """The provider answered with headers."""
        if reservation.book == self.book:
            self.settler.put(reservation.started())

    def settle(self, reservation: Reservation, tokens: int, headers_at: float | None) -> None:
        """It was used; the moment of the headers is by time.monotonic()."""
        if reservation.book == self.book:
            self.settler.put(Settlement(reservation, tokens, headers_at))

    def refund(self, reservation: Reservation) -> None:
        """The provider never got it."""
        if reservation.book == self.book:
            self.settler.put(reservation.refund())

    async def set_aside(self, scope: Scope, wanted: int) -> None:
        """Bring what is set aside for a model to a number, while Redis answers."""
        for surplus in self.grants.drop(scope.model, self.now_ms, wanted):
            self.refund(surplus)
        for _number in range(wanted - self.grants.held(scope.model)):
            call = ReserveCall(new_id(), [Wish(daily_only(scope), GRANT_TOKENS)], self.now_ms, book=self.book)
            verdict = call.verdict(await self.runner.run(call.call))
            if verdict.reservation is None:
                return
            self.grants.put(verdict.reservation)

    def _from_grants(self, wishes: Sequence[Wish]) -> Verdict:
        refusals: list[Refusal] = []
        for wish in wishes:
            found = self.grants.take(wish, self.now_ms)
            if isinstance(found, Reservation):
                return Verdict(self.now_ms, found, tuple(refusals))
            refusals.append(found)
        return Verdict(self.now_ms, None, tuple(refusals))

    def _lose(self, error: BaseException) -> None:
        if not self.is_lost:
            self.grants.lost_since_ms = self.now_ms
            LOG.warning("redis is lost, only what was set aside is used: %s", type(error).__name__)

    def _find(self, redis_now_ms: int) -> None:
        self._skew_ms = redis_now_ms - self._now()
        if self.is_lost:
            LOG.warning("redis is back, %d reservations are settled now", self.settler.backlog)
            self.grants.lost_since_ms = None
