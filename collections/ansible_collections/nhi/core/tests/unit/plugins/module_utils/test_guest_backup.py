# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of guests in memory: made when needed, removed by name, restored beside and over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    GuestChangeError,
    PreflightError,
    ProxmoxError,
    UnreachableError,
)
from ansible_collections.nhi.core.plugins.module_utils.guest_archive import parse_archive
from ansible_collections.nhi.core.plugins.module_utils.guest_backup import backups_of, guest_from_params
from ansible_collections.nhi.core.plugins.module_utils.guest_backup import wish_from_params as backup_wish
from ansible_collections.nhi.core.plugins.module_utils.guest_backup_manager import (
    BackupManager,
    BackupOutcome,
    BackupRun,
)
from ansible_collections.nhi.core.plugins.module_utils.guest_backup_reader import backup_places, every_backup
from ansible_collections.nhi.core.plugins.module_utils.guest_guards import Guards
from ansible_collections.nhi.core.plugins.module_utils.guest_reader import Cluster, read_cluster
from ansible_collections.nhi.core.plugins.module_utils.guest_restore import wish_from_params as restore_wish
from ansible_collections.nhi.core.plugins.module_utils.guest_restore_manager import RestoreManager
from ansible_collections.nhi.core.plugins.module_utils.reservations import Reservations
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.fake_proxmox import FakeProxmox

NET = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:05,ip=10.99.0.105/24"
CONFIRMED = Guards(confirm="redis")
DEFAULTS: dict[str, Any] = {"name": "redis", "mode": "snapshot", "compress": "zstd", "protected": False}


class Node:
    def __init__(self, state_dir: Path) -> None:
        self.pve = FakeProxmox()
        self.state_dir = state_dir
        self.pve.add(105, "redis", running=True, memory=256, net0=NET, onboot=1, description="Cache.\n\nnhi: op-old")

    def backup(self, *, check: bool = False, **options: Any) -> BackupOutcome:
        return BackupManager(self.pve, BackupRun(check)).present(backup_wish({**DEFAULTS, **options}))

    def remove(self, volid: str, name: str = "redis") -> BackupOutcome:
        return BackupManager(self.pve, BackupRun()).absent(guest_from_params({"name": name}), volid)

    def restore(
        self, volid: str, guards: Guards | None = None, *, check: bool = False, **options: Any
    ) -> BackupOutcome:
        wish = restore_wish({"name": "redis", "backup": volid, "vmid_range": "105-199", **options})
        run = BackupRun(check, 1.0, guards or Guards())
        return RestoreManager(self.pve, wish, run, self.state_dir).run()

    def made(self) -> str:
        backup = self.backup().backup
        assert backup is not None
        return backup.volid


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "infrastructure")


def test_the_request_says_what_was_asked_for(node: Node) -> None:
    outcome = node.backup(
        notes="a\\b\nc", protected=True, compress="none", mode="stop", keep={"last": 3, "daily": None}
    )
    data = next(d for m, p, d in node.pve.calls if (m, p) == ("POST", "/nodes/pve/vzdump"))
    assert data == {
        "vmid": 105, "storage": "local", "mode": "stop", "compress": "0", "notes-template": "a\\\\b\\nc",
        "protected": 1, "prune-backups": "keep-last=3",
    }  # fmt: skip
    assert "not to be kept (last 3) will be gone" in outcome.plan.warnings[0]
    node.backup()
    data = [d for m, p, d in node.pve.calls if (m, p) == ("POST", "/nodes/pve/vzdump")][-1]
    assert "prune-backups" not in data


def refused(node: Node, run: Callable[..., BackupOutcome]) -> set[str]:
    """Names of the checks that fail; the real run tells each of them in one message, and nothing is written."""
    writes = node.pve.writes()
    failed = run(check=True).plan.failed
    with pytest.raises(PreflightError) as e:
        run()
    assert all(c.message in str(e.value) for c in failed)
    assert node.pve.writes() == writes
    return {c.name for c in failed}


def test_a_guest_that_is_not_there_or_not_certain_is_a_failed_check_among_others(node: Node) -> None:
    assert refused(node, partial(node.backup, name="nosuch")) == {"exists"}
    assert refused(node, partial(node.backup, name="nosuch", storage="local-lvm")) == {"exists", "storage"}
    node.pve.add(106, "redis")
    assert refused(node, node.backup) == {"exists"}
    assert node.backup(vmid=105).plan.changed


def test_everything_that_stops_a_backup_is_told_together(node: Node) -> None:
    node.pve.add(106, "web")
    node.pve.guests[105]["config"]["lock"] = "snapshot"
    node.pve.lacking = {("VM.Backup", "/vms/105")}
    names = refused(node, partial(node.backup, vmid=106, storage="local-lvm"))
    assert names == {"vmid", "lock", "storage", "privileges"}


