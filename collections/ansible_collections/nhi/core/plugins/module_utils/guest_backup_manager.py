# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups from wish to fulfilment: make one when none is young enough, remove one, restore one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .errors import GuestChangeError
from .guest import UNPLANNED, Check, Found, GuestPlan
from .guest_admission import Subject
from .guest_backup import Backup, BackupWish, plan_absent, plan_present, young_enough
from .guest_backup_reader import (
    backup_storage,
    check_takes_backups,
    checked,
    find_backup,
    read_archive,
    read_backups,
    storage_of,
)
from .guest_guards import Guards, GuestName
from .guest_identity import Identity
from .guest_privileges import Need, check_privileges
from .guest_reader import Api, Cluster, read_cluster, refuse_if_changed
from .guest_rescan import Rescan
from .guest_work import TaskRunner, meant_guest
from .history_keeper import keep_nothing
from .interrupts import Interrupts
from .journal import new_operation


@dataclass(frozen=True)
class BackupRun:
    """What does not describe the backup but the run."""

    check_mode: bool = False
    task_seconds: float = 3600.0
    guards: Guards = field(default_factory=Guards)
    rescan: Rescan | None = None
    tell: Callable[[str], None] = lambda _text: None
    keep: Callable[[str], None] = keep_nothing

    def keep_state(self, api: Api, vmids: set[int]) -> None:
        """Whatever the outcome, let state.json show these guests as they are now."""
        if self.rescan is not None and not self.check_mode:
            for text in self.rescan(api, vmids):
                self.tell(text)


@dataclass
class BackupOutcome:
    """What was done, or in check mode would be. ``vm`` is what was restored, or would be."""

    plan: GuestPlan
    backup: Backup | None = None
    backups: list[Backup] = field(default_factory=list)
    vm: dict[str, Any] | None = None


class BackupManager:
    """Makes or removes one backup of one guest."""

    def __init__(self, api: Api, run: BackupRun) -> None:
        self._api = api
        self._run = run
        self._interrupts = Interrupts()
        self._tasks = TaskRunner(api, self._interrupts, run.task_seconds)

    def present(self, wish: BackupWish) -> BackupOutcome:
        """Back the guest up, unless a backup of it is young enough."""
        with self._interrupts:
            cluster = read_cluster(self._api)
            found, exists = meant_guest(self._api, cluster, wish.guest)
            if found is None:
                return self._shown(self._without_guest(cluster, wish, exists), [])
            storage, check = self._storage(found, wish)
            backups = read_backups(self._api, found.node, storage, found.vmid) if storage else []
            young = self._young(wish, found, backups) if exists.passed else None
            if young is not None:
                return BackupOutcome(GuestPlan(), young, backups)
            plan = plan_present(wish, found, storage)
            plan.identity = Identity.of(found).as_dict()
            plan.checks[:0] = [exists, *self._run.guards.identify(found, destructive=False), check]
            plan.checks.append(check_privileges(self._api, _needs(wish, found, storage)))
            plan.before["backups"] = [b.volid for b in backups]
            plan.after["backups"] = ["(a new one)", *plan.before["backups"]] if storage else plan.before["backups"]
            if not self._run.check_mode:
                plan.refuse_if_failed()
            self._run.guards.admission.ask(self._api, cluster, plan, new_operation(), Subject.of(found))
            if storage is None or self._run.check_mode:
                return self._shown(plan, backups)
            return self._back_up(plan, found, storage, backups)

    def _without_guest(self, cluster: Cluster, wish: BackupWish, exists: Check) -> GuestPlan:
        """What can be said without knowing the guest."""
        plan = GuestPlan(checks=[exists, *self._run.guards.expected(None)], idle=UNPLANNED)
        if wish.storage is not None:
            storage = wish.storage
            plan.checks.append(checked("storage", lambda: check_takes_backups(cluster, storage))[1])
        return plan

    def _storage(self, found: Found, wish: BackupWish) -> tuple[str | None, Check]:
        return checked("storage", lambda: backup_storage(self._api, found.node, wish.storage))

    def _shown(self, plan: GuestPlan, backups: list[Backup]) -> BackupOutcome:
        """A plan that goes no further: a check run shows it, and a real run is refused with all that failed."""
        if not self._run.check_mode:
            plan.refuse_if_failed()
        return BackupOutcome(plan, None, backups)

    def absent(self, guest: GuestName, volid: str) -> BackupOutcome:
        """Remove the backup, if it is there and is one of the guest's."""
        with self._interrupts:
            storage = storage_of(volid)
            cluster = read_cluster(self._api)
            node, everything = find_backup(self._api, cluster, volid, None)
            backup = next((b for b in everything if b.volid == volid), None)
            if backup is None:
                return BackupOutcome(GuestPlan())
            backups = [b for b in everything if b.vmid == backup.vmid]
            plan = plan_absent(guest.name, backup, read_archive(self._api, node, backup), backups)
            needs = [Need("Datastore.Allocate|Datastore.AllocateSpace", (f"/storage/{storage}",))]
            plan.checks.append(check_privileges(self._api, needs))
            left = [b for b in backups if b.volid != volid]
            if not self._run.check_mode:
                plan.refuse_if_failed()
            self._run.guards.admission.ask(self._api, cluster, plan, new_operation(), Subject(guest.name))
            if not self._run.check_mode:
                self._run.keep(f"{volid} removed")
                path = ("nodes", node, "storage", storage, "content", volid)
                self._tasks.run(f"removing {volid}", lambda: self._api.delete(path))
                plan.warnings += self._tasks.warnings
            return BackupOutcome(plan, None, left)

    def _young(self, wish: BackupWish, found: Found, backups: list[Backup]) -> Backup | None:
        for backup in young_enough(wish, found, backups, datetime.now(UTC)):
            if read_archive(self._api, found.node, backup).name == found.name:
                return backup
        return None

    def _back_up(self, plan: GuestPlan, found: Found, storage: str, before: list[Backup]) -> BackupOutcome:
        refuse_if_changed(self._api, found)
        data = plan.actions[0].data
        self._run.keep(f"{found.name} backed up")
        try:
            self._tasks.run(f"backing up {found.label}", lambda: self._start(found, data))
        finally:
            # The guest may still be locked, or have been stopped for it.
            self._interrupts.mute()
            self._run.keep_state(self._api, {found.vmid})
        plan.warnings += self._tasks.warnings
        known = {b.volid for b in before}
        backups = read_backups(self._api, found.node, storage, found.vmid)
        made = next((b for b in backups if b.volid not in known), None)
        plan.after["backups"] = [b.volid for b in backups]
        return BackupOutcome(plan, made, backups)

    def _start(self, found: Found, data: Mapping[str, Any]) -> Any:
        task = self._api.post(("nodes", found.node, "vzdump"), data)
        if task == "OK":  # what Proxmox VE says when the guest is not on that node
            raise GuestChangeError(f"{found.label} left its node before it was backed up: run again")
        return task


def _needs(wish: BackupWish, found: Found, storage: str | None) -> list[Need]:
    needs = [Need("VM.Backup", (f"/vms/{found.vmid}",))]
    if storage is not None:
        needs.append(Need("Datastore.AllocateSpace", (f"/storage/{storage}",)))
        needs += [Need("Datastore.Allocate", (f"/storage/{storage}",))] if wish.keep else []
    return needs
