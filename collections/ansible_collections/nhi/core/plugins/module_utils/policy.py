# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may change what, and for what another person's approval is needed: a small reviewed file, ``policy.json``.

Rules are tried in order and the first that fits decides; where none fits, approval is needed. Whatever is wrong with
the file is an error: a policy that can not be read allows nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .errors import PolicyError
from .exec_policy import Errand, ExecDecision, ExecRule, decide, exec_faults, parse_rules
from .files import explain
from .policy_words import ALLOW, APPROVE, DECISIONS, DENY, Decision, are_names, common_faults, is_one_of

NAME = "policy.json"
# What is done to a guest, as plans name it.
OPERATIONS = (
    "create", "clone", "restore", "configure", "resize", "start", "stop", "protect", "destroy", "replace",
    "snapshot", "describe_snapshot", "remove_snapshot", "rollback", "backup", "remove_backup",
    "restart", "restart_guarded",
)  # fmt: skip
# What takes something away for good; never done to a protected guest.
DESTRUCTIVE = frozenset({"destroy", "replace", "rollback"})
LIMITS = (
    "guests", "creates_per_hour", "destroys_per_hour", "restarts_per_hour", "cores", "memory_mib", "disk_gib",
    "outstanding_plans",
)  # fmt: skip
_KEYS = frozenset({
    "schema_version", "description", "operators", "protected", "never_replace", "rules", "exec", "budgets",
    "plan_minutes",
})  # fmt: skip
_RULE_KEYS = frozenset({"operations", "actors", "guests", "decision", "reason"})
_PLAN_MINUTES = 30


@dataclass(frozen=True)
class Rule:
    """For which operations of whom on what, and the decision; empty parts mean any."""

    decision: str
    operations: tuple[str, ...] = ()
    actors: tuple[str, ...] = ()
    guests: tuple[str, ...] = ()
    reason: str = ""

    def fits(self, operation: str, actor: str, guest: str, operators: Sequence[str]) -> bool:
        """Whether it decides."""
        if self.operations and operation not in self.operations:
            return False
        if self.guests and not any(fnmatchcase(guest, pattern) for pattern in self.guests):
            return False
        return is_one_of(actor, self.actors, operators)


@dataclass(frozen=True)
class Selection:
    """Guests by name (with ``*``) or by tag."""

    guests: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def has(self, guest: str, tags: Iterable[str]) -> bool:
        """Whether the guest is one of them."""
        return any(fnmatchcase(guest, pattern) for pattern in self.guests) or bool(set(self.tags) & set(tags))


@dataclass(frozen=True)
class Policy:
    """A valid policy."""

    operators: tuple[str, ...] = ()
    protected: Selection = field(default_factory=Selection)
    never_replace: Selection = field(default_factory=Selection)
    rules: tuple[Rule, ...] = ()
    exec_rules: tuple[ExecRule, ...] = ()
    budgets: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    actor_budgets: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    plan_seconds: float = _PLAN_MINUTES * 60.0
    digest: str = ""

    def decide(self, operations: Iterable[str], actor: str, guest: str, tags: Iterable[str] = ()) -> Decision:
        """The strictest decision over all operations of one change."""
        return strictest(self._decide(operation, actor, guest, tuple(tags)) for operation in operations)

    def _decide(self, operation: str, actor: str, guest: str, tags: tuple[str, ...]) -> Decision:
        if operation in DESTRUCTIVE and self.protected.has(guest, tags):
            return Decision(DENY, f"{guest} is protected by the policy: nobody may {operation} it")
        if operation == "replace" and self.never_replace.has(guest, tags):
            return Decision(DENY, f"the policy says never to replace {guest}")
        for number, rule in enumerate(self.rules, 1):
            if rule.fits(operation, actor, guest, self.operators):
                return Decision(rule.decision, rule.reason or f"rule {number} of the policy ({operation} by {actor})")
        return Decision(APPROVE, f"no rule of the policy speaks of {operation} by {actor}")

    def decide_errand(self, errand: Errand) -> ExecDecision:
        """What it says of a command on a guest, or of reading its logs."""
        return decide(self.exec_rules, self.operators, errand)

    def may_approve(self, person: str, actor: str) -> bool:
        """Whether ``person`` may approve what ``actor`` asked for; never one's own."""
        return person in self.operators and person != actor

    def budget(self, actor: str) -> Mapping[str, int]:
        """Limits of one actor: those of all where none are its own; an operator has only those of its own."""
        default = {} if actor in self.operators else self.budgets.get("default", {})
        return {**default, **self.actor_budgets.get(actor, {})}

    @property
    def total_budget(self) -> Mapping[str, int]:
        """Limits of all actors together."""
        return self.budgets.get("total", {})


def strictest(decisions: Iterable[Decision]) -> Decision:
    """The first of the strictest; of none, that nothing is changed."""
    nothing = Decision(ALLOW, "nothing is changed")
    return max(decisions, key=lambda decision: DECISIONS.index(decision.verdict), default=nothing)


