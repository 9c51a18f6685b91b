# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A wanted guest against a found one: the plan that a check run shows and a real run carries out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import PreflightError
from .graph import CRITICALITIES, DependencyGraph
from .guest_config import Drift, Placement, drift, fixed_address, flag, memory_mib
from .guest_spec import DEFAULT_BRIDGE, KINDS, LXC, QEMU, Wanted, split_marker, split_tags

CREATE, CLONE, CONFIGURE, RESIZE = "create", "clone", "configure", "resize"
START, STOP, DESTROY, PROTECT, REPLACE = "start", "stop", "destroy", "protect", "replace"


@dataclass(frozen=True)
class Found:
    """A guest as the API describes it right now."""

    vmid: int
    type: str
    node: str
    name: str
    running: bool
    config: Mapping[str, Any]
    pool: str | None = None
    lock: str | None = None
    # The task that holds the lock, in words; None when nobody knows.
    holder: str | None = None

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{KINDS[self.type]} {self.vmid} {self.name} on {self.node}"

    @property
    def template(self) -> bool:
        return flag(self.config.get("template"))

    @property
    def protected(self) -> bool:
        return flag(self.config.get("protection"))

    @property
    def tags(self) -> tuple[str, ...]:
        return split_tags(self.config.get("tags"))

    @property
    def operation(self) -> str | None:
        """The operation that made it, if it was made here."""
        return split_marker(self.config.get("description"))[1]


