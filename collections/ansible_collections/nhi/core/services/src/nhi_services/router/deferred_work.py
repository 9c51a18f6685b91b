# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does deferred tasks as resources return, and tells whoever waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError

from nhi_services.router.config import NotifyConfig, read_secret_file
from nhi_services.router.deferred import Claim, DeferredStore, Notice
from nhi_services.router.link import DatabaseLostError
from nhi_services.router.tasks import end_task

LOG: Final = logging.getLogger("nhi.router.deferred")
_RETRY_SECONDS: Final = 30.0
_NOTICE_PAUSE: Final = 10.0
_NOTICES: Final = 10


class NoRoomError(NHIError):
    """Nothing can do the task yet: it is tried again after so many seconds, which does not count as an attempt."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class TaskRefusedError(NHIError):
    """The task itself is wrong: it is not tried again."""


Execute = Callable[[Claim], Awaitable[Any]]


class DeferredWorker:
    """Claims tasks one after the other, holds each by its lease while it is done, and gives it back when stopped."""

    def __init__(
        self, store: DeferredStore, execute: Execute, *, seconds: float = 5.0, lease_seconds: float = 120.0
    ) -> None:
        self._store, self._execute = store, execute
        self._seconds, self.lease_seconds = seconds, lease_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running loop."""
        self._task = asyncio.create_task(self._work(), name="deferred")

    async def close(self) -> None:
        """Stop; what is being done is given back at once."""
        await end_task(self._task)

    async def _work(self) -> None:
        while True:
            try:
                claims = await self._store.claim()
            except DatabaseLostError:
                claims = []
            except Exception:
                LOG.exception("deferred tasks can not be claimed")
                claims = []
            for claim in claims:
                await self._do(claim)
            if not claims:
                await asyncio.sleep(self._seconds)

    async def _do(self, claim: Claim) -> None:
        doing = asyncio.ensure_future(self._execute(claim))
        holding = asyncio.create_task(self._hold(claim, doing))
        try:
            await asyncio.wait([doing])
            await self._ended(claim, doing)
        except DatabaseLostError:
            # The lease ends, and the task is done once more.
            LOG.warning("deferred task %s: its end could not be kept, it will be done again", claim.id)
        except asyncio.CancelledError:
            await end_task(doing)
            with contextlib.suppress(DatabaseLostError):
                if doing.cancelled():
                    await self._store.release(claim, 0)
                else:
                    # It was done already: only keeping its end was interrupted.
                    await self._ended(claim, doing)
            raise
        finally:
            holding.cancel()

    async def _ended(self, claim: Claim, doing: asyncio.Future[Any]) -> None:
        if doing.cancelled():
            LOG.warning("deferred task %s could not be held, another router may do it", claim.id)
            return
        error = doing.exception()
        if error is None:
            kept = await self._store.complete(claim, doing.result())
        elif isinstance(error, NoRoomError):
            kept = await self._store.release(claim, error.seconds)
        elif isinstance(error, TaskRefusedError):
            kept = await self._store.fail(claim, str(error))
        else:
            LOG.warning("deferred task %s failed at attempt %d: %s", claim.id, claim.attempt, type(error).__name__)
            words = str(error) if isinstance(error, NHIError) else type(error).__name__
            kept = await self._store.fail(claim, words, retry_seconds=_RETRY_SECONDS * 2 ** (claim.attempt - 1))
        if not kept:
            LOG.warning("deferred task %s belongs to another router by now", claim.id)

    async def _hold(self, claim: Claim, doing: asyncio.Future[Any]) -> None:
        """Renew the lease while the task is done; without it, it is left before another router may begin."""
        held = time.monotonic()
        while True:
            await asyncio.sleep(self.lease_seconds / 4)
            asked = time.monotonic()
            try:
                async with asyncio.timeout(self.lease_seconds / 4):
                    kept = await self._store.renew(claim)
                held = asked
            except (DatabaseLostError, TimeoutError):
                kept = time.monotonic() - held < self.lease_seconds / 2
            if not kept:
                doing.cancel()
                return


@dataclass(frozen=True)
class Hook:
    """Tells somebody that a task has ended, by a command or a web hook."""

    config: NotifyConfig
    session: aiohttp.ClientSession

    async def send(self, notice: Notice) -> str:
        """Empty when it was told; else why not, without the address, which may be a secret."""
        body = json.dumps(notice.as_data())
        try:
            async with asyncio.timeout(self.config.timeout_seconds):
                return await (self._run(self.config.command, body) if self.config.command else self._post(body))
        except TimeoutError:
            return "no answer in time"
        except (OSError, aiohttp.ClientError, NHIError) as error:
            return type(error).__name__

    async def _run(self, command: list[str], body: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await process.communicate(body.encode())
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        return f"exit code {process.returncode}" if process.returncode else ""

    async def _post(self, body: str) -> str:
        url = read_secret_file(self.config.url_file) if self.config.url_file else self.config.url
        headers = {"Content-Type": "application/json"}
        async with self.session.post(str(url), data=body, headers=headers, allow_redirects=False) as answer:
            return "" if 200 <= answer.status < 300 else f"status {answer.status}"


class Notifier:
    """Sends notices until each was told or tried often enough; several routers share the work."""

    def __init__(
        self, store: DeferredStore, hook: Hook | None, *, seconds: float = 5.0, pause: float = _NOTICE_PAUSE
    ) -> None:
        self._store = store
        # Another, or None for nobody to be told, after a reload.
        self.hook = hook
        self._seconds, self._pause = seconds, pause
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running loop."""
        self._task = asyncio.create_task(self._work(), name="notifier")

    async def close(self) -> None:
        """Stop."""
        await end_task(self._task)

    async def _work(self) -> None:
        while True:
            notices: list[Notice] = []
            try:
                if (hook := self.hook) is not None:
                    attempts = hook.config.attempts
                    notices = await self._store.notices(_NOTICES, attempts, self._pause)
                    await asyncio.gather(*(self._tell(hook, notice, attempts) for notice in notices))
            except DatabaseLostError:
                notices = []
            except Exception:
                LOG.exception("notices of deferred tasks can not be sent")
                notices = []
            if len(notices) < _NOTICES:
                await asyncio.sleep(self._seconds)

    async def _tell(self, hook: Hook, notice: Notice, attempts: int) -> None:
        why_not = await hook.send(notice)
        if not why_not:
            await self._store.notified(notice)
        elif notice.attempt >= attempts:
            LOG.error("nobody could be told of deferred task %s in %d attempts: %s", notice.id, attempts, why_not)
        else:
            LOG.warning("nobody was told of deferred task %s yet: %s", notice.id, why_not)
