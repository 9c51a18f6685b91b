# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A snapshot from wish to fulfilment: read, plan, refuse or show, act, report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .guest import UNPLANNED, Action, Found, GuestPlan
from .guest_admission import Subject
from .guest_config import flag
from .guest_guards import Guards
from .guest_identity import Identity
from .guest_privileges import Need, check_privileges
from .guest_reader import Api, Cluster, guest_path, read_cluster, read_guest, refuse_if_changed
from .guest_rescan import Rescan
from .guest_snapshot import (
    DESCRIBE,
    REMOVE,
    ROLLBACK,
    TAKE,
    Snapshot,
    SnapshotWish,
    foretold,
    has,
    plan_absent,
    plan_present,
    plan_rollback,
    snapshots_of,
)
from .guest_work import TaskRunner, meant_guest, row_of
from .history_keeper import keep_nothing
from .interrupts import Interrupts
from .journal import new_operation

_PRIVILEGES = {ROLLBACK: "VM.Snapshot.Rollback|VM.Snapshot"}


@dataclass(frozen=True)
class SnapshotRun:
    """What does not describe the snapshot but the run."""

    guards: Guards
    check_mode: bool = False
    task_seconds: float = 300.0
    rescan: Rescan | None = None
    tell: Callable[[str], None] = lambda _text: None
    keep: Callable[[str], None] = keep_nothing


@dataclass
class SnapshotOutcome:
    """What was done, or in check mode would be."""

    plan: GuestPlan
    found: Found | None
    snapshots: list[Snapshot]


class SnapshotManager:
    """Brings one snapshot of one guest into the wanted state."""

    def __init__(self, api: Api, wish: SnapshotWish, run: SnapshotRun) -> None:
        self._api = api
        self._wish = wish
        self._run = run
        self._interrupts = Interrupts()
        self._tasks = TaskRunner(api, self._interrupts, run.task_seconds)

    def run(self) -> SnapshotOutcome:
        """Look, plan and, outside check mode, act."""
        with self._interrupts:
            cluster = read_cluster(self._api)
            found, exists = meant_guest(self._api, cluster, self._wish.guest)
            if found is None:
                plan = GuestPlan(checks=[exists, *self._run.guards.expected(None)], idle=UNPLANNED)
                if not self._run.check_mode:
                    plan.refuse_if_failed()
                return SnapshotOutcome(plan, None, [])
            snapshots = self._list(found)
            if self._wish.state == "rollback":
                then = self._config_of(found) if has(snapshots, self._wish.snapshot) else {}
                impact = self._run.guards.impact(cluster.running(), found)
                plan = plan_rollback(self._wish, found, snapshots, then, self._run.guards, impact)
            elif self._wish.state == "absent":
                plan = plan_absent(self._wish, found, snapshots)
            else:
                plan = plan_present(self._wish, found, snapshots, supported=self._supported(found))
            if plan.changed and self._wish.state != "rollback":
                plan.checks[:0] = self._run.guards.identify(found, destructive=False)
            if plan.changed or not exists.passed:
                plan.checks.insert(0, exists)
            return self._carry_out(cluster, plan, found, snapshots)

    def _carry_out(self, cluster: Cluster, plan: GuestPlan, found: Found, snapshots: list[Snapshot]) -> SnapshotOutcome:
        plan.identity = Identity.of(found).as_dict()
        needs = [Need(_PRIVILEGES.get(a.kind, "VM.Snapshot"), (f"/vms/{found.vmid}",)) for a in plan.actions]
        if needs:
            plan.checks.append(check_privileges(self._api, needs))
        if not self._run.check_mode:
            plan.refuse_if_failed()
        self._run.guards.admission.ask(self._api, cluster, plan, new_operation(), Subject.of(found))
        if self._run.check_mode or not plan.changed:
            return SnapshotOutcome(plan, found, foretold(self._wish, snapshots, plan))
        refuse_if_changed(self._api, found)
        self._run.keep(f"{found.name} snapshot {self._wish.snapshot} {self._wish.state}")
        try:
            for action in plan.actions:
                self._act(action, found)
        finally:
            self._interrupts.mute()
            self._rescan(found)
        plan.warnings += self._tasks.warnings
        found = read_guest(self._api, row_of(found))
        plan.identity = Identity.of(found).as_dict()
        return SnapshotOutcome(plan, found, self._list(found))

    def _rescan(self, found: Found) -> None:
        """Whatever the outcome, let state.json show the guest as it is now."""
        if self._run.rescan is not None:
            for text in self._run.rescan(self._api, {found.vmid}):
                self._run.tell(text)

    def _act(self, action: Action, found: Found) -> None:
        name = self._wish.snapshot
        whole = guest_path(found.type, found.node, found.vmid, "snapshot")
        one = (*whole, name)
        what = f"snapshot {name} of {found.label}"
        if action.kind == TAKE:
            self._tasks.run(f"taking {what}", lambda: self._api.post(whole, action.data))
        elif action.kind == REMOVE:
            self._tasks.run(f"removing {what}", lambda: self._api.delete(one))
        elif action.kind == ROLLBACK:
            self._tasks.run(f"going back to {what}", lambda: self._api.post((*one, "rollback"), action.data))
        elif action.kind == DESCRIBE:
            self._api.put((*one, "config"), {"description": self._wish.description})

    def _list(self, found: Found) -> list[Snapshot]:
        return snapshots_of(self._api.get(guest_path(found.type, found.node, found.vmid, "snapshot")))

    def _config_of(self, found: Found) -> dict[str, object]:
        path = guest_path(found.type, found.node, found.vmid, "snapshot", self._wish.snapshot, "config")
        return dict(self._api.get(path))

    def _supported(self, found: Found) -> bool:
        path = guest_path(found.type, found.node, found.vmid, "feature")
        return flag(self._api.get(path, {"feature": "snapshot"}).get("hasFeature"))
