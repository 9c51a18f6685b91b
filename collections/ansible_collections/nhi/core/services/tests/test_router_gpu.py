# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue of a GPU that is not free, with a worker that keeps to the contract."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from nhi_services.router import attempts
from nhi_services.router.config import ConfigError, parse_config

from .mock_provider import MockProvider
from .router_world import KEY, World, configuration, digest, play, until
from .valkey_server import ValkeyServer, valkey

LOCAL = {"kind": "local", "queue": True, "limits": {"requests_per_day": None}}
GPU: dict[str, Any] = {"names": ["gpu"], "providers": {"gpu": LOCAL}}


@pytest.fixture(scope="module")
def shared() -> Iterator[ValkeyServer]:
    with valkey() as running:
        yield running


def take(server: ValkeyServer) -> dict[str, Any] | None:
    client = server.client()
    for priority in ("high", "medium", "low"):
        text: Any = client.lpop(f"gpu_queue:{priority}")
        if text:
            job: dict[str, Any] = json.loads(text)
            return None if client.exists(f"gpu_cancelled:{job['id']}") else job
    return None


def answer(server: ValkeyServer, job: dict[str, Any], body: Any = None, status: int = 200) -> None:
    class Asked:
        path = job["path"]

    told = MockProvider().whole(Asked(), job["body"]) if body is None else body  # type: ignore[arg-type]
    server.client().set(f"gpu_result:{job['id']}", json.dumps({"status": status, "body": told}), ex=60)


@contextlib.asynccontextmanager
async def worker(server: ValkeyServer, done: list[dict[str, Any]], status: int = 200) -> AsyncIterator[None]:
    async def work() -> None:
        while True:
            job = await asyncio.to_thread(take, server)
            if job is not None:
                done.append(job)
                await asyncio.to_thread(answer, server, job, None, status)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_waits_is_done_by_the_worker(server: ValkeyServer, path: str, stream: bool) -> None:
    async def work(world: World) -> None:
        done: list[dict[str, Any]] = []
        said = [{"role": "user", "content": "Say hello."}]
        body = {"model": "nhi/code", "stream": stream, "max_tokens": 50}
        body["input" if path.endswith("responses") else "messages"] = said
        async with worker(server, done):
            code, told, headers = await world.post(path, body)
        assert (code, headers["X-NHI-Model"]) == (200, "gpu-model"), told
        text = told.decode() if stream else json.dumps(told)
        assert "Hello!" in text
        assert "stream_cut" not in text
        [job] = done
        assert (job["model"], job["path"], job["agent"]) == ("gpu-upstream", "/chat/completions", "aider")
        assert "stream" not in job["body"]
        assert world.providers["gpu"].seen == [], "the light is RED: nobody asks it directly"

    play(server, work, **GPU)


def test_a_stream_is_told_its_position_by_priority(server: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_COMMENT_SECONDS", 0.3)
    server.client().rpush("gpu_queue:high", "one", "two")
    server.client().rpush("gpu_queue:low", "three")

    async def work(world: World) -> None:
        _code, told, _headers = await world.chat(stream=True)
        assert b"position 3 in the GPU's queue, the light is RED, ETA unknown" in told
        assert b'"code":"all_busy"' in told
        await until(lambda: server.client().lrange("gpu_queue:medium", 0, -1) == [])

    play(server, work, routing={"wait_seconds": 1.2}, **GPU)


def test_whoever_hangs_up_takes_the_job_back(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        waiting = [asyncio.create_task(world.chat()) for _one in range(2)]
        await until(lambda: server.client().llen("gpu_queue:medium") == 2)
        taken = take(server)
        assert taken
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)
        await until(lambda: server.client().llen("gpu_queue:medium") == 0)
        # So that the worker stops.
        await until(lambda: server.client().exists(f"gpu_cancelled:{taken['id']}"))
        await until(lambda: len(world.router.live.room) == 0)
        await until(lambda: world.router.live.in_flight == 0)

    play(server, work, **GPU)


def test_a_green_light_lets_it_be_asked_directly_and_the_job_goes(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        asking = asyncio.create_task(world.chat())
        await until(lambda: server.client().llen("gpu_queue:medium") == 1)
        server.client().mset({"semaphore:gpu": "GREEN", "semaphore:gpu:heartbeat": "1"})
        code, _body, headers = await asking
        assert (code, headers["X-NHI-Model"], len(world.providers["gpu"].seen)) == (200, "gpu-model", 1)
        # It is taken back behind the answer.
        await until(lambda: server.client().llen("gpu_queue:medium") == 0)

    play(server, work, **GPU)


def test_a_worker_that_fails_is_told_of_and_not_asked_again(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        done: list[dict[str, Any]] = []
        async with worker(server, done, 500):
            code, told, _headers = await world.chat()
        assert (code, told["error"]["code"], len(done)) == (503, "all_busy", 1)
        async with world.session.get(world.url + "/v1/nhi/status", headers=world.headers) as told_of:
            [last] = (await told_of.json())["last"]
        assert last["attempts"] == [{"model": "gpu-model", "what": "the GPU's worker answered 500"}]

    play(server, work, routing={"wait_seconds": 1.5}, **GPU)


def test_the_priority_is_the_agents(server: ValkeyServer) -> None:
    async def work(world: World) -> None:
        await world.chat()
        await world.router.live.store.settler.flush(2)

    agents = [{"name": "aider", "key_sha256": digest(KEY), "task": "code", "priority": "high"}]
    client = server.client()

    async def watched(world: World) -> None:
        asking = asyncio.create_task(work(world))
        await until(lambda: client.llen("gpu_queue:high") == 1)
        await asking

    play(server, watched, routing={"wait_seconds": 2}, agents=agents, **GPU)


def test_a_queue_is_for_what_nobody_counts(server: ValkeyServer) -> None:
    config = configuration(server, {"gpu": MockProvider(port=9)})
    config["providers"]["gpu"].update(kind="local", queue=True)
    with pytest.raises(ConfigError, match="without limits and prices"):
        parse_config(config)
