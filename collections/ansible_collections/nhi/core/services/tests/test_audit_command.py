# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi audit` as a person calls it: tables, JSON, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.audit_log import AuditLog, directory_of, segments
from nhi_services.audit_command import moment
from nhi_services.cli import main
from nhi_services.settings import SettingsError


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("PROXMOX_", "NHI_")) or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)
    (tmp_path / "nhi.toml").touch()
    monkeypatch.setenv("NHI_CONFIG", str(tmp_path / "nhi.toml"))
    monkeypatch.setenv("NHI_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


def tell(state_dir: Path, subject: str, outcome: str = "done", **more: Any) -> None:
    fields = {"operation": "nhi_vm/absent", "subject": subject, "actor": "aider", "outcome": outcome, **more}
    AuditLog(state_dir).append(fields)


def out(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_a_search_shows_who_did_what(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell(state_dir, "redis", result={"changed": True, "actions": ["Destroy LXC 105 redis"]}, plan="p-1")
    tell(state_dir, "brain", "refused", reason="brain is the Brain\x1b[31m")
    tell(state_dir, "idle", result={"changed": False, "actions": []})
    assert main(["audit", "search"]) == 0
    heading, *rows = out(capsys).splitlines()
    assert heading.split() == ["TIME", "ACTOR", "OPERATION", "ABOUT", "OUTCOME", "WHAT"]
    assert rows[0].endswith("Destroy LXC 105 redis; plan p-1")
    assert rows[1].endswith("brain is the Brain?[31m")
    assert rows[2].endswith("nothing to do")
    assert main(["audit", "search", "DESTROY", "--guest", "redis", "--outcome", "done", "--json"]) == 0
    (entry,) = out(capsys).splitlines()
    assert json.loads(entry)["plan"] == "p-1"
    assert main(["audit", "search", "--actor", "nobody"]) == 0
    assert out(capsys) == "No entries.\n"


def test_a_search_is_in_time(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell(state_dir, "redis")
    for options, count in ((["--since", "5min"], 1), (["--until", "5min"], 0), (["--since", "2020-01-01"], 1)):
        assert main(["audit", "search", "--json", *options]) == 0
        assert out(capsys).count("\n") == count
    assert main(["audit", "search", "--since", "yesterday-ish"]) == 2
    assert "is no time: write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "ago"), [("90min", timedelta(minutes=90)), ("2h", timedelta(hours=2)), ("3 d", timedelta(days=3))]
)
def test_a_moment_may_be_some_time_ago(text: str, ago: timedelta) -> None:
    now = datetime(2026, 11, 27, 12, tzinfo=UTC)
    assert moment(text, now) == now - ago


def test_a_moment_without_a_zone_is_local_and_an_hour_is_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Rome")
    time.tzset()
    try:
        now = datetime(2026, 11, 27, 12, tzinfo=UTC)
        assert moment("14:00", now) == datetime(2026, 11, 27, 13, tzinfo=UTC)
        assert moment("2026-07-01T14:00", now) == datetime(2026, 7, 1, 12, tzinfo=UTC)
        assert moment("2026-07-01T14:00+00:00", now) == datetime(2026, 7, 1, 14, tzinfo=UTC)
        with pytest.raises(SettingsError):
            moment("25:00", now)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_tail_shows_the_newest(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        tell(state_dir, f"guest-{number}")
    assert main(["audit", "tail", "-n", "2", "--json"]) == 0
    assert [json.loads(line)["subject"] for line in out(capsys).splitlines()] == ["guest-3", "guest-4"]
    assert main(["audit", "search", "--limit", "1", "--json"]) == 0
    assert "guest-4" in out(capsys)


def test_tail_follows(state_dir: Path) -> None:
    tell(state_dir, "before")
    path = os.pathsep.join(p for p in sys.path if p)
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "nhi_services", "audit", "tail", "-f", "--json"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["subject"] == "before"
        # At once, and in a row: nothing may fall between showing and following.
        for number in range(20):
            tell(state_dir, f"after-{number}")
        followed = [json.loads(process.stdout.readline())["subject"] for _number in range(20)]
        assert followed == [f"after-{number}" for number in range(20)]
    finally:
        process.kill()
        process.communicate()


def test_verify_says_what_is_wrong_and_fails(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        tell(state_dir, f"guest-{number}")
    assert main(["audit", "verify"]) == 0
    assert out(capsys).splitlines()[-1].startswith("whole: 3 entries in 1 files, ")
    file = segments(directory_of(state_dir))[0].path
    file.write_bytes(file.read_bytes().replace(b"guest-1", b"guest-7"))
    assert main(["audit", "verify"]) == 1
    said = capsys.readouterr()
    assert "line 2 is damaged: its content does not match its hash" in said.out
    assert "is not whole: compare with a backup" in said.err
    assert main(["audit", "verify", "--json"]) == 1
    assert json.loads(out(capsys))["whole"] is False


def test_a_replay_without_a_database_says_how_to_set_one_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "replay"]) == 2
    assert "set conninfo in [database] of audit.toml, or NHI_AUDIT_DATABASE" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["database = 1", "[database]\nconninfo = 1", "[database]\npassword = 'x'", "[other]", "rubbish"]
)
def test_settings_that_can_not_be_used_are_refused(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "audit.toml").write_text(content)
    assert main(["audit", "replay"]) == 2
    assert "audit.toml" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_who_may_not_read_the_log_is_told(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell(state_dir, "redis")
    directory_of(state_dir).chmod(0)
    for action in ("search", "tail", "verify"):
        assert main(["audit", action]) == 1
        assert "can not be read" in capsys.readouterr().err
    directory_of(state_dir).chmod(0o750)