@dataclass(frozen=True)
class Action:
    """One step, in words and as what guest_apply has to do."""

    kind: str
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One pre-flight check; the message of a failed one says what to do."""

    name: str
    passed: bool
    message: str

    @classmethod
    def of(cls, name: str, *, passed: bool, good: str, bad: str) -> Check:
        """A check with the sentence that fits its outcome."""
        return cls(name, passed, good if passed else bad)


@dataclass(frozen=True)
class Impact:
    """What a guest carries and what stops working without it, in the order to stop."""

    services: tuple[str, ...] = ()
    dependents: tuple[Mapping[str, Any], ...] = ()

    @property
    def active(self) -> tuple[str, ...]:
        """Dependents that run, or of which nobody knows that they do not."""
        return tuple(d["name"] for d in self.dependents if d["active"])

    def as_dict(self) -> dict[str, Any]:
        """For the result of a module."""
        worst = max((CRITICALITIES.index(d["criticality"]) for d in self.dependents), default=None)
        return {
            "services": list(self.services),
            "dependents": [dict(d) for d in self.dependents],
            "stop_order": [d["name"] for d in self.dependents],
            "start_order": [d["name"] for d in reversed(self.dependents)],
            "criticality": None if worst is None else CRITICALITIES[worst],
        }


@dataclass
class GuestPlan:
    """Everything a run would do; empty ``actions`` mean that nothing needs doing."""

    actions: list[Action] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    impact: Impact = field(default_factory=Impact)
    restart_required: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    idle: str = "Nothing to do."  # what to say when there are no actions

    @property
    def changed(self) -> bool:
        return bool(self.actions)

    @property
    def failed(self) -> list[Check]:
        return [c for c in self.checks if not c.passed]

    def refuse_if_failed(self) -> None:
        """PreflightError with every failed check, before anything is done."""
        if self.failed:
            raise PreflightError("; ".join(c.message for c in self.failed))

    def summary(self) -> list[str]:
        """The plan in sentences for a person."""
        lines = [a.text for a in self.actions] or [self.idle]
        for dependent in self.impact.dependents:
            lines.append(
                f"{dependent['name']} ({dependent['criticality']}) would stop working: it needs {dependent['through']}."
            )
        lines += [f"Refused: {c.message}" for c in self.failed]
        if self.restart_required:
            lines.append(f"Takes effect at the next restart: {', '.join(self.restart_required)}.")
        return lines


def assess_impact(graph: DependencyGraph | None, guest: Found, running: Mapping[str, bool]) -> Impact:
    """What depends on a guest. ``running`` has every guest of the cluster by name."""
    if graph is None:
        return Impact()
    services = graph.services_on(guest.name, guest.vmid)
    dependents = []
    for dependent in graph.dependents(services):
        service = dependent.service
        carrier = service.guest or (service.name if service.name in running else None)
        dependents.append(
            {
                "name": service.name,
                "criticality": service.criticality,
                "through": dependent.through,
                "guest": carrier,
                # A service nobody placed on a guest can not be seen: unknown is never "not running".
                "active": True if carrier is None else running.get(carrier, False),
            }
        )
    return Impact(services, tuple(dependents))


def plan_create(wanted: Wanted, place: Placement) -> GuestPlan:
    """Make a guest that is not there."""
    kind = wanted.type or LXC
    label = f"{KINDS[kind]} {place.vmid} {wanted.name}"
    plan = GuestPlan(after=_new_facts(wanted, place, kind))
    plan.actions.append(Action(CLONE if place.clone_of else CREATE, _creation_sentence(wanted, place, label)))
    if place.clone_of:
        plan.actions.append(Action(CONFIGURE, f"Give {label} its own size, network and SSH keys"))
        if wanted.disk_gib:
            plan.actions.append(
                Action(RESIZE, f"Grow the disk of {label} to {wanted.disk_gib} GiB where it is smaller")
            )
    if wanted.state == "started":
        plan.actions.append(Action(START, f"Start {label}"))
    if wanted.protection:
        plan.actions.append(Action(PROTECT, f"Protect {label} against being destroyed"))
    return plan


def plan_existing(wanted: Wanted, found: Found, impact: Impact) -> GuestPlan:
    """Correct what differs, then bring the guest into the wanted state of power."""
    _refuse_other_kind(wanted, found)
    difference = drift(wanted, found.config, found.type)
    plan = GuestPlan(impact=impact if wanted.state in ("stopped", "restarted") else Impact())
    _plan_drift(plan, difference, found)
    _plan_power(plan, wanted, found)
    plan.before.update(difference.before)
    plan.after.update(difference.after)
    restarted = any(a.kind == STOP for a in plan.actions) or not found.running
    plan.restart_required = [] if restarted else difference.needs_restart
    if wanted.pool and found.pool != wanted.pool:
        plan.warnings.append(
            f"{found.label} is in pool {found.pool or '(none)'}, not {wanted.pool}: a pool is set at creation only"
        )
    if plan.actions:
        plan.checks.append(check_unlocked(found))
    return plan


def plan_absent(
    wanted: Wanted, found: Found, impact: Impact, *, brain_vmid: int, confirm: str | None, allow_impact: bool
) -> GuestPlan:
    """Destroy a guest; PreflightError at once when it is the Brain, whatever else was said."""
    if is_brain(found, brain_vmid):
        raise PreflightError(f"{found.label} is the Brain, which controls all others: nhi_vm never destroys it")
    if wanted.type and wanted.type != found.type:
        _refuse_other_kind(wanted, found)
    plan = GuestPlan(impact=impact, before=guest_facts(found))
    if found.running:
        plan.actions.append(Action(STOP, f"Shut {found.label} down, and stop it if it does not end"))
    plan.actions.append(Action(DESTROY, f"Destroy {found.label} with its disks"))
    plan.checks = [
        Check("not_brain", passed=True, message=f"{found.label} is not the Brain"),
        check_unlocked(found),
        check_unprotected(found),
        check_dependents(found, impact, allow_impact=allow_impact),
        check_confirmed(found, confirm, "destroying"),
    ]
    return plan


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


def guest_facts(found: Found) -> dict[str, Any]:
    """A guest in the operator's words, as modules return it."""
    address = fixed_address(found.config, found.type)
    return {
        "vmid": found.vmid,
        "name": found.name,
        "type": found.type,
        "node": found.node,
        "status": "running" if found.running else "stopped",
        "address": str(address.ip) if address else None,
        "cores": int(found.config.get("cores") or 0) or None,
        "memory": memory_mib(found.config),
        "tags": list(found.tags),
        "pool": found.pool,
        "protection": found.protected,
        "onboot": flag(found.config.get("onboot")),
        "description": split_marker(found.config.get("description"))[0],
    }


