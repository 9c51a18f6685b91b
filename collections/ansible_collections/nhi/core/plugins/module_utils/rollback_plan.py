# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How to get from the lab as it is to the lab as it was: a plan of compensating changes, never a deed.

Each step is one call of a module with its options and its reason. Nothing is ever destroyed because it is new: what
appeared since belongs to somebody, and is only listed. What no module can take back is listed too, to be done by hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .guest_identity import Identity
from .state_diff import APPEARED, DISAPPEARED, FACT_WORDS, GUEST, SERVICE, Change, sentences

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .state_diff import Span
    from .state_document import Document, Item

RECREATE, CORRECT, START, STOP = "recreate", "correct", "start", "stop"
_ORDER = (RECREATE, CORRECT, START, STOP)
_POWER = {"running": "started", "stopped": "stopped"}
# Facts that a module can set back, and its option for them.
_OPTIONS = {"cores": "cores", "memory_mib": "memory", "tags": "tags", "protection": "protection"}
_SET_BACK = frozenset((*_OPTIONS, "status", "disk_mib", "address", "addresses"))
# What follows from others, or says only how well the guest is known.
_FOLLOWS = frozenset(("config_digest", "health", "freshness", "lock"))


@dataclass(frozen=True)
class Step:
    """One call that takes something back; needs are options that the state does not know and a person must add."""

    kind: str
    guest: str
    vmid: int
    options: dict[str, Any]
    text: str
    reason: str
    needs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    module: str = "nhi.core.nhi_vm"

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "kind": self.kind,
            "guest": self.guest,
            "vmid": self.vmid,
            "module": self.module,
            "options": self.options,
            "needs": list(self.needs),
            "text": self.text,
            "reason": self.reason,
            "notes": list(self.notes),
        }


@dataclass
class RollbackPlan:
    """What to do, what to leave alone, and what is for people."""

    steps: list[Step] = field(default_factory=list)
    left_alone: list[dict[str, Any]] = field(default_factory=list)
    by_hand: list[dict[str, Any]] = field(default_factory=list)

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "steps": [step.as_data() for step in self.steps],
            "left_alone": self.left_alone,
            "by_hand": self.by_hand,
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        if not self.steps:
            yield "Nothing has to be taken back by a module."
        for number, step in enumerate(self.steps, 1):
            yield f"{number}. {step.text}"
            yield f"   because {step.reason}"
            if step.needs:
                yield f"   needs {', '.join(step.needs)}"
            yield from (f"   {note}" for note in step.notes)
        for heading, entries in (("Left alone:", self.left_alone), ("By hand:", self.by_hand)):
            if entries:
                yield heading
                yield from (f"- {entry['text']}" for entry in entries)


def plan_rollback(
    then: Document, now: Document, changes: Iterable[Change], span: Span, *, audited: bool = False
) -> RollbackPlan:
    """The plan that takes the changes from then to now back; changes are those of `compare_states`."""
    before, after = ({g["vmid"]: g for g in document["infrastructure"]["guests"]} for document in (then, now))
    taken = {guest["name"] for guest in after.values()}
    plan = RollbackPlan()
    for change in changes:
        [sentence] = sentences([change], span, audited=audited)
        if change.kind != GUEST:
            _note_other(plan, change, sentence)
        elif change.what == APPEARED:
            _leave(plan, change, f"{sentence}; it is left alone, as it belongs to whoever made it")
        elif change.what == DISAPPEARED:
            _plan_recreation(plan, before[change.vmid or 0], sentence, after, taken)
        else:
            _plan_correction(plan, change, before[change.vmid or 0], after[change.vmid or 0], sentence)
    plan.steps.sort(key=lambda step: (_ORDER.index(step.kind), step.vmid))
    return plan


def _note_other(plan: RollbackPlan, change: Change, sentence: str) -> None:
    """Services come and go with their guests, and alerts with their causes; nodes and storage are a person's."""
    if change.kind == SERVICE and change.what != APPEARED:
        _by_hand(plan, change.label, f"{sentence}; playbooks/service.yml deploys it again, once its guest is there")
    elif change.kind in ("node", "storage"):
        _by_hand(plan, change.label, f"{sentence}; look at it on the node")


def _leave(plan: RollbackPlan, change: Change, text: str) -> None:
    plan.left_alone.append({"guest": change.name, "vmid": change.vmid, "text": text})


def _by_hand(plan: RollbackPlan, what: str, text: str) -> None:
    plan.by_hand.append({"what": what, "text": text})


