# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests with several interfaces, VLANs and IPv6: as they are made, and as they are corrected."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils import guest_address_choice
from ansible_collections.nhi.core.plugins.module_utils.errors import PreflightError
from ansible_collections.nhi.core.plugins.module_utils.guest_config import Drift
from ansible_collections.nhi.core.plugins.module_utils.guest_drift import drift
from ansible_collections.nhi.core.plugins.module_utils.guest_interfaces import interface_facts
from ansible_collections.nhi.core.plugins.module_utils.guest_spec import wanted_from_params
from ansible_collections.nhi.core.plugins.module_utils.reservations import Choice, Reservations
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.guest_lab import GuestLab

MAC0, MAC1 = "BC:24:11:00:00:01", "BC:24:11:00:00:02"
LXC = {
    "net0": f"name=eth0,bridge=vmbr0,hwaddr={MAC0},ip=10.0.0.5/24,gw=10.0.0.1,type=veth",
    "net1": f"name=eth1,bridge=vmbr1,hwaddr={MAC1},ip=dhcp,tag=30,type=veth",
}
QEMU = {
    "net0": f"virtio={MAC0},bridge=vmbr0,queues=4", "ipconfig0": "ip=10.0.0.5/24,gw=10.0.0.1",
    "net1": f"e1000={MAC1},bridge=vmbr1,tag=30", "ipconfig1": "ip=dhcp",
}  # fmt: skip
TWO = [
    {"ip": "10.99.0.5/24", "gateway": "10.99.0.1", "ip6": "fd00:99::5/64", "gateway6": "fe80::1"},
    {"bridge": "vmbr0", "tag": 30, "mtu": 1400, "firewall": True, "mac": "bc-24-11-00-00-0a", "rate": 12.5},
]


@pytest.fixture
def lab(tmp_path: Path) -> GuestLab:
    return GuestLab(tmp_path)


def compare(config: dict[str, Any], kind: str, *networks: dict[str, Any]) -> Drift:
    params = {"name": "x", "state": "present", "vmid_range": "105-199", "networks": list(networks)}
    return drift(wanted_from_params(params), config, kind)


def test_a_container_is_made_with_all_its_interfaces(lab: GuestLab) -> None:
    made = lab.run({"name": "web", "template": "debian-12", "networks": TWO})
    config = lab.pve.guests[105]["config"]
    assert config["net0"] == "name=eth0,bridge=vmbr0,ip=10.99.0.5/24,gw=10.99.0.1,ip6=fd00:99::5/64,gw6=fe80::1"
    assert config["net1"] == (
        "name=eth1,bridge=vmbr0,hwaddr=BC:24:11:00:00:0A,tag=30,mtu=1400,rate=12.5,firewall=1,ip=dhcp"
    )
    assert made.vm is not None
    assert made.vm["networks"][1] | {"tag": 30, "mac": "BC:24:11:00:00:0A", "ip": "dhcp"} == made.vm["networks"][1]
    assert not lab.run({"name": "web", "networks": TWO}).plan.changed


def test_a_machine_is_made_with_all_its_interfaces(lab: GuestLab) -> None:
    lab.run({"name": "web", "type": "qemu", "networks": TWO})
    config = lab.pve.guests[105]["config"]
    assert config["net0"] == "virtio,bridge=vmbr0"
    assert config["ipconfig0"] == "ip=10.99.0.5/24,gw=10.99.0.1,ip6=fd00:99::5/64,gw6=fe80::1"
    assert config["net1"] == "virtio=BC:24:11:00:00:0A,bridge=vmbr0,tag=30,mtu=1400,rate=12.5,firewall=1"
    assert config["ipconfig1"] == "ip=dhcp"
    assert not lab.run({"name": "web", "networks": TWO}).plan.changed


