# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is done to the entries of a log, a verification finds it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.audit_entry import canonical, digest_of, read_line
from ansible_collections.nhi.core.plugins.module_utils.audit_log import AuditLog, directory_of, segments
from ansible_collections.nhi.core.plugins.module_utils.audit_verify import verify
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fast_directory import fast_directory
from hypothesis import given, settings
from hypothesis import strategies as st

ENTRIES = 8
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def log() -> Any:
    """A log of two files, whose lines a test may put back in another way."""
    with fast_directory() as directory:
        audit = AuditLog(directory, file_limit_bytes=1900)
        for number in range(ENTRIES):
            audit.append({"operation": "nhi_vm/present", "outcome": "done", "subject": f"guest-{number}", "n": number})
        yield directory


def content(directory: Path) -> list[bytes]:
    return [s.path.read_bytes() for s in segments(directory_of(directory))]


def put(directory: Path, contents: list[bytes]) -> None:
    for segment, data in zip(segments(directory_of(directory)), contents, strict=True):
        segment.path.write_bytes(data)


def is_whole_with(directory: Path, lines: list[bytes]) -> bool:
    """Whether the log would pass if these were its lines, split over the files as before."""
    before = content(directory)
    count = before[0].count(b"\n")
    try:
        put(directory, [b"".join(lines[:count]), b"".join(lines[count:])])
        return verify(directory).whole
    finally:
        put(directory, before)


def lines_of(directory: Path) -> list[bytes]:
    return b"".join(content(directory)).splitlines(keepends=True)


def test_the_log_has_two_files_and_is_whole(log: Path) -> None:
    assert len(content(log)) == 2
    assert is_whole_with(log, lines_of(log))


@given(data=st.data())
def test_any_changed_byte_is_found(log: Path, data: st.DataObject) -> None:
    before = b"".join(lines_of(log))
    at = data.draw(st.integers(0, len(before) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != before[at]))
    changed = before[:at] + bytes([byte]) + before[at + 1 :]
    assert not is_whole_with(log, changed.splitlines(keepends=True))


@given(kept=st.sets(st.integers(0, ENTRIES - 1), max_size=ENTRIES - 1))
def test_any_removal_is_found_also_at_the_end(log: Path, kept: set[int]) -> None:
    assert not is_whole_with(log, [line for at, line in enumerate(lines_of(log)) if at in kept])


@given(order=st.permutations(range(ENTRIES)).filter(lambda o: list(o) != list(range(ENTRIES))))
def test_any_other_order_is_found(log: Path, order: list[int]) -> None:
    lines = lines_of(log)
    assert not is_whole_with(log, [lines[at] for at in order])


@given(at=st.integers(0, ENTRIES), copied=st.integers(0, ENTRIES - 1))
def test_any_repetition_is_found(log: Path, at: int, copied: int) -> None:
    lines = lines_of(log)
    assert not is_whole_with(log, [*lines[:at], lines[copied], *lines[at:]])


@given(at=st.integers(0, ENTRIES - 1), name=st.sampled_from(["subject", "outcome", "timestamp", "new"]), value=JSON)
def test_an_edit_whose_hash_was_computed_anew_is_found(log: Path, at: int, name: str, value: Any) -> None:
    lines = lines_of(log)
    entry = read_line(lines[at][:-1])
    try:
        forged = {**entry, name: value}
        forged["hash"] = digest_of(forged)
        line = canonical(forged) + b"\n"
    except ValueError:
        return
    if line == lines[at]:
        return
    assert not is_whole_with(log, [*lines[:at], line, *lines[at + 1 :]])


@settings(max_examples=50)
@given(fields=st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_whatever_an_entry_tells_the_log_is_whole(fields: dict[str, Any]) -> None:
    own = {"operation": "x", "outcome": "done"}
    with fast_directory() as directory:
        log = AuditLog(directory)
        for _count in range(2):
            log.append({"params": fields, **own})
        assert verify(directory).findings == []
        assert verify(directory).entries == 2


def test_every_pair_of_entries_that_changed_places_is_found(log: Path) -> None:
    for one, other in itertools.combinations(range(ENTRIES), 2):
        lines = lines_of(log)
        lines[one], lines[other] = lines[other], lines[one]
        assert not is_whole_with(log, lines)
