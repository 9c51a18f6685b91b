# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where logs are, how they are read, and which of their lines are young enough."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.catalogue import parse_entry
from ansible_collections.nhi.core.plugins.module_utils.catalogue_files import read_catalogue
from ansible_collections.nhi.core.plugins.module_utils.errors import CatalogueError
from ansible_collections.nhi.core.plugins.module_utils.service_logs import (
    LogSource,
    LogWish,
    YoungLines,
    reading_command,
    time_of,
)

NOON = datetime(2026, 11, 27, 12, 0, 0, tzinfo=UTC)
LOCAL = datetime(2026, 11, 27, 13, 0, 0)  # noqa: DTZ001 -- a guest's own clock
RAW = dict(read_catalogue()["redis"].raw)


def test_every_shipped_service_says_where_its_log_is() -> None:
    assert all(entry.logs.name for entry in read_catalogue().values())
    assert str(read_catalogue()["redis"].logs) == "the file /var/log/redis/redis-server.log"
    assert str(parse_entry({k: v for k, v in RAW.items() if k != "logs"}).logs) == "the journal of unit redis-server"


@pytest.mark.parametrize(
    "logs",
    [
        "redis", {}, {"unit": "a", "file": "/b"}, {"journal": "x"}, {"file": "log"}, {"file": "/var/../etc/shadow"},
        {"file": "/var/log/a;b"}, {"file": "/var/*/x"}, {"file": "/var/log/"}, {"file": "/a*b*c"}, {"file": "/a\n"},
        {"unit": "--help"}, {"docker": "-f"}, {"docker": "a b"}, {"file": 7}, {"file": "/var/log/$(id)"},
    ],
)  # fmt: skip
def test_what_is_no_source_is_refused(logs: Any) -> None:
    with pytest.raises(CatalogueError, match="logs"):
        parse_entry({**RAW, "logs": logs})


def test_moments_reach_journal_and_docker_without_a_time_zone() -> None:
    wish = LogWish(5, NOON)
    journal = reading_command(LogSource("unit", "nginx"), wish)
    assert {"--unit=nginx", "--lines=5", f"--since=@{int(NOON.timestamp())}"} < set(journal)
    assert not [word for word in reading_command(LogSource("unit", None), LogWish(5)) if "unit" in word]
    docker = reading_command(LogSource("docker", "web"), LogWish(5, NOON, follow=True))
    assert docker[-6:] == ["--tail=5", "--timestamps", f"--since={int(NOON.timestamp())}", "--follow", "--", "web"]


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> str:
    """The guest is elsewhere."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    return "Asia/Kolkata"


def read(path: str, wish: LogWish) -> subprocess.CompletedProcess[str]:
    command = reading_command(LogSource("file", path), wish)
    return subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))


def test_the_end_of_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a\nb\nc\n")
    assert read(str(tmp_path / "log"), LogWish(2)).stdout == "b\nc\n"


def test_a_star_is_the_file_that_was_written_to_last(tmp_path: Path) -> None:
    for age, name in enumerate(("pg-14-main.log", "pg-15-main.log", "pg-13-main.log")):
        (tmp_path / name).write_text(f"{name}\n")
        os.utime(tmp_path / name, (1e9 - abs(age - 1), 1e9 - abs(age - 1)))
    assert read(f"{tmp_path}/pg-*.log", LogWish(5)).stdout == "pg-15-main.log\n"
    done = read(f"{tmp_path}/nothing-*.log", LogWish(5))
    assert done.returncode == 1
    assert "there is no file" in done.stderr


@pytest.mark.usefixtures("zone")
def test_a_file_is_read_from_a_moment_on_by_the_guests_clock(tmp_path: Path) -> None:
    # 12:00 UTC is 17:30 in Kolkata.
    (tmp_path / "log").write_text("2026/11/27 17:29:59 old\n  of it\n2026/11/27 17:30:00 young\n  of it\n")
    young = YoungLines(NOON)
    lines = read(str(tmp_path / "log"), LogWish(9, NOON)).stdout.splitlines()
    assert lines[0] == "2026-11-27 17:30:00"
    assert [line for line in lines if young.accept(line)] == ["2026/11/27 17:30:00 young", "  of it"]


@pytest.mark.parametrize(
    ("line", "moment"),
    [
        ("2026-11-27T12:00:00Z x", NOON),
        ("2026-11-27T13:00:00.123+01:00 x", NOON),
        ("2026-11-27 12:00:00.123 UTC [7] LOG:  ready", NOON),
        ('{"t":{"$date":"2026-11-27T12:00:00.123+00:00"},"s":"I"}', NOON),
        ('10.0.0.1 - - [27/Nov/2026:14:00:00 +0200] "GET / HTTP/1.1"', NOON),
        ("1795780800: New connection", NOON),
        ("2026/11/27 13:00:00 [error] 7#7: x", LOCAL),
        ("2026-11-27 13:00:00,123 INFO x", LOCAL),
        ("123:M 27 Nov 2026 13:00:00.123 * Ready", LOCAL),
        ("Nov 27 13:00:00 host app[1]: x", LOCAL),
        ("Nov  7 13:00:00 host app[1]: x", LOCAL - timedelta(days=20)),
        ("Jan  2 13:00:00 host app[1]: x", datetime(2027, 1, 2, 13)),  # noqa: DTZ001
        ("2026-13-45 13:00:00 x", None),
        ("no time", None),
    ],
)
def test_times_are_read_as_programs_write_them(line: str, moment: datetime | None) -> None:
    found = time_of(line, LOCAL)
    assert (found.replace(microsecond=0) if found else None) == moment


def test_lines_without_a_time_are_not_taken_for_young() -> None:
    young = YoungLines(NOON)
    assert [young.accept(line) for line in ("2026-11-27 13:00:00", "a", "b")] == [False] * 3
    assert (young.times_seen, young.passed_over) == (False, 2)
