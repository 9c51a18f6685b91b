# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the state store promises to readers and writers when nothing crashes."""

from __future__ import annotations

import copy
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    ConflictError,
    LockTimeoutError,
    StateInvalidError,
    StateVersionError,
)
from ansible_collections.nhi.core.plugins.module_utils.lock import FileLock
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import canonical_bytes, checksum_of
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import (
    full_document,
    make_document,
    make_guest,
)

if TYPE_CHECKING:
    from ansible_collections.nhi.core.plugins.module_utils.state_document import Document


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(tmp_path, patience=0)


@pytest.fixture
def written(store: StateStore) -> StateStore:
    store.write(full_document(), expected_checksum=None)
    return store


def forge(directory: Path, document: Document) -> bytes:
    """A state.json with a right checksum that this store would not have written."""
    raw = canonical_bytes(document)
    (directory / "state.json").write_bytes(raw)
    (directory / "state.json.checksum").write_text(f"{checksum_of(raw)}  state.json\n")
    return raw


# Reading and writing


def test_what_was_written_is_read(store: StateStore) -> None:
    written = store.write(full_document(), expected_checksum=None)
    read = store.read()
    assert read == written
    assert read.revision == 1
    assert read.document["infrastructure"] == full_document()["infrastructure"]


def test_sha256sum_accepts_the_checksum_file(written: StateStore) -> None:
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "state.json.checksum"],
        cwd=written.directory,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "state.json: OK\n"


def test_files_are_readable_for_all_whatever_the_umask(store: StateStore) -> None:
    before = os.umask(0o077)
    try:
        store.write(full_document(), expected_checksum=None)
    finally:
        os.umask(before)
    for name in ("state.json", "state.json.checksum"):
        assert (store.directory / name).stat().st_mode & 0o777 == 0o644


def test_the_first_write_makes_the_directory(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "a" / "b")
    assert store.read_or_none() is None
    assert not (tmp_path / "a").exists()
    store.write(make_document(), expected_checksum=None)
    assert store.read().revision == 1


def test_each_write_raises_the_revision(written: StateStore) -> None:
    for revision in range(2, 5):
        snapshot = written.update(lambda document: document or pytest.fail("the document is missing"))
        assert snapshot.revision == revision


def test_a_reader_does_not_wait_for_a_writer(written: StateStore) -> None:
    with FileLock(written.directory / "state.lock", "a long write"):
        assert written.read().revision == 1


def test_a_writer_waits_for_another_and_names_it(written: StateStore) -> None:
    impatient = StateStore(written.directory, lock_timeout=0)
    held = FileLock(written.directory / "state.lock", "a long write", actor="ada")
    with held, pytest.raises(LockTimeoutError, match="held by a long write by ada"):
        impatient.write(full_document(), expected_checksum=written.read().checksum)


def test_the_fingerprint_is_kept_while_only_load_changes(written: StateStore) -> None:
    before = written.read().document["meta"]["topology_fingerprint"]

    def tick(document: Document | None) -> Document:
        assert document is not None
        document["infrastructure"]["guests"][0]["cpu_usage"] = 0.99
        return document

    assert written.update(tick).document["meta"]["topology_fingerprint"] == before


@pytest.mark.parametrize("graph", ['{"services": {}}', "{broken"])
def test_a_change_of_the_graph_changes_the_fingerprint(written: StateStore, graph: str) -> None:
    before = written.read().document["meta"]["topology_fingerprint"]
    (written.directory / "dependency_graph.json").write_text(graph)
    after = written.update(lambda document: document or {})
    assert after.document["meta"]["topology_fingerprint"] != before


# Compare and swap


def test_a_write_based_on_an_older_state_is_a_conflict(written: StateStore) -> None:
    old = written.read()
    written.update(lambda document: document or {})
    with pytest.raises(ConflictError, match="changed since it was read"):
        written.write(old.document, expected_checksum=old.checksum)
    with pytest.raises(ConflictError, match="expected checksum none"):
        written.write(old.document, expected_checksum=None)
    assert written.read().revision == 2


