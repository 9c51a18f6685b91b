# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal: on the disk before a step is taken, held while its process lives, found when it does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.module_utils import journal as journals
from ansible_collections.nhi.core.plugins.module_utils.errors import StateError
from ansible_collections.nhi.core.plugins.module_utils.journal import Journal, abandoned, cut_off, is_under_way


def steps(state_dir: Path) -> list[list[str]]:
    return [[entry["step"] for entry in journal.entries] for journal in abandoned(state_dir)]


def left_by_a_dead_process(state_dir: Path, *names: str) -> None:
    journal = Journal(state_dir, "op-dead", "redis started")
    for name in names:
        journal.write(name)
    journal.keep()
    journal.close()


def test_nothing_is_written_before_the_first_step(tmp_path: Path) -> None:
    Journal(tmp_path, "op-1", "redis started").close()
    assert list(tmp_path.iterdir()) == []


def test_a_finished_operation_leaves_no_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "op-1", "redis started")
    journal.write("make")
    assert journal.path.exists()
    journal.close()
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_step_is_flushed_to_the_disk_before_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[bytes] = []
    journal = Journal(tmp_path, "op-1", "redis started")
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        flushed.append(journal.path.read_bytes() if journal.path.exists() else b"")

    monkeypatch.setattr(os, "fsync", fsync)
    journal.write("make", guest={"vmid": 105})
    assert b'"vmid": 105' in flushed[-1]


def test_the_journal_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "op-1", "redis started")
    journal.write("make")
    assert steps(tmp_path) == []
    assert is_under_way(tmp_path, "op-1")
    journal.close()
    assert not is_under_way(tmp_path, "op-1")


def test_the_journal_of_a_killed_process_is_found_with_all_its_steps(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from ansible_collections.nhi.core.plugins.module_utils.journal import Journal\n"
        "j = Journal(Path(sys.argv[1]), 'op-1', 'redis started'); j.write('make'); j.write('start')\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert steps(tmp_path) == []
        process.send_signal(signal.SIGKILL)
    assert steps(tmp_path) == [["make", "start"]]
    assert "op-1 (redis started by " in cut_off(tmp_path)[0]


def test_a_torn_last_line_is_a_step_that_was_not_taken(tmp_path: Path) -> None:
    left_by_a_dead_process(tmp_path, "make")
    path = tmp_path / "journal" / "op-dead.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": "sta')
    assert steps(tmp_path) == [["make"]]


def test_two_who_find_an_abandoned_journal_do_not_both_settle_it(tmp_path: Path) -> None:
    left_by_a_dead_process(tmp_path, "make")
    first = abandoned(tmp_path)
    assert next(first).operation == "op-dead"
    assert steps(tmp_path) == []
    first.close()  # type: ignore[attr-defined]
    assert steps(tmp_path) == [["make"]], "what was not settled is there for the next"


def test_a_settled_journal_is_gone(tmp_path: Path) -> None:
    left_by_a_dead_process(tmp_path, "make")
    for journal in abandoned(tmp_path):
        journal.close()
    assert list((tmp_path / "journal").iterdir()) == []


def test_a_journal_that_can_not_be_written_stops_the_step(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("in the way")
    with pytest.raises(StateError, match="the step was not taken"):
        Journal(tmp_path, "op-1", "redis started").write("make")


def test_a_full_disk_stops_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, "op-1", "redis started")
    journal.write("make")
    monkeypatch.setattr(os, "write", lambda _descriptor, _line: 3)
    with pytest.raises(StateError, match="no space left on device; the step was not taken"):
        journal.write("start")
    assert [entry["step"] for entry in journal.entries] == ["make"]


def test_a_step_that_was_not_taken_is_found_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, "op-1", "redis started")
    journal.write("make")

    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(StateError, match="the step was not taken"):
            journal.write("commit")
    journal.keep()
    journal.close()
    assert steps(tmp_path) == [["make"]]


def test_what_was_left_while_a_journal_was_made_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    old, young = tmp_path / "journal/op-old.new", tmp_path / "journal/op-young.new"
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 3600,) * 2)
    assert steps(tmp_path) == []
    assert not old.exists()
    assert young.exists()


def test_journals_are_settled_oldest_first(tmp_path: Path) -> None:
    for number, age in ((1, 10), (2, 30), (3, 20)):
        journal = Journal(tmp_path, f"op-{number}", "redis started")
        journal.write("make")
        journal.keep()
        journal.close()
        os.utime(journal.path, (time.time() - age,) * 2)
    assert [j.operation for j in abandoned(tmp_path)] == ["op-2", "op-3", "op-1"]
    assert journals.DIRECTORY == "journal"
