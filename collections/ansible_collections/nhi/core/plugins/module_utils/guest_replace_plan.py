# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest that only another guest can become what was asked for: what is wrong with it, and the plan to replace it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .errors import PreflightError
from .guest import CONFIGURE, DESTROY, START, STOP, Action, Check, Found, GuestPlan, guest_facts
from .guest_checks import check_dependents, check_kind, check_survives, check_unlocked, check_unprotected
from .guest_config import fixed_address, fixed_address6, flag, root_disk
from .guest_drift import drift
from .guest_interfaces import interface_facts
from .guest_network import WantedNetwork
from .guest_placement import is_template
from .guest_spec import KINDS, LXC, Wanted, aside_name
from .impact import Impact

_CLONE = re.compile(r"guest (?P<vmid>\d+)(?: (?P<name>\S+))?")


@dataclass(frozen=True)
class Misfits:
    """What can not be changed in place, as statements; ``silent`` are those that an ordinary run leaves as they are."""

    refused: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Everything for which a guest would have to be replaced."""
        return self.refused + self.silent

    def warnings(self, name: str) -> list[str]:
        """What an ordinary run says of what it leaves."""
        return [
            f"{text}: that stays so, unless it is made anew without its data (replace: {name})" for text in self.silent
        ]


def check_replace(wanted: Wanted, name: str | None) -> None:
    """PreflightError when the option ``replace`` can not be meant: it has to be the guest's own name."""
    if name is None:
        return
    if name != wanted.name:
        raise PreflightError(
            f"replace is {name}, but the guest is {wanted.name}: nothing is replaced under another name,"
            " correct replace or leave it out"
        )
    if not wanted.creates:
        raise PreflightError(
            f"replace: {name} makes a guest anew, and state {wanted.state} makes none: use started or present,"
            " or leave replace out"
        )


def misfits(wanted: Wanted, found: Found, rows: Iterable[Mapping[str, Any]]) -> Misfits:
    """What of a wish only another guest can fulfil. ``rows`` has every guest of the cluster."""
    refused = [_statement(c.message) for c in check_kind(wanted.type, wanted.node, found)]
    if wanted.type in (None, found.type):
        refused += [_statement(text) for _name, text in drift(wanted, found.config, found.type).problems]
    if wanted.vmid not in (None, found.vmid) and all(r.get("vmid") != wanted.vmid for r in rows):
        refused.append(f"{found.label} does not have VMID {wanted.vmid}")
    return Misfits(tuple(refused), tuple(_storage(wanted, found) + _origin(wanted, found)))


def successor(wanted: Wanted, found: Found) -> Wanted:
    """What is made in the place of a guest: it runs if that ran, and what was not said of node and address stays."""
    meant = replace(wanted, type=wanted.type or (None if wanted.clone else found.type))
    return replace(
        meant,
        state="started" if found.running else wanted.state,
        # A clone can often be made only where its source lies.
        node=wanted.node or (None if meant.source else found.node),
        network=_inherited(wanted.network, found),
    )


def aside_change(found: Found) -> dict[str, Any]:
    """The parameters of a ``PUT config`` that set a guest aside: two guests of one address must not start by chance."""
    return {
        "hostname" if found.type == LXC else "name": aside_name(found.name, found.vmid),
        "delete": "onboot" if flag(found.config.get("onboot")) else None,
        "digest": found.config.get("digest"),
    }


def steps_before(found: Found) -> list[Action]:
    """What is done to a guest before another one is made in its place."""
    steps = [Action(STOP, f"Shut {found.label} down, and stop it if it does not end")] if found.running else []
    no_start = ", and let it not start with its node" if flag(found.config.get("onboot")) else ""
    text = f"Rename {found.label} to {aside_name(found.name, found.vmid)}{no_start}"
    return [*steps, Action(CONFIGURE, text, aside_change(found))]


