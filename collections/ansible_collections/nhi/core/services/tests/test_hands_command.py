# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`nhi exec` and `nhi logs` as a person or an agent calls them: streams, exit codes, one line per refusal."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.hands_lab import POLICY, HandsLab
from nhi_services.cli import main
from nhi_services.hands_command import split

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HandsLab:
    for name in list(os.environ):
        if name.startswith(("PROXMOX_", "NHI_")):
            monkeypatch.delenv(name)
    (tmp_path / "nhi.toml").touch()
    monkeypatch.setenv("NHI_CONFIG", str(tmp_path / "nhi.toml"))
    monkeypatch.setenv("NHI_STATE_DIR", str(tmp_path / "state"))
    return HandsLab(tmp_path, monkeypatch)


def nhi(*argv: str) -> Sequence[str]:
    return [sys.executable, "-m", "nhi_services", *argv]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_streams_and_exit_code_are_those_of_the_command(
    lab: HandsLab, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["exec", "redis-cache", "--", "seven"]) == 7
    assert capfdbinary.readouterr() == (b"out\n", b"err\n")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["exec", "x", "--", "a", "--", "-b"], (["exec", "x"], ("a", "--", "-b"))),
        (["exec", "--json", "x", "--"], (["exec", "--json", "x"], ())),
        (["status", "--"], (["status", "--"], ())),
        ([], ([], ())),
    ],
)
def test_only_the_first_two_hyphens_part_the_command(argv: list[str], words: tuple[list[str], tuple[str, ...]]) -> None:
    assert split(argv) == words


def test_words_of_the_command_are_no_options_of_nhi(lab: HandsLab, capfd: pytest.CaptureFixture[str]) -> None:
    lab.act_as("luca")
    assert main(["exec", "redis", "--", "show", "--json", "-i", "--", "a b", "$x"]) == 0
    assert capfd.readouterr().out == "--json\n-i\n--\na b\n$x\n"


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["redis-cache", "--", "rm", "x"], 126, "nhi: running rm on redis-cache is not allowed"),
        (["off", "--", "uptime"], 126, "nhi: LXC 106 off is stopped"),
        (["nowhere", "--", "uptime"], 126, "nhi: the state has no guest"),
        (["redis-cache", "uptime"], 2, "nhi: Write the command after two hyphens"),
        (["redis-cache"], 2, "nhi: Write the command after two hyphens"),
        (["redis-cache", "--timeout", "0", "--", "uptime"], 2, "nhi: --timeout 0 is out of range"),
        (["redis-cache", "--timeout", "0.3", "--", "uptime"], 124, "nhi: 'uptime' on 10.86.0.106 did not end"),
    ],
)
def test_codes_of_its_own_come_with_one_line(
    lab: HandsLab, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, said: str
) -> None:
    lab.ssh.program("uptime", "sleep 30")
    assert main(["exec", *argv]) == code
    error = capsys.readouterr().err
    assert error.startswith(said)
    assert error.count("\n") == 1


