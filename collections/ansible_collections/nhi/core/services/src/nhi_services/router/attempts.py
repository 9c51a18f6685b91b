# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a request to an answer: decide, reserve, send, and ask the next model where one fails."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Final

from ansible_collections.nhi.core.plugins.module_utils.provider_limits import Heard
from ansible_collections.nhi.core.plugins.module_utils.quota import day_at
from ansible_collections.nhi.core.plugins.module_utils.quota_book import Reservation, Wish, at_least
from ansible_collections.nhi.core.plugins.module_utils.routing import Decision, decide, degradation

from nhi_services.router.api_errors import ApiError
from nhi_services.router.asks import Ask, tokens_of
from nhi_services.router.config import Timeouts
from nhi_services.router.forms import Adapted, adapt
from nhi_services.router.judge import KEY_PAUSE_SECONDS, Judgement, Kind, judge_refusal, parse_good
from nhi_services.router.live import Live, Setup
from nhi_services.router.streams import EventSplitter, GarbageError, StreamWatch, error_event
from nhi_services.router.trail import Trail, Tried
from nhi_services.router.upstream import Answer, Upstream, UpstreamError
from nhi_services.router.wanted import Wanted

_ASSUMED_OUTPUT: Final = 1024
_LOOK_AGAIN_SECONDS: Final = 1.0
_COMMENT_SECONDS: Final = 5.0
_CONTINUE: Final = "Your answer was cut off. Go on exactly where it stops, without repeating anything."


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