def steps_after(found: Found) -> list[Action]:
    """What is done to it once the other one is complete."""
    label = f"{KINDS[found.type]} {found.vmid} {aside_name(found.name, found.vmid)} on {found.node}"
    return [Action(DESTROY, f"Destroy {label} with its disks")]


def steps_needed(found: Found) -> list[Action]:
    """All that must be allowed beforehand, also to take it back."""
    back = [Action(START, "")] if found.running else []
    return [*steps_before(found), *steps_after(found), *back]


def plan_replacement(
    wanted: Wanted, found: Found, creation: GuestPlan, impact: Impact, differs: Misfits,
    *, brain_vmid: int, allow_impact: bool,
) -> GuestPlan:  # fmt: skip
    """Make a guest in the place of another: the new one is complete before the old one is destroyed."""
    plan = GuestPlan(impact=impact, before=guest_facts(found), after=creation.after)
    plan.actions = [*steps_before(found), *creation.actions, *steps_after(found)]
    plan.checks = [
        _check_possible(wanted, found, differs),
        check_survives(found, brain_vmid, impact, allow_impact=allow_impact),
        check_unlocked(found),
        check_unprotected(found),
        check_dependents(found, impact, allow_impact=allow_impact),
        *creation.checks,
    ]
    if wanted.vmid == found.vmid:
        text = f"{found.label} has VMID {found.vmid} until another guest has its place: leave vmid out"
        plan.checks.append(Check("vmid", passed=False, message=text))
    plan.warnings = list(creation.warnings)
    return plan


def _check_possible(wanted: Wanted, found: Found, differs: Misfits) -> Check:
    """It was asked for by name, and why that is more than a change."""
    wrong = []
    if found.template:
        wrong.append(f"{found.label} is a template, which others may be clones of: make a new one under another name")
    if wanted.source in (found.name, str(found.vmid)):
        wrong.append(f"{found.label} can not be replaced by a clone of itself: clone it under another name")
    good = f"replacing {found.name} was asked for: {'; '.join(differs.all)}"
    return Check.of("replace", passed=not wrong, good=good, bad="; ".join(wrong))


def _statement(message: str) -> str:
    """A refusal without its remedy."""
    return message.rpartition(": ")[0] or message


def _storage(wanted: Wanted, found: Found) -> list[str]:
    name, _size = root_disk(found.config, found.type)
    storage = str(found.config.get(name) or "").partition(":")[0]
    if wanted.storage is None or not storage or storage == wanted.storage:
        return []
    return [f"the disk {name} of {found.label} lies on {storage}, not on {wanted.storage}"]


def _origin(wanted: Wanted, found: Found) -> list[str]:
    """Whether it was made from something else, where that is known: Proxmox VE itself does not remember."""
    meant = replace(wanted, type=wanted.type or found.type)
    wish, origin = meant.source or meant.template, found.origin
    if wish is None or origin is None:
        return []
    cloned = _CLONE.fullmatch(origin)
    if meant.source is None:
        fits = cloned is None and is_template(origin, wish)
    else:
        fits = cloned is not None and wish in (cloned["vmid"], cloned["name"])
    return [] if fits else [f"{found.label} was made from {origin}, not from {wish}"]


def _inherited(network: WantedNetwork, found: Found) -> WantedNetwork:
    old = next((i for i in interface_facts(found.config, found.type) if i["index"] == 0), None)
    if old is None or network.bridge not in (None, old["bridge"]) or network.tag not in (None, old["tag"] or 0):
        return network  # it will be in another network, where the address says nothing
    ip, ip6 = fixed_address(found.config, found.type), fixed_address6(found.config, found.type)
    if network.ip is None and ip is not None:
        network = replace(network, ip=ip, gateway=network.gateway or old["gateway"])
    if network.ip6 is None and ip6 is not None:
        network = replace(network, ip6=ip6, gateway6=network.gateway6 or old["gateway6"])
    return replace(
        network, bridge=network.bridge or old["bridge"], tag=old["tag"] if network.tag is None else network.tag
    )
