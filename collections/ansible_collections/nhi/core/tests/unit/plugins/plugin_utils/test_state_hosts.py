# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now
from ansible_collections.nhi.core.plugins.plugin_utils.state_hosts import (
    InventoryHost,
    group_name,
    host_names,
    inventory_hosts,
    shared_names,
)
from ansible_collections.nhi.core.tests.unit.plugins.module_utils import hostile
from ansible_collections.nhi.core.tests.unit.plugins.state_samples import document, guest, seconds_ago, service


def only_host(facts: dict[str, Any], services: list[dict[str, Any]] | None = None, **options: Any) -> InventoryHost:
    (host,) = inventory_hosts(document([facts], services), now=utc_now(), **options)
    return host


def test_a_guest_becomes_a_host_with_its_address_and_facts() -> None:
    host = only_host(guest(105, "redis-cache", tags=["svc-redis"], pool="ai-lab"), [service("redis", 105)])

    assert host.name == "redis-cache"
    assert host.variables["ansible_host"] == "10.86.7.105"
    assert host.variables["nhi_vmid"] == 105
    assert host.variables["nhi_addresses"] == ["10.86.7.105"]
    assert host.variables["nhi_services"] == ["redis"]
    assert host.variables["nhi_age_seconds"] == 0
    assert set(host.groups) == {
        "nhi_lxc",
        "nhi_node_pve",
        "nhi_status_running",
        "nhi_pool_ai_lab",
        "nhi_tag_svc_redis",
        "nhi_service_redis",
    }


def test_a_guest_without_an_address_has_no_ansible_host() -> None:
    assert "ansible_host" not in only_host(guest(105, address=None)).variables


def test_a_group_name_keeps_only_what_ansible_accepts() -> None:
    assert group_name("tag", "x.y-z é") == "nhi_tag_x_y_z__"


def test_facts_that_have_grown_old_make_a_host_stale() -> None:
    host = only_host(guest(105, observed_at=seconds_ago(1000)), stale_after=900)

    assert "nhi_stale" in host.groups
    assert host.variables["nhi_freshness"] == "stale"
    assert 1000 <= host.variables["nhi_age_seconds"] < 1060


def test_without_a_limit_only_the_scan_decides_what_is_stale() -> None:
    assert "nhi_stale" not in only_host(guest(105, observed_at=seconds_ago(99_999))).groups
    assert "nhi_stale" in only_host(guest(105, freshness="stale")).groups


def test_a_guest_that_was_never_read_is_unknown_and_has_no_age() -> None:
    host = only_host(guest(105, observed_at=None, freshness="unknown", status="unknown"), stale_after=900)

    assert "nhi_unknown" in host.groups
    assert "nhi_stale" not in host.groups
    assert host.variables["nhi_age_seconds"] is None


def test_templates_are_left_out_unless_asked_for() -> None:
    state = document([guest(100), guest(900, template=True)])

    assert [host.name for host in inventory_hosts(state, now=utc_now())] == ["guest-100"]
    shown = {host.name: host.groups for host in inventory_hosts(state, now=utc_now(), include_templates=True)}
    assert "nhi_templates" in shown["guest-900"]
    assert "nhi_templates" not in shown["guest-100"]


def test_guests_that_share_a_name_are_told_apart_by_their_vmid() -> None:
    guests = [guest(101, "web"), guest(102, "web"), guest(103, "db")]

    assert host_names(guests) == ["web-101", "web-102", "db"]
    assert shared_names(guests) == ["web"]


def test_a_name_made_from_a_vmid_never_takes_the_name_of_another_guest() -> None:
    names = host_names([guest(101, "web"), guest(102, "web"), guest(103, "web-101")])

    assert len(set(names)) == 3
    assert names[2] == "web-101"


def test_names_that_mean_something_to_ansible_and_missing_names_get_the_vmid() -> None:
    guests = [guest(101, "all"), guest(102, "localhost"), guest(103, "ungrouped"), guest(104, "")]

    assert host_names(guests) == ["all-101", "localhost-102", "ungrouped-103", "lxc-104"]


@pytest.mark.parametrize("name", [n for n in hostile.NAMES if n != "x" * 5000])
def test_a_name_that_no_guest_can_have_is_no_name_of_a_host(name: str) -> None:
    """Ansible reads host_vars/NAME.yml for a host, and a pattern such as 127.0.0.1 means the controller."""
    assert host_names([guest(101, name), guest(102, "db")]) == ["lxc-101", "db"]


@pytest.mark.parametrize("name", ["127.0.0.1", "::1", "LocalHost", "ALL"])
def test_no_guest_can_pass_for_the_controller(name: str) -> None:
    assert host_names([guest(101, name)])[0].endswith("-101")
