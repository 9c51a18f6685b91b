# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prices, budgets and projections are exact to the last digit."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from ansible_collections.nhi.core.plugins.module_utils.api_costs import (
    IN_TOTAL,
    PER_AGENT,
    Budgets,
    Price,
    PriceTable,
    Share,
    Spent,
    end_of_day,
    in_usd,
    micro_usd,
    project_month,
    summed,
    usd,
)
from ansible_collections.nhi.core.plugins.module_utils.errors import CostError
from hypothesis import given
from hypothesis import strategies as st

SONNET = Price.of(3.00, 15.00)
NOON = datetime(2026, 4, 10, 12, tzinfo=UTC)


def test_a_request_costs_what_the_blueprint_says() -> None:
    assert SONNET.cost(1_000_000, 1_000_000) == Decimal(18)
    assert SONNET.cost(1200, 340) == Decimal("0.0087")
    assert Price.of(0.1, 0.4).cost(1, 0) == Decimal("0.0000001")
    assert Price().cost(5000, 5000) == 0
    assert (SONNET.is_free, Price().is_free) == (False, True)


def test_what_is_counted_is_never_less_than_what_is_owed() -> None:
    assert micro_usd(Decimal("0.0000001")) == 1
    assert micro_usd(Decimal(0)) == 0
    assert SONNET.most(1200, 340) == 8700


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.decimals(0, 100, places=4), st.decimals(0, 100, places=4))
def test_a_million_times_a_request_is_its_price_exactly(a: int, b: int, x: Decimal, y: Decimal) -> None:
    cost = Price(x, y).cost(a, b)
    assert cost * 1_000_000 == a * x + b * y
    assert 0 <= micro_usd(cost) - cost * 1_000_000 < 1


@pytest.mark.parametrize("wrong", ["-1", "nan", "inf", "many", "", None])
def test_what_is_no_sum_is_refused(wrong: object) -> None:
    with pytest.raises(CostError, match="no sum of money"):
        usd(wrong)


def test_tokens_below_zero_and_models_without_a_price_are_refused() -> None:
    with pytest.raises(CostError, match="-1 tokens"):
        SONNET.cost(-1, 0)
    table = PriceTable({"sonnet": SONNET})
    assert table.cost("sonnet", 1_000_000, 0) == 3
    with pytest.raises(CostError, match="no price of gpt"):
        table.cost("gpt", 1, 1)


def test_a_budget_may_be_used_to_the_last_cent_and_no_further() -> None:
    budgets = Budgets(Decimal(5), {"aider": Decimal(1)})
    assert budgets.verdict("aider", Decimal("0.9"), Decimal(4), Decimal("0.1"), NOON) is None
    refused = budgets.verdict("aider", Decimal("0.9"), Decimal(4), Decimal("0.100001"), NOON)
    assert refused
    assert (refused.reason, refused.budget) == (PER_AGENT, Decimal(1))
    assert refused.until == datetime(2026, 4, 11, tzinfo=UTC)
    assert refused.retry_seconds(NOON) == 12 * 3600
    assert refused.retry_seconds(NOON + timedelta(microseconds=1)) == 12 * 3600
    assert "the daily budget of aider is $1.00, $0.90 of it" in str(refused)
    other = budgets.verdict("oi", Decimal(0), Decimal("4.95"), Decimal("0.1"), NOON)
    assert other
    assert other.reason == IN_TOTAL
    assert "2026-04-11 00:00 UTC" in str(other)
    assert Budgets().verdict("oi", Decimal(9**9), Decimal(9**9), Decimal(1), NOON) is None


def test_a_day_ends_at_midnight_utc_wherever_one_is() -> None:
    kiritimati = timezone(timedelta(hours=14))
    assert end_of_day(datetime(2026, 1, 1, 3, tzinfo=kiritimati)) == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_month_is_projected_from_the_last_whole_days() -> None:
    # $2 a day from the 1st to the 9th, and $1 by noon of the 10th; April has 30 days, so 20.5 are left.
    by_day = {date(2026, 4, n): Decimal(2) for n in range(1, 10)} | {date(2026, 4, 10): Decimal(1)}
    projection = project_month(by_day, NOON)
    assert (projection.spent, projection.per_day) == (Decimal(19), Decimal(2))
    assert projection.projected == 19 + 2 * Decimal("20.5")
    assert str(projection) == "At this rate you will spend $60.00 this month."


def test_a_quiet_week_counts_and_the_last_month_helps_on_the_first() -> None:
    assert project_month({date(2026, 4, 3): Decimal(70), date(2026, 4, 9): Decimal(0)}, NOON).per_day == 10
    assert project_month({date(2026, 4, 2): Decimal(70), date(2026, 4, 9): Decimal(0)}, NOON).per_day == 0
    first = project_month({date(2026, 3, n): Decimal(3) for n in range(25, 32)}, datetime(2026, 4, 1, tzinfo=UTC))
    assert (first.spent, first.per_day, first.projected) == (Decimal(0), Decimal(3), Decimal(90))


def test_the_first_day_is_projected_by_its_own_rate() -> None:
    assert project_month({date(2026, 4, 10): Decimal(1)}, NOON).per_day == 2
    minute = datetime(2026, 4, 10, 0, 1, tzinfo=UTC)
    assert project_month({date(2026, 4, 10): Decimal(1)}, minute).per_day == 24, "not 1440: a minute tells nothing"
    assert project_month({}, NOON).projected == 0


def test_sums_by_provider_agent_and_task_have_the_dearest_first() -> None:
    shares = [
        Share("claude", "sonnet", "aider", "code", Spent(2, 1, 10, 5, Decimal("0.2"))),
        Share("claude", "haiku", "oi", "code", Spent(1, 0, 1, 1, Decimal("0.1"))),
        Share("qwen", "72b", "aider", "quick", Spent(9, 0, 3, 3, Decimal(1))),
    ]
    assert list(summed(shares, ["provider"])) == [("qwen",), ("claude",)]
    assert summed(shares, ["provider"])["claude",] == Spent(3, 1, 11, 6, Decimal("0.3"))
    assert summed(shares, ["agent", "task"])["aider", "code"].cost == Decimal("0.2")
    assert summed(shares, []) == {(): Spent(12, 1, 14, 9, Decimal("1.3"))}
    with pytest.raises(CostError, match="no planet"):
        summed(shares, ["planet"])


def test_small_sums_can_be_seen() -> None:
    shown = [in_usd(Decimal(text)) for text in ("0", "1234.5", "0.01", "0.0087", "0.0000001")]
    assert shown == ["$0.00", "$1,234.50", "$0.01", "$0.0087", "under $0.000001"]
