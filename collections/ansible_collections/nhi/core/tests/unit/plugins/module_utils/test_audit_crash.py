# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every moment at which a writer of the log can die, a disk can fail, or the power can go; and writers at once."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.audit_log import AuditLog, directory_of
from ansible_collections.nhi.core.plugins.module_utils.audit_reader import Query, find
from ansible_collections.nhi.core.plugins.module_utils.audit_verify import verify
from ansible_collections.nhi.core.plugins.module_utils.errors import AuditError
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fast_directory import fast_directory
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.faulty_disk import (
    REAL_WRITE,
    Call,
    DiskModel,
    FaultyOs,
    ProcessKilledError,
)
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_torture import start

KILLS = [FaultyOs.kill_before, FaultyOs.kill_after, FaultyOs.kill_half_way]
# The system calls of one entry: in a log that is new, that goes on, and that goes on in a new file.
BEFORE = {"the first entry": 0, "one more entry": 2, "a new file": 3}
LIMIT = 800


@pytest.fixture
def ramdisk() -> Iterator[Path]:
    with fast_directory() as directory:
        yield directory


def append(state_dir: Path, what: str) -> None:
    fields = {"operation": "nhi_vm/present", "outcome": "done", "subject": what, "filler": "x" * 20}
    AuditLog(state_dir, file_limit_bytes=LIMIT).append(fields)


def subjects(state_dir: Path) -> list[str]:
    return [e["subject"] for e in find(state_dir, Query())]


def prepare(state_dir: Path, count: int) -> list[str]:
    names = [f"before-{number}" for number in range(count)]
    for name in names:
        append(state_dir, name)
    return names


def calls_of_one_entry(count: int) -> int:
    with fast_directory() as directory:
        prepare(directory, count)
        with FaultyOs().installed() as faulty:
            append(directory, "counted")
        return len(faulty.calls)


@pytest.mark.parametrize("kill", KILLS)
@pytest.mark.parametrize("count", BEFORE.values(), ids=BEFORE)
def test_a_writer_that_dies_at_any_step_costs_no_entry_that_counted(count: int, kill: Any) -> None:
    calls = calls_of_one_entry(count)
    assert calls > 5
    for at in range(calls):
        with fast_directory() as directory:
            before = prepare(directory, count)
            faulty = FaultyOs(at=at)
            faulty.fault = kill.__get__(faulty)
            with faulty.installed(), pytest.raises(ProcessKilledError):
                append(directory, "killed")
            assert verify(directory).whole, (at, faulty.calls[-1], verify(directory).findings)
            append(directory, "next")
            assert [s for s in subjects(directory) if s != "killed"] == [*before, "next"], at
            assert subjects(directory).count("killed") <= 1
            report = verify(directory)
            assert (report.findings, report.notes) == ([], []), at


@pytest.mark.parametrize("count", BEFORE.values(), ids=BEFORE)
def test_a_disk_that_fails_at_any_step_leaves_a_whole_log_and_no_entry_that_was_refused(count: int) -> None:
    refused = 0
    for at in range(calls_of_one_entry(count)):
        with fast_directory() as directory:
            before = prepare(directory, count)

            def full(call: Call, real: Callable[..., Any]) -> Any:
                if call.name == "write":
                    REAL_WRITE(call.arguments[0], bytes(call.arguments[1])[:30])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            reason = ""
            with FaultyOs(at=at, fault=full).installed():
                try:
                    append(directory, "unlucky")
                except AuditError as e:
                    reason = str(e)
            assert not reason or "no space left" in reason
            refused += bool(reason)
            # What was reported as written is there, what was not is not; and the next one gets through.
            append(directory, "next")
            assert subjects(directory) == [*before, *([] if reason else ["unlucky"]), "next"], at
            assert verify(directory).whole
    assert refused


def test_a_power_loss_at_any_step_costs_no_entry_that_counted(ramdisk: Path) -> None:
    prepare(ramdisk, 1)
    audit = directory_of(ramdisk)
    model = DiskModel.of(audit)
    moments: list[DiskModel] = [model.snapshot()]

    def observe(call: Call, result: Any) -> None:
        model.observe(call, result)
        moments.append(model.snapshot())

    with FaultyOs(observer=observe).installed():
        append(ramdisk, "second")
    tried = 0
    for number, moment in enumerate(moments):
        for disk in moment.after_power_loss():
            with fast_directory() as directory:
                directory_of(directory).mkdir()
                for name, content in disk.items():
                    (directory_of(directory) / name).write_bytes(content)
                append(directory, "next")
                found = subjects(directory)
                assert found[0] == "before-0"
                assert found[-1] == "next"
                assert "second" in found or number < len(moments) - 1
                assert verify(directory).findings == []
            tried += 1
    assert tried > 10


def test_writers_at_once_lose_and_fork_nothing(ramdisk: Path) -> None:
    writers, rounds = 8, 25

    def write_some(directory: Path) -> None:
        for number in range(rounds):
            append(directory, f"{os.getpid()}-{number}")

    pids = [start(write_some, ramdisk) for _count in range(writers)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * writers
    found = subjects(ramdisk)
    assert sorted(found) == sorted(f"{pid}-{number}" for pid in pids for number in range(rounds))
    assert [s for s in found if s.startswith(f"{pids[0]}-")] == [f"{pids[0]}-{number}" for number in range(rounds)]
    report = verify(ramdisk)
    assert (report.entries, report.findings) == (writers * rounds, [])


def test_killed_writers_at_once_leave_a_whole_log_with_all_that_counted(ramdisk: Path) -> None:
    counted = ramdisk / "counted"
    counted.mkdir()

    def write_on(directory: Path) -> None:
        for number in range(10**6):
            append(directory, f"{os.getpid()}-{number}")
            (counted / f"{os.getpid()}-{number}").touch()

    for _round in range(8):
        pids = [start(write_on, ramdisk) for _count in range(3)]
        time.sleep(0.15)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    promised = {p.name for p in counted.iterdir()}
    assert len(promised) > 20
    found = subjects(ramdisk)
    assert promised <= set(found)
    assert len(found) == len(set(found))
    assert verify(ramdisk).whole


def test_a_full_disk_is_told_and_forgotten_when_there_is_room_again(tmp_path: Path) -> None:
    """A real one: the file may not grow any more, as on a file system that is full."""

    def fill_up(directory: Path) -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        append(directory, "first")
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
        for attempt in (AuditLog(directory).require_writable, lambda: append(directory, "second")):
            with pytest.raises(AuditError, match="can not be written"):
                attempt()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        append(directory, "third")

    assert os.waitpid(start(fill_up, tmp_path), 0)[1] == 0
    assert subjects(tmp_path) == ["first", "third"]
    assert verify(tmp_path).whole
