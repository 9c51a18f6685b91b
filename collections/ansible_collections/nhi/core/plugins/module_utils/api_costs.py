# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What requests to language models cost, what may be spent in a day, what a month will cost (blueprint 4.2, item 3).

Prices are in USD per million tokens. Sums are exact decimals; budgets are kept in whole micro-USD, rounded up, so that
what is counted is never less than what is owed. Days are those of UTC.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Any, Final

from .errors import CostError

MICRO: Final = 1_000_000
PER_AGENT: Final = "agent_budget"
IN_TOTAL: Final = "total_budget"
_TOKENS_OF_A_PRICE: Final = Decimal(1_000_000)
_DAY: Final = timedelta(days=1)
# How many whole days before today say what the days to come will cost.
_LOOK_BACK_DAYS: Final = 7
# From less of a first day nobody can tell what all of it will cost.
_SHORTEST: Final = timedelta(hours=1)


def usd(value: object) -> Decimal:
    """A sum or price as an exact decimal, floats as they are written; CostError when it is none or below zero."""
    try:
        found = Decimal(str(value))
    except ArithmeticError as error:
        raise CostError(f"{value!r} is no sum of money: write a number of USD such as 0.25") from error
    if not found.is_finite() or found < 0:
        raise CostError(f"{value!r} is no sum of money: it must be a number from 0 on")
    return found


def micro_usd(value: Decimal) -> int:
    """Whole millionths of a USD, rounded up."""
    return int((value * MICRO).to_integral_value(ROUND_CEILING))


def of_micro(value: int) -> Decimal:
    """The USD of so many millionths."""
    return Decimal(value) / MICRO


@dataclass(frozen=True)
class Price:
    """USD per million tokens of the prompt and of the answer."""

    input: Decimal = Decimal(0)
    output: Decimal = Decimal(0)

    @classmethod
    def of(cls, input_usd: object, output_usd: object) -> Price:
        """From numbers or texts; CostError for what is no price."""
        return cls(usd(input_usd), usd(output_usd))

    @property
    def is_free(self) -> bool:
        """Whether nothing is paid."""
        return not (self.input or self.output)

    def cost(self, input_tokens: int, output_tokens: int) -> Decimal:
        """USD of a request, exact; CostError for a number of tokens below zero."""
        if input_tokens < 0 or output_tokens < 0:
            raise CostError(f"a request can not have {min(input_tokens, output_tokens)} tokens")
        return (input_tokens * self.input + output_tokens * self.output) / _TOKENS_OF_A_PRICE

    def most(self, prompt_tokens: int, most_output_tokens: int) -> int:
        """Micro-USD of a request, rounded up; with the most tokens it may have, what a budget must have room for."""
        return 0 if self.is_free else micro_usd(self.cost(prompt_tokens, most_output_tokens))


class PriceTable:
    """Prices by model."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._prices = dict(prices)

    def of(self, model: str) -> Price:
        """The price of a model; CostError for one that the table does not have, which might cost anything."""
        try:
            return self._prices[model]
        except KeyError:
            raise CostError(f"there is no price of {model}: name one in router.yml, 0 where it is free") from None

    def cost(self, model: str, input_tokens: int, output_tokens: int) -> Decimal:
        """USD of a request to a model."""
        return self.of(model).cost(input_tokens, output_tokens)


def day_of(moment: datetime) -> date:
    """The day (UTC) whose budget a moment belongs to."""
    return moment.astimezone(UTC).date()


def end_of_day(moment: datetime) -> datetime:
    """When the budgets of a moment's day end and new ones begin."""
    return datetime.combine(day_of(moment) + _DAY, time(), UTC)