def _plan_recreation(plan: RollbackPlan, guest: Item, sentence: str, after: dict[int, Item], taken: set[str]) -> None:
    label = f"guest {guest['vmid']} {guest['name']}"
    if guest["name"] in taken:
        _by_hand(plan, label, f"{sentence}; another guest is called {guest['name']} now, so decide whose name it is")
        return
    if guest["template"]:
        _by_hand(plan, label, f"{sentence}; it was a template: make it again, or restore its backup")
        return
    vmid_is_free = guest["vmid"] not in after
    options = {
        "name": guest["name"],
        "state": "started" if guest["status"] == "running" else "present",
        "type": guest["type"],
        "node": guest["node"],
        **({"vmid": guest["vmid"]} if vmid_is_free else {}),
        **{option: guest[fact] for fact, option in _OPTIONS.items() if guest[fact] is not None},
        **({"disk": math.ceil(guest["disk_mib"] / 1024)} if guest["disk_mib"] else {}),
        **({"pool": guest["pool"]} if guest["pool"] else {}),
        **({"network": {"ip": _configured(guest)}} if _configured(guest) else {}),
    }
    if options.get("cores", 0) != int(options.get("cores", 0)):
        del options["cores"]
    empty = (
        f"It will be empty. nhi_vm_backup_info with vmid {guest['vmid']} lists its backups; if there is one, "
        "restore that (nhi_vm_backup, state restored) in place of this step."
    )
    notes = [empty]
    if not vmid_is_free:
        notes.append(f"VMID {guest['vmid']} is another guest's now, so it gets a new one.")
    needs = ("template", *(("network.gateway",) if _configured(guest) else ()))
    text = f"Create {guest['name']} ({guest['type']}) on {guest['node']} again"
    taken.add(guest["name"])
    plan.steps.append(Step(RECREATE, guest["name"], guest["vmid"], options, text, sentence, needs, tuple(notes)))


def _plan_correction(plan: RollbackPlan, change: Change, was: Item, now: Item, sentence: str) -> None:
    label = f"guest {now['vmid']} {now['name']}"
    facts = {fact for fact in change.after if fact not in _FOLLOWS}
    if now["freshness"] != "fresh":
        _by_hand(plan, label, f"{sentence}; how it is now is not known for certain, so scan before you plan")
        return
    options: dict[str, Any] = {}
    parts: list[str] = []
    undone = set(facts)
    for fact in sorted(facts & _SET_BACK):
        found = _correction(fact, was, now)
        if found:
            options.update(found[0])
            parts += [found[1]] if found[1] else []
            undone.discard(fact)
    undone -= {"addresses"} if "address" in facts else set()
    if undone or not facts:
        what = ", ".join(FACT_WORDS.get(fact, fact) for fact in sorted(undone)) or "its configuration"
        _by_hand(plan, label, f"{sentence}; no module takes back {what}")
    if options:
        kind = {"started": START, "stopped": STOP}.get(options.get("state", ""), CORRECT)
        kind = CORRECT if options.keys() - {"state"} and kind == START else kind
        plan.steps.append(
            Step(kind, now["name"], now["vmid"], {"name": now["name"], "state": "present", **options,
                 "expect": _expected(now)}, f"{_joined(parts)} {label}", sentence)
        )  # fmt: skip


def _correction(fact: str, was: Item, now: Item) -> tuple[dict[str, Any], str] | None:
    """Options that set a fact back, and the words for it; None where no module can."""
    if fact in _OPTIONS:
        value = was[fact]
        if value is None or (fact == "cores" and value != int(value)):
            return None
        return {_OPTIONS[fact]: int(value) if fact == "cores" else value}, f"set {_OPTIONS[fact]} of"
    if fact == "status":
        state = _POWER.get(was["status"])
        return ({"state": state}, "start" if state == "started" else "stop") if state else None
    if fact == "disk_mib":
        grows = was[fact] is not None and now[fact] is not None and was[fact] > now[fact]
        return ({"disk": math.ceil(was[fact] / 1024)}, "enlarge the disk of") if grows else None
    if fact == "addresses":
        return ({}, "") if _configured(was) and _configured(was) == _configured(now) else None
    ip = _configured(was)
    # Of one interface only: which of several had the address is more than the state knows.
    return ({"network": {"ip": ip}}, "set the address of") if ip and len(_interfaces(now)) <= 1 else None


def _configured(guest: Item) -> str | None:
    """The address that the guest's configuration gives it, with its prefix."""
    for entry in guest["addresses"]:
        if entry["address"] == guest["address"] and entry["source"] == "config" and entry["prefix"] is not None:
            return f"{entry['address']}/{entry['prefix']}"
    return None


def _interfaces(guest: Item) -> set[str]:
    return {str(entry["mac"]) for entry in guest["addresses"] if entry["mac"]}


def _expected(now: Item) -> dict[str, Any]:
    """Whom the step is meant for: it is refused when another guest is there, or this one was changed meanwhile."""
    return {name: value for name, value in Identity.of_state(now).as_dict().items() if value}


def _joined(parts: list[str]) -> str:
    text = ", ".join(part.removesuffix(" of") for part in parts)
    suffix = " of" if parts and parts[-1].endswith(" of") else ""
    return f"{text[:1].upper()}{text[1:]}{suffix}"
