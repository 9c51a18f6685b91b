# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock excludes, tells who holds it, and dies with its holder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import LockTimeoutError, NHIError, StateError
from ansible_collections.nhi.core.plugins.module_utils.lock import (
    FileLock,
    Holder,
    current_actor,
)
from ansible_collections.nhi.core.plugins.module_utils.shared_lock import infrastructure_lock
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import empty_document, generated_by, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def forked(body: Callable[[], None]) -> int:
    """Run body in a child process that then sleeps until it is killed; returns its pid once body is through."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            body()
            os.write(writer, b"x")
            time.sleep(60)
        finally:
            os._exit(0)
    os.close(writer)
    try:
        assert os.read(reader, 1) == b"x"
    finally:
        os.close(reader)
    return pid


def killed(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_second_holder_waits_and_gives_up_naming_the_first(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    waited: list[Holder | None] = []
    with FileLock(path, "create redis", actor="aider"):
        with pytest.raises(LockTimeoutError, match=r"x\.lock is held by create redis by aider \(pid \d+ on "):
            FileLock(path, "other", timeout=0.05, on_wait=waited.append).acquire()
        assert [holder.operation for holder in waited if holder] == ["create redis"]
    with FileLock(path, "other", timeout=0):
        pass


def test_who_waits_is_not_passed_by_who_comes_again_and_again(tmp_path: Path) -> None:
    def hog() -> None:
        for _time in range(2):
            threading.Thread(target=work, daemon=True).start()

    def work() -> None:
        while True:
            with FileLock(tmp_path / "x.lock", "hog"):
                time.sleep(0.02)

    pid = forked(hog)
    try:
        for _time in range(10):
            with FileLock(tmp_path / "x.lock", "once", timeout=2):
                pass
    finally:
        killed(pid)


def test_a_child_of_who_waits_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    first, second = FileLock(path, "first"), FileLock(path, "second", timeout=10)
    first.acquire()
    waiter = threading.Thread(target=second.acquire)
    waiter.start()
    time.sleep(0.1)
    pid = forked(lambda: None)
    try:
        first.release()
        waiter.join()
        assert second.held
        second.release()
        with FileLock(path, "third", timeout=0):
            pass
    finally:
        killed(pid)


def test_who_gave_up_does_not_take_the_lock_later(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with FileLock(path, "first"):
        for _time in range(3):
            with pytest.raises(LockTimeoutError):
                FileLock(path, "second", timeout=0.01).acquire()
    threads = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    for thread in threads:
        thread.join(1)
    with FileLock(path, "third", timeout=0):
        pass


def test_a_waiter_gets_the_lock_when_it_is_released(tmp_path: Path) -> None:
    first = FileLock(tmp_path / "x.lock", "first")
    first.acquire()
    threading.Timer(0.1, first.release).start()
    with FileLock(tmp_path / "x.lock", "second", timeout=10) as second:
        assert second.held
        assert not first.held


def test_the_metadata_is_written_only_after_the_lock_is_held(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with FileLock(path, "first", actor="me"):
        before = path.read_bytes()
        with pytest.raises(LockTimeoutError):
            FileLock(path, "second", timeout=0).acquire()
        assert path.read_bytes() == before
        assert json.loads(before)["pid"] == os.getpid()


def test_the_file_stays_and_names_nobody_after_release(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with FileLock(path, "first"):
        inode = path.stat().st_ino
    assert path.stat().st_ino == inode
    assert path.read_bytes() == b""
    assert FileLock(path, "x").holder() is None


def test_a_killed_holder_frees_the_lock_and_is_not_named_any_more(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    pid = forked(FileLock(path, "doomed").acquire)
    holder = FileLock(path, "x").holder()
    assert holder is not None
    assert holder.pid == pid
    killed(pid)
    assert b"doomed" in path.read_bytes()
    assert FileLock(path, "x").holder() is None
    with FileLock(path, "next", timeout=0):
        pass


def test_a_lock_does_not_outlive_its_holder_in_a_forked_child(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with FileLock(path, "parent"):
        pid = forked(lambda: None)
    try:
        with FileLock(path, "next", timeout=0):
            pass
    finally:
        killed(pid)


def test_a_forked_child_neither_holds_nor_releases_the_lock_of_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with FileLock(path, "parent") as lock:
        killed(forked(lock.release))
        assert b"parent" in path.read_bytes()
        with pytest.raises(LockTimeoutError):
            FileLock(path, "other", timeout=0).acquire()


def test_an_interrupted_wait_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with ExitStack() as stack:
        stack.enter_context(FileLock(path, "first"))
        waiting = FileLock(path, "second", on_wait=mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            waiting.acquire()
    with FileLock(path, "third", timeout=0):
        assert not waiting.held


def test_an_interruption_while_the_name_is_written_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with mock.patch("os.pwrite", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        FileLock(path, "first").acquire()
    with FileLock(path, "second", timeout=0):
        pass


def test_taking_a_lock_twice_is_a_mistake(tmp_path: Path) -> None:
    with FileLock(tmp_path / "x.lock", "x") as lock, pytest.raises(RuntimeError, match="already taken"):
        lock.acquire()


def test_a_full_disk_costs_the_name_not_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    full = mock.patch("os.pwrite", side_effect=OSError(28, "No space left on device"))
    nameless = pytest.raises(LockTimeoutError, match="held by a process that left no name")
    with full, FileLock(path, "x"), nameless:
        FileLock(path, "other", timeout=0).acquire()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight pages and eleven names."""
    directory = tmp_path / "full"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k,nr_inodes=12", "none", str(directory)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small file system")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_on_a_disk_that_is_really_full_locks_hold_and_the_state_stays(full_disk: Path) -> None:
    store = StateStore(full_disk)
    document = empty_document(generated_by("test", "0", "me", "here"), utc_now())
    store.amend(lambda _current: document)
    (full_disk / "history.lock").touch()
    before = (full_disk / "state.json").read_bytes()
    fillers = [full_disk / f"filler-{number}" for number in range(20)]
    with contextlib.suppress(OSError):
        fillers[0].write_bytes(bytes(1 << 20))
    lock, other = (FileLock(full_disk / "history.lock", "x", timeout=0) for _number in range(2))
    with lock, pytest.raises(LockTimeoutError, match="held by a process that left no name"):
        other.acquire()
    with pytest.raises(StateError, match=r"no space left on device\. The state that was there before is intact"):
        store.amend(lambda _current: document)
    assert (full_disk / "state.json").read_bytes() == before
    assert store.validate().revision == 1
    with contextlib.suppress(OSError):
        for filler in fillers:
            filler.touch()
    with pytest.raises(NHIError, match=r"can not be opened: no space left on device\. Make room"):
        FileLock(full_disk / "new.lock", "x").acquire()
    for filler in fillers:
        filler.unlink(missing_ok=True)
    assert store.amend(lambda _current: document).revision == 2


