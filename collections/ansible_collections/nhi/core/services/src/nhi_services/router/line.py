# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a request stands that can not be answered at once: in line for models, and in the queue of a GPU beside it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, replace
from typing import Any, Final

from nhi_services.router.adapted import Adapted, UntranslatableError
from nhi_services.router.admission import Admission, Lease
from nhi_services.router.asks import tokens_of
from nhi_services.router.forms import adapt
from nhi_services.router.gpu import GpuJob, ask_gpu, stream_of
from nhi_services.router.live import Live, Setup
from nhi_services.router.streams import EventSplitter, StreamWatch
from nhi_services.router.trail import Trail, Tried
from nhi_services.router.upstream import UpstreamError
from nhi_services.router.wanted import Wanted

_LOOK_SECONDS: Final = 0.2
_STREAMING: Final = ("stream", "stream_options")


@dataclass(frozen=True)
class Queued:
    """What a GPU answered by its queue."""

    parsed: dict[str, Any]
    adapted: Adapted
    tried: Tried

    def whole(self) -> bytes:
        """For a client that does not stream."""
        return self.adapted.whole(json.dumps(self.parsed).encode(), self.parsed)

    def stream(self, *, keep_usage: bool) -> bytes:
        """For one that does."""
        splitter, watch, block = EventSplitter(), StreamWatch(keep_usage=keep_usage), b""
        for event in splitter.feed(b"".join(stream_of(self.parsed))):
            seen = watch.see(event)
            if seen is not None:
                block += self.adapted.event(seen)
        return block


class Line:
    """Waits for what comes first: a model that has room, or the GPU's worker."""

    def __init__(self, live: Live, setup: Setup, wanted: Wanted, trail: Trail, admission: Admission) -> None:
        self._live, self._setup, self._wanted = live, setup, wanted
        self._trail, self._admission = trail, admission
        self._job: GpuJob | None = None
        self._in_vain: set[str] = set()
        self._model = ""

    async def wait(self) -> Lease | Queued:
        """A lease of a model, or the GPU's answer; ApiError for neither."""
        if not self._setup.queued.intersection(self._wanted.demand.chain):
            return await self._admission.lease()
        leasing, got = asyncio.ensure_future(self._admission.lease()), False
        asking: asyncio.Future[Queued] | None = None
        try:
            while True:
                name = self._admission.behind_light(self._in_vain) if asking is None else ""
                if name and self._admission.is_waiting:
                    asking = asyncio.ensure_future(self._ask(name))
                tasks: list[asyncio.Future[Any]] = [leasing, *([] if asking is None else [asking])]
                await asyncio.wait(tasks, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if leasing.done():
                    got = True
                    return leasing.result()
                if asking is not None and asking.done():
                    queued = self._ended(asking)
                    if queued is not None:
                        return queued
                    asking = None
        finally:
            self._job = None
            if not got:
                self.leave(leasing)
            if asking is not None:
                asking.cancel()

    def leave(self, waiting: asyncio.Future[Any]) -> None:
        """Wait no longer; a lease that came at the same moment goes back."""
        waiting.cancel()
        waiting.add_done_callback(self._drop)

    def _drop(self, waiting: asyncio.Future[Any]) -> None:
        if not waiting.cancelled() and waiting.exception() is None and isinstance(waiting.result(), Lease):
            self._admission.take_back(waiting.result())

    async def _ask(self, name: str) -> Queued:
        model = self._setup.picture.models[name]
        provider = self._setup.providers[model.provider]
        ask = self._wanted.ask
        body = {key: value for key, value in ask.body.items() if key not in _STREAMING}
        config = provider.config.models[name]
        sent = adapt(replace(ask, stream=False, body=body), provider.config, config)
        now, self._model = self._live.store.now_ms, name
        self._job = GpuJob(
            config.upstream, sent.path, sent.body, self._wanted.agent.name, self._wanted.agent.priority, now,
            now + round(self._admission.seconds_left * 1000),
        )  # fmt: skip
        tried = Tried(name, model.provider)
        self._trail.tried.append(tried)
        try:
            parsed = await ask_gpu(self._live, self._job)
        except UpstreamError as error:
            tried.what = error.what
            raise
        except asyncio.CancelledError:
            tried.what = "it was not waited for any longer"
            raise
        tried.status, tried.ms = 200, self._live.store.now_ms - now
        tried.input_tokens, tried.output_tokens = tokens_of(parsed.get("usage")) or (0, 0)
        return Queued(parsed, adapt(ask, provider.config, config) if ask.stream else sent, tried)

    def _ended(self, asking: asyncio.Future[Queued]) -> Queued | None:
        error = asking.exception()
        if error is None:
            return asking.result()
        if not isinstance(error, (UpstreamError, UntranslatableError)):
            raise error
        self._in_vain.add(self._model)
        return None

    def comment(self) -> bytes:
        """Keeps the connection alive, and says how it stands."""
        job = self._job
        if job is None or job.position is None:
            return self._admission.comment()
        light = self._setup.picture.gpu_light or "RED"
        if not job.position:
            return f": the GPU's worker has it, the light is {light}\n\n".encode()
        mean = self._setup.picture.states[self._model].times.mean(time.monotonic())
        eta = f"about {job.position * mean / 1000:.0f} s" if mean is not None and light != "RED" else "unknown"
        return f": waiting, position {job.position} in the GPU's queue, the light is {light}, ETA {eta}\n\n".encode()
