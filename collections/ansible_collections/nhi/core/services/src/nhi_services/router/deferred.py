# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests that are answered when there are resources again: kept in PostgreSQL, done by one router at a time.

A router holds a task by a lease. One that was killed lets it run out, and another takes the task; what the first may
still bring for it counts no longer. All calls raise DatabaseLostError when PostgreSQL does not answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError

from nhi_services.router.config import PRIORITIES
from nhi_services.router.link import Connection, Link

PENDING: Final = "pending"
RUNNING: Final = "running"
DONE: Final = "done"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
_SHOWN: Final = (
    "id, agent, task_type, status, created_at, finished_at, attempts, {result}, error,"
    " CASE WHEN status = 'pending' THEN due_at END"
)
_WHOLE: Final = _SHOWN.format(result="result::text")
_LISTED: Final = _SHOWN.format(result="NULL")
_LONGEST_ERROR: Final = 500


class DeferredFullError(NHIError):
    """There are so many tasks already that no other is taken."""


@dataclass(frozen=True)
class Deferred:
    """A task as its agent sees it; result is the answer's body once it is done."""

    id: UUID
    agent: str
    task: str
    status: str
    created_at: datetime
    finished_at: datetime | None
    attempts: int
    result: Any
    error: str | None
    due_at: datetime | None

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        moments = {"created_at": self.created_at, "finished_at": self.finished_at, "due_at": self.due_at}
        return {
            "id": str(self.id), "task_type": self.task, "status": self.status, "attempts": self.attempts,
            **{name: moment and moment.isoformat() for name, moment in moments.items()},
            "result": self.result, "error": self.error,
        }  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A task that this router may do until its lease ends; ``attempt`` counts from 1."""

    id: UUID
    agent: str
    task: str
    payload: Any
    attempt: int
    owner: str


@dataclass(frozen=True)
class Notice:
    """That a task has ended, for whoever is to be told; without prompt and answer."""

    id: UUID
    agent: str
    task: str
    status: str
    created_at: datetime
    finished_at: datetime
    attempt: int

    def as_data(self) -> dict[str, Any]:
        """For the hook."""
        return {
            "id": str(self.id), "agent": self.agent, "task_type": self.task, "status": self.status,
            "created_at": self.created_at.isoformat(), "finished_at": self.finished_at.isoformat(),
        }  # fmt: skip


class DeferredStore:
    """The tasks of all routers on a database; ``owner`` names this one."""

    def __init__(self, link: Link, owner: str, *, lease_seconds: float = 120.0, notifies: bool = False) -> None:
        self._link = link
        self._owner = owner
        # All of these may change with a reload.
        self.lease_seconds = lease_seconds
        self.notifies = notifies
        self.most_open = 1000
        self.most_bytes = 200 * 1024 * 1024
        self.attempts = 5

    async def add(
        self, agent: str, task: str, payload: Mapping[str, Any], priority: str = "medium", due: datetime | None = None
    ) -> UUID:
        """Keep a request that is not to be done before it is due; its id. DeferredFullError when there are too many."""
        name, body = uuid4(), json.dumps(payload)

        async def work(connection: Connection) -> None:
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('router.deferred'))")
            cursor = await connection.execute(
                "SELECT count(*) FILTER (WHERE finished_at IS NULL), coalesce(sum(bytes), 0),"
                " count(*) FILTER (WHERE id = %s) FROM router.deferred_tasks",
                [name],
            )
            row = await cursor.fetchone()
            waiting, used, there = row or (0, 0, 0)
            if there:
                return
            if waiting >= self.most_open or used + len(body) > self.most_bytes:
                raise DeferredFullError(
                    f"{waiting} tasks wait already, and all tasks have {used / 1_048_576:.0f} MiB: no other is deferred"
                )
            await connection.execute(
                "INSERT INTO router.deferred_tasks (id, agent, task_type, priority, payload, bytes, due_at)"
                " VALUES (%s, %s, %s, %s, %s, %s, coalesce(%s, now()))",
                [name, agent, task, PRIORITIES.index(priority), body, len(body), due],
            )

        await self._link.run(work)
        return name

    async def get(self, task: UUID, agent: str) -> Deferred | None:
        """A task of that agent; None for one of somebody else, as for none."""

        async def work(connection: Connection) -> Deferred | None:
            cursor = await connection.execute(
                f"SELECT {_WHOLE} FROM router.deferred_tasks WHERE id = %s AND agent = %s",  # noqa: S608 -- columns
                [task, agent],
            )
            row = await cursor.fetchone()
            return _shown(row) if row else None

        return await self._link.run(work)

    async def listed(self, agent: str, number: int = 100) -> list[Deferred]:
        """The last tasks of an agent, newest first, without their results."""

        async def work(connection: Connection) -> list[Deferred]:
            cursor = await connection.execute(
                f"SELECT {_LISTED} FROM router.deferred_tasks WHERE agent = %s"  # noqa: S608 -- columns
                " ORDER BY created_at DESC, id LIMIT %s",
                [agent, number],
            )
            return [_shown(row) for row in await cursor.fetchall()]

        return await self._link.run(work)

    async def cancel(self, task: UUID, agent: str) -> Deferred | None:
        """End a task of that agent if it has not ended yet; how it is afterwards, None where there is none.

        A router that works at it finds out when it renews its lease; what it brings is not taken.
        """

        async def work(connection: Connection) -> Deferred | None:
            cursor = await connection.execute(
                "UPDATE router.deferred_tasks SET status = 'cancelled', finished_at = now(),"  # noqa: S608 -- columns
                f" lease_until = NULL WHERE id = %s AND agent = %s AND finished_at IS NULL RETURNING {_WHOLE}",
                [task, agent],
            )
            row = await cursor.fetchone()
            return _shown(row) if row else None

        return await self._link.run(work) or await self.get(task, agent)

    async def counts(self) -> dict[str, int]:
        """How many tasks there are by status."""

        async def work(connection: Connection) -> dict[str, int]:
            cursor = await connection.execute("SELECT status, count(*) FROM router.deferred_tasks GROUP BY status")
            return {status: number async for status, number in cursor}

        return {**dict.fromkeys((PENDING, RUNNING, DONE, FAILED, CANCELLED), 0), **await self._link.run(work)}

    async def claim(self, number: int = 1) -> list[Claim]:
        """Tasks that are due and nobody works at, by priority and age; each goes to one router only.

        One whose lease ran out as often as it may be tried has failed.
        """

        async def work(connection: Connection) -> list[Claim]:
            await connection.execute(
                "UPDATE router.deferred_tasks SET status = 'failed', finished_at = now(), lease_until = NULL,"
                " error = 'the routers that worked at it were stopped', notice_at = CASE WHEN %s THEN now() END"
                " WHERE status = 'running' AND lease_until < now() AND attempts >= %s",
                [self.notifies, self.attempts],
            )
            cursor = await connection.execute(
                "UPDATE router.deferred_tasks SET status = 'running', lease_owner = %s, attempts = attempts + 1,"
                " lease_until = now() + make_interval(secs => %s) WHERE id IN ("
                "  SELECT id FROM router.deferred_tasks WHERE finished_at IS NULL AND"
                "  (status = 'pending' AND due_at <= now() OR status = 'running' AND lease_until < now())"
                "  ORDER BY priority, created_at LIMIT %s FOR UPDATE SKIP LOCKED"
                ") RETURNING id, agent, task_type, payload::text, attempts, priority, created_at",
                [self._owner, self.lease_seconds, number],
            )
            rows = sorted(await cursor.fetchall(), key=lambda row: row[5:])
            return [Claim(row[0], row[1], row[2], json.loads(row[3]), row[4], self._owner) for row in rows]

        return await self._link.run(work)

    async def renew(self, claim: Claim) -> bool:
        """Hold a task for another lease; False when somebody else has it by now."""
        return await self._change(
            claim, "lease_until = now() + make_interval(secs => %s)", [self.lease_seconds], RUNNING
        )

    async def complete(self, claim: Claim, result: Any) -> bool:
        """Keep the answer; False when somebody else has the task by now, whose answer counts."""
        body = json.dumps(result)
        return await self._end(claim, DONE, "result = %s, error = NULL, bytes = bytes + %s", [body, len(body)])

    async def fail(self, claim: Claim, error: str, *, retry_seconds: float | None = None) -> bool:
        """Try again later, or where it may not be tried again, or is not to be: it has failed for good."""
        words = " ".join(error.replace("\0", "").split())[:_LONGEST_ERROR]
        if retry_seconds is None or claim.attempt >= self.attempts:
            return await self._end(claim, FAILED, "error = %s", [words])
        change = "error = %s, status = 'pending', lease_until = NULL, due_at = now() + make_interval(secs => %s)"
        return await self._change(claim, change, [words, retry_seconds], PENDING)

    async def release(self, claim: Claim, seconds: float) -> bool:
        """Give a task back that was not tried, because there is no room for it yet."""
        change = (
            "status = 'pending', lease_until = NULL, attempts = greatest(attempts - 1, 0),"
            " due_at = now() + make_interval(secs => %s)"
        )
        return await self._change(claim, change, [seconds], None)

    async def notices(self, number: int, attempts: int, pause_seconds: float) -> list[Notice]:
        """Tasks that have ended and nobody was told of; each is tried again after a pause that doubles."""

        async def work(connection: Connection) -> list[Notice]:
            cursor = await connection.execute(
                "UPDATE router.deferred_tasks SET notice_attempts = notice_attempts + 1,"
                " notice_at = CASE WHEN notice_attempts + 1 < %s"
                " THEN now() + make_interval(secs => least(3600, %s * 2 ^ least(notice_attempts, 20))) END"
                " WHERE id IN (SELECT id FROM router.deferred_tasks WHERE notice_at <= now()"
                "  ORDER BY notice_at LIMIT %s FOR UPDATE SKIP LOCKED)"
                " RETURNING id, agent, task_type, status, created_at, finished_at, notice_attempts",
                [attempts, pause_seconds, number],
            )
            return [Notice(*row) for row in await cursor.fetchall()]

        return await self._link.run(work)

    async def notified(self, notice: Notice) -> None:
        """Somebody was told."""

        async def work(connection: Connection) -> None:
            await connection.execute(
                "UPDATE router.deferred_tasks SET notice_at = NULL, notified_at = now() WHERE id = %s", [notice.id]
            )

        await self._link.run(work)

    async def _end(self, claim: Claim, status: str, change: str, values: list[Any]) -> bool:
        ended = "status = %s, finished_at = now(), lease_until = NULL, notice_at = CASE WHEN %s THEN now() END"
        return await self._change(claim, f"{change}, {ended}", [*values, status, self.notifies], status)

    async def _change(self, claim: Claim, change: str, values: list[Any], done: str | None) -> bool:
        """Change a task that this claim still holds; a change that was made already, by a lost answer, is one too."""

        async def work(connection: Connection) -> bool:
            cursor = await connection.execute(
                f"UPDATE router.deferred_tasks SET {change}"  # noqa: S608 -- written above
                " WHERE id = %s AND status = 'running' AND lease_owner = %s AND attempts = %s",
                [*values, claim.id, claim.owner, claim.attempt],
            )
            if cursor.rowcount == 1:
                return True
            cursor = await connection.execute(
                "SELECT status FROM router.deferred_tasks WHERE id = %s AND lease_owner = %s AND attempts = %s",
                [claim.id, claim.owner, claim.attempt],
            )
            return done is not None and await cursor.fetchone() == (done,)

        return await self._link.run(work)


def _shown(row: tuple[Any, ...]) -> Deferred:
    name, agent, task, status, created, finished, attempts, result, error, due = row
    return Deferred(
        name, agent, task, status, created, finished, attempts, None if result is None else json.loads(result), error,
        due,
    )  # fmt: skip
