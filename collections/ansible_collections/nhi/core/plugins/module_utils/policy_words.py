# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The words that all parts of ``policy.json`` share: decisions, who they are about, and what a list of names is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ALLOW, APPROVE, DENY = "allow", "approve", "deny"
DECISIONS = (ALLOW, APPROVE, DENY)  # from the mildest to the strictest
# In place of names of actors: whoever may approve.
OPERATORS = "@operators"


@dataclass(frozen=True)
class Decision:
    """What the policy says of one wish, and why."""

    verdict: str
    reason: str


def is_one_of(actor: str, actors: Sequence[str], operators: Sequence[str]) -> bool:
    """Whether a rule about these actors is about this one; no actors mean any."""
    return not actors or actor in actors or (OPERATORS in actors and actor in operators)


def are_names(value: Any) -> bool:
    """Whether it is a list of texts that say something."""
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def common_faults(rule: Mapping[str, Any], known: frozenset[str], lists: Iterable[str]) -> Iterable[str]:
    """What is wrong with the parts that rules of every kind have."""
    yield from (f"{key} is not known" for key in sorted(set(rule) - known))
    if rule.get("decision") not in DECISIONS:
        yield f"decision is not one of {', '.join(DECISIONS)}"
    for key in lists:
        if key in rule and (not are_names(rule[key]) or not rule[key]):
            yield f"{key} is no list of names; leave it out for any"
    if not isinstance(rule.get("reason", ""), str):
        yield "reason is no text"
