# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a request that is over to its rows, and how much room they take in a year."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from ansible_collections.nhi.core.plugins.module_utils.routing import Demand, Reading, Weights, decide
from nhi_services.postgres import conninfo_of
from nhi_services.router.books import Books
from nhi_services.router.config import RouterConfig, load_config, parse_config
from nhi_services.router.entries import INSERTIONS, Choice, Entry, line_of, of_table
from nhi_services.router.live import Setup
from nhi_services.router.migrate import main as migrate_main
from nhi_services.router.trail import Trail, Tried

from .postgres_server import PostgresServer
from .router_database import OWNER, PASSWORD, ROUTER, RouterDatabase, router_database

pytestmark = pytest.mark.slow

GIB = 1024**3
REQUESTS_A_DAY = 5000
EXAMPLE = Path(__file__).resolve().parents[1] / "src/nhi_services/router/examples/blueprint.yml"


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[RouterDatabase]:
    with router_database(postgres) as made:
        yield made


def config_of(database: RouterDatabase, directory: Path) -> RouterConfig:
    secret = directory / "password"
    secret.write_text(PASSWORD)
    return parse_config(
        {
            "postgresql": {"dsn": database.router.conninfo, "password_file": str(secret)},
            "spool": {"directory": str(directory / "spool")},
            "retention": {"requests_days": 30},
            "budget": {"daily_usd": 5},
            "providers": {
                "claude": {
                    "base_url": "https://claude.test",
                    "models": {
                        name: {"upstream": name, "quality": 9, "context": 9, "max_output": 9, "price": price}
                        for name, price in {"sonnet": {"input": 3, "output": 15}, "haiku": {"input": 1}}.items()
                    },
                }
            },
            "tasks": {"code": {"chain": ["sonnet", "haiku"]}},
        }
    )


def a_trail(config: RouterConfig, **more: Any) -> Trail:
    trail = Trail("aider", "code", "chat", "nhi/code", user_agent="Aider/0.86", ended_at=time.time())
    readings = {"sonnet": Reading(), "haiku": Reading(quota_left=0.5)}
    trail.decision = decide(Demand("code", ("sonnet", "haiku"), 1200), config.models(), readings, Weights())
    for name, value in more.items():
        setattr(trail, name, value)
    return trail


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not true():  # noqa: ASYNC110 -- what is waited for tells nobody
            await asyncio.sleep(0.02)


def test_a_request_is_a_row_for_each_attempt_and_one_for_the_decision(database: RouterDatabase, tmp_path: Path) -> None:
    config = config_of(database, tmp_path)
    failed, good = Tried("sonnet", "claude", "HTTP 503", 503, 40), Tried("haiku", "claude", "", 200, 700, 1_000_000, 10)

    async def run() -> Any:
        books = Books(config, "one")
        books.start()
        setup = Setup(config, None, {}, {})  # type: ignore[arg-type]
        books.recorders[0].record(
            a_trail(
                config, tried=[failed, good], model="haiku", provider="claude", status=200, outcome="done",
                first_token_ms=90.0, degraded="sonnet was busy",
            ),
            setup,
        )  # fmt: skip
        books.recorders[0].record(a_trail(config, status=429, outcome="failed", decision=None), setup)
        books.recorders[0].record(
            a_trail(
                config, tried=[Tried("sonnet", "claude", "", 200, 0, 1000, 100)], model="sonnet", provider="claude",
                status=200, outcome="cut",
            ),
            setup,
        )  # fmt: skip
        await until(lambda: not books.ledger.stats.waiting)
        report = await books.costs()
        await books.close()
        return report

    report = asyncio.run(run())
    rows = database.ask(
        "SELECT attempt, provider, model, status, success, input_tokens, latency_ms, first_token_ms, cost_usd, degraded"
        " FROM router.api_requests WHERE latency_ms > 1 ORDER BY status DESC, attempt"
    )
    assert rows.splitlines() == [
        "1|claude|sonnet|503|f|0|40||0.00000000|",
        "2|claude|haiku|200|t|1000000|700|90|1.00000000|sonnet was busy",
    ]
    assert database.ask("SELECT attempt, provider, success FROM router.api_requests WHERE status = 429") == "0|-|f"
    assert database.ask(
        "SELECT cost_usd, success FROM router.api_requests WHERE model = 'sonnet' AND status = 200"
    ) == ("0.00450000|f")
    assert database.ask("SELECT count(DISTINCT user_agent), min(user_agent) FROM router.api_requests") == "1|Aider/0.86"
    chosen, attempts = database.ask(
        "SELECT chosen, attempts FROM router.routing_log WHERE chosen = 'haiku' AND jsonb_array_length(candidates) = 2"
    ).split("|")
    assert (chosen, [one["what"] for one in json.loads(attempts)]) == ("haiku", ["HTTP 503", "good"])
    assert report.totals[0].cost == Decimal("1.0045")
    assert report.budgets.total == 5