def test_a_failure_of_ssh_is_255_with_a_line_and_a_command_that_ends_so_has_none(
    lab: HandsLab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.ssh.program("uptime", "exit 255")
    assert main(["exec", "redis-cache", "--", "uptime"]) == 255
    assert capsys.readouterr().err == ""
    lab.ssh.refuse("Host key verification failed.")
    assert main(["exec", "redis-cache", "--", "uptime"]) == 255
    assert "nhi: no SSH to root@10.86.0.106: Host key verification failed." in capsys.readouterr().err


def test_json_has_code_streams_and_duration(lab: HandsLab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exec", "redis-cache", "--json", "--", "seven"]) == 7
    result = json.loads(capsys.readouterr().out)
    assert (result["rc"], result["stdout"], result["stderr"]) == (7, "out\n", "err\n")
    assert result["duration"] >= 0


def test_a_check_says_what_would_be_and_runs_nothing(lab: HandsLab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exec", "redis", "--check", "--", "uptime"]) == 0
    assert "It would be run on LXC 105 redis-cache at 10.86.0.106" in capsys.readouterr().out
    assert main(["exec", "redis", "--check", "--", "reload", "x"]) == 126
    assert "An operator approves it with 'nhi approve plan-" in capsys.readouterr().out
    assert main(["exec", "redis", "--check", "--json", "--", "rm"]) == 126
    assert json.loads(capsys.readouterr().out)["allowed"] is False
    assert lab.ssh.calls() == ""


def test_input_is_handed_on_only_when_asked_for(lab: HandsLab) -> None:
    lab.policy({**POLICY, "exec": [{"decision": "allow"}]})
    for options, expected in (([], b""), (["-i"], b"a\0b")):
        done = subprocess.run(
            nhi("exec", "redis", *options, "--", "cat"), input=b"a\0b", env=environment(), stdout=-1, check=True
        )
        assert done.stdout == expected


def test_ctrl_c_ends_the_command_too_and_is_written_down(lab: HandsLab, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    lab.ssh.program("uptime", f"echo $$ > {pid}; echo begun; exec sleep 60")
    with subprocess.Popen(nhi("exec", "redis", "--", "uptime"), env=environment(), stdout=-1, stderr=-1) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == b"begun\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 130
        assert running.stderr.read() == b"nhi: interrupted; the command is ended\n"
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid.read_text().strip()}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert lab.audit()[-1]["reason"] == "interrupted by SIGINT"


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_a_guest_can_not_play_with_the_terminal(lab: HandsLab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.ssh.program("uptime", r"printf '\033]0;x\007 ok\303'; printf '\251\n'")
    screen = Terminal(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", screen)
    assert main(["exec", "redis", "--", "uptime"]) == 0
    screen.seek(0)
    assert screen.read() == "?]0;x? oké\n"


# nhi logs


@pytest.fixture
def log(lab: HandsLab, tmp_path: Path) -> Path:
    """The file in which the service keeps its log."""
    entries = tmp_path / "catalogue"
    entries.mkdir()
    shipped = Path(__file__).parents[2] / "catalogue/redis.yml"
    file = tmp_path / "redis.log"
    (entries / "redis.yml").write_text(shipped.read_text().replace("/var/log/redis/redis-server.log", str(file)))
    (tmp_path / "nhi.toml").write_text(f'[scan]\ncatalogue = ["{entries}"]\n')
    file.write_bytes(b"2026-01-01T00:00:00Z one\n2026-01-02T00:00:00Z \x1b[31mtwo\tend\n")
    return file


def test_the_end_of_a_log_is_shown_with_harmless_characters(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "redis"]) == 0
    assert capsys.readouterr().out.splitlines() == ["2026-01-01T00:00:00Z one", "2026-01-02T00:00:00Z ?[31mtwo   end"]
    assert main(["logs", "redis", "-n", "1", "--since", "2026-01-01T12:00Z"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == ["2026-01-02T00:00:00Z ?[31mtwo   end"]
    assert "these are the last 1 lines; there may be more" in err
    assert main(["logs", "redis", "--since", "2026-01-03T00:00Z"]) == 0
    assert "nothing was written to the file" in capsys.readouterr().err
    assert main(["logs", "redis", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lines"][1].startswith("2026-01-02T00:00:00Z \x1b")


def test_a_followed_log_goes_on_until_ctrl_c(log: Path, lab: HandsLab) -> None:
    with subprocess.Popen(nhi("logs", "redis", "-f", "-n", "1"), env=environment(), stdout=-1, stderr=-1) as running:
        assert running.stdout is not None
        assert b"two" in running.stdout.readline()
        with log.open("a") as file:
            file.write("three\n")
        assert running.stdout.readline() == b"three\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 130
    assert lab.audit()[-1]["result"]["lines"] == 2


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["redis", "-f", "--json"], 2, "--follow has no end"),
        (["redis", "-n", "0"], 1, "lines can not be shown"),
        (["redis", "--since", "tomorrow 12:00"], 1, "has not come yet"),
        (["web"], 1, "no SSH host key"),
    ],
)
def test_what_can_not_be_shown_is_one_line(
    log: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, said: str
) -> None:
    assert main(["logs", *argv]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
