# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a scan of a cluster in a dictionary raises alerts for."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from ansible_collections.nhi.core.plugins.module_utils.about import this_program
from ansible_collections.nhi.core.plugins.module_utils.scan_options import ScanOptions
from ansible_collections.nhi.core.plugins.module_utils.scan_write import run_scan
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_cluster import FakeCluster
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.scan_reports import (
    Scan,
    alert_ids,
)


def test_a_guest_that_stopped_by_itself_is_down_until_it_runs_again(cluster: FakeCluster, scan: Scan) -> None:
    row = cluster.lxc(101, "web")
    scan()
    row["status"] = "stopped"
    first = scan()
    alert = next(item for item in first.document["alerts"] if item["id"] == "guest-down:101")
    assert alert["severity"] == "critical"
    second = scan()
    again = next(item for item in second.document["alerts"] if item["id"] == "guest-down:101")
    assert again["since"] == alert["since"]
    assert again["observed_at"] > alert["observed_at"]
    row["status"] = "running"
    assert alert_ids(scan()) == []


def test_a_guest_that_a_task_stopped_is_not_down(cluster: FakeCluster, scan: Scan) -> None:
    row = cluster.lxc(101, "web")
    scan()
    row["status"] = "stopped"
    stop = {"type": "vzshutdown", "id": "101", "starttime": time.time() - 31, "endtime": time.time() - 30}
    cluster.answers["/cluster/tasks"] = [stop]
    assert alert_ids(scan()) == []
    assert alert_ids(scan()) == []


def test_an_old_stop_does_not_excuse_a_new_one(cluster: FakeCluster, scan: Scan) -> None:
    row = cluster.lxc(101, "web")
    scan()
    row["status"] = "stopped"
    stop = {"type": "vzstop", "id": "101", "starttime": time.time() - 3600, "endtime": time.time() - 3599}
    cluster.answers["/cluster/tasks"] = [stop]
    assert alert_ids(scan()) == ["guest-down:101"]


def test_a_stopped_guest_that_should_start_at_boot_is_a_warning(cluster: FakeCluster, scan: Scan) -> None:
    row = cluster.lxc(101, "web", status="stopped")
    cluster.config(row)["onboot"] = 1
    report = scan()
    assert [(item["id"], item["severity"]) for item in report.document["alerts"]] == [("guest-down:101", "warning")]


@pytest.mark.parametrize(("used", "severity"), [(0.85, None), (0.86, "warning"), (0.90, "warning"), (0.91, "critical")])
def test_storage_alerts_at_their_thresholds(
    cluster: FakeCluster, scan: Scan, used: float, severity: str | None
) -> None:
    cluster.storage("data", used)
    found = [item["severity"] for item in scan().document["alerts"]]
    assert found == ([severity] if severity else [])


def test_a_shared_storage_is_told_once(cluster: FakeCluster, scan: Scan) -> None:
    cluster.node("pve2")
    cluster.storage("nas", 0.95, "pve", shared=1)
    cluster.storage("nas", 0.95, "pve2", shared=1)
    assert alert_ids(scan()) == ["storage-full:shared/nas"]


def test_a_running_guest_that_refuses_its_health_port_is_an_alert_until_it_answers(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    def alerts(port: int) -> list[str]:
        options = ScanOptions(guest_health_port=port)
        return alert_ids(run_scan(StateStore(tmp_path), cluster, {}, options, endpoint="lab", identity="t", by=me))

    me = this_program("test")
    cluster.lxc(101, "web", "127.0.0.1/8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert alerts(port) == []
    assert alerts(port) == ["guest-unhealthy:101"]
