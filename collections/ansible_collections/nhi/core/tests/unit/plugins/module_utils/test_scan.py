# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scans of a cluster in a dictionary: what is asked, what is kept, what is written."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.scan_memory import CACHE_NAME
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_cluster import FakeCluster
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.scan_reports import (
    Scan,
    guest,
    this_moment,
)

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


@pytest.mark.parametrize(
    ("notes", "description"),
    [("Shop.\nSince May.\n\nnhi: op-5f2b", "Shop."), ("nhi: op-5f2b\n", None), ("", None), (None, None)],
)
def test_a_description_is_what_a_person_wrote_first(
    cluster: FakeCluster, scan: Scan, notes: str | None, description: str | None
) -> None:
    cluster.config(cluster.lxc(101, "web"))["description"] = notes
    assert guest(scan(), 101)["description"] == description


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
