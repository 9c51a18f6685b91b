# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scans of some guests: what is asked, and what of everything else stays as it was."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.about import this_program
from ansible_collections.nhi.core.plugins.module_utils.catalogue import load_catalogue
from ansible_collections.nhi.core.plugins.module_utils.errors import AlreadyExistsError, UnreachableError
from ansible_collections.nhi.core.plugins.module_utils.guest_rescan import Rescan
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import Endpoint
from ansible_collections.nhi.core.plugins.module_utils.scan_memory import CACHE_NAME, ScanMemory
from ansible_collections.nhi.core.plugins.module_utils.scan_options import ScanOptions, guest_wish
from ansible_collections.nhi.core.plugins.module_utils.scan_partial import unknown_guests
from ansible_collections.nhi.core.plugins.module_utils.scan_write import ScanReport, run_scan
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_cluster import FakeCluster
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.scan_reports import (
    Scan,
    alert_ids,
    guest,
    this_moment,
)

ENTRY = {
    "name": "memo",
    "title": "Memo",
    "summary": "Remembers.",
    "role": "nhi.core.memo",
    "guest": {"type": "lxc", "template": "debian-12"},
    "sizes": {"default": {"cores": 1, "memory_mib": 256, "disk_gib": 2}},
    "endpoints": [{"name": "main", "protocol": "memo", "port": 4711, "health": {"type": "tcp"}}],
}


@pytest.fixture
def partial(cluster: FakeCluster, tmp_path: Path) -> Scan:
    """A scan of some guests, by name or VMID."""

    def run(*guests: str | int, catalogue: Any = (), probe: bool = False, **more: Any) -> ScanReport:
        options = ScanOptions(health_checks=probe, guest_health_port=0, guests=guest_wish(guests))
        cluster.forget()
        settings = {"endpoint": "lab", "identity": "nhi@pve!reader", "by": this_program("test"), **more}
        return run_scan(StateStore(tmp_path), cluster, load_catalogue(catalogue), options, **settings)

    return run


