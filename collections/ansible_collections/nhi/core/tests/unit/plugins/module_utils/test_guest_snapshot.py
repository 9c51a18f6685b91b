# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of a guest in memory: what is refused, what is foretold, what is done."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    GuestChangeError,
    NHIError,
    PreflightError,
    TaskError,
)
from ansible_collections.nhi.core.plugins.module_utils.guest_guards import Guards
from ansible_collections.nhi.core.plugins.module_utils.guest_identity import Identity
from ansible_collections.nhi.core.plugins.module_utils.guest_snapshot import config_change, wish_from_params
from ansible_collections.nhi.core.plugins.module_utils.guest_snapshot_manager import (
    SnapshotManager,
    SnapshotOutcome,
    SnapshotRun,
)
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_proxmox import FakeProxmox

CONFIRMED = Guards(confirm="redis")


@pytest.fixture
def pve() -> FakeProxmox:
    fake = FakeProxmox()
    fake.add(105, "redis", running=True, memory=256, description="Cache.")
    fake.add(110, "webapp", "qemu", running=True)
    return fake


def run(pve: FakeProxmox, guards: Guards | None = None, *, check: bool = False, **options: Any) -> SnapshotOutcome:
    wish = wish_from_params({"name": "redis", "snapshot": "before", "state": "present", **options})
    return SnapshotManager(pve, wish, SnapshotRun(guards or Guards(), check)).run()


def names(outcome: SnapshotOutcome) -> list[str]:
    return [s.name for s in outcome.snapshots]


def test_taken_once(pve: FakeProxmox) -> None:
    assert names(run(pve, check=True)) == ["before"]
    assert pve.writes() == []
    first = run(pve, description="Good.")
    assert first.plan.changed
    assert first.snapshots[0].as_dict() == {
        "name": "before", "description": "Good.", "taken_at": "2027-01-15T08:00:00+00:00", "parent": None,
        "vmstate": False,
    }  # fmt: skip
    writes = pve.writes()
    assert not run(pve).plan.changed
    assert pve.writes() == writes


def test_the_memory_of_a_machine_is_kept_only_on_demand(pve: FakeProxmox) -> None:
    run(pve, name="webapp", vmstate=True)
    assert pve.guests[110]["snapshots"]["before"]["vmstate"] == 1
    run(pve, name="webapp", snapshot="without")
    assert pve.guests[110]["snapshots"]["without"]["vmstate"] == 0
    again = run(pve, name="webapp", snapshot="without", vmstate=True)
    assert not again.plan.changed
    assert "can not be added" in again.plan.warnings[0]


def test_a_machine_with_memory_is_not_started_twice(pve: FakeProxmox) -> None:
    run(pve, name="webapp", vmstate=True)
    plan = run(pve, CONFIRMED, name="webapp", state="rollback", check=True).plan
    assert "start it again" not in plan.actions[0].text


def test_removed_and_gone(pve: FakeProxmox) -> None:
    run(pve)
    assert names(run(pve, state="absent", check=True)) == []
    assert names(run(pve, state="absent")) == []
    assert not run(pve, state="absent").plan.changed


def test_taken_back_and_running_again(pve: FakeProxmox) -> None:
    run(pve, description="Good.")
    pve.guests[105]["config"].update(memory=512, tags="broken")
    foretold = run(pve, CONFIRMED, state="rollback", check=True).plan
    assert (foretold.before, foretold.after) == ({"memory": 512, "tags": "broken"}, {"memory": 256, "tags": None})
    done = run(pve, CONFIRMED, state="rollback")
    assert pve.guests[105]["running"]
    assert done.found is not None
    assert done.found.config["memory"] == 256
    assert [a.text for a in done.plan.actions] == [a.text for a in foretold.actions]


@pytest.mark.parametrize(
    ("config", "guards", "words"),
    [
        ({}, Guards(), "needs confirm: redis"),
        ({}, Guards(confirm="webapp"), "needs confirm: redis, not webapp"),
        ({"protection": 1}, CONFIRMED, "is protected"),
        ({"tags": "brain;x"}, CONFIRMED, "is the Brain"),
        ({}, Guards(confirm="redis", brain_vmid=105), "is the Brain"),
        ({"lock": "backup"}, CONFIRMED, "is locked"),
    ],
)
def test_what_guards_the_guest(pve: FakeProxmox, config: dict[str, Any], guards: Guards, words: str) -> None:
    run(pve)
    pve.guests[105]["config"].update(config)
    writes = pve.writes()
    assert run(pve, guards, state="rollback", check=True).plan.failed
    with pytest.raises(PreflightError, match=words):
        run(pve, guards, state="rollback")
    assert pve.writes() == writes


def test_the_task_that_holds_the_lock_is_named(pve: FakeProxmox) -> None:
    pve.guests[105]["config"]["lock"] = "backup"
    pve.tasks = [
        {"id": "105", "type": "vzstart", "user": "a@pam", "starttime": 1, "endtime": 2},
        {"id": "105", "type": "vzdump", "user": "root@pam", "starttime": 1_800_000_000},
    ]
    with pytest.raises(PreflightError, match=r"held by task vzdump of root@pam since 2027-01-15 08:00:00 UTC"):
        run(pve)