class Attempts:
    """Serves one request."""

    def __init__(self, live: Live, setup: Setup, wanted: Wanted, trail: Trail) -> None:
        self._live = live
        self._setup = setup
        self._wanted = wanted
        self._trail = trail
        self._failures: dict[str, str] = {}
        self._was_limit = False
        self._deadline = time.monotonic() + wanted.wait_seconds

    async def whole(self) -> tuple[bytes, str]:
        """The body of a good answer and its type; ApiError for a bad one."""
        while True:
            lease = await self._acquire()
            try:
                adapted, answer = await self._send(lease, self._wanted.ask)
                if answer.status != 200:
                    await self._refused(lease, answer)
                    continue
                body = await answer.read(self._timeouts(lease).total)
                parsed, fault = parse_good(body, answer.response.content_type)
                if parsed is None:
                    self._failed(lease, fault, sent=True)
                    continue
                used = tokens_of(parsed.get("usage"))
                self._succeeded(lease, answer, used or (self._wanted.demand.prompt_tokens, len(body) // 4))
                return adapted.whole(body, parsed), "application/json"
            except UpstreamError as error:
                self._failed(lease, error.what, sent=error.sent)
            finally:
                self._abandon(lease)

    async def stream(self) -> AsyncGenerator[bytes]:
        """Blocks of whole events: nothing before a model has begun to answer, but comments while it has to wait."""
        wanted = self._wanted
        said = ""
        while True:
            waiting = asyncio.ensure_future(self._acquire())
            try:
                while not (await asyncio.wait({waiting}, timeout=_COMMENT_SECONDS))[0]:
                    yield self._waiting_comment()
                lease = await waiting
            finally:
                waiting.cancel()
            watch = StreamWatch(keep_usage=wanted.ask.wants_usage, collect=wanted.continues)
            try:
                ask = _continued(wanted.ask, said) if said else wanted.ask
                adapted, answer = await self._send(lease, ask)
                if answer.status != 200:
                    await self._refused(lease, answer)
                    continue
                try:
                    async for block in self._relay(lease, adapted, answer, watch):
                        yield block
                finally:
                    answer.close()
                if lease.open:
                    used = (watch.input_tokens, watch.output_tokens) if watch.has_usage else self._guess(watch)
                    self._succeeded(lease, answer, used, first_token=True)
                    return
            except UpstreamError as error:
                self._failed(lease, error.what, sent=error.sent, guess=self._guess(watch))
            finally:
                self._abandon(lease, self._guess(watch))
            if not watch.has_content:
                continue
            said += "".join(watch.text)
            if not (wanted.continues and wanted.ask.form == "chat" and said):
                self._trail.outcome = "cut"
                yield error_event(wanted.ask.form, self._cut_error(lease).body())
                return

    async def _relay(self, lease: Lease, adapted: Adapted, answer: Answer, watch: StreamWatch) -> AsyncGenerator[bytes]:
        """Whole events, from the first that is content on; a stream that is not whole ends the lease as failed."""
        if not answer.is_stream:
            body = await answer.read(self._timeouts(lease).total)
            raise UpstreamError(f"it answered with {len(body)} bytes that are no stream", sent=True)
        splitter, held = EventSplitter(), b""
        try:
            async for chunk in answer.response.content.iter_any():
                block = held + _seen(splitter, watch, adapted, chunk)
                held = b"" if watch.has_content else block
                if block and watch.has_content:
                    self._first_token(lease)
                    yield block
                if watch.error or watch.is_done:
                    break
        except (GarbageError, OSError, TimeoutError, *Upstream.faults) as error:
            # A model that had come to its end has said all, even if the provider forgets its manners.
            watch.error = watch.error or ("" if watch.is_finished else f"its stream broke off ({type(error).__name__})")
        if watch.fault:
            self._failed(lease, watch.fault, sent=True, guess=self._guess(watch))
        elif not watch.is_done:
            yield adapted.end()

    def _first_token(self, lease: Lease) -> None:
        if not self._trail.model:
            self._trail.first_token_ms = self._trail.ms
            lease.tried.ms = (time.monotonic() - lease.began) * 1000
            self._note_answer(lease)

    async def _acquire(self) -> Lease:
        """A reservation of the best model that has room; waits where that is wanted."""
        demand, room = self._wanted.demand, self._live.room
        models = frozenset(demand.chain)
        began = time.monotonic()
        if not room.is_contended(models, self._wanted.agent.priority):
            decision, lease = await self._try()
            if lease is not None:
                return lease
            self._give_up_unless_waiting(decision, 0.0)
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
        if self._failures and not self._was_limit:
            tried = "; ".join(f"{model}: {what}" for model, what in self._failures.items())
            raise ApiError(502, f"Every model that was asked failed: {tried}.", code="upstream_failed")
        outs = [candidate for candidate in decision.candidates if candidate.out]
        lasting = [c for c in outs if c.retry_ms is None and ("can not do" in c.out or "tokens" in c.out)]
        if outs and len(lasting) == len(decision.candidates):
            reasons = "; ".join(f"{c.model}: {c.out}" for c in lasting)
            code = "context_length_exceeded" if any("tokens" in c.out for c in lasting) else "unsupported"
            raise ApiError(400, f"No model of {self._wanted.demand.task} can take this: {reasons}.", code=code)
        never = decision.retry_ms is not None and decision.retry_ms / 1000 > self._deadline - time.monotonic()
        if self._wanted.when_busy != "wait" or time.monotonic() >= self._deadline or never:
            raise BusyError(decision, waited)
        self._failures.clear()
        self._was_limit = False

    def _decide(self) -> Decision:
        picture, demand = self._setup.picture, self._wanted.demand
        if self._failures:
            demand = replace(demand, chain=tuple(m for m in demand.chain if m not in self._failures))
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
        wishes = [Wish(picture.states[name].scope, self._tokens_for(name)) for name in decision.attempts]
        verdict = await self._live.store.reserve(wishes)
        picture.reserved(verdict)
        if verdict.reservation is None:
            return self._decide(), None
        scope = verdict.reservation.scope
        picture.begin(scope.model)
        tried = Tried(scope.model, scope.provider)
        self._trail.tried.append(tried)
        return decision, Lease(verdict.reservation, tried, time.monotonic())

    def _tokens_for(self, name: str) -> int:
        """As many as the request can cost where tokens are limited; about as many as it will elsewhere."""
        state = self._setup.picture.states[name]
        asked = self._wanted.demand.output_tokens
        limits = (state.scope.provider_limits, state.scope.model_limits)
        limited = any(one.tokens_per_day is not None or one.tokens_per_minute is not None for one in limits)
        most = min(asked, state.model.max_output) if asked else state.model.max_output
        return self._wanted.demand.prompt_tokens + (most if limited else min(most, _ASSUMED_OUTPUT))

    async def _send(self, lease: Lease, ask: Ask) -> tuple[Adapted, Answer]:
        provider = self._setup.providers[lease.tried.provider]
        adapted = adapt(ask, provider.config, provider.config.models[lease.tried.model])
        answer = await self._live.upstream.send(
            provider, adapted.form, adapted.path, adapted.body, self._wanted.headers
        )
        lease.headers_at = answer.headers_at
        lease.tried.status = answer.status
        if ask.stream:
            self._live.store.started(lease.reservation)
        return adapted, answer

    async def _refused(self, lease: Lease, answer: Answer) -> None:
        """An answer that is not 200: learn from it, and let the client know where the fault is its own."""
        body = await answer.read(self._timeouts(lease).idle)
        config = self._setup.providers[lease.tried.provider].config
        judgement = judge_refusal(
            answer.status, answer.response.headers, body, self._live.store.now_ms, config.requests_header
        )
        self._hear(lease, judgement)
        if judgement.kind is Kind.CLIENT:
            self._settle(lease, (0, 0))
            self._setup.picture.states[lease.tried.model].breaker.succeeded()
            self._trail.model, self._trail.provider = lease.tried.model, lease.tried.provider
            lease.tried.what = judgement.what
            raise UpstreamRefusalError(answer.status, body, answer.response.content_type)
        if judgement.refunds:
            self._refund(lease)
        self._failed(lease, judgement.what, sent=True, counts=judgement.kind is Kind.SERVER)
        self._was_limit = self._was_limit or judgement.kind is Kind.LIMIT

    def _hear(self, lease: Lease, judgement: Judgement) -> None:
        """Close what the provider wants closed, and keep what it said of its limits."""
        heard, scope = judgement.heard, lease.reservation.scope
        state = self._setup.picture.states[scope.model]
        self._learn(lease, heard)
        if judgement.kind is Kind.LIMIT:
            ms = self._pause_ms(lease, heard)
            state.failures_in_a_row += 1
            state.close(f"its provider asked for a pause ({judgement.what})", ms / 1000)
            self._live.pause(scope.provider, scope.model if heard.of_model or heard.until_reset else None, "429", ms)
        elif judgement.kind is Kind.KEY:
            state.close(f"its provider refuses our key or the model's name ({judgement.what})", KEY_PAUSE_SECONDS)

    def _learn(self, lease: Lease, heard: Heard) -> None:
        scope = lease.reservation.scope
        model = scope.model if heard.of_model else None
        known = self._setup.picture.learned.get(scope.provider, {}).get(model or "", {})
        news = {name: value for name, value in heard.limits.items() if known.get(name) != value}
        configured = (scope.model_limits if model else scope.provider_limits).as_dict()
        news = {name: value for name, value in news.items() if configured.get(name) != value}
        if news:
            self._live.learn(scope.provider, news, model)
            learned = {key: dict(value) for key, value in self._setup.picture.learned.get(scope.provider, {}).items()}
            learned.setdefault(model or "", {}).update(news)
            self._setup.picture.learn(scope.provider, learned)
        left = heard.left.get("requests_per_day")
        limit = heard.limits.get("requests_per_day")
        if left is not None and limit is not None:
            call = at_least(scope, self._live.store.now_ms, requests=limit - left)
            self._live.store.settler.put(call)

    def _pause_ms(self, lease: Lease, heard: Heard) -> int:
        """As long as the provider says, until its day ends, or longer each time where it says nothing."""
        now = self._live.store.now_ms
        if heard.until_reset:
            return day_at(lease.reservation.scope.zone, now).end_ms - now
        if heard.wait_ms is not None:
            return max(100, heard.wait_ms)
        routing = self._setup.config.routing
        failures = self._setup.picture.states[lease.tried.model].failures_in_a_row
        pause = min(routing.longest_cooldown_seconds, routing.cooldown_seconds * 2.0 ** min(failures, 16))
        return round(pause * 1000 * random.uniform(0.8, 1.2))  # noqa: S311 -- no secret

    def _note_answer(self, lease: Lease) -> None:
        """The model that answers is known: whatever is told of it from now on is about this one."""
        trail, name = self._trail, lease.tried.model
        trail.model, trail.provider = name, lease.tried.provider
        left = self._setup.picture.left(name)["requests_per_day"]
        trail.quota_left = left
        if trail.decision is not None:
            trail.degraded = degradation(trail.decision, self._setup.picture.models, name, self._failures)

    def _succeeded(self, lease: Lease, answer: Answer, used: tuple[int, int], *, first_token: bool = False) -> None:
        state = self._setup.picture.states[lease.tried.model]
        state.breaker.succeeded()
        state.failures_in_a_row = 0
        if first_token:
            state.first_tokens.add(lease.tried.ms)
        else:
            lease.tried.ms = (time.monotonic() - lease.began) * 1000
            state.times.add(lease.tried.ms)
        self._trail.outcome = "done"
        self._trail.status = 200
        self._settle(lease, used)
        self._note_answer(lease)
        config = self._setup.providers[lease.tried.provider].config
        heard = self._live.upstream.heard(answer, self._live.store.now_ms, config.requests_header)
        if heard is not None:
            self._learn(lease, heard)

    def _failed(
        self, lease: Lease, what: str, *, sent: bool, counts: bool = True, guess: tuple[int, int] = (0, 0)
    ) -> None:
        """The model did not answer: it is out for this request, and for others after several times."""
        lease.tried.what = what
        lease.tried.ms = (time.monotonic() - lease.began) * 1000
        self._failures[lease.tried.model] = what
        if counts:
            self._setup.picture.states[lease.tried.model].breaker.failed()
        if sent:
            self._settle(lease, guess if guess != (0, 0) else (self._wanted.demand.prompt_tokens, 0))
        else:
            self._refund(lease)

    def _abandon(self, lease: Lease, guess: tuple[int, int] = (0, 0)) -> None:
        """Whatever ended the attempt, such as a client that hung up: the provider may have counted it."""
        if lease.open:
            lease.tried.what = lease.tried.what or "the client hung up"
            self._setup.picture.states[lease.tried.model].breaker.probing = False
            self._settle(lease, guess if guess != (0, 0) else (self._wanted.demand.prompt_tokens, 0))

    def _settle(self, lease: Lease, used: tuple[int, int]) -> None:
        if not lease.open:
            return
        lease.open = False
        self._trail.input_tokens += used[0]
        self._trail.output_tokens += used[1]
        self._live.store.settle(lease.reservation, sum(used), lease.headers_at)
        self._setup.picture.end(lease.tried.model)

    def _refund(self, lease: Lease) -> None:
        if lease.open:
            lease.open = False
            self._live.store.refund(lease.reservation)
            self._setup.picture.end(lease.tried.model)

    def _guess(self, watch: StreamWatch) -> tuple[int, int]:
        """Tokens of a stream that did not tell: the prompt's estimate, and about one for each event."""
        if watch.has_usage:
            return watch.input_tokens, watch.output_tokens
        return (self._wanted.demand.prompt_tokens, watch.events) if watch.events else (0, 0)

    def _timeouts(self, lease: Lease) -> Timeouts:
        return self._setup.providers[lease.tried.provider].config.timeouts

    def _waiting_comment(self) -> bytes:
        """Keeps the connection alive, and says how it stands."""
        waiter = getattr(self, "_waiter", None)
        position = self._live.room.position(waiter) if waiter is not None else 0
        retry = self._decide().retry_ms
        eta = f"{retry / 1000:.0f} s" if retry is not None else "unknown"
        return f": waiting, position {position}, next chance in {eta}\n\n".encode()

    def _cut_error(self, lease: Lease) -> ApiError:
        what = self._failures.get(lease.tried.model, "its stream was cut")
        return ApiError(
            502, f"The answer of {lease.tried.model} broke off: {what}. What came before is not complete.",
            code="stream_cut",
        )  # fmt: skip


class UpstreamRefusalError(Exception):
    """A provider says that the request is wrong: its answer goes to whoever asked, as it is."""

    def __init__(self, status: int, body: bytes, content_type: str) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.content_type = content_type


def _seen(splitter: EventSplitter, watch: StreamWatch, adapted: Adapted, chunk: bytes) -> bytes:
    """What the client is to get of a part of a stream, up to a fault."""
    block = b""
    for event in splitter.feed(chunk):
        seen = watch.see(event)
        if watch.error:
            break
        if seen is not None:
            block += adapted.event(seen)
    return block


def _continued(ask: Ask, said: str) -> Ask:
    """The same conversation with what was said so far, and the wish that it goes on."""
    more = [{"role": "assistant", "content": said}, {"role": "user", "content": _CONTINUE}]
    return replace(ask, body={**ask.body, "messages": [*ask.body["messages"], *more]})
