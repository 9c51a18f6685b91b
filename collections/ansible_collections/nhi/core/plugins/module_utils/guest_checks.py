# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pre-flight checks of a guest that is there: what was looked at, and what to do where it says no."""

from __future__ import annotations

from .guest import Check, Found
from .guest_spec import LXC
from .impact import Impact


def is_brain(found: Found, brain_vmid: int) -> bool:
    """The Brain is the guest with the tag ``brain`` or with the configured VMID."""
    return found.vmid == brain_vmid or "brain" in found.tags


def check_unlocked(found: Found) -> Check:
    """Nothing else is being done to the guest."""
    tool = "pct" if found.type == LXC else "qm"
    held = f"{found.lock}, held by {found.holder}" if found.holder else found.lock
    return Check.of(
        "lock",
        passed=not found.lock,
        good=f"{found.label} is not locked",
        bad=f"{found.label} is locked ({held}): wait for that operation to end; a lock left behind is removed on"
        f" the node with '{tool} unlock {found.vmid}'",
    )


def check_unprotected(found: Found) -> Check:
    """Nobody said that the guest's data must stay."""
    return Check.of(
        "protection",
        passed=not found.protected,
        good=f"{found.label} is not protected",
        bad=f"{found.label} is protected: if it may really go, set protection: false in a run of its own first",
    )


def check_dependents(found: Found, impact: Impact, *, allow_impact: bool) -> Check:
    """No service loses what it needs, unless that was allowed."""
    return Check.of(
        "dependents",
        passed=allow_impact or not impact.active,
        good=f"nothing that runs depends on {found.label}" if not impact.active else "allow_impact is true",
        bad=f"{', '.join(impact.active)} would stop working without {found.label}: stop them first,"
        f" in this order, or set allow_impact: true{_window_hint(impact)}",
    )


def _window_hint(impact: Impact) -> str:
    outlook = impact.outlook
    return "" if outlook is None or outlook.open else f"; the next safe window is {outlook}"


def check_confirmed(found: Found, confirm: str | None, what: str) -> Check:
    """What can not be taken back was asked for with the guest's name; ``what`` is such as "destroying"."""
    return Check.of(
        "confirmed",
        passed=confirm == found.name,
        good=f"{what} {found.name} was confirmed",
        bad=f"{what} {found.label} needs confirm: {found.name}" + (f", not {confirm}" if confirm else ""),
    )


def check_critical(found: Found, brain_vmid: int, impact: Impact, *, allow_brain: bool, allow_impact: bool) -> Check:
    """Neither the Brain nor a critical service is given up, unless somebody says that it is meant."""
    wrong: list[str] = []
    allowed: list[str] = []
    if is_brain(found, brain_vmid):
        text = f"{found.label} is the Brain, which controls all others: if it is really meant, set allow_brain: true"
        (allowed if allow_brain else wrong).append("allow_brain" if allow_brain else text)
    if impact.critical:
        text = f"{found.label} carries {', '.join(impact.critical)}, which the dependency graph calls critical:"
        (allowed if allow_impact else wrong).append(
            "allow_impact" if allow_impact else f"{text} if that may really go, set allow_impact: true"
        )
    good = f"{' and '.join(allowed)} is true" if allowed else f"{found.label} is not critical"
    return Check.of("critical", passed=not wrong, good=good, bad="; ".join(wrong))


def check_survives(found: Found, brain_vmid: int, impact: Impact, *, allow_impact: bool) -> Check:
    """The Brain is never destroyed, whatever else was said, and what is critical only if that was said."""
    if is_brain(found, brain_vmid):
        text = f"{found.label} is the Brain, which controls all others: nhi_vm never destroys it"
        return Check("critical", passed=False, message=text)
    return check_critical(found, brain_vmid, impact, allow_brain=False, allow_impact=allow_impact)


def check_kind(wanted_type: str | None, wanted_node: str | None, found: Found) -> list[Check]:
    """Type and node of a guest stay what they are."""
    checks = []
    if wanted_type and wanted_type != found.type:
        text = f"{found.label} is of type {found.type}, not {wanted_type}, and stays so: choose another name or type"
        checks.append(Check("type", passed=False, message=text))
    if wanted_node and wanted_node != found.node:
        text = f"{found.label} is not on node {wanted_node}: nhi_vm does not migrate; correct node or migrate it first"
        checks.append(Check("node", passed=False, message=text))
    return checks


def check_runnable(found: Found) -> Check:
    """A template is never started."""
    return Check.of(
        "template",
        passed=not found.template,
        good=f"{found.label} is not a template",
        bad=f"{found.label} is a template, which never runs: clone it into a guest of another name",
    )
