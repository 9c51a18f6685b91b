# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between two states, as an operator thinks of it: guests, services, nodes, storage and alerts that
appeared, disappeared or changed, and who did it. What only ticks (load, uptime, times) is no difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .guest_identity import Identity
from .scan_changes import Meaning, meaning
from .state_document import Document, format_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from .audit_view import AuditNote, AuditReader

APPEARED, DISAPPEARED, CHANGED = "appeared", "disappeared", "changed"

Facts = dict[str, Any]
# The list in a document, what one of it is called, in the order in which they are told.
_KINDS = (
    ("guests", "guest"),
    ("services", "service"),
    ("nodes", "node"),
    ("storage", "storage"),
    ("alerts", "alert"),
)
GUEST, SERVICE = "guest", "service"


@dataclass(frozen=True)
class Change:
    """One thing that differs: all its facts when it appeared or disappeared, else those that changed."""

    kind: str
    what: str
    name: str
    before: Facts = field(default_factory=dict)
    after: Facts = field(default_factory=dict)
    vmid: int | None = None
    guest: str | None = None
    notes: tuple[AuditNote, ...] = ()

    @property
    def label(self) -> str:
        """How sentences name it."""
        number = f"{self.vmid} " if self.kind == GUEST else ""
        on = f" on {self.guest}" if self.kind == SERVICE and self.guest != self.name else ""
        return f"{self.kind} {number}{self.name}{on}"

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "kind": self.kind,
            "change": self.what,
            "name": self.name,
            "vmid": self.vmid,
            "guest": self.guest,
            "before": self.before,
            "after": self.after,
            "audit": [note.as_data() for note in self.notes],
        }


