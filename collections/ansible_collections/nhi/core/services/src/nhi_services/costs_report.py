# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the router's requests cost today and this month, from the sums that PostgreSQL keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from ansible_collections.nhi.core.plugins.module_utils.api_costs import (
    Budgets,
    MonthProjection,
    Share,
    Spent,
    project_month,
    summed,
)

# Rows since a day, and the first day of all.
QUERY: Final = (
    "SELECT day, provider, model, agent, task_type, requests, failed, input_tokens, output_tokens, cost_usd"
    " FROM router.api_usage_day WHERE day >= %s"
)
FIRST_QUERY: Final = "SELECT min(day) FROM router.api_usage_day"
_LOOK_BACK: Final = timedelta(days=8)
_SHOWN: Final = ("provider", "model", "agent", "task")


def since(now: datetime) -> date:
    """The first day that a report needs."""
    today = now.astimezone(UTC).date()
    return min(today.replace(day=1), today - _LOOK_BACK)


@dataclass(frozen=True)
class CostReport:
    """Sums of today and of this month (UTC), the projection, and the budgets, where they are known."""

    day: date
    today: Sequence[Share]
    month: Sequence[Share]
    projection: MonthProjection
    budgets: Budgets | None = None

    def rows(self, by: str) -> list[tuple[str, Spent, Spent]]:
        """Name, today and this month, the dearest month first."""
        today = summed(self.today, [by])
        return [(name[0], today.get(name, Spent()), month) for name, month in summed(self.month, [by]).items()]

    @property
    def totals(self) -> tuple[Spent, Spent]:
        """Of today and of this month."""
        today, month = (summed(shares, []).get((), Spent()) for shares in (self.today, self.month))
        return today, month

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        today, month = self.totals
        data: dict[str, Any] = {
            "day": self.day.isoformat(), "today": today.as_data(), "month": month.as_data(),
            "projection": self.projection.as_data(),
        }  # fmt: skip
        for by in _SHOWN:
            data[f"by_{by}"] = {
                name: {"today": one.as_data(), "month": all_.as_data()} for name, one, all_ in self.rows(by)
            }
        if self.budgets is not None:
            data["budgets"] = {
                "daily_usd": None if self.budgets.total is None else float(self.budgets.total),
                "agents": {name: float(limit) for name, limit in self.budgets.agents.items()},
            }
        return data


def report_of(
    rows: Iterable[Sequence[Any]], first: date | None, now: datetime, budgets: Budgets | None = None
) -> CostReport:
    """A report from the rows of QUERY and the day of FIRST_QUERY."""
    today = now.astimezone(UTC).date()
    shares: list[tuple[date, Share]] = []
    by_day: dict[date, Decimal] = {} if first is None else {first: Decimal(0)}
    for day, provider, model, agent, task, requests, failed, sent, received, cost in rows:
        shares.append((day, Share(provider, model, agent, task, Spent(requests, failed, sent, received, cost))))
        by_day[day] = by_day.get(day, Decimal(0)) + cost
    return CostReport(
        today,
        [share for day, share in shares if day == today],
        [share for day, share in shares if (day.year, day.month) == (today.year, today.month)],
        project_month(by_day, now),
        budgets,
    )
