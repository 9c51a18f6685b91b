# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest that is not there yet: where it would go and what it would get, read and checked, then reserved."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from .addresses import Address
from .errors import PreflightError
from .guest import Found, GuestPlan
from .guest_addresses import TakenAddresses, fixed_addresses, guest_macs, taken_addresses, taken_by_others
from .guest_config import Placement
from .guest_identity import Identity
from .guest_plan import plan_create
from .guest_privileges import Need, check_privileges, creation_needs
from .guest_reader import Cluster, read_guest
from .guest_run import GuestRun
from .guest_site import Allocator, choose_site
from .guest_spec import LXC, Wanted
from .reservations import Choice


class NewGuest:
    """Looks at once at everything that the guest needs.

    ``instead_of`` is a guest whose place it takes, and ``needs`` what else the run must be allowed.
    """

    def __init__(
        self,
        run: GuestRun,
        cluster: Cluster,
        wanted: Wanted,
        instead_of: Found | None = None,
        needs: Sequence[Need] = (),
    ) -> None:
        self._run = run
        self._needs = needs
        self._cluster = cluster
        self._leaving = (instead_of.name, instead_of.vmid) if instead_of else None
        others = cluster
        if instead_of is not None:
            # It is stopped when the new one starts, but its disks are there until the end.
            others = Cluster([r for r in cluster.rows if r.get("vmid") != instead_of.vmid], cluster.read_at)
        self._site = choose_site(run.api, others, wanted, run.settings.limits)
        self.wanted = replace(wanted, type=self._site.kind)
        self._taken = self._taken_addresses(instead_of)
        handed = self._handed(instead_of) if instead_of else []
        self._allocator = Allocator(run.api, self.wanted, cluster, self._taken, self._site.room, handed)

    def foresee(self) -> GuestPlan:
        """What would be made, with nothing written anywhere."""
        held = self._run.reservations.peek(self._taken.gone, self._cluster.read_at, self._leaving)
        choice, checks = self._allocator.foresee(held)
        self._site.checks += checks
        return self._plan(choice)

    def reserve(self) -> tuple[GuestPlan, Placement]:
        """Settle on a VMID and an address that others can not choose any more."""
        run = self._run
        choice = self._allocator.settle(
            lambda choose: run.reservations.reserve(
                run.operation, self.wanted.name, self._cluster.read_at, choose, self._taken.gone, self._leaving
            )
        )
        plan = self._plan(choice)
        plan.refuse_if_failed()
        return plan, self._place(choice)

    def reserve_another(self, vmid: int) -> tuple[GuestPlan, Placement]:
        """The same after somebody else was given the VMID; PreflightError if it was asked for by number."""
        self._allocator.vmid_taken(vmid)
        return self.reserve()

    def refuse_latecomers(self) -> None:
        """PreflightError when a reserved address proves to be taken; asked while nothing uses it yet."""
        self._allocator.refuse_latecomers()

    def bind(self, plan: GuestPlan, place: Placement, address: str | None) -> dict[str, Any]:
        """The guest was made: tell the ledger and the plan how to know it again, and return its facts."""
        run, facts = self._run, {**plan.after, "address": address}
        row = {"type": self.wanted.type or LXC, "node": place.node, "vmid": place.vmid, "pool": self.wanted.pool}

        def bound() -> None:
            found = read_guest(run.api, row)
            plan.identity = Identity.of(found).as_dict()
            run.reservations.keep(run.operation, found.type, guest_macs(found))
            facts.update(run.facts(found, address))

        run.settle(plan, lambda: run.reservations.keep(run.operation))
        run.settle(plan, bound)
        return facts

    def _taken_addresses(self, instead_of: Found | None) -> TakenAddresses:
        run = self._run
        if not any(n.wants_fixed for n in self.wanted.networks):
            return TakenAddresses()
        if instead_of is not None:
            return taken_by_others(run.api, self._cluster, instead_of, run.settings.state_dir)
        return taken_addresses(run.api, self._cluster, run.settings.state_dir)

    def _handed(self, old: Found) -> list[Address]:
        """The addresses of the guest that goes, that of its first interface first."""
        lines = self._run.reservations.used()
        known = [r.address for r in lines if (r.name, r.vmid) == self._leaving and r.address]
        return [ip_address(a) for a in dict.fromkeys([*fixed_addresses(old), *known])]

    def _place(self, choice: Choice) -> Placement:
        return self._site.placement(choice, self._allocator.interfaces(choice))

    def _plan(self, choice: Choice) -> GuestPlan:
        place = self._place(choice)
        plan = plan_create(self.wanted, place)
        plan.checks = list(self._site.checks)
        needs = list(self._needs)
        if place.vmid:
            # A wish that can not be written down has failed another check already.
            with contextlib.suppress(PreflightError):
                needs += creation_needs(self.wanted, place, plan.actions)
        if needs:
            plan.checks.append(check_privileges(self._run.api, needs))
        plan.warnings = [*self._site.warnings, *self._taken.warnings, *self._allocator.warnings]
        return plan