def test_privileges_are_asked_for_first(pve: FakeProxmox) -> None:
    pve.lacking = {("VM.Snapshot", "/vms/105")}
    with pytest.raises(PreflightError, match=r"lacks VM\.Snapshot on /vms/105"):
        run(pve)
    pve.lacking = set()
    run(pve)
    pve.lacking = {("VM.Snapshot", "/vms/105")}
    assert run(pve, CONFIRMED, state="rollback").plan.changed, "the privilege to roll back is enough"
    pve.lacking |= {("VM.Snapshot.Rollback", "/vms/105")}
    with pytest.raises(PreflightError, match=r"VM\.Snapshot\.Rollback or VM\.Snapshot"):
        run(pve, CONFIRMED, state="rollback")


def test_disks_and_templates_without_snapshots(pve: FakeProxmox) -> None:
    pve.snapshots_possible = False
    pve.guests[105]["config"]["template"] = 1
    with pytest.raises(PreflightError, match=r"is a template.*can not be snapshot"):
        run(pve)


def test_a_half_done_snapshot_is_named_and_can_be_removed(pve: FakeProxmox) -> None:
    run(pve)
    pve.guests[105]["snapshots"]["before"]["snapstate"] = "prepare"
    with pytest.raises(PreflightError, match=r"half done \(prepare\): remove it"):
        run(pve)
    with pytest.raises(PreflightError, match=r"half done \(prepare\): choose another"):
        run(pve, CONFIRMED, state="rollback")
    assert names(run(pve, state="absent")) == []


def refused(pve: FakeProxmox, guards: Guards | None = None, **options: Any) -> set[str]:
    """Names of the checks that fail; the real run tells each of them in one message, and nothing is written."""
    writes = pve.writes()
    failed = run(pve, guards, check=True, **options).plan.failed
    with pytest.raises(PreflightError) as e:
        run(pve, guards, **options)
    assert all(c.message in str(e.value) for c in failed)
    assert pve.writes() == writes
    return {c.name for c in failed}


@pytest.mark.parametrize("state", ["present", "absent", "rollback"])
def test_a_guest_that_is_not_there_is_a_failed_check_among_others(pve: FakeProxmox, state: str) -> None:
    assert refused(pve, name="nosuch", state=state) == {"exists"}
    expected = Guards(expect=Identity(vmid=105, name="nosuch"))
    assert refused(pve, expected, name="nosuch", state=state) == {"exists", "expected"}
    shown = run(pve, name="nosuch", state=state, check=True)
    assert (shown.found, shown.plan.summary()[0]) == (None, "Nothing can be planned.")


@pytest.mark.parametrize("state", ["present", "absent", "rollback"])
def test_a_name_that_two_guests_bear_is_a_failed_check(pve: FakeProxmox, state: str) -> None:
    pve.add(106, "redis")
    assert refused(pve, state=state) == {"exists"}
    assert not run(pve, state="present", vmid=106).plan.failed


def test_a_vmid_of_another_guest_does_not_hide_what_else_is_wrong(pve: FakeProxmox) -> None:
    run(pve)
    pve.guests[105]["config"].update(lock="backup", protection=1)
    names = refused(pve, vmid=110, state="rollback")
    assert names == {"vmid", "lock", "protection", "confirmed"}


def test_everything_that_stops_a_snapshot_is_told_together(pve: FakeProxmox) -> None:
    pve.snapshots_possible = False
    pve.lacking = {("VM.Snapshot", "/vms/105")}
    pve.guests[105]["config"].update(lock="backup", template=1)
    assert refused(pve, vmid=110, vmstate=True) == {"vmid", "lock", "template", "storage", "vmstate", "privileges"}


def test_a_snapshot_that_is_not_there_does_not_hide_what_else_is_wrong(pve: FakeProxmox) -> None:
    pve.guests[105]["config"].update(lock="backup")
    assert refused(pve, state="rollback", snapshot="never") == {"snapshot", "lock", "confirmed"}


def test_a_guest_that_changes_meanwhile_is_left_alone(pve: FakeProxmox) -> None:
    pve.hooks["GET /access/permissions"] = lambda: pve.guests[105]["config"].update(hostname="other")
    with pytest.raises(PreflightError, match="is another guest than this run looked at: name redis is other now"):
        run(pve)
    assert pve.writes() == []


def test_warnings_of_a_task_are_a_success(pve: FakeProxmox) -> None:
    pve.task_warnings = 2
    assert "done with 2 warnings" in run(pve).plan.warnings[0]


def test_a_failing_task_and_an_interrupt(pve: FakeProxmox) -> None:
    pve.failing_tasks["snapshot"] = "no space"
    with pytest.raises(TaskError, match="no space"):
        run(pve)
    pve.hooks["POST /nodes/pve/lxc/105/snapshot"] = lambda: signal.raise_signal(signal.SIGTERM)
    with pytest.raises(
        GuestChangeError, match=r"interrupted by SIGTERM: taking snapshot .* so watch task UPID:snapshot"
    ):
        run(pve, snapshot="second")
    assert "second" in pve.guests[105]["snapshots"]


@pytest.mark.parametrize("name", ["current", "vzdump", "1st", "a", "a" * 41, "a b", "a/b"])
def test_names_that_the_api_would_refuse(name: str) -> None:
    with pytest.raises(NHIError, match="can not name a snapshot"):
        wish_from_params({"name": "redis", "snapshot": name, "state": "present"})


def test_only_what_a_rollback_changes_is_shown() -> None:
    now = {"memory": "512", "digest": "a", "description": "x", "unused0": "y", "lock": "backup", "net0": "n"}
    then = {"memory": 512, "digest": "b", "snaptime": 1, "parent": "p"}
    assert config_change(now, then) == ({"net0": "n"}, {"net0": None})
