# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deferred tasks in a real PostgreSQL: none is lost, none is done twice, and whoever waits is told."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest
from aiohttp import web
from nhi_services.router.config import NotifyConfig
from nhi_services.router.deferred import Claim, DeferredFullError, DeferredStore, Notice
from nhi_services.router.deferred_work import DeferredWorker, Hook, NoRoomError, Notifier, TaskRefusedError
from nhi_services.router.link import DatabaseLostError, Link

from .router_database import RouterDatabase

pytestmark = pytest.mark.slow

BODY = {"model": "nhi/code", "messages": [{"role": "user", "content": "é \0 1.0 \udcff"}], "seed": 1.0}
Play = Callable[[Callable[..., Awaitable[None]]], None]


def play(database: RouterDatabase, work: Callable[..., Awaitable[None]], **options: Any) -> None:
    """With the stores of two routers."""

    async def run() -> None:
        links = [Link(database.router, patience=2.0) for _one in range(2)]
        try:
            await work(*(DeferredStore(link, name, **options) for link, name in zip(links, "ab", strict=True)))
        finally:
            for link in links:
                await link.close()

    asyncio.run(run())


def lapse(database: RouterDatabase) -> None:
    """Let all leases end."""
    database.ask("UPDATE router.deferred_tasks SET lease_until = now() - interval '1 s' WHERE status = 'running'")


def test_a_request_comes_out_as_it_went_in_and_its_result_is_for_its_agent_only(database: RouterDatabase) -> None:
    async def work(one: DeferredStore, two: DeferredStore) -> None:
        name = await one.add("aider", "code", BODY)
        (claim,) = await two.claim()
        assert (claim.id, claim.agent, claim.task, claim.attempt) == (name, "aider", "code", 1)
        assert json.dumps(claim.payload) == json.dumps(BODY)
        assert await two.complete(claim, {"choices": ["\0"]})
        found = await one.get(name, "aider")
        assert found
        assert (found.status, found.result, found.attempts) == ("done", {"choices": ["\0"]}, 1)
        assert found.as_data()["finished_at"]
        assert await one.get(name, "oi") is None
        assert await one.get(uuid4(), "aider") is None
        assert await one.counts() == {"pending": 0, "running": 0, "done": 1, "failed": 0, "cancelled": 0}

    play(database, work)


def test_the_important_come_first_then_the_oldest(database: RouterDatabase) -> None:
    async def work(one: DeferredStore, _two: DeferredStore) -> None:
        low = await one.add("aider", "code", BODY, "low")
        first, second = await one.add("aider", "code", BODY, "high"), await one.add("aider", "code", BODY, "high")
        assert [claim.id for claim in await one.claim(3)] == [first, second, low]

    play(database, work)


def test_two_routers_that_claim_at_once_never_get_the_same(database: RouterDatabase) -> None:
    async def work(one: DeferredStore, two: DeferredStore) -> None:
        names = [await one.add("aider", "code", BODY) for _one in range(60)]
        claims: list[Claim] = []
        assert await one.counts() == await two.counts(), "both are connected"

        async def grab(store: DeferredStore) -> None:
            while found := await store.claim(2):
                claims.extend(found)

        await asyncio.gather(grab(one), grab(two))
        assert Counter(claim.id for claim in claims) == Counter(names)
        assert {claim.owner for claim in claims} == {"a", "b"}

    play(database, work)


def test_what_a_killed_router_held_is_done_by_another_and_its_late_answer_does_not_count(
    database: RouterDatabase,
) -> None:
    async def work(one: DeferredStore, two: DeferredStore) -> None:
        name = await one.add("aider", "code", BODY)
        (old,) = await one.claim()
        assert await two.claim() == []
        lapse(database)
        (new,) = await two.claim()
        assert (new.id, new.attempt) == (name, 2)
        assert not await one.renew(old)
        assert not await one.complete(old, "late")
        assert not await one.fail(old, "late")
        assert not await one.release(old, 0)
        assert await two.complete(new, "right")
        assert await two.complete(new, "right"), "an answer of the database may be lost"
        found = await one.get(name, "aider")
        assert found
        assert (found.status, found.result) == ("done", "right")

    play(database, work)


def test_a_task_that_kills_each_router_fails_in_the_end(database: RouterDatabase) -> None:
    async def work(one: DeferredStore, _two: DeferredStore) -> None:
        one.attempts = 2
        name = await one.add("aider", "code", BODY)
        for _one in range(2):
            assert len(await one.claim()) == 1
            lapse(database)
        assert await one.claim() == []
        found = await one.get(name, "aider")
        assert found
        assert (found.status, found.error) == ("failed", "the routers that worked at it were stopped")

    play(database, work)