def test_everything_that_stops_a_restore_is_told_together(node: Node) -> None:
    volid = node.made()
    node.pve.add(106, "web")
    node.pve.guests[105]["config"].update(lock="snapshot", protection=1)
    names = {"vmid", "lock", "protection", "confirmed"}
    assert refused(node, partial(node.restore, volid, vmid=106)) == names
    gone = "local:backup/vzdump-lxc-1-2026_01_01-00_00_00.tar"
    assert refused(node, partial(node.restore, gone, vmid=106)) == {*names, "backup"}
    assert refused(node, partial(node.restore, gone, name="drill")) == {"backup"}


def test_a_restore_to_a_name_that_two_guests_bear_is_refused_with_what_else_is_wrong(node: Node) -> None:
    volid = node.made()
    node.pve.add(106, "redis")
    node.pve.storages = [s for s in node.pve.storages if s["storage"] != "local-lvm"]
    assert refused(node, partial(node.restore, volid)) == {"exists", "storage"}
    assert node.restore(volid, check=True).plan.actions == []


def test_keeping_needs_a_privilege_of_its_own(node: Node) -> None:
    node.pve.lacking = {("Datastore.Allocate", "/storage/local")}
    assert node.backup().plan.changed
    with pytest.raises(PreflightError, match=r"Datastore\.Allocate on /storage/local"):
        node.backup(keep={"last": 1})


def test_a_young_backup_is_enough_unless_it_is_broken(node: Node) -> None:
    volid = node.made()
    assert not node.backup(max_age=60).plan.changed
    node.pve.backups[volid]["row"]["verification"] = {"state": "failed"}
    assert node.backup(max_age=60).plan.changed


def test_an_old_backup_is_not_enough(node: Node) -> None:
    node.pve.backups[node.made()]["row"]["ctime"] -= 120
    assert node.backup(max_age=60, check=True).plan.changed


def test_where_there_is_a_choice_of_storages_it_must_be_made(node: Node) -> None:
    node.pve.storages.append({"storage": "nas", "content": "backup", "active": 1, "avail": 1})
    with pytest.raises(PreflightError, match="backups can go to local or nas: set storage"):
        node.backup()
    assert node.backup(storage="nas").plan.changed


def test_a_guest_that_left_its_node_is_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.pve, "post", lambda path, data=None: "OK")
    with pytest.raises(GuestChangeError, match="left its node"):
        node.backup()


def test_the_last_backup_is_removed_with_a_warning(node: Node) -> None:
    first, second = node.made(), node.made()
    assert node.remove(first).plan.warnings == []
    assert "is the last backup of redis" in node.remove(second).plan.warnings[0]
    assert not node.remove(second).plan.changed


def test_beside_keeps_notes_and_leaves_the_original_alone(node: Node) -> None:
    volid, before = node.made(), dict(node.pve.guests[105]["config"])
    done = node.restore(volid, name="drill")
    copy = node.pve.guests[106]
    assert copy["config"]["description"].startswith(f"Cache.\n\nRestored from {volid}.\n\nnhi: op-")
    assert (copy["config"]["hostname"], copy["config"]["onboot"], copy["running"]) == ("drill", 0, False)
    assert "has the address of LXC 105 redis on pve, 10.99.0.105/24" in done.plan.warnings[0]
    assert (node.pve.guests[105]["config"], node.pve.guests[105]["running"]) == (before, True)
    assert not node.restore(volid, name="drill").plan.changed


def test_a_vmid_that_somebody_takes_meanwhile_is_left_to_them(node: Node) -> None:
    volid = node.made()

    def take() -> None:
        node.pve.hooks.clear()
        node.pve.add(106, "other")

    node.pve.hooks["POST /nodes/pve/lxc"] = take
    done = node.restore(volid, name="drill")
    assert done.vm is not None
    assert done.vm["vmid"] == 107


def test_a_restore_that_fails_is_undone_and_gives_its_vmid_back(node: Node) -> None:
    volid = node.made()
    node.pve.failing_tasks["vzrestore"] = "no space"
    with pytest.raises(GuestChangeError, match=r"no space.*Undone: LXC 106 drill was destroyed again"):
        node.restore(volid, name="drill")
    assert list(node.pve.guests) == [105]
    assert Reservations(node.state_dir).peek().vmids == {}


def test_over_stops_replaces_and_starts(node: Node) -> None:
    volid = node.made()
    node.pve.guests[105]["config"]["memory"] = 512
    with pytest.raises(PreflightError, match="replacing LXC 105 redis on pve needs confirm: redis"):
        node.restore(volid)
    plan = node.restore(volid, CONFIRMED, check=True).plan
    assert (plan.before, plan.after) == ({"memory": 512}, {"memory": "256"})
    node.restore(volid, CONFIRMED)
    assert (node.pve.guests[105]["config"]["memory"], node.pve.guests[105]["running"]) == (256, True)


