# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a request to an answer: decide, reserve, send, and ask the next model where one fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from ansible_collections.nhi.core.plugins.module_utils.routing import degradation

from nhi_services.router.adapted import Adapted, UntranslatableError
from nhi_services.router.admission import Admission, Lease
from nhi_services.router.api_errors import ApiError
from nhi_services.router.asks import CHAT, COMPLETIONS, Ask, tokens_of
from nhi_services.router.config import Timeouts
from nhi_services.router.forms import adapt
from nhi_services.router.judge import Kind, judge_refusal, parse_good
from nhi_services.router.learning import Learner
from nhi_services.router.line import Line, Queued
from nhi_services.router.live import Live, Setup
from nhi_services.router.streams import EventSplitter, GarbageError, StreamWatch
from nhi_services.router.trail import Trail
from nhi_services.router.upstream import Answer, Upstream, UpstreamError
from nhi_services.router.wanted import Wanted

_COMMENT_SECONDS: Final = 5.0
_CONTINUE: Final = "Your answer was cut off. Go on exactly where it stops, without repeating anything."


class Attempts:
    """Serves one request."""

    def __init__(self, live: Live, setup: Setup, wanted: Wanted, trail: Trail) -> None:
        self._live = live
        self._setup = setup
        self._wanted = wanted
        self._trail = trail
        self._admission = Admission(live, setup, wanted, trail)
        self._line = Line(live, setup, wanted, trail, self._admission)
        self._learner = Learner(live, setup)

    async def whole(self) -> tuple[bytes, str]:
        """The body of a good answer and its type; ApiError for a bad one."""
        while True:
            lease = await self._line.wait() if self._setup.queued else await self._admission.lease()
            if isinstance(lease, Queued):
                self._queued(lease)
                return lease.whole(), "application/json"
            try:
                adapted, answer = await self._send(lease, self._wanted.ask)
                if answer.status != 200:
                    await self._refused(lease, answer, adapted)
                    continue
                body = await answer.read(self._timeouts(lease).total)
                parsed, fault = parse_good(body, answer.response.content_type)
                if parsed is None:
                    self._failed(lease, fault, sent=True)
                    continue
                answered = adapted.whole(body, parsed)
            except UntranslatableError as error:
                self._unsaid(lease, error.what)
            except UpstreamError as error:
                self._failed(lease, error.what, sent=error.sent)
            else:
                used = tokens_of(parsed.get("usage"))
                self._succeeded(lease, answer, used or (self._wanted.demand.prompt_tokens, len(body) // 4))
                return answered, "application/json"
            finally:
                self._abandon(lease)

    async def stream(self) -> AsyncGenerator[bytes]:
        """Blocks of whole events: nothing before a model has begun to answer, but comments while it has to wait."""
        wanted = self._wanted
        said = ""
        while True:
            waiting = asyncio.ensure_future(self._line.wait())
            async with aclosing(self._comments(waiting)) as comments:
                async for comment in comments:
                    yield comment
            lease = waiting.result()
            if isinstance(lease, Queued):
                self._queued(lease)
                yield lease.stream(keep_usage=wanted.ask.wants_usage)
                return
            watch = StreamWatch(keep_usage=wanted.ask.wants_usage, collect=wanted.continues)
            try:
                ask = _continued(wanted.ask, said)
                adapted, answer = await self._send(lease, ask)
                try:
                    async for block in self._relay(lease, adapted, answer, watch):
                        yield block
                finally:
                    answer.close()
                if lease.open:
                    self._succeeded(lease, answer, self._guess(watch), first_token=True)
                    return
            except UntranslatableError as error:
                self._unsaid(lease, error.what)
            except UpstreamError as error:
                self._failed(lease, error.what, sent=error.sent, guess=self._guess(watch))
            finally:
                self._abandon(lease, self._guess(watch))
            if not watch.has_content:
                continue
            said += "".join(watch.text)
            if not (wanted.continues and said and _can_go_on(wanted.ask, watch)):
                self._trail.outcome = "cut"
                yield adapted.failed(self._cut_error(lease))
                return

    async def _comments(self, waiting: asyncio.Future[Lease | Queued]) -> AsyncGenerator[bytes]:
        """How it stands, now and then, until the waiting is over."""
        try:
            while not (await asyncio.wait({waiting}, timeout=_COMMENT_SECONDS))[0]:
                yield self._line.comment()
        except BaseException:
            self._line.leave(waiting)
            raise

    def _queued(self, queued: Queued) -> None:
        """The GPU's worker has answered."""
        trail, tried = self._trail, queued.tried
        trail.model, trail.provider, trail.outcome, trail.status = tried.model, tried.provider, "done", 200
        trail.input_tokens, trail.output_tokens = tried.input_tokens, tried.output_tokens
        trail.first_token_ms = trail.ms if trail.stream else None
        if trail.decision is not None:
            models = self._setup.picture.models
            trail.degraded = degradation(trail.decision, models, tried.model, self._admission.failures)

    async def _relay(self, lease: Lease, adapted: Adapted, answer: Answer, watch: StreamWatch) -> AsyncGenerator[bytes]:
        """Whole events, from the first that is content on; a stream that is not whole ends the lease as failed."""
        if answer.status != 200:
            await self._refused(lease, answer, adapted)
            return
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

    async def _send(self, lease: Lease, ask: Ask) -> tuple[Adapted, Answer]:
        provider = self._setup.providers[lease.tried.provider]
        adapted = adapt(ask, provider.config, provider.config.models[lease.tried.model])
        lease.left_out = adapted.left_out
        answer = await self._live.upstream.send(
            provider, adapted.form, adapted.path, adapted.body, self._wanted.headers
        )
        lease.headers_at = answer.headers_at
        lease.tried.status = answer.status
        if ask.stream:
            self._live.store.started(lease.reservation)
        return adapted, answer

    async def _refused(self, lease: Lease, answer: Answer, adapted: Adapted) -> None:
        """An answer that is not 200: learn from it, and let the client know where the fault is its own."""
        body = await answer.read(self._timeouts(lease).idle)
        config = self._setup.providers[lease.tried.provider].config
        judgement = judge_refusal(
            answer.status, answer.response.headers, body, self._live.store.now_ms, config.requests_header
        )
        self._learner.refusal(lease.reservation.scope, judgement)
        if judgement.kind is Kind.CLIENT:
            self._settle(lease, (0, 0))
            self._setup.picture.states[lease.tried.model].breaker.succeeded()
            self._trail.model, self._trail.provider = lease.tried.model, lease.tried.provider
            lease.tried.what = judgement.what
            told, content_type = adapted.refusal(answer.status, body, answer.response.content_type)
            raise UpstreamRefusalError(answer.status, told, content_type)
        if judgement.refunds:
            self._refund(lease)
        self._failed(lease, judgement.what, sent=True, counts=judgement.kind is Kind.SERVER)
        self._admission.was_limit = self._admission.was_limit or judgement.kind is Kind.LIMIT

    def _note_answer(self, lease: Lease) -> None:
        """The model that answers is known: whatever is told of it from now on is about this one."""
        trail, name = self._trail, lease.tried.model
        trail.model, trail.provider = name, lease.tried.provider
        trail.quota_left = self._setup.picture.requests_left(name)
        if trail.decision is not None:
            trail.degraded = degradation(trail.decision, self._setup.picture.models, name, self._admission.failures)
        if lease.left_out:
            untold = f"its provider was not told of {', '.join(lease.left_out)}"
            trail.degraded = "; ".join(filter(None, (trail.degraded, untold)))

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
            self._learner.learn(lease.reservation.scope, heard)

    def _failed(
        self, lease: Lease, what: str, *, sent: bool, counts: bool = True, guess: tuple[int, int] = (0, 0)
    ) -> None:
        """The model did not answer: it is out for this request, and for others after several times."""
        lease.tried.what = what
        lease.tried.ms = (time.monotonic() - lease.began) * 1000
        self._admission.failures[lease.tried.model] = what
        if counts:
            self._setup.picture.states[lease.tried.model].breaker.failed()
        if sent:
            self._settle(lease, guess if guess != (0, 0) else (self._wanted.demand.prompt_tokens, 0))
        else:
            self._refund(lease)

    def _unsaid(self, lease: Lease, what: str) -> None:
        """There are no words for the request in the provider's dialect: nothing was sent, and nobody is at fault."""
        self._failed(lease, f"it can not be asked for {what}", sent=False, counts=False)
        self._setup.picture.states[lease.tried.model].breaker.probing = False
        self._admission.unsupported.add(lease.tried.model)

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
        lease.tried.input_tokens, lease.tried.output_tokens = used
        self._pay(lease, used)
        self._live.store.settle(lease.reservation, sum(used), lease.headers_at)
        self._setup.picture.end(lease.tried.model)

    def _refund(self, lease: Lease) -> None:
        if lease.open:
            lease.open = False
            self._live.store.refund(lease.reservation)
            self._pay(lease, (0, 0))
            self._setup.picture.end(lease.tried.model)

    def _pay(self, lease: Lease, used: tuple[int, int]) -> None:
        """Correct what was taken from the budgets."""
        purse = self._live.purse
        if purse is None:
            return
        cost = self._setup.prices.of(lease.tried.model).most(*used)
        if lease.taken is not None:
            purse.settle(lease.taken, cost)
        elif cost:
            purse.spend(self._wanted.agent.name, cost)

    def _guess(self, watch: StreamWatch) -> tuple[int, int]:
        """Tokens of a stream that did not tell: the prompt's estimate, and about one for each event."""
        if watch.has_usage:
            return watch.input_tokens, watch.output_tokens
        return (self._wanted.demand.prompt_tokens, watch.events) if watch.events else (0, 0)

    def _timeouts(self, lease: Lease) -> Timeouts:
        return self._setup.providers[lease.tried.provider].config.timeouts

    def _cut_error(self, lease: Lease) -> ApiError:
        what = self._admission.failures.get(lease.tried.model, "its stream was cut")
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


def _can_go_on(ask: Ask, watch: StreamWatch) -> bool:
    """Whether another model can go on where a stream was cut: only in one text, in a form that has no frame around."""
    if ask.body.get("n") not in (None, 1) or watch.has_calls:
        return False
    return ask.form == CHAT or (ask.form == COMPLETIONS and isinstance(ask.body["prompt"], str))


def _continued(ask: Ask, said: str) -> Ask:
    """The same conversation with what was said so far, if anything was, and the wish that it goes on."""
    if not said:
        return ask
    if ask.form == COMPLETIONS:
        return replace(ask, body={**ask.body, "prompt": ask.body["prompt"] + said})
    more = [{"role": "assistant", "content": said}, {"role": "user", "content": _CONTINUE}]
    return replace(ask, body={**ask.body, "messages": [*ask.body["messages"], *more]})
