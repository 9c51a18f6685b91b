# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest from a backup: read, plan, refuse or show, reserve, restore, undo what was half done."""

from __future__ import annotations

import contextlib
from pathlib import Path

from .errors import AlreadyExistsError, NHIError, PreflightError
from .guest import UNPLANNED, Action, Check, Found, GuestPlan, guest_facts
from .guest_addresses import TakenAddresses
from .guest_admission import Subject
from .guest_apply import GuestChange
from .guest_archive import Archive
from .guest_backup import Backup
from .guest_backup_manager import BackupOutcome, BackupRun
from .guest_backup_reader import checked_site, find_backup, read_archive
from .guest_bystanders import own_guests
from .guest_capacity import Ask
from .guest_checks import check_unlocked, check_unprotected
from .guest_config import Placement, fixed_address
from .guest_identity import Identity
from .guest_privileges import check_privileges, restore_needs
from .guest_reader import Api, Cluster, configured_addresses, look_up_guest, read_cluster, read_guest
from .guest_restore import RestoreWish, is_restored_from, plan_beside, plan_replace
from .guest_room import Room
from .guest_site import Allocator
from .guest_spec import Wanted
from .guest_wait import Patience
from .guest_work import row_of
from .interrupts import Interrupts
from .journal import Journal, new_operation
from .reservations import Reservations


