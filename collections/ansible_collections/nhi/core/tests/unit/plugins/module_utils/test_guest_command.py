# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A command arrives on a guest as it is, its streams and exit code come back, and it ends with whoever asked for it."""

from __future__ import annotations

import io
import os
import subprocess
import time
from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    CommandTimeoutError,
    GuestShellError,
    PreflightError,
)
from ansible_collections.nhi.core.plugins.module_utils.guest_command import Report, check_command, remote_command
from ansible_collections.nhi.core.plugins.module_utils.guest_shell import GuestShell
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_ssh import FakeSsh
from hypothesis import given, settings
from hypothesis import strategies as st

MARK = "0123456789abcdef"
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0")) | st.sampled_from(
    ["", " ", "'", '"', "$(id)", "`id`", "$PPID", ";", "a\nb", "-n", "--", "*", "~", "\\", "!!", "\x1e" + MARK, "é€😀"]
)


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSsh:
    return FakeSsh(tmp_path / "ssh", monkeypatch)


class Run:
    """A command that was run, with what it printed."""

    def __init__(self, *argv: str, timeout: float | None = 20, stdin: io.BufferedReader | None = None) -> None:
        self.out, self.err = b"", b""
        self.first: float | None = None
        self.rc: int | None = None
        started = time.monotonic()

        def out(chunk: bytes) -> None:
            self.first = self.first or time.monotonic() - started
            self.out += chunk

        def err(chunk: bytes) -> None:
            self.err += chunk

        self.rc = GuestShell().stream("192.0.2.1", argv, out, err, timeout_seconds=timeout, stdin=stdin)
        self.seconds = time.monotonic() - started


def is_gone(pid: int) -> bool:
    """Whether a process has ended, within the seconds that a command is given to end."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=6))
def test_every_word_arrives_as_it_is(words: list[str]) -> None:
    command = remote_command(["printf", "%s\\0", *words], MARK, become=False)
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True, stdin=subprocess.DEVNULL)
    assert done.stdout == b"".join(word.encode() + b"\0" for word in words)


def test_words_arrive_through_sudo_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\n[ "$1" = -n ] || exit 9\nshift\nexec "$@"\n')
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    command = remote_command(["printf", "%s\\0", "a b", "$HOME"], MARK, become=True)
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True, stdin=subprocess.DEVNULL)
    assert done.stdout == b"a b\0$HOME\0"


@pytest.mark.parametrize("code", [0, 1, 7, 254, 255])
def test_the_exit_code_is_that_of_the_command_also_where_ssh_has_the_same(ssh: FakeSsh, code: int) -> None:
    assert Run("sh", "-c", f"exit {code}").rc == code


def test_a_command_that_dies_of_a_signal_is_told_as_shells_do(ssh: FakeSsh) -> None:
    assert Run("sh", "-c", "kill -9 $$").rc == 128 + 9


def test_streams_are_apart_and_byte_for_byte(ssh: FakeSsh) -> None:
    run = Run("sh", "-c", r"printf 'a\000\377\n'; printf 'b\036\n' >&2; printf c; exit 3")
    assert (run.out, run.err, run.rc) == (b"a\0\xff\nc", b"b\x1e\n", 3)


def test_output_comes_while_the_command_runs(ssh: FakeSsh) -> None:
    run = Run("sh", "-c", "echo early; sleep 1")
    assert run.first is not None
    assert run.first < 0.8 < run.seconds


def test_words_of_the_shell_are_no_programs(ssh: FakeSsh) -> None:
    for word in ("exit", "eval", "cd"):
        run = Run(word, "7")
        assert run.rc == 127
        assert b"not found" in run.err


def test_stdin_is_handed_on_only_if_it_is_given(ssh: FakeSsh, tmp_path: Path) -> None:
    assert Run("cat").out == b""
    (tmp_path / "input").write_bytes(b"some\0thing")
    with (tmp_path / "input").open("rb") as file:
        assert Run("cat", stdin=file).out == b"some\0thing"


def test_what_takes_too_long_is_ended_with_all_that_it_started(ssh: FakeSsh, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(CommandTimeoutError, match=r"'sh' on 192.0.2.1 did not end within 0.5 s, and was ended"):
        Run("sh", "-c", f"sleep 60 & echo $$ $! > {pids}; wait", timeout=0.5)
    assert [is_gone(int(pid)) for pid in pids.read_text().split()] == [True, True]


def test_a_command_ends_with_whoever_asked_for_it(ssh: FakeSsh, tmp_path: Path) -> None:
    def stop(_chunk: bytes) -> None:
        raise KeyboardInterrupt

    pid = tmp_path / "pid"
    with pytest.raises(KeyboardInterrupt):
        GuestShell().stream("192.0.2.1", ["sh", "-c", f"echo $$ > {pid}; trap '' INT HUP; echo; sleep 60"], stop, stop)
    assert is_gone(int(pid.read_text()))


def test_what_a_command_leaves_running_is_not_waited_for(ssh: FakeSsh, tmp_path: Path) -> None:
    run = Run("sh", "-c", "sleep 8 & echo done")
    assert (run.rc, run.out) == (0, b"done\n")
    assert run.seconds < 6


def test_no_way_in_is_told_from_a_command_that_failed(ssh: FakeSsh) -> None:
    ssh.refuse("some banner\nHost key verification failed.\n")
    with pytest.raises(GuestShellError, match=r"no SSH to root@192.0.2.1: Host key verification failed."):
        Run("true")


def test_a_login_that_runs_nothing_is_not_taken_for_the_command(ssh: FakeSsh) -> None:
    ssh.program("sh", "echo 'This account is currently not available.' >&2; exit 1")
    with pytest.raises(GuestShellError, match=r"'true' was not begun on 192.0.2.1: This account is currently not"):
        Run("true")


def test_a_connection_that_is_lost_is_told_and_ends_the_command(ssh: FakeSsh, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    cut = f"echo $$ > {pid}; kill -9 $(cat {ssh.directory}/ssh.pid); exec >&- 2>&-; sleep 60"
    with pytest.raises(GuestShellError, match=r"connection to 192.0.2.1 was lost while 'sh' ran"):
        Run("sh", "-c", cut)
    assert is_gone(int(pid.read_text()))


@pytest.mark.parametrize("argv", [[], [""], ["-c", "x"], ["a", "b\0"], ["a", "\ud800"], ["a", "x" * 70_000]])
def test_what_can_not_be_run_as_it_is_is_refused(argv: list[str]) -> None:
    with pytest.raises(PreflightError):
        check_command(argv)


@given(st.binary(max_size=60), st.binary(max_size=60), st.integers(0, 255), st.integers(1, 90))
def test_reports_are_found_wherever_the_stream_is_cut(before: bytes, text: bytes, code: int, size: int) -> None:
    stream = before + b"\x1e" + MARK.encode() + b" begun\n" + text + b"\x1e" + MARK.encode() + b" %d\n" % code
    seen = bytearray()
    report = Report(MARK, seen.extend)
    for at in range(0, len(stream), size):
        report.feed(stream[at : at + size])
    report.close()
    assert (bytes(seen), report.code, report.before) == (text, code, before)


def test_the_command_itself_can_not_end_the_report_with_another_mark() -> None:
    seen = bytearray()
    report = Report(MARK, seen.extend)
    report.feed(b"\x1e" + MARK.encode() + b" begun\n\x1e1111111111111111 0\n\x1e" + MARK.encode() + b" five\n")
    report.close()
    assert report.code is None
    assert b" five\n" in bytes(seen)
