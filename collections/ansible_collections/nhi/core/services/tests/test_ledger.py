# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The router's books against a real PostgreSQL: no row is lost or doubled, whatever is killed when."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from nhi_services.router.entries import Choice, Entry, line_of
from nhi_services.router.ledger import Ledger
from nhi_services.router.link import Link
from nhi_services.router.spool import Spool

from .router_database import RouterDatabase

pytestmark = pytest.mark.slow

Work = Callable[[Ledger], Awaitable[None]]


def entry(number: int = 0, **more: object) -> Entry:
    values: dict[str, object] = {
        "timestamp": datetime.now(UTC), "request_id": uuid4(), "provider": "claude", "model": "sonnet",
        "agent": "aider", "task": "code", "input_tokens": number, "output_tokens": 1, "latency_ms": 812.4,
        "cost_usd": Decimal("0.0087"), "user_agent": "Aider/0.86", **more,
    }  # fmt: skip
    return Entry(**values)  # type: ignore[arg-type]


def choice(**more: object) -> Choice:
    candidates = [{"model": "sonnet", "provider": "claude", "score": 0.91, "terms": {"quota": 0.9}}]
    values: dict[str, object] = {
        "timestamp": datetime.now(UTC), "request_id": uuid4(), "agent": "aider", "task": "code", "chosen": "sonnet",
        "reason": "best score", "provider": "claude", "candidates": candidates, **more,
    }  # fmt: skip
    return Choice(**values)  # type: ignore[arg-type]


def play(database: RouterDatabase, directory: Path, work: Work, **options: float) -> Ledger:
    async def run() -> Ledger:
        link = Link(database.router, patience=2.0)
        ledger = Ledger(link, Spool(directory), seconds=0.02, **options)  # type: ignore[arg-type]
        ledger.start()
        try:
            await work(ledger)
        finally:
            await ledger.close()
            await link.close()
        return ledger

    return asyncio.run(run())


async def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 -- what is waited for tells nobody
            await asyncio.sleep(0.02)


def numbers(database: RouterDatabase) -> list[int]:
    return [int(n) for n in database.ask("SELECT input_tokens FROM router.api_requests ORDER BY 1").split()]


def test_what_is_recorded_is_there_with_every_column(database: RouterDatabase, tmp_path: Path) -> None:
    one, why = entry(1200, first_token_ms=90.6, degraded="sonnet was busy"), choice(asked_for="nhi/code")

    async def work(ledger: Ledger) -> None:
        ledger.record(one)
        ledger.record(why)
        await until(lambda: ledger.stats.written == 2)

    ledger = play(database, tmp_path, work)
    assert database.ask(
        "SELECT request_id, provider, model, agent, task_type, input_tokens, output_tokens, latency_ms, first_token_ms,"
        " cost_usd, user_agent, status, success, attempt, degraded,"
        " now() - timestamp < '1 min' FROM router.api_requests"
    ) == (
        f"{one.request_id}|claude|sonnet|aider|code|1200|1|812|91|0.00870000|Aider/0.86|200|t|1|sonnet was busy|t"
    )  # fmt: skip
    assert database.ask(
        "SELECT chosen, reason, asked_for, candidates->0->'terms'->>'quota' FROM router.routing_log"
    ) == "sonnet|best score|nhi/code|0.9"  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    assert (ledger.stats.spooled, ledger.stats.dropped) == (0, 0)


def test_whatever_a_client_calls_itself_is_written(database: RouterDatabase, tmp_path: Path) -> None:
    hostile = "x\0'; DROP TABLE router.api_requests; -- \udcff \x1b" + "é" * 500

    async def work(ledger: Ledger) -> None:
        ledger.record(entry(user_agent=hostile, degraded=hostile, input_tokens=-5, output_tokens=2**40))
        ledger.record(choice(reason=hostile, candidates=[{hostile: [hostile, float("nan"), float("inf"), None]}]))
        await until(lambda: ledger.stats.written == 2)

    assert play(database, tmp_path, work).stats.refused == 0
    assert database.ask("SELECT length(user_agent), input_tokens, output_tokens FROM router.api_requests") == (
        "199|0|2147483647"  # the NUL is gone
    )


