# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the guest that is there is the one that is meant: by the last scan, by a plan, and just before acting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import GuestChangeError, PreflightError
from ansible_collections.nhi.core.plugins.module_utils.guest_backup import BackupWish
from ansible_collections.nhi.core.plugins.module_utils.guest_backup_manager import BackupManager, BackupRun
from ansible_collections.nhi.core.plugins.module_utils.guest_guards import Guards, GuestName
from ansible_collections.nhi.core.plugins.module_utils.guest_identity import Identity
from ansible_collections.nhi.core.plugins.module_utils.guest_restore import RestoreWish
from ansible_collections.nhi.core.plugins.module_utils.guest_restore_manager import RestoreManager
from ansible_collections.nhi.core.plugins.module_utils.guest_snapshot import SnapshotWish
from ansible_collections.nhi.core.plugins.module_utils.guest_snapshot_manager import SnapshotManager, SnapshotRun
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.guest_lab import GuestLab
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.state_documents import make_document, make_guest

OLD, NEW = "BC:24:11:00:00:05", "BC:24:11:00:00:99"
GONE = {"name": "redis", "state": "absent"}


def net(mac: str) -> str:
    return f"name=eth0,bridge=vmbr0,hwaddr={mac},ip=10.99.0.105/24"


@pytest.fixture
def lab(tmp_path: Path) -> GuestLab:
    found = GuestLab(tmp_path)
    found.pve.add(105, "redis", running=True, net0=net(OLD), description="nhi: op-old")
    return found


def remember(lab: GuestLab, vmid: int = 105, mac: str | None = OLD, **facts: Any) -> None:
    """A scan saw the guest so."""
    lab.state_dir.mkdir(exist_ok=True)
    guest = make_guest(vmid, **{"name": "redis", **facts})
    guest["addresses"][0]["mac"] = mac
    store = StateStore(lab.state_dir)
    store.write(make_document([guest]), expected_checksum=store.recorded_checksum())


def verdict(lab: GuestLab, options: dict[str, Any], **settings: Any) -> tuple[bool, str]:
    """The check "identity" of a check run; the real run agrees with it."""
    (check,) = (c for c in lab.run(options, check_mode=True, **settings).plan.checks if c.name == "identity")
    if not check.passed:
        with pytest.raises(PreflightError, match="scan again with full: true, and look"):
            lab.run(options, **settings)
        assert lab.pve.writes() == []
    return check.passed, check.message


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"mac": NEW}, f"MAC address {NEW} is {OLD} now"),
        ({"name": "family-photos"}, "name family-photos is redis now"),
        ({"vmid": 110}, "VMID 110 is 105 now"),
        ({"type": "qemu"}, "type qemu is lxc now"),
    ],
)
@pytest.mark.parametrize("state", ["absent", "stopped", "restarted"])
def test_a_guest_that_the_scan_knows_otherwise_is_not_given_up(
    lab: GuestLab, facts: dict[str, Any], words: str, state: str
) -> None:
    remember(lab, **facts)
    passed, message = verdict(lab, {"name": "redis", "state": state}, confirm="redis")
    assert not passed
    assert words in message


def test_a_machine_is_known_by_its_creation_time(lab: GuestLab) -> None:
    lab.pve.add(110, "web", "qemu", running=True, meta="creation-qemu=9.2.0,ctime=1800000000")
    remember(lab, 110, None, name="web", type="qemu", created_at="2026-01-01T00:00:00+00:00")
    passed, message = verdict(lab, {"name": "web", "state": "absent"}, confirm="web")
    assert not passed
    assert "creation time 2026-01-01T00:00:00+00:00 is 2027-01-15T08:00:00+00:00 now" in message
    remember(lab, 110, None, name="web", type="qemu", created_at="2027-01-15T08:00:00+00:00")
    assert verdict(lab, {"name": "web", "state": "absent"}, confirm="web")[0]


def test_what_takes_nothing_away_is_only_told(lab: GuestLab) -> None:
    remember(lab, mac=NEW)
    passed, message = verdict(lab, {"name": "redis", "memory": 1024})
    assert passed
    assert "is not the guest that the state of" in message
    assert message in lab.run({"name": "redis"}).plan.warnings
    assert lab.run({"name": "redis", "memory": 1024}).plan.changed


def test_an_edited_guest_a_new_one_and_no_state_are_told_and_not_refused(lab: GuestLab) -> None:
    assert verdict(lab, GONE, confirm="redis")[1].endswith("no former scan: there is no state.json yet")
    remember(lab)
    assert "with a configuration that was changed since" in verdict(lab, GONE, confirm="redis")[1]
    remember(lab, 120, name="web")
    assert "was not there yet" in verdict(lab, GONE, confirm="redis")[1]
    (lab.state_dir / "state.json").write_text("{}")
    assert "no former scan: " in verdict(lab, GONE, confirm="redis")[1]


def on_look(lab: GuestLab, number: int, then: Callable[[], None]) -> None:
    """Do something just before the guest's configuration is read for that time."""
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        if len(looks) == number:
            then()

    lab.pve.hooks["GET /nodes/pve/lxc/105/config"] = look


