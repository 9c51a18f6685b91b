# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan, approve, apply: each way round the gate is tried, and must fail."""

from __future__ import annotations

import json
import multiprocessing
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.budget import BudgetLedger, Size
from ansible_collections.nhi.core.plugins.module_utils.change_gate import Change, Gate
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    BudgetError,
    FrozenError,
    NHIError,
    NotAllowedError,
    PlanError,
)
from ansible_collections.nhi.core.plugins.module_utils.freeze import freeze, frozen, unfreeze
from ansible_collections.nhi.core.plugins.module_utils.plan_seal import PARTS, PlanBody, is_plan_id, seal
from ansible_collections.nhi.core.plugins.module_utils.plan_store import PlanStore
from ansible_collections.nhi.core.plugins.module_utils.policy import Policy, parse_policy
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
POLICY = parse_policy(
    {
        "schema_version": 1,
        "operators": ["luca", "root"],
        "protected": {"guests": ["brain-vm"]},
        "rules": [
            {"operations": ["create", "start"], "decision": "allow"},
            {"actors": ["@operators"], "decision": "allow"},
        ],
        "budgets": {
            "default": {"guests": 3, "creates_per_hour": 4, "destroys_per_hour": 2, "outstanding_plans": 3},
            "total": {"memory_mib": 4096},
        },
    }
)
DESTROY = Change(
    "redis-cache", ("stop", "destroy"), {"summary": ["Destroy container 105."]},
    targets=({"vmid": 105, "name": "redis-cache", "digest": "aa"},),
    dependents=({"vmid": 106, "name": "web", "digest": "bb"},),
)  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(tmp_path: Path, clock: Clock) -> Callable[..., Gate]:
    def make(plan_id: str | None = None, actor: str = "aider", policy: Policy = POLICY, **more: Any) -> Gate:
        request = more.pop("request", {"name": "redis-cache", "state": "absent"})
        return Gate(tmp_path, policy, actor, request, plan_id=plan_id, now=clock, graph="g1", **more)

    return make


@pytest.fixture
def approved(tmp_path: Path, gate: Callable[..., Gate]) -> str:
    plan_id = gate().issue(DESTROY).plan_id
    PlanStore(tmp_path).approve(plan_id, "luca", POLICY, NOW)
    return plan_id


def admit(gate: Gate, change: Change = DESTROY, operation: str = "op-1") -> None:
    gate.admit(operation, change, {"redis-cache", "web"})


def test_a_plan_is_made_approved_applied_and_then_used_up(tmp_path: Path, gate: Callable[..., Gate]) -> None:
    issued = gate().issue(DESTROY)
    assert issued.as_dict()["needs_approval"]
    with pytest.raises(NotAllowedError, match=f"nhi approve {issued.plan_id}"):
        admit(gate(issued.plan_id))
    plan = PlanStore(tmp_path).approve(issued.plan_id, "luca", POLICY, NOW)
    assert (plan.status(NOW), plan.marks["approved"].by) == ("approved", "luca")
    admit(gate(issued.plan_id))
    with pytest.raises(PlanError, match="is used by aider"):
        admit(gate(issued.plan_id), operation="op-2")


def test_without_a_plan_what_needs_approval_is_refused_with_what_to_do(gate: Callable[..., Gate]) -> None:
    with pytest.raises(NotAllowedError, match=r"needs an approval .* run it with --check"):
        admit(gate())
    admit(gate(actor="luca"))


def test_what_is_protected_is_refused_even_with_an_approved_plan(gate: Callable[..., Gate], tmp_path: Path) -> None:
    change = replace(DESTROY, guest="brain-vm")
    plan_id = gate().issue(change).plan_id
    PlanStore(tmp_path).approve(plan_id, "luca", POLICY, NOW)
    for actor in ("aider", "root"):
        with pytest.raises(NotAllowedError, match="protected by the policy"):
            admit(gate(plan_id, actor), change)


@pytest.mark.parametrize("person", ["aider", "interpreter", "luc", "luca "])
def test_the_asker_and_strangers_can_not_approve(gate: Callable[..., Gate], tmp_path: Path, person: str) -> None:
    plan_id = gate().issue(DESTROY).plan_id
    with pytest.raises(PlanError):
        PlanStore(tmp_path).approve(plan_id, person, POLICY, NOW)
    with pytest.raises(NotAllowedError):
        admit(gate(plan_id))


