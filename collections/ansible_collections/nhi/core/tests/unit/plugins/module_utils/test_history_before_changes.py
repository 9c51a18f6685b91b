# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state is in the history before anything is changed, and only then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.about import this_program
from ansible_collections.nhi.core.plugins.module_utils.errors import HistoryError
from ansible_collections.nhi.core.plugins.module_utils.guest_backup import BackupWish
from ansible_collections.nhi.core.plugins.module_utils.guest_backup_manager import BackupManager, BackupRun
from ansible_collections.nhi.core.plugins.module_utils.guest_guards import Guards, GuestName
from ansible_collections.nhi.core.plugins.module_utils.guest_recovery import settle
from ansible_collections.nhi.core.plugins.module_utils.guest_restore import RestoreWish
from ansible_collections.nhi.core.plugins.module_utils.guest_restore_manager import RestoreManager
from ansible_collections.nhi.core.plugins.module_utils.guest_snapshot import SnapshotWish
from ansible_collections.nhi.core.plugins.module_utils.guest_snapshot_manager import SnapshotManager, SnapshotRun
from ansible_collections.nhi.core.plugins.module_utils.history import History
from ansible_collections.nhi.core.plugins.module_utils.history_keeper import Keeper
from ansible_collections.nhi.core.plugins.module_utils.journal import Journal
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import empty_document, utc_now
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.guest_lab import REDIS, GuestLab

GUEST = GuestName("redis")


class Lab(GuestLab):
    """A node with a guest, whose every write is preceded by a look at the history."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        StateStore(self.state_dir).write(empty_document(this_program("test"), utc_now()), expected_checksum=None)
        self.kept_after: list[int] = []
        self.begun_after = 0

    def keep(self, what: str) -> None:
        self.kept_after.append(len(self.writes()))
        Keeper(self.state_dir, "test")(what)

    def begin(self) -> None:
        """What is tested comes now."""
        self.kept_after.clear()
        self.begun_after = len(self.writes())

    def writes(self) -> list[str]:
        return [f"{method} {path}" for method, path, _data in self.pve.calls if method != "GET"]

    def act(self, **options: Any) -> Any:
        return self.run({**REDIS, **options}, keep=self.keep, confirm="redis")

    def replace(self) -> Any:
        return self.run({**REDIS, "unprivileged": False}, keep=self.keep, confirm="redis", replace="redis")

    def backup(self, **run: Any) -> Any:
        return BackupManager(self.pve, BackupRun(keep=self.keep, **run)).present(BackupWish(GUEST))

    def snapshot(self, state: str = "present", **run: Any) -> Any:
        wish = SnapshotWish(GUEST, "before", state)
        return SnapshotManager(self.pve, wish, SnapshotRun(Guards(confirm="redis"), keep=self.keep, **run)).run()

    def remove_backup(self) -> Any:
        made = self.backup().backup
        self.begin()
        return BackupManager(self.pve, BackupRun(keep=self.keep)).absent(GUEST, made.volid)

    def restore(self) -> Any:
        made = self.backup().backup
        self.begin()
        wish = RestoreWish(GuestName("redis-copy"), made.volid)
        return RestoreManager(self.pve, wish, BackupRun(keep=self.keep), self.state_dir).run()

    def settle(self) -> Any:
        journal = Journal(self.state_dir, "op-dead", "redis started")
        journal.write("make", guest={"kind": "lxc", "node": "pve", "vmid": 105, "name": "redis"})
        self.pve.guests[105]["config"]["description"] = "nhi: op-dead"
        journal.keep()
        journal.close()
        return settle(self.pve, self.state_dir, check_mode=False, tell=self.told.append, keep=self.keep)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path)
    lab.run(REDIS)
    return lab


CHANGES: dict[str, Callable[[Lab], Any]] = {
    "create": lambda lab: lab.act(name="other"),
    "change": lambda lab: lab.act(memory=768),
    "replace": lambda lab: lab.replace(),
    "stop": lambda lab: lab.act(state="stopped"),
    "destroy": lambda lab: lab.act(state="absent"),
    "take a snapshot": lambda lab: lab.snapshot(),
    "back up": lambda lab: lab.backup(),
    "remove a backup": lambda lab: lab.remove_backup(),
    "restore": lambda lab: lab.restore(),
    "settle": lambda lab: lab.settle(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_before_each_kind_of_change_the_state_is_kept(lab: Lab, change: Callable[[Lab], Any]) -> None:
    state = StateStore(lab.state_dir).read()
    lab.begin()
    change(lab)
    [snapshot] = History(lab.state_dir).snapshots()
    assert snapshot.checksum == state.checksum
    assert lab.kept_after[0] == lab.begun_after < len(lab.writes())
    assert snapshot.note.reason.startswith("before test: ")


@pytest.mark.parametrize("change", ["create", "change", "destroy", "take a snapshot", "back up"])
def test_a_history_that_can_not_be_written_stops_the_change_before_its_first_step(lab: Lab, change: str) -> None:
    before = lab.writes(), lab.reserved()
    (lab.state_dir / "state_history").write_text("in the way")
    with pytest.raises(HistoryError, match="state_history can not be"):
        CHANGES[change](lab)
    assert (lab.writes(), lab.reserved()) == before


def test_a_check_run_and_a_run_without_change_keep_nothing(lab: Lab) -> None:
    lab.act()
    lab.run({**REDIS, "memory": 999}, keep=lab.keep, check_mode=True)
    lab.snapshot(check_mode=True)
    lab.backup(check_mode=True)
    assert lab.kept_after == []
    assert not (lab.state_dir / "state_history").exists()
