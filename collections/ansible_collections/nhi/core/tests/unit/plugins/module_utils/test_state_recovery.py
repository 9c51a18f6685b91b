# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A damaged state comes back from the newest snapshot that can be used, and a good one is never touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    ConflictError,
    StateCorruptError,
    StateMissingError,
    StateVersionError,
)
from ansible_collections.nhi.core.plugins.module_utils.history import History
from ansible_collections.nhi.core.plugins.module_utils.history_keeper import take_snapshot
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import canonical_bytes, checksum_of
from ansible_collections.nhi.core.plugins.module_utils.state_recovery import restore_state
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fast_directory import fast_directory
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.faulty_disk import Call, FaultyOs, ProcessKilledError
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.histories import NOW, damage, known
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import full_document


def publish(directory: Path, raw: bytes) -> None:
    """What a scanner with a bug could leave: bytes that match their checksum."""
    (directory / "state.json").write_bytes(raw)
    (directory / "state.json.checksum").write_text(f"{checksum_of(raw)}  state.json\n")


def flip(directory: Path) -> None:
    raw = bytearray((directory / "state.json").read_bytes())
    raw[len(raw) // 2] ^= 1
    (directory / "state.json").write_bytes(bytes(raw))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda d: (d / "state.json").write_bytes((d / "state.json").read_bytes()[:700]),
    "flipped": flip,
    "empty": lambda d: (d / "state.json").write_bytes(b""),
    "gone": lambda d: (d / "state.json").unlink(),
    "without a checksum": lambda d: (d / "state.json.checksum").unlink(),
    "no state document": lambda d: publish(d, b"{}\n"),
    "not of the schema": lambda d: publish(d, canonical_bytes({**full_document(), "alerts": [{"id": "x"}]})),
}


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    """Five writes; the third is in the history."""
    store = StateStore(tmp_path, patience=0)
    for number in range(5):
        store.update(lambda document: document or full_document())
        if number == 2:
            take_snapshot(tmp_path, "on the hour")
    return store


@pytest.mark.parametrize("harm", DAMAGES.values(), ids=DAMAGES)
def test_every_damage_is_mended_from_the_newest_snapshot(store: StateStore, harm: Callable[[Path], object]) -> None:
    [snapshot] = History(store.directory).snapshots()
    harm(store.directory)
    recovery = restore_state(store)
    assert (recovery.changed, recovery.snapshot, recovery.skipped) == (True, snapshot, ())
    restored = store.validate()
    assert restored.revision > 3
    infrastructure = restored.document["infrastructure"]
    assert {fact["freshness"] for name in ("nodes", "guests", "services") for fact in infrastructure[name]} == {"stale"}
    assert infrastructure["guests"][0]["observed_at"] == full_document()["infrastructure"]["guests"][0]["observed_at"]
    assert restored.document["meta"]["generated_at"] == full_document()["meta"]["generated_at"]
    assert not restore_state(store).changed


def test_a_revision_is_never_used_twice(store: StateStore) -> None:
    flip(store.directory)
    assert restore_state(store).revision == 6


def test_a_revision_that_the_damage_made_up_is_not_believed(store: StateStore) -> None:
    raw = store.path.read_bytes().replace(b'"revision": 5', b'"revision": 900000000000')
    store.path.write_bytes(raw)
    assert restore_state(store).revision == 4


def test_the_damaged_file_is_kept_beside_the_state(store: StateStore) -> None:
    flip(store.directory)
    damaged = store.path.read_bytes()
    restore_state(store)
    [kept] = store.directory.glob("state.json.damaged-*")
    assert kept.read_bytes() == damaged


def test_a_writer_that_holds_an_older_state_does_not_overwrite_the_restored_one(store: StateStore) -> None:
    before = store.read()
    flip(store.directory)
    restore_state(store)
    with pytest.raises(ConflictError):
        store.write(before.document, expected_checksum=before.checksum)


