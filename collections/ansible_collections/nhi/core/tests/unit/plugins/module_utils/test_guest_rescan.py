# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""After every outcome of a run state.json shows the guest as it is."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.about import this_program
from ansible_collections.nhi.core.plugins.module_utils.errors import GuestChangeError, NHIError, UnreachableError
from ansible_collections.nhi.core.plugins.module_utils.guest_backup import BackupWish
from ansible_collections.nhi.core.plugins.module_utils.guest_backup_manager import BackupManager, BackupRun
from ansible_collections.nhi.core.plugins.module_utils.guest_guards import Guards, GuestName
from ansible_collections.nhi.core.plugins.module_utils.guest_reader import read_guest
from ansible_collections.nhi.core.plugins.module_utils.guest_record import Target, target_entry
from ansible_collections.nhi.core.plugins.module_utils.guest_recovery import settle
from ansible_collections.nhi.core.plugins.module_utils.guest_rescan import Rescan
from ansible_collections.nhi.core.plugins.module_utils.guest_snapshot import SnapshotWish
from ansible_collections.nhi.core.plugins.module_utils.guest_snapshot_manager import SnapshotManager, SnapshotRun
from ansible_collections.nhi.core.plugins.module_utils.journal import Journal
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import Endpoint
from ansible_collections.nhi.core.plugins.module_utils.proxmox_tasks import TaskResult
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import empty_document, utc_now
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.guest_lab import REDIS, GuestLab


