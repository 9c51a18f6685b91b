# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a wish to its fulfilment: read, plan, refuse or show, reserve, act, report."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

from .errors import AlreadyExistsError, GuestReplacedError, NHIError, PreflightError, ProxmoxError
from .graph import DependencyGraph
from .guest import DESTROY, STOP, Check, Found, GuestPlan, assess_impact, guest_facts
from .guest_addresses import TakenAddresses, fixed_addresses, guest_macs, taken_addresses
from .guest_apply import GuestChange
from .guest_capacity import Overcommit
from .guest_config import restart_words
from .guest_growth import check_growth
from .guest_guards import check_made_by
from .guest_identity import Identity, check_expected
from .guest_known import read_known
from .guest_placement import check_owners
from .guest_plan import plan_absent, plan_create, plan_existing
from .guest_privileges import change_needs, check_privileges, creation_needs
from .guest_reader import (
    Api,
    Cluster,
    live_address,
    look_up_guest,
    owners_of,
    read_cluster,
    read_guest,
    read_pending,
    refuse_if_changed,
)
from .guest_record import guests_of
from .guest_rescan import Rescan
from .guest_site import Allocator, Site, choose_site
from .guest_spec import LXC, Wanted
from .guest_wait import Patience
from .impact import Impact
from .interrupts import Interrupts
from .journal import Journal
from .reservations import QUARANTINE_SECONDS, AppearedMeanwhileError, Choice, Held, Reservations

_LOOKS = 3


@dataclass(frozen=True)
class Settings:
    """What does not describe the guest but the run."""

    state_dir: Path
    check_mode: bool = False
    graph: DependencyGraph | None = None
    brain_vmid: int = 100
    confirm: str | None = None
    allow_impact: bool = False
    made_by: str | None = None
    limits: Overcommit = field(default_factory=Overcommit)
    expect: Identity | None = None
    patience: Patience = field(default_factory=Patience)
    rescan: Rescan | None = None
    tell: Callable[[str], None] = lambda _text: None
    quarantine_seconds: float = QUARANTINE_SECONDS


@dataclass
class Outcome:
    """What was done, or in check mode would be."""

    plan: GuestPlan
    vm: dict[str, Any] | None
    operation: str


