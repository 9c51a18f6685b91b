# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has which address: guests made here, guests that are gone, and hosts that are nobody's guests."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils import guest_address_choice, neighbours
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    GuestChangeError,
    NHIError,
    PreflightError,
    ProxmoxError,
)
from ansible_collections.nhi.core.plugins.module_utils.neighbours import Neighbour, is_used, neighbour, still_there
from ansible_collections.nhi.core.plugins.module_utils.neighbours6 import is_on_link
from ansible_collections.nhi.core.plugins.module_utils.reservations import Choice, Reservations
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.guest_lab import NETWORK, REDIS, GuestLab

HEAD = "IP address       HW type     Flags       HW address            Mask     Device\n"
FOREIGN = "02:00:5e:00:53:01"


def row(address: str, flags: str = "0x2", mac: str = FOREIGN) -> str:
    return f"{address:<16} 0x1         {flags}         {mac}     *        vmbr0\n"


@pytest.fixture
def lab(tmp_path: Path) -> GuestLab:
    return GuestLab(tmp_path)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The kernel's neighbours, on a network where nobody accepts or refuses a connection."""
    path = tmp_path / "arp"
    path.write_text(HEAD)
    monkeypatch.setattr(neighbours, "answers", lambda _address: False)
    monkeypatch.setattr(neighbours, "neighbour", lambda address: neighbour(address, path))
    return path


def address_of(outcome: Any) -> str:
    return str(outcome.vm["address"])


def fixed(lab: GuestLab, address: str, **options: Any) -> Any:
    return lab.run({**REDIS, "network": {"ip": f"{address}/24"}, **options})


# Hosts that nobody made


def test_the_table_of_neighbours_is_read(tmp_path: Path) -> None:
    path = tmp_path / "arp"
    path.write_text(
        HEAD + row("10.99.0.105", "0x0", "00:00:00:00:00:00") + row("10.99.0.106", mac="02:AA:00:00:00:01") + "\n"
    )
    assert neighbour(IPv4Address("10.99.0.105"), path) is None
    assert neighbour(IPv4Address("10.99.0.106"), path) == Neighbour("02:aa:00:00:00:01", "vmbr0")
    assert neighbour(IPv4Address("10.99.0.10"), path) is None
    assert neighbour(IPv4Address("10.99.0.10"), tmp_path / "none") is None


def test_a_host_that_drops_everything_is_skipped(lab: GuestLab, table: Path) -> None:
    table.write_text(HEAD + row("10.99.0.105"))
    assert address_of(lab.run(REDIS)) == "10.99.0.106"


def test_a_host_that_drops_everything_makes_a_fixed_address_refused(
    lab: GuestLab, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_address_choice, "_NEIGHBOUR_SECONDS", 0.0)
    table.write_text(HEAD + row("10.99.0.105"))
    with pytest.raises(PreflightError, match=r"10\.99\.0\.105 is in use on the network, although no guest"):
        fixed(lab, "10.99.0.105")
    assert lab.pve.writes() == []


def test_a_neighbour_that_can_not_be_asked_may_be_there() -> None:
    assert still_there(IPv4Address("10.99.0.105"), Neighbour(FOREIGN, "no-such-device")) is None


