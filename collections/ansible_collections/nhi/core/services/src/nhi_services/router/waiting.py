# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who waits for a model: by priority, then by arrival; of those who want the same only the first tries."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from nhi_services.router.config import PRIORITIES

_NUMBERS: Final = itertools.count()


@dataclass(eq=False)
class Waiter:
    """Somebody who waits for one of several models."""

    models: frozenset[str]
    priority: str
    number: int = field(default_factory=lambda: next(_NUMBERS))
    turn: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def order(self) -> tuple[int, int]:
        """Lower comes first."""
        return PRIORITIES.index(self.priority), self.number


class WaitRoom:
    """All who wait at this router."""

    def __init__(self) -> None:
        self._waiting: list[Waiter] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def is_contended(self, models: frozenset[str], priority: str) -> bool:
        """Whether somebody waits who would have to be served first."""
        if not self._waiting:
            return False
        rank = PRIORITIES.index(priority)
        return any(PRIORITIES.index(one.priority) <= rank and one.models & models for one in self._waiting)

    def position(self, waiter: Waiter) -> int:
        """How many come before, and this one: 1 is next."""
        return 1 + sum(one.order < waiter.order and bool(one.models & waiter.models) for one in self._waiting)

    @contextmanager
    def seat(self, models: frozenset[str], priority: str) -> Iterator[Waiter]:
        """A place in the order, given up at the end however that comes."""
        waiter = Waiter(models, priority)
        self._waiting.append(waiter)
        self._call()
        try:
            yield waiter
        finally:
            self._waiting.remove(waiter)
            self._call()

    def _call(self) -> None:
        """Tell everybody whose turn it is."""
        for waiter in self._waiting:
            if self.position(waiter) == 1:
                waiter.turn.set()
            else:
                waiter.turn.clear()
