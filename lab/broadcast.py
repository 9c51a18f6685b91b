"""The status that nodes tell each other every ten seconds: /cluster/resources knows no fresher one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from lab.drivers.base import Usage

PERIOD_SECONDS = 10.0


@dataclass(frozen=True)
class Status:
    """A guest as of the last round."""

    name: str
    usage: Usage


Reader = Callable[[], Awaitable[dict[int, Status]]]


class Broadcast:
    """With lag, the last round; without, a round for every question."""

    def __init__(self, reader: Reader, *, lag: bool) -> None:
        self._reader = reader
        self._lag = lag
        self._statuses: dict[int, Status] = {}
        self._loop_task: asyncio.Task[None] | None = None

    async def statuses(self) -> dict[int, Status]:
        """Guests that are not in it are `unknown` and nameless."""
        if not self._lag:
            await self.refresh()
        return self._statuses

    async def refresh(self) -> None:
        """One round, now."""
        self._statuses = await self._reader()

    async def start(self) -> None:
        await self.refresh()
        if self._lag:
            self._loop_task = asyncio.get_running_loop().create_task(self._rounds(), name="broadcast")

    async def _rounds(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            await self.refresh()

    async def stop(self) -> None:
        if self._loop_task:
            self._loop_task.cancel()
            await asyncio.wait([self._loop_task])
