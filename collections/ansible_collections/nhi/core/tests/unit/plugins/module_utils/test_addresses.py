# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses of guests: where they come from, and which one is the guest's own."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.addresses import (
    agent_addresses,
    config_addresses,
    guest_nics,
    has_agent,
    interface_addresses,
    merge_addresses,
    needs_live_addresses,
    parse_properties,
    primary_address,
)

MAC = "BC:24:11:00:00:01"


def texts(records: list[dict[str, Any]]) -> list[str]:
    return [f"{record['address']}/{record['prefix']} on {record['interface']}" for record in records]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("name=eth0,bridge=vmbr0", {"name": "eth0", "bridge": "vmbr0"}),
        ("1,fstrim_cloned_disks=1", {"enabled": "1", "fstrim_cloned_disks": "1"}),
        ("", {}),
        (" a=1 , b=2=3", {"a": "1", "b": "2=3"}),
    ],
)
def test_property_strings(text: str, found: dict[str, str]) -> None:
    assert parse_properties(text, "enabled") == found


def test_static_addresses_of_a_container() -> None:
    config = {
        "net1": "name=eth1,bridge=vmbr1,ip=192.0.2.9/28,ip6=2001:db8::9/64",
        "net0": f"name=eth0,bridge=vmbr0,hwaddr={MAC},ip=198.51.100.7/24,gw=198.51.100.1",
        "nameserver": "198.51.100.1",
    }
    nics = guest_nics("lxc", config)
    assert [nic.interface for nic in nics] == ["eth0", "eth1"]
    found = config_addresses(nics)
    assert texts(found) == ["198.51.100.7/24 on eth0", "192.0.2.9/28 on eth1", "2001:db8::9/64 on eth1"]
    assert {record["source"] for record in found} == {"config"}
    assert found[0]["mac"] == MAC
    assert not needs_live_addresses(nics)


@pytest.mark.parametrize("ip", ["ip=dhcp", "ip=manual", "ip=dhcp,ip6=2001:db8::9/64", "ip6=auto", "", "ip=nonsense"])
def test_what_only_the_running_container_knows(ip: str) -> None:
    assert needs_live_addresses(guest_nics("lxc", {"net0": f"name=eth0,bridge=vmbr0,{ip}"}))


def test_a_virtual_machine_has_its_mac_in_its_model_and_its_address_from_cloud_init() -> None:
    config = {"net0": f"virtio={MAC},bridge=vmbr0,firewall=1", "ipconfig0": "ip=198.51.100.7/24,gw=198.51.100.1"}
    nics = guest_nics("qemu", config)
    assert (nics[0].mac, nics[0].bridge) == (MAC, "vmbr0")
    assert texts(config_addresses(nics)) == ["198.51.100.7/24 on net0"]


def test_a_virtual_machine_without_cloud_init_has_to_be_asked() -> None:
    assert needs_live_addresses(guest_nics("qemu", {"net0": f"e1000={MAC},bridge=vmbr0"}))


def test_a_guest_without_a_network_has_nothing_to_ask_for() -> None:
    assert not needs_live_addresses(guest_nics("lxc", {"hostname": "island"}))


@pytest.mark.parametrize(
    ("agent", "there"),
    [("1", True), (1, True), ("enabled=1,type=virtio", True), ("0", False), ("enabled=0", False), (None, False)],
)
def test_the_agent_of_a_configuration(agent: Any, there: bool) -> None:
    assert has_agent({} if agent is None else {"agent": agent}) is there


def test_interfaces_of_a_container_without_what_nobody_outside_can_reach() -> None:
    items = [
        {"name": "lo", "hwaddr": "00:00:00:00:00:00", "inet": "127.0.0.1/8", "inet6": "::1/128"},
        {"name": "eth0", "hwaddr": MAC.lower(), "inet": "198.51.100.7/24", "inet6": "fe80::be24:11ff:fe00:1/64"},
        {"name": "docker0", "hwaddr": "02:42:00:00:00:01", "inet": "172.17.0.1/16"},
        {"name": "veth12@if3", "hwaddr": "02:42:00:00:00:02", "inet": "169.254.3.4/16"},
    ]
    found = interface_addresses(items)
    assert texts(found) == ["198.51.100.7/24 on eth0"]
    assert (found[0]["mac"], found[0]["source"]) == (MAC, "interfaces")


