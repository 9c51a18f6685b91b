"""Fixtures: a lab with the memory driver, in this process, on a free port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.tests.harness import RunningLab, running


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RunningLab]:
    """A fresh lab."""
    with running(tmp_path) as started:
        yield started
