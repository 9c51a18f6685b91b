# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All that a router keeps books with: costs and decisions, budgets, deferred tasks, what is dropped when it is old."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import psycopg
from ansible_collections.nhi.core.plugins.module_utils.api_costs import PriceTable
from ansible_collections.nhi.core.plugins.module_utils.routing import Candidate

from nhi_services.costs_report import FIRST_QUERY, QUERY, CostReport, report_of, since
from nhi_services.postgres import DatabaseSettings
from nhi_services.router.config import PostgresConfig, RetentionConfig, RouterConfig, read_secret_file
from nhi_services.router.deferred import DeferredStore
from nhi_services.router.entries import Choice, Entry
from nhi_services.router.ledger import Ledger
from nhi_services.router.link import Connection, DatabaseLostError, Link
from nhi_services.router.live import Setup
from nhi_services.router.spool import Spool
from nhi_services.router.tasks import end_task
from nhi_services.router.trail import Trail, Tried

LOG: Final = logging.getLogger("nhi.router.books")
_NOBODY: Final = "-"
_KEEP_SECONDS: Final = 3600.0
_RETRY_SECONDS: Final = 60.0
_REPORT_SECONDS: Final = 60.0


class Bookkeeper:
    """Turns a request that is over into rows: one for each attempt, one for the decision. A recorder of `Live`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def record(self, trail: Trail, setup: Setup) -> None:
        """Take it down; prices are those of the configuration that the request began with."""
        now, name = datetime.fromtimestamp(trail.ended_at, UTC), trail.request_id
        # A request that nobody was asked for is one row too: somebody wanted it, and did not get it.
        tried = trail.tried or [Tried(_NOBODY, _NOBODY, trail.outcome, trail.status, trail.ms)]
        for number, one in enumerate(tried, 1):
            self._ledger.record(_entry(trail, setup.prices, one, number, now, name))
        if trail.decision is not None:
            chosen = trail.model or None
            attempts = [{"model": one.model, "what": one.what or "good", "ms": round(one.ms)} for one in trail.tried]
            self._ledger.record(
                Choice(
                    now, name, trail.agent, trail.task, chosen, trail.decision.reason,
                    provider=trail.provider or None, asked_for=trail.asked_for or None,
                    prompt_tokens=trail.decision.demand.prompt_tokens, queued_ms=trail.queued_ms, attempts=attempts,
                    candidates=[_told(candidate) for candidate in trail.decision.candidates],
                )
            )  # fmt: skip


@lru_cache(maxsize=1024)
def _told(candidate: Candidate) -> dict[str, Any]:
    """What is written of a candidate: of a model that nobody asks it is the same again and again."""
    return candidate.as_data()


def _entry(trail: Trail, prices: PriceTable, one: Tried, number: int, now: datetime, name: str) -> Entry:
    """The row of one attempt; what is known of the answer as a whole belongs to the last."""
    is_last = not trail.tried or one is trail.tried[-1]
    answered = is_last and one.model == trail.model
    used = one.input_tokens, one.output_tokens
    return Entry(
        now, name, one.provider, one.model, trail.agent, trail.task, attempt=number if trail.tried else 0,
        status=(trail.status or one.status) if is_last else one.status,
        success=answered and trail.outcome == "done" and not one.what, input_tokens=used[0], output_tokens=used[1],
        latency_ms=one.ms or (trail.ms if is_last else 0.0),
        first_token_ms=trail.first_token_ms if answered else None,
        cost_usd=prices.cost(one.model, *used) if any(used) else Decimal(0), user_agent=trail.user_agent,
        degraded=trail.degraded or None if answered else None,
    )  # fmt: skip


class Housekeeper:
    """Has the database drop what is old and make room for the days to come, once an hour."""

    def __init__(self, link: Link, retention: RetentionConfig) -> None:
        self._link = link
        self.retention = retention
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running loop."""
        self._task = asyncio.create_task(self._work(), name="housekeeper")

    async def close(self) -> None:
        """Stop."""
        await end_task(self._task)

    async def keep(self) -> list[tuple[Any, ...]]:
        """What was made and dropped: action, table, rows."""
        kept = self.retention
        days = [kept.requests_days, kept.decisions_days, kept.hours_days, kept.deferred_days]

        async def work(connection: Connection) -> list[tuple[Any, ...]]:
            cursor = await connection.execute("SELECT action, what, number FROM router.keep(%s, %s, %s, %s)", days)
            return await cursor.fetchall()

        return await self._link.run(work)

    async def _work(self) -> None:
        while True:
            pause = _RETRY_SECONDS
            try:
                for action, what, number in await self.keep():
                    LOG.info("%s %s%s", action, what, "" if number is None else f": {number} rows")
                pause = _KEEP_SECONDS
            except (DatabaseLostError, psycopg.Error) as error:
                LOG.warning("old rows are not dropped yet: %s", error)
            await asyncio.sleep(pause)


