# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scans of a cluster in a dictionary: what is asked, what is kept, what is said."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from ansible_collections.nhi.core.plugins.module_utils import scan_guests
from ansible_collections.nhi.core.plugins.module_utils.about import this_program
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    NotFoundError,
    PermissionDeniedError,
    UnreachableError,
)
from ansible_collections.nhi.core.plugins.module_utils.scan_memory import CACHE_NAME
from ansible_collections.nhi.core.plugins.module_utils.scan_options import ScanOptions
from ansible_collections.nhi.core.plugins.module_utils.scan_write import ScanReport, run_scan
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import format_time, utc_now
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_cluster import FakeCluster, silent_agent

Scan = Callable[..., ScanReport]


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def scan(cluster: FakeCluster, tmp_path: Path) -> Scan:
    def run(**more: Any) -> ScanReport:
        options = ScanOptions(health_checks=False, everything=more.pop("everything", False))
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


def this_moment() -> str:
    return format_time(utc_now())


def guest(report: ScanReport, vmid: int) -> dict[str, Any]:
    found: dict[str, Any] = next(g for g in report.document["infrastructure"]["guests"] if g["vmid"] == vmid)
    return found


def alert_ids(report: ScanReport) -> list[str]:
    return [alert["id"] for alert in report.document["alerts"]]


# What is asked


def test_a_static_container_costs_one_call_and_is_found(cluster: FakeCluster, scan: Scan) -> None:
    cluster.lxc(101, "web", "10.0.0.7/24", tags="b;a", pool="ai-lab")
    report = scan()
    assert cluster.asked[-1] == "/nodes/pve/lxc/101/config"
    found = guest(report, 101)
    assert found["address"] == "10.0.0.7"
    assert found["addresses"][0]["source"] == "config"
    assert (found["tags"], found["pool"], found["config_digest"]) == (["a", "b"], "ai-lab", "digest-101")
    assert (found["freshness"], found["health"]) == ("fresh", "unknown")


def test_a_second_scan_of_an_unchanged_lab_asks_three_questions_and_reports_no_change(
    cluster: FakeCluster, scan: Scan
) -> None:
    cluster.interfaces(cluster.lxc(101, "web", "dhcp"), "10.0.0.50")
    cluster.agent(cluster.qemu(102, "vm"), "10.0.0.51")
    first = scan()
    assert (first.changed, first.result.kind) == (True, "cold")
    second = scan()
    assert sorted(cluster.asked) == ["/cluster/resources", "/cluster/tasks", "/version"]
    assert (second.changed, second.result.kind, second.changed_guests) == (False, "warm", [])
    assert guest(second, 101)["address"] == "10.0.0.50"
    assert guest(second, 102)["address"] == "10.0.0.51"
    assert second.document["meta"]["revision"] == 2
    assert second.document["infrastructure"]["cluster"]["name"] == "lab"


def test_numbers_that_tick_are_written_and_are_no_change(cluster: FakeCluster, scan: Scan) -> None:
    row = cluster.lxc(101, "web")
    scan()
    row["cpu"], row["uptime"] = 0.77, row["uptime"] + 300
    report = scan()
    assert report.changed is False
    assert guest(report, 101)["cpu_usage"] == 0.77


@pytest.mark.parametrize(
    "change",
    [{"name": "db"}, {"tags": "new"}, {"maxmem": 2 * 1024**3}, {"lock": "backup"}, {"maxcpu": 4}],
)
def test_a_changed_row_brings_the_configuration_of_that_guest_only(
    cluster: FakeCluster, scan: Scan, change: dict[str, Any]
) -> None:
    row = cluster.lxc(101, "web")
    cluster.lxc(102, "other", "10.0.0.6/24")
    scan()
    row.update(change)
    cluster.config(row)["digest"] = "new-digest"
    report = scan()
    assert [path for path in cluster.asked if path.startswith("/nodes")] == ["/nodes/pve/lxc/101/config"]
    assert guest(report, 101)["config_digest"] == "new-digest"
    assert [item["vmid"] for item in report.changed_guests] == [101]


def test_a_restarted_guest_is_asked_for_its_address_again(cluster: FakeCluster, scan: Scan) -> None:
    row = cluster.lxc(101, "web", "dhcp")
    cluster.interfaces(row, "10.0.0.50")
    scan()
    row["uptime"] = 60
    cluster.interfaces(row, "10.0.0.51")
    assert guest(scan(), 101)["address"] == "10.0.0.51"


def test_another_guest_of_the_same_vmid_and_looks_is_not_taken_for_the_old_one(
    cluster: FakeCluster, scan: Scan
) -> None:
    row = cluster.lxc(101, "web", "10.0.0.7/24")
    scan()
    cluster.rows.remove(row)
    cluster.lxc(101, "web", "10.0.0.99/24", uptime=60)
    found = guest(scan(), 101)
    assert found["address"] == "10.0.0.99"