def test_an_entry_that_the_database_refuses_takes_no_other_with_it(database: RouterDatabase, tmp_path: Path) -> None:
    async def work(ledger: Ledger) -> None:
        for number in range(40):
            ledger.record(entry(number, cost_usd=Decimal(10**9) if number in (7, 23) else Decimal(1)))
        ledger.record(choice(candidates=[{"what": object()}]))
        await until(lambda: ledger.stats.waiting == 0)

    assert play(database, tmp_path, work).stats.refused == 3
    assert numbers(database) == [n for n in range(40) if n not in (7, 23)]


def test_a_database_killed_in_the_middle_gets_every_row_once(database: RouterDatabase, tmp_path: Path) -> None:
    total = 0

    async def work(ledger: Ledger) -> None:
        async def write(seconds: float) -> None:
            nonlocal total
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for _one in range(20):
                    ledger.record(entry(total))
                    total += 1
                await asyncio.sleep(0.005)

        for number in (signal.SIGKILL, signal.SIGINT):
            await write(0.4)
            writing = asyncio.create_task(write(1.2))
            await asyncio.sleep(0.1)
            await asyncio.to_thread(database.server.stop, number)
            await asyncio.sleep(0.3)
            assert ledger.stats.database_lost
            await asyncio.to_thread(database.server.start)
            await writing
            await until(lambda: ledger.stats.waiting == 0 and not ledger.stats.spool_bytes)
        assert ledger.stats.spooled > 0
        assert ledger.stats.replayed >= ledger.stats.spooled

    ledger = play(database, tmp_path, work)
    assert numbers(database) == list(range(total))
    assert (ledger.stats.dropped, ledger.stats.refused, ledger.stats.damaged) == (0, 0, 0)
    sums = "SELECT sum(requests), sum(input_tokens), sum(cost_usd) FROM router.api_usage_{}"
    expected = f"{total}|{sum(range(total))}|{Decimal('0.0087') * total:.8f}"
    assert [database.ask(sums.format(unit)) for unit in ("hour", "day")] == [expected, expected]


def test_rows_that_were_committed_before_the_answer_was_lost_are_not_doubled(
    database: RouterDatabase, tmp_path: Path
) -> None:
    rows = [entry(number) for number in range(30)]
    spool = Spool(tmp_path)
    spool.append([line_of(row) for row in rows[:20]])
    spool.append([line_of(row) for row in rows[10:]])
    spool.rotate()

    async def work(ledger: Ledger) -> None:
        for row in rows[15:25]:
            ledger.record(row)
        await until(lambda: ledger.stats.replayed == 40)

    assert play(database, tmp_path, work, batch=7).stats.refused == 0
    assert numbers(database) == list(range(30))
    assert database.ask("SELECT requests FROM router.api_usage_day") == "30"


