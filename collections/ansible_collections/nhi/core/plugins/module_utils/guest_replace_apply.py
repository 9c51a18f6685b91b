# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries a replacement out: until the new guest is complete everything can be taken back, after that nothing is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .errors import AlreadyExistsError, NHIError
from .guest import DESTROY, PROTECT, Action, Found, GuestPlan
from .guest_addresses import fixed_addresses
from .guest_apply import GuestChange
from .guest_config import Placement
from .guest_reader import refuse_if_changed, refuse_if_replaced
from .guest_record import COMMIT, GuestRecord
from .guest_replace_plan import aside_change

Reserved = tuple[GuestPlan, Placement]


@dataclass(frozen=True)
class Successor:
    """A guest that was made in the place of ``old``, which is stopped and bears another name now."""

    plan: GuestPlan
    place: Placement
    address: str | None
    old: Found

    @property
    def protects(self) -> bool:
        """Whether it is to be protected once it is there to stay."""
        return any(a.kind == PROTECT for a in self.plan.actions)


class GuestReplacement(GuestChange):
    """One run's change of one guest for another."""

    def make(self, old: Found, plan: GuestPlan, place: Placement, another: Callable[[int], Reserved]) -> Successor:
        """Set the old guest aside and make the new one; ``another`` reserves anew when its VMID was just taken."""
        refuse_if_changed(self._api, old)
        name, addresses = old.name, fixed_addresses(old)
        with self._undoing():
            old = self._set_aside(old)
            while True:
                try:
                    address = self._create_all(plan, place)
                except AlreadyExistsError:
                    if GuestRecord.of(self._journal.operation, self._journal.entries).made is not None:
                        raise
                    plan, place = another(place.vmid)
                    continue
                break
            done = Successor(plan, place, address, old)
            self._interrupts.mute()
            self._journal.write(COMMIT, target=self._target(old), name=name, addresses=addresses, protect=done.protects)
        self._journal.keep()
        return done

    def finish(self, done: Successor) -> str | None:
        """Protect the new guest and destroy the old one; what went wrong is returned, and left to the next run."""
        old = done.old
        try:
            if done.protects:
                self._protect(done.place)
            refuse_if_replaced(self._api, old)
            self._change_step(Action(DESTROY, f"Destroy {old.label}"), old)
        except NHIError as e:
            return (
                f"The new {self._wanted.name} is complete, but {e}. {old.label} is left, stopped: the next run of"
                " nhi_vm for any guest destroys it; start it or protect it if it is to stay"
            )
        self._journal.settled()
        return None

    def _set_aside(self, old: Found) -> Found:
        if old.running:
            self._stop(old)
            refuse_if_replaced(self._api, old)  # shutting down took its time
        now = self._reread(old.type, old.node, old.vmid)
        self._configure(now, aside_change(now))
        return self._reread(old.type, old.node, old.vmid)