def describe_drift(difference: Drift) -> str:
    """``memory 512 -> 1024, tags ...`` for a sentence."""
    return ", ".join(
        f"{k} {_plain(difference.before[k])} -> {_plain(v)}" for k, v in difference.after.items() if k != "disk"
    )


def _plan_drift(plan: GuestPlan, difference: Drift, found: Found) -> None:
    if difference.set or difference.delete:
        data = {**difference.set, "delete": ",".join(difference.delete) or None, "digest": found.config.get("digest")}
        plan.actions.append(Action(CONFIGURE, f"Set on {found.label}: {describe_drift(difference)}", data))
    if difference.grow:
        disk, size = difference.grow
        data = {"disk": disk, "size": f"{size}G"}
        plan.actions.append(Action(RESIZE, f"Grow {disk} of {found.label} to {size} GiB", data))


def _plan_power(plan: GuestPlan, wanted: Wanted, found: Found) -> None:
    wants_running = {"started": True, "restarted": True, "stopped": False}.get(wanted.state)
    if wants_running is None:
        return
    if wants_running and found.template:
        raise PreflightError(f"{found.label} is a template, which never runs: clone it into a guest of another name")
    if found.running and wanted.state in ("stopped", "restarted"):
        plan.actions.append(Action(STOP, f"Shut {found.label} down, and stop it if it does not end"))
    if wants_running and (not found.running or wanted.state == "restarted"):
        plan.actions.append(Action(START, f"Start {found.label}"))
    if found.running != wants_running:
        plan.before["status"] = "running" if found.running else "stopped"
        plan.after["status"] = "running" if wants_running else "stopped"


def _refuse_other_kind(wanted: Wanted, found: Found) -> None:
    if wanted.type and wanted.type != found.type:
        raise PreflightError(
            f"{found.label} is of type {found.type}, not {wanted.type}, and stays so: choose another name or type"
        )
    if wanted.node and wanted.node != found.node:
        raise PreflightError(
            f"{found.label} is not on node {wanted.node}: nhi_vm does not migrate; correct node or migrate it first"
        )


def _creation_sentence(wanted: Wanted, place: Placement, label: str) -> str:
    if place.clone_of:
        origin = f"as a clone of VM {place.clone_of}"
    elif place.template:
        origin = f"from {place.template}"
    else:
        origin = "with an empty disk"
    size: Iterable[str] = (
        f"{wanted.cores} core{'s' if wanted.cores > 1 else ''}" if wanted.cores else "",
        f"{wanted.memory_mib} MiB" if wanted.memory_mib else "",
        f"{wanted.disk_gib} GiB" if wanted.disk_gib else "",
        f"on {place.storage}" if place.storage else "",
    )
    address = place.address or "an address by DHCP"
    return (
        f"Create {label} on {place.node} {origin} ({', '.join(filter(None, size)) or 'default size'}),"
        f" {address} on {wanted.network.bridge or DEFAULT_BRIDGE}"
    )


def _new_facts(wanted: Wanted, place: Placement, kind: str) -> dict[str, Any]:
    return {
        "vmid": place.vmid,
        "name": wanted.name,
        "type": kind,
        "node": place.node,
        "status": "running" if wanted.state == "started" else "stopped",
        "address": str(place.address.ip) if place.address else None,
        "cores": wanted.cores,
        "memory": wanted.memory_mib if kind == QEMU and place.clone_of else wanted.memory_mib or 512,
        "tags": list(wanted.all_tags() or ()),
        "pool": wanted.pool,
        "protection": bool(wanted.protection),
        "onboot": bool(wanted.onboot),
        "description": wanted.description or "",
    }


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"
    return "none" if value is None or value == "" else str(value)
