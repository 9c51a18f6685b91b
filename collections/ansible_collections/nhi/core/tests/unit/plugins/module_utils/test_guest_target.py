# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which guest is meant by a name, and whether anybody should log in there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import PreflightError
from ansible_collections.nhi.core.plugins.module_utils.guest_host_key import HostKey, KnownHosts
from ansible_collections.nhi.core.plugins.module_utils.guest_target import find_target, reachable_address
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import (
    make_document,
    make_guest,
    make_node,
    make_service,
)


def document() -> dict[str, Any]:
    cache, shop = make_guest(105, name="redis-cache"), make_guest(106, name="redis-shop")
    tools, twin = make_guest(107, name="tools"), make_guest(108, name="twin")
    lab = make_document([cache, shop, tools, twin, {**twin, "vmid": 109}])
    lab["infrastructure"]["nodes"] = [make_node("pve")]
    lab["infrastructure"]["services"] = [
        make_service(cache, "redis", purpose="cache"), make_service(shop, "redis", purpose="shop"),
        make_service(tools, "nginx"), make_service(tools, "mosquitto"),
    ]  # fmt: skip
    return lab


@pytest.mark.parametrize(
    ("name", "vmid", "service"),
    [
        ("redis-cache", 105, "redis"),
        ("106", 106, "redis"),
        ("redis@redis-shop", 106, "redis"),
        ("redis@105", 105, "redis"),
        ("redis/shop", 106, "redis"),
        ("nginx", 107, "nginx"),
        ("tools", 107, None),
        ("mosquitto@tools", 107, "mosquitto"),
        ("109", 109, None),
    ],
)
def test_a_guest_is_found_by_its_name_number_or_service(name: str, vmid: int, service: str | None) -> None:
    target = find_target(document(), name)
    assert (target.vmid, target.service) == (vmid, service)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("redis", r"may be any of redis@redis-cache \(VMID 105\), redis@redis-shop \(VMID 106\)"),
        ("twin", r"guest@twin \(VMID 108\), guest@twin \(VMID 109\)"),
        ("pve", "pve is a Proxmox VE node: commands are run on guests only"),
        (
            "rediss",
            r"'rediss': there are the guests redis-cache, .* the services mosquitto, nginx, redis",
        ),
        ("nginx@redis-cache", "no guest and no service called"),
        ("", "no guest and no service called"),
        ("-oProxyCommand=x", "no guest and no service called"),
        ("10.86.0.106", "no guest and no service called"),
    ],
)
def test_what_is_not_there_or_not_clear_is_said_with_what_there_is(name: str, said: str) -> None:
    with pytest.raises(PreflightError, match=said) as caught:
        find_target(document(), name)
    assert "\n" not in str(caught.value)


def test_an_empty_lab_says_so() -> None:
    with pytest.raises(PreflightError, match="scan first"):
        find_target(make_document(), "x")


@pytest.fixture
def hosts(tmp_path: Path) -> KnownHosts:
    hosts = KnownHosts(tmp_path / "known_hosts")
    hosts.replace(["redis-cache", "10.86.0.106"], [HostKey("ssh-ed25519", "AAAA")])
    return hosts


def test_a_guest_that_runs_and_whose_key_is_known_is_logged_in_to(hosts: KnownHosts) -> None:
    assert reachable_address(find_target(document(), "redis-cache"), hosts) == "10.86.0.106"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": "stopped"}, "is stopped: start it with nhi_vm first"),
        ({"freshness": "stale"}, "was last seen at 2026-.*, so nobody knows how it is now: scan"),
        ({"freshness": "unknown", "observed_at": None}, "was never read"),
        ({"template": True}, "is a template"),
        ({"address": None}, "no address that is known"),
        ({"guest": "other"}, "no SSH host key of LXC 105 other at 10.86.0.106 is in"),
        ({"address": "10.86.0.9"}, "no SSH host key of LXC 105 redis-cache at 10.86.0.9 is in"),
    ],
)
def test_others_are_not_and_it_is_said_why(hosts: KnownHosts, change: dict[str, Any], said: str) -> None:
    target = replace(find_target(document(), "redis-cache"), **change)
    with pytest.raises(PreflightError, match=said):
        reachable_address(target, hosts)
