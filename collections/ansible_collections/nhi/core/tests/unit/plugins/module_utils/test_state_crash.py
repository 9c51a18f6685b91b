# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every moment at which a writer can die, a disk can fail, or the power can go, one by one."""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError, StateCorruptError, StateMissingError
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fast_directory import fast_directory
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.faulty_disk import (
    REAL_WRITE,
    Call,
    Disk,
    DiskModel,
    FaultyOs,
    ProcessKilledError,
)
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import make_document, make_guest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ansible_collections.nhi.core.plugins.module_utils.state_document import Document

    Kill = Callable[[FaultyOs, Call, Callable[..., Any]], None]

FIRST, OLD, NEW, NEXT = (make_document([make_guest(100, name=name)]) for name in ("first", "old", "new", "next"))
KILLS = [FaultyOs.kill_before, FaultyOs.kill_after, FaultyOs.kill_half_way]
LONGEST_WRITE = 40


@pytest.fixture
def ramdisk() -> Iterator[Path]:
    with fast_directory() as directory:
        yield directory


def name_in(document: Document) -> str:
    return str(document["infrastructure"]["guests"][0]["name"])


def name_now(directory: Path) -> str | None:
    """What a reader sees, at once and without write permission; None before the first write."""
    try:
        return name_in(StateStore(directory, patience=0).read().document)
    except StateMissingError:
        return None


def write(directory: Path, document: Document) -> None:
    store = StateStore(directory, patience=0, lock_timeout=0)
    current = store.read_or_none()
    store.write(document, expected_checksum=current.checksum if current else None)


def killed_write(directory: Path, document: Document, at: int, kill: Kill, model: DiskModel | None = None) -> bool:
    """Run a write that dies at its call number `at`; False when it had fewer calls and succeeded."""
    faulty = FaultyOs(at=at, observer=model.observe if model else None)
    faulty.fault = lambda call, real: kill(faulty, call, real)
    with faulty.installed():
        try:
            write(directory, document)
        except ProcessKilledError:
            return True
    return False


def begin_empty(directory: Path) -> None:
    directory.mkdir()


def begin_published(directory: Path) -> None:
    directory.mkdir()
    write(directory, FIRST)
    write(directory, OLD)


def begin_unpublished(directory: Path) -> None:
    """A writer died after its new checksum took effect: the state is in state.json.tmp."""
    directory.mkdir()
    write(directory, FIRST)
    for at in range(LONGEST_WRITE):
        killed_write(directory, OLD, at, FaultyOs.kill_before)
        if name_now(directory) == "old":
            break
    assert (directory / "state.json.tmp").exists()


def begin_littered(directory: Path) -> None:
    """A writer died in the middle of writing its files aside."""
    begin_published(directory)
    (directory / "state.json.tmp").write_bytes(b'{"half')
    (directory / "state.json.checksum.tmp").write_bytes(b"0123")


BEGINNINGS = [begin_empty, begin_published, begin_unpublished, begin_littered]


def assert_next_write_needs_no_help(directory: Path) -> None:
    write(directory, NEXT)
    assert name_now(directory) == "next"
    raw = (directory / "state.json").read_bytes()
    checksum = f"{hashlib.sha256(raw).hexdigest()}  state.json\n"
    assert (directory / "state.json.checksum").read_text() == checksum
    assert not list(directory.glob("*.tmp"))


@pytest.mark.parametrize("kill", KILLS)
@pytest.mark.parametrize("begin", BEGINNINGS)
def test_a_writer_killed_at_any_call_leaves_the_old_or_the_new_state(
    ramdisk: Path, begin: Callable[[Path], None], kill: Kill
) -> None:
    seen = set()
    for at in range(LONGEST_WRITE):
        directory = ramdisk / str(at)
        begin(directory)
        before = name_now(directory)
        if not killed_write(directory, NEW, at, kill):
            break
        after = name_now(directory)
        assert after in (before, "new")
        seen.add(after)
        assert_next_write_needs_no_help(directory)
    else:
        pytest.fail("the write has more calls than this test expects")
    assert at > 8
    assert seen == {before, "new"}


