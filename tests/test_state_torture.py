# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two thousand writers of state.json are killed with SIGKILL while others read and write."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fast_directory import fast_directory
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_torture import survive


@pytest.mark.slow
def test_two_thousand_killed_writers_are_not_noticed() -> None:
    # A small process forks several times as fast as the one that has all tests in memory.
    with fast_directory() as directory, ProcessPoolExecutor(1, get_context("spawn")) as small:
        torture = small.submit(survive, directory, 2000).result()
    # The kills did hit: writes that were complete but not published, and writes that were half done.
    assert torture.unpublished
    assert torture.half_written
