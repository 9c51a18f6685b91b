# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The router's tables in a real PostgreSQL: how they come there, who may do what, and how much room a year takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from nhi_services.postgres import conninfo_of
from nhi_services.router.migrate import MigrationError, migrate

from .postgres_server import PostgresServer
from .router_database import PASSWORD, ROUTER, RouterDatabase, router_database

pytestmark = pytest.mark.slow

FORBIDDEN = [
    "UPDATE router.api_requests SET cost_usd = 0",
    "DELETE FROM router.api_requests",
    "TRUNCATE router.routing_log",
    "INSERT INTO router.api_requests_other SELECT * FROM router.api_requests",
    "INSERT INTO router.api_usage_day SELECT * FROM router.api_usage_day",
    "UPDATE router.api_usage_hour SET cost_usd = 0",
    "UPDATE router.deferred_tasks SET agent = 'me'",
    "UPDATE router.deferred_tasks SET payload = '{}'",
    "DELETE FROM router.deferred_tasks",
    "DROP TABLE router.api_requests_other",
    "ALTER TABLE router.api_requests DISABLE TRIGGER ALL",
    "CREATE TABLE router.mine (x int)",
    "SELECT setval('router.api_requests_id', 1)",
    "UPDATE router.migration SET version_num = 'x'",
]
REQUEST = (
    "INSERT INTO router.api_requests (timestamp, request_id, input_tokens, output_tokens, latency_ms, attempt, status,"
    " success, cost_usd, provider, model, agent, task_type)"
    " SELECT {when}, gen_random_uuid(), 100, 50, 800, 1, 200, true, 0.00105, 'claude', 'sonnet', 'aider', 'code'"
)


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[RouterDatabase]:
    with router_database(postgres) as made:
        yield made


def as_router(database: RouterDatabase) -> psycopg.Connection[Any]:
    return psycopg.connect(conninfo_of(database.router, "of the router", "test"), autocommit=True)


def test_a_dry_run_changes_nothing_and_a_second_run_has_nothing_to_do(postgres: PostgresServer) -> None:
    with router_database(postgres, migrated=False) as fresh:
        assert migrate(fresh.owner, dry_run=True) == ["0001_router"]
        assert fresh.ask("SELECT to_regnamespace('router')") == ""
        assert migrate(fresh.owner, ROUTER) == ["0001_router"]
        assert migrate(fresh.owner, ROUTER) == []
        assert fresh.ask("SELECT version_num FROM router.migration") == "0001_router"


def test_two_at_once_apply_everything_once(postgres: PostgresServer) -> None:
    with router_database(postgres, migrated=False) as fresh:
        done: list[list[str]] = []
        threads = [threading.Thread(target=lambda: done.append(migrate(fresh.owner, ROUTER))) for _one in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(done) == [[], [], ["0001_router"]]


def test_a_migration_that_fails_leaves_nothing(postgres: PostgresServer) -> None:
    with router_database(postgres, migrated=False) as fresh:
        with pytest.raises(MigrationError, match='role "nobody_at_all" does not exist'):
            migrate(fresh.owner, "nobody_at_all")
        assert fresh.ask("SELECT to_regnamespace('router')") == ""
        with pytest.raises(MigrationError, match="permission denied for database") as refused:
            migrate(fresh.router)
        assert PASSWORD not in str(refused.value)


def test_tables_of_a_newer_program_are_left_alone(database: RouterDatabase) -> None:
    database.ask("UPDATE router.migration SET version_num = '0099_later'")
    with pytest.raises(MigrationError, match="0099_later, which this nhi-router does not know"):
        migrate(database.owner)


def test_the_columns_are_those_of_the_blueprint(database: RouterDatabase) -> None:
    columns = database.ask(
        "SELECT string_agg(attname, ' ' ORDER BY attname) FROM pg_attribute"
        " WHERE attrelid = 'router.api_requests'::regclass AND attnum > 0"
    ).split()
    blueprint = {
        "id", "timestamp", "provider", "model", "input_tokens", "output_tokens", "latency_ms", "cost_usd",
        "user_agent", "success",
    }  # fmt: skip
    added = {"agent", "task_type", "attempt", "status", "first_token_ms", "degraded", "request_id"}
    assert set(columns) == blueprint | added
    indexes = database.ask("SELECT indexname FROM pg_indexes WHERE schemaname = 'router'").split()
    assert {"idx_requests_timestamp", "idx_requests_provider"} <= set(indexes)


def test_the_router_adds_and_reads_and_nothing_else(database: RouterDatabase) -> None:
    with as_router(database) as connection:
        connection.execute(REQUEST.format(when="now()"))
        for statement in FORBIDDEN:
            with pytest.raises(psycopg.Error) as refused:
                connection.execute(statement)
            assert refused.value.sqlstate == "42501", (statement, refused.value)
        assert connection.execute("SELECT requests, cost_usd FROM router.api_usage_day").fetchall() == [
            (1, Decimal("0.00105"))
        ]


def test_sums_follow_every_row_once_also_in_their_own_hour(database: RouterDatabase) -> None:
    with as_router(database) as connection:
        connection.execute("SET timezone = 'Pacific/Auckland'")
        for when in ("'2026-03-01 23:59:59+00'", "'2026-03-02 00:00:00+00'", "'2026-03-02 00:30:00+00'"):
            connection.execute(REQUEST.format(when=when))
        connection.execute("INSERT INTO router.api_requests SELECT * FROM router.api_requests ON CONFLICT DO NOTHING")
    assert database.ask("SELECT day, requests, cost_usd FROM router.api_usage_day ORDER BY day").split() == [
        "2026-03-01|1|0.00105000", "2026-03-02|2|0.00210000",
    ]  # fmt: skip
    assert database.ask("SELECT requests FROM router.api_usage_hour ORDER BY hour") == "1\n2"


def test_what_is_old_is_dropped_and_sums_by_day_stay(database: RouterDatabase) -> None:
    with as_router(database) as connection:
        for days in (200, 91, 89, 0):
            connection.execute(REQUEST.format(when=f"now() - interval '{days} days'"))
        connection.execute("SELECT * FROM router.keep(90, 14, 90, 30)")
        assert connection.execute("SELECT count(*) FROM router.api_requests").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM router.api_usage_hour").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM router.api_usage_day").fetchone() == (4,)
        assert connection.execute("SELECT * FROM router.keep(90, 14, 90, 30)").fetchall() == []
        with pytest.raises(psycopg.Error, match="at least 1"):
            connection.execute("SELECT * FROM router.keep(0, 14, 90, 30)")
    today = database.ask("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')")
    database.ask(f"ALTER TABLE router.api_requests_{today} RENAME TO api_requests_20200101")
    with as_router(database) as connection:
        done = connection.execute("SELECT action, what FROM router.keep(90, 14, 90, 30)").fetchall()
    assert done[0] == ("dropped", "api_requests_20200101")
    assert len(done) == 2


def test_one_of_several_routers_tidies_up(database: RouterDatabase) -> None:
    with as_router(database) as first, as_router(database) as second, first.transaction():
        first.execute("SELECT * FROM router.keep(90, 14, 90, 30)")
        assert second.execute("SELECT * FROM router.keep(90, 14, 90, 30, 20)").fetchall() == []
    with as_router(database) as second:
        assert second.execute("SELECT * FROM router.keep(90, 14, 90, 30, 20)").fetchall() != []