def test_a_missing_directory_and_a_file_system_without_locks_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(NHIError, match="can not be opened: no such file or directory"):
        FileLock(tmp_path / "nowhere" / "x.lock", "x").acquire()
    without_locks = mock.patch.object(fcntl, "flock", side_effect=OSError(37, "No locks available"))
    with without_locks, pytest.raises(NHIError, match="can not be locked: no locks available"):
        FileLock(tmp_path / "x.lock", "x").acquire()


def test_a_lock_file_of_another_user_can_be_taken(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.touch()
    real = os.open

    def only_reading(target: Path, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied")
        return real(target, flags, *mode)

    with mock.patch("os.open", only_reading), FileLock(path, "x"), pytest.raises(LockTimeoutError):
        FileLock(path, "other", timeout=0).acquire()


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"pid": 1}', b'{"operation": "x", "pid": "y"}', b"\xff"])
def test_a_damaged_lock_file_names_nobody(raw: bytes) -> None:
    assert Holder.parse(raw) is None


def test_a_holder_on_another_host_is_never_called_gone() -> None:
    assert not Holder("x", "me", 2**22 + 1, "elsewhere", "now").is_gone()
    assert Holder("x", "me", 2**22 + 1, socket.gethostname(), "now").is_gone()
    assert not Holder.me("x").is_gone()


def test_a_later_process_of_the_same_number_and_a_dead_one_that_nobody_buried_are_not_the_holder() -> None:
    me = Holder.me("x")
    assert me.started
    assert replace(me, started=f"{me.started}0").is_gone()
    assert not replace(me, started="").is_gone()
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    holder = Holder.of_process(child, "x")
    assert not holder.is_gone()
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert holder.is_gone()
    os.waitpid(child, 0)
    assert holder.is_gone()


def test_the_actor_is_the_declared_one_then_the_one_behind_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "ada")
    monkeypatch.setenv("NHI_ACTOR", " agent:aider ")
    assert current_actor() == "agent:aider"
    monkeypatch.delenv("NHI_ACTOR")
    assert current_actor() == "ada"
    monkeypatch.delenv("SUDO_USER")
    assert current_actor()
    with mock.patch("pwd.getpwuid", side_effect=KeyError):
        assert current_actor() == str(os.geteuid())


def test_the_infrastructure_lock_and_the_state_lock_are_different(tmp_path: Path) -> None:
    with infrastructure_lock(tmp_path, "create redis"), FileLock(tmp_path / "state.lock", "write", timeout=0):
        assert (tmp_path / "infrastructure.lock").exists()
