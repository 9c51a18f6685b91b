# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare two states by what they mean, and put a scan on top of what others wrote meanwhile.

Numbers that tick (CPU, memory in use, uptime, latency) and times are no change: a second scan of a lab in which
nothing happened changes nothing, although it makes every fact fresh again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Fact = dict[str, Any]
Infrastructure = Mapping[str, Any]
Document = dict[str, Any]

_MEANT: dict[str, tuple[str, ...]] = {
    "nodes": ("status", "cpu_cores", "memory_total_mib", "freshness"),
    "guests": (
        "name",
        "type",
        "node",
        "status",
        "template",
        "tags",
        "pool",
        "lock",
        "protection",
        "cores",
        "memory_mib",
        "config_digest",
        "description",
        "addresses",
        "address",
        "health",
        "freshness",
    ),
    "storage": ("status", "type", "content", "shared", "freshness"),
    "services": ("purpose", "address", "health", "freshness"),
    "api_providers": ("zone", "limits", "freshness"),
    # Messages of alerts carry numbers and times that tick; whether there is one, and how bad, is what counts.
    "alerts": ("severity",),
}
_KEYS: dict[str, Callable[[Fact], str]] = {
    "nodes": lambda fact: str(fact["name"]),
    "guests": lambda fact: str(fact["vmid"]),
    "storage": lambda fact: str(fact["id"]),
    "services": lambda fact: f"{fact['service']}/{fact['vmid']}",
    "api_providers": lambda fact: str(fact["provider"]),
    "alerts": lambda fact: str(fact["id"]),
}
Meaning = dict[str, dict[str, dict[str, Any]]]


def meaning(document: Document | None) -> Meaning:
    """What a document says, without what ticks: kind -> identity -> facts."""
    if document is None:
        return {kind: {} for kind in _MEANT}
    # Whoever else writes providers need not know all of this.
    providers = [
        {**dict.fromkeys(_MEANT["api_providers"]), **provider, "provider": name}
        for name, provider in document["api_providers"].items()
    ]
    lists = {**document["infrastructure"], "api_providers": providers, "alerts": document["alerts"]}
    return {
        kind: {_KEYS[kind](fact): {name: fact[name] for name in names} for fact in lists[kind]}
        for kind, names in _MEANT.items()
    }


def difference(before: Meaning, after: Meaning) -> dict[str, Meaning]:
    """Only what differs, as it was and as it is; empty dicts when nothing does."""
    old: Meaning = {}
    new: Meaning = {}
    for kind, meant in _MEANT.items():
        for key in sorted(before[kind].keys() | after[kind].keys()):
            was, now = before[kind].get(key), after[kind].get(key)
            if was == now:
                continue
            names = [name for name in meant if was is None or now is None or was[name] != now[name]]
            if was is not None:
                old.setdefault(kind, {})[key] = {name: was[name] for name in names}
            if now is not None:
                new.setdefault(kind, {})[key] = {name: now[name] for name in names}
    return {"before": old, "after": new}


def changed_guests(diff: Mapping[str, Meaning], document: Document) -> list[dict[str, Any]]:
    """Guests that were added, removed or changed, with the facts that differ."""
    old, new = diff["before"].get("guests", {}), diff["after"].get("guests", {})
    names = {str(guest["vmid"]): guest["name"] for guest in document["infrastructure"]["guests"]}
    changes = []
    for key in sorted(old.keys() | new.keys(), key=int):
        change = "added" if key not in old else "removed" if key not in new else "changed"
        name = names.get(key, old.get(key, {}).get("name"))
        facts = sorted(new[key]) if change == "changed" else []
        changes.append({"vmid": int(key), "name": name, "change": change, "facts": facts})
    return changes


def merge_infrastructure(
    base: Infrastructure | None, scanned: Infrastructure, current: Infrastructure | None, started_at: str
) -> dict[str, Any]:
    """The scan's infrastructure on top of a state that others changed after the scan had read it.

    Of each fact the later observation stands. What somebody else added since the scan began stays, and what
    somebody else removed since then is not brought back.
    """
    if current is None:
        return dict(scanned)
    merged = dict(scanned)
    for kind in ("nodes", "guests", "storage", "services"):
        merged[kind] = _merge(_KEYS[kind], base[kind] if base else [], scanned[kind], current[kind], started_at)
    return merged


def _merge(
    key: Callable[[Fact], str],
    base: Iterable[Fact],
    scanned: Iterable[Fact],
    current: Iterable[Fact],
    started_at: str,
) -> list[Fact]:
    known, theirs, ours = ({key(fact): fact for fact in facts} for facts in (base, current, scanned))
    merged = []
    for identity, fact in ours.items():
        if identity in known and identity not in theirs:
            continue
        other = theirs.get(identity)
        newer = other is not None and _time(other) > max(_time(fact), started_at)
        merged.append(other if other is not None and newer else fact)
    merged += [fact for identity, fact in theirs.items() if identity not in ours and _time(fact) > started_at]
    return merged


def _time(fact: Fact) -> str:
    """Times of a state document are all UTC in one format, so their texts sort as they do."""
    return fact["observed_at"] or ""