class GuestManager:
    """Brings one guest into the wanted state."""

    def __init__(self, api: Api, wanted: Wanted, settings: Settings) -> None:
        self._api = api
        self._wanted = wanted
        self._settings = settings
        self._operation = f"op-{uuid.uuid4().hex[:12]}"
        self._journal = Journal(settings.state_dir, self._operation, f"{wanted.name} {wanted.state}")
        self._reservations = Reservations(settings.state_dir, settings.quarantine_seconds)
        self._interrupts = Interrupts()
        self._looked = False
        self._found: Found | None = None

    def run(self) -> Outcome:
        """Look, plan and, outside check mode, act; a signal on the way is an error like any other."""
        with self._interrupts:
            try:
                return self._look_and_act()
            except GuestReplacedError:
                self._looked = False  # the newcomer is nobody's to get used to before a person looked
                raise
            finally:
                self._interrupts.mute()
                self._journal.close()
                self._rescan()

    def _rescan(self) -> None:
        """Whatever the outcome, let state.json show what is there now."""
        rescan, name = self._settings.rescan, self._wanted.name
        if rescan is None or self._settings.check_mode:
            return
        vmids = guests_of(self._journal.entries)
        names = {name} if self._looked and not vmids and not rescan.shows(name, self._found) else set()
        for text in rescan(self._api, vmids, names):
            self._settings.tell(text)

    def _look_and_act(self) -> Outcome:
        for _count in range(_LOOKS - 1):
            try:
                return self._once()
            except AppearedMeanwhileError:
                continue
        return self._once()

    def _once(self) -> Outcome:
        cluster, wanted = read_cluster(self._api), self._wanted
        found, check = look_up_guest(self._api, cluster, wanted)
        # Whatever else the name may mean, state.json is brought up to date only for a guest that is certain.
        self._looked, self._found = check.passed, found
        if found is not None:
            return (self._destroy if wanted.state == "absent" else self._change)(cluster, found, check)
        if wanted.creates and check.name != "exists":
            return self._create(cluster, check)
        if not check.passed:
            return self._shown(GuestPlan(checks=[check], idle="Nothing can be planned."))
        if wanted.state == "absent":
            idle = f"No guest that this token may see is called {wanted.name}: nothing to do."
            return Outcome(GuestPlan(idle=idle), None, self._operation)
        if not wanted.creates:
            text = f"{wanted.name} does not exist and can not be {wanted.state}: create it with state: started"
            check = Check("exists", passed=False, message=text)
            return self._shown(GuestPlan(checks=[check], idle="Nothing can be planned."))
        return self._create(cluster, check)

    def _shown(self, plan: GuestPlan, vm: dict[str, Any] | None = None) -> Outcome:
        """A plan that goes no further: a check run shows it, and a real run is refused with all that failed."""
        if not self._settings.check_mode:
            plan.refuse_if_failed()
        return Outcome(plan, vm, self._operation)

    # A guest that is there

    def _identify(self, plan: GuestPlan, found: Found) -> list[Check]:
        """The guest is the one that the last scan knows, and the one that was expected."""
        now, expect = Identity.of(found), self._settings.expect
        plan.identity = now.as_dict()
        destructive = any(a.kind in (STOP, DESTROY) for a in plan.actions)
        known = read_known(self._settings.state_dir).check(now, destructive=True)
        if not known.passed:
            # Writing the newcomer into state.json would let the next run through without anybody having looked.
            self._looked = False
            if not destructive:
                plan.warnings.append(known.message)
                known = replace(known, passed=True)
        return [known, *([check_expected(expect, now)] if expect else [])]

    def _destroy(self, cluster: Cluster, found: Found, exists: Check) -> Outcome:
        settings = self._settings
        plan = plan_absent(
            self._wanted, found, self._impact(cluster, found),
            brain_vmid=settings.brain_vmid, confirm=settings.confirm, allow_impact=settings.allow_impact,
        )  # fmt: skip
        if settings.graph is None:
            plan.warnings.append(f"No dependency graph was read, so nobody knows what depends on {found.label}.")
        if settings.made_by:
            plan.checks.append(check_made_by(found, settings.made_by))
        plan.checks[:0] = [exists, *self._identify(plan, found)]
        plan.checks.append(check_privileges(self._api, change_needs(found, plan.actions)))
        if settings.check_mode:
            return self._shown(plan)
        plan.refuse_if_failed()
        changer = self._changer()
        changer.destroy(plan, found)
        plan.warnings += changer.warnings
        self._settle(plan, lambda: self._reservations.forget(found.name, found.vmid, fixed_addresses(found)))
        return Outcome(plan, None, self._operation)

    def _change(self, cluster: Cluster, found: Found, exists: Check) -> Outcome:
        found = replace(found, pending=read_pending(self._api, found))
        plan = plan_existing(self._wanted, found, self._impact(cluster, found))
        plan.checks[:0] = [exists, *self._identify(plan, found)]
        if any(what.startswith("network") for what in plan.after):
            plan.checks += self._check_addresses(cluster, found, plan)
        if plan.changed:
            plan.checks += check_growth(self._api, cluster, found, plan, self._settings.limits)
            plan.checks.append(check_privileges(self._api, change_needs(found, plan.actions)))
        if self._settings.check_mode:
            facts = self._facts(found)
            return self._shown(plan, {k: plan.after.get(k, v) for k, v in facts.items()})
        plan.refuse_if_failed()
        address = None
        if plan.changed:
            refuse_if_changed(self._api, found)
            changer = self._changer()
            with self._new_address(cluster, found, plan):
                address = changer.change(plan, found)
            plan.warnings += changer.warnings
            found = read_guest(
                self._api, {"type": found.type, "node": found.node, "vmid": found.vmid, "pool": found.pool}
            )
            plan.identity = Identity.of(found).as_dict()
            pending = read_pending(self._api, found)
            if pending is not None:
                plan.restart_required = restart_words(pending, plan.waiting)
        return Outcome(plan, self._facts(found, address), self._operation)

    def _check_addresses(self, cluster: Cluster, found: Found, plan: GuestPlan) -> list[Check]:
        others = Cluster([r for r in cluster.rows if r.get("vmid") != found.vmid], cluster.read_at)
        taken = taken_addresses(self._api, others, self._settings.state_dir)
        plan.warnings += taken.warnings
        checks = []
        for network in self._wanted.networks:
            if not isinstance(network.ip, IPv4Interface):
                continue
            owner = taken.owners.get(network.ip.ip)
            checks.append(
                Check.of(
                    "address",
                    passed=not owner or owner.startswith(f"{found.vmid} "),
                    good=f"{network.ip} belongs to no other guest",
                    bad=f"{network.ip} belongs to {owner}: choose another {network.label}.ip for {found.label}",
                )
            )
        try:
            check_owners(owners_of(self._api, others.guests, self._wanted.fixed_six.keys()), self._wanted)
        except PreflightError as e:
            checks.append(Check("address", passed=False, message=str(e)))
        return checks

    @contextlib.contextmanager
    def _new_address(self, cluster: Cluster, found: Found, plan: GuestPlan) -> Iterator[None]:
        """Hold the address that the guest is to get while it gets it; the old one is free afterwards."""
        wish = self._wanted.network.ip
        if f"{self._wanted.network.label}.ip" not in plan.after or not isinstance(wish, IPv4Interface):
            yield
            return

        def choose(held: Held) -> Choice:
            owner = held.addresses.get(wish.ip)
            if owner not in (None, found.name):
                raise PreflightError(f"{wish.ip} is being given to {owner}: choose another address")
            return Choice(found.vmid, wish.ip)

        self._reservations.reserve(self._operation, found.name, cluster.read_at, choose)
        try:
            yield
        except BaseException:
            self._interrupts.mute()
            with contextlib.suppress(NHIError):
                self._reservations.release(self._operation)
            raise
        self._settle(plan, lambda: self._reservations.keep(self._operation, found.type, guest_macs(found)))

    def _impact(self, cluster: Cluster, found: Found) -> Impact:
        return assess_impact(self._settings.graph, found, cluster.running())

    def _facts(self, found: Found, address: str | None = None) -> dict[str, Any]:
        facts = guest_facts(found)
        if facts["address"] is None and found.running:
            # Good to know, but nothing to fail for: the agent may be missing, or not be ours to ask.
            with contextlib.suppress(ProxmoxError):
                facts["address"] = address or live_address(self._api, found)
        return facts

    # A guest that is not there yet

    def _create(self, cluster: Cluster, exists: Check) -> Outcome:
        site = choose_site(self._api, cluster, self._wanted, self._settings.limits)
        expected = [check_expected(self._settings.expect, None)] if self._settings.expect else []
        site.checks[:0] = [exists, *expected]
        self._wanted = replace(self._wanted, type=site.kind)
        taken = TakenAddresses()
        if any(n.ip not in (None, "dhcp", "manual") for n in self._wanted.networks):
            taken = taken_addresses(self._api, cluster, self._settings.state_dir)
        allocator = Allocator(self._api, self._wanted, cluster, taken)
        choice, checks = allocator.foresee(self._reservations.peek(taken.gone))
        site.checks += checks
        plan = self._creation_plan(site, allocator, choice, taken)
        if self._settings.check_mode:
            return self._shown(plan, plan.after)
        plan.refuse_if_failed()
        try:
            return self._create_now(cluster, site, allocator, taken)
        except BaseException:
            self._interrupts.mute()
            # What stays behind when this fails too is marked as abandoned by our own end.
            with contextlib.suppress(NHIError):
                self._reservations.release(self._operation)
            raise

    def _create_now(self, cluster: Cluster, site: Site, allocator: Allocator, taken: TakenAddresses) -> Outcome:
        while True:
            choice = allocator.settle(
                lambda choose: self._reservations.reserve(
                    self._operation, self._wanted.name, cluster.read_at, choose, taken.gone
                )
            )
            plan = self._creation_plan(site, allocator, choice, taken)
            plan.refuse_if_failed()
            place = site.placement(choice, allocator.interface(choice))
            changer = self._changer()
            try:
                address = changer.create(plan, place)
            except AlreadyExistsError:
                allocator.vmid_taken(choice.vmid)
                continue
            break
        plan.warnings += changer.warnings
        self._interrupts.mute()  # the guest is complete: what is left is to say so
        facts = {**plan.after, "address": address}
        row = {"type": self._wanted.type or LXC, "node": place.node, "vmid": place.vmid, "pool": self._wanted.pool}
        self._settle(plan, lambda: self._reservations.keep(self._operation))
        self._settle(plan, lambda: facts.update(self._bound(plan, read_guest(self._api, row), address)))
        return Outcome(plan, facts, self._operation)

    def _bound(self, plan: GuestPlan, found: Found, address: str | None) -> dict[str, Any]:
        """Facts of a guest that was just made, whose line in the ledger is told how to know it again."""
        plan.identity = Identity.of(found).as_dict()
        self._reservations.keep(self._operation, found.type, guest_macs(found))
        return self._facts(found, address)

    def _settle(self, plan: GuestPlan, last: Callable[[], None]) -> None:
        """Do what is left after a success, which it can not turn into a failure."""
        try:
            last()
        except NHIError as e:
            plan.warnings.append(f"{self._wanted.name} is {self._wanted.state} as asked for, but: {e}")

    def _creation_plan(self, site: Site, allocator: Allocator, choice: Choice, taken: TakenAddresses) -> GuestPlan:
        place = site.placement(choice, allocator.interface(choice))
        plan = plan_create(self._wanted, place)
        plan.checks = list(site.checks)
        if place.vmid:
            # A wish that can not be written down has failed another check already.
            with contextlib.suppress(PreflightError):
                needs = creation_needs(self._wanted, place, plan.actions)
                plan.checks.append(check_privileges(self._api, needs))
        plan.warnings = [*site.warnings, *taken.warnings, *allocator.warnings]
        return plan

    def _changer(self) -> GuestChange:
        return GuestChange(self._api, self._wanted, self._journal, self._interrupts, self._settings.patience)
