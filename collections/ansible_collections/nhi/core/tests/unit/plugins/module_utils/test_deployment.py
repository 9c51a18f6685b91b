# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a deployment: held by one run, taken over from a dead one, gone when nothing is left to do."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.module_utils import deployment as deployments
from ansible_collections.nhi.core.plugins.module_utils.deployment import (
    DEPLOYMENT,
    REMOVAL,
    Record,
    begin,
    look,
    path_of,
    step,
    unfinished,
)
from ansible_collections.nhi.core.plugins.module_utils.errors import PreflightError, StateError
from ansible_collections.nhi.core.plugins.module_utils.lock import Holder

GUEST = "redis-cache"


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process that could run a playbook."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def deploys(state_dir: Path, run: Holder) -> tuple[Record, Record | None]:
    return begin(state_dir, GUEST, DEPLOYMENT, run, "redis", "cache")


def removes(state_dir: Path, run: Holder) -> tuple[Record, Record | None]:
    return begin(state_dir, GUEST, REMOVAL, run)


def known(state_dir: Path) -> Record:
    record = look(state_dir, GUEST)
    assert record is not None
    return record


def makes(state_dir: Path, run: str, operation: str, *secrets: str) -> None:
    with step(state_dir, GUEST, run) as deployment:
        assert deployment is not None
        deployment.makes(operation)
        deployment.generates(secrets)


def test_a_deployment_is_known_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    record, before = deploys(tmp_path, Holder.me("run-1", "ada"))
    assert before is None
    assert known(tmp_path) == record
    assert (record.service, record.purpose, record.is_under_way) == ("redis", "cache", True)
    with step(tmp_path, GUEST, "run-1") as deployment:
        assert deployment is not None
        deployment.end()
    assert look(tmp_path, GUEST) is None
    assert list((tmp_path / "deployments").iterdir()) == []


def test_a_line_is_on_the_disk_before_its_step_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[bytes] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        flushed.append(path_of(tmp_path, GUEST).read_bytes())

    monkeypatch.setattr(os, "fsync", fsync)
    deploys(tmp_path, Holder.me("run-1"))
    assert b'"run-1"' in flushed[-1]
    with step(tmp_path, GUEST, "run-1") as deployment:
        assert deployment is not None
        deployment.makes("op-1")
        assert b'"op-1"' in flushed[-1]


