# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scans of a cluster whose rows lag, whose agents are dead, whose nodes are away."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    NotFoundError,
    PermissionDeniedError,
    UnreachableError,
)
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_cluster import FakeCluster, silent_agent
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.scan_reports import (
    Scan,
    alert_ids,
    guest,
)

# Guests whose rows or agents lag


@pytest.mark.parametrize("vague", [{"status": "unknown"}, {"name": None}])
def test_a_row_that_lags_behind_is_asked_about(cluster: FakeCluster, scan: Scan, vague: dict[str, Any]) -> None:
    row = cluster.lxc(101, "web")
    row.update(vague)
    current = {"status": "running", "name": "web", "cpus": 2, "uptime": 3, "maxmem": 1024**3}
    cluster.answers[f"{cluster.path(row)}/status/current"] = current
    found = guest(scan(), 101)
    assert (found["name"], found["status"], found["freshness"]) == ("web", "running", "fresh")


def test_a_guest_just_started_is_not_called_stopped_because_its_row_lags(cluster: FakeCluster, scan: Scan) -> None:
    row = cluster.lxc(101, "web", status="stopped")
    cluster.config(row)["onboot"] = 1
    cluster.answers[f"{cluster.path(row)}/status/current"] = {**row, "status": "running", "uptime": 1}
    report = scan()
    assert (guest(report, 101)["status"], alert_ids(report)) == ("running", [])


def test_a_stopped_guest_is_asked_about_once(cluster: FakeCluster, scan: Scan) -> None:
    row = cluster.lxc(101, "web")
    scan()
    row["status"] = "stopped"
    assert "guest-down:101" in alert_ids(scan())
    cluster.forget()
    assert "guest-down:101" in alert_ids(scan())
    assert not any(path.endswith("status/current") for path in cluster.asked)


def test_a_row_that_still_shows_what_a_task_just_ended_is_asked_about(cluster: FakeCluster, scan: Scan) -> None:
    row = cluster.lxc(101, "web")
    scan()
    ended = time.time() - 5
    cluster.answers["/cluster/tasks"] = [{"type": "vzstop", "id": "101", "starttime": ended - 1, "endtime": ended}]
    cluster.answers[f"{cluster.path(row)}/status/current"] = {"status": "stopped", "name": "web", "cpus": 2}
    for _again in range(2):
        report = scan()
        assert (guest(report, 101)["status"], guest(report, 101)["health"]) == ("stopped", "stopped")
        assert alert_ids(report) == []


def test_a_task_that_ended_long_ago_brings_the_configuration_once(cluster: FakeCluster, scan: Scan) -> None:
    row = cluster.lxc(101, "web")
    scan()
    cluster.answers["/cluster/tasks"] = [{"type": "vzrollback", "id": "101", "starttime": 5.0, "endtime": 9.0}]
    cluster.config(row)["digest"] = "as-it-was"
    assert guest(scan(), 101)["config_digest"] == "as-it-was"
    scan()
    assert not any("config" in path for path in cluster.asked)


def test_tasks_without_a_guest_or_that_can_not_be_listed_are_no_matter(cluster: FakeCluster, scan: Scan) -> None:
    cluster.lxc(101, "web")
    cluster.answers["/cluster/tasks"] = [{"type": "vzdump", "id": ""}, {"type": "download", "id": "debian"}]
    assert guest(scan(), 101)["freshness"] == "fresh"
    cluster.answers["/cluster/tasks"] = PermissionDeniedError("no")
    assert guest(scan(), 101)["freshness"] == "fresh"


def test_a_guest_that_is_gone_when_asked_is_left_out(cluster: FakeCluster, scan: Scan) -> None:
    row = cluster.lxc(101, "web")
    cluster.answers[f"{cluster.path(row)}/config"] = NotFoundError("gone", status=500)
    cluster.lxc(102, "other")
    report = scan()
    assert [item["vmid"] for item in report.document["infrastructure"]["guests"]] == [102]


