# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue of a local GPU that is not free: a job is put there for a request that waits, and its result awaited.

The contract with the worker: it takes jobs (JSON) from the heads of the queues, high before medium before low, leaves
out those whose deadline has passed or that are cancelled, and sets the result ({"status": 200, "body": {...}}, or
another status with "error") with an expiry.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from ansible_collections.nhi.core.plugins.module_utils import redis_keys
from redis.exceptions import RedisError

from nhi_services.router.config import PRIORITIES
from nhi_services.router.judge import parse_good
from nhi_services.router.live import Live
from nhi_services.router.redis_scripts import PATIENCE_SECONDS
from nhi_services.router.upstream import UpstreamError

_LOOK_SECONDS: Final = 0.2


@dataclass
class GpuJob:
    """A request for a model of the GPU; ``model`` is its name there, the deadline is Unix time in ms."""

    model: str
    path: str
    body: dict[str, Any]
    agent: str
    priority: str
    created_ms: int
    deadline_ms: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    # 1 is next; 0 once a worker has it, None before anything is known.
    position: int | None = None

    def as_text(self) -> str:
        """As it stands in the queue."""
        names = ("id", "model", "path", "body", "agent", "priority", "created_ms", "deadline_ms")
        return json.dumps({name: getattr(self, name) for name in names}, separators=(",", ":"))


async def ask_gpu(live: Live, job: GpuJob) -> dict[str, Any]:
    """The answer of the GPU's worker; UpstreamError without one. Whoever is cancelled takes the job back."""
    queue, text, result = redis_keys.gpu_queue_key(job.priority), job.as_text(), redis_keys.gpu_result_key(job.id)
    found: Any = None
    try:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                pushed: Any = live.redis.rpush(queue, text)
                await pushed
        except (RedisError, OSError) as error:
            raise UpstreamError("the GPU's queue can not be reached", sent=False) from error
        while live.store.now_ms < job.deadline_ms:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    found, job.position = await _look(live, job, queue, text, result)
            except (RedisError, OSError):
                # A Redis that comes back has the queue still.
                await asyncio.sleep(_LOOK_SECONDS)
            if found is not None:
                return _answer(found)
            await asyncio.sleep(_LOOK_SECONDS)
        raise UpstreamError("the GPU's queue did not come to it in time", sent=False)
    finally:
        if found is None:
            rest = max(1000, job.deadline_ms - live.store.now_ms)
            live.store.settler.put(lambda pipeline: pipeline.lrem(queue, 1, text))
            live.store.settler.put(lambda pipeline: pipeline.set(redis_keys.gpu_cancelled_key(job.id), "1", px=rest))


async def _look(live: Live, job: GpuJob, queue: str, text: str, result: str) -> tuple[Any, int]:
    """The result, if it is there, and the job's position."""
    before = PRIORITIES[: PRIORITIES.index(job.priority)]
    pipeline: Any = live.redis.pipeline(transaction=False)
    pipeline.getdel(result)
    pipeline.lpos(queue, text)
    for priority in before:
        pipeline.llen(redis_keys.gpu_queue_key(priority))
    found, at, *longer = await pipeline.execute()
    return found, 0 if at is None else 1 + at + sum(longer)


def _answer(found: bytes) -> dict[str, Any]:
    try:
        told = json.loads(found)
        status, body = told["status"], told.get("body")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UpstreamError("the GPU's worker answered with what is no result", sent=True) from error
    if status != 200:
        raise UpstreamError(f"the GPU's worker answered {status}", sent=True)
    parsed, fault = parse_good(json.dumps(body).encode(), "application/json")
    if parsed is None:
        raise UpstreamError(fault, sent=True)
    return parsed


def stream_of(parsed: dict[str, Any]) -> Iterator[bytes]:
    """A whole answer as the events of a stream."""
    head = {name: value for name, value in parsed.items() if name not in ("choices", "usage", "object")}
    kind = "chat.completion.chunk" if parsed.get("object") == "chat.completion" else parsed.get("object")
    for choice in parsed.get("choices") or ():
        rest = {name: value for name, value in choice.items() if name not in ("message", "finish_reason")}
        said = choice.get("message")
        if isinstance(said, dict):
            calls = [{"index": at, **call} for at, call in enumerate(said.get("tool_calls") or ())]
            rest["delta"] = {**said, **({"tool_calls": calls} if calls else {})}
        yield _event({**head, "object": kind, "choices": [{**rest, "finish_reason": None}]})
        end: dict[str, Any] = {"index": choice.get("index", 0), "finish_reason": choice.get("finish_reason") or "stop"}
        empty: dict[str, Any] = {"delta": {}} if isinstance(said, dict) else {"text": ""}
        yield _event({**head, "object": kind, "choices": [{**end, **empty}]})
    if parsed.get("usage"):
        yield _event({**head, "object": kind, "choices": [], "usage": parsed["usage"]})
    yield b"data: [DONE]\n\n"


def _event(part: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(part, separators=(",", ":")).encode() + b"\n\n"
