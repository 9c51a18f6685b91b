# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has which address: guests made here, guests that are gone, and hosts that are nobody's guests."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils import neighbours
from ansible_collections.nhi.core.plugins.module_utils.errors import PreflightError
from ansible_collections.nhi.core.plugins.module_utils.neighbours import Neighbour, is_used, neighbour, still_there
from ansible_collections.nhi.core.plugins.module_utils.reservations import Reservations
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
    monkeypatch.setattr("ansible_collections.nhi.core.plugins.module_utils.guest_site._ARP_SECONDS", 0.0)
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
    with lab.holding("op-x", "web", "10.99.0.150"), pytest.raises(PreflightError, match="being given to web"):
        fixed(lab, "10.99.0.150", template=None)
    assert lab.pve.guests[105]["config"]["net0"].count("10.99.0.105") == 1


def test_a_guest_that_was_made_is_bound_by_its_kind_and_mac(lab: GuestLab) -> None:
    lab.pve.macs = True
    lab.run(REDIS)
    line = Reservations(lab.state_dir).used()[0]
    assert (line.vmid, line.type, line.name, line.macs) == (105, "lxc", "redis", ["bc:24:11:00:00:69"])
    assert line.operation in lab.pve.guests[105]["config"]["description"]