KILLED = """
import asyncio, sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import uuid4
from nhi_services.postgres import DatabaseSettings
from nhi_services.router.entries import Entry
from nhi_services.router.ledger import Ledger
from nhi_services.router.link import Link
from nhi_services.router.spool import Spool

async def main():
    link = Link(DatabaseSettings(sys.argv[1], "router-s3cret"))
    ledger = Ledger(link, Spool(Path(sys.argv[2])), seconds=0.01)
    ledger.start()
    for number in range(100):
        ledger.record(Entry(datetime.now(UTC), uuid4(), "claude", "sonnet", "aider", "code", input_tokens=number))
        if number % 10 == 9:
            await asyncio.sleep(0.03)
    while ledger.stats.waiting:
        await asyncio.sleep(0.01)
    print("all on disk", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_the_spool_of_a_killed_router_is_taken_over_torn_line_and_all(database: RouterDatabase, tmp_path: Path) -> None:
    database.server.stop()
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, database.router.conninfo, str(tmp_path)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    with child:
        assert child.stdout
        assert child.stdout.readline() == "all on disk\n"
        database.server.start()
        # Its spool is its own as long as it lives.
        assert Spool(tmp_path).oldest() is None
        child.kill()
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    with file.open("ab") as torn:
        torn.write(line_of(entry(500))[:-9])

    async def work(ledger: Ledger) -> None:
        await until(lambda: ledger.stats.replayed > 0 and not list(tmp_path.iterdir()))

    ledger = play(database, tmp_path, work)
    assert numbers(database) == list(range(100))
    assert ledger.stats.damaged == 1


def test_a_router_that_is_stopped_without_a_database_leaves_everything_on_disk(
    database: RouterDatabase, tmp_path: Path
) -> None:
    database.server.stop()

    async def record(ledger: Ledger) -> None:
        for number in range(1200):
            ledger.record(entry(number))

    assert play(database, tmp_path, record).stats.spooled == 1200
    database.server.start()

    async def wait(ledger: Ledger) -> None:
        await until(lambda: ledger.stats.replayed == 1200)

    play(database, tmp_path, wait)
    assert numbers(database) == list(range(1200))


def test_a_full_spool_gives_up_the_oldest_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool(tmp_path, max_bytes=100_000)
    for number in range(100):
        spool.append([line_of(entry(number * 10 + n)) for n in range(10)])
        assert spool.size <= 100_000
    left = []
    while (file := spool.oldest()) is not None:
        with file:
            left += [int(line.partition(b'"input_tokens":')[2].partition(b",")[0]) for line in file.lines()]
            file.remove()
    assert spool.dropped > 0
    assert left == list(range(spool.dropped, 1000)), "the newest are there, all of them and in order"
    assert "the oldest, are lost" in caplog.text


def test_without_database_and_disk_the_oldest_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        spool = Spool(tmp_path)
        ledger = Ledger(None, spool, seconds=0.01, capacity=50)
        spool._begin = _no_space  # type: ignore[method-assign]
        ledger.start()
        ledger.record(entry(0))
        await until(lambda: "takes nothing" in caplog.text)
        for number in range(1, 200):
            ledger.record(entry(number))
        assert ledger.stats.dropped + ledger.stats.waiting == 200
        assert ledger.stats.waiting <= 51
        del spool._begin
        await until(lambda: ledger.stats.waiting == 0)
        assert ledger.stats.dropped + ledger.stats.spooled == 200
        await ledger.close()

    asyncio.run(run())
    assert caplog.text.count("takes nothing") == 1


def _no_space() -> None:
    raise OSError(28, "No space left on device")


def test_a_disk_that_fills_up_in_a_line_leaves_no_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    spool.append([b"first"])
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: write(fd, data[:3]) if len(data) > 9 else _no_space())
        with pytest.raises(OSError, match="No space"):
            spool.append([b"a longer one"])
    spool.append([b"second"])
    (file,) = tmp_path.iterdir()
    assert file.read_bytes() == b"first\nsecond\n"


def test_recording_takes_no_time(tmp_path: Path) -> None:
    async def run() -> float:
        ledger = Ledger(None, Spool(tmp_path))
        rows = [entry(number) for number in range(10_000)]
        began = time.perf_counter()
        for row in rows:
            ledger.record(row)
        return (time.perf_counter() - began) / len(rows)

    assert asyncio.run(run()) < 20e-6


def test_one_moment_in_any_zone_is_one_row(database: RouterDatabase, tmp_path: Path) -> None:
    same = UUID(int=7)
    now = datetime.now(UTC)

    async def work(ledger: Ledger) -> None:
        ledger.record(entry(1, request_id=same, timestamp=now))
        ledger.record(entry(1, request_id=same, timestamp=now.astimezone()))
        ledger.record(entry(2, request_id=same, timestamp=now, attempt=2))
        ledger.record(entry(3, timestamp=now - timedelta(days=400)))
        await until(lambda: ledger.stats.written == 4)

    play(database, tmp_path, work)
    assert numbers(database) == [1, 2, 3]