@pytest.mark.parametrize("there", [True, False])
def test_a_neighbour_that_can_be_asked_says_whether_it_is_there(
    table: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    table.write_text(HEAD + row("10.99.0.105"))
    monkeypatch.setattr(neighbours, "still_there", lambda _address, _known: there)
    assert is_used(IPv4Address("10.99.0.105")) == there


def test_the_kernel_is_given_time_to_forget_a_host_that_is_gone(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table.write_text(HEAD + row("10.99.0.105"))
    monkeypatch.setattr("time.sleep", lambda _seconds: table.write_text(HEAD) and None)
    assert not is_used(IPv4Address("10.99.0.105"), patience=5.0)


def test_the_kernel_still_knowing_a_destroyed_guest_does_not_take_its_address(lab: GuestLab, table: Path) -> None:
    lab.run(REDIS)
    mac = lab.pve.guests[105]["config"]["net0"] = f"{lab.pve.guests[105]['config']['net0']},hwaddr={FOREIGN.upper()}"
    assert FOREIGN.upper() in mac
    lab.run({"name": "redis", "state": "absent"}, confirm="redis")
    table.write_text(HEAD + row("10.99.0.105"))
    assert address_of(lab.run(REDIS)) == "10.99.0.105"


# Guests that are gone


def destroyed(lab: GuestLab, name: str = "redis", **settings: Any) -> None:
    lab.run({"name": name, "state": "absent"}, confirm=name, **settings)


def test_the_address_of_a_destroyed_guest_rests_for_others_and_not_for_its_own_name(lab: GuestLab) -> None:
    lab.run(REDIS)
    destroyed(lab)
    assert address_of(lab.run({**REDIS, "name": "other"})) == "10.99.0.106"
    assert address_of(lab.run(REDIS)) == "10.99.0.105"


def test_a_guest_gets_its_address_back_although_a_copy_of_it_had_it_too(lab: GuestLab) -> None:
    lab.run(REDIS)
    lab.pve.guests[160] = {**lab.pve.guests[105], "config": {**lab.pve.guests[105]["config"], "hostname": "copy"}}
    lab.pve.guests[160]["running"] = False
    destroyed(lab)
    destroyed(lab, "copy")
    assert address_of(lab.run({**REDIS, "name": "other"})) == "10.99.0.106"
    assert address_of(lab.run(REDIS)) == "10.99.0.105"


def test_check_mode_foretells_the_address_that_a_real_run_gives(lab: GuestLab) -> None:
    lab.run(REDIS)
    destroyed(lab)
    assert address_of(lab.run({**REDIS, "name": "other"}, check_mode=True)) == "10.99.0.106"


def test_without_quarantine_the_address_is_free_at_once(lab: GuestLab) -> None:
    lab.run(REDIS)
    destroyed(lab, quarantine_seconds=0)
    assert address_of(lab.run({**REDIS, "name": "other"})) == "10.99.0.105"


def test_a_resting_address_that_is_wanted_by_number_is_given_with_a_warning(lab: GuestLab) -> None:
    lab.run(REDIS)
    destroyed(lab)
    outcome = fixed(lab, "10.99.0.105", name="other")
    assert address_of(outcome) == "10.99.0.105"
    assert "10.99.0.105 belonged to redis until lately and is in quarantine until 20" in str(outcome.plan.warnings)


def test_a_pool_whose_last_addresses_rest_says_until_when(lab: GuestLab) -> None:
    network = {**NETWORK, "range": "10.99.0.105-10.99.0.106"}
    lab.run({**REDIS, "network": network})
    lab.run({**REDIS, "name": "db", "network": network})
    destroyed(lab)
    with pytest.raises(
        PreflightError, match=r"10\.99\.0\.105 of a destroyed guest is in quarantine until 20.* UTC: wait"
    ):
        lab.run({**REDIS, "name": "other", "network": network})
    destroyed(lab, "db")
    with pytest.raises(PreflightError, match=r"UTC \(1 more later\): wait"):
        lab.run({**REDIS, "name": "other", "network": network})


def test_a_guest_that_somebody_else_destroyed_gives_its_address_to_the_quarantine(lab: GuestLab) -> None:
    lab.run(REDIS)
    del lab.pve.guests[105]
    assert address_of(lab.run({**REDIS, "name": "other"})) == "10.99.0.106"
    assert list(Reservations(lab.state_dir).peek().quarantined) == [IPv4Address("10.99.0.105")]


def test_a_guest_that_this_token_can_not_see_keeps_its_address(lab: GuestLab) -> None:
    lab.run(REDIS)
    lab.pve.hidden.add(105)
    assert address_of(lab.run({**REDIS, "name": "other"})) == "10.99.0.106"
    assert lab.reserved() == ["10.99.0.105", "10.99.0.106"]


def test_another_guest_under_the_same_vmid_does_not_inherit_the_address(lab: GuestLab) -> None:
    lab.run(REDIS)
    lab.pve.add(105, "stranger", net0="name=eth0,bridge=vmbr0,ip=dhcp")
    lab.run({**REDIS, "name": "other"})
    assert list(Reservations(lab.state_dir).peek().quarantined) == [IPv4Address("10.99.0.105")]


def test_a_guest_whose_address_was_changed_by_hand_leaves_the_old_one_to_the_quarantine(lab: GuestLab) -> None:
    lab.run(REDIS)
    config = lab.pve.guests[105]["config"]
    config["net0"] = config["net0"].replace("10.99.0.105", "10.99.0.150")
    assert address_of(lab.run({**REDIS, "name": "other"})) == "10.99.0.106"
    assert list(Reservations(lab.state_dir).peek().quarantined) == [IPv4Address("10.99.0.105")]


def test_a_guest_that_got_another_address_holds_it_and_leaves_the_old_one(lab: GuestLab) -> None:
    lab.run(REDIS)
    fixed(lab, "10.99.0.150", template=None)
    held = Reservations(lab.state_dir).peek()
    assert list(held.addresses) == [IPv4Address("10.99.0.150")]
    assert list(held.quarantined) == [IPv4Address("10.99.0.105")]


def test_an_address_that_another_run_is_giving_away_is_not_given_to_a_guest_that_is_there(lab: GuestLab) -> None:
    lab.run(REDIS)
    lab.run({**REDIS, "name": "db"})
    with lab.holding("op-x", "web", "10.99.0.150"), pytest.raises(PreflightError, match="held for web"):
        fixed(lab, "10.99.0.150", template=None)
    assert lab.pve.guests[105]["config"]["net0"].count("10.99.0.105") == 1


def test_a_guest_that_was_made_is_bound_by_its_kind_and_mac(lab: GuestLab) -> None:
    lab.pve.macs = True
    lab.run(REDIS)
    line = Reservations(lab.state_dir).used()[0]
    assert (line.vmid, line.type, line.name, line.macs) == (105, "lxc", "redis", ["bc:24:11:00:00:69"])
    assert line.operation in lab.pve.guests[105]["config"]["description"]


# IPv6

SIX = "2001:db8::5"


def six(lab: GuestLab, name: str = "redis", address: str = SIX, **options: Any) -> Any:
    return lab.run({**REDIS, "name": name, "network": {"ip": "manual", "ip6": f"{address}/64"}, **options})


def test_a_fixed_ipv6_address_is_held_for_its_guest_and_rests_after_it(lab: GuestLab) -> None:
    lab.pve.macs = True
    six(lab)
    line = Reservations(lab.state_dir).used()[0]
    assert (line.address, line.vmid, line.type, line.macs) == (SIX, 105, "lxc", ["bc:24:11:00:00:69"])
    with pytest.raises(
        PreflightError, match=r"2001:db8::5 belongs to LXC 105 redis on pve: choose another network\.ip6$"
    ):
        six(lab, "other")
    destroyed(lab)
    assert list(Reservations(lab.state_dir).peek().quarantined) == [IPv6Address(SIX)]
    assert "2001:db8::5 belonged to redis until lately" in str(six(lab, "other").plan.warnings)


def test_an_ipv6_address_that_another_run_is_giving_away_is_refused(lab: GuestLab) -> None:
    lab.pve.add(121, "old", net0="name=eth0,bridge=vmbr0,ip=dhcp")
    with lab.holding("op-x", "web", SIX):
        with pytest.raises(PreflightError, match=r"2001:db8::5 is held for web: choose another network\.ip6"):
            six(lab)
        with pytest.raises(PreflightError, match="2001:db8::5 is held for web"):
            lab.run({"name": "old", "network": {"ip6": f"{SIX}/64"}})
    assert lab.pve.writes() == []


def test_two_runs_that_both_found_an_ipv6_address_free_do_not_both_get_it(lab: GuestLab) -> None:
    """The other run reserves it after this one looked, and before it reserves itself."""

    def other() -> None:
        lab.pve.hooks.clear()
        Reservations(lab.state_dir).reserve(
            "op-x", "web", datetime.now(UTC), lambda _held: Choice(150, {}, {0: IPv6Address(SIX)})
        )

    lab.pve.hooks["GET /access/permissions"] = other
    with pytest.raises(PreflightError, match="2001:db8::5 is held for web"):
        six(lab)
    assert lab.pve.writes() == []
    assert lab.reserved() == [SIX]


def test_a_foreign_host_makes_an_ipv6_address_refused(lab: GuestLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_address_choice, "is_used", lambda address, *_, **__: address == IPv6Address(SIX))
    with pytest.raises(PreflightError, match=r"2001:db8::5 is in use on the network, .*choose another network.ip6$"):
        six(lab)
    lab.pve.add(121, "old", net0="name=eth0,bridge=vmbr0,ip=dhcp")
    with pytest.raises(PreflightError, match=r"2001:db8::5 is in use on the network"):
        lab.run({"name": "old", "network": {"ip6": f"{SIX}/64"}})
    assert lab.pve.writes() == []


def test_the_address_that_a_guest_has_leased_may_become_its_own(lab: GuestLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_address_choice, "is_used", lambda *_, **__: True)
    monkeypatch.setattr(guest_address_choice, "neighbour", lambda _address: Neighbour(FOREIGN, "vmbr0"))
    lab.pve.add(121, "old", net0=f"name=eth0,bridge=vmbr0,ip=dhcp,hwaddr={FOREIGN.upper()}")
    fixed(lab, "10.99.0.121", name="old", template=None)
    assert "ip=10.99.0.121/24" in lab.pve.guests[121]["config"]["net0"]


def test_a_guest_that_gives_its_ipv6_address_up_leaves_it_to_the_quarantine(lab: GuestLab) -> None:
    six(lab)
    lab.run({"name": "redis", "network": {"ip": "dhcp", "ip6": "manual"}})
    held = Reservations(lab.state_dir).peek()
    assert (held.addresses, list(held.quarantined)) == ({}, [IPv6Address(SIX)])


def test_a_correction_that_fails_holds_nothing_more_than_before(lab: GuestLab) -> None:
    lab.run(REDIS)

    def fail() -> None:
        raise ProxmoxError("no", status=500)

    lab.pve.hooks["PUT /nodes/pve/lxc/105/config"] = fail
    with pytest.raises(NHIError):
        lab.run({"name": "redis", "network": {"ip6": f"{SIX}/64"}})
    assert lab.reserved() == ["10.99.0.105"]


ROUTES = """\
20010db8000000000000000000000000 40 {z} 00 {z} 00000100 00000001 00000000 00000001 vmbr0
20010db8000000000000000000000001 80 {z} 00 {z} 00000000 00000001 00000000 80000001 vmbr0
20010db8000100000000000000000000 40 {z} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 vmbr0
20010db8000200000000000000000000 40 {z} 00 {z} 00000400 00000001 00000000 00200200 lo
fe800000000000000000000000000000 40 {z} 00 {z} 00000100 00000001 00000000 00000001 vmbr0
{z} 00 {z} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 vmbr0
""".format(z="0" * 32)


@pytest.mark.parametrize(
    ("address", "there"),
    [
        ("2001:db8::5", True), ("2001:db8::1", True), ("2001:db8:1::5", False), ("2001:db8:2::5", False),
        ("2a00::1", False), ("fe80::5", False),
    ],
)  # fmt: skip
def test_only_addresses_of_networks_of_this_host_are_asked_for(tmp_path: Path, address: str, there: bool) -> None:
    path = tmp_path / "routes"
    path.write_text(ROUTES)
    assert is_on_link(IPv6Address(address), path) == there
    assert not is_on_link(IPv6Address(address), tmp_path / "none")


def test_a_host_that_is_slow_to_answer_is_found_before_the_guest_starts(
    lab: GuestLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the guest is made the kernel goes on asking; the run that follows finds the host at once."""
    answered = iter([None, Neighbour("02:00:00:00:00:99", "vmbr0")])
    monkeypatch.setattr(guest_address_choice, "is_used", lambda *_, **__: False)
    monkeypatch.setattr(guest_address_choice, "neighbour", lambda _address: next(answered))
    with pytest.raises(GuestChangeError, match=r"in use on the network by 02:00:00:00:00:99.*run the same again"):
        lab.run(REDIS)
    assert not lab.pve.guests
    assert lab.reserved() == []
    assert not any("start" in path for _method, path, _params in lab.pve.calls)
    monkeypatch.setattr(guest_address_choice, "is_used", lambda address, *_, **__: str(address) == "10.99.0.105")
    monkeypatch.setattr(guest_address_choice, "neighbour", lambda _address: None)
    vm = lab.run(REDIS).vm
    assert vm is not None
    assert vm["address"] != "10.99.0.105"