def test_only_what_was_asked_for_changes_and_cards_keep_their_addresses() -> None:
    wish: tuple[dict[str, Any], ...] = ({}, {"tag": 31, "ip6": "auto"})
    assert compare(LXC, "lxc", *wish).set == {
        "net1": f"name=eth1,bridge=vmbr1,hwaddr={MAC1},ip=dhcp,tag=31,type=veth,ip6=auto"
    }
    found = compare(QEMU, "qemu", *wish)
    assert found.set == {"net1": f"e1000={MAC1},bridge=vmbr1,tag=31", "ipconfig1": "ip=dhcp,ip6=auto"}
    assert found.needs_restart == {"networks[1].ip6": "ipconfig1"}
    assert (found.before, found.after) == (
        {"networks[1].tag": 30, "networks[1].ip6": None}, {"networks[1].tag": 31, "networks[1].ip6": "auto"},
    )  # fmt: skip


def test_interfaces_beyond_those_listed_are_left_alone() -> None:
    assert not compare(LXC, "lxc", {"bridge": "vmbr0"}).set
    assert not compare(QEMU, "qemu", {"ip": "10.0.0.5/24"}).set


def test_an_interface_that_is_missing_is_added() -> None:
    one = {"net0": LXC["net0"]}
    assert compare(one, "lxc", {}, {"bridge": "vmbr2"}).set == {"net1": "name=eth1,bridge=vmbr2,ip=dhcp"}
    named = {"net0": "name=eth1,bridge=vmbr0"}
    assert compare(named, "lxc", {}, {"ip": "manual"}).set == {"net1": "name=eth0,bridge=vmbr0"}
    assert compare({"net0": QEMU["net0"]}, "qemu", {}, {"ip": "manual"}).set == {"net1": "virtio,bridge=vmbr0"}
    assert not compare({}, "lxc", {}).set, "nothing was said about the first one"


def test_what_can_be_taken_away_is(lab: GuestLab) -> None:
    wish = ({"ip": "manual", "ip6": "auto"}, {"tag": 0, "firewall": False})
    assert compare(LXC, "lxc", *wish).set == {
        "net0": f"name=eth0,bridge=vmbr0,hwaddr={MAC0},type=veth,ip6=auto",
        "net1": f"name=eth1,bridge=vmbr1,hwaddr={MAC1},ip=dhcp,type=veth",
    }
    found = compare(QEMU, "qemu", {"ip": "manual"})
    assert (found.set, found.delete) == ({}, ["ipconfig0"])
    assert not compare({**LXC, "net0": "name=eth0,bridge=vmbr0,ip=manual"}, "lxc", {"ip": "manual"}).set


def test_two_spellings_of_one_address_do_not_differ() -> None:
    config = {"net0": "name=eth0,bridge=vmbr0,ip6=fd00:0:0::0005/64,firewall=0,mtu=1500"}
    assert not compare(config, "lxc", {"ip6": "FD00::5/64", "firewall": False, "mtu": 1500, "tag": 0}).set


def test_facts_of_interfaces_are_the_same_for_both_kinds() -> None:
    facts = interface_facts(LXC, "lxc")
    assert facts[0] == {
        "index": 0, "bridge": "vmbr0", "mac": MAC0, "tag": None, "mtu": None, "rate": None, "firewall": False,
        "ip": "10.0.0.5/24", "gateway": "10.0.0.1", "ip6": None, "gateway6": None,
    }  # fmt: skip
    assert interface_facts(QEMU, "qemu") == facts


def test_a_guest_with_ipv6_only_has_that_address(lab: GuestLab) -> None:
    six = {"ip": "manual", "ip6": "fd00:99::5/64"}
    foretold = lab.run({"name": "web", "template": "debian-12", "network": six}, check_mode=True).vm
    made = lab.run({"name": "web", "state": "started", "template": "debian-12", "network": six}).vm
    assert foretold is not None
    assert made is not None
    assert (foretold["address"], made["address"]) == ("fd00:99::5", "fd00:99::5")