def database_of(config: PostgresConfig) -> DatabaseSettings:
    """Where the books are kept; ConfigError when the password can not be read."""
    return DatabaseSettings(config.dsn, read_secret_file(config.password_file) if config.password_file else None)


class Books:
    """The parts together; ``deferred`` is None where no PostgreSQL is configured, and tasks can not be kept."""

    def __init__(self, config: RouterConfig, instance: str) -> None:
        postgresql, spool = config.postgresql, config.spool
        settings = database_of(postgresql) if postgresql else None
        # Each waits for its own connection only.
        self._links = [Link(settings, f"nhi-router {part}") for part in ("ledger", "tasks")] if settings else []
        self.ledger = Ledger(
            self._links[0] if self._links else None, Spool(spool.directory, spool.mib * 1_048_576) if spool else None
        )
        # With neither database nor spool there are no books.
        self.recorders = [Bookkeeper(self.ledger)] if self._links or spool else []
        self.deferred: DeferredStore | None = None
        self._housekeeper: Housekeeper | None = None
        if self._links:
            notifies = config.deferred.notify is not None
            self.deferred = DeferredStore(
                self._links[1], instance, lease_seconds=config.deferred.lease_seconds, notifies=notifies
            )
            self._housekeeper = Housekeeper(self._links[1], config.retention)
        # What PostgreSQL said last.
        self.report: CostReport | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.reload(config)

    def reload(self, config: RouterConfig) -> None:
        """Take what may change while the router runs."""
        self._config = config
        if self.deferred is not None:
            self.deferred.most_open, self.deferred.attempts = config.deferred.most_open, config.deferred.attempts
            self.deferred.most_bytes = config.deferred.most_mib * 1_048_576
        if self._housekeeper is not None:
            self._housekeeper.retention = config.retention

    def start(self) -> None:
        """Begin, in the running loop."""
        self.ledger.start()
        if self._housekeeper is not None:
            self._housekeeper.start()
            self._watcher = asyncio.create_task(self._watch(), name="costs")

    async def close(self) -> None:
        """Write what is left."""
        if self._housekeeper is not None:
            await self._housekeeper.close()
        await end_task(self._watcher)
        await self.ledger.close()
        for link in self._links:
            await link.close()

    async def costs(self) -> CostReport:
        """What was spent today and this month; DatabaseLostError without a database."""
        if not self._links:
            raise DatabaseLostError("no database is configured: set postgresql in router.yml")
        now = datetime.now(UTC)

        async def work(connection: Connection) -> CostReport:
            rows = await (await connection.execute(QUERY, [since(now)])).fetchall()
            first = await (await connection.execute(FIRST_QUERY)).fetchone()
            return report_of(rows, first[0] if first else None, now, self._config.budgets())

        return await self._links[1].run(work)

    async def _watch(self) -> None:
        while True:
            try:
                self.report = await self.costs()
            except (DatabaseLostError, psycopg.Error) as error:
                LOG.debug("the month's costs are not known: %s", error)
            await asyncio.sleep(_REPORT_SECONDS)
