# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scripts in Redis, cheaply: those that are asked for at the same moment go there together, packed by hiredis."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import hiredis
from ansible_collections.nhi.core.plugins.module_utils.quota_book import Call
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

PATIENCE_SECONDS: Final = 2.0
# So many round trips are under way at once; what comes meanwhile goes with the next.
_TRIPS: Final = 2
_MOST: Final = 200

Command = Callable[[Pipeline], Any]


class _Packing:
    """redis-py packs the words of a command one by one where it works with asyncio."""

    def pack_command(self, *words: Any) -> list[bytes]:
        """One command."""
        return [_packed(words)]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """Several."""
        return [b"".join(map(_packed, commands))]


def _packed(words: Iterable[Any]) -> bytes:
    first, *rest = words
    # redis-py names some commands by two words.
    packed: bytes = hiredis.pack_command((*first.split(), *rest))
    return packed


class _Tcp(_Packing, Connection):
    pass


class _Tls(_Packing, SSLConnection):
    pass


class _Unix(_Packing, UnixDomainSocketConnection):
    pass


_KINDS: Final = {Connection: _Tcp, SSLConnection: _Tls, UnixDomainSocketConnection: _Unix}


def redis_client(url: str, password: str | None = None) -> Redis:
    """A client without a time limit of its own: whoever asks sets one by asyncio.timeout.

    With ``socket_timeout``, which has a default, redis-py writes by asyncio.wait_for: that may let a cancellation go by
    before Python 3.12, and costs a task for each command.
    """
    client = Redis.from_url(
        url, password=password, socket_timeout=None, socket_connect_timeout=PATIENCE_SECONDS, max_connections=200
    )
    pool = client.connection_pool
    pool.connection_class = _KINDS.get(pool.connection_class, pool.connection_class)
    return client


class _Asked(NamedTuple):
    """A call, who waits for its answer, and what is to be done for nobody who waits any more."""

    call: Call
    answer: asyncio.Future[Any]
    undo: Callable[[], None] | None

    def end(self, found: Any) -> None:
        """Redis has done it, or failed."""
        if self.answer.done():
            if self.undo is not None:
                self.undo()
        elif isinstance(found, Exception):
            self.answer.set_exception(found)
        else:
            self.answer.set_result(found)


class ScriptRunner:
    """Runs calls by the digest of their script, which Redis is given once; TimeoutError without an answer in time."""

    def __init__(self, client: Redis, patience: float = PATIENCE_SECONDS) -> None:
        self._client = client
        self._patience = patience
        self._digests: dict[str, str] = {}
        self._waiting: list[_Asked] = []
        self._trips: set[asyncio.Task[None]] = set()

    async def run(self, call: Call, undo: Callable[[], None] | None = None) -> Any:
        """Run one call, together with others of the same moment; RedisError or OSError when there is no answer.

        Whoever is cancelled has it undone, if it was sent, once Redis has done it: before, there is nothing to undo.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append(_Asked(call, answer, undo))
        if len(self._waiting) == 1 and len(self._trips) < _TRIPS:
            loop.call_soon(self._depart)
        try:
            return await answer
        except asyncio.CancelledError:
            # The answer was there already, and is taken by nobody.
            if undo is not None and not answer.cancelled():
                undo()
            raise

    def _depart(self) -> None:
        if self._waiting and len(self._trips) < _TRIPS:
            batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
            trip = asyncio.create_task(self._trip(batch))
            self._trips.add(trip)
            trip.add_done_callback(self._arrive)

    def _arrive(self, trip: asyncio.Task[None]) -> None:
        self._trips.discard(trip)
        self._depart()

    async def _trip(self, batch: list[_Asked]) -> None:
        # Nobody asks for what was given up before it left.
        batch = [asked for asked in batch if not asked.answer.done()]
        if not batch:
            return
        answers: list[Any] = []
        try:
            answers = await self.run_all([asked.call for asked in batch])
        except Exception as error:  # noqa: BLE001 -- each who waits is told of it
            # Those that wait for the next trip would wait as long in vain.
            batch, self._waiting = [*batch, *self._waiting], []
            answers = [error] * len(batch)
        finally:
            # Nobody waits for ever, whatever happened.
            answers += [RedisConnectionError("the router stops")] * (len(batch) - len(answers))
            for asked, found in zip(batch, answers, strict=True):
                asked.end(found)

    async def run_all(self, calls: Sequence[Call | Command]) -> list[Any]:
        """What calls answer in one round trip, or the error of each; RedisError or OSError when there is no answer."""
        answers = await self._once(calls)
        unknown = [at for at, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            for script in {call.script for at in unknown if isinstance(call := calls[at], Call)}:
                async with asyncio.timeout(self._patience):
                    await self._client.script_load(script)
            for at, answer in zip(unknown, await self._once([calls[at] for at in unknown]), strict=True):
                answers[at] = answer
        return answers

    async def _once(self, calls: Sequence[Call | Command]) -> list[Any]:
        scripts = [call for call in calls if isinstance(call, Call)]
        async with asyncio.timeout(self._patience):
            if len(scripts) == len(calls):
                return await self._scripts(scripts)
            pipeline = self._client.pipeline(transaction=False)
            for call in calls:
                if isinstance(call, Call):
                    pipeline.execute_command(*self._words(call))
                else:
                    call(pipeline)
            return list(await pipeline.execute(raise_on_error=False))

    async def _scripts(self, calls: Sequence[Call]) -> list[Any]:
        """A pipeline of nothing but scripts, without what redis-py does for other commands."""
        pool: Any = self._client.connection_pool
        connection = await pool.get_connection()
        answers: list[Any] = []
        try:
            await connection.send_packed_command(
                [b"".join([hiredis.pack_command(self._words(call)) for call in calls])]
            )
            for _call in calls:
                try:
                    answers.append(await connection.read_response())
                except ResponseError as error:
                    answers.append(error)
        except BaseException:
            # What was not read yet must not be taken for answers to what is asked next.
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)
        return answers

    def _words(self, call: Call) -> Any:
        return ("EVALSHA", self._digest(call.script), len(call.keys), *call.keys, *call.args)

    def _digest(self, script: str) -> str:
        """The name of a script in Redis."""
        found = self._digests.get(script)
        if found is None:
            found = self._digests[script] = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        return found