def test_a_container_that_turns_out_to_be_stopped_is_shown_as_stopped(cluster: FakeCluster, scan: Scan) -> None:
    row = cluster.lxc(101, "web", "dhcp")
    cluster.answers[f"{cluster.path(row)}/interfaces"] = None
    cluster.answers[f"{cluster.path(row)}/status/current"] = {"status": "stopped", "name": "web", "cpus": 2}
    found = guest(scan(), 101)
    assert (found["status"], found["health"], found["address"]) == ("stopped", "stopped", None)


def test_a_dead_agent_is_left_alone_for_a_while_and_its_guest_has_no_address(
    cluster: FakeCluster, scan: Scan, later: Callable[[float], None]
) -> None:
    cluster.agent(cluster.qemu(102, "vm"), silent_agent())
    report = scan()
    assert guest(report, 102)["address"] is None
    assert guest(report, 102)["health"] == "unknown"
    assert "guest-address-unknown:102" in alert_ids(report)
    scan()
    assert not any("agent" in path for path in cluster.asked)
    later(601)
    scan()
    assert any("agent" in path for path in cluster.asked)


def test_the_agent_of_a_guest_that_was_just_started_is_asked_again_soon(
    cluster: FakeCluster, scan: Scan, later: Callable[[float], None]
) -> None:
    row = cluster.qemu(102, "vm", uptime=20)
    cluster.agent(row, silent_agent())
    scan()
    later(31)
    cluster.agent(row, "10.0.0.51")
    assert guest(scan(), 102)["address"] == "10.0.0.51"


def test_an_address_whose_agent_died_is_kept_and_called_stale(
    cluster: FakeCluster, scan: Scan, later: Callable[[float], None]
) -> None:
    row = cluster.qemu(102, "vm")
    cluster.agent(row, "10.0.0.51")
    first = guest(scan(), 102)
    later(1000)
    cluster.agent(row, silent_agent())
    report = scan()
    found = guest(report, 102)
    assert (found["address"], found["freshness"], found["health"]) == ("10.0.0.51", "stale", "unknown")
    assert found["observed_at"][:19] <= first["observed_at"][:19]
    assert "guest-stale:102" in alert_ids(report)


def test_a_virtual_machine_with_a_static_address_needs_no_agent(cluster: FakeCluster, scan: Scan) -> None:
    cluster.qemu(102, "vm", ip="10.0.0.9/24", agent="0")
    assert guest(scan(), 102)["address"] == "10.0.0.9"
    assert not any("agent" in path for path in cluster.asked)


def test_a_stopped_guest_keeps_its_static_address_and_loses_the_one_it_was_given(
    cluster: FakeCluster, scan: Scan
) -> None:
    cluster.lxc(101, "static", "10.0.0.7/24", status="stopped")
    row = cluster.lxc(102, "dynamic", "dhcp")
    cluster.interfaces(row, "10.0.0.50")
    scan()
    row["status"] = "stopped"
    report = scan()
    assert guest(report, 101)["address"] == "10.0.0.7"
    assert guest(report, 102)["address"] is None


def test_a_template_costs_its_configuration_and_nothing_else(cluster: FakeCluster, scan: Scan) -> None:
    cluster.qemu(900, "golden", template=1, status="stopped")
    found = guest(scan(), 900)
    assert (found["template"], found["health"]) == (True, "stopped")
    assert not any("agent" in path for path in cluster.asked)


# Failures


def test_guests_of_an_offline_node_are_kept_as_stale_and_only_the_node_raises_an_alert(
    cluster: FakeCluster, scan: Scan
) -> None:
    node = cluster.node("pve2")
    row = cluster.lxc(201, "far", "10.0.0.8/24", node="pve2")
    cluster.lxc(101, "near")
    before = guest(scan(), 201)
    node["status"], row["status"] = "offline", "unknown"
    report = scan()
    found = guest(report, 201)
    assert (found["status"], found["address"], found["freshness"]) == ("running", "10.0.0.8", "stale")
    assert found["observed_at"] == before["observed_at"]
    assert found["health"] == "unknown"
    assert guest(report, 101)["freshness"] == "fresh"
    assert alert_ids(report) == ["node-offline:pve2"]
    assert "its 1 guests" in report.document["alerts"][0]["message"]
    assert not any("pve2" in path for path in cluster.asked)


