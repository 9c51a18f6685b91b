# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writers that are killed, and writers at once; tests/test_state_torture.py kills twenty times as many."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import ConflictError
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fast_directory import fast_directory
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_torture import (
    document_number,
    increment,
    number_in,
    start,
    survive,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def ramdisk() -> Iterator[Path]:
    with fast_directory() as directory:
        yield directory


def test_a_hundred_killed_writers_are_not_noticed(ramdisk: Path) -> None:
    survive(ramdisk, 100)


def test_writers_at_once_lose_no_update(ramdisk: Path) -> None:
    """Each counts one up, by compare and swap: no two writes may be based on the same state."""
    writers, rounds = 4, 10

    def count_up(directory: Path) -> None:
        for _count in range(rounds):
            increment(StateStore(directory))

    pids = [start(count_up, ramdisk) for _count in range(writers)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * writers
    snapshot = StateStore(ramdisk).read()
    assert number_in(snapshot.document) == snapshot.revision == writers * rounds


def test_of_writers_that_start_from_one_state_exactly_one_wins(ramdisk: Path) -> None:
    store = StateStore(ramdisk)
    increment(store)
    based_on = store.read()

    def try_once(_directory: Path) -> None:
        with contextlib.suppress(ConflictError):
            store.write(document_number(2), expected_checksum=based_on.checksum)

    pids = [start(try_once, ramdisk) for _count in range(8)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 8
    assert store.read().revision == 2