def test_an_update_starts_over_after_a_conflict(written: StateStore) -> None:
    pauses: list[float] = []
    rival = StateStore(written.directory)
    seen: list[int] = []

    def change(document: Document | None) -> Document:
        assert document is not None
        seen.append(document["meta"]["revision"])
        if len(seen) < 3:
            rival.update(lambda current: current or {})
        return document

    assert written.update(change, sleep=pauses.append).revision == 4
    assert seen == [1, 2, 3]
    assert len(pauses) == 2
    assert all(1 <= pause <= 3 for pause in pauses)


def test_an_update_gives_up_after_three_conflicts(written: StateStore) -> None:
    rival = StateStore(written.directory)
    pauses: list[float] = []

    def change(document: Document | None) -> Document:
        rival.update(lambda current: current or {})
        return document or {}

    with pytest.raises(ConflictError):
        written.update(change, sleep=pauses.append)
    assert len(pauses) == 2
    assert written.read().revision == 4


def test_a_change_that_fails_writes_nothing(written: StateStore) -> None:
    before = written.path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        written.update(lambda _document: 1 // 0)  # type: ignore[arg-type, return-value]
    assert written.path.read_bytes() == before


def test_the_document_given_is_not_altered(store: StateStore) -> None:
    document = make_document([make_guest(2), make_guest(1)])
    before = copy.deepcopy(document)
    store.write(document, expected_checksum=None)
    assert document == before


# Documents that are not good


@pytest.mark.parametrize("document", [{}, {"meta": {}}, [], None, {"infrastructure": []}])
def test_an_invalid_document_is_refused_and_nothing_changes(written: StateStore, document: Document) -> None:
    before = written.path.read_bytes()
    with pytest.raises(StateInvalidError, match="does not follow the schema"):
        written.write(document, expected_checksum=written.read().checksum)
    assert written.path.read_bytes() == before
    assert not list(written.directory.glob("*.tmp"))


def test_an_invalid_change_of_a_valid_document_is_refused(written: StateStore) -> None:
    document = written.read().document
    document["infrastructure"]["guests"][1]["health"] = "great"
    with pytest.raises(StateInvalidError, match="infrastructure/guests/1/health"):
        written.write(document, expected_checksum=written.read().checksum)
    assert written.read().revision == 1


def test_a_state_of_a_newer_nhi_is_neither_read_nor_overwritten(written: StateStore) -> None:
    document = full_document()
    document["meta"]["schema_version"] = 2
    document["something_new"] = document.pop("alerts")
    raw = forge(written.directory, document)
    with pytest.raises(StateVersionError, match="schema version 2, this NHI understands 1"):
        written.read()
    with pytest.raises(StateVersionError):
        written.write(full_document(), expected_checksum=checksum_of(raw))
    assert written.path.read_bytes() == raw


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"{}", b'{"meta": {"schema_version": 0}}', b'{"meta": []}', b"\xff"])
def test_a_file_with_a_right_checksum_that_is_no_state_is_refused(store: StateStore, raw: bytes) -> None:
    store.path.write_bytes(raw)
    (store.directory / "state.json.checksum").write_text(checksum_of(raw))
    with pytest.raises(StateInvalidError, match="is not a state document") as caught:
        store.read()
    assert "Error(" not in str(caught.value)


@pytest.mark.parametrize("gone", ["revision", "alerts", "guests"])
def test_a_read_checks_that_the_domains_are_there(written: StateStore, gone: str) -> None:
    document = full_document()
    for place in (document, document["meta"], document["infrastructure"]):
        place.pop(gone, None)
    forge(written.directory, document)
    with pytest.raises(StateInvalidError, match="is not a state document"):
        written.read()


def test_validate_checks_what_a_read_trusts(written: StateStore) -> None:
    assert written.validate().revision == 1
    document = written.read().document
    document["infrastructure"]["guests"][0]["health"] = "great"
    forge(written.directory, document)
    assert written.read().revision == 1
    with pytest.raises(StateInvalidError, match="guests/0/health"):
        written.validate()