def edit(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Let another program write the state."""

    def changed(document: Any) -> Any:
        change(document)
        return document

    StateStore(tmp_path).update(changed)


def free(cluster: FakeCluster, vmid: int) -> None:
    cluster.answers["/cluster/nextid"] = str(vmid)


def test_one_guest_costs_three_calls_and_shows_what_the_list_does_not_yet(
    cluster: FakeCluster, scan: Scan, partial: Scan
) -> None:
    row = cluster.lxc(101, "web", "10.0.0.7/24")
    cluster.lxc(102, "db", "10.0.0.8/24")
    scan()
    cluster.answers[f"{cluster.path(row)}/status/current"] = {**row, "status": "stopped", "uptime": 0}
    cluster.config(row)["digest"] = "changed"
    cluster.answers["/cluster/tasks"] = [{"id": "101", "type": "vzstop", "starttime": 9e9, "endtime": 9e9}]
    report = partial("web")
    assert cluster.asked == [
        "/cluster/resources", "/nodes/pve/lxc/101/status/current", "/nodes/pve/lxc/101/config", "/cluster/tasks",
    ]  # fmt: skip
    assert (guest(report, 101)["status"], guest(report, 101)["config_digest"]) == ("stopped", "changed")
    assert (report.result.kind, report.result.read_guests) == ("partial", 1)
    partial("db")
    assert len(cluster.asked) == 3


def test_everything_else_stays_as_it_was(cluster: FakeCluster, scan: Scan, partial: Scan, tmp_path: Path) -> None:
    first = cluster.lxc(101, "web", "10.0.0.7/24")
    second = cluster.lxc(102, "db", "10.0.0.8/24")
    before = scan().document
    first["maxmem"] = second["maxmem"] = 4 * 1024**3
    cluster.rows[0]["status"] = "unknown"
    after = partial(101).document
    assert guest(partial(101), 101)["memory_mib"] == 4096
    assert after["infrastructure"]["guests"][1] == before["infrastructure"]["guests"][1]
    assert after["infrastructure"]["nodes"] == before["infrastructure"]["nodes"]
    assert {k: v for k, v in after["meta"].items() if k not in ("revision", "topology_fingerprint")} == {
        k: v for k, v in before["meta"].items() if k not in ("revision", "topology_fingerprint")
    }
    assert json.loads((tmp_path / "state.json").read_text())["meta"]["revision"] == 3


def test_a_new_guest_without_a_name_yet_is_found_by_its_name(cluster: FakeCluster, scan: Scan, partial: Scan) -> None:
    scan()
    row = cluster.lxc(101, "web", "10.0.0.7/24")
    cluster.answers[f"{cluster.path(row)}/status/current"] = dict(row)
    row.update(name=None, status=None)
    other = cluster.lxc(102, "db", "10.0.0.8/24")
    cluster.answers[f"{cluster.path(other)}/status/current"] = dict(other)
    other.update(name=None, status=None)
    report = partial("web")
    assert [g["name"] for g in report.document["infrastructure"]["guests"]] == ["web"]
    assert guest(report, 101)["status"] == "running"


def test_a_guest_that_is_gone_is_removed_with_its_service_and_alerts(
    cluster: FakeCluster, scan: Scan, partial: Scan
) -> None:
    row = cluster.lxc(101, "web", "10.0.0.7/24", tags="svc-memo")
    cluster.lxc(102, "db", "10.0.0.8/24", tags="svc-lost")
    scan()
    report = partial(101, catalogue=[ENTRY])
    assert [service["vmid"] for service in report.document["infrastructure"]["services"]] == [101]
    cluster.rows.remove(row)
    free(cluster, 101)
    report = partial("web")
    assert [g["vmid"] for g in report.document["infrastructure"]["guests"]] == [102]
    assert report.document["infrastructure"]["services"] == []
    assert report.changed_guests == [{"vmid": 101, "name": "web", "change": "removed", "facts": []}]


def test_a_guest_that_this_token_can_not_see_is_kept_as_stale(cluster: FakeCluster, scan: Scan, partial: Scan) -> None:
    row = cluster.lxc(101, "web", "10.0.0.7/24")
    scan()
    cluster.rows.remove(row)
    cluster.answers["/cluster/nextid"] = AlreadyExistsError("VM 101 already exists", status=400)
    report = partial(101)
    assert (guest(report, 101)["freshness"], guest(report, 101)["health"]) == ("stale", "unknown")
    assert alert_ids(report) == ["guest-stale:101"]


def test_a_guest_that_can_not_be_read_is_stale_and_others_are_not(
    cluster: FakeCluster, scan: Scan, partial: Scan
) -> None:
    row = cluster.lxc(101, "web", "10.0.0.7/24")
    cluster.lxc(102, "db", "10.0.0.8/24")
    before = scan()
    cluster.answers[f"{cluster.path(row)}/status/current"] = UnreachableError("no answer")
    report = partial(101, "db")
    assert guest(report, 101)["freshness"] == "stale"
    assert guest(report, 101)["observed_at"] <= guest(before, 101)["observed_at"]
    assert guest(report, 102)["freshness"] == "fresh"
    assert alert_ids(report) == ["guest-stale:101"]


def test_alerts_of_these_guests_are_computed_anew_and_others_are_left_alone(
    cluster: FakeCluster, scan: Scan, partial: Scan
) -> None:
    first = cluster.lxc(101, "web", "10.0.0.7/24")
    second = cluster.lxc(102, "db", "10.0.0.8/24")
    scan()
    first.update(status="stopped", uptime=0)
    second.update(status="stopped", uptime=0)
    assert alert_ids(scan()) == ["guest-down:101", "guest-down:102"]
    first.update(status="running", uptime=1)
    second.update(status="running", uptime=1)
    assert alert_ids(partial(101)) == ["guest-down:102"]


def test_a_guest_that_a_task_stopped_is_no_alert_and_one_that_died_is(
    cluster: FakeCluster, scan: Scan, partial: Scan
) -> None:
    asked, died = cluster.lxc(101, "web", "10.0.0.7/24"), cluster.lxc(102, "db", "10.0.0.8/24")
    scan()
    asked.update(status="stopped", uptime=0)
    died.update(status="stopped", uptime=0)
    cluster.answers["/cluster/tasks"] = [{"id": "101", "type": "vzshutdown", "starttime": 9e9, "endtime": 9e9}]
    assert alert_ids(partial(101, 102)) == ["guest-down:102"]


# Services


def service(report: ScanReport, vmid: int) -> dict[str, Any]:
    found: dict[str, Any] = next(s for s in report.document["infrastructure"]["services"] if s["vmid"] == vmid)
    return found


def well(document: dict[str, Any]) -> None:
    """As if a whole scan had found everything healthy."""
    for guest_fact in document["infrastructure"]["guests"]:
        guest_fact["health"] = "healthy"
    for fact in document["infrastructure"]["services"]:
        fact.update(health="healthy", source="probe")
        fact["endpoints"][0].update(health="healthy", latency_ms=0.5, detail="connected", observed_at=this_moment())


def long_ago(document: dict[str, Any]) -> None:
    """As if nobody had looked at a guest for years."""
    for guest_fact in document["infrastructure"]["guests"]:
        guest_fact["observed_at"] = "2020-01-01T00:00:00.000000+00:00"


def test_without_probes_health_is_kept_of_what_ran_on(
    cluster: FakeCluster, scan: Scan, partial: Scan, tmp_path: Path
) -> None:
    cluster.lxc(101, "web", "10.0.0.7/24", tags="svc-memo")
    cluster.lxc(102, "plain", "10.0.0.8/24")
    scan()
    partial(101, catalogue=[ENTRY])
    edit(tmp_path, well)
    report = partial(101, 102)
    assert (service(report, 101)["health"], guest(report, 101)["health"]) == ("healthy", "healthy")
    assert service(report, 101)["endpoints"][0]["detail"] == "connected"
    assert guest(report, 102)["health"] == "healthy"


@pytest.mark.parametrize("change", [{"uptime": 0.0}, {"ip": "10.0.0.99/24"}, {"status": "stopped", "uptime": 0}])
def test_without_probes_health_is_unknown_of_what_was_restarted_moved_or_stopped(
    cluster: FakeCluster, scan: Scan, partial: Scan, tmp_path: Path, change: dict[str, Any]
) -> None:
    row = cluster.lxc(101, "web", "10.0.0.7/24", tags="svc-memo")
    other = cluster.lxc(102, "plain", "10.0.0.8/24")
    scan()
    partial(101, catalogue=[ENTRY])
    edit(tmp_path, well)
    edit(tmp_path, long_ago)
    address = change.pop("ip", None)
    if address:
        for one in (row, other):
            one["uptime"] = 9e9
            cluster.config(one)["net0"] = f"name=eth0,bridge=vmbr0,ip={address}"
    row.update(change)
    other.update(change)
    report = partial(101, 102)
    expected = "stopped" if change.get("status") else "unknown"
    assert (service(report, 101)["health"], guest(report, 101)["health"]) == (expected, expected)
    assert guest(report, 102)["health"] == expected
    assert service(report, 101)["endpoints"][0]["port"] == 4711
    assert service(report, 101)["endpoints"][0]["observed_at"] is None
    if address:
        assert service(report, 101)["endpoints"][0]["url"] == "memo://10.0.0.99:4711"


def test_a_second_guest_of_a_known_service_is_registered_without_a_catalogue(
    cluster: FakeCluster, scan: Scan, partial: Scan
) -> None:
    cluster.lxc(101, "web", "10.0.0.7/24", tags="svc-memo")
    scan()
    partial(101, catalogue=[ENTRY])
    cluster.lxc(102, "twin", "10.0.0.8/24", tags="svc-memo;svc-other")
    report = partial(102)
    assert service(report, 102)["endpoints"][0]["url"] == "memo://10.0.0.8:4711"
    assert (service(report, 102)["health"], service(report, 102)["freshness"]) == ("unknown", "fresh")


def test_only_the_services_of_these_guests_are_asked(
    cluster: FakeCluster, scan: Scan, partial: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.lxc(101, "web", "10.0.0.7/24", tags="svc-memo")
    cluster.lxc(102, "twin", "10.0.0.8/24", tags="svc-memo")
    scan()
    asked: list[str] = []

    def probe(targets: Any, **_more: Any) -> dict[Any, Any]:
        asked.extend(target.address for target in targets)
        return {}

    monkeypatch.setattr("ansible_collections.nhi.core.plugins.module_utils.scan_partial.probe_all", probe)
    partial("twin", catalogue=[ENTRY], probe=True)
    assert asked == ["10.0.0.8"]


# Beside other runs


def test_what_others_wrote_meanwhile_stays(cluster: FakeCluster, scan: Scan, partial: Scan, tmp_path: Path) -> None:
    row = cluster.lxc(101, "web", "10.0.0.7/24")
    cluster.lxc(102, "db", "10.0.0.8/24")
    scan()
    config = dict(cluster.config(row))

    def interrupted() -> dict[str, Any]:
        def change(document: dict[str, Any]) -> None:
            document["api_providers"] = {"gemini": {"limit": 5}}
            guests = document["infrastructure"]["guests"]
            guests[1]["health"] = "healthy"
            guests.append({**guests[1], "vmid": 103, "name": "new", "observed_at": this_moment()})

        edit(tmp_path, change)
        return config

    cluster.answers[f"{cluster.path(row)}/config"] = interrupted
    document = partial(101).document
    assert document["api_providers"] == {"gemini": {"limit": 5}}
    assert [(g["vmid"], g["health"]) for g in document["infrastructure"]["guests"]][1:] == [
        (102, "healthy"), (103, "healthy"),
    ]  # fmt: skip


def test_a_later_observation_of_the_same_guest_is_not_overwritten(
    cluster: FakeCluster, scan: Scan, partial: Scan, tmp_path: Path
) -> None:
    row = cluster.lxc(101, "web", "10.0.0.7/24")
    scan()
    config = dict(cluster.config(row))

    def interrupted() -> dict[str, Any]:
        def change(document: dict[str, Any]) -> None:
            document["infrastructure"]["guests"][0].update(status="stopped", observed_at=this_moment())

        edit(tmp_path, change)
        return config

    cluster.answers[f"{cluster.path(row)}/config"] = interrupted
    assert guest(partial(101), 101)["status"] == "stopped"


def test_many_runs_at_once_all_end_up_in_the_state(
    cluster: FakeCluster, scan: Scan, partial: Scan, tmp_path: Path
) -> None:
    scan()
    for vmid in range(101, 117):
        cluster.lxc(vmid, f"web-{vmid}", f"10.0.0.{vmid}/24")
    threads = [threading.Thread(target=partial, args=(vmid,)) for vmid in range(101, 117)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    document = StateStore(tmp_path).validate().document
    assert [g["vmid"] for g in document["infrastructure"]["guests"]] == list(range(101, 117))


def test_a_whole_scan_after_a_partial_one_does_not_bring_back_what_was_remembered_before(
    cluster: FakeCluster, scan: Scan, partial: Scan
) -> None:
    row = cluster.lxc(101, "web", "10.0.0.7/24")
    scan()
    cluster.config(row)["digest"] = "changed"
    partial(101)
    assert guest(scan(), 101)["config_digest"] == "changed"


def test_the_memory_of_another_token_forgets_what_this_one_saw_change(
    cluster: FakeCluster, scan: Scan, partial: Scan, tmp_path: Path
) -> None:
    row = cluster.lxc(101, "web", "10.0.0.7/24")
    cluster.lxc(102, "db", "10.0.0.8/24")
    scan()
    cluster.config(row)["digest"] = "changed"
    partial(101, endpoint="another token")
    assert ScanMemory.load(tmp_path, "lab").guests.keys() == {102}
    assert guest(scan(), 101)["config_digest"] == "changed"


# Without a state, or without a guest


def test_without_a_state_everything_is_read(cluster: FakeCluster, partial: Scan, tmp_path: Path) -> None:
    cluster.lxc(101, "web", "10.0.0.7/24")
    cluster.lxc(102, "db", "10.0.0.8/24")
    report = partial(101)
    assert report.result.kind == "cold"
    assert len(report.document["infrastructure"]["guests"]) == 2
    assert (tmp_path / CACHE_NAME).exists()


def test_a_guest_nobody_knows_is_named(cluster: FakeCluster, scan: Scan, partial: Scan) -> None:
    cluster.lxc(101, "web", "10.0.0.7/24")
    scan()
    report = partial("web", "wbe", 999)
    assert unknown_guests(report.result) == ("999", "wbe")
    assert unknown_guests(scan().result) == ()


def test_a_dry_run_writes_nothing(cluster: FakeCluster, scan: Scan, partial: Scan, tmp_path: Path) -> None:
    row = cluster.lxc(101, "web", "10.0.0.7/24")
    scan()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    row["maxcpu"] = 7
    assert partial(101, dry_run=True).changed
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# At the end of other modules


@pytest.fixture
def rescan(tmp_path: Path) -> Rescan:
    return Rescan(tmp_path, Endpoint("pve.example.net", "nhi@pve", "x", "secret"), "nhi_vm")


def test_a_rescan_shows_what_was_done(cluster: FakeCluster, scan: Scan, rescan: Rescan, tmp_path: Path) -> None:
    scan()
    cluster.lxc(101, "web", "10.0.0.7/24")
    cluster.forget()
    assert rescan(cluster, [101]) == []
    assert StateStore(tmp_path).read().document["infrastructure"]["guests"][0]["address"] == "10.0.0.7"
    assert len(cluster.asked) == 3


def test_a_rescan_that_fails_is_a_warning(cluster: FakeCluster, scan: Scan, rescan: Rescan, tmp_path: Path) -> None:
    cluster.lxc(101, "web", "10.0.0.7/24")
    scan()
    cluster.answers["/nodes/pve/lxc/101/status/current"] = UnreachableError("no answer")
    assert "web (101)" in str(rescan(cluster, [101]))
    (tmp_path / "state.json").write_text("{}")
    assert "does not match its checksum" in str(rescan(cluster, [101]))


def test_a_rescan_of_nothing_asks_nothing(cluster: FakeCluster, rescan: Rescan) -> None:
    assert rescan(cluster) == []
    assert cluster.asked == []