class Lab(GuestLab):
    """A node, and a state that has been scanned once."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.rescan = Rescan(self.state_dir, Endpoint("pve.example.net", "nhi@pve", "x", "secret"), "nhi_vm")
        self.store = StateStore(self.state_dir)

    def act(self, **options: Any) -> Any:
        return self.run({**REDIS, **options}, rescan=self.rescan, confirm=options.get("name", "redis"))

    def scanned(self) -> dict[int, Any]:
        """What the state shows."""
        return {g["vmid"]: g for g in self.store.validate().document["infrastructure"]["guests"]}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path)
    lab.store.write(empty_document(this_program("test"), utc_now()), expected_checksum=None)
    return lab


def test_a_new_guest_is_in_the_state_for_three_reads_more(lab: Lab) -> None:
    lab.act()
    assert (lab.scanned()[105]["name"], lab.scanned()[105]["status"]) == ("redis", "running")
    reads = [path for method, path, _data in lab.pve.calls[-3:] if method == "GET"]
    assert reads == ["/cluster/resources", "/nodes/pve/lxc/105/status/current", "/nodes/pve/lxc/105/config"]
    assert lab.pve.calls[-4][1] != "/cluster/resources"


def test_a_changed_stopped_and_destroyed_guest_is_shown_so(lab: Lab) -> None:
    lab.act()
    lab.act(memory=768)
    assert lab.scanned()[105]["config_digest"] == lab.pve.get("/nodes/pve/lxc/105/config")["digest"]
    lab.pve.tasks.append({"id": "105", "type": "vzshutdown", "starttime": 9e9, "endtime": 9e9})
    lab.act(state="stopped")
    assert lab.scanned()[105]["status"] == "stopped"
    assert lab.store.read().document["alerts"] == []
    lab.act(state="absent")
    assert lab.scanned() == {}


def test_a_creation_that_was_undone_leaves_nothing_in_the_state(lab: Lab) -> None:
    lab.pve.failing_tasks["start"] = "no memory"
    with pytest.raises(NHIError, match="destroyed again"):
        lab.act()
    assert lab.scanned() == {}
    assert lab.pve.calls[-1][1] == "/cluster/resources"


def test_a_change_that_failed_half_way_shows_what_is_there(lab: Lab) -> None:
    lab.act()
    lab.pve.hooks["GET /nodes/pve/lxc/105/config"] = lambda: None
    lab.pve.failing_tasks["start"] = "no memory"
    with pytest.raises(NHIError):
        lab.act(state="restarted")
    assert lab.scanned()[105]["status"] == ("running" if lab.pve.guests[105]["running"] else "stopped")


def test_an_interrupted_run_is_shown_too(lab: Lab) -> None:
    lab.act()
    lab.pve.hooks["POST /nodes/pve/lxc/105/status/start"] = lambda: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(GuestChangeError, match=r"interrupted by SIGINT\. Undone"):
        lab.act(state="restarted")
    assert lab.scanned()[105]["status"] == ("running" if lab.pve.guests[105]["running"] else "stopped")
    assert lab.pve.calls[-1][1] == "/nodes/pve/lxc/105/config"


def test_a_run_that_changed_nothing_reads_nothing_again_while_the_state_is_right(lab: Lab) -> None:
    lab.act()
    revision = lab.store.read().revision
    lab.act()
    assert lab.store.read().revision == revision
    lab.pve.guests[105]["config"]["description"] = "Edited by hand."
    lab.act(name="redis")
    assert lab.scanned()[105]["description"] == "Edited by hand."


def test_a_guest_that_somebody_else_destroyed_leaves_the_state_when_it_is_asked_for(lab: Lab) -> None:
    lab.act()
    del lab.pve.guests[105]
    assert not lab.act(state="absent").plan.changed
    assert lab.scanned() == {}


def test_a_check_run_reads_nothing_again_and_writes_nothing(lab: Lab) -> None:
    before = lab.store.path.read_bytes()
    lab.run(REDIS, rescan=lab.rescan, check_mode=True)
    assert lab.store.path.read_bytes() == before
    assert [path for _method, path, _data in lab.pve.calls].count("/cluster/resources") == 1


def test_a_run_that_could_not_look_says_only_that(lab: Lab) -> None:
    def away() -> None:
        raise UnreachableError("no answer")

    lab.pve.hooks["GET /cluster/resources"] = away
    with pytest.raises(UnreachableError):
        lab.act()
    assert len(lab.pve.calls) == 1


def test_a_rescan_that_fails_is_told_and_the_guest_stays(lab: Lab) -> None:
    lab.act()
    lab.store.path.write_text("{}")
    assert lab.act(memory=768).plan.changed
    assert "does not match its checksum" in str(lab.told)


# A newcomer under the VMID


def swap(lab: Lab, kind: str = "lxc", name: str = "redis") -> None:
    """Somebody destroys the guest and makes another one of its VMID, which runs."""
    net = f"bridge=vmbr0,{'hwaddr' if kind == 'lxc' else 'virtio'}=BC:24:11:0F:0F:0F"
    del lab.pve.guests[105]
    lab.pve.add(105, name, kind, running=True, net0=f"name=eth0,{net},ip=dhcp" if kind == "lxc" else net)


def after_task(lab: Lab, monkeypatch: pytest.MonkeyPatch, kind: str, then: Callable[[], None]) -> None:
    """Something that happens when a task of ours has just ended."""
    real = lab.pve.wait_task

    def wait_task(upid: str, timeout_seconds: float = 300.0) -> TaskResult:
        done = real(upid, timeout_seconds)
        if done.type == kind:
            then()
        return done

    monkeypatch.setattr(lab.pve, "wait_task", wait_task)


@pytest.mark.parametrize(("kind", "name"), [("lxc", "redis"), ("lxc", "other"), ("qemu", "redis")])
@pytest.mark.parametrize("state", ["absent", "restarted"])
def test_a_guest_that_took_the_vmid_while_ours_was_shut_down_does_not_enter_the_state(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, state: str, kind: str, name: str
) -> None:
    lab.pve.macs = True
    lab.act()
    before = lab.scanned()[105]
    after_task(lab, monkeypatch, "shutdown", lambda: swap(lab, kind, name))
    with pytest.raises(NHIError) if state == "absent" else contextlib.suppress(NHIError):
        lab.act(state=state)
    assert lab.scanned()[105] == before
    assert lab.pve.guests[105]["running"], "the newcomer was left alone"
    if (kind, name) == ("lxc", "redis"):
        with pytest.raises(NHIError, match=r"is not the guest that the state of .* knows"):
            lab.act(state="absent")


def test_a_guest_that_took_the_vmid_of_one_that_was_just_destroyed_does_not_enter_the_state(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.pve.macs = True
    lab.act()
    after_task(lab, monkeypatch, "vzdestroy", lambda: lab.pve.add(105, "theirs", running=True))
    lab.act(state="absent")
    assert "theirs" in {g["config"]["hostname"] for g in lab.pve.guests.values()}
    assert "theirs" not in {g["name"] for g in lab.scanned().values()}


def test_a_correction_of_a_newcomer_that_nobody_looked_at_leaves_the_state_as_it_is(lab: Lab) -> None:
    lab.pve.macs = True
    lab.act()
    before = lab.scanned()[105]
    swap(lab)
    outcome = lab.run({"name": "redis", "memory": 768}, rescan=lab.rescan)
    assert "is not the guest that the state of" in str(outcome.plan.warnings)
    assert lab.scanned()[105] == before
    with pytest.raises(NHIError, match="is not the guest that the state"):
        lab.act(state="absent")


def test_an_own_guest_that_got_another_mac_address_is_shown_with_it(lab: Lab) -> None:
    lab.pve.macs = True
    lab.act()
    lab.run({"name": "redis", "network": {"mac": "BC:24:11:0E:0E:0E"}}, rescan=lab.rescan)
    assert {a["mac"] for a in lab.scanned()[105]["addresses"]} == {"BC:24:11:0E:0E:0E"}


def test_a_guest_that_took_the_vmid_of_an_operation_that_was_cut_off_does_not_enter_the_state(lab: Lab) -> None:
    lab.pve.macs = True
    lab.act()
    before = lab.scanned()[105]
    found = read_guest(lab.pve, {"type": "lxc", "node": "pve", "vmid": 105})
    journal = Journal(lab.state_dir, "op-cut", "redis restarted")
    journal.write("stop", target=target_entry(Target.of(found)), temporary=True)
    swap(lab)
    journal.keep()
    journal.close()
    told = settle(lab.pve, lab.state_dir, check_mode=False, tell=lab.told.append, rescan=lab.rescan)
    assert "was left alone" in told[0]
    assert lab.scanned()[105] == before


def test_without_a_state_the_whole_lab_is_read(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.pve.add(120, "other")
    lab.act()
    assert lab.scanned().keys() == {105, 120}


def test_guests_of_operations_that_were_cut_off_are_read_again(lab: Lab) -> None:
    lab.act()
    lab.act(name="db", vmid=106)
    journal = Journal(lab.state_dir, "op-dead", "redis started")
    journal.write("make", guest={"kind": "lxc", "node": "pve", "vmid": 105, "name": "redis"})
    lab.pve.guests[105]["config"]["description"] = "nhi: op-dead"
    journal.keep()
    journal.close()
    settle(lab.pve, lab.state_dir, check_mode=False, tell=lab.told.append, rescan=lab.rescan)
    assert lab.scanned().keys() == {106}


def test_snapshots_and_backups_read_their_guest_again(lab: Lab) -> None:
    lab.act()
    lab.pve.guests[105]["config"]["description"] = "Edited by hand."
    wish = SnapshotWish(GuestName("redis"), "before", "present")
    SnapshotManager(lab.pve, wish, SnapshotRun(Guards(), rescan=lab.rescan)).run()
    assert lab.scanned()[105]["description"] == "Edited by hand."
    lab.pve.guests[105]["config"]["description"] = "Edited again."
    BackupManager(lab.pve, BackupRun(rescan=lab.rescan)).present(BackupWish(GuestName("redis")))
    assert lab.scanned()[105]["description"] == "Edited again."


def test_a_snapshot_that_failed_reads_its_guest_again(lab: Lab) -> None:
    lab.act()
    lab.pve.guests[105]["config"]["description"] = "Edited by hand."
    lab.pve.failing_tasks["snapshot"] = "no space"
    with pytest.raises(NHIError):
        SnapshotManager(
            lab.pve, SnapshotWish(GuestName("redis"), "before", "present"), SnapshotRun(Guards(), rescan=lab.rescan)
        ).run()
    assert lab.scanned()[105]["description"] == "Edited by hand."
