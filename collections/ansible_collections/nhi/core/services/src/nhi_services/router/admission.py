# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which model a request may go to now: decide, reserve its quota, or wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from ansible_collections.nhi.core.plugins.module_utils.quota_book import Reservation, Verdict, Wish
from ansible_collections.nhi.core.plugins.module_utils.routing import Decision, decide
from ansible_collections.nhi.core.plugins.module_utils.spend_book import Taken

from nhi_services.router.api_errors import ApiError
from nhi_services.router.live import Live, Setup
from nhi_services.router.picture import GPU_IS
from nhi_services.router.trail import Trail, Tried
from nhi_services.router.waiting import Waiter
from nhi_services.router.wanted import Wanted

_ASSUMED_OUTPUT: Final = 1024
_LOOK_AGAIN_SECONDS: Final = 1.0


class BusyError(ApiError):
    """Nothing can answer now, and whoever asked does not want to wait, or has waited long enough."""

    def __init__(self, decision: Decision, waited: float) -> None:
        reasons = "; ".join(f"{c.model}: {c.out}" for c in decision.candidates if c.out) or decision.reason
        after = f" after {waited:.0f} s of waiting" if waited >= 1 else ""
        super().__init__(
            503, f"No model can answer now{after}: {reasons}.", code="all_busy", retry_ms=decision.retry_ms
        )
        self.decision = decision


@dataclass
class Lease:
    """One attempt: a reservation, until it is settled."""

    reservation: Reservation
    tried: Tried
    began: float
    headers_at: float | None = None
    open: bool = True
    taken: Taken | None = None
    left_out: tuple[str, ...] = ()


