# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may change what."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.errors import PolicyError
from ansible_collections.nhi.core.plugins.module_utils.policy import (
    DESTRUCTIVE,
    OPERATIONS,
    find_policy,
    parse_policy,
)
from ansible_collections.nhi.core.plugins.module_utils.policy_words import ALLOW, APPROVE, DECISIONS, DENY
from hypothesis import given
from hypothesis import strategies as st

DATA: dict[str, Any] = {
    "schema_version": 1,
    "operators": ["root", "luca"],
    "protected": {"guests": ["brain-vm"], "tags": ["database"]},
    "never_replace": {"guests": ["minio*"]},
    "rules": [
        {"operations": ["backup", "remove_backup"], "guests": ["secret-*"], "decision": "deny", "reason": "no copies"},
        {"operations": ["create", "clone", "start", "configure"], "decision": "allow"},
        {"actors": ["@operators"], "decision": "allow"},
        {"operations": ["stop"], "actors": ["aider"], "guests": ["scratch-*"], "decision": "allow"},
    ],
    "budgets": {"default": {"guests": 5}, "total": {"guests": 50}, "actors": {"aider": {"guests": 9, "cores": 8}}},
}


def changed(**parts: Any) -> dict[str, Any]:
    return {**DATA, **parts}


@pytest.mark.parametrize(
    ("operations", "actor", "guest", "tags", "verdict"),
    [
        (["create", "start"], "aider", "web", [], ALLOW),
        (["stop"], "aider", "web", [], APPROVE),
        (["stop"], "aider", "scratch-1", [], ALLOW),
        (["stop"], "other", "scratch-1", [], APPROVE),
        (["destroy"], "aider", "scratch-1", [], APPROVE),
        (["destroy"], "luca", "web", [], ALLOW),
        (["destroy"], "luca", "brain-vm", [], DENY),
        (["rollback"], "root", "pg", ["database"], DENY),
        (["stop"], "root", "pg", ["database"], ALLOW),
        (["replace"], "root", "minio-lxc", [], DENY),
        (["backup"], "root", "secret-x", [], DENY),
        (["create", "backup"], "root", "secret-x", [], DENY),
        ([], "aider", "brain-vm", [], ALLOW),
    ],
)
def test_the_strictest_decision_over_all_operations_counts(
    operations: list[str], actor: str, guest: str, tags: list[str], verdict: str
) -> None:
    decision = parse_policy(DATA).decide(operations, actor, guest, tags)
    assert decision.verdict == verdict
    assert decision.reason


@given(
    st.lists(st.sampled_from(OPERATIONS), min_size=1),
    st.sampled_from(["root", "luca", "aider", "other"]),
    st.sampled_from(["brain-vm", "web", "scratch-1", "minio-lxc"]),
    st.sampled_from([(), ("database",)]),
)
def test_more_operations_are_never_judged_milder(
    operations: list[str], actor: str, guest: str, tags: tuple[str, ...]
) -> None:
    policy = parse_policy(DATA)
    whole = DECISIONS.index(policy.decide(operations, actor, guest, tags).verdict)
    for one in operations:
        assert DECISIONS.index(policy.decide([one], actor, guest, tags).verdict) <= whole
    if set(operations) & DESTRUCTIVE and policy.protected.has(guest, tags):
        assert whole == DECISIONS.index(DENY)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_whatever_is_in_the_file_it_is_a_policy_or_one_refusal(data: Any) -> None:
    for text in (data, {**DATA, "rules": data}, {**DATA, "budgets": data}, {**DATA, "protected": data}):
        with contextlib.suppress(PolicyError):
            parse_policy(text)


def test_an_empty_rule_list_lets_nothing_through_without_approval() -> None:
    policy = parse_policy(changed(rules=[]))
    assert {policy.decide([op], "root", "web").verdict for op in OPERATIONS} == {APPROVE}


def test_nobody_approves_what_he_asked_for_and_only_operators_approve() -> None:
    policy = parse_policy(DATA)
    assert policy.may_approve("luca", "aider")
    assert policy.may_approve("luca", "root")
    assert not policy.may_approve("luca", "luca")
    assert not policy.may_approve("aider", "other")


def test_budgets_of_an_actor_stand_over_those_of_all() -> None:
    policy = parse_policy(DATA)
    assert policy.budget("aider") == {"guests": 9, "cores": 8}
    assert policy.budget("other") == {"guests": 5}
    assert policy.budget("root") == {}
    assert policy.total_budget == {"guests": 50}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "no mapping"),
        (changed(schema_version=2), "schema_version"),
        (changed(operators="root"), "operators"),
        (changed(opperators=[]), "opperators is not known"),
        (changed(rules={}), "rules is no list"),
        (changed(rules=[{"decision": "alow"}]), "rule 1: decision is not one of"),
        (changed(rules=[{"decision": "allow", "operations": ["destory"]}]), "operation destory is not one of"),
        (changed(rules=[{"decision": "allow", "actor": ["x"]}]), "actor is not known"),
        (changed(rules=[{"decision": "allow", "guests": []}]), "leave it out for any"),
        (changed(budgets={"default": {"gests": 1}}), "budgets.default.gests"),
        (changed(budgets={"default": {"guests": -1}}), "no number"),
        (changed(budgets={"actors": {"aider": {"guests": True}}}), "budgets.actors.aider.guests"),
        (changed(protected=["brain-vm"]), "protected"),
        (changed(plan_minutes=0), "plan_minutes"),
    ],
)
def test_what_is_wrong_is_named(data: Any, said: str) -> None:
    with pytest.raises(PolicyError, match="nothing is allowed") as caught:
        parse_policy(data)
    assert said in str(caught.value)


def test_a_file_that_can_not_be_used_fails_closed(tmp_path: Path) -> None:
    assert find_policy(None, tmp_path) is None
    with pytest.raises(PolicyError, match="can not be read"):
        find_policy(tmp_path / "named.json", tmp_path)
    file = tmp_path / "policy.json"
    for damaged in ("{", '{"rules": [], "rules": []}', "\udcff"):
        file.write_text(damaged, errors="surrogateescape")
        with pytest.raises(PolicyError, match="can not be understood"):
            find_policy(None, tmp_path)
    file.write_text(json.dumps(DATA))
    found = find_policy(None, tmp_path)
    assert found is not None
    assert found.digest == parse_policy(DATA).digest
    assert found.digest != parse_policy(changed(operators=["root"])).digest


@pytest.mark.parametrize("away", ["dangling", "loop", "directory"])
def test_a_policy_that_is_there_and_can_not_be_reached_is_not_taken_for_none(tmp_path: Path, away: str) -> None:
    file = tmp_path / "policy.json"
    if away == "directory":
        file.mkdir()
    else:
        file.symlink_to(file if away == "loop" else tmp_path / "unmounted" / "policy.json")
    with pytest.raises(PolicyError, match="can not be read"):
        find_policy(None, tmp_path)


def test_a_policy_that_may_not_be_read_allows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(PolicyError, match="can not be read"):
        find_policy(None, tmp_path)
