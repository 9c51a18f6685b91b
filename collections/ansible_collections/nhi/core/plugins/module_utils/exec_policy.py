# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which commands who may run on which guests, and whose logs are read: the part ``exec`` of ``policy.json``.

Rules are tried in order and the first that fits decides; where none fits, nothing is allowed. A command is a list of
words, and so is what a rule lets through: the same number of words, each one exactly, or with one ``*`` in it. That
stands for letters, digits and a few signs of names and paths, never for an option, for ``..`` or for what a shell or
a terminal would take for more than a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from .policy_words import DENY, Decision, common_faults, is_one_of

_KEYS = frozenset({"actors", "guests", "services", "commands", "logs", "reads", "decision", "reason"})
_LISTS = ("actors", "guests", "services")
# What a star stands for. No "=": it gives options to programs that take them without a hyphen.
_STARRED = r"[A-Za-z0-9_@%+:,./~-]*"

Command = tuple[str, ...]


@dataclass(frozen=True)
class Errand:
    """What somebody wants of a guest; ``command`` None is to read its logs."""

    actor: str
    guest: str
    services: tuple[str, ...] = ()
    command: Command | None = None

    @property
    def what(self) -> str:
        """In words."""
        return "reading logs" if self.command is None else f"running {self.command[0]}"


@dataclass(frozen=True)
class ExecDecision(Decision):
    """``reads`` says that the policy vouches that nothing is changed by it."""

    reads: bool = False


@dataclass(frozen=True)
class ExecRule:
    """For whose commands on which guests, and the decision; empty parts mean any."""

    decision: str
    actors: tuple[str, ...] = ()
    guests: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    commands: tuple[Command, ...] = ()
    logs: bool = False
    reads: bool = False
    reason: str = ""

    def fits(self, errand: Errand, operators: Sequence[str]) -> bool:
        """Whether it decides."""
        if self.guests and not _any_fits([errand.guest], self.guests):
            return False
        if self.services and not _any_fits(errand.services, self.services):
            return False
        return self._speaks_of(errand.command) and is_one_of(errand.actor, self.actors, operators)

    def _speaks_of(self, command: Command | None) -> bool:
        if not self.commands and not self.logs:
            return True
        return self.logs if command is None else any(is_let_through(command, pattern) for pattern in self.commands)


def is_let_through(command: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a command is what a pattern of words describes."""
    return len(command) == len(pattern) and all(map(_word_fits, command, pattern))


def _word_fits(word: str, pattern: str) -> bool:
    before, star, after = pattern.partition("*")
    if not star:
        return word == pattern
    if not word or word.startswith("-") or ".." in word:
        return False
    return re.fullmatch(re.escape(before) + _STARRED + re.escape(after), word) is not None


def _any_fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def decide(rules: Sequence[ExecRule], operators: Sequence[str], errand: Errand) -> ExecDecision:
    """What the policy says of an errand."""
    for number, rule in enumerate(rules, 1):
        if rule.fits(errand, operators):
            reason = rule.reason or f"rule {number} under exec in the policy ({errand.what} by {errand.actor})"
            return ExecDecision(rule.decision, reason, rule.reads or errand.command is None)
    said = f"no rule under exec in the policy lets {errand.actor} do that"
    may = _what_is_allowed(rules, operators, errand) if errand.command else ""
    return ExecDecision(DENY, said + may, errand.command is None)


def _what_is_allowed(rules: Sequence[ExecRule], operators: Sequence[str], errand: Errand) -> str:
    there = [
        " ".join(pattern)
        for rule in rules
        if rule.decision != DENY
        for pattern in rule.commands
        if rule.fits(Errand(errand.actor, errand.guest, errand.services, tuple(w.replace("*", "x") for w in pattern)),
                     operators)
    ]  # fmt: skip
    return f"; there is: {', '.join(dict.fromkeys(there))}" if there else ""


def parse_rules(raw: Sequence[Mapping[str, Any]]) -> tuple[ExecRule, ...]:
    """Rules of a part without faults."""
    return tuple(
        ExecRule(
            rule["decision"],
            **{key: tuple(rule.get(key, ())) for key in _LISTS},
            commands=tuple(tuple(words) for words in rule.get("commands", ())),
            logs=rule.get("logs", False),
            reads=rule.get("reads", False),
            reason=rule.get("reason", ""),
        )
        for rule in raw
    )


def exec_faults(raw: Any) -> Iterator[str]:
    """Everything that is wrong with the part."""
    if not isinstance(raw, list):
        yield "exec is no list of rules"
        return
    for number, rule in enumerate(raw, 1):
        yield from (f"exec rule {number}: {fault}" for fault in _rule_faults(rule))


def _rule_faults(rule: Any) -> Iterator[str]:
    if not isinstance(rule, Mapping):
        yield "it is no mapping"
        return
    yield from common_faults(rule, _KEYS, _LISTS)
    for key in ("logs", "reads"):
        if not isinstance(rule.get(key, False), bool):
            yield f"{key} is neither true nor false"
    if "commands" in rule:
        yield from _commands_faults(rule["commands"])
    elif rule.get("reads"):
        yield "reads is said of commands, so name them"


def _commands_faults(commands: Any) -> Iterator[str]:
    if not isinstance(commands, list) or not commands:
        yield "commands is no list of commands; leave it out for any"
        return
    for words in commands:
        if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
            yield f"command {words!r} is no list of words"
            continue
        if not words[0] or "*" in words[0] or words[0].startswith("-"):
            yield f"command {words!r} does not begin with a program"
        for word in words[1:]:
            if word.count("*") > 1:
                yield f"{word!r} has more than one star"
            elif "*" in word and word.startswith("-"):
                yield f"{word!r} is an option with a star, which no star may stand for: write the option out"