def test_a_vlan_needs_a_privilege_of_its_own(lab: GuestLab) -> None:
    lab.pve.lacking = {("SDN.Use", "/sdn/zones/localnetwork/vmbr0/30")}
    with pytest.raises(PreflightError, match=r"SDN.Use on /sdn/zones/localnetwork/vmbr0/30"):
        lab.run({"name": "web", "template": "debian-12", "networks": TWO})
    lab.pve.add(110, "old", net0="name=eth0,bridge=vmbr0,ip=dhcp")
    with pytest.raises(PreflightError, match=r"SDN.Use on /sdn/zones/localnetwork/vmbr0/30"):
        lab.run({"name": "old", "network": {"tag": 30}})
    lab.run({"name": "old", "network": {"mtu": 1400}})
    assert lab.pve.writes() == [("PUT", "/nodes/pve/lxc/110/config")]


def test_no_interface_takes_the_address_of_another_guest(lab: GuestLab) -> None:
    lab.pve.add(120, "web", net1="name=eth1,bridge=vmbr0,ip=10.99.1.9/24")
    taken = [{"ip": "dhcp"}, {"ip": "10.99.1.9/24"}]
    with pytest.raises(PreflightError, match=r"belongs to LXC 120 web.*choose another networks\[1\].ip"):
        lab.run({"name": "new", "template": "debian-12", "networks": taken})
    lab.pve.add(121, "old", net0="name=eth0,bridge=vmbr0,ip=dhcp")
    with pytest.raises(PreflightError, match=r"belongs to LXC 120 web.*choose another networks\[1\].ip"):
        lab.run({"name": "old", "networks": taken})
    assert lab.pve.writes() == []


def test_no_interface_takes_the_ipv6_address_of_another_guest(lab: GuestLab) -> None:
    lab.pve.add(120, "web", "qemu", net1="virtio,bridge=vmbr0", ipconfig1="ip6=2001:DB8:0::9/64")
    taken = [{}, {"ip6": "2001:db8::9/64"}]
    with pytest.raises(PreflightError, match=r"2001:db8::9 belongs to VM 120 web on pve: .*networks\[1\].ip6"):
        lab.run({"name": "new", "template": "debian-12", "networks": taken})
    lab.pve.add(121, "old", net0="name=eth0,bridge=vmbr0,ip=dhcp")
    with pytest.raises(PreflightError, match=r"2001:db8::9 belongs to VM 120 web on pve"):
        lab.run({"name": "old", "networks": taken})
    assert lab.pve.writes() == []
    lab.run({"name": "old", "networks": [{}, {"ip6": "2001:db8::10/64"}]})
    assert not lab.run({"name": "old", "networks": [{}, {"ip6": "2001:db8::10/64"}]}).plan.changed


@pytest.mark.parametrize("option", ["network", "networks"])
def test_a_corrected_address_is_held_in_the_ledger_whichever_option_said_it(lab: GuestLab, option: str) -> None:
    lab.pve.add(121, "old", net0="name=eth0,bridge=vmbr0,ip=10.99.0.21/24")
    wish = {"ip": "10.99.0.22/24"}
    lab.run({"name": "old", option: wish if option == "network" else [wish]})
    assert lab.reserved() == ["10.99.0.22"]


def test_every_bridge_is_looked_for(lab: GuestLab) -> None:
    with pytest.raises(PreflightError, match="bridge vmbr7 does not exist"):
        lab.run({"name": "new", "template": "debian-12", "networks": [{}, {"bridge": "vmbr7"}]})


# An address chosen for each

FRONT = {"range": "10.99.0.105-10.99.0.199", "prefix": 24, "gateway": "10.99.0.1"}
BACK = {"bridge": "vmbr0", "tag": 30, "range": "10.98.0.105-10.98.0.199", "prefix": 24}


def ips(lab: GuestLab, vmid: int, kind: str = "lxc") -> list[str | None]:
    return [net["ip"] for net in interface_facts(lab.pve.guests[vmid]["config"], kind)]