class RestoreManager:
    """Restores one backup as a new guest, or in place of the guest it was made of."""

    def __init__(self, api: Api, wish: RestoreWish, run: BackupRun, state_dir: Path) -> None:
        self._api = api
        self._wish = wish
        self._run = run
        self._operation = new_operation()
        self._journal = Journal(state_dir, self._operation, f"{wish.guest.name} restored from {wish.backup}")
        self._reservations = Reservations(state_dir)
        self._interrupts = Interrupts()
        self._wanted = Wanted(wish.guest.name, "restored", vmid=wish.guest.vmid, vmids=wish.vmids, pool=wish.pool)

    def run(self) -> BackupOutcome:
        """Look, plan and, outside check mode, act."""
        with self._interrupts:
            try:
                return self._look_and_act()
            except BaseException:
                self._interrupts.mute()
                if not self._journal.kept:
                    self._run.guards.admission.withdraw()
                raise
            finally:
                self._interrupts.mute()
                self._journal.close()
                self._run.keep_state(self._api, own_guests(self._api, self._operation, self._journal.entries))

    def _look_and_act(self) -> BackupOutcome:
        cluster, guards = read_cluster(self._api), self._run.guards
        found, exists = look_up_guest(self._api, cluster, self._wish.guest)
        restored = found is not None and exists.passed and is_restored_from(found, self._wish.backup)
        if found is not None and restored and guards.confirm is None:
            return BackupOutcome(GuestPlan(), vm=guest_facts(found))
        try:
            node, backup = self._backup(cluster, found.node if found else self._wish.node)
        except PreflightError as e:
            checks = [exists, Check("backup", passed=False, message=str(e))]
            return self._unplanned(cluster, found, checks)
        archive = read_archive(self._api, node, backup)
        if found is not None:
            return self._replace(cluster, found, exists, backup, archive)
        if not exists.passed and exists.name == "exists":
            # Which guest is meant is not known, so there is nothing to restore it beside, or in place of.
            return self._unplanned(
                cluster, None, [exists, *checked_site(self._api, node, archive, self._wish.storage)], backup
            )
        return self._beside(cluster, node, exists, backup, archive)

    def _unplanned(
        self, cluster: Cluster, found: Found | None, checks: list[Check], backup: Backup | None = None
    ) -> BackupOutcome:
        """All that is wrong where no plan can be made."""
        guards = self._run.guards
        plan = GuestPlan(checks=checks, idle=UNPLANNED)
        if found is None:
            plan.checks += guards.expected(None)
        else:
            plan.impact = guards.impact(cluster.running(), found)
            plan.identity = Identity.of(found).as_dict()
            plan.checks += [check_unlocked(found), check_unprotected(found)]
            plan.checks += guards.checks(found, plan.impact, "replacing")
        if not self._run.check_mode:
            plan.refuse_if_failed()
        return BackupOutcome(plan, backup, vm=guest_facts(found) if found else None)

    def _backup(self, cluster: Cluster, wanted: str | None) -> tuple[str, Backup]:
        node, listed = find_backup(self._api, cluster, self._wish.backup, wanted)
        for backup in listed:
            if backup.volid == self._wish.backup:
                return node, backup
        raise PreflightError(
            f"{self._wish.backup} does not exist on {node}, or this token may not see it (VM.Backup on its guest):"
            " nhi_vm_backup_info lists the backups that there are"
        )

    # In the guest's own place

    def _replace(
        self, cluster: Cluster, found: Found, exists: Check, backup: Backup, archive: Archive
    ) -> BackupOutcome:
        guards = self._run.guards
        impact = guards.impact(cluster.running(), found)
        plan = plan_replace(self._wish, backup, archive, found, guards, impact)
        plan.identity = Identity.of(found).as_dict()
        plan.checks.insert(0, exists)
        plan.checks += checked_site(self._api, found.node, archive, self._wish.storage, replaces=True)
        self._check_privileges(plan, found.vmid, archive)
        if not self._run.check_mode:
            plan.refuse_if_failed()
        guards.admission.ask(self._api, cluster, plan, self._operation, Subject.of(found))
        if not self._run.check_mode:
            changer = self._changer()
            changer.destroy(plan, found)
            plan.warnings += changer.warnings
            found = read_guest(self._api, row_of(found))
            plan.identity = Identity.of(found).as_dict()
        return BackupOutcome(plan, backup, vm=guest_facts(found))

    # Beside others

    def _beside(self, cluster: Cluster, node: str, exists: Check, backup: Backup, archive: Archive) -> BackupOutcome:
        checks = [exists, *checked_site(self._api, node, archive, self._wish.storage)]
        # It is not started, so that it takes disks only: others that look for room have to know.
        room = Room(Ask(node, disks_gib=archive.space(self._wish.storage)))
        allocator = Allocator(self._api, self._wanted, cluster, TakenAddresses(), room)
        choice, more = allocator.foresee(self._reservations.peek())
        checks += more
        plan = self._plan_beside(backup, archive, node, choice.vmid)
        plan.checks += [*self._run.guards.expected(None), *checks]
        if self._run.check_mode:
            self._ask(cluster, plan)
            return BackupOutcome(plan, backup, vm=plan.after)
        plan.refuse_if_failed()
        self._ask(cluster, plan)
        try:
            plan, vmid = self._restore(cluster, allocator, backup, archive, node)
        except BaseException:
            self._interrupts.mute()
            with contextlib.suppress(NHIError):
                self._reservations.release(self._operation)
            raise
        self._interrupts.mute()  # the guest is complete: what is left is to say so
        plan.checks += checks
        with contextlib.suppress(NHIError):
            self._reservations.keep(self._operation)
        found = read_guest(self._api, {"type": backup.type, "node": node, "vmid": vmid, "pool": self._wish.pool})
        plan.identity = Identity.of(found).as_dict()
        plan.warnings += self._address_warnings(cluster, found)
        return BackupOutcome(plan, backup, vm=guest_facts(found))

    def _ask(self, cluster: Cluster, plan: GuestPlan) -> None:
        self._run.guards.admission.ask(self._api, cluster, plan, self._operation, Subject(self._wish.guest.name))

    def _restore(
        self, cluster: Cluster, allocator: Allocator, backup: Backup, archive: Archive, node: str
    ) -> tuple[GuestPlan, int]:
        name = self._wish.guest.name
        while True:
            choice = allocator.settle(
                lambda choose: self._reservations.reserve(self._operation, name, cluster.read_at, choose)
            )
            plan = self._plan_beside(backup, archive, node, choice.vmid)
            plan.refuse_if_failed()
            action: Action = plan.actions[0]
            changer = self._changer()
            try:
                changer.restore(Placement(node, choice.vmid), backup.type, action.data)
            except AlreadyExistsError:
                self._run.guards.admission.refuse_departure(choice.vmid)
                allocator.vmid_taken(choice.vmid)
                continue
            plan.warnings += changer.warnings
            return plan, choice.vmid

    def _plan_beside(self, backup: Backup, archive: Archive, node: str, vmid: int) -> GuestPlan:
        plan = plan_beside(self._wish, backup, archive, node, vmid, self._run.guards, self._operation)
        self._check_privileges(plan, vmid, archive)
        return plan

    def _address_warnings(self, cluster: Cluster, found: Found) -> list[str]:
        """Two guests of one address must not run at once."""
        address = fixed_address(found.config, found.type)
        others = [r for r in cluster.guests if r["vmid"] != found.vmid]
        owner = configured_addresses(self._api, others)[0].get(address.ip) if address else None
        if owner is None:
            return []
        return [f"{found.label} has the address of {owner}, {address}: give it another before you start it."]

    def _check_privileges(self, plan: GuestPlan, vmid: int, archive: Archive) -> None:
        needs = restore_needs(vmid, self._wish.pool, archive, self._wish.storage, plan.actions)
        plan.checks.append(check_privileges(self._api, needs))

    def _changer(self) -> GuestChange:
        """What carries the plan out, once the state is kept as it was before."""
        self._run.keep(f"{self._wish.guest.name} restored from {self._wish.backup}")
        patience = Patience(wait=False, task=self._run.task_seconds)
        return GuestChange(self._api, self._wanted, self._journal, self._interrupts, patience)
