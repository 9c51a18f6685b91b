# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The router's connection to PostgreSQL: one at a time, opened again when it was lost, never waited for without end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import psycopg
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError

from nhi_services.postgres import DatabaseSettings, conninfo_of, explained

LOG: Final = logging.getLogger("nhi.router.database")
Connection = psycopg.AsyncConnection[tuple[Any, ...]]
T = TypeVar("T")


class DatabaseLostError(NHIError):
    """PostgreSQL does not answer, or not as it should: what was asked may or may not have been done."""


class Link:
    """Runs work in a transaction; work may be run twice, so it must come to the same when it was done before."""

    def __init__(self, settings: DatabaseSettings, program: str = "nhi-router", patience: float = 10.0) -> None:
        self._conninfo = conninfo_of(settings, "of the router", program)
        self._patience = patience
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()
        self.is_lost = False

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """What the work returns; DatabaseLostError without the database, psycopg's errors for data that it refuses."""
        async with self._turn:
            # A connection that stood idle may have been cut long ago: only a new one tells whether the server is there.
            if self._connection is not None:
                with contextlib.suppress(DatabaseLostError):
                    return await self._attempt(work)
            return await self._attempt(work)

    async def _attempt(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(self._patience):
                connection = self._connection or await self._open()
                async with connection.transaction():
                    found = await work(connection)
        except (psycopg.DataError, psycopg.IntegrityError):
            raise
        except (psycopg.Error, OSError, TimeoutError) as error:
            await self.close()
            words = explained(error) if isinstance(error, psycopg.Error) else str(error) or "no answer in time"
            if not self.is_lost:
                LOG.warning("the database of the router is lost: %s", words)
            self.is_lost = True
            raise DatabaseLostError(f"the database of the router can not be used: {words}") from error
        except asyncio.CancelledError:
            # In the middle: nobody knows what the connection would say next.
            await self.close()
            raise
        if self.is_lost:
            LOG.warning("the database of the router is back")
        self.is_lost = False
        return found

    async def _open(self) -> Connection:
        connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
        self._connection = connection
        await connection.execute(f"SET statement_timeout = {round(self._patience * 1000)}")
        await connection.execute("SET timezone = 'UTC'")
        return connection

    async def close(self) -> None:
        """Give the connection up; the next work opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error, OSError):
                await connection.close()
