# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a wish to its fulfilment: read, plan, refuse or show, reserve, act, report."""

from __future__ import annotations

from dataclasses import replace

from .errors import AlreadyExistsError, GuestReplacedError
from .guest import UNPLANNED, Check, Found, GuestPlan
from .guest_addresses import fixed_addresses
from .guest_bystanders import own_guests
from .guest_config import restart_words
from .guest_growth import check_growth
from .guest_guards import check_made_by
from .guest_identity import Identity, check_expected
from .guest_new import NewGuest
from .guest_plan import plan_absent, plan_existing
from .guest_privileges import change_needs, check_privileges
from .guest_readdress import Readdressing
from .guest_reader import (
    Api,
    Cluster,
    look_up_guest,
    read_cluster,
    read_guest,
    read_pending,
    refuse_if_changed,
)
from .guest_record import guests_of
from .guest_replace import Replacement
from .guest_replace_plan import check_replace, misfits
from .guest_run import GuestRun, Outcome, Settings
from .guest_spec import Wanted
from .reservations import AppearedMeanwhileError

_LOOKS = 3


class GuestManager(GuestRun):
    """Brings one guest into the wanted state."""

    def __init__(self, api: Api, wanted: Wanted, settings: Settings) -> None:
        super().__init__(api, wanted, settings)
        self._found: Found | None = None

    def run(self) -> Outcome:
        """Look, plan and, outside check mode, act; a signal on the way is an error like any other."""
        check_replace(self.wanted, self.settings.replace)
        with self.interrupts:
            try:
                outcome = self._look_and_act()
            except GuestReplacedError:
                self.looked = False  # the newcomer is nobody's to get used to before a person looked
                self.settings.admission.withdraw()
                raise
            except BaseException:
                self.interrupts.mute()
                if not self.journal.kept:
                    self.settings.admission.withdraw()
                raise
            finally:
                self.interrupts.mute()
                self.journal.close()
                self._rescan()
            self.settings.admission.done()
            return outcome

    def _rescan(self) -> None:
        """Whatever the outcome, let state.json show what is there now."""
        rescan, name = self.settings.rescan, self.wanted.name
        if rescan is None or self.settings.check_mode:
            return
        begun = guests_of(self.journal.entries)
        vmids = own_guests(self.api, self.operation, self.journal.entries)
        if not self.looked and self._found is not None:
            vmids.discard(self._found.vmid)
        names = {name} if self.looked and not begun and not rescan.shows(name, self._found) else set()
        for text in rescan(self.api, vmids, names):
            self.settings.tell(text)

    def _look_and_act(self) -> Outcome:
        for _count in range(_LOOKS - 1):
            try:
                return self._once()
            except AppearedMeanwhileError:
                continue
        return self._once()

    def _once(self) -> Outcome:
        cluster, wanted = read_cluster(self.api), self.wanted
        found, check = look_up_guest(self.api, cluster, wanted)
        # Whatever else the name may mean, state.json is brought up to date only for a guest that is certain.
        self.looked, self._found = check.passed, found
        if found is not None:
            return (self._destroy if wanted.state == "absent" else self._change)(cluster, found, check)
        if wanted.creates and check.name != "exists":
            return self._create(cluster, check)
        if not check.passed:
            return self.shown(GuestPlan(checks=[check], idle=UNPLANNED))
        if wanted.state == "absent":
            idle = f"No guest that this token may see is called {wanted.name}: nothing to do."
            return Outcome(GuestPlan(idle=idle), None, self.operation)
        if not wanted.creates:
            text = f"{wanted.name} does not exist and can not be {wanted.state}: create it with state: started"
            check = Check("exists", passed=False, message=text)
            return self.shown(GuestPlan(checks=[check], idle=UNPLANNED))
        return self._create(cluster, check)

    # A guest that is there

    def _destroy(self, cluster: Cluster, found: Found, exists: Check) -> Outcome:
        settings = self.settings
        plan = plan_absent(
            self.wanted, found, self.impact(cluster, found),
            brain_vmid=settings.brain_vmid, confirm=settings.confirm, allow_impact=settings.allow_impact,
        )  # fmt: skip
        plan.warnings += self.impact_warnings(found)
        if settings.made_by is not None:
            plan.checks.append(check_made_by(found, settings.made_by))
        plan.checks[:0] = [exists, *self.identify(plan, found)]
        plan.checks.append(check_privileges(self.api, change_needs(found, plan.actions)))
        if settings.check_mode:
            self.admit(cluster, plan, found)
            return self.shown(plan)
        plan.refuse_if_failed()
        self.admit(cluster, plan, found)
        changer = self.changer()
        changer.destroy(plan, found)
        plan.warnings += changer.warnings
        self.settle(plan, lambda: self.reservations.forget(found.name, found.vmid, fixed_addresses(found)))
        return Outcome(plan, None, self.operation)

    def _change(self, cluster: Cluster, found: Found, exists: Check) -> Outcome:
        differs = misfits(self.wanted, found, cluster.guests)
        if self.settings.replace is not None and differs.all:
            return Replacement(self, cluster, found, exists, differs).carry_out()
        found = replace(found, pending=read_pending(self.api, found))
        addresses = Readdressing(self.api, cluster, found, self.wanted, self.reservations)
        plan = self._change_plan(cluster, found, exists, addresses, addresses.wanted)
        plan.warnings += differs.warnings(found.name)
        if self.settings.check_mode:
            self.admit(cluster, plan, found)
            facts = self.facts(found)
            return self.shown(plan, {k: plan.after.get(k, v) for k, v in facts.items()})
        plan.refuse_if_failed()
        address = None
        if plan.changed:
            refuse_if_changed(self.api, found)
            with addresses.held(self.operation, plan) as wanted:
                if wanted != addresses.wanted:
                    plan = self._change_plan(cluster, found, exists, addresses, wanted)
                    plan.refuse_if_failed()
                self.admit(cluster, plan, found)
                changer = self.changer()
                address = changer.change(plan, found)
            self.settle(plan, lambda: addresses.keep(self.operation))
            plan.warnings += changer.warnings
            found = read_guest(
                self.api, {"type": found.type, "node": found.node, "vmid": found.vmid, "pool": found.pool}
            )
            plan.identity = Identity.of(found).as_dict()
            bound = found
            self.settle(plan, lambda: addresses.keep(self.operation, bound))
            pending = read_pending(self.api, found)
            if pending is not None:
                plan.restart_required = restart_words(pending, plan.waiting)
        return Outcome(plan, self.facts(found, address), self.operation)

    def _change_plan(
        self, cluster: Cluster, found: Found, exists: Check, addresses: Readdressing, wanted: Wanted
    ) -> GuestPlan:
        plan = plan_existing(wanted, found, self.impact(cluster, found))
        plan.checks[:0] = [exists, *self.identify(plan, found)]
        plan.checks += addresses.checks
        plan.warnings += addresses.warnings
        if plan.changed:
            plan.checks += check_growth(self.api, cluster, found, plan, self.settings.limits)
            plan.checks.append(check_privileges(self.api, change_needs(found, plan.actions)))
        return plan

    # A guest that is not there yet

    def _create(self, cluster: Cluster, exists: Check) -> Outcome:
        new = NewGuest(self, cluster, self.wanted)
        plan = new.foresee()
        expected = [check_expected(self.settings.expect, None)] if self.settings.expect else []
        first = [exists, *expected]
        plan.checks[:0] = first
        if self.settings.check_mode:
            self.admit(cluster, plan)
            return self.shown(plan, plan.after)
        plan.refuse_if_failed()
        with self.releasing():
            plan, place = new.reserve()
            self.admit(cluster, plan)
            while True:
                changer = self.changer(new.wanted)
                changer.before_start = new.refuse_latecomers
                self.settings.announce(self.operation)
                try:
                    address = changer.create(plan, place)
                except AlreadyExistsError:
                    self.settings.admission.refuse_departure(place.vmid)
                    plan, place = new.reserve_another(place.vmid)
                    continue
                break
        plan.checks[:0] = first
        plan.warnings += changer.warnings
        self.interrupts.mute()  # the guest is complete: what is left is to say so
        return Outcome(plan, new.bind(plan, place, address), self.operation)
