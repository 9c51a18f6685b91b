# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A damaged state, an edit by hand, a user without permission, a disk that is full: one line, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    StateCorruptError,
    StateError,
    StateInvalidError,
    StateMissingError,
)
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.histories import NOW, damage, take
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import (
    full_document,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


NOBODY = 65534


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path, patience=0)


@pytest.fixture
def written(store: StateStore) -> StateStore:
    store.write(full_document(), expected_checksum=None)
    return store


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that other users can reach, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="nhi-test-") as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


def outcome_in_child(body: Callable[[], object]) -> str:
    """What body raises, or returns, in a process of its own, which may limit itself or become somebody else."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = repr(body())
        except BaseException as error:  # noqa: BLE001 -- it is what the test looks at
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(pid, 0)
    return text


# Damage


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def flipped(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[200] ^= 1
    path.write_bytes(bytes(raw))


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def without_checksum(path: Path) -> None:
    path.with_name("state.json.checksum").unlink()


def with_nonsense_for_checksum(path: Path) -> None:
    path.with_name("state.json.checksum").write_text("nonsense\n")


DAMAGES = [truncated, flipped, emptied, without_checksum, with_nonsense_for_checksum]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_line_for_readers_and_stops_writers(written: StateStore, damage: Callable[[Path], None]) -> None:
    checksum = written.read().checksum
    damage(written.path)
    before = written.path.read_bytes()
    with pytest.raises(StateCorruptError, match="--regenerate-checksum") as caught:
        written.read()
    assert "\n" not in str(caught.value)
    with pytest.raises(StateCorruptError):
        written.write(full_document(), expected_checksum=checksum)
    assert written.path.read_bytes() == before


def test_corruption_names_the_newest_valid_snapshot(written: StateStore) -> None:
    take(written.directory, "old", NOW - timedelta(hours=2))
    take(written.directory, "newer", NOW - timedelta(hours=1), critical=True)
    damage(take(written.directory, "newest", NOW))
    truncated(written.path)
    with pytest.raises(StateCorruptError, match=r"snapshot: .*state_CRITICAL_2026-11-27_11-00\.json\.$"):
        written.read()


def test_a_moved_away_state_is_missing_and_can_be_written_anew(written: StateStore) -> None:
    written.path.rename(written.directory / "damaged.json")
    with pytest.raises(StateMissingError, match="is gone, only its checksum is left"):
        written.read()
    assert written.write(full_document(), expected_checksum=None).revision == 1


def test_a_mismatch_that_heals_in_time_is_not_corruption(written: StateStore) -> None:
    good = written.path.read_bytes()
    truncated(written.path)
    patient = StateStore(written.directory, patience=10)
    with mock.patch("time.sleep", side_effect=lambda _seconds: written.path.write_bytes(good)) as pause:
        assert patient.read().revision == 1
    pause.assert_called_once()


def test_a_first_write_between_the_two_looks_of_a_reader_is_not_corruption(tmp_path: Path) -> None:
    """The reader finds no checksum, then a state.json: it was published in between."""
    store = StateStore(tmp_path, patience=10)
    real = Path.read_bytes

    def published_meanwhile(path: Path) -> bytes:
        if path.name == "state.json.checksum" and not path.exists():
            StateStore(tmp_path).write(full_document(), expected_checksum=None)
            raise FileNotFoundError
        return real(path)

    # The writer's own look at the checksum must not start another writer.
    settled = mock.patch.object(StateStore, "_settled", return_value=None)
    with settled, mock.patch.object(Path, "read_bytes", published_meanwhile):
        assert store.read().revision == 1


# Accepting an edit by hand


def test_an_edit_by_hand_is_accepted_once(written: StateStore) -> None:
    written.path.write_text(written.path.read_text().replace("redis-cache", "redis-edited"))
    edited = written.edited()
    assert edited is not None
    assert written.recorded_checksum() != edited.checksum
    assert written.regenerate_checksum()
    assert written.read() == edited
    assert not written.regenerate_checksum()


@pytest.mark.parametrize("damage", [without_checksum, with_nonsense_for_checksum])
def test_a_lost_checksum_is_made_again(written: StateStore, damage: Callable[[Path], None]) -> None:
    before = written.read()
    damage(written.path)
    assert written.regenerate_checksum()
    assert written.read() == before


@pytest.mark.parametrize("damage", [truncated, emptied])
def test_a_damaged_file_is_not_accepted(written: StateStore, damage: Callable[[Path], None]) -> None:
    damage(written.path)
    with pytest.raises(StateInvalidError):
        written.regenerate_checksum()
    with pytest.raises(StateCorruptError):
        written.read()


def test_an_edit_that_breaks_the_schema_is_not_accepted(written: StateStore) -> None:
    document = json.loads(written.path.read_bytes())
    document["infrastructure"]["guests"][0]["vmid"] = "one"
    written.path.write_text(json.dumps(document))
    with pytest.raises(StateInvalidError, match="guests/0/vmid: 'one' is not of type 'integer'"):
        written.regenerate_checksum()


def test_without_a_state_there_is_nothing_to_accept(tmp_path: Path) -> None:
    with pytest.raises(StateMissingError):
        StateStore(tmp_path / "none").regenerate_checksum()
    assert not (tmp_path / "none").exists()


# What the operating system refuses


def as_nobody(body: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return body()

    return run


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")


@needs_root
def test_a_reader_needs_no_write_permission_even_after_a_crash(public_directory: Path) -> None:
    store = StateStore(public_directory)
    store.write(full_document(), expected_checksum=None)
    assert outcome_in_child(as_nobody(lambda: store.read().revision)) == "1"
    store.path.rename(public_directory / "state.json.tmp")
    assert outcome_in_child(as_nobody(lambda: store.read().path.name)) == "'state.json.tmp'"


@needs_root
def test_a_writer_without_permission_gets_one_line_and_changes_nothing(public_directory: Path) -> None:
    store = StateStore(public_directory)
    checksum = store.write(full_document(), expected_checksum=None).checksum
    before = sorted(os.listdir(public_directory))
    outcome = outcome_in_child(as_nobody(lambda: store.write(full_document(), expected_checksum=checksum)))
    assert outcome.startswith("StateError: ")
    assert "permission denied" in outcome
    assert sorted(os.listdir(public_directory)) == before
    assert store.read().checksum == checksum


@needs_root
def test_an_unreadable_state_is_one_line(public_directory: Path) -> None:
    store = StateStore(public_directory)
    store.write(full_document(), expected_checksum=None)
    store.path.chmod(0o600)
    outcome = outcome_in_child(as_nobody(store.read))
    assert outcome.startswith(f"StateError: {store.path} can not be read: permission denied.")


@needs_root
def test_two_users_of_one_directory_can_take_turns(public_directory: Path) -> None:
    """root once ran by hand what the service's user runs every five minutes."""
    store = StateStore(public_directory)
    store.write(full_document(), expected_checksum=None)
    (public_directory / "state.json.tmp").write_bytes(b"litter of root")
    os.chown(public_directory, NOBODY, NOBODY)
    outcome = outcome_in_child(as_nobody(lambda: store.update(lambda document: document or {}).revision))
    assert outcome == "2"
    assert store.update(lambda document: document or {}).revision == 3


def test_a_file_that_the_kernel_cuts_off_is_one_line_and_loses_nothing(written: StateStore) -> None:
    checksum = written.read().checksum

    def limited() -> object:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        return written.write(full_document(), expected_checksum=checksum)

    outcome = outcome_in_child(limited)
    assert outcome == (
        f"StateError: {written.path} can not be written: file too large. The state that was there before is intact."
    )
    assert written.read().checksum == checksum
    assert not list(written.directory.glob("*.tmp"))


def test_a_directory_in_place_of_the_state_is_one_line(store: StateStore) -> None:
    store.path.mkdir()
    with pytest.raises(StateError, match="can not be read: is a directory"):
        store.read()


def test_a_file_in_place_of_the_directory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = StateStore(tmp_path / "file")
    with pytest.raises(StateError, match="can not be written"):
        store.write(full_document(), expected_checksum=None)


def test_a_file_system_that_can_not_flush_directories_is_served(written: StateStore) -> None:
    real = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    with mock.patch("os.fsync", only_files):
        assert written.update(lambda document: document or {}).revision == 2
