# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest in the place of another: when, with which plan, and what becomes of both when it fails on the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils import guest_undo
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    AlreadyExistsError,
    GuestChangeError,
    PreflightError,
    ProxmoxError,
)
from ansible_collections.nhi.core.plugins.module_utils.guest import Found
from ansible_collections.nhi.core.plugins.module_utils.guest_record import GuestRecord
from ansible_collections.nhi.core.plugins.module_utils.guest_recovery import settle
from ansible_collections.nhi.core.plugins.module_utils.guest_replace_plan import (
    aside_change,
    check_replace,
    misfits,
    successor,
)
from ansible_collections.nhi.core.plugins.module_utils.guest_spec import (
    Wanted,
    aside_name,
    guest_name,
    origin_of,
    split_marker,
    wanted_from_params,
    with_marker,
)
from ansible_collections.nhi.core.plugins.module_utils.journal import Journal
from ansible_collections.nhi.core.plugins.module_utils.reservations import Reservations
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.guest_lab import NETWORK, REDIS, GuestLab

NET = "name=eth0,bridge=vmbr1,ip=10.99.0.105/24,gw=10.99.0.1,hwaddr=BC:24:11:00:00:05,tag=30"
MADE = "Cache.\n\nnhi: op-1 from local:vztmpl/debian-12-standard_12.2-1_amd64.tar.zst"
SMALLER: dict[str, Any] = {**REDIS, "disk": 2}


@pytest.fixture
def lab(tmp_path: Path) -> GuestLab:
    """A node with a running container of 4 GiB that starts with its node."""
    found = GuestLab(tmp_path)
    found.pve.macs = True
    found.pve.add(105, "redis", running=True, net0=NET.replace("vmbr1", "vmbr0"), onboot=1, description=MADE)
    return found


def container(**config: Any) -> Found:
    base = {"hostname": "redis", "rootfs": "local-lvm:vm-105-disk-0,size=4G", "unprivileged": 1, "digest": "d"}
    return Found(105, "lxc", "pve", "redis", running=True, config={**base, **config})


def wanted(**options: Any) -> Wanted:
    return wanted_from_params({"name": "redis", "state": "present", "vmid_range": "105-199", **options})


@pytest.mark.parametrize(
    ("options", "statement"),
    [
        ({"type": "qemu"}, "LXC 105 redis on pve is of type lxc, not qemu, and stays so"),
        ({"node": "pve2"}, "LXC 105 redis on pve is not on node pve2"),
        ({"disk": 2}, "the disk rootfs of redis has 4 GiB and can not shrink to 2 GiB"),
        ({"unprivileged": False}, "redis is unprivileged, which can not be changed"),
        ({"vmid": 130}, "LXC 105 redis on pve does not have VMID 130"),
        ({"storage": "fast"}, "the disk rootfs of LXC 105 redis on pve lies on local-lvm, not on fast"),
        (
            {"template": "debian-13"},
            "LXC 105 redis on pve was made from local:vztmpl/debian-12-standard_12.2-1_amd64.tar.zst, not",
        ),
        ({"clone": "other"}, "not from other"),
        (
            {"mount_volumes": [{"id": "mp0", "mountpoint": "/srv", "size": 1}]},
            "mp0 of redis has 8 GiB and can not shrink",
        ),
    ],
)
def test_what_only_another_guest_can_be_is_a_misfit(options: dict[str, Any], statement: str) -> None:
    found = misfits(wanted(**options), container(description=MADE, mp0="local-lvm:x,mp=/srv,size=8G"), [])
    assert len(found.all) == 1
    assert statement in found.all[0]


@pytest.mark.parametrize(
    "options",
    [
        {"disk": 4, "memory": 4096, "cores": 8, "tags": ["new"], "onboot": True},
        {"disk": 8},
        {"template": "debian-12", "storage": "local-lvm", "node": "pve", "type": "lxc", "vmid": 105},
        {"template": "debian-12-standard_12.2-1_amd64.tar.zst"},
    ],
)
def test_what_fits_or_can_be_changed_in_place_is_no_misfit(options: dict[str, Any]) -> None:
    assert misfits(wanted(**options), container(description=MADE), []).all == ()


def test_a_guest_of_which_nobody_knows_what_it_was_made_from_is_not_replaced_for_its_template() -> None:
    for description in ("By hand.", "nhi: op-1"):
        assert misfits(wanted(template="debian-13"), container(description=description), []).all == ()


