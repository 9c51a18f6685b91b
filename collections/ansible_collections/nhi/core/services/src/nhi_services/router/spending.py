# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps agents to their daily budgets: what a request may cost is taken in Redis before it is sent, for all routers.

While Redis is lost each router has its share of what was left when it was last asked. What a request can cost at most
must be taken, else a budget may be exceeded by the difference.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from ansible_collections.nhi.core.plugins.module_utils.api_costs import (
    IN_TOTAL,
    MICRO,
    PER_AGENT,
    BudgetRefusal,
    Budgets,
    end_of_day,
    micro_usd,
    of_micro,
)
from ansible_collections.nhi.core.plugins.module_utils.redis_keys import spend_book_key, spend_key
from ansible_collections.nhi.core.plugins.module_utils.spend_book import ALL, Taken, budget_day, spent_by, take
from redis.asyncio import Redis
from redis.exceptions import RedisError

from nhi_services.router.quota_store import Settler
from nhi_services.router.redis_scripts import PATIENCE_SECONDS, ScriptRunner
from nhi_services.router.trail import new_id

LOG: Final = logging.getLogger("nhi.router.budget")
_REASONS: Final = (PER_AGENT, IN_TOTAL)


class Spending:
    """Takes money for requests and gives back what they did not use."""

    def __init__(
        self,
        client: Redis,
        settler: Settler,
        now_ms: Callable[[], int],
        instance: str,
        instances: int = 1,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._client = client
        self._runner = ScriptRunner(client, patience)
        self._settler = settler
        self._now_ms = now_ms
        self._book = spend_book_key(instance)
        self._instances = instances
        self._patience = patience
        self.budgets = Budgets()
        self._date = ""
        # As Redis last said, and what was taken here without it; both by agent and in all, in micro-USD.
        self._known: Counter[str] | None = None
        self._apart: Counter[str] = Counter()
        self._open: dict[str, Taken] = {}
        # What no budget limits, until Redis is told with the next look; what is on its way, by the settler's count.
        self._unlimited: Counter[str] = Counter()
        self._on_its_way: deque[tuple[int, Counter[str]]] = deque()
        self.is_lost = False

    def today(self) -> dict[str, int]:
        """Micro-USD spent or taken today by agent, and in all, as far as this router knows."""
        self._turn_of_day()
        spent = (self._known or Counter()) + self._apart + self._unlimited
        for _count, amounts in self._on_its_way:
            spent += amounts
        return dict(spent)

    def as_data(self) -> dict[str, Any]:
        """For people: USD of today and daily budgets, in all and by agent."""
        spent, budgets = self.today(), self.budgets
        total = None if budgets.total is None else float(budgets.total)
        names = sorted((set(spent) | set(budgets.agents)) - {ALL})
        agents = {name: (spent.get(name, 0) / MICRO, budgets.agents.get(name)) for name in names}
        return {
            "usd": spent.get(ALL, 0) / MICRO, "budget": total,
            "agents": {
                name: {"usd": used, "budget": None if limit is None else float(limit)}
                for name, (used, limit) in agents.items()
            },
        }  # fmt: skip

    async def take(self, agent: str, estimate_micro_usd: int) -> Taken | BudgetRefusal:
        """Take what a request may cost at most, or say which budget has no room for it."""
        self._turn_of_day()
        limits = self._limits(agent)
        if not estimate_micro_usd or limits == (None, None):
            # Counted when it is known what it was: nobody has to ask before.
            return self._taken(agent, 0, counted=False)
        taken = self._taken(agent, estimate_micro_usd, counted=True)
        call = take(taken, *self._less_apart(agent, limits))
        try:
            # Given back where the client hangs up, since nothing was sent for it.
            code, mine, total = await self._runner.run(call, lambda: self._settler.put(taken.settle(0)))
        except (RedisError, OSError) as error:
            # It may have been taken: then it is given back as soon as Redis can be told.
            self._settler.put(taken.settle(0))
            self._lose(error)
            return self._take_apart(agent, limits, estimate_micro_usd)
        self._find()
        known = self._known = self._known if self._known is not None else Counter()
        known[agent], known[ALL] = int(mine), int(total)
        if not code:
            return taken
        at = int(code) - 1
        used = (known[agent] + self._apart[agent], known[ALL] + self._apart[ALL])
        return self._refusal(_REASONS[at], agent, limits[at] or 0, used[at], estimate_micro_usd)

    def is_limited(self, agent: str) -> bool:
        """Whether a budget holds for an agent."""
        return self.budgets.limits(agent) != (None, None)

    def spend(self, agent: str, micro_usd: int) -> None:
        """It was spent, and no budget limits it: told to Redis once a second."""
        self._unlimited[agent] += micro_usd
        self._unlimited[ALL] += micro_usd

    def flush(self) -> None:
        """Have Redis told of what no budget limits."""
        for agent, amount in self._unlimited.items():
            if agent != ALL and amount:
                self._settler.put(self._taken(agent, 0, counted=False).settle(amount))
        if self._unlimited:
            self._on_its_way.append((self._settler.taken, self._unlimited))
            self._unlimited = Counter()

    def settle(self, taken: Taken, used_micro_usd: int) -> None:
        """What it was in the end; 0 when the provider never got it."""
        if not taken.counted:
            was_apart = self._open.pop(taken.id, None) is not None
            if taken.day.date == self._date and (was_apart or self.is_lost):
                self._apart[taken.agent] += used_micro_usd - taken.micro_usd
                self._apart[ALL] += used_micro_usd - taken.micro_usd
            if not used_micro_usd:
                return
        self._settler.put(taken.settle(used_micro_usd))

    async def refresh(self) -> None:
        """Learn what all routers have spent; called each second, so that no old figure counts when Redis is lost."""
        self._turn_of_day()
        self.flush()
        arrived = self._settler.sent
        date, apart = self._date, None if self._settler.backlog else self._settled_apart()
        try:
            async with asyncio.timeout(self._patience):
                answer: Any = await self._client.hgetall(spend_key(date))
        except (RedisError, OSError, TimeoutError) as error:
            self._lose(error)
            return
        self._find()
        if date == self._date:
            self._known = Counter(spent_by(answer))
            while self._on_its_way and self._on_its_way[0][0] <= arrived:
                self._on_its_way.popleft()
            if apart is not None:
                self._apart -= apart

    def _taken(self, agent: str, amount: int, *, counted: bool) -> Taken:
        return Taken(new_id(), agent, amount, budget_day(self._now_ms()), self._book, counted)

    def _take_apart(self, agent: str, limits: tuple[int | None, int | None], estimate: int) -> Taken | BudgetRefusal:
        """This router's share of what was left."""
        for reason, limit, name in zip(_REASONS, limits, (agent, ALL), strict=True):
            if limit is None:
                continue
            # A router that never heard what was spent today has nothing to share.
            known = limit if self._known is None else self._known[name]
            if known + (self._apart[name] + estimate) * self._instances > limit:
                return self._refusal(reason, agent, limit, known + self._apart[name], estimate)
        taken = self._taken(agent, estimate, counted=False)
        self._open[taken.id] = taken
        self._apart[agent] += estimate
        self._apart[ALL] += estimate
        return taken

    def _settled_apart(self) -> Counter[str]:
        """What was taken without Redis and is counted there by now."""
        still = Counter[str]()
        for taken in self._open.values():
            still[taken.agent] += taken.micro_usd
            still[ALL] += taken.micro_usd
        return self._apart - still

    def _less_apart(self, agent: str, limits: tuple[int | None, int | None]) -> tuple[int | None, int | None]:
        """Limits without what Redis does not know of yet."""
        mine, total = limits
        return (
            None if mine is None else mine - self._apart[agent],
            None if total is None else total - self._apart[ALL],
        )  # fmt: skip

    def _limits(self, agent: str) -> tuple[int | None, int | None]:
        mine, total = self.budgets.limits(agent)
        return None if mine is None else micro_usd(mine), None if total is None else micro_usd(total)

    def _refusal(self, reason: str, agent: str, limit: int, spent: int, estimate: int) -> BudgetRefusal:
        until = end_of_day(datetime.fromtimestamp(self._now_ms() / 1000, UTC))
        return BudgetRefusal(reason, agent, of_micro(limit), of_micro(spent), of_micro(estimate), until)

    def _turn_of_day(self) -> None:
        date = budget_day(self._now_ms()).date
        if date != self._date:
            # A router that has just started knows nothing of its first day.
            self._known = Counter() if self._date else None
            self._date = date
            self._apart.clear()
            self._on_its_way.clear()
            self._open = {name: taken for name, taken in self._open.items() if taken.day.date == date}

    def _lose(self, error: BaseException) -> None:
        if not self.is_lost:
            LOG.warning("redis is lost, budgets are kept by this router's share: %s", type(error).__name__)
        self.is_lost = True

    def _find(self) -> None:
        if self.is_lost:
            LOG.warning("redis is back, budgets are common again")
        self.is_lost = False
