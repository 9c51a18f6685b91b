# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The router's books: requests with their costs and decisions, brought to PostgreSQL behind the requests' back.

What is recorded is in the database or on disk within about a second; while the database is lost it goes to the spool,
and from there to the database exactly once. A router that is killed loses what it had not yet written: a second's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import psycopg

from nhi_services.postgres import explained
from nhi_services.router.entries import INSERTIONS, Row, line_of, of_table, table_of
from nhi_services.router.link import Connection, DatabaseLostError, Link
from nhi_services.router.spool import Spool
from nhi_services.router.tasks import end_task

LOG: Final = logging.getLogger("nhi.router.ledger")
_LONGEST_PAUSE: Final = 5.0
_COMPLAIN_SECONDS: Final = 30.0


@dataclass
class LedgerStats:
    """What became of rows since the start; waiting and spool_bytes are how it is now.

    dropped: lost, because neither database nor disk took them; refused: lost, because the database would not have them;
    damaged: lines of the spool that can not be read, such as the last one of a router that was killed.
    """

    recorded: int = 0
    written: int = 0
    spooled: int = 0
    replayed: int = 0
    dropped: int = 0
    refused: int = 0
    damaged: int = 0
    waiting: int = 0
    spool_bytes: int = 0
    database_lost: bool = False


class Ledger:
    """Takes rows without waiting; a task of its own writes them in batches."""

    def __init__(
        self, link: Link | None, spool: Spool | None, *, batch: int = 500, seconds: float = 1.0, capacity: int = 20_000
    ) -> None:
        self._link, self._spool = link, spool
        self._batch, self._seconds, self._capacity = batch, seconds, capacity
        self._queue: deque[bytes] = deque()
        self._in_hand: list[bytes] = []
        self._enough = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stats = LedgerStats()
        self._pause = 0.0
        self._try_again = 0.0
        self._complained = float("-inf")
        self._stopping = False

    @property
    def stats(self) -> LedgerStats:
        """How it is now."""
        self._stats.waiting = len(self._queue) + len(self._in_hand)
        self._stats.database_lost = self._link is not None and self._link.is_lost
        return self._stats

    def as_data(self) -> dict[str, int | bool]:
        """For metrics and status."""
        return asdict(self.stats)

    def record(self, row: Row) -> None:
        """Take a row; never waits, never fails."""
        self._stats.recorded += 1
        try:
            # Written down at once: a line takes a tenth of the memory of what it was made of.
            self._queue.append(line_of(row))
        except (TypeError, ValueError, AttributeError):
            self._stats.refused += 1
            LOG.exception("an entry can not be written, and is lost")
            return
        if len(self._queue) > self._capacity:
            self._queue.popleft()
            self._drop(1)
        if len(self._queue) >= self._batch:
            self._enough.set()

    def start(self) -> None:
        """Begin to write, in the running loop."""
        self._task = asyncio.create_task(self._work(), name="ledger")

    async def close(self, patience: float = 15.0) -> None:
        """Write what is left, to the spool if the database does not take it within so many seconds."""
        self._stopping = True
        self._enough.set()
        if self._task is not None:
            _done, late = await asyncio.wait([self._task], timeout=patience)
            for task in late:
                await end_task(task)
                self._try_again = float("inf")
        await self._flush()
        if self._spool is not None:
            await asyncio.to_thread(self._spool.rotate)

    async def _work(self) -> None:
        while not self._stopping:
            try:
                await self._flush()
                await self._replay()
            except Exception:
                # Whatever it is, the next rows must find somebody who writes them.
                LOG.exception("writing the router's books failed")
            if not self._stopping:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._seconds):
                        await self._enough.wait()
                self._enough.clear()

    async def _flush(self) -> None:
        """Bring everything that waits to the database, or to the disk."""
        # What comes meanwhile waits for the next time, unless it is a whole batch: small ones cost as much.
        left = len(self._queue)
        while self._in_hand or (self._queue and (left > 0 or len(self._queue) >= self._batch)):
            if not self._in_hand:
                self._in_hand = [self._queue.popleft() for _one in range(min(self._batch, len(self._queue)))]
                left -= len(self._in_hand)
            lines = self._in_hand
            if await self._to_database(lines):
                self._stats.written += len(lines)
            elif not await self._to_disk(lines):
                return
            self._in_hand = []

    async def _to_database(self, lines: Sequence[bytes]) -> bool:
        if self._link is None or time.monotonic() < self._try_again:
            return False
        try:
            await self._insert(self._link, lines)
        except DatabaseLostError:
            self._pause = min(_LONGEST_PAUSE, max(0.5, self._pause * 2))
            self._try_again = time.monotonic() + self._pause
            return False
        self._pause = 0.0
        return True

    async def _insert(self, link: Link, lines: Sequence[bytes]) -> None:
        """All of them; a line that the database refuses is found by halves, and is lost."""

        async def work(connection: Connection) -> None:
            for table, insertion in INSERTIONS.items():
                if rows := of_table(lines, table):
                    await connection.execute(insertion.encode(), [rows])

        try:
            await link.run(work)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            if len(lines) > 1:
                for half in (lines[: len(lines) // 2], lines[len(lines) // 2 :]):
                    await self._insert(link, half)
                return
            self._stats.refused += 1
            LOG.error("the database refuses an entry, which is lost: %s: %s", explained(error), lines[0])  # noqa: TRY400

    async def _to_disk(self, lines: Sequence[bytes]) -> bool:
        if self._spool is None:
            return False
        before = self._spool.dropped
        try:
            await asyncio.to_thread(self._spool.append, lines)
        except OSError as error:
            self._complain("the spool %s takes nothing: %s", self._spool.directory, error)
            return False
        finally:
            self._stats.dropped += self._spool.dropped - before
        self._stats.spooled += len(lines)
        self._stats.spool_bytes = await asyncio.to_thread(lambda: self._spool.size if self._spool else 0)
        return True

    async def _replay(self) -> None:
        """Bring what is on disk to the database, a file at a time; rows that come meanwhile go first."""
        spool = self._spool
        while self._link and spool and not self._stopping and time.monotonic() >= self._try_again:
            file = await asyncio.to_thread(spool.oldest)
            if file is None:
                self._stats.spool_bytes = 0
                return
            with file:
                lines = await asyncio.to_thread(file.lines)
                good = [line for line in lines if table_of(line)]
                for batch in _batches(good, self._batch):
                    if not await self._to_database(batch):
                        return
                    self._stats.replayed += len(batch)
                    if len(self._queue) >= self._batch:
                        await self._flush()
                await asyncio.to_thread(file.remove)
            if len(good) < len(lines):
                self._stats.damaged += len(lines) - len(good)
                LOG.error("%s had %d lines that can not be read", file.path, len(lines) - len(good))
            LOG.info("%d entries were brought from %s to the database", len(good), file.path)

    def _drop(self, number: int) -> None:
        self._stats.dropped += number
        self._complain("neither database nor disk takes entries: %d are lost", self._stats.dropped)

    def _complain(self, message: str, *values: object) -> None:
        """Loudly, but not for each of thousands."""
        if time.monotonic() - self._complained >= _COMPLAIN_SECONDS:
            self._complained = time.monotonic()
            LOG.error(message, *values)


def _batches(lines: Sequence[bytes], number: int) -> Iterator[Sequence[bytes]]:
    return (lines[at : at + number] for at in range(0, len(lines), number))
