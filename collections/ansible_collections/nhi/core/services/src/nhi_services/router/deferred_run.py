# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a router does deferred tasks: as the requests that they were, by the configuration of the day."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import aiohttp
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError

from nhi_services.router.adapted import words_of_refusal
from nhi_services.router.api_errors import ApiError
from nhi_services.router.asks import read_ask
from nhi_services.router.attempts import Attempts, UpstreamRefusalError
from nhi_services.router.config import DeferredConfig
from nhi_services.router.deferred import Claim, DeferredStore
from nhi_services.router.deferred_work import DeferredWorker, Hook, NoRoomError, Notifier, TaskRefusedError
from nhi_services.router.live import Live, Setup
from nhi_services.router.trail import Trail
from nhi_services.router.wanted import Wanted, read_wanted

POLL_SECONDS = 5.0
SOONEST_SECONDS, _LATEST = 5.0, 900.0


class AttemptFailedError(NHIError):
    """A task was tried and failed; another attempt may go well."""


class Deferring:
    """The workers and the notifier of one router."""

    def __init__(self, live: Live, store: DeferredStore) -> None:
        self._live, self._store = live, store
        self._workers = [
            DeferredWorker(store, self.execute, seconds=POLL_SECONDS, lease_seconds=store.lease_seconds)
            for _number in range(live.setup.config.deferred.at_once)
        ]
        self._notifier = Notifier(store, None, seconds=POLL_SECONDS)
        self._session: aiohttp.ClientSession | None = None

    def start(self) -> None:
        """Begin, in the running loop."""
        self._session = aiohttp.ClientSession()
        self.reload(self._live.setup.config.deferred)
        for worker in self._workers:
            worker.start()
        self._notifier.start()

    def reload(self, config: DeferredConfig) -> None:
        """Take what a new configuration says."""
        self._store.lease_seconds = config.lease_seconds
        for worker in self._workers:
            worker.lease_seconds = config.lease_seconds
        self._store.notifies = config.notify is not None
        if self._session is not None:
            self._notifier.hook = Hook(config.notify, self._session) if config.notify else None

    async def close(self) -> None:
        """Give back what is being done."""
        await asyncio.gather(*(worker.close() for worker in self._workers))
        await self._notifier.close()
        if self._session is not None:
            await self._session.close()

    async def execute(self, claim: Claim) -> Any:
        """The answer with what was told of it; NoRoomError, TaskRefusedError or AttemptFailedError for none."""
        live, setup = self._live, self._live.setup
        wanted = _wanted(claim, setup)
        trail = Trail(claim.agent, claim.task, wanted.ask.form, f"deferred {claim.id}")
        try:
            body, _type = await Attempts(live, setup, wanted, trail).whole()
            return {"headers": trail.headers(), "body": json.loads(body)}
        except UpstreamRefusalError as error:
            trail.status, trail.outcome = error.status, "refused"
            words = words_of_refusal(error.body)
            raise TaskRefusedError(f"{trail.model} refuses the request (HTTP {error.status}): {words}") from error
        except ApiError as error:
            trail.status, trail.outcome = error.status, "failed"
            if error.status in (429, 503):
                pause = (error.retry_ms or 0) / 1000
                raise NoRoomError(error.message, min(_LATEST, max(SOONEST_SECONDS, pause))) from error
            if error.status < 500:
                raise TaskRefusedError(error.message) from error
            raise AttemptFailedError(error.message) from error
        finally:
            # Looking in vain every few seconds is no request that anybody made.
            if trail.tried:
                live.finish(trail, setup)


def _wanted(claim: Claim, setup: Setup) -> Wanted:
    agent = next((one for one in setup.config.agents if one.name == claim.agent), None)
    if agent is None:
        raise TaskRefusedError(f"the router no longer knows the agent {claim.agent}")
    body = claim.payload["body"]
    try:
        ask = read_ask(claim.payload["form"], body, json.dumps(body).encode())
        return replace(read_wanted(claim.payload["headers"], ask, agent, setup), when_busy="deferred")
    except ApiError as error:
        raise TaskRefusedError(error.message) from error