def test_an_operator_can_not_approve_his_own_plan(gate: Callable[..., Gate], tmp_path: Path) -> None:
    plan_id = gate(actor="luca").issue(DESTROY).plan_id
    with pytest.raises(PlanError, match="another person"):
        PlanStore(tmp_path).approve(plan_id, "luca", POLICY, NOW)


def test_an_approval_written_by_hand_does_not_count(gate: Callable[..., Gate], tmp_path: Path) -> None:
    plan_id = gate().issue(DESTROY).plan_id
    forged = {"by": "luca", "at": NOW.isoformat(), "note": "", "mac": "0" * 64}
    (tmp_path / "plans" / f"{plan_id}.approved").write_text(json.dumps(forged))
    with pytest.raises(PlanError, match="does not count"):
        admit(gate(plan_id))


def test_the_approval_of_one_plan_does_not_fit_another(
    gate: Callable[..., Gate], tmp_path: Path, approved: str
) -> None:
    other = gate().issue(DESTROY).plan_id
    source, target = (tmp_path / "plans" / f"{plan}.approved" for plan in (approved, other))
    target.write_bytes(source.read_bytes())
    with pytest.raises(PlanError, match="does not count"):
        admit(gate(other))


def test_an_approver_who_is_no_operator_any_more_does_not_count(
    gate: Callable[..., Gate], tmp_path: Path, approved: str
) -> None:
    with pytest.raises(PlanError, match=r"policy changed|does not count"):
        admit(gate(approved, policy=replace(POLICY, operators=("root",), digest="other")))


@pytest.mark.parametrize("part", ["actor", "expires_at", "request", "targets", "preview", "policy", "nonce"])
def test_an_edited_plan_is_refused(gate: Callable[..., Gate], tmp_path: Path, approved: str, part: str) -> None:
    path = tmp_path / "plans" / f"{approved}.json"
    data = json.loads(path.read_text())
    value = data["plan"][part]
    data["plan"][part] = (
        "2027-01-01T00:00:00+00:00"
        if part == "expires_at"
        else []
        if isinstance(value, list)
        else {}
        if isinstance(value, dict)
        else "x"
    )
    path.write_text(json.dumps(data))
    with pytest.raises(PlanError, match="not the plan that was made"):
        admit(gate(approved, actor="aider"))


def test_a_plan_of_another_lab_is_not_known(gate: Callable[..., Gate], tmp_path: Path, approved: str) -> None:
    other = tmp_path / "other"
    (other / "plans").mkdir(parents=True)
    for file in (tmp_path / "plans").iterdir():
        (other / "plans" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(PlanError, match="not the plan that was made"):
        Gate(other, POLICY, "aider", {}, plan_id=approved).admit("op-1", DESTROY, set())


def test_a_plan_made_for_another_actor_is_refused(gate: Callable[..., Gate], approved: str) -> None:
    with pytest.raises(PlanError, match="was made for aider, not for interpreter"):
        admit(gate(approved, actor="interpreter"))


def test_an_expired_plan_is_refused_and_can_not_be_approved(
    gate: Callable[..., Gate], tmp_path: Path, clock: Clock, approved: str
) -> None:
    waiting = gate().issue(DESTROY).plan_id
    clock.now = NOW + timedelta(minutes=30)
    with pytest.raises(PlanError, match="is expired"):
        admit(gate(approved))
    with pytest.raises(PlanError, match="is expired"):
        PlanStore(tmp_path).approve(waiting, "luca", POLICY, clock.now)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (replace(DESTROY, targets=({"vmid": 105, "name": "redis-cache", "digest": "cc"},)), "105 redis-cache: digest"),
        (replace(DESTROY, targets=({"vmid": 105, "name": "other", "digest": "aa"},)), "105 redis-cache: name"),
        (replace(DESTROY, dependents=()), "guests that depend on it changed (106 web)"),
        (replace(DESTROY, preview={"summary": ["Destroy container 106."]}), "what would be done changed (summary)"),
    ],
)
def test_a_world_that_changed_since_is_told_and_nothing_is_used_up(
    gate: Callable[..., Gate], approved: str, change: Change, said: str
) -> None:
    with pytest.raises(PlanError, match="no longer fits") as caught:
        admit(gate(approved), change)
    assert said in str(caught.value)
    admit(gate(approved))


