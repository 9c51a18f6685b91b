# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi costs`: what agents spent on language models, and what the month will cost."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

from ansible_collections.nhi.core.plugins.module_utils.api_costs import Budgets, Spent, in_usd
from ansible_collections.nhi.core.plugins.module_utils.errors import CostError

from nhi_services.costs_report import FIRST_QUERY, QUERY, CostReport, report_of, since
from nhi_services.postgres import DatabaseSettings, explained, open_connection, read_password
from nhi_services.settings import Settings, SettingsError
from nhi_services.table import Cell, Screen, lines_of, screen_of

CREDENTIAL: Final = "router_database_password"
PASSWORD_VARIABLE: Final = "NHI_ROUTER_PASSWORD"  # noqa: S105 -- a name
_ABOUT: Final = "of the router"
_TABLES: Final = ("provider", "agent", "task")
# From this part of a budget on it is pointed out.
_NEARLY: Final = Decimal("0.8")

Add = Callable[..., argparse.ArgumentParser]


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser], add: Add) -> None:
    """Add the command to the parser."""
    parser = add(commands, "costs", "Show what agents spent on language models today and this month.", _costs)
    parser.add_argument(
        "--by", action="append", choices=("provider", "model", "agent", "task"), help="only these sums; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def _costs(settings: Settings, arguments: argparse.Namespace) -> None:
    report = read_report(settings, datetime.now(UTC))
    if arguments.json:
        print(json.dumps(report.as_data(), indent=2, sort_keys=True))
    else:
        print("\n".join(render(report, arguments.by or _TABLES, screen_of(sys.stdout, os.environ))))


def read_report(settings: Settings, now: datetime) -> CostReport:
    """The sums of the database; CostError when it can not be read, SettingsError when none is named."""
    database, budgets = _sources(settings)
    try:
        import psycopg
    except ImportError as error:
        raise SettingsError("the Python package psycopg is missing: install nhi-services[router]") from error
    try:
        with open_connection(database, _ABOUT, "nhi costs", autocommit=True) as connection:
            rows = connection.execute(QUERY, [since(now)]).fetchall()
            first = connection.execute(FIRST_QUERY).fetchone()
    except psycopg.errors.UndefinedTable as error:
        raise CostError(f"the database {_ABOUT} has no tables yet: run nhi-router migrate") from error
    except psycopg.Error as error:
        raise CostError(f"the database {_ABOUT} can not be read: {explained(error)}") from error
    return report_of(rows, first[0] if first else None, now, budgets)


def _sources(settings: Settings) -> tuple[DatabaseSettings, Budgets | None]:
    """Where the sums are, and the budgets, which only router.yml knows."""
    given = settings.router
    dsn, password_file, budgets = given.get("dsn"), given.get("password_file"), None
    if path := given.get("config"):
        try:
            from nhi_services.router.config import load_config
        except ImportError as error:
            raise SettingsError("reading router.yml needs Python packages: install nhi-services[router]") from error
        config = load_config(Path(path).expanduser())
        budgets = config.budgets()
        if dsn is None and config.postgresql is not None:
            dsn = config.postgresql.dsn
            named = config.postgresql.password_file
            password_file = password_file or (str(named) if named else None)
    if dsn is None:
        raise SettingsError(
            "no database of the router is configured: set dsn or config in [router] of nhi.toml, NHI_ROUTER_DSN or"
            " NHI_ROUTER_CONFIG"
        )
    return DatabaseSettings(dsn, read_password(os.environ, PASSWORD_VARIABLE, CREDENTIAL, password_file)), budgets


def render(report: CostReport, tables: tuple[str, ...] | list[str], screen: Screen) -> Iterator[str]:
    """Tables, then totals, budgets and the projection."""
    today, month = report.totals
    if not month.requests:
        yield f"No requests this month (until {report.day} UTC)."
    for by in tables if month.requests else ():
        yield from _table(report, by, screen)
        yield ""
    yield f"today      {in_usd(today.cost)} for {_requests(today)}{_of_budget(report)}"
    yield f"this month {in_usd(month.cost)} for {_requests(month)}"
    yield str(report.projection)


def _table(report: CostReport, by: str, screen: Screen) -> Iterator[str]:
    budgets = report.budgets.agents if by == "agent" and report.budgets is not None else {}
    headings = [by.upper(), "TODAY", "REQUESTS", "MONTH", "REQUESTS", "FAILED", "TOKENS IN", "TOKENS OUT"]
    rows = []
    for name, today, month in report.rows(by):
        cells = [
            Cell(name), Cell(in_usd(today.cost), _colour(today.cost, budgets.get(name))), Cell(f"{today.requests}"),
            Cell(in_usd(month.cost)), Cell(f"{month.requests}"), Cell(f"{month.failed}"),
            Cell(f"{month.input_tokens:,}"), Cell(f"{month.output_tokens:,}"),
        ]  # fmt: skip
        if budgets:
            cells.insert(2, Cell(in_usd(budgets[name]) if name in budgets else "-"))
        rows.append(cells)
    if budgets:
        headings.insert(2, "BUDGET")
    yield from lines_of(screen, headings, rows, flexible=headings[0])


def _requests(spent: Spent) -> str:
    failed = f", {spent.failed} of them failed" if spent.failed else ""
    return f"{spent.requests} request{'' if spent.requests == 1 else 's'}{failed}"


def _of_budget(report: CostReport) -> str:
    total = report.budgets.total if report.budgets is not None else None
    return "" if total is None else f"; the daily budget is {in_usd(total)}"


def _colour(cost: Decimal, budget: Decimal | None) -> str:
    if budget is None or cost < budget * _NEARLY:
        return ""
    return "red" if cost >= budget else "yellow"