def compare_states(
    before: Document,
    after: Document,
    audit: AuditReader | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[Change]:
    """What differs from before to after; an audit log is asked who did it between the two moments."""
    old, new = meaning(before), meaning(after)
    names = _names(before), _names(after)
    _add_disks(before, old, after, new)
    replaced = _replaced_guests(before, after)
    changes: list[Change] = []
    for kind, word in _KINDS:
        for key in sorted(old[kind].keys() | new[kind].keys(), key=_natural):
            was, now = old[kind].get(key), new[kind].get(key)
            if word == GUEST and int(key) in replaced:
                changes += [_one(word, key, was, None, names), _one(word, key, None, now, names)]
            elif was is None or now is None or _differs(was, now):
                changes.append(_one(word, key, was, now, names))
    if audit is None or since is None or until is None:
        return changes
    return [replace(change, notes=_noted(change, audit, since, until)) for change in changes]


def same_guest(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two entries of one VMID are of one guest: renamed or corrected, but not made anew."""
    was, now = Identity.of_state(before), Identity.of_state(after)
    if replace(was, name=None).differences(replace(now, name=None)):
        return False
    nothing_else_known = not (was.mac and now.mac) and None in (was.created, now.created)
    return was.name == now.name or not nothing_else_known


def _add_disks(before: Document, old: Meaning, after: Document, new: Meaning) -> None:
    """Sizes of disks, where they can tell something: that of a running container ticks with the storage it is on, so
    that a new size counts only beside a new configuration."""
    for document, meant, other in ((before, old, new), (after, new, old)):
        for guest in document["infrastructure"]["guests"]:
            key = str(guest["vmid"])
            there = other["guests"].get(key)
            if there is None or there["config_digest"] != guest["config_digest"]:
                meant["guests"][key]["disk_mib"] = guest["disk_mib"]


def _replaced_guests(before: Document, after: Document) -> set[int]:
    old, new = ({g["vmid"]: g for g in document["infrastructure"]["guests"]} for document in (before, after))
    return {vmid for vmid in old.keys() & new.keys() if not same_guest(old[vmid], new[vmid])}


Names = dict[str, dict[str, str]]


def _names(document: Document) -> Names:
    """What people call the things of a document: kind -> identity -> name. The message of an alert is its name."""
    infrastructure = document["infrastructure"]
    return {
        GUEST: {str(guest["vmid"]): guest["name"] for guest in infrastructure["guests"]},
        SERVICE: {f"{one['service']}/{one['vmid']}": one["guest"] for one in infrastructure["services"]},
        "alert": {alert["id"]: alert["message"] for alert in document["alerts"]},
    }


def _one(kind: str, key: str, was: Facts | None, now: Facts | None, names: tuple[Names, Names]) -> Change:
    what = APPEARED if was is None else DISAPPEARED if now is None else CHANGED
    before, after = _readable(was or {}), _readable(now or {})
    if what == CHANGED:
        changed = {fact for fact in before.keys() | after.keys() if before.get(fact) != after.get(fact)}
        before, after = ({k: v for k, v in facts.items() if k in changed} for facts in (before, after))
    if kind == "alert":
        for facts, known in zip((before, after), names, strict=True):
            if facts and key in known["alert"]:
                facts["message"] = known["alert"][key]
    # A guest is called as it was before, unless it is new: that is the name that people remember.
    called = names[0 if was is not None else 1].get(kind, {})
    if kind == GUEST:
        return Change(kind, what, called[key], before, after, vmid=int(key), guest=called[key])
    if kind == SERVICE:
        service, _slash, vmid = key.rpartition("/")
        return Change(kind, what, service, before, after, vmid=int(vmid), guest=called[key])
    return Change(kind, what, key, before, after)


def _differs(was: Facts, now: Facts) -> bool:
    return was != now and _readable(was) != _readable(now)


def _readable(facts: Facts) -> Facts:
    """Addresses as people write them; how they were found out is no fact of the lab."""
    if "addresses" not in facts:
        return dict(facts)
    addresses = sorted({_address(entry) for entry in facts["addresses"]})
    return {**facts, "addresses": addresses}


def _address(entry: Mapping[str, Any]) -> str:
    return entry["address"] if entry["prefix"] is None else f"{entry['address']}/{entry['prefix']}"


def _natural(key: str) -> tuple[int, str]:
    return (int(key), "") if key.isascii() and key.isdigit() else (0, key)


def _noted(change: Change, audit: AuditReader, since: datetime, until: datetime) -> tuple[AuditNote, ...]:
    if change.kind not in (GUEST, SERVICE):
        return ()
    vmid = change.vmid if change.kind == GUEST else None
    return tuple(audit.about_guest(vmid=vmid, name=change.guest, since=since, until=until))


# For people

# How people call a fact, where not by its name.
FACT_WORDS = {
    "memory_mib": "memory",
    "memory_total_mib": "memory",
    "disk_mib": "disk",
    "cpu_cores": "cores",
    "config_digest": "configuration",
}
_UNITS = {"memory_mib": " MiB", "memory_total_mib": " MiB", "disk_mib": " MiB"}


@dataclass(frozen=True)
class Span:
    """The two moments that were compared, and whether the second is the present."""

    since: datetime
    until: datetime
    to_now: bool = False

    def when(self, moment: datetime) -> str:
        """A moment in local time, without the day where both ends are of the same one."""
        same_day = self.since.astimezone().date() == self.until.astimezone().date()
        return moment.astimezone().strftime("%H:%M" if same_day else "%Y-%m-%d %H:%M")

    def as_data(self) -> dict[str, str]:
        """For programs."""
        return {"since": format_time(self.since), "until": format_time(self.until)}


def sentences(changes: Iterable[Change], span: Span, *, audited: bool) -> Iterator[str]:
    """One sentence for each change; audited is whether an audit log was asked."""
    for change in changes:
        told = [_told(note, span) for note in change.notes]
        if not told and audited and change.kind == GUEST:
            told = ["the audit log does not say by whom"]
        yield f"{_sentence(change, span)}{': ' if told else ''}{'; '.join(told)}"


def _sentence(change: Change, span: Span) -> str:
    since, until = span.when(span.since), "now" if span.to_now else f"at {span.when(span.until)}"
    if change.kind == "alert":
        message = (change.after or change.before).get("message", change.name)
        if change.what == CHANGED:
            return f"alert {change.name} changed: {_facts_in_words(change)}"
        return f"alert {'raised' if change.what == APPEARED else 'ended'}: {message}"
    if change.what == DISAPPEARED:
        return f"{change.label} existed at {since}, not {until}"
    if change.what == APPEARED:
        return f"{change.label} did not exist at {since}, but does {until}"
    return f"{change.label} changed: {_facts_in_words(change)}"


def _facts_in_words(change: Change) -> str:
    facts = [fact for fact in sorted(change.after) if fact != "message"]
    # The digest changes with every correction, and the list of addresses with the address.
    telling = [fact for fact in facts if fact != "config_digest" and not (fact == "addresses" and "address" in facts)]
    if not telling:
        return "its configuration"
    return ", ".join(_fact_in_words(fact, change.before.get(fact), change.after[fact]) for fact in telling)


def _fact_in_words(fact: str, was: Any, now: Any) -> str:
    unit = _UNITS.get(fact, "")
    return f"{FACT_WORDS.get(fact, fact)} {_value(was)} -> {_value(now)}{unit}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)


def _told(note: AuditNote, span: Span) -> str:
    plan = f", plan {note.plan}" if note.plan else ""
    outcome = f" ({note.outcome})" if note.outcome not in ("", "done") else ""
    return f"{note.operation} {span.when(note.at)} by {note.actor}{plan}{outcome}"