def test_another_request_graph_or_policy_is_another_plan(gate: Callable[..., Gate], approved: str) -> None:
    with pytest.raises(PlanError, match=r"the request changed \(name\)"):
        admit(gate(approved, request={"name": "x", "state": "absent"}))
    with pytest.raises(PlanError, match="the policy changed"):
        admit(gate(approved, policy=replace(POLICY, digest="other")))
    made = gate(approved)
    made._graph = "g2"
    with pytest.raises(PlanError, match="the dependency graph changed"):
        admit(made)


@pytest.mark.parametrize(
    "plan_id",
    ["", "plan-", "plan-../../etc/passwd", "plan-" + "a" * 25, "PLAN-" + "a" * 26, "plan-" + "A" * 26, "x" * 31],
)
def test_a_number_that_is_none_never_becomes_a_path(tmp_path: Path, plan_id: str) -> None:
    with pytest.raises(PlanError, match="no number of a plan"):
        PlanStore(tmp_path).get(plan_id)
    assert not is_plan_id(plan_id)


def _apply(state_dir: Path, plan_id: str, number: int, results: Any) -> None:
    try:
        Gate(
            state_dir,
            POLICY,
            "aider",
            {"name": "redis-cache", "state": "absent"},
            plan_id=plan_id,
            now=lambda: NOW,
            graph="g1",
        ).admit(f"op-{number}", DESTROY, {"redis-cache"})
        results.put("admitted")
    except NHIError as e:
        results.put(str(e))


def test_of_many_processes_one_applies_a_plan(tmp_path: Path, approved: str) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    runs = [context.Process(target=_apply, args=(tmp_path, approved, number, results)) for number in range(12)]
    for run in runs:
        run.start()
    said = [results.get(timeout=30) for _run in runs]
    for run in runs:
        run.join()
    assert said.count("admitted") == 1
    assert all("used" in text for text in said if text != "admitted")
    # Those that came too late spent nothing.
    assert BudgetLedger(tmp_path).usage("aider", {"redis-cache"}, NOW)["destroys_per_hour"] == 1


def test_a_rejected_plan_stays_rejected_and_the_asker_may_take_his_own_back(
    gate: Callable[..., Gate], tmp_path: Path, approved: str
) -> None:
    store = PlanStore(tmp_path)
    waiting = gate().issue(DESTROY).plan_id
    store.reject(waiting, "luca", POLICY, NOW, "not  today")
    assert store.get(waiting).marks["rejected"].note == "not today"
    with pytest.raises(PlanError, match="is rejected"):
        store.approve(waiting, "root", POLICY, NOW)
    store.reject(approved, "aider", POLICY, NOW)
    with pytest.raises(PlanError, match="is rejected by aider"):
        admit(gate(approved))


