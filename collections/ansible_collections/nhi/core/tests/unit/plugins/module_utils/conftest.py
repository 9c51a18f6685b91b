# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster in a dictionary and a scan of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils import scan_guests
from ansible_collections.nhi.core.plugins.module_utils.about import this_program
from ansible_collections.nhi.core.plugins.module_utils.scan_options import ScanOptions
from ansible_collections.nhi.core.plugins.module_utils.scan_write import ScanReport, run_scan
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_cluster import FakeCluster
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.scan_reports import (
    Scan,
)


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def scan(cluster: FakeCluster, tmp_path: Path) -> Scan:
    def run(**more: Any) -> ScanReport:
        wanted = {name: more.pop(name) for name in ("everything", "quotas") if name in more}
        options = ScanOptions(health_checks=False, **wanted)
        cluster.forget()
        settings = {"endpoint": "lab", "identity": "nhi@pve!reader", "by": this_program("test"), **more}
        return run_scan(StateStore(tmp_path), cluster, {}, options, **settings)

    return run


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster) -> Callable[[float], None]:
    """Let time pass: memories grow old and running guests grow older."""
    passed = 0.0
    real = scan_guests.GuestReader.__init__

    def shifted(self: Any, *args: Any, now: float, **more: Any) -> None:
        real(self, *args, now=now + passed, **more)

    monkeypatch.setattr(scan_guests.GuestReader, "__init__", shifted)

    def wait(seconds: float) -> None:
        nonlocal passed
        passed += seconds
        for row in cluster.rows:
            if row.get("status") == "running":
                row["uptime"] += seconds

    return wait