def test_a_guest_that_was_never_read_is_unknown(cluster: FakeCluster, scan: Scan) -> None:
    cluster.node("pve2", "offline")
    cluster.lxc(201, "far", node="pve2", status="unknown")["name"] = None
    found = guest(scan(), 201)
    assert (found["freshness"], found["observed_at"], found["name"]) == ("unknown", None, "CT201")


def test_a_node_that_stops_answering_is_left_alone_and_the_others_are_read(cluster: FakeCluster, scan: Scan) -> None:
    cluster.node("pve2")
    for number in range(30):
        row = cluster.lxc(200 + number, f"far-{number}", f"10.0.1.{number}/24", node="pve2")
        cluster.answers[f"{cluster.path(row)}/config"] = UnreachableError("596", status=596)
    cluster.lxc(101, "near")
    report = scan()
    assert guest(report, 101)["freshness"] == "fresh"
    assert {guest(report, 200 + number)["freshness"] for number in range(30)} == {"unknown"}
    assert "api-unreadable:pve2" in alert_ids(report)
    # Two failures decide; requests that were already under way at that moment are the rest.
    assert sum("pve2" in path for path in cluster.asked) <= 2 + 4


def test_one_unreadable_guest_does_not_touch_the_others(cluster: FakeCluster, scan: Scan) -> None:
    row = cluster.lxc(101, "web", "10.0.0.7/24")
    cluster.lxc(102, "other", "10.0.0.8/24")
    scan()
    row["tags"] = "changed"
    cluster.answers[f"{cluster.path(row)}/config"] = UnreachableError("timeout")
    report = scan()
    assert guest(report, 101)["freshness"] == "stale"
    assert guest(report, 101)["address"] == "10.0.0.7"
    assert guest(report, 102)["freshness"] == "fresh"
    assert "guest-stale:101" in alert_ids(report)


def test_a_missing_privilege_for_agents_is_one_alert_that_names_it(cluster: FakeCluster, scan: Scan) -> None:
    for vmid in (102, 103):
        refused = PermissionDeniedError(
            "no", status=403, reason="Permission check failed (/vms/102, VM.GuestAgent.Audit)"
        )
        refused.privilege, refused.acl_path = "VM.GuestAgent.Audit", "/vms/102"
        cluster.agent(cluster.qemu(vmid, f"vm-{vmid}"), refused)
    report = scan()
    alert = next(item for item in report.document["alerts"] if item["kind"] == "api_permission")
    assert "VM.GuestAgent.Audit on 2 guests" in alert["message"]
    assert "nhi@pve!reader" in alert["message"]


def test_a_token_that_may_see_no_guest_is_told_so_and_nothing_is_written(
    cluster: FakeCluster, scan: Scan, tmp_path: Path
) -> None:
    cluster.answers["/access/permissions"] = {}
    with pytest.raises(PermissionDeniedError, match=r"VM\.Audit") as caught:
        scan()
    assert "nhi@pve!reader" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_lab_is_an_empty_state(cluster: FakeCluster, scan: Scan) -> None:
    report = scan()
    assert report.document["infrastructure"]["guests"] == []
    assert report.changed is True


def test_an_api_that_is_away_fails_the_scan_and_leaves_the_state(
    cluster: FakeCluster, scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.lxc(101, "web")
    scan()
    before = (tmp_path / "state.json").read_bytes()
    monkeypatch.setattr(cluster, "_answer", Mock(side_effect=UnreachableError("down")))
    with pytest.raises(UnreachableError):
        scan()
    assert (tmp_path / "state.json").read_bytes() == before


def test_what_is_only_nice_to_know_may_fail(cluster: FakeCluster, scan: Scan) -> None:
    cluster.answers["/version"] = UnreachableError("slow")
    cluster.answers["/cluster/status"] = PermissionDeniedError("no")
    cluster.lxc(101, "web")
    report = scan()
    assert report.document["infrastructure"]["cluster"]["version"] is None
    assert guest(report, 101)["freshness"] == "fresh"
