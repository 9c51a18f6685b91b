# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi costs`, from the arithmetic to the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.module_utils.api_costs import Budgets
from nhi_services.cli import main
from nhi_services.costs_command import render
from nhi_services.costs_report import report_of, since
from nhi_services.table import Screen

from .postgres_server import PostgresServer
from .router_database import PASSWORD, RouterDatabase, router_database

NOW = datetime(2026, 4, 10, 12, tzinfo=UTC)
ROWS = [
    (date(2026, 3, 31), "claude", "sonnet", "aider", "code", 9, 9, 9, 9, Decimal(100)),
    (date(2026, 4, 9), "claude", "sonnet", "aider", "code", 10, 2, 9_000, 800, Decimal("1.5")),
    (date(2026, 4, 10), "claude", "sonnet", "aider", "code", 3, 0, 1_000, 200, Decimal("0.9")),
    (date(2026, 4, 10), "qwen", "qwen-72b", "oi", "quick", 1, 0, 50, 10, Decimal("0.0002")),
]
BUDGETS = Budgets(Decimal(5), {"aider": Decimal(1)})


def test_the_tables_say_who_spent_what_on_whom_and_what_the_month_will_cost() -> None:
    report = report_of(ROWS[1:], date(2026, 4, 9), NOW, BUDGETS)
    assert list(render(report, ("provider", "agent", "task"), Screen())) == [
        "PROVIDER  TODAY    REQUESTS  MONTH    REQUESTS  FAILED  TOKENS IN  TOKENS OUT",
        "claude    $0.90    3         $2.40    13        2       10,000     1,000",
        "qwen      $0.0002  1         $0.0002  1         0       50         10",
        "",
        "AGENT  TODAY    BUDGET  REQUESTS  MONTH    REQUESTS  FAILED  TOKENS IN  TOKENS OUT",
        "aider  $0.90    $1.00   3         $2.40    13        2       10,000     1,000",
        "oi     $0.0002  -       1         $0.0002  1         0       50         10",
        "",
        "TASK   TODAY    REQUESTS  MONTH    REQUESTS  FAILED  TOKENS IN  TOKENS OUT",
        "code   $0.90    3         $2.40    13        2       10,000     1,000",
        "quick  $0.0002  1         $0.0002  1         0       50         10",
        "",
        "today      $0.90 for 4 requests; the daily budget is $5.00",
        "this month $2.40 for 14 requests, 2 of them failed",
        "At this rate you will spend $33.15 this month.",
    ]
    coloured = "\n".join(render(report, ("agent",), Screen(colours=True)))
    assert "\x1b[33m$0.90\x1b[0m" in coloured


def test_nothing_is_said_to_be_nothing() -> None:
    lines = list(render(report_of([], None, NOW), ("provider",), Screen()))
    assert lines[0] == "No requests this month (until 2026-04-10 UTC)."
    assert lines[-1] == "At this rate you will spend $0.00 this month."


def test_the_last_month_is_not_this_month_and_quiet_days_count() -> None:
    report = report_of(ROWS, date(2026, 3, 31), NOW)
    assert report.totals[1].cost == Decimal("2.4002")
    assert report.projection.per_day == Decimal("1.5") / 7
    assert report_of([], date(2026, 1, 1), NOW).projection.projected == 0
    assert (since(NOW), since(datetime(2026, 4, 3, tzinfo=UTC))) == (date(2026, 4, 1), date(2026, 3, 26))


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[RouterDatabase]:
    with router_database(postgres) as made:
        yield made


ROUTER = """
postgresql: {{dsn: "{dsn}", password_file: {password}}}
budget: {{daily_usd: 0.1}}
agents: [{{name: aider, key_sha256: "{key}", daily_budget_usd: 0.25}}]
providers: {{claude: {{base_url: "https://claude.test", models: {{sonnet: {{
  upstream: s, quality: 9, context: 9, max_output: 9}}}}}}}}
tasks: {{code: {{chain: [sonnet]}}}}
"""


@pytest.mark.slow
def test_the_command_reads_what_the_router_wrote_with_the_router_s_own_settings(
    database: RouterDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [n for n in os.environ if n.startswith("NHI_")]:
        monkeypatch.delenv(name)
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    settings, router = tmp_path / "nhi.toml", tmp_path / "router.yml"
    router.write_text(ROUTER.format(dsn=database.router.conninfo, password=secret, key="0" * 64))
    settings.write_text(f'[router]\nconfig = "{router}"\n')
    database.ask(
        "INSERT INTO router.api_requests (timestamp, request_id, input_tokens, output_tokens, latency_ms, attempt,"
        " status, success, cost_usd, provider, model, agent, task_type)"
        " SELECT now(), gen_random_uuid(), 100, 50, 800, 1, 200, n > 1, 0.05, 'claude', 'sonnet', 'aider', 'code'"
        " FROM generate_series(1, 4) n"
    )
    common = ["costs", "--config", str(settings)]
    assert main(common) == 0
    out = capsys.readouterr().out
    assert "today      $0.20 for 4 requests, 1 of them failed; the daily budget is $0.10" in out
    assert "aider  $0.20  $0.25" in out
    assert main([*common, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["today"] == {
        "requests": 4, "failed": 1, "input_tokens": 400, "output_tokens": 200, "cost_usd": 0.2,
    }  # fmt: skip
    assert data["by_agent"]["aider"]["month"]["cost_usd"] == 0.2
    assert data["budgets"] == {"daily_usd": 0.1, "agents": {"aider": 0.25}}
    assert data["projection"]["projected_usd"] >= 0.2

    monkeypatch.setenv("NHI_ROUTER_DSN", f"{database.router.conninfo} password=hunter2")
    assert main(common) == 2
    assert "hunter2" not in capsys.readouterr().err
    monkeypatch.setenv("NHI_ROUTER_DSN", database.router.conninfo)
    monkeypatch.setenv("NHI_ROUTER_PASSWORD", PASSWORD)
    settings.write_text("")
    assert main([*common, "--by", "model"]) == 0
    assert capsys.readouterr().out.startswith("MODEL ")
    database.server.stop()
    assert main(common) == 1
    said = capsys.readouterr().err
    assert said.startswith("nhi: the database of the router can not be read")
    assert said.count("\n") == 1
    database.server.start()


def test_without_a_database_the_command_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [n for n in os.environ if n.startswith("NHI_")]:
        monkeypatch.delenv(name)
    settings = tmp_path / "nhi.toml"
    settings.touch()
    assert main(["costs", "--config", str(settings)]) == 2
    assert "NHI_ROUTER_DSN" in capsys.readouterr().err
    settings.write_text("[router]\npassword = 'x'\n")
    assert main(["costs", "--config", str(settings)]) == 2
    assert "is not a setting: use config, dsn, password_file" in capsys.readouterr().err