def test_failures_are_tried_again_later_and_not_for_ever(database: RouterDatabase) -> None:
    async def work(one: DeferredStore, _two: DeferredStore) -> None:
        one.attempts = 2
        name = await one.add("aider", "code", BODY)
        (claim,) = await one.claim()
        assert await one.release(claim, 0)
        (claim,) = await one.claim()
        assert claim.attempt == 1, "what was not tried does not count"
        assert await one.fail(claim, "503 \0 from\nclaude", retry_seconds=60)
        assert await one.claim() == []
        waiting = await one.get(name, "aider")
        assert waiting
        assert (waiting.status, waiting.error) == ("pending", "503 from claude")
        assert waiting.due_at
        database.ask("UPDATE router.deferred_tasks SET due_at = now()")
        (claim,) = await one.claim()
        assert await one.fail(claim, "503", retry_seconds=60)
        found = await one.get(name, "aider")
        assert found
        assert found.status == "failed"

    play(database, work)


def test_too_many_tasks_are_refused_and_none_is_pushed_out(database: RouterDatabase) -> None:
    async def work(one: DeferredStore, _two: DeferredStore) -> None:
        one.most_open = 3
        added = await asyncio.gather(*(one.add("aider", "code", BODY) for _one in range(6)), return_exceptions=True)
        assert sum(isinstance(one, UUID) for one in added) == 3
        assert sum(isinstance(one, DeferredFullError) for one in added) == 3
        one.most_open, one.most_bytes = 1000, 1000
        with pytest.raises(DeferredFullError, match="MiB"):
            await one.add("aider", "code", {"prompt": "x" * 1000})

    play(database, work)


def test_a_database_that_is_restarted_loses_no_task(database: RouterDatabase) -> None:
    async def work(one: DeferredStore, two: DeferredStore) -> None:
        first = await one.add("aider", "code", BODY)
        (claim,) = await two.claim()
        database.server.stop(signal.SIGKILL)
        with pytest.raises(DatabaseLostError, match="can not be used"):
            await one.add("aider", "code", BODY)
        database.server.start()
        assert await two.complete(claim, "done")
        second = await one.add("aider", "code", BODY)
        assert [claim.id for claim in await one.claim(9)] == [second]
        found = await one.get(first, "aider")
        assert found
        assert found.status == "done"

    play(database, work)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not true():  # noqa: ASYNC110 -- what is waited for tells nobody
            await asyncio.sleep(0.02)


async def ended(store: DeferredStore, number: int) -> None:
    while True:
        counts = await store.counts()
        if counts["done"] + counts["failed"] >= number:
            return
        await asyncio.sleep(0.02)


def test_workers_do_everything_once_also_when_one_of_them_is_stopped(database: RouterDatabase) -> None:
    async def work(one: DeferredStore, two: DeferredStore) -> None:
        done: Counter[UUID] = Counter()
        tried: Counter[UUID] = Counter()

        async def execute(claim: Claim) -> Any:
            tried[claim.id] += 1
            await asyncio.sleep(0.01)
            if claim.task == "wrong":
                raise TaskRefusedError("no such model")
            if tried[claim.id] == 1:
                raise NoRoomError("all are busy", 0.05)
            done[claim.id] += 1
            return {"answer": str(claim.id)}

        names = [await one.add("aider", "code", BODY) for _one in range(20)]
        wrong = await one.add("aider", "wrong", BODY)
        workers = [DeferredWorker(store, execute, seconds=0.02) for store in (one, two)]
        for worker in workers:
            worker.start()
        await ended(one, 5)
        await workers[0].close()
        await ended(one, 21)
        await workers[1].close()
        assert done == Counter(names)
        found = await one.get(wrong, "aider")
        assert found
        assert (found.status, found.error, tried[wrong]) == ("failed", "no such model", 1)

    play(database, work)


def test_a_worker_that_is_stopped_while_an_answer_is_kept_keeps_it(database: RouterDatabase) -> None:
    async def work(one: DeferredStore, two: DeferredStore) -> None:
        complete, keeping = one.complete, asyncio.Event()

        async def slow(claim: Claim, result: Any) -> bool:
            if not keeping.is_set():
                keeping.set()
                await asyncio.sleep(30)
            return await complete(claim, result)

        async def execute(_claim: Claim) -> str:
            return "once"

        one.complete = slow  # type: ignore[method-assign]
        await one.add("aider", "code", BODY)
        worker = DeferredWorker(one, execute, seconds=0.02)
        worker.start()
        await keeping.wait()
        await worker.close()
        assert await two.claim() == []
        assert (await two.counts())["done"] == 1

    play(database, work)


