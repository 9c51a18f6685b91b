# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which commands who may run on which guests."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import PolicyError
from ansible_collections.nhi.core.plugins.module_utils.exec_policy import Errand, is_let_through
from ansible_collections.nhi.core.plugins.module_utils.policy import parse_policy
from ansible_collections.nhi.core.plugins.module_utils.policy_words import ALLOW, APPROVE, DENY
from hypothesis import example, given
from hypothesis import strategies as st

RULES: list[dict[str, Any]] = [
    {"commands": [["systemctl", "status", "*"], ["df", "-h"]], "reads": True, "decision": "allow"},
    {"guests": ["vault-*"], "decision": "deny", "reason": "nobody looks in there"},
    {"logs": True, "services": ["redis", "nginx"], "decision": "allow"},
    {"actors": ["aider"], "guests": ["web-*"], "commands": [["nginx", "-s", "reload"]], "decision": "approve"},
    {"actors": ["@operators"], "decision": "allow"},
]
POLICY = {"schema_version": 1, "operators": ["luca"], "rules": [], "exec": RULES}


def errand(actor: str, guest: str, command: str | None, *services: str) -> Errand:
    return Errand(actor, guest, services, None if command is None else tuple(command.split()))


@pytest.mark.parametrize(
    ("asked", "verdict", "reads"),
    [
        (errand("aider", "web-1", "systemctl status nginx"), ALLOW, True),
        (errand("aider", "web-1", "systemctl status"), DENY, False),
        (errand("aider", "web-1", "systemctl status a b"), DENY, False),
        (errand("aider", "web-1", "systemctl restart nginx"), DENY, False),
        (errand("aider", "web-1", "df -h"), ALLOW, True),
        (errand("aider", "web-1", "df -h /"), DENY, False),
        (errand("aider", "web-1", "/tmp/df -h"), DENY, False),
        (errand("aider", "web-1", "nginx -s reload"), APPROVE, False),
        (errand("aider", "db-1", "nginx -s reload"), DENY, False),
        (errand("other", "web-1", "nginx -s reload"), DENY, False),
        (errand("luca", "web-1", "rm -rf /"), ALLOW, False),
        (errand("luca", "vault-1", "ls"), DENY, False),
        (errand("luca", "vault-1", "df -h"), ALLOW, True),
        (errand("aider", "cache", None, "redis"), ALLOW, True),
        (errand("aider", "db-1", None, "postgresql"), DENY, True),
        (errand("luca", "db-1", None), ALLOW, True),
        (errand("luca", "vault-1", None, "redis"), DENY, True),
    ],
)
def test_the_first_rule_that_fits_decides_and_none_is_no(asked: Errand, verdict: str, reads: bool) -> None:
    decision = parse_policy(POLICY).decide_errand(asked)
    assert (decision.verdict, decision.reads) == (verdict, reads)
    assert decision.reason


def test_who_is_refused_is_told_what_there_is() -> None:
    reason = parse_policy(POLICY).decide_errand(errand("aider", "web-1", "ls")).reason
    assert reason.endswith("there is: systemctl status *, df -h, nginx -s reload")
    assert "nginx" not in parse_policy(POLICY).decide_errand(errand("aider", "db-1", "ls")).reason


@given(st.text() | st.sampled_from(["-x", "--help", "../x", "a/../b", "a\nb", "$(id)", "a;b", "a=b", "", "nginx\n"]))
@example("-")
@example("nginx\n")
@example("\N{FULLWIDTH HYPHEN-MINUS}x")
def test_a_star_lets_nothing_through_but_names_and_paths(word: str) -> None:
    for pattern in ("*", "*x", "a*", "/var/log/*", "*.service"):
        if is_let_through(["p", word], ["p", pattern]):
            assert word
            assert not word.startswith("-")
            assert ".." not in word
            assert word.isascii()
            assert word.isprintable()
            assert not set(word) & set(" \"'`$;&|<>()[]{}\\*?!#=^")


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_words_without_a_star_are_let_through_only_as_they_are(command: list[str], pattern: list[str]) -> None:
    pattern = [word.replace("*", "") for word in pattern]
    assert is_let_through(command, pattern) == (command == pattern)
    assert is_let_through(pattern, pattern)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({}, "exec is no list of rules"),
        (["x"], "exec rule 1: it is no mapping"),
        ([{"decision": "alow"}], "exec rule 1: decision is not one of"),
        ([{"decision": "allow", "command": [["df"]]}], "command is not known"),
        ([{"decision": "allow", "commands": []}], "commands is no list of commands"),
        ([{"decision": "allow", "commands": ["df -h"]}], "'df -h' is no list of words"),
        ([{"decision": "allow", "commands": [["*", "x"]]}], "does not begin with a program"),
        ([{"decision": "allow", "commands": [["df", "--*"]]}], "is an option with a star"),
        ([{"decision": "allow", "commands": [["cat", "*a*"]]}], "has more than one star"),
        ([{"decision": "allow", "reads": True}], "reads is said of commands"),
        ([{"decision": "allow", "logs": "yes"}], "logs is neither true nor false"),
        ([{"decision": "allow", "services": []}], "leave it out for any"),
    ],
)
def test_one_mistake_and_nothing_is_allowed(rules: Any, said: str) -> None:
    with pytest.raises(PolicyError, match="nothing is allowed") as caught:
        parse_policy({**POLICY, "exec": rules})
    assert said in str(caught.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=3),
        lambda c: (
            st.lists(c, max_size=3)
            | st.dictionaries(
                st.sampled_from(["commands", "logs", "reads", "decision", "actors", "guests", "reason"]), c, max_size=4
            )
        ),
    )
)
def test_whatever_is_in_the_part_it_is_rules_or_one_refusal(data: Any) -> None:
    for rules in (data, [data], [{"decision": "allow", "commands": data}]):
        with contextlib.suppress(PolicyError):
            parse_policy({**POLICY, "exec": rules})


def test_without_the_part_nobody_may_do_anything() -> None:
    policy = parse_policy({k: v for k, v in POLICY.items() if k != "exec"})
    for actor in ("luca", "aider"):
        assert policy.decide_errand(errand(actor, "web-1", "df -h")).verdict == DENY
        assert policy.decide_errand(errand(actor, "web-1", None, "redis")).verdict == DENY
