# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every way through a run shares: its settings, its tools, and what it does with any guest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .errors import NHIError, ProxmoxError
from .graph import DependencyGraph
from .guest import DESTROY, STOP, Check, Found, GuestPlan, assess_impact, guest_facts
from .guest_admission import Admission, Subject
from .guest_apply import GuestChange
from .guest_capacity import Overcommit
from .guest_identity import Identity, check_expected
from .guest_known import read_known
from .guest_reader import Api, Cluster, live_address
from .guest_rescan import Rescan
from .guest_spec import Wanted
from .guest_wait import Patience
from .history_keeper import keep_nothing
from .impact import Impact
from .interrupts import Interrupts
from .journal import Journal, new_operation
from .reservations import QUARANTINE_SECONDS, Reservations


@dataclass(frozen=True)
class Settings:
    """What does not describe the guest but the run."""

    state_dir: Path
    check_mode: bool = False
    graph: DependencyGraph | None = None
    brain_vmid: int = 100
    confirm: str | None = None
    replace: str | None = None
    allow_impact: bool = False
    made_by: Collection[str] | None = None
    limits: Overcommit = field(default_factory=Overcommit)
    expect: Identity | None = None
    patience: Patience = field(default_factory=Patience)
    rescan: Rescan | None = None
    tell: Callable[[str], None] = lambda _text: None
    # Hears what is about to be changed, just before the first step.
    keep: Callable[[str], None] = keep_nothing
    quarantine_seconds: float = QUARANTINE_SECONDS
    admission: Admission = field(default_factory=Admission)
    # Hears the operation just before it makes a guest.
    announce: Callable[[str], None] = lambda _operation: None


@dataclass
class Outcome:
    """What was done, or in check mode would be."""

    plan: GuestPlan
    vm: dict[str, Any] | None
    operation: str
    # The guest whose place this one took, or in check mode would take.
    replaced: dict[str, Any] | None = None


class GuestRun:
    """One run for one guest."""

    def __init__(self, api: Api, wanted: Wanted, settings: Settings) -> None:
        self.api = api
        self.wanted = wanted
        self.settings = settings
        self.operation = new_operation()
        self.journal = Journal(settings.state_dir, self.operation, f"{wanted.name} {wanted.state}")
        self.reservations = Reservations(settings.state_dir, settings.quarantine_seconds)
        self.interrupts = Interrupts()
        # Whether the guest is certain, so that state.json may be brought up to date for its name.
        self.looked = False

    def shown(self, plan: GuestPlan, vm: dict[str, Any] | None = None) -> Outcome:
        """A plan that goes no further: a check run shows it, and a real run is refused with all that failed."""
        if not self.settings.check_mode:
            plan.refuse_if_failed()
        return Outcome(plan, vm, self.operation)

    def admit(self, cluster: Cluster, plan: GuestPlan, found: Found | None = None, *more: str) -> None:
        """Ask the gate, once the plan is complete and before anything is done."""
        subject = Subject.of(found) if found else Subject(self.wanted.name, tuple(self.wanted.tags or ()))
        self.settings.admission.ask(self.api, cluster, plan, self.operation, subject, *more)

    def identify(self, plan: GuestPlan, found: Found) -> list[Check]:
        """The guest is the one that the last scan knows, and the one that was expected."""
        now, expect = Identity.of(found), self.settings.expect
        plan.identity = now.as_dict()
        destructive = any(a.kind in (STOP, DESTROY) for a in plan.actions)
        known = read_known(self.settings.state_dir).check(now, destructive=True)
        if not known.passed:
            # Writing the newcomer into state.json would let the next run through without anybody having looked.
            self.looked = False
            if not destructive:
                plan.warnings.append(known.message)
                known = replace(known, passed=True)
        return [known, *([check_expected(expect, now)] if expect else [])]

    def impact_warnings(self, found: Found) -> list[str]:
        """Said where a guest is to go and nobody can know what depends on it."""
        if self.settings.graph is not None:
            return []
        return [f"No dependency graph was read, so nobody knows what depends on {found.label}."]

    def impact(self, cluster: Cluster, found: Found) -> Impact:
        """Which services would miss the guest."""
        return assess_impact(self.settings.graph, found, cluster.running())

    def facts(self, found: Found, address: str | None = None) -> dict[str, Any]:
        """The guest in the operator's words, with its address if anybody can tell it."""
        facts = guest_facts(found)
        if facts["address"] is None and found.running:
            # Good to know, but nothing to fail for: the agent may be missing, or not be ours to ask.
            with contextlib.suppress(ProxmoxError):
                facts["address"] = address or live_address(self.api, found)
        return facts

    @contextlib.contextmanager
    def releasing(self) -> Iterator[None]:
        """Give back what was reserved when the block fails."""
        try:
            yield
        except BaseException:
            self.interrupts.mute()
            # What stays behind when this fails too is marked as abandoned by our own end.
            with contextlib.suppress(NHIError):
                self.reservations.release(self.operation)
            raise

    def settle(self, plan: GuestPlan, last: Callable[[], None]) -> None:
        """Do what is left after a success, which it can not turn into a failure."""
        try:
            last()
        except NHIError as e:
            plan.warnings.append(f"{self.wanted.name} is {self.wanted.state} as asked for, but: {e}")

    def keep_state(self, what: str | None = None) -> None:
        """The state as it is before the first step goes into the history; HistoryError when it can not."""
        self.settings.keep(f"{self.wanted.name} {what or self.wanted.state}")

    def changer(self, wanted: Wanted | None = None) -> GuestChange:
        """What carries a plan out, once the state is kept; ``wanted`` is the wish with what was found on the way."""
        self.keep_state()
        return GuestChange(self.api, wanted or self.wanted, self.journal, self.interrupts, self.settings.patience)
