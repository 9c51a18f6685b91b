# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics of money and of the books: spent today, budgets, the month's projection, rows that wait or are lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from nhi_services.router.books import Books
    from nhi_services.router.spending import Spending

_ROWS: Final = {
    "written": "Rows that went straight to PostgreSQL.",
    "spooled": "Rows that went to disk while PostgreSQL was lost.",
    "replayed": "Rows that were brought from disk to PostgreSQL.",
    "dropped": "Rows that were lost, as neither PostgreSQL nor the disk took them.",
    "refused": "Rows that were lost, as PostgreSQL would not have them.",
    "damaged": "Lines on disk that could not be read.",
}


class CostMetrics(Collector):
    """Read when somebody asks."""

    def __init__(self, books: Books, purse: Spending) -> None:
        self._books, self._purse = books, purse

    def collect(self) -> Iterator[Metric]:
        """All families."""
        today = self._purse.as_data()
        spent = GaugeMetricFamily("api_spent_today_usd", "Spent or set aside today (UTC).", labels=["agent"])
        budget = GaugeMetricFamily("api_budget_usd", "What may be spent in a day.", labels=["agent"])
        for agent, one in {"all": {"usd": today["usd"], "budget": today["budget"]}, **today["agents"]}.items():
            spent.add_metric([agent], one["usd"])
            if one["budget"] is not None:
                budget.add_metric([agent], one["budget"])
        yield spent
        yield budget
        if (report := self._books.report) is not None:
            month = report.projection
            yield GaugeMetricFamily("api_spent_month_usd", "Spent this month (UTC).", value=float(month.spent))
            text = "What this month will cost at the rate of the last days."
            yield GaugeMetricFamily("api_projected_month_usd", text, value=float(month.projected))
        stats = self._books.ledger.as_data()
        for name, text in _ROWS.items():
            yield CounterMetricFamily(f"router_books_{name}", text, value=stats[name])
        yield GaugeMetricFamily("router_books_waiting", "Rows in memory.", value=stats["waiting"])
        yield GaugeMetricFamily("router_books_spool_bytes", "Bytes on disk.", value=stats["spool_bytes"])
        yield GaugeMetricFamily(
            "router_postgresql_up", "Whether PostgreSQL answers.", value=0 if stats["database_lost"] else 1
        )