def test_the_list_of_addresses_of_newer_releases_is_preferred_to_the_single_ones() -> None:
    listed = [
        {"ip-address": "198.51.100.7", "ip-address-type": "inet", "prefix": "24"},
        {"ip-address": "198.51.100.8", "ip-address-type": "inet", "prefix": 24},
    ]
    items = [{"name": "eth0", "hardware-address": MAC, "inet": "198.51.100.7/24", "ip-addresses": listed}]
    assert texts(interface_addresses(items)) == ["198.51.100.7/24 on eth0", "198.51.100.8/24 on eth0"]


def test_a_stopped_container_has_no_interfaces() -> None:
    assert interface_addresses(None) == []


def test_the_answer_of_an_agent() -> None:
    addresses = [
        {"ip-address": "198.51.100.7", "ip-address-type": "ipv4", "prefix": 24},
        {"ip-address": "fe80::1%eth0", "ip-address-type": "ipv6", "prefix": 64},
        {"ip-address": "2001:db8::7", "ip-address-type": "ipv6", "prefix": 64},
    ]
    result = [{"name": "ens18", "hardware-address": MAC.lower(), "ip-addresses": addresses}, {"name": "ens19"}]
    found = agent_addresses({"result": result})
    assert texts(found) == ["198.51.100.7/24 on ens18", "2001:db8::7/64 on ens18"]
    assert {(record["family"], record["source"]) for record in found} == {("ipv4", "agent"), ("ipv6", "agent")}


@pytest.mark.parametrize("answer", [None, {}, {"result": {"error": {"class": "CommandDisabled"}}}, {"result": []}])
def test_an_agent_that_says_nothing_useful(answer: Any) -> None:
    assert agent_addresses(answer) == []


def test_the_first_configured_interface_is_the_guests_own_whatever_else_it_has() -> None:
    nics = guest_nics("qemu", {"net0": f"virtio={MAC},bridge=vmbr0", "net1": "virtio=BC:24:11:00:00:02,bridge=vmbr1"})
    answer = [
        {"name": "a-vpn", "hardware-address": "", "ip-addresses": [{"ip-address": "10.9.0.1", "prefix": 24}]},
        {
            "name": "b",
            "hardware-address": "bc:24:11:00:00:02",
            "ip-addresses": [{"ip-address": "10.2.0.1", "prefix": 8}],
        },
        {"name": "c", "hardware-address": MAC, "ip-addresses": [{"ip-address": "10.1.0.9", "prefix": 8}]},
    ]
    assert primary_address(agent_addresses({"result": answer}), nics) == "10.1.0.9"


def test_ipv4_is_preferred_and_ipv6_is_better_than_nothing() -> None:
    nics = guest_nics("lxc", {"net0": "name=eth0,ip6=2001:db8::7/64", "net1": "name=eth1,ip=198.51.100.7/24"})
    assert primary_address(config_addresses(nics), nics) == "198.51.100.7"
    assert primary_address(config_addresses(nics[:1]), nics) == "2001:db8::7"
    assert primary_address([], nics) is None


def test_an_address_from_two_sources_is_one_record_of_the_first() -> None:
    static = config_addresses(guest_nics("lxc", {"net0": "name=eth0,ip=198.51.100.7/24"}))
    live = interface_addresses([{"name": "eth0", "hwaddr": MAC, "inet": "198.51.100.7/24"}])
    merged = merge_addresses(static, live)
    assert [record["source"] for record in merged] == ["config"]


def test_the_order_of_addresses_does_not_depend_on_the_order_of_answers() -> None:
    items = [
        {"name": "eth1", "hwaddr": MAC, "inet": "10.0.0.10/24"},
        {"name": "eth0", "hwaddr": MAC, "inet": "10.0.0.9/24", "inet6": "2001:db8::1/64"},
    ]
    assert merge_addresses(interface_addresses(items)) == merge_addresses(interface_addresses(items[::-1]))