@pytest.mark.parametrize("wish", ["900", "debian-cloud"])
def test_a_clone_fits_by_the_name_and_by_the_vmid_of_its_source(wish: str) -> None:
    found = container(description="nhi: op-1 from guest 900 debian-cloud")
    assert misfits(wanted(clone=wish), found, []).all == ()
    assert misfits(wanted(clone="901"), found, []).all != ()
    assert misfits(wanted(template="debian-12"), found, []).all != ()


def test_the_vmid_of_another_guest_is_no_reason_to_replace_anything() -> None:
    assert misfits(wanted(vmid=130), container(), [{"vmid": 130}]).all == ()


def test_replace_has_to_be_the_name_of_the_guest() -> None:
    check_replace(wanted(), "redis")
    check_replace(wanted(state="absent"), None)
    with pytest.raises(PreflightError, match="replace is other, but the guest is redis"):
        check_replace(wanted(), "other")
    with pytest.raises(PreflightError, match="state stopped makes none"):
        check_replace(wanted(state="stopped"), "redis")


def test_what_was_not_said_of_the_network_stays_and_a_running_guest_is_followed_by_a_running_one() -> None:
    new = successor(wanted(), container(net0=NET))
    assert (new.network.ip, new.network.gateway) == (IPv4Interface("10.99.0.105/24"), "10.99.0.1")
    assert (new.network.bridge, new.network.tag, new.state, new.type) == ("vmbr1", 30, "started", "lxc")
    other = successor(wanted(network={"bridge": "vmbr2"}), container(net0=NET))
    assert (other.network.bridge, other.network.ip, other.network.tag) == ("vmbr2", None, None)
    assert successor(wanted(network={"ip": "dhcp"}), container(net0=NET)).network.ip == "dhcp"
    assert new.node == "pve"
    clone = successor(wanted(clone="other"), container())
    assert (clone.type, clone.node) == (None, None), "a clone is of its source's kind, and where that can be cloned"


def test_a_guest_set_aside_has_a_name_that_no_other_has_and_starts_no_more_with_its_node() -> None:
    change = aside_change(container(onboot=1))
    assert change == {"hostname": "redis-replaced-105", "delete": "onboot", "digest": "d"}
    assert aside_change(container())["delete"] is None
    long = aside_name("a" * 63 + ".example.org", 123456789)
    assert guest_name(long) == long
    assert long.endswith("-replaced-123456789.example.org")


def test_the_mark_says_from_what_a_guest_was_made_and_a_new_description_keeps_it() -> None:
    text = with_marker("Cache.", "op-1", "guest 900 debian-cloud")
    assert split_marker(text) == ("Cache.", "op-1")
    assert (origin_of(text), origin_of("nhi: op-1"), origin_of("Cache from Bob.")) == (
        "guest 900 debian-cloud",
        None,
        None,
    )


def test_a_corrected_description_still_says_from_what_the_guest_was_made(lab: GuestLab) -> None:
    lab.run({"name": "redis", "description": "New."})
    assert lab.pve.guests[105]["config"]["description"] == MADE.replace("Cache.", "New.")


def test_it_is_replaced_only_where_that_was_asked_and_needed(lab: GuestLab) -> None:
    with pytest.raises(PreflightError, match=r"can not shrink to 2 GiB.*replace: redis"):
        lab.run(SMALLER)
    assert lab.run({**SMALLER, "disk": 4}, replace="redis").replaced is None
    outcome = lab.run(SMALLER, replace="redis")
    assert outcome.replaced == {"vmid": 105, "name": "redis", "type": "lxc", "node": "pve", "destroyed": True}
    assert list(lab.pve.guests) == [106]
    assert lab.pve.guests[106]["config"]["description"].endswith("from " + lab.pve.templates[0])
    assert lab.run(SMALLER, replace="redis").plan.changed is False


def test_a_check_run_plans_it_and_writes_nothing(lab: GuestLab) -> None:
    outcome = lab.run(SMALLER, replace="redis", check_mode=True)
    assert [a.kind for a in outcome.plan.actions] == ["stop", "configure", "create", "start", "destroy"]
    assert lab.pve.writes() == []
    assert not lab.state_dir.exists()
    assert outcome.replaced is not None
    assert outcome.replaced["destroyed"] is False


def test_privileges_of_both_guests_are_named_in_one_refusal(lab: GuestLab) -> None:
    lab.pve.lacking = {("VM.Allocate", "/vms/105"), ("VM.Allocate", "/vms/106"), ("VM.Config.Network", "/vms/105")}
    with pytest.raises(PreflightError) as refused:
        lab.run(SMALLER, replace="redis")
    for need in ("VM.Config.Network on /vms/105", "VM.Allocate on /vms/105", "VM.Allocate on /vms/106"):
        assert need in str(refused.value)
    assert lab.pve.writes() == []


