# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pre-flight checks of a guest that is there: what was looked at, and what to do where it says no."""

from __future__ import annotations

from .guest import Check, Found, Impact
from .guest_spec import LXC


def is_brain(found: Found, brain_vmid: int) -> bool:
    """The Brain is the guest with the tag ``brain`` or with the configured VMID."""
    return found.vmid == brain_vmid or "brain" in found.tags


def check_unlocked(found: Found) -> Check:
    """Nothing else is being done to the guest."""
    tool = "pct" if found.type == LXC else "qm"
    held = f"{found.lock}, held by {found.holder}" if found.holder else found.lock
    return Check.of(
        "not_locked",
        passed=not found.lock,
        good=f"{found.label} is not locked",
        bad=f"{found.label} is locked ({held}): wait for that operation to end; a lock left behind is removed on"
        f" the node with '{tool} unlock {found.vmid}'",
    )


def check_unprotected(found: Found) -> Check:
    """Nobody said that the guest's data must stay."""
    return Check.of(
        "not_protected",
        passed=not found.protected,
        good=f"{found.label} is not protected",
        bad=f"{found.label} is protected: if it may really go, set protection: false in a run of its own first",
    )


def check_dependents(found: Found, impact: Impact, *, allow_impact: bool) -> Check:
    """No service loses what it needs, unless that was allowed."""
    return Check.of(
        "no_active_dependents",
        passed=allow_impact or not impact.active,
        good=f"nothing that runs depends on {found.label}" if not impact.active else "allow_impact is true",
        bad=f"{', '.join(impact.active)} would stop working without {found.label}: stop them first,"
        " or set allow_impact: true",
    )


def check_confirmed(found: Found, confirm: str | None, what: str) -> Check:
    """What can not be taken back was asked for with the guest's name; ``what`` is such as "destroying"."""
    return Check.of(
        "confirmed",
        passed=confirm == found.name,
        good=f"{what} {found.name} was confirmed",
        bad=f"{what} {found.label} needs confirm: {found.name}" + (f", not {confirm}" if confirm else ""),
    )


def check_not_brain(found: Found, brain_vmid: int, *, allow_brain: bool) -> Check:
    """The guest that controls all others is meant only when somebody says so."""
    return Check.of(
        "not_brain",
        passed=allow_brain or not is_brain(found, brain_vmid),
        good=f"{found.label} is not the Brain" if not is_brain(found, brain_vmid) else "allow_brain is true",
        bad=f"{found.label} is the Brain, which controls all others: if it is really meant, set allow_brain: true",
    )
