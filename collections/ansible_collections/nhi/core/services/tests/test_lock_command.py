# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi lock status`: what is held, what was left by the dead, and what nobody can tell; the exit code says it too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from ansible_collections.nhi.core.plugins.module_utils.lock import FileLock, Holder
from ansible_collections.nhi.core.plugins.module_utils.reservations import Reservations
from nhi_services.cli import main

# A holder that lives until it is killed: what it takes, and how.
HOLDS = """
import sys, time
from pathlib import Path
from ansible_collections.nhi.core.plugins.module_utils.journal import Journal
from ansible_collections.nhi.core.plugins.module_utils.lock import FileLock
from ansible_collections.nhi.core.plugins.module_utils.reservations import Choice, Reservations
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now
kind, directory = sys.argv[1], Path(sys.argv[2])
if kind == "lock":
    FileLock(directory / "state.lock", "write the state", actor="aider").acquire()
else:
    Reservations(directory).reserve("op-1", "web", utc_now(), lambda _held: Choice(vmid=105))
    journal = Journal(directory, "op-1", "create web")
    journal.write("create")
print("held", flush=True)
time.sleep(120)
"""


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nhi.toml").touch()
    monkeypatch.setenv("NHI_CONFIG", str(tmp_path / "nhi.toml"))
    directory = tmp_path / "state"
    directory.mkdir()
    monkeypatch.setenv("NHI_STATE_DIR", str(directory))
    return directory


@contextmanager
def holder(kind: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", HOLDS, kind, str(directory)]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def status(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and each hold by its name."""
    code = main(["lock", "status", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["exit_code"] == code
    return code, {hold["name"]: hold for hold in said["holds"]}


def text(capsys: pytest.CaptureFixture[str]) -> str:
    main(["lock", "status"])
    return capsys.readouterr().out


def test_nothing_held_is_zero(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(capsys) == (0, {})
    assert "No lock was ever taken here." in text(capsys)
    with FileLock(state_dir / "state.lock", "x"):
        pass
    code, holds = status(capsys)
    assert (code, holds["state.lock"]["state"], holds["state.lock"]["holder"]) == (0, "free", None)


def test_a_held_lock_is_told_with_its_holder(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with holder("lock", state_dir) as process:
        code, holds = status(capsys)
        shown = text(capsys)
    found = holds["state.lock"]
    assert (code, found["state"], found["lives"]) == (3, "held", True)
    assert (found["holder"]["pid"], found["holder"]["actor"]) == (process.pid, "aider")
    assert "write the state (writing state.json)" in shown
    assert f"`kill {process.pid}` ends it and frees the lock. Never remove the file." in shown


def test_a_killed_holder_leaves_a_name_and_a_free_lock(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with holder("lock", state_dir) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    code, holds = status(capsys)
    found = holds["state.lock"]
    assert (code, found["state"], found["lives"]) == (0, "free", False)
    assert "let go without taking its name out" in found["advice"]
    assert "nothing is to be done" in text(capsys)
    with FileLock(state_dir / "state.lock", "next", timeout=0):
        assert status(capsys)[1]["state.lock"]["holder"]["operation"] == "next"


def test_looking_disturbs_nobody(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(state_dir / "state.lock", "x") as lock:
        before = (state_dir / "state.lock").read_bytes()
        status(capsys)
        assert (state_dir / "state.lock").read_bytes() == before
        assert lock.held
    with FileLock(state_dir / "state.lock", "x", timeout=0):
        pass


@pytest.mark.parametrize(
    "left",
    [
        b"",
        json.dumps(
            asdict(Holder("old", "aider", 2**22 + 1, os.uname().nodename, "2026-11-27T10:00:00+00:00"))
        ).encode(),
    ],
)
def test_a_holder_that_could_not_write_its_name_is_found_all_the_same(
    state_dir: Path, left: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = FileLock(state_dir / "state.lock", "x")
    with mock.patch("os.pwrite", side_effect=OSError(28, "No space left on device")), lock:
        (state_dir / "state.lock").write_bytes(left)
        code, holds = status(capsys)
        with mock.patch("pathlib.Path.read_text", side_effect=OSError):
            unknown, others = status(capsys)
    assert (code, holds["state.lock"]["state"]) == (3, "held")
    assert f"Process {os.getpid()} holds it" in holds["state.lock"]["advice"]
    assert (unknown, others["state.lock"]["state"]) == (4, "unknown")
    assert f"fuser -v {state_dir / 'state.lock'}" in others["state.lock"]["advice"]
    assert ("who is gone" if left else "the file names nobody") in holds["state.lock"]["advice"]


def test_a_holder_on_another_host_is_not_judged(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(state_dir / "state.lock", "x"):
        away = Holder("write", "luca", 77, "attic", "2026-11-27T10:00:00+00:00")
        (state_dir / "state.lock").write_text(json.dumps(asdict(away)))
        code, holds = status(capsys)
    assert (code, holds["state.lock"]["lives"]) == (3, None)
    assert "Ask on attic whether process 77 lives" in holds["state.lock"]["advice"]


def test_reservations_are_of_a_run_under_way_or_of_one_that_is_gone(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with holder("reservation", state_dir) as process:
        code, holds = status(capsys)
        assert (code, holds["web"]["kind"], holds["web"]["state"]) == (3, "reservation", "held")
        assert holds["web"]["about"] == "VMID 105"
        process.send_signal(signal.SIGKILL)
        process.wait()
    code, holds = status(capsys)
    assert (code, holds["web"]["state"], holds["web"]["lives"]) == (4, "cut off", False)
    assert "web: Its run is gone: `nhi recover op-1`." in text(capsys)
    Reservations(state_dir).release("op-1")
    code, holds = status(capsys)
    assert (code, set(holds)) == (0, {"infrastructure.lock"})


def test_a_redis_that_can_not_be_asked_is_no_free_lock(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (state_dir / "lock.json").write_text("{}{")
    code, holds = status(capsys)
    assert (code, holds["redis"]["state"]) == (4, "unknown")


def test_a_name_from_a_lock_file_does_not_play_with_the_terminal(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FileLock(state_dir / "state.lock", "write \x1b[31mred", actor="\x1b[2Jaider"):
        assert "\x1b" not in text(capsys)