def test_neither_a_template_nor_the_source_of_the_new_guest_is_replaced(lab: GuestLab) -> None:
    lab.pve.guests[105].update(running=False)
    with pytest.raises(PreflightError, match="can not be replaced by a clone of itself"):
        lab.run({"name": "redis", "clone": "redis", "storage": "local"}, replace="redis")
    lab.pve.guests[105]["config"]["template"] = 1
    with pytest.raises(PreflightError, match="is a template, which others may be clones of"):
        lab.run({**SMALLER, "state": "present"}, replace="redis")
    assert lab.pve.writes() == []


def as_before(lab: GuestLab) -> None:
    guest = lab.pve.guests[105]
    assert list(lab.pve.guests) == [105]
    assert (guest["config"]["hostname"], guest["config"]["onboot"], guest["running"]) == ("redis", 1, True)


def no_answer() -> None:
    raise ProxmoxError("it broke", status=500)


STEPS = (
    "POST /nodes/pve/lxc/105/status/shutdown", "PUT /nodes/pve/lxc/105/config", "POST /nodes/pve/lxc",
    "POST /nodes/pve/lxc/106/status/start", "GET /nodes/pve/lxc/106/interfaces",
)  # fmt: skip


@pytest.mark.parametrize("how", [no_answer, lambda: os.kill(os.getpid(), signal.SIGINT)], ids=["fault", "ctrl-c"])
@pytest.mark.parametrize("step", STEPS)
def test_a_failure_or_an_interrupt_before_the_new_guest_is_complete_leaves_the_old_one(
    lab: GuestLab, step: str, how: Callable[[], None]
) -> None:
    def strike() -> None:
        del lab.pve.hooks[step]  # undoing may ask the same
        how()

    lab.pve.hooks[step] = strike
    if step.endswith("interfaces") and how is no_answer:
        lab.pve.reports_address = False  # a guest that can not say its address is waited for
        del lab.pve.hooks[step]
    with pytest.raises((GuestChangeError, ProxmoxError)):
        lab.run(SMALLER, replace="redis")
    as_before(lab)
    assert lab.reserved() == []
    assert not list((lab.state_dir / "journal").iterdir())


def test_an_interrupt_after_the_commit_is_too_late_to_stop_it(lab: GuestLab) -> None:
    lab.pve.hooks["DELETE /nodes/pve/lxc/105"] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    outcome = lab.run(SMALLER, replace="redis")
    assert outcome.replaced is not None
    assert outcome.replaced["destroyed"] is True
    assert list(lab.pve.guests) == [106]


def test_a_vmid_that_was_taken_meanwhile_does_not_bring_the_old_guest_back(lab: GuestLab) -> None:
    def taken() -> None:
        del lab.pve.hooks["POST /nodes/pve/lxc"]
        lab.pve.add(106, "theirs")
        raise AlreadyExistsError("CT 106 already exists", status=500)

    lab.pve.hooks["POST /nodes/pve/lxc"] = taken
    outcome = lab.run(SMALLER, replace="redis")
    assert outcome.vm is not None
    assert outcome.vm["vmid"] == 107
    assert sorted(lab.pve.guests) == [106, 107]
    shutdowns = [path for method, path in lab.pve.writes() if path.endswith("shutdown")]
    assert len(shutdowns) == 1