def test_tables_that_are_not_there_yet_cost_no_row(postgres: PostgresServer, tmp_path: Path) -> None:
    with router_database(postgres, migrated=False) as fresh:
        config = config_of(fresh, tmp_path)

        async def run() -> None:
            books, setup = Books(config, "one"), Setup(config, None, {}, {})  # type: ignore[arg-type]
            books.start()
            books.recorders[0].record(a_trail(config, status=429, outcome="failed"), setup)
            await until(lambda: books.ledger.stats.spooled > 0)
            owner = tmp_path / "owner"
            owner.write_text(PASSWORD)
            owner.chmod(0o600)
            migrating = ["--dsn", fresh.owner.conninfo, "--password-file", str(owner), "--grant-to", ROUTER]
            assert await asyncio.to_thread(migrate_main, migrating) == 0
            await until(lambda: books.ledger.stats.replayed == 2)
            await books.close()

        asyncio.run(run())
        assert fresh.ask("SELECT count(*) FROM router.routing_log") == "1"


def test_a_superuser_makes_tables_for_an_owner_who_is_none(
    postgres: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with router_database(postgres, migrated=False) as fresh:
        dsn = f"host={postgres.home} port={postgres.port} dbname={fresh.name} user=postgres"
        options = ["--dsn", dsn, "--owner", OWNER, "--grant-to", ROUTER]
        assert migrate_main([*options, "--check"]) == 0
        assert migrate_main(options) == 0
        assert capsys.readouterr().out == "APPLY 0001_router\n" * 2
        assert migrate_main(options) == 0
        assert capsys.readouterr().out == ""
        owners = "SELECT DISTINCT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'router'::regnamespace"
        assert fresh.ask(owners) == OWNER
        assert migrate_main(["--dsn", dsn.replace(fresh.name, "nowhere")]) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_a_year_of_requests_fits_into_a_gibibyte(database: RouterDatabase) -> None:
    """A scaled sample is loaded as the router does it, its rows measured, and the year reckoned from them.

    5,000 requests a day with a decision each, kept for the days that are the default; sums by hour and day for 8 agents
    with 4 tasks on 6 models, all of them busy in 12 hours of each day; 100 deferred tasks of 20 KiB a day.
    """
    config = load_config(EXAMPLE)
    models = config.models()
    chain = tuple(models)
    readings = {name: Reading(quota_left=0.123, latency_ms=812.5) for name in chain}
    now = datetime.now(UTC)
    lines = []
    for number in range(REQUESTS_A_DAY):
        at, name = now - timedelta(seconds=number % 3600), uuid4()
        model = models[chain[number % len(chain)]]
        decision = decide(Demand("quick", chain, 1200 + number), models, readings, Weights())
        agent, task = f"open-interpreter-{number % 8}", f"code_generation_{number % 4}"
        lines.append(line_of(Entry(
            at, name, model.provider, model.name, agent, task, input_tokens=1200 + number, output_tokens=number,
            latency_ms=812, first_token_ms=90, cost_usd=Decimal("0.00872345"), user_agent="OpenAI/Python 1.99.1",
            degraded="claude-sonnet: requests_per_day" if number % 5 == 0 else None,
        )))  # fmt: skip
        lines.append(line_of(Choice(
            at, name, agent, task, model.name, decision.reason, provider=model.provider, asked_for="nhi/quick_queries",
            prompt_tokens=1200, attempts=[{"model": model.name, "what": "good", "ms": 812}],
            candidates=[candidate.as_data() for candidate in decision.candidates],
        )))  # fmt: skip
    with psycopg.connect(conninfo_of(database.router, "of the router", "test"), autocommit=True) as connection:
        for first in range(0, len(lines), 500):
            for table, insertion in INSERTIONS.items():
                connection.execute(insertion.encode(), [of_table(lines[first : first + 500], table)])
    size = "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'router.{}'::regclass"
    per_row = {
        table: int(database.ask(size.format(table))) / REQUESTS_A_DAY for table in ("api_requests", "routing_log")
    }
    sums = int(database.ask("SELECT pg_total_relation_size('router.api_usage_hour')"))
    per_sum = sums / int(database.ask("SELECT count(*) FROM router.api_usage_hour"))
    kept = config.retention
    combinations = 8 * 4 * 6
    bytes_ = {
        "api_requests": per_row["api_requests"] * REQUESTS_A_DAY * (kept.requests_days + 1),
        "routing_log": per_row["routing_log"] * REQUESTS_A_DAY * (kept.decisions_days + 1),
        "api_usage_hour": per_sum * combinations * 12 * (kept.hours_days + 1),
        "api_usage_day": per_sum * combinations * 365,
        "deferred_tasks": 100 * 20 * 1024 * (kept.deferred_days + 1),
    }
    print({name: f"{value / 1024**2:.0f} MiB" for name, value in bytes_.items()}, per_row, per_sum)
    assert sum(bytes_.values()) < GIB, bytes_
    assert sum(bytes_.values()) > GIB / 100, "a reckoning that leaves most of it out is none"