class Admission:
    """Lets one request to models, again for each attempt.

    ``failures`` are those that were asked in vain, ``unsupported`` those of them whose dialect has no words for it.
    """

    def __init__(self, live: Live, setup: Setup, wanted: Wanted, trail: Trail) -> None:
        self.failures: dict[str, str] = {}
        self.was_limit = False
        self.unsupported: set[str] = set()
        self._live = live
        self._setup = setup
        self._wanted = wanted
        self._trail = trail
        self._deadline = time.monotonic() + wanted.wait_seconds
        self._waiter: Waiter | None = None

    async def lease(self) -> Lease:
        """A reservation of the best model that has room; waits where that is wanted."""
        demand, room = self._wanted.demand, self._live.room
        models = frozenset(demand.chain)
        began = time.monotonic()
        if not room.is_contended(models, self._wanted.agent.priority):
            decision, lease = await self._try()
            if lease is not None:
                return lease
            self._give_up_unless_waiting(decision, 0.0)
        elif self._wanted.when_busy != "wait":
            raise BusyError(self._decide(), 0.0)
        with room.seat(models, self._wanted.agent.priority) as waiter:
            self._waiter = waiter
            try:
                while True:
                    if waiter.turn.is_set():
                        decision, lease = await self._try(after_wait=True)
                        if lease is not None:
                            return lease
                        self._give_up_unless_waiting(decision, time.monotonic() - began)
                        pause = min(_LOOK_AGAIN_SECONDS, (decision.retry_ms or 1000) / 1000)
                        await asyncio.sleep(max(0.01, min(pause, self._deadline - time.monotonic())))
                    else:
                        await self._turn(waiter.turn)
            finally:
                self._trail.queued_ms += (time.monotonic() - began) * 1000

    async def _turn(self, turn: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(max(0.01, self._deadline - time.monotonic())):
                await turn.wait()
        except TimeoutError:
            decision = self._decide()
            raise BusyError(decision, self._wanted.wait_seconds) from None

    def _give_up_unless_waiting(self, decision: Decision, waited: float) -> None:
        """ApiError unless it makes sense, and is wanted, to wait."""
        if self.failures and not self.was_limit:
            tried = "; ".join(f"{model}: {what}" for model, what in self.failures.items())
            if self.unsupported.issuperset(self.failures):
                message = f"No model of {self._wanted.demand.task} can take this: {tried}."
                raise ApiError(400, message, code="unsupported")
            raise ApiError(502, f"Every model that was asked failed: {tried}.", code="upstream_failed")
        self.refuse_impossible(decision)
        never = (
            not self.behind_light()
            and decision.retry_ms is not None
            and decision.retry_ms / 1000 > self._deadline - time.monotonic()
        )
        if self._wanted.when_busy != "wait" or time.monotonic() >= self._deadline or never:
            raise BusyError(decision, waited)
        self.failures.clear()
        self.was_limit = False

    def refuse_impossible(self, decision: Decision | None = None) -> None:
        """ApiError 400 for what no model can take, now or later."""
        decision = decision or self._decide()
        outs = [candidate for candidate in decision.candidates if candidate.out]
        lasting = [c for c in outs if c.retry_ms is None and ("can not do" in c.out or "tokens" in c.out)]
        if outs and len(lasting) == len(decision.candidates):
            reasons = "; ".join(f"{c.model}: {c.out}" for c in lasting)
            code = "context_length_exceeded" if any("tokens" in c.out for c in lasting) else "unsupported"
            raise ApiError(400, f"No model of {self._wanted.demand.task} can take this: {reasons}.", code=code)

    def _decide(self) -> Decision:
        picture, demand = self._setup.picture, self._wanted.demand
        if self.failures:
            demand = replace(demand, chain=tuple(m for m in demand.chain if m not in self.failures))
        readings = picture.readings(demand.chain, stream=self._wanted.ask.stream)
        return decide(demand, picture.models, readings, picture.weights, picture.preferred)

    async def _try(self, *, after_wait: bool = False) -> tuple[Decision, Lease | None]:
        """Decide, and reserve the first of the decision's models that has room."""
        picture = self._setup.picture
        decision = self._decide()
        if self._trail.decision is None or after_wait:
            self._trail.decision = decision
        if not decision.attempts:
            return decision, None
        names, taken = await self._afford(decision.attempts)
        try:
            # As a rule the first has room; all are asked for at once where it has not.
            verdict = await self._reserve(names[:1])
            if verdict.reservation is None and len(names) > 1:
                verdict = await self._reserve(names)
        except BaseException:
            self._give_back(taken)
            raise
        if verdict.reservation is None:
            self._give_back(taken)
            return self._decide(), None
        scope = verdict.reservation.scope
        picture.begin(scope.model)
        tried = Tried(scope.model, scope.provider)
        self._trail.tried.append(tried)
        return decision, Lease(verdict.reservation, tried, time.monotonic(), taken=taken)

    async def _reserve(self, names: Sequence[str]) -> Verdict:
        picture = self._setup.picture
        verdict = await self._live.store.reserve(
            [Wish(picture.states[name].scope, self._tokens_for(name)) for name in names]
        )
        picture.reserved(verdict)
        return verdict

    async def _afford(self, names: Sequence[str]) -> tuple[Sequence[str], Taken | None]:
        """Those that the agent's budget has room for, and what the dearest of them can cost, taken from it."""
        purse, prices, demand = self._live.purse, self._setup.prices, self._wanted.demand
        if purse is None or not purse.is_limited(self._wanted.agent.name):
            return names, None
        most = {name: prices.of(name).most(demand.prompt_tokens, self._most_output(name)) for name in names}
        dearest = max(most.values())
        if not dearest:
            return names, None
        taken = await purse.take(self._wanted.agent.name, dearest)
        if isinstance(taken, Taken):
            return names, taken
        free = [name for name in names if not most[name]]
        if not free:
            until = taken.retry_seconds(datetime.now(UTC)) * 1000
            raise ApiError(429, f"Nothing is sent: {taken}.", code="budget_exceeded", retry_ms=until)
        # What costs nothing may answer; whoever asked is told why it was not the better one.
        self.failures.update({name: "the daily budget has no room for it" for name in names if most[name]})
        self.was_limit = True
        return free, None

    def take_back(self, lease: Lease) -> None:
        """Nobody wants a lease any more, and nothing was sent."""
        if lease.open:
            lease.open = False
            self._trail.tried.remove(lease.tried)
            self._live.store.refund(lease.reservation)
            self._give_back(lease.taken)
            self._setup.picture.end(lease.tried.model)

    def _give_back(self, taken: Taken | None) -> None:
        if taken is not None and self._live.purse is not None:
            self._live.purse.settle(taken, 0)

    def _tokens_for(self, name: str) -> int:
        """As many as the request can cost where tokens are limited; about as many as it will elsewhere."""
        state = self._setup.picture.states[name]
        most = self._most_output(name)
        return self._wanted.demand.prompt_tokens + (most if state.scope.limits_tokens else min(most, _ASSUMED_OUTPUT))

    def _most_output(self, name: str) -> int:
        asked, limit = self._wanted.demand.output_tokens, self._setup.picture.states[name].model.max_output
        return min(asked, limit) if asked else limit

    @property
    def is_waiting(self) -> bool:
        """Whether it was not let in at once."""
        return self._waiter is not None

    @property
    def seconds_left(self) -> float:
        """For how long it may still wait."""
        return max(0.0, self._deadline - time.monotonic())

    def behind_light(self, without: Container[str] = ()) -> str:
        """A model with a queue that could answer if its GPU were free; empty where there is none."""
        queued = self._setup.queued
        if not queued:
            return ""
        found = (c.model for c in self._decide().candidates if c.out.startswith(GPU_IS) and c.model in queued)
        return next((name for name in found if name not in without), "")

    def comment(self) -> bytes:
        """Keeps the connection alive, and says how it stands."""
        waiter = self._waiter
        position = self._live.room.position(waiter) if waiter is not None else 0
        retry = self._decide().retry_ms
        eta = f"{retry / 1000:.0f} s" if retry is not None else "unknown"
        return f": waiting, position {position}, next chance in {eta}\n\n".encode()
