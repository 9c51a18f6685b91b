# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replaces a guest by another one of its name: judged together, and the old one goes when the new one is complete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .guest import REPLACE, Check, Found, GuestPlan
from .guest_addresses import fixed_addresses
from .guest_config import Placement
from .guest_new import NewGuest
from .guest_privileges import change_needs
from .guest_reader import Cluster
from .guest_replace_apply import GuestReplacement
from .guest_replace_plan import Misfits, plan_replacement, steps_needed, successor
from .guest_run import GuestRun, Outcome


@dataclass
class Replacement:
    """One guest that was found, and what takes its place; ``differs`` says why."""

    run: GuestRun
    cluster: Cluster
    found: Found
    exists: Check
    differs: Misfits

    def carry_out(self) -> Outcome:
        """Look at both, refuse or show, then act."""
        run, found = self.run, self.found
        needs = change_needs(found, steps_needed(found))
        new = NewGuest(run, self.cluster, successor(run.wanted, found), found, needs)
        plan = self._plan(new.foresee())
        plan.checks[:0] = [self._exists(), *run.identify(plan, found)]
        if run.settings.check_mode:
            run.admit(self.cluster, plan, found, REPLACE)
            outcome = run.shown(plan, plan.after)
            outcome.replaced = self._facts(destroyed=False)
            return outcome
        plan.refuse_if_failed()
        changer = GuestReplacement(run.api, new.wanted, run.journal, run.interrupts, run.settings.patience)
        changer.before_start = new.refuse_latecomers
        with run.releasing():
            creation, place = new.reserve()
            run.admit(self.cluster, self._plan(creation), found, REPLACE)
            run.keep_state("replaced")
            done = changer.make(found, creation, place, self._another(new))
        checks = plan.checks
        plan = self._plan(done.plan)
        plan.checks = checks
        addresses = fixed_addresses(found)
        left = changer.finish(done)
        if left is None:
            run.settle(plan, lambda: run.reservations.take_over(run.operation, found.name, found.vmid, addresses))
        plan.warnings += [*changer.warnings, *([left] if left else [])]
        return Outcome(
            plan, new.bind(plan, done.place, done.address), run.operation, self._facts(destroyed=left is None)
        )

    def _another(self, new: NewGuest) -> Callable[[int], tuple[GuestPlan, Placement]]:
        def another(vmid: int) -> tuple[GuestPlan, Placement]:
            self.run.settings.admission.refuse_departure(vmid)
            return new.reserve_another(vmid)

        return another

    def _plan(self, creation: GuestPlan) -> GuestPlan:
        run, settings = self.run, self.run.settings
        plan = plan_replacement(
            run.wanted, self.found, creation, run.impact(self.cluster, self.found), self.differs,
            brain_vmid=settings.brain_vmid, allow_impact=settings.allow_impact,
        )  # fmt: skip
        plan.warnings += run.impact_warnings(self.found)
        return plan

    def _exists(self) -> Check:
        """A VMID that nobody has is one that the new guest can have."""
        wish = self.run.wanted.vmid
        if self.exists.passed or wish is None or any(r.get("vmid") == wish for r in self.cluster.guests):
            return self.exists
        return Check("exists", passed=True, message=f"{self.found.label} is there")

    def _facts(self, *, destroyed: bool) -> dict[str, Any]:
        found = self.found
        return {
            "vmid": found.vmid, "name": found.name, "type": found.type, "node": found.node, "destroyed": destroyed,
        }  # fmt: skip