def swap(lab: GuestLab) -> None:
    """Somebody removes the guest and makes another of the same name, VMID and address."""
    lab.pve.guests[105]["config"].update(net0=net(NEW), description="family photos")


SWAPPED = rf"is another guest than this run looked at: .*MAC address {OLD} is {NEW} now"


@pytest.mark.parametrize("state", ["absent", "stopped", "restarted"])
def test_a_guest_that_was_swapped_between_plan_and_act_is_left_alone(lab: GuestLab, state: str) -> None:
    on_look(lab, 2, lambda: swap(lab))
    with pytest.raises(PreflightError, match=SWAPPED):
        lab.run({"name": "redis", "state": state}, confirm="redis")
    assert lab.pve.writes() == []


def test_a_guest_that_became_a_machine_is_left_alone(lab: GuestLab) -> None:
    on_look(lab, 2, lambda: lab.pve.add(105, "redis", "qemu"))
    with pytest.raises(PreflightError, match="is gone, or another guest took its VMID"):
        lab.run(GONE, confirm="redis")
    assert lab.pve.writes() == []


def test_a_guest_that_is_swapped_while_it_is_shut_down_is_not_destroyed(lab: GuestLab) -> None:
    lab.pve.hooks["POST /nodes/pve/lxc/105/status/shutdown"] = lambda: swap(lab)
    with pytest.raises(GuestChangeError, match=SWAPPED):
        lab.run(GONE, confirm="redis")
    assert lab.pve.guests[105]["config"]["description"] == "family photos"
    assert "DELETE" not in {method for method, _path in lab.pve.writes()}


def test_a_guest_that_is_swapped_while_it_is_shut_down_is_not_started(lab: GuestLab) -> None:
    lab.pve.hooks["POST /nodes/pve/lxc/105/status/shutdown"] = lambda: swap(lab)
    with pytest.raises(GuestChangeError, match=SWAPPED):
        lab.run({"name": "redis", "state": "restarted"})
    assert not [path for _method, path in lab.pve.writes() if path.endswith("/start")]
    assert not list((lab.state_dir / "journal").iterdir())


def test_no_swapped_guest_is_rolled_back(lab: GuestLab) -> None:
    wish = SnapshotWish(GuestName("redis"), "before")
    SnapshotManager(lab.pve, wish, SnapshotRun(Guards())).run()
    before = lab.pve.writes()
    on_look(lab, 2, lambda: swap(lab))
    back = SnapshotWish(GuestName("redis"), "before", "rollback")
    manager = SnapshotManager(lab.pve, back, SnapshotRun(Guards(confirm="redis")))
    with pytest.raises(PreflightError, match=SWAPPED):
        manager.run()
    assert lab.pve.writes() == before


def test_no_swapped_guest_is_replaced_by_a_backup(lab: GuestLab) -> None:
    backup = BackupManager(lab.pve, BackupRun()).present(BackupWish(GuestName("redis"))).backup
    assert backup is not None
    before = lab.pve.writes()
    on_look(lab, 2, lambda: swap(lab))
    run = BackupRun(guards=Guards(confirm="redis"))
    with pytest.raises(PreflightError, match=SWAPPED):
        RestoreManager(lab.pve, RestoreWish(GuestName("redis"), backup.volid), run, lab.state_dir).run()
    assert lab.pve.writes() == before


def test_what_was_planned_is_done_and_nothing_else(lab: GuestLab) -> None:
    planned = lab.run(GONE, check_mode=True).plan.identity
    assert planned is not None
    assert (planned["vmid"], planned["mac"], planned["operation"]) == (105, [OLD], "op-old")
    expect = Identity.from_params(planned)
    lab.pve.guests[105]["config"]["memory"] = 1024
    with pytest.raises(PreflightError, match="its configuration was changed; plan again in check mode and look"):
        lab.run(GONE, confirm="redis", expect=expect)
    swap(lab)
    with pytest.raises(PreflightError, match="operation that made it op-old is none now, MAC address"):
        lab.run(GONE, confirm="redis", expect=expect)
    assert lab.pve.writes() == []
    again = lab.run(GONE, check_mode=True).plan.identity
    lab.run(GONE, confirm="redis", expect=Identity.from_params(again))
    assert lab.pve.guests == {}


def test_expecting_a_guest_that_is_not_there_makes_none(lab: GuestLab) -> None:
    wish = {"name": "web", "state": "started", "template": "debian-12"}
    with pytest.raises(PreflightError, match="not the one that was expected: LXC 105 web is not there"):
        lab.run(wish, expect=Identity(vmid=105, type="lxc", name="web"))
    assert lab.pve.writes() == []


def test_the_identity_after_a_change_can_be_expected_next(lab: GuestLab) -> None:
    first = lab.run({"name": "redis", "memory": 1024}).plan.identity
    lab.run({"name": "redis", "memory": 512}, expect=Identity.from_params(first))
    assert lab.pve.guests[105]["config"]["memory"] == 512