def test_damaged_and_invalid_snapshots_are_passed_over_and_named(store: StateStore) -> None:
    store.update(lambda document: document or full_document())
    newest = take_snapshot(store.directory, "newest").snapshot
    assert newest is not None
    damage(newest)
    invalid = {**full_document(), "alerts": [{"id": "x"}]}
    History(store.directory).take(known(invalid), NOW.replace(year=2027), reason="", actor="")
    flip(store.directory)
    recovery = restore_state(store)
    assert recovery.snapshot is not None
    assert recovery.snapshot.note.reason == "on the hour"
    assert len(recovery.skipped) == 2
    assert "does not follow the schema" in recovery.skipped[0]
    assert str(newest.name) in recovery.skipped[1]
    assert recovery.lines()[0].startswith(f"{store.path} does not match its checksum")
    assert "is restored from state_" in recovery.lines()[-1]


def test_without_a_snapshot_the_damage_is_taken_away_for_a_scan_from_nothing(store: StateStore) -> None:
    damage(History(store.directory).snapshots()[0])
    flip(store.directory)
    recovery = restore_state(store)
    assert (recovery.changed, recovery.snapshot, recovery.revision) == (True, None, None)
    assert "begins from nothing" in recovery.lines()[-1]
    with pytest.raises(StateMissingError):
        store.read()
    assert store.write(full_document(), expected_checksum=None).revision == 1
    assert len(list(store.directory.glob("state.json.damaged-*"))) == 1


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(store: StateStore) -> None:
    flip(store.directory)
    before = {path: path.read_bytes() for path in store.directory.rglob("*") if path.is_file()}
    recovery = restore_state(store, dry_run=True)
    assert "would be restored from state_" in recovery.lines()[-1]
    assert {path: path.read_bytes() for path in store.directory.rglob("*") if path.is_file()} == before


def test_a_good_state_is_left_as_it_is(store: StateStore) -> None:
    before = store.path.read_bytes()
    assert restore_state(store).lines() == [f"{store.path} can be used: nothing to restore."]
    assert store.restore(full_document()) == store.read()
    assert store.path.read_bytes() == before


def test_a_complete_write_that_was_not_published_is_no_damage(store: StateStore) -> None:
    newer = store.path.with_name("state.json.tmp")
    raw = store.path.read_bytes().replace(b'"revision": 5', b'"revision": 6')
    newer.write_bytes(raw)
    store.path.with_name("state.json.checksum").write_text(f"{checksum_of(raw)}  state.json\n")
    assert not restore_state(store).changed
    assert store.read().revision == 6


def test_a_state_of_a_newer_nhi_is_no_damage(store: StateStore) -> None:
    document: dict[str, Any] = full_document()
    document["meta"]["schema_version"] = 99
    publish(store.directory, canonical_bytes(document))
    before = store.path.read_bytes()
    with pytest.raises(StateVersionError):
        restore_state(store)
    with pytest.raises(StateVersionError):
        store.restore(full_document())
    assert store.path.read_bytes() == before


def harmed(directory: Path) -> StateStore:
    store = StateStore(directory, patience=0)
    store.write(full_document(), expected_checksum=None)
    take_snapshot(directory, "on the hour")
    flip(directory)
    return store


@pytest.fixture
def ramdisk() -> Iterator[Path]:
    with fast_directory() as directory:
        yield directory


@pytest.mark.parametrize("kill", [FaultyOs.kill_before, FaultyOs.kill_after, FaultyOs.kill_half_way])
def test_killed_at_any_step_it_is_still_damaged_or_restored(
    ramdisk: Path, kill: Callable[[FaultyOs, Call, Callable[..., Any]], None]
) -> None:
    for at in range(60):
        store = harmed(ramdisk / str(at))
        faulty = FaultyOs(at=at)
        faulty.fault = lambda call, real, faulty=faulty: kill(faulty, call, real)
        died = False
        with faulty.installed():
            try:
                restore_state(store)
            except ProcessKilledError:
                died = True
        try:
            read = store.read().revision
        except (StateCorruptError, StateMissingError):
            read = 0
        assert read in (0, 2)
        restore_state(store)
        assert store.validate().revision in (2, 3)
        if not died:
            break
    else:
        pytest.fail("the restore never ended")
    assert at > 10