def test_a_worker_holds_its_task_for_longer_than_a_lease(database: RouterDatabase) -> None:
    async def work(one: DeferredStore, two: DeferredStore) -> None:
        began = asyncio.Event()

        async def execute(_claim: Claim) -> str:
            began.set()
            await asyncio.sleep(1.5)
            return "slow"

        await one.add("aider", "code", BODY)
        worker = DeferredWorker(one, execute, seconds=0.02, lease_seconds=0.5)
        worker.start()
        await began.wait()
        for _one in range(12):
            assert await two.claim() == []
            await asyncio.sleep(0.1)
        await ended(one, 1)
        await worker.close()

    play(database, work, lease_seconds=0.5)


def test_a_worker_leaves_a_task_that_it_can_not_hold_before_another_may_begin(database: RouterDatabase) -> None:
    async def work(one: DeferredStore, two: DeferredStore) -> None:
        running = 0

        async def execute(_claim: Claim) -> str:
            nonlocal running
            running += 1
            try:
                await asyncio.sleep(0.1 if running > 1 else 30)
            finally:
                running -= 1
            return "done"

        await one.add("aider", "code", BODY)
        worker = DeferredWorker(one, execute, seconds=0.02, lease_seconds=1.0)
        worker.start()
        await until(lambda: running > 0)
        # As if only this router had lost the database.
        one._link._conninfo = "host=127.0.0.1 port=1"
        await one._link.close()
        while not (claims := await two.claim()):  # noqa: ASYNC110 -- a lease ends by itself
            await asyncio.sleep(0.01)
        assert running == 0
        assert claims[0].attempt == 2
        await worker.close()

    play(database, work, lease_seconds=1.0)


def test_a_command_is_told_by_its_standard_input_and_tried_again(database: RouterDatabase, tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = tmp_path / "hook.py"
    script.write_text(
        "import sys, pathlib\n"
        f"told = pathlib.Path({str(told)!r})\n"
        "tries = told.read_text() if told.exists() else ''\n"
        "told.write_text(tries + sys.stdin.read() + '\\n')\n"
        "sys.exit(0 if tries else 3)\n"
    )

    async def work(one: DeferredStore, _two: DeferredStore) -> None:
        name = await one.add("aider", "code", BODY)
        (claim,) = await one.claim()
        await one.complete(claim, "secret answer")
        async with aiohttp.ClientSession() as session:
            hook = Hook(NotifyConfig(command=[sys.executable, str(script)]), session)
            notifier = Notifier(one, hook, seconds=0.02, pause=0.1)
            notifier.start()
            await until(lambda: database.ask("SELECT count(notified_at) FROM router.deferred_tasks") == "1")
            await notifier.close()
        first, second = (json.loads(line) for line in told.read_text().splitlines())
        assert first == second
        assert (second["id"], second["agent"], second["status"]) == (str(name), "aider", "done")
        assert "secret answer" not in told.read_text()

    play(database, work, notifies=True)


def test_a_hook_that_never_answers_blocks_nobody_and_is_given_up(
    database: RouterDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(one: DeferredStore, _two: DeferredStore) -> None:
        for _one in range(3):
            await one.add("aider", "code", BODY)
        for claim in await one.claim(3):
            await one.fail(claim, "no")
        calls: list[Any] = []

        async def answer(request: web.Request) -> web.Response:
            calls.append(await request.json())
            await asyncio.sleep(5 if len(calls) % 2 else 0)
            return web.Response(status=500)

        app = web.Application()
        app.router.add_post("/token-s3cret", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        config = NotifyConfig(url=f"http://127.0.0.1:{port}/token-s3cret", timeout_seconds=0.2, attempts=2)
        async with aiohttp.ClientSession() as session:
            notifier = Notifier(one, Hook(config, session), seconds=0.02, pause=0.05)
            notifier.start()
            await until(lambda: caplog.text.count("in 2 attempts") == 3)
            await notifier.close()
        await runner.cleanup()
        assert len(calls) == 6
        assert database.ask("SELECT count(notice_at) FROM router.deferred_tasks") == "0"
        assert "s3cret" not in caplog.text

    play(database, work, notifies=True)


def test_two_routers_tell_of_a_task_once(database: RouterDatabase) -> None:
    async def work(one: DeferredStore, two: DeferredStore) -> None:
        for _one in range(30):
            await one.add("aider", "code", BODY)
        for claim in await one.claim(30):
            await one.complete(claim, "x")
        told: list[Notice] = []

        async def grab(store: DeferredStore) -> None:
            while found := await store.notices(3, 10, 60):
                told.extend(found)

        await asyncio.gather(grab(one), grab(two))
        assert len({notice.id for notice in told}) == len(told) == 30

    play(database, work, notifies=True)


@pytest.mark.parametrize(
    "wrong", [{}, {"command": ["sh"]}, {"url": "ftp://x/y"}, {"url": "http://x/y", "command": ["/bin/true"]}]
)
def test_a_hook_is_one_command_or_one_address(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"name one of|whole path|must be http"):
        NotifyConfig(**wrong)