@pytest.mark.parametrize("kind", ["lxc", "qemu"])
def test_each_interface_has_an_address_chosen_of_its_own_range(lab: GuestLab, kind: str) -> None:
    wish = {"name": "web", "type": kind, "template": "debian-12" if kind == "lxc" else None, "networks": [FRONT, BACK]}
    shown = lab.run(wish, check_mode=True).vm
    assert lab.pve.writes() == []
    made = lab.run(wish).vm
    assert ips(lab, 105, kind) == ["10.99.0.105/24", "10.98.0.105/24"]
    assert shown is not None
    assert made is not None
    assert [n["ip"] for n in shown["networks"]] == [n["ip"] for n in made["networks"]] == ips(lab, 105, kind)
    assert made["networks"][0]["gateway"] == "10.99.0.1"
    assert lab.reserved() == ["10.98.0.105", "10.99.0.105"]
    assert not lab.run(wish).plan.changed
    lab.run({"name": "web", "state": "absent"}, confirm="web")
    assert len(Reservations(lab.state_dir).peek().quarantined) == 2
    lab.run({**wish, "name": "other"})
    assert ips(lab, 105, kind) == ["10.99.0.106/24", "10.98.0.106/24"]


def test_interfaces_of_one_range_have_different_addresses_and_none_that_was_asked_for_by_number(lab: GuestLab) -> None:
    fixed = {"ip": "10.99.0.105/24"}
    lab.run({"name": "web", "template": "debian-12", "networks": [FRONT, fixed, {**FRONT, "gateway": None}]})
    assert ips(lab, 105) == ["10.99.0.106/24", "10.99.0.105/24", "10.99.0.107/24"]


def test_two_interfaces_do_not_get_the_same_address_by_number(lab: GuestLab) -> None:
    fixed = {"ip": "10.99.0.105/24"}
    with pytest.raises(PreflightError, match=r"10\.99\.0\.105 would be the address of two interfaces: .*\[1\]\.ip"):
        lab.run({"name": "web", "template": "debian-12", "networks": [fixed, fixed]})


def test_a_range_that_is_full_and_an_address_that_is_taken_are_told_together(lab: GuestLab) -> None:
    lab.pve.add(120, "old", net0="name=eth0,bridge=vmbr0,ip=10.98.0.105/24")
    networks = [{"ip": "10.98.0.105/24"}, {**BACK, "range": "10.98.0.105-10.98.0.105"}]
    with pytest.raises(PreflightError, match=r"belongs to LXC 120 old.*no address is free in 10\.98\.0\.105"):
        lab.run({"name": "web", "template": "debian-12", "networks": networks})
    assert lab.pve.writes() == []


def test_an_interface_that_is_added_gets_an_address_chosen_which_is_held(lab: GuestLab) -> None:
    lab.pve.macs = True
    lab.run({"name": "web", "template": "debian-12", "network": FRONT})
    wish = {"name": "web", "networks": [FRONT, BACK]}
    shown = lab.run(wish, check_mode=True).plan.after
    assert "ip=10.98.0.105/24" in shown["networks[1]"]
    lab.run(wish)
    assert ips(lab, 105) == ["10.99.0.105/24", "10.98.0.105/24"]
    assert lab.reserved() == ["10.98.0.105", "10.99.0.105"], "that of the first is held as before"
    assert Reservations(lab.state_dir).peek().quarantined == {}
    assert not lab.run(wish).plan.changed


def test_an_added_interface_gets_no_address_that_the_guest_has_already(lab: GuestLab) -> None:
    lab.run({"name": "web", "template": "debian-12", "network": FRONT})
    lab.run({"name": "web", "networks": [FRONT, {**FRONT, "gateway": None}]})
    assert ips(lab, 105) == ["10.99.0.105/24", "10.99.0.106/24"]
    with pytest.raises(PreflightError, match=r"10\.99\.0\.106 would be the address of two interfaces"):
        lab.run({"name": "web", "networks": [FRONT, {}, {"ip": "10.99.0.106/24"}]})
    swapped = [{"ip": "10.99.0.106/24"}, {"ip": "10.99.0.105/24"}]
    lab.run({"name": "web", "networks": swapped})
    assert ips(lab, 105) == ["10.99.0.106/24", "10.99.0.105/24"]
    assert lab.reserved() == ["10.99.0.105", "10.99.0.106"]


@pytest.mark.parametrize("has", ["ip=dhcp", "ip=10.97.0.5/24"])
def test_an_interface_that_has_an_address_keeps_it(lab: GuestLab, has: str) -> None:
    lab.pve.add(121, "old", net0=f"name=eth0,bridge=vmbr0,{has}")
    assert not lab.run({"name": "old", "network": {**FRONT, "gateway": None}}).plan.changed