def test_a_commit_that_can_not_be_written_down_is_taken_back(lab: GuestLab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def full(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        if path.suffix == ".jsonl" and b'"commit"' in path.read_bytes():
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GuestChangeError, match="the step was not taken"):
        lab.run(SMALLER, replace="redis")
    as_before(lab)


def test_while_the_new_guest_can_not_be_removed_the_old_one_stays_aside_and_a_later_run_brings_it_back(
    lab: GuestLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_undo, "_PAUSE_SECONDS", 0.01)
    lab.pve.failing_tasks["start"] = "no such bridge"
    lab.pve.hooks["DELETE /nodes/pve/lxc/106"] = no_answer
    with pytest.raises(GuestChangeError, match="Until that is done LXC 105 redis on pve stays as it is"):
        lab.run(SMALLER, replace="redis")
    assert lab.pve.guests[105]["running"] is False, "it has the address of the other one"
    assert lab.pve.guests[105]["config"]["hostname"] == "redis-replaced-105"
    told = settle(lab.pve, lab.state_dir, check_mode=False, tell=lab.told.append)
    assert "stays as it is" in told[0]
    lab.pve.hooks.clear()
    lab.pve.failing_tasks.clear()
    told = settle(lab.pve, lab.state_dir, check_mode=False, tell=lab.told.append)
    assert "LXC 105 redis on pve runs again" in told[0]
    as_before(lab)
    assert settle(lab.pve, lab.state_dir, check_mode=False, tell=lab.told.append) == []


def test_an_old_guest_that_is_protected_or_another_one_now_is_left_alone(lab: GuestLab) -> None:
    lab.pve.hooks["DELETE /nodes/pve/lxc/105"] = no_answer
    assert lab.run(SMALLER, replace="redis").plan.warnings[-1].startswith("The new redis is complete, but it broke.")
    lab.pve.hooks.clear()
    lab.pve.guests[105]["config"]["protection"] = 1
    told = settle(lab.pve, lab.state_dir, check_mode=False, tell=lab.told.append)
    assert "was protected since it was replaced: it was left alone" in told[0]
    assert sorted(lab.pve.guests) == [105, 106]
    assert settle(lab.pve, lab.state_dir, check_mode=False, tell=lab.told.append) == [], "it is a person's from now on"


def test_a_newcomer_under_the_vmid_of_the_old_guest_is_left_alone(lab: GuestLab) -> None:
    lab.pve.hooks["DELETE /nodes/pve/lxc/105"] = no_answer
    lab.run(SMALLER, replace="redis")
    lab.pve.hooks.clear()
    lab.pve.add(105, "theirs")
    told = settle(lab.pve, lab.state_dir, check_mode=False, tell=lab.told.append)
    assert "VMID 105 is LXC 105 theirs on pve now" in told[0]
    assert sorted(lab.pve.guests) == [105, 106]


def test_a_new_guest_that_this_token_can_not_see_is_nothing_to_judge_by(lab: GuestLab) -> None:
    lab.pve.hooks["DELETE /nodes/pve/lxc/105"] = no_answer
    lab.run(SMALLER, replace="redis")
    lab.pve.hooks.clear()
    lab.pve.guests[106]["type"] = "qemu"  # so that reading it as a container finds nothing
    told = settle(lab.pve, lab.state_dir, check_mode=False, tell=lab.told.append)
    assert "a guest that this token can not see" in told[0]
    assert lab.pve.guests[105]["running"] is False
    assert len(list((lab.state_dir / "journal").iterdir())) == 1


def test_the_address_goes_from_one_line_of_the_ledger_to_the_other(lab: GuestLab) -> None:
    lab.pve.guests.clear()
    first = lab.run({**REDIS, "disk": 4})
    assert first.vm is not None
    outcome = lab.run({**SMALLER, "network": NETWORK}, replace="redis")
    assert outcome.vm is not None
    assert outcome.vm["address"] == first.vm["address"]
    lines = Reservations(lab.state_dir)._read()
    assert [(r.vmid, r.status, r.address) for r in lines] == [(106, "used", first.vm["address"])]


def test_while_it_is_set_aside_its_address_is_still_its_own(tmp_path: Path) -> None:
    lab = GuestLab(tmp_path)
    lab.run({**REDIS, "disk": 4})
    line = Reservations(lab.state_dir).used()[0]
    assert line.is_of({"name": "redis-replaced-105", "type": "lxc"})
    assert not line.is_of({"name": "redis-replaced-106", "type": "lxc"})


def test_a_record_knows_what_was_made_and_what_was_set_aside(tmp_path: Path) -> None:
    target = {"kind": "lxc", "node": "pve", "vmid": 105, "name": "redis", "mark": None, "macs": []}
    journal = Journal(tmp_path, "op-1", "redis started")
    journal.write("stop", target=target, temporary=True)
    journal.write("done", of="stop", target=target)
    journal.write("configure", target=target, set={"hostname": "redis-replaced-105"}, before={"hostname": "redis"})
    journal.write("make", guest={"kind": "lxc", "node": "pve", "vmid": 106, "name": "redis"})
    journal.write("made")
    new = {**target, "vmid": 106}
    journal.write("configure", target=new, set={"memory": 512}, before={})
    journal.write("start", target=new)
    journal.write("done", of="start", target=new)
    record = GuestRecord.of("op-1", journal.entries)
    journal.close()
    assert record.stopped is not None, "what started is the other one"
    assert [c.target.vmid for c in record.of_another] == [105]
    assert record.aside is not None
    assert record.aside.name == "redis"
    assert not record.complete