def unprotected(policy: Policy, guests: Iterable[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
    """Guests of state.json that the policy protects and Proxmox VE does not, each with a sentence about it.

    The policy binds those who come through this collection; ``protection=1`` binds every token that lacks
    VM.Config.Options.
    """
    found = []
    for guest in guests:
        if (
            guest["template"]
            or guest["protection"]
            or not policy.protected.has(guest["name"] or "", guest["tags"] or ())
        ):
            continue
        label = f"{'LXC' if guest['type'] == 'lxc' else 'VM'} {guest['vmid']} {guest['name']}"
        if guest["protection"] is None:
            text = f"Whether Proxmox VE protects {label}, like the policy, is unknown: scan it."
        else:
            text = f"{label} is protected by the policy, but not in Proxmox VE: set protection: true (nhi_vm)."
        found.append((guest, text))
    return found


def find_policy(path: Path | str | None, state_dir: Path | str) -> Policy | None:
    """The named policy, else the one beside state.json, None where there is none; PolicyError for a bad one."""
    file = Path(path) if path else Path(state_dir) / NAME
    try:
        raw = file.read_bytes()
    except OSError as e:
        # A link whose target is away is no missing policy.
        if isinstance(e, FileNotFoundError) and not path and not file.is_symlink():
            return None
        raise PolicyError(f"{file} can not be read: {explain(e)}; nothing is allowed until it can") from e
    try:
        data = json.loads(raw, object_pairs_hook=_each_once)
    except ValueError as e:
        raise PolicyError(f"{file} can not be understood ({e}): nothing is allowed until it is corrected") from e
    return parse_policy(data, str(file))


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Whoever reviews the file reads the first of two, JSON takes the last."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key} is there twice")
        found[key] = value
    return found


def parse_policy(data: Any, origin: str = NAME) -> Policy:
    """A checked policy; PolicyError lists everything that is wrong with it."""
    faults = list(_faults(data))
    if faults:
        raise PolicyError(f"{origin} is not valid, so nothing is allowed: {'; '.join(faults)}")
    budgets = data.get("budgets", {})
    return Policy(
        operators=tuple(data["operators"]),
        protected=_selection(data.get("protected")),
        never_replace=_selection(data.get("never_replace")),
        rules=tuple(_rule(rule) for rule in data["rules"]),
        exec_rules=parse_rules(data.get("exec", [])),
        budgets={name: dict(budgets.get(name, {})) for name in ("default", "total")},
        actor_budgets={name: dict(limits) for name, limits in budgets.get("actors", {}).items()},
        plan_seconds=data.get("plan_minutes", _PLAN_MINUTES) * 60.0,
        digest=hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest(),
    )


def _rule(raw: Mapping[str, Any]) -> Rule:
    parts = {key: tuple(raw.get(key, ())) for key in ("operations", "actors", "guests")}
    return Rule(raw["decision"], **parts, reason=raw.get("reason", ""))


def _selection(raw: Mapping[str, Any] | None) -> Selection:
    return Selection(tuple((raw or {}).get("guests", ())), tuple((raw or {}).get("tags", ())))


def _faults(data: Any) -> Iterator[str]:
    if not isinstance(data, Mapping):
        yield "it is no mapping"
        return
    yield from (f"{key} is not known" for key in sorted(set(data) - _KEYS))
    if data.get("schema_version") != 1:
        yield "schema_version is not 1"
    if not are_names(data.get("operators")):
        yield "operators is no list of names"
    for key in ("protected", "never_replace"):
        yield from _selection_faults(key, data.get(key, {}))
    minutes = data.get("plan_minutes", _PLAN_MINUTES)
    if not _is_count(minutes) or not 1 <= minutes <= 24 * 60:
        yield "plan_minutes is not between 1 and 1440"
    rules = data.get("rules")
    if not isinstance(rules, list):
        yield "rules is no list"
    else:
        for number, rule in enumerate(rules, 1):
            yield from (f"rule {number}: {fault}" for fault in _rule_faults(rule))
    yield from exec_faults(data.get("exec", []))
    yield from _budget_faults(data.get("budgets", {}))


def _rule_faults(rule: Any) -> Iterator[str]:
    if not isinstance(rule, Mapping):
        yield "it is no mapping"
        return
    yield from common_faults(rule, _RULE_KEYS, ("operations", "actors", "guests"))
    if are_names(rule.get("operations")):
        for name in rule["operations"]:
            if name not in OPERATIONS:
                yield f"operation {name} is not one of {', '.join(OPERATIONS)}"


def _selection_faults(key: str, raw: Any) -> Iterator[str]:
    if not isinstance(raw, Mapping) or set(raw) - {"guests", "tags"}:
        yield f"{key} has more than guests and tags"
    elif not all(are_names(names) for names in raw.values()):
        yield f"guests and tags of {key} are lists of names"


def _budget_faults(raw: Any) -> Iterator[str]:
    if not isinstance(raw, Mapping) or set(raw) - {"default", "total", "actors"}:
        yield "budgets has more than default, total and actors"
        return
    actors = raw.get("actors", {})
    if not isinstance(actors, Mapping):
        yield "budgets.actors is no mapping"
        actors = {}
    named = [(key, raw[key]) for key in ("default", "total") if key in raw]
    for name, limits in [*named, *((f"actors.{name}", limits) for name, limits in actors.items())]:
        if not isinstance(limits, Mapping):
            yield f"budgets.{name} is no mapping"
            continue
        for key, value in limits.items():
            if key not in LIMITS:
                yield f"budgets.{name}.{key} is not one of {', '.join(LIMITS)}"
            elif not _is_count(value):
                yield f"budgets.{name}.{key} is no number from 0 on"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