def test_the_key_and_the_plans_are_for_the_control_user_only(
    gate: Callable[..., Gate], tmp_path: Path, approved: str
) -> None:
    assert stat.S_IMODE((tmp_path / "plan.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "plans").stat().st_mode) & 0o007 == 0
    assert all(stat.S_IMODE(f.stat().st_mode) & 0o007 == 0 for f in (tmp_path / "plans").iterdir())
    assert not [f for f in (tmp_path / "plans").iterdir() if f.name.startswith(".")]


def test_a_freeze_stops_everything_at_once_until_it_ends(
    gate: Callable[..., Gate], tmp_path: Path, approved: str
) -> None:
    freeze(tmp_path, "luca", "something is  odd")
    assert freeze(tmp_path, "root", "again").by == "luca"
    for made in (gate(approved), gate(actor="root"), gate(actor="luca")):
        with pytest.raises(FrozenError, match=r"frozen by luca .* something is odd.*nhi unfreeze"):
            admit(made)
    assert gate().warnings(DESTROY)
    unfreeze(tmp_path)
    admit(gate(approved))


def test_a_freeze_made_by_hand_counts_whatever_it_says(gate: Callable[..., Gate], tmp_path: Path) -> None:
    for text in ("", "stop!", "[]", "\xff"):
        (tmp_path / "FREEZE").write_text(text)
        assert frozen(tmp_path)
        with pytest.raises(FrozenError):
            admit(gate(actor="root"))


# Budgets


def create(number: int, **size: int) -> Change:
    return Change(f"web-{number}", ("create", "start"), {}, size=Size(**size))


def test_a_loop_is_stopped_with_a_message_that_helps(gate: Callable[..., Gate], clock: Clock) -> None:
    names: set[str] = set()
    for number in range(3):
        gate().admit(f"op-{number}", create(number), names)
        names.add(f"web-{number}")
    with pytest.raises(
        BudgetError, match=r"aider has 3 guests of the 3 .*remove one.*raise guests in budgets of aider"
    ):
        gate().admit("op-3", create(3), names)
    gate(actor="interpreter").admit("op-4", create(4), names)
    # One that is gone makes room, but the hour's creations are still counted.
    gate(actor="luca").admit("op-5", Change("web-0", ("destroy",), {}), names)
    gate().admit("op-6", create(6), names - {"web-0"})
    gate(actor="luca").admit("op-7", Change("web-1", ("destroy",), {}), names)
    with pytest.raises(BudgetError, match=r"creations within an hour.*wait"):
        gate().admit("op-8", create(8), names)
    clock.now += timedelta(hours=1, seconds=1)
    gate().admit("op-9", create(9), {"web-2", "web-6"})


def test_what_failed_does_not_count(gate: Callable[..., Gate]) -> None:
    for number in range(10):
        made = gate()
        made.admit(f"op-{number}", create(number), set())
        made.withdraw()
    gate().admit("op-x", create(99), set())


def test_all_actors_together_have_a_limit_too(gate: Callable[..., Gate]) -> None:
    gate(actor="a").admit("op-1", create(1, memory_mib=3000), set())
    with pytest.raises(BudgetError, match="all actors together have 3000 MiB of memory of the 4096"):
        gate(actor="b").admit("op-2", create(2, memory_mib=1097), set())
    gate(actor="b").admit("op-3", create(3, memory_mib=1096), set())


def test_guests_removed_elsewhere_stop_counting_after_an_hour(gate: Callable[..., Gate], clock: Clock) -> None:
    for number in range(3):
        gate().admit(f"op-{number}", create(number), set())
    clock.now += timedelta(hours=2)
    gate().admit("op-4", create(4), {"web-0", "web-1"})
    with pytest.raises(BudgetError, match="3 guests of the 3"):
        gate().admit("op-5", create(5), {"web-0", "web-1", "web-4"})


def test_too_many_plans_are_refused(gate: Callable[..., Gate], tmp_path: Path) -> None:
    plans = [gate().issue(DESTROY).plan_id for _n in range(3)]
    with pytest.raises(BudgetError, match="3 plans that could still be applied of the 3"):
        gate().issue(DESTROY)
    PlanStore(tmp_path).reject(plans[0], "aider", POLICY, NOW)
    gate().issue(DESTROY)


def _spend(state_dir: Path, number: int, results: Any) -> None:
    try:
        Gate(state_dir, POLICY, "aider", {}, now=lambda: NOW).admit(f"op-{number}", create(number), set())
        results.put("admitted")
    except BudgetError:
        results.put("refused")


def test_many_at_once_never_pass_the_limit(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    runs = [context.Process(target=_spend, args=(tmp_path, number, results)) for number in range(50)]
    for run in runs:
        run.start()
    admitted = [results.get(timeout=60) for _run in runs]
    for run in runs:
        run.join()
    assert admitted.count("admitted") == 3


@given(st.data())
def test_a_seal_fits_one_body_only(data: st.DataObject) -> None:
    texts = st.text(max_size=5)
    part = st.dictionaries(texts, texts | st.integers(), max_size=2)
    bodies = st.builds(
        PlanBody, actor=texts, created_at=texts, expires_at=texts, nonce=texts, request=part,
        targets=st.lists(part, max_size=2).map(tuple), dependents=st.lists(part, max_size=1).map(tuple), graph=texts,
        policy=texts, preview=part,
    )  # fmt: skip
    one, other = data.draw(bodies), data.draw(bodies)
    assert (seal(b"k" * 32, one) == seal(b"k" * 32, other)) == (one == other)
    assert seal(b"k" * 32, one) != seal(b"j" * 32, one)
    if any(getattr(one, name) != getattr(other, name) for name in PARTS):
        assert one.differences(other)