@pytest.mark.parametrize("begin", BEGINNINGS)
def test_ctrl_c_at_any_call_leaves_the_old_or_the_new_state_and_frees_the_lock(
    ramdisk: Path, begin: Callable[[Path], None]
) -> None:
    def interrupt(_call: Call, _real: Callable[..., Any]) -> None:
        raise KeyboardInterrupt

    for at in range(LONGEST_WRITE):
        directory = ramdisk / str(at)
        begin(directory)
        before = name_now(directory)
        faulty = FaultyOs(at=at, fault=interrupt)
        with faulty.installed(), suppress(KeyboardInterrupt):
            write(directory, NEW)
        assert name_now(directory) in (before, "new")
        assert_next_write_needs_no_help(directory)
        if at >= len(faulty.calls):
            break


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("begin", BEGINNINGS)
def test_a_call_that_fails_is_one_line_and_loses_nothing(
    ramdisk: Path, begin: Callable[[Path], None], code: int
) -> None:
    def fail(_call: Call, _real: Callable[..., Any]) -> None:
        raise OSError(code, os.strerror(code))

    failed = 0
    for at in range(LONGEST_WRITE):
        directory = ramdisk / str(at)
        begin(directory)
        before = name_now(directory)
        faulty = FaultyOs(at=at, fault=fail)
        message = ""
        with faulty.installed():
            try:
                write(directory, NEW)
            except NHIError as error:
                message = str(error)
        if message:
            failed += 1
            assert os.strerror(code).lower() in message
            assert "\n" not in message
            committed = "complete and in use" in message
            assert name_now(directory) == ("new" if committed else before)
            if not committed and faulty.calls[at].name != "unlink" and begin is not begin_unpublished:
                assert not list(directory.glob("*.tmp")) or begin is begin_littered
        else:
            assert name_now(directory) == "new"
        assert_next_write_needs_no_help(directory)
        if at >= len(faulty.calls):
            break
    assert failed > 8


def test_a_disk_that_fills_up_in_the_middle_of_a_file_leaves_no_litter(ramdisk: Path) -> None:
    def fill_up(call: Call, _real: Callable[..., Any]) -> Any:
        os.pwrite(call.arguments[0], b"half", 0)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    begin_published(ramdisk / "state")
    dry_run = FaultyOs()
    with dry_run.installed():
        write(ramdisk / "state", OLD)
    writes = [number for number, call in enumerate(dry_run.calls) if call.name == "write"]
    assert len(writes) == 2
    for at in writes:
        with FaultyOs(at=at, fault=fill_up).installed(), pytest.raises(NHIError, match="no space left on device"):
            write(ramdisk / "state", NEW)
        assert name_now(ramdisk / "state") == "old"
        assert not list((ramdisk / "state").glob("*.tmp"))


def test_a_rename_that_reports_failure_although_it_happened_loses_nothing(ramdisk: Path) -> None:
    """NFS does that when an answer is lost."""

    def lie(_call: Call, real: Callable[..., Any]) -> None:
        real()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for at in range(LONGEST_WRITE):
        directory = ramdisk / str(at)
        begin_published(directory)
        faulty = FaultyOs(at=at, fault=lie)
        with faulty.installed(), suppress(NHIError):
            write(directory, NEW)
        assert name_now(directory) in ("old", "new")
        assert_next_write_needs_no_help(directory)
        if at >= len(faulty.calls):
            break


def test_a_kernel_that_writes_a_few_bytes_at_a_time_is_served(ramdisk: Path) -> None:
    with mock.patch("os.write", lambda descriptor, data: REAL_WRITE(descriptor, bytes(data)[:100])):
        write(ramdisk, NEW)
    assert name_now(ramdisk) == "new"


def test_a_leftover_is_replaced_and_never_rewritten(ramdisk: Path) -> None:
    begin_littered(ramdisk / "state")
    for name in ("state.json.tmp", "state.json.checksum.tmp"):
        os.link(ramdisk / "state" / name, ramdisk / name)
    write(ramdisk / "state", NEW)
    assert (ramdisk / "state.json.tmp").read_bytes() == b'{"half'
    assert (ramdisk / "state.json.checksum.tmp").read_bytes() == b"0123"