def test_an_interface_without_an_address_gets_one(lab: GuestLab) -> None:
    lab.pve.add(121, "old", net0="name=eth0,bridge=vmbr0,ip=manual")
    lab.pve.add(122, "vm", "qemu", net0="virtio,bridge=vmbr0")
    lab.pve.add(123, "cloud", "qemu", net0="virtio,bridge=vmbr0", ide2="local-lvm:vm-123-cloudinit,media=cdrom")
    for name in ("old", "vm", "cloud"):
        lab.run({"name": name, "network": FRONT})
    assert ips(lab, 121) == ["10.99.0.121/24"]
    assert ips(lab, 122, "qemu") == [None], "nobody would tell the machine"
    assert ips(lab, 123, "qemu") == ["10.99.0.123/24"]


def test_a_choice_that_another_run_takes_first_is_made_again_before_anything_is_changed(lab: GuestLab) -> None:
    lab.run({"name": "web", "template": "debian-12", "network": FRONT})

    def other() -> None:
        lab.pve.hooks.clear()
        taken = Choice(150, {0: IPv4Address("10.98.0.105")})
        Reservations(lab.state_dir).reserve("op-x", "rival", datetime.now(UTC), lambda _held: taken)

    lab.pve.hooks["GET /access/permissions"] = other
    done = lab.run({"name": "web", "networks": [FRONT, BACK]})
    assert "ip=10.98.0.106/24" in done.plan.after["networks[1]"]
    assert ips(lab, 105) == ["10.99.0.105/24", "10.98.0.106/24"]
    assert lab.reserved() == ["10.98.0.105", "10.98.0.106", "10.99.0.105"]


def test_a_host_that_answers_is_skipped_on_each_interface(lab: GuestLab, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = {"10.99.0.105", "10.98.0.105", "10.98.0.106"}
    monkeypatch.setattr(guest_address_choice, "is_used", lambda address, *_, **__: str(address) in foreign)
    lab.run({"name": "web", "template": "debian-12", "networks": [FRONT, BACK]})
    assert ips(lab, 105) == ["10.99.0.106/24", "10.98.0.107/24"]


@pytest.mark.parametrize(
    ("networks", "words"),
    [
        ([], "0 interfaces"), ([{}] * 33, "33 interfaces"), ([{}, {"ip": "auto"}], r"networks\[1\].range does not say"),
        ([{}, {"nameserver": "10.0.0.1"}], "one list of DNS"), ([{"tag": 4095}], "tag 4095 is out of range"),
        ([{"mtu": 60}], "mtu 60 is out"), ([{"mac": "BC:24:11:00:00"}], "not a MAC"), ([{"rate": 0}], "rate 0 is out"),
        ([{"mac": "01:24:11:00:00:01"}], "group address"), ([{"mac": MAC0}, {"mac": MAC0.lower()}], "same mac"),
        ([{"ip6": "fd00::5"}], "no prefix length"), ([{"ip6": "10.0.0.5/24"}], "not an IPv6 address"),
        ([{"ip6": "auto", "gateway6": "fd00::1"}], "needs a fixed address"),
        ([{"ip6": "fd00::5/64", "gateway6": "fd01::1"}], "is not in fd00::/64"),
        ([{"ip6": "fd00::5/64", "gateway6": "fd00::5"}], "gateway's own"),
        ([{"ip": "10.0.0.5/24", "gateway": "10.0.0.1"}, {"ip": "10.0.1.5/24", "gateway": "10.0.1.1"}], "one default"),
        ([{"ip": "10.0.0.5"}], r"no prefix length"), ([{"prefix": 40}], r"networks\[0\].prefix 40"),
    ],
)  # fmt: skip
def test_what_can_not_be_meant_is_refused_before_the_api_is_asked(
    lab: GuestLab, networks: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(PreflightError, match=words):
        lab.run({"name": "web", "template": "debian-12", "networks": networks})
    assert lab.pve.calls == []