def test_another_run_is_refused_and_told_who_holds_it(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    deploys(tmp_path, Holder.of_process(other.pid, "run-1", "ada"))
    for again in (deploys, removes):
        with pytest.raises(StateError, match=rf"redis-cache is being deployed by ada \(pid {other.pid} .*Wait for it"):
            again(tmp_path, Holder.me("run-2"))
    assert known(tmp_path).holder == known(tmp_path).deployment


def test_the_same_process_may_begin_again(tmp_path: Path) -> None:
    first, _before = deploys(tmp_path, Holder.me("run-1"))
    again, before = deploys(tmp_path, Holder.me("run-2"))
    assert (again, before) == (first, None)


def test_what_a_dead_run_made_is_taken_over(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    deploys(tmp_path, Holder.of_process(other.pid, "run-1", "ada"))
    makes(tmp_path, "run-1", "op-1", "password")
    end(other)
    assert "deployment of redis-cache (redis) was cut off: ada began it" in known(tmp_path).story
    record, before = deploys(tmp_path, Holder.me("run-2", "bob"))
    assert before is not None
    assert (record.made, record.generated) == (("op-1",), ("password",))
    makes(tmp_path, "run-2", "op-2", "password", "key")
    assert known(tmp_path).made == ("op-1", "op-2")
    assert known(tmp_path).generated == ("password", "key")
    assert known(tmp_path).begun == record.deployment
    assert record.deployment is not None
    assert record.deployment.actor == "ada"


def test_a_process_that_bears_the_number_of_a_dead_one_is_another(tmp_path: Path) -> None:
    me = Holder.me("run-1")
    deploys(tmp_path, Holder(me.operation, me.actor, me.pid, me.host, me.since, f"{me.started}0"))
    assert not known(tmp_path).is_under_way
    assert deploys(tmp_path, Holder.me("run-2"))[1] is not None


def test_a_run_elsewhere_is_never_taken_for_dead(tmp_path: Path) -> None:
    deploys(tmp_path, Holder("run-1", "ada", 2**22 + 1, "elsewhere", "then", "x"))
    with pytest.raises(StateError, match=rf"or remove {path_of(tmp_path, GUEST)} if it ended there"):
        deploys(tmp_path, Holder.me("run-2"))


def test_a_step_of_a_run_that_was_replaced_does_nothing(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    deploys(tmp_path, Holder.of_process(other.pid, "run-1"))
    end(other)
    deploys(tmp_path, Holder.me("run-2"))
    with pytest.raises(StateError, match="Nothing was done for run-1"), step(tmp_path, GUEST, "run-1"):
        pytest.fail("the step was taken")
    with step(tmp_path, GUEST, "run-2") as deployment:
        assert deployment is not None
        deployment.end()
    with pytest.raises(StateError, match="was ended meanwhile"), step(tmp_path, GUEST, "run-2"):
        pytest.fail("the step was taken")


def test_a_step_that_outlived_its_run_is_waited_for(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    deploys(tmp_path, Holder.of_process(other.pid, "run-1"))
    end(other)
    child = os.fork()
    if child == 0:
        with step(tmp_path, GUEST, "run-1") as deployment:
            (tmp_path / "working").touch()
            time.sleep(0.5)
            if deployment is not None:
                deployment.makes("op-late")
        os._exit(0)
    while not (tmp_path / "working").exists():
        time.sleep(0.01)
    record, _before = deploys(tmp_path, Holder.me("run-2"))
    assert record.made == ("op-late",)
    os.waitpid(child, 0)


def test_a_step_that_does_not_end_is_told(
    tmp_path: Path, other: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployments, "STEP_SECONDS", 0.1)
    deploys(tmp_path, Holder.of_process(other.pid, "run-1"))
    with step(tmp_path, GUEST, "run-1"):
        end(other)
        with pytest.raises(StateError, match="A step of a run that is gone still works on redis-cache"):
            deploys(tmp_path, Holder.me("run-2"))


def test_whoever_belongs_to_no_deployment_holds_nothing(tmp_path: Path) -> None:
    deploys(tmp_path, Holder.me("run-1"))
    for run in (None, ""):
        with step(tmp_path, GUEST, run) as deployment:
            assert deployment is None


def test_an_undone_deployment_leaves_the_removal_that_was_cut_off_before_it(
    tmp_path: Path, other: subprocess.Popen[bytes]
) -> None:
    removes(tmp_path, Holder.of_process(other.pid, "run-1", "ada"))
    end(other)
    deploys(tmp_path, Holder.me("run-2"))
    makes(tmp_path, "run-2", "op-1", "password")
    with step(tmp_path, GUEST, "run-2") as deployment:
        assert deployment is not None
        deployment.undone()
    record = known(tmp_path)
    assert (record.what, record.made, record.generated) == (REMOVAL, (), ())
    assert "removal of redis-cache (redis) was cut off: ada" in record.story
    assert record.advice.count("playbooks/") == 1


def test_a_removal_that_was_refused_leaves_what_was_unfinished_before(
    tmp_path: Path, other: subprocess.Popen[bytes]
) -> None:
    deploys(tmp_path, Holder.of_process(other.pid, "run-1", "ada"))
    makes(tmp_path, "run-1", "op-1", "password")
    end(other)
    assert removes(tmp_path, Holder.me("run-2"))[0].what == REMOVAL
    with step(tmp_path, GUEST, "run-2") as deployment:
        assert deployment is not None
        deployment.undone()
    record = known(tmp_path)
    assert (record.what, record.made, record.generated) == (DEPLOYMENT, ("op-1",), ("password",))
    assert not record.is_under_way


def test_an_undone_deployment_is_forgotten(tmp_path: Path) -> None:
    deploys(tmp_path, Holder.me("run-1"))
    makes(tmp_path, "run-1", "op-1")
    with step(tmp_path, GUEST, "run-1") as deployment:
        assert deployment is not None
        deployment.undone()
    assert unfinished(tmp_path) == []
    assert not path_of(tmp_path, GUEST).exists()


def test_what_was_registered_first_is_what_was_there_before(tmp_path: Path) -> None:
    deploys(tmp_path, Holder.me("run-1"))
    for before in ({}, {"dependency_graph": {"half": "written"}}):
        with step(tmp_path, GUEST, "run-1") as deployment:
            assert deployment is not None
            deployment.registers(before)
    assert known(tmp_path).registration == {}


def test_a_torn_line_announced_nothing(tmp_path: Path) -> None:
    deploys(tmp_path, Holder.me("run-1"))
    with path_of(tmp_path, GUEST).open("ab") as file:
        file.write(b'{"step": "made", "opera')
    assert known(tmp_path).made == ()
    makes(tmp_path, "run-1", "op-1")
    assert known(tmp_path).made == ("op-1",)


def test_a_run_that_was_killed_before_its_first_line_is_none(tmp_path: Path) -> None:
    path_of(tmp_path, GUEST).parent.mkdir()
    path_of(tmp_path, GUEST).write_bytes(b'{"step": "beg')
    assert unfinished(tmp_path) == []
    assert deploys(tmp_path, Holder.me("run-1"))[1] is None


def test_a_full_disk_stops_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deploys(tmp_path, Holder.me("run-1"))

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StateError, match="no space left on device; the step was not taken"):
        makes(tmp_path, "run-1", "op-1")


@pytest.mark.parametrize("line", ['{"step": "begun"}', '{"x": 1}', "[]", '{"step": "begun", "schema_version": 9}'])
def test_what_can_not_be_understood_is_told_with_its_file(tmp_path: Path, line: str) -> None:
    path_of(tmp_path, GUEST).parent.mkdir()
    path_of(tmp_path, GUEST).write_text(f"{line}\n")
    with pytest.raises(StateError, match="redis-cache"):
        unfinished(tmp_path)


def test_the_words_name_a_guest_with_a_name_of_its_own(tmp_path: Path) -> None:
    dead = Holder("run-1", "ada", 2**22 + 1, Holder.me("x").host, "then", "x")
    begin(tmp_path, "redis-default", DEPLOYMENT, dead, "redis", "default")
    begin(tmp_path, "anna", DEPLOYMENT, dead, "redis", "cache")
    own, usual = unfinished(tmp_path)
    assert "service.yml -e service=redis -e purpose=cache -e guest=anna`" in own.advice
    assert "service.yml -e service=redis`" in usual.advice


def test_one_of_many_that_begin_at_once_holds_it(tmp_path: Path) -> None:
    """Real processes, each its own run; the others are refused, and nothing is torn."""
    readers, pids = [], []
    for number in range(8):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                deploys(tmp_path, Holder.me(f"run-{number}"))
                os.write(writing, b"held")
                time.sleep(30)
            except StateError:
                os.write(writing, b"refused")
            os._exit(0)
        os.close(writing)
        readers.append(reading)
        pids.append(pid)
    said = [os.read(reading, 10) for reading in readers]
    for pid, reading in zip(pids, readers, strict=True):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
    assert sorted(said) == [b"held"] + [b"refused"] * 7


@pytest.mark.parametrize("evil", ["cache; touch pwned", "$(id)", "{{ lookup('pipe', 'id') }}", "a\nb", "-e x=y", "a b"])
def test_what_is_no_word_becomes_no_part_of_the_command_that_is_shown(tmp_path: Path, evil: str) -> None:
    for service, purpose in ((evil, "cache"), ("redis", evil)):
        with pytest.raises(PreflightError, match=r"is no (service|purpose)"):
            begin(tmp_path, "db", DEPLOYMENT, Holder.me("run-1"), service, purpose)
    assert look(tmp_path, "db") is None
    # Nor where it stands in a record from before: it is quoted for people, and no program runs it.
    record = Record("db", "redis", evil, deployment=Holder("run-0", "ada", 1, "elsewhere", "then"))
    words = shlex.split(record.advice.partition("`")[2].partition("`, or")[0])
    assert words[:6] == ["ansible-playbook", "playbooks/service.yml", "-e", "service=redis", "-e", f"purpose={evil}"]
    with pytest.raises(PreflightError, match="is no purpose"):
        record.checked_command()
