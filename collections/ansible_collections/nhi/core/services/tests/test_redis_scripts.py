# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scripts that go to Redis together: each gets its own answer, or its own error, whatever happens on the way."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from ansible_collections.nhi.core.plugins.module_utils.quota_book import Call
from nhi_services.router.redis_scripts import ScriptRunner, redis_client
from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError, RedisError, ResponseError

from .valkey_server import ValkeyServer, valkey

Work = Callable[[ScriptRunner, Redis], Awaitable[None]]


def play(server: ValkeyServer, work: Work, patience: float = 2.0) -> None:
    async def run() -> None:
        client = redis_client(server.url)
        try:
            await work(ScriptRunner(client, patience), client)
        finally:
            await client.aclose()

    asyncio.run(run())


def echo(value: object) -> Call:
    return Call("return ARGV[1]", ("key",), (str(value),))


def test_each_gets_its_own_answer_or_error(server: ValkeyServer) -> None:
    server.client().script_flush()

    async def work(runner: ScriptRunner, _client: Redis) -> None:
        broken = Call("return redis.error_reply('ERR no')", ("key",), ())
        calls = [broken if number % 50 == 7 else echo(number) for number in range(500)]
        answers = await asyncio.gather(*(runner.run(call) for call in calls), return_exceptions=True)
        for number, answer in enumerate(answers):
            if number % 50 == 7:
                assert isinstance(answer, ResponseError)
            else:
                assert answer == str(number).encode()

    play(server, work)


def test_a_connection_that_was_left_in_the_middle_is_not_used_again(server: ValkeyServer) -> None:
    async def work(runner: ScriptRunner, client: Redis) -> None:
        await runner.run(echo("first"))
        kind: Any = client.connection_pool.connection_class
        usual = kind.read_response

        async def loading(*_: Any, **__: Any) -> Any:
            raise BusyLoadingError("LOADING Redis is loading the dataset in memory")

        kind.read_response = loading
        try:
            found = await asyncio.gather(*(runner.run(echo(n)) for n in range(3)), return_exceptions=True)
        finally:
            kind.read_response = usual
        assert {type(one) for one in found} == {BusyLoadingError}
        assert await asyncio.gather(*(runner.run(echo(n)) for n in "abc")) == [b"a", b"b", b"c"]

    play(server, work)


def test_who_is_cancelled_takes_nobody_else_along(server: ValkeyServer) -> None:
    async def work(runner: ScriptRunner, _client: Redis) -> None:
        for turns in range(30):
            tasks = [asyncio.create_task(runner.run(echo(number))) for number in range(10)]
            for _turn in range(turns):
                await asyncio.sleep(0)
            tasks[3].cancel()
            tasks[0].cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            for number in (1, 2, 4, 5, 6, 7, 8, 9):
                assert found[number] == str(number).encode()

    play(server, work)


def test_a_redis_that_does_not_answer_is_told_to_all_who_wait_within_the_same_time() -> None:
    with valkey(append_only=False) as stopped:

        async def work(runner: ScriptRunner, _client: Redis) -> None:
            await runner.run(echo("first"))
            assert stopped.process is not None
            os.kill(stopped.process.pid, signal.SIGSTOP)
            try:
                waiting = [asyncio.create_task(runner.run(echo(number))) for number in range(3)]
                for _late in range(3):
                    await asyncio.sleep(0.05)
                    waiting += [asyncio.create_task(runner.run(echo(number))) for number in range(300)]
                async with asyncio.timeout(5):
                    found = await asyncio.gather(*waiting, return_exceptions=True)
            finally:
                os.kill(stopped.process.pid, signal.SIGCONT)
            assert all(isinstance(one, (RedisError, OSError)) for one in found)
            assert await runner.run(echo("again")) == b"again"

        play(stopped, work, patience=0.5)


async def left_after(turns: int, runner: ScriptRunner, server: ValkeyServer) -> tuple[bool, list[int]]:
    """Whether whoever asked was cancelled so many turns of the loop later; what Redis had when it was told to undo."""
    undone: list[int] = []
    push = Call("return redis.call('RPUSH', KEYS[1], 1)", ("done",), ())
    task = asyncio.create_task(runner.run(push, lambda: undone.append(server.client().llen("done"))))
    for _turn in range(turns):
        await asyncio.sleep(0)
    was_cancelled = task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0.01)
    return was_cancelled, undone


def test_what_was_done_for_somebody_who_left_is_undone_after_it_and_what_was_not_is_not(server: ValkeyServer) -> None:
    async def work(runner: ScriptRunner, client: Redis) -> None:
        for turns in range(60):
            await client.delete("done")
            was_cancelled, undone = await left_after(turns, runner, server)
            there = await client.llen("done")
            assert undone == ([1] if was_cancelled and there else [])

    play(server, work)