def test_old_addresses_and_configurations_are_read_again(
    cluster: FakeCluster, scan: Scan, later: Callable[[float], None]
) -> None:
    cluster.interfaces(cluster.lxc(101, "web", "dhcp"), "10.0.0.50")
    scan()
    later(901)
    scan()
    assert [path for path in cluster.asked if "/lxc/" in path] == ["/nodes/pve/lxc/101/interfaces"]
    later(3600)
    scan()
    assert "/nodes/pve/lxc/101/config" in cluster.asked


def test_a_full_scan_reads_everything(cluster: FakeCluster, scan: Scan) -> None:
    cluster.lxc(101, "web")
    scan()
    report = scan(everything=True)
    assert "/nodes/pve/lxc/101/config" in cluster.asked
    assert report.result.kind == "cold"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 99}', '{"version": 1, "endpoint": "lab", "guests": 3}']
)
def test_a_lost_or_broken_memory_costs_one_cold_scan_and_no_fact(
    cluster: FakeCluster, scan: Scan, tmp_path: Path, content: str
) -> None:
    cluster.lxc(101, "web", "10.0.0.7/24")
    scan()
    (tmp_path / CACHE_NAME).write_text(content)
    report = scan()
    assert report.result.kind == "cold"
    assert (report.changed, guest(report, 101)["address"]) == (False, "10.0.0.7")


def test_the_memory_of_another_cluster_is_not_used(cluster: FakeCluster, scan: Scan) -> None:
    cluster.lxc(101, "web")
    scan()
    assert scan(endpoint="another").result.kind == "cold"


def test_no_more_than_the_allowed_requests_are_put_to_one_node_at_once(cluster: FakeCluster, scan: Scan) -> None:
    cluster.node("pve2")

    def slowly(config: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.005)
        return config

    for number in range(40):
        row = cluster.lxc(200 + number, f"guest-{number}", f"10.0.1.{number}/24", node=("pve", "pve2")[number % 2])
        cluster.answers[f"{cluster.path(row)}/config"] = partial(slowly, dict(cluster.config(row)))
    scan()
    assert cluster.most_at_once["pve"] <= 4
    assert cluster.most_at_once["pve2"] <= 4
    assert cluster.most_at_once["pve"] > 1


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


# Alerts


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


# Writing


def test_a_dry_run_writes_nothing_and_says_what_would_change(cluster: FakeCluster, scan: Scan, tmp_path: Path) -> None:
    cluster.lxc(101, "web")
    report = scan(dry_run=True)
    assert list(tmp_path.iterdir()) == []
    assert report.changed is True
    assert report.changed_guests == [{"vmid": 101, "name": "web", "change": "added", "facts": []}]


def test_facts_that_others_wrote_during_the_scan_survive(cluster: FakeCluster, scan: Scan, tmp_path: Path) -> None:
    cluster.lxc(101, "web")
    cluster.lxc(102, "doomed")
    scan()
    store = StateStore(tmp_path)
    changed_row = cluster.lxc(103, "new", "10.0.0.9/24")
    config = dict(cluster.config(changed_row))

    def interrupted() -> dict[str, Any]:
        """While the scan reads guest 103, somebody else adds guest 104, destroys 102 and sets a quota."""
        time.sleep(0.002)

        def change(document: Any) -> Any:
            guests = document["infrastructure"]["guests"]
            stamp = this_moment()
            created = {**guests[0], "vmid": 104, "name": "created", "observed_at": stamp}
            document["infrastructure"]["guests"] = [item for item in guests if item["vmid"] != 102] + [created]
            document["api_providers"] = {"gemini": {"limit": 5}}
            return document

        store.update(change)
        return config

    cluster.answers[f"{cluster.path(changed_row)}/config"] = interrupted
    report = scan()
    vmids = [item["vmid"] for item in report.document["infrastructure"]["guests"]]
    assert vmids == [101, 103, 104]
    assert report.document["api_providers"] == {"gemini": {"limit": 5}}
    assert json.loads((tmp_path / "state.json").read_text()) == report.document


def test_alerts_of_other_programs_are_left_alone(cluster: FakeCluster, scan: Scan, tmp_path: Path) -> None:
    scan()
    foreign = {"id": "quota:gemini", "severity": "info", "kind": "quota_low", "subject": "api/gemini"}
    foreign |= {"message": "Little is left.", "since": this_moment(), "observed_at": this_moment()}
    StateStore(tmp_path).update(lambda document: {**(document or {}), "alerts": [foreign]})
    assert scan().document["alerts"] == [foreign]


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