def test_a_refused_restore_starts_the_guest_again(node: Node) -> None:
    volid = node.made()
    original = node.pve.post

    def refuse(path: Any, data: Any = None) -> Any:
        if path == ("nodes", "pve", "lxc"):
            raise NHIErrorOfApi("refused")
        return original(path, data)

    node.pve.post = refuse  # type: ignore[method-assign]
    with pytest.raises(GuestChangeError, match=r"refused\. Undone: LXC 105 redis on pve runs again"):
        node.restore(volid, CONFIRMED)
    assert node.pve.guests[105]["running"]


class NHIErrorOfApi(ProxmoxError):
    """Any refusal."""


def test_over_that_fails_half_way_starts_nothing(node: Node) -> None:
    volid = node.made()
    node.pve.failing_tasks["vzrestore"] = "no space"
    with pytest.raises(GuestChangeError, match=r"no space.*may be gone or incomplete now: the backup is still there"):
        node.restore(volid, CONFIRMED)
    assert not node.pve.guests[105]["running"]


def test_only_a_backup_of_the_guest_itself_replaces_it(node: Node) -> None:
    node.pve.add(106, "web")
    foreign = node.backup(name="web").backup
    assert foreign is not None
    with pytest.raises(
        PreflightError, match=r"made of LXC 106, not of LXC 105.*is a backup of LXC 106 web, not of redis"
    ):
        node.restore(foreign.volid, CONFIRMED)


def test_a_copy_of_the_brain_is_made_only_when_it_is_meant(node: Node) -> None:
    node.pve.guests[105]["config"]["tags"] = "brain"
    volid = node.made()
    with pytest.raises(PreflightError, match="would count as the Brain"):
        node.restore(volid, name="drill")
    assert node.restore(volid, Guards(allow_brain=True), name="drill").plan.changed


def test_a_machine_comes_from_its_archive(node: Node) -> None:
    node.pve.add(110, "webapp", "qemu", scsi0="local-lvm:vm-110-disk-0,size=8G")
    backup = node.backup(name="webapp").backup
    assert backup is not None
    node.restore(backup.volid, name="webapp-drill")
    data = next(d for m, p, d in node.pve.calls if (m, p) == ("POST", "/nodes/pve/qemu"))
    assert (data["archive"], data["name"], data["unique"]) == (backup.volid, "webapp-drill", 1)


def test_what_a_backup_needs_is_read_from_inside() -> None:
    text = (
        "#Two%3A lines\n#qmdump#map:x\nname: web\nscsi0: fast:vm-1-disk-0,size=8G\nscsi1: slow:vm-1-disk-1,size=512M\n"
        "ide2: local:iso/x.iso,media=cdrom,size=4G\nnet0: virtio=AA:BB:CC:00:11:22,bridge=vmbr1\n\n[snap]\nname: old\n"
    )
    archive = parse_archive("qemu", text)
    assert (archive.name, archive.notes, archive.bridges) == ("web", "Two: lines", ("vmbr1",))
    assert archive.space(None) == {"fast": 8, "slow": 1}
    assert archive.space("other") == {"other": 9}


def test_backups_of_all_kinds_are_listed_newest_first() -> None:
    rows = [
        {"volid": "a:backup/vzdump-lxc-1-x.tar", "vmid": 1, "ctime": 1},
        {"volid": "pbs:backup/vm/2/2026-11-23T02:00:00Z", "vmid": 2, "ctime": 3},
        {"volid": "a:backup/notes.txt", "ctime": 9},
        {"volid": "a:backup/odd", "vmid": "3", "ctime": 2, "subtype": "qemu"},
    ]
    assert [(b.vmid, b.type) for b in backups_of(rows)] == [(2, "qemu"), (3, "qemu"), (1, "lxc")]


def test_backups_of_the_whole_cluster_are_listed_once(node: Node) -> None:
    volid = node.made()
    shared: dict[str, Any] = {
        "type": "storage",
        "storage": "nas",
        "content": "backup,iso",
        "status": "available",
        "shared": 1,
    }
    local: dict[str, Any] = {
        "type": "storage",
        "storage": "local",
        "content": "backup",
        "status": "available",
        "node": "pve",
    }
    rows = [
        local,
        {**shared, "node": "pve"},
        {**shared, "node": "pve2"},
        {**shared, "storage": "off", "status": "unknown"},
    ]
    cluster = Cluster(rows, datetime.now(UTC))
    assert [name for _node, name in backup_places(cluster)] == ["local", "nas"]
    assert [b.volid for b in every_backup(node.pve, cluster, None, None)[0]] == [volid]
    with pytest.raises(PreflightError, match="storages that do: local, nas"):
        every_backup(node.pve, cluster, "local-lvm", None)


def test_a_storage_that_can_not_be_read_is_told(node: Node) -> None:
    node.made()

    def fail() -> None:
        raise UnreachableError("596")

    node.pve.hooks["GET /nodes/pve/storage/local/content"] = fail
    backups, unread = every_backup(node.pve, read_cluster(node.pve), None, None)
    assert backups == []
    assert unread == ["The backups on local of pve are not in the list: 596"]