@dataclass(frozen=True)
class BudgetRefusal:
    """Why a request is not sent: which budget, how much of it is used, and when it ends (USD)."""

    reason: str
    agent: str
    budget: Decimal
    spent: Decimal
    estimate: Decimal
    until: datetime

    def retry_seconds(self, now: datetime) -> int:
        """Until the next budget begins, rounded up; at least 1."""
        return max(1, -int((now - self.until).total_seconds() // 1))

    def __str__(self) -> str:
        whose = f"the daily budget of {self.agent}" if self.reason == PER_AGENT else "the daily budget of all agents"
        return (
            f"{whose} is {in_usd(self.budget)}, {in_usd(self.spent)} of it are used or set aside, and this request may"
            f" cost {in_usd(self.estimate)}: a new budget begins at {self.until:%Y-%m-%d %H:%M} UTC"
        )


@dataclass(frozen=True)
class Budgets:
    """What an agent and all together may spend in a day (USD); None: as much as they like."""

    total: Decimal | None = None
    agents: Mapping[str, Decimal] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        """Whether there is a budget at all."""
        return self.total is not None or bool(self.agents)

    def limits(self, agent: str) -> tuple[Decimal | None, Decimal | None]:
        """Of an agent, and of all."""
        return self.agents.get(agent), self.total

    def verdict(
        self, agent: str, spent_by_agent: Decimal, spent_in_total: Decimal, estimate: Decimal, now: datetime
    ) -> BudgetRefusal | None:
        """None where a request that may cost so much may be sent."""
        limits = zip((PER_AGENT, IN_TOTAL), self.limits(agent), (spent_by_agent, spent_in_total), strict=True)
        for reason, limit, spent in limits:
            if limit is not None and spent + estimate > limit:
                return BudgetRefusal(reason, agent, limit, spent, estimate, end_of_day(now))
        return None


@dataclass(frozen=True)
class MonthProjection:
    """What a calendar month (UTC) will cost (USD), and from which rate that is known."""

    spent: Decimal
    per_day: Decimal
    projected: Decimal
    days_left: float

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "spent_usd": float(self.spent), "per_day_usd": float(round(self.per_day, 6)),
            "projected_usd": float(round(self.projected, 6)), "days_left": round(self.days_left, 3),
        }  # fmt: skip

    def __str__(self) -> str:
        return f"At this rate you will spend {in_usd(self.projected)} this month."


def project_month(by_day: Mapping[date, Decimal], now: datetime) -> MonthProjection:
    """Project the month of a moment to its end from what was spent on each day (a day without requests may be missing).

    The rate is the mean of the last seven whole days, or of as many as there are since the first request; on the
    first day that day's own rate, once there is an hour of it.
    """
    now = now.astimezone(UTC)
    today = now.date()
    spent = sum((sum_ for day, sum_ in by_day.items() if _month(day) == _month(today) and day <= today), Decimal(0))
    days = calendar.monthrange(today.year, today.month)[1]
    elapsed = now - datetime.combine(today, time(), UTC)
    left = datetime.combine(date(today.year, today.month, days) + _DAY, time(), UTC) - now
    per_day = _per_day(by_day, today, elapsed)
    rest = per_day * Decimal(left / timedelta(seconds=1)) / Decimal(86_400)
    return MonthProjection(spent, per_day, spent + rest, left / _DAY)


def _per_day(by_day: Mapping[date, Decimal], today: date, elapsed: timedelta) -> Decimal:
    past = [day for day in by_day if day < today]
    if not past:
        seconds = Decimal(max(elapsed, _SHORTEST) / timedelta(seconds=1))
        return by_day.get(today, Decimal(0)) * 86_400 / seconds
    begin = max(min(past), today - _LOOK_BACK_DAYS * _DAY)
    used = sum((by_day[day] for day in past if day >= begin), Decimal(0))
    return used / (today - begin).days


def _month(day: date) -> tuple[int, int]:
    return day.year, day.month


@dataclass(frozen=True)
class Spent:
    """What was used: number of requests, of those that failed, tokens, USD."""

    requests: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal = Decimal(0)

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.requests + other.requests, self.failed + other.failed, self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens, self.cost + other.cost,
        )  # fmt: skip

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "requests": self.requests, "failed": self.failed, "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens, "cost_usd": float(self.cost),
        }  # fmt: skip


@dataclass(frozen=True)
class Share:
    """What one agent used of one model for one kind of task."""

    provider: str
    model: str
    agent: str
    task: str
    spent: Spent


GROUPS: Final = ("provider", "model", "agent", "task")


def summed(shares: Iterable[Share], by: Sequence[str]) -> dict[tuple[str, ...], Spent]:
    """Sums by one or several of provider, model, agent, task, the dearest first; CostError for another name."""
    if unknown := sorted(set(by) - set(GROUPS)):
        raise CostError(f"costs have no {', '.join(unknown)}: use {', '.join(GROUPS)}")
    sums: dict[tuple[str, ...], Spent] = {}
    for share in shares:
        name = tuple(str(getattr(share, group)) for group in by)
        sums[name] = sums.get(name, Spent()) + share.spent
    return dict(sorted(sums.items(), key=lambda item: (-item[1].cost, -item[1].requests, item[0])))


def in_usd(value: Decimal) -> str:
    """A sum for people: two digits, or as many as a small one needs to be seen."""
    if value and value < Decimal("0.01"):
        return "under $0.000001" if value < Decimal("0.000001") else f"${value:.6f}".rstrip("0")
    return f"${value:,.2f}"
