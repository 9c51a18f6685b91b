# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deferred tasks over HTTP: taking one, and for its agent only, looking at it and cancelling it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import Any, Final, TypeVar
from uuid import UUID

from aiohttp import web

from nhi_services.router.api_errors import ApiError
from nhi_services.router.config import AgentConfig
from nhi_services.router.deferred import CANCELLED, Deferred, DeferredFullError, DeferredStore
from nhi_services.router.link import DatabaseLostError
from nhi_services.router.live import Live, Setup
from nhi_services.router.wanted import Wanted

PATH: Final = "/v1/nhi/deferred"
_RETRY_MS: Final = 10_000
# What of a request's headers still counts when it is done.
_KEPT: Final = ("X-NHI-Task", "anthropic-beta", "anthropic-version")
T = TypeVar("T")
AgentOf = Callable[[web.Request, Setup], AgentConfig]


class DeferredDesk:
    """Takes tasks in and tells of them."""

    def __init__(self, live: Live, agent_of: AgentOf) -> None:
        self._live = live
        self._agent_of = agent_of

    def add_routes(self, app: web.Application) -> None:
        """Where tasks are looked at."""
        app.router.add_get(PATH, self.listed)
        app.router.add_get(PATH + "/{id}", self.one)
        app.router.add_delete(PATH + "/{id}", self.cancel)

    async def take(self, wanted: Wanted, headers: dict[str, str]) -> web.Response:
        """Keep a request and answer 202 with where its result will be; ApiError 503 where it can not be kept."""
        store = self._store()
        payload = {
            "form": wanted.ask.form,
            "body": {
                name: value for name, value in wanted.ask.body.items() if name not in ("stream", "stream_options")
            },
            "headers": {name: wanted.headers[name] for name in _KEPT if name in wanted.headers},
        }
        agent = wanted.agent
        try:
            name = await _told(store.add(agent.name, wanted.demand.task, payload, agent.priority, wanted.not_before))
        except DeferredFullError as error:
            raise ApiError(503, f"{error}.", code="deferred_full", retry_ms=60_000) from error
        url = f"{PATH}/{name}"
        body = {"id": str(name), "object": "nhi.deferred", "status": "pending", "url": url}
        if wanted.not_before is not None:
            body["due_at"] = wanted.not_before.astimezone(UTC).isoformat()
        return web.json_response(body, status=202, headers={**headers, "Location": url})

    async def listed(self, request: web.Request) -> web.Response:
        """The agent's last tasks, without results."""
        agent = self._agent_of(request, self._live.setup)
        found = await _told(self._store().listed(agent.name))
        return web.json_response({"object": "list", "data": [_shown(one, result=False) for one in found]})

    async def one(self, request: web.Request) -> web.Response:
        """One task, with its result once it is done."""
        agent = self._agent_of(request, self._live.setup)
        name = _id_of(request)
        return web.json_response(_shown(_there(await _told(self._store().get(name, agent.name)))))

    async def cancel(self, request: web.Request) -> web.Response:
        """End a task that has not ended; 409 for one that has."""
        agent = self._agent_of(request, self._live.setup)
        name = _id_of(request)
        found = _there(await _told(self._store().cancel(name, agent.name)))
        if found.status != CANCELLED:
            raise ApiError(409, f"The task has ended already: it is {found.status}.", code="deferred_ended")
        return web.json_response(_shown(found))

    def _store(self) -> DeferredStore:
        if self._live.deferred is None:
            raise ApiError(
                503,
                "Requests can not be deferred, because this router has no database: set postgresql in router.yml, run"
                " nhi-router migrate and restart it, or send X-NHI-Mode: wait.",
                code="deferred_unavailable",
            )
        return self._live.deferred


async def _told(work: Awaitable[T]) -> T:
    try:
        return await work
    except DatabaseLostError as error:
        message = "PostgreSQL, which keeps deferred tasks, does not answer: try again, or send X-NHI-Mode: wait."
        raise ApiError(503, message, code="database_lost", retry_ms=_RETRY_MS) from error


def _id_of(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["id"])
    except ValueError:
        return _there(None)


def _there(found: T | None) -> T:
    if found is None:
        raise ApiError(404, "There is no such deferred task of this agent.", code="deferred_not_found")
    return found


def _shown(task: Deferred, *, result: bool = True) -> dict[str, Any]:
    told = {"object": "nhi.deferred", "url": f"{PATH}/{task.id}", **task.as_data()}
    kept = told.pop("result")
    if result:
        told["headers"], told["result"] = (kept["headers"], kept["body"]) if kept else (None, None)
    return told