def assert_survives(disk: Disk, directory: Path, allowed: set[str | None]) -> None:
    directory.mkdir()
    for name, content in disk.items():
        (directory / name).write_bytes(content)
    assert name_now(directory) in allowed, sorted(disk)
    assert_next_write_needs_no_help(directory)


def disks_after(model_states: list[DiskModel]) -> set[tuple[tuple[str, bytes], ...]]:
    return {
        tuple(sorted((name, content) for name, content in disk.items() if name != "state.lock"))
        for model in model_states
        for disk in model.after_power_loss()
    }


def recorded_write(directory: Path, document: Document, model: DiskModel) -> list[DiskModel]:
    """Write and return the disk after each call."""
    states = [model.snapshot()]

    def observe(call: Call, result: Any) -> None:
        model.observe(call, result)
        states.append(model.snapshot())

    with FaultyOs(observer=observe).installed():
        write(directory, document)
    return states


@pytest.mark.parametrize("begin", BEGINNINGS)
def test_power_lost_at_any_moment_leaves_the_old_or_the_new_state(ramdisk: Path, begin: Callable[[Path], None]) -> None:
    begin(ramdisk / "state")
    before = name_now(ramdisk / "state")
    states = recorded_write(ramdisk / "state", NEW, DiskModel.of(ramdisk / "state"))
    disks = disks_after(states)
    assert len(disks) > 8
    for number, disk in enumerate(sorted(disks)):
        assert_survives(dict(disk), ramdisk / f"disk-{number}", {before, "new"})
    for number, disk in enumerate(disks_after(states[-1:])):
        assert b'"new"' in dict(disk)["state.json"]
        assert_survives(dict(disk), ramdisk / f"done-{number}", {"new"})


def test_power_lost_after_a_writer_was_killed_and_another_one_went_on(ramdisk: Path) -> None:
    """What the first left in the page cache only must not be lost by what the second puts on top of it."""
    disks: set[tuple[tuple[str, bytes], ...]] = set()
    for at in range(LONGEST_WRITE):
        directory = ramdisk / f"state-{at}"
        begin_published(directory)
        model = DiskModel.of(directory)
        if not killed_write(directory, NEW, at, FaultyOs.kill_before, model):
            break
        states = recorded_write(directory, NEXT, model)
        disks |= disks_after(states)
        for number, disk in enumerate(disks_after(states[-1:])):
            assert_survives(dict(disk), ramdisk / f"done-{at}-{number}", {"next"})
    for number, disk in enumerate(sorted(disks)):
        assert_survives(dict(disk), ramdisk / f"disk-{number}", {"old", "new", "next"})


def begin_edited(directory: Path) -> None:
    begin_published(directory)
    state = directory / "state.json"
    state.write_bytes(state.read_bytes().replace(b'"old"', b'"edited"'))


@pytest.mark.parametrize("kill", KILLS)
def test_regenerating_killed_at_any_call_can_be_repeated(ramdisk: Path, kill: Kill) -> None:
    for at in range(LONGEST_WRITE):
        directory = ramdisk / str(at)
        begin_edited(directory)
        faulty = FaultyOs(at=at)
        faulty.fault = lambda call, real, faulty=faulty: kill(faulty, call, real)
        store = StateStore(directory, patience=0, lock_timeout=0)
        with faulty.installed():
            try:
                store.regenerate_checksum()
            except ProcessKilledError:
                finished = False
            else:
                finished = True
        try:
            assert name_now(directory) == "edited"
        except StateCorruptError:
            assert not finished
            assert store.regenerate_checksum()
        assert name_now(directory) == "edited"
        assert_next_write_needs_no_help(directory)
        if finished:
            break
    assert at > 5


def test_power_lost_after_regenerating_keeps_the_edit(ramdisk: Path) -> None:
    directory = ramdisk / "state"
    begin_edited(directory)
    model = DiskModel.of(directory)
    edited = model.names["state.json"]
    model.durable_contents[edited] = b"the editor did not wait for the disk"
    with FaultyOs(observer=model.observe).installed():
        assert StateStore(directory, patience=0).regenerate_checksum()
    for number, disk in enumerate(disks_after([model])):
        assert_survives(dict(disk), ramdisk / f"disk-{number}", {"edited"})
