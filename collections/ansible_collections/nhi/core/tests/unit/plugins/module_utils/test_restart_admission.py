# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restarts at the gate: what an agent may restart, what needs an approval, and what an approval is still good for."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils import restarts as restarts_module
from ansible_collections.nhi.core.plugins.module_utils.audit_reader import Query, find
from ansible_collections.nhi.core.plugins.module_utils.errors import (
    AuditError,
    BudgetError,
    FrozenError,
    NHIError,
    NotAllowedError,
    PlanError,
    PolicyError,
    PreflightError,
)
from ansible_collections.nhi.core.plugins.module_utils.freeze import freeze, unfreeze
from ansible_collections.nhi.core.plugins.module_utils.plan_store import PlanStore
from ansible_collections.nhi.core.plugins.module_utils.policy import parse_policy
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now
from ansible_collections.nhi.core.tests.unit.plugins.module_utils.restart_lab import FakeRestarter, Lab

POLICY: dict[str, Any] = {
    "schema_version": 1, "operators": ["luca"],
    "rules": [
        {"actors": ["@operators"], "decision": "allow"},
        {"operations": ["restart"], "guests": ["nobody-*", "redis-*", "nginx-*", "minio"], "decision": "allow"},
        {"operations": ["restart_guarded"], "decision": "approve", "reason": "the graph asks for it"},
    ],
    "budgets": {"default": {"restarts_per_hour": 2, "outstanding_plans": 5}},
}  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The agent aider's, with a policy."""
    monkeypatch.setenv("NHI_ACTOR", "aider")
    lab = Lab.ready(tmp_path, monkeypatch)
    write(lab, POLICY)
    return lab


def write(lab: Lab, policy: dict[str, Any]) -> None:
    (lab.directory / "policy.json").write_text(json.dumps(policy))


def planned(lab: Lab, *services: str, **options: Any) -> str:
    outcome = lab.request(*services, check=True, **options)
    assert outcome.ticket, outcome.warnings
    return str(outcome.as_dict()["plan"]["plan_id"])


def approve(lab: Lab, plan_id: str) -> str:
    PlanStore(lab.directory).approve(plan_id, "luca", parse_policy(POLICY), utc_now())
    return plan_id


def open_files(lab: Lab) -> list[str]:
    """Journals and jobs, open or waiting."""
    found = [p for d in ("journal", "restarts/journal", "restarts/jobs") for p in (lab.directory / d).glob("*.json*")]
    return [path.name for path in found]


def test_what_the_graph_leaves_to_everybody_is_restarted_without_approval(lab: Lab) -> None:
    assert lab.request("redis-cache", "nginx-web").action == "restarted"
    assert lab.done() == ["redis-cache", "nginx-web"]


def test_what_the_graph_guards_is_refused_then_approved_then_done_once(lab: Lab) -> None:
    with pytest.raises(NotAllowedError, match=r"restart_guarded of postgres by aider needs an approval .* --check"):
        lab.request("postgres", confirm="postgres")
    foretold = lab.request("postgres", confirm="postgres", check=True).as_dict()
    plan_id = foretold["plan"]["plan_id"]
    assert foretold["plan"]["needs_approval"]
    assert f"an operator approves it with 'nhi approve {plan_id}'" in foretold["how_to_apply"][0]
    with pytest.raises(NotAllowedError, match=f"nhi approve {plan_id}"):
        lab.request("postgres", confirm="postgres", plan_id=plan_id)
    assert (lab.done(), open_files(lab)) == ([], [])
    approve(lab, plan_id)
    assert lab.request("postgres", confirm="postgres", plan_id=plan_id).action == "restarted"
    with pytest.raises(PlanError, match="is used by aider"):
        lab.request("postgres", confirm="postgres", plan_id=plan_id)
    assert (lab.done(), open_files(lab)) == (["postgres"], [])


def test_an_operator_confirms_by_name_and_needs_no_approval(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NHI_ACTOR", "luca")
    with pytest.raises(PreflightError, match="confirm=postgres"):
        lab.request("postgres")
    assert lab.request("postgres", confirm="postgres").action == "restarted"


def test_outside_the_safe_hours_nobody_but_an_operator_decides(lab: Lab) -> None:
    with pytest.raises(NotAllowedError, match="restart_guarded of minio"):
        lab.request("minio", at_once=True, confirm="minio")
    assert lab.done() == []
    plan_id = approve(lab, planned(lab, "minio", at_once=True, confirm="minio"))
    with pytest.raises(PlanError, match=r"no longer fits: the request changed \(at_once\)"):
        lab.request("minio", plan_id=plan_id)
    assert lab.request("minio", at_once=True, confirm="minio", plan_id=plan_id).action == "restarted"


def corrected(lab: Lab) -> None:
    lab.pve.guests[102]["config"]["memory"] = 1024


def swapped(lab: Lab) -> None:
    lab.pve.add(102, "postgres", running=True, description="family photos\n\nnhi: op-other")


def renamed(lab: Lab) -> None:
    lab.pve.guests[102]["config"]["hostname"] = "photos"


def regraphed(lab: Lab) -> None:
    graph = json.loads((lab.directory / "dependency_graph.json").read_text())
    graph["services"]["grafana"]["depends_on"] = ["postgres"]
    (lab.directory / "dependency_graph.json").write_text(json.dumps(graph))


def moved(lab: Lab) -> None:
    graph = json.loads((lab.directory / "dependency_graph.json").read_text())
    (lab.directory / "dependency_graph.json").write_text(json.dumps({**graph, "time_zone": "Asia/Tokyo"}))


def repolicied(lab: Lab) -> None:
    write(lab, {**POLICY, "plan_minutes": 60})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (corrected, "the guest changed .*102 postgres: digest"), (swapped, "the guest changed .*102 .*: .*operation"),
        (renamed, "VMID 102 is LXC 102 photos on pve, not postgres"), (regraphed, "the dependency graph changed"),
        (moved, "the dependency graph changed"), (repolicied, "the policy changed"),
    ],
)  # fmt: skip
def test_an_approval_is_for_what_was_shown(lab: Lab, change: Callable[[Lab], None], words: str) -> None:
    plan_id = approve(lab, planned(lab, "postgres", confirm="postgres"))
    change(lab)
    with pytest.raises(NHIError, match=words):
        lab.request("postgres", confirm="postgres", plan_id=plan_id)
    assert (lab.done(), open_files(lab)) == ([], [])


def test_an_approval_is_for_these_services_and_for_this_actor(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    plan_id = approve(lab, planned(lab, "postgres", confirm="postgres"))
    with pytest.raises(PlanError, match="no longer fits"):
        lab.request("postgres", "redis-cache", confirm="postgres", plan_id=plan_id)
    with pytest.raises(PlanError, match="no longer fits"):
        lab.request("postgres", confirm="postgres", plan_id=plan_id, whole_guests=True)
    monkeypatch.setenv("NHI_ACTOR", "goose")
    with pytest.raises(PlanError, match="was made for aider"):
        lab.request("postgres", confirm="postgres", plan_id=plan_id)
    assert lab.done() == []


def test_an_expired_plan_leaves_nothing_open(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    plan_id = approve(lab, planned(lab, "postgres", confirm="postgres"))
    monkeypatch.setattr(
        "ansible_collections.nhi.core.plugins.module_utils.plan_seal.PlanBody.is_expired", lambda *_args: True
    )
    with pytest.raises(PlanError, match="is expired"):
        lab.request("postgres", confirm="postgres", plan_id=plan_id)
    assert (lab.done(), open_files(lab)) == ([], [])


def test_a_loop_of_restarts_is_stopped_by_the_budget(lab: Lab) -> None:
    for _time in range(2):
        lab.request("redis-cache")
    with pytest.raises(BudgetError, match="aider has 2 restarts of services within an hour of the 2"):
        lab.request("redis-cache")
    assert lab.done() == ["redis-cache"] * 2


def test_a_policy_that_can_not_be_used_lets_nothing_through_and_nothing_be_lost(lab: Lab) -> None:
    lab.request("minio")
    lab.ahead = timedelta(hours=12)
    (lab.directory / "policy.json").write_text("{")
    for attempt in (lambda: lab.request("redis-cache"), lab.restarts().run_due):
        with pytest.raises(PolicyError):
            attempt()
    assert (lab.done(), [job["status"] for job in lab.jobs()]) == ([], ["scheduled"])


def told(lab: Lab) -> list[tuple[str, str, str, str | None]]:
    entries = list(find(lab.directory, Query()))
    return [(e["operation"], e["outcome"], e["actor"], e["plan"]) for e in entries]


def test_the_audit_log_is_told_of_every_attempt(lab: Lab) -> None:
    with pytest.raises(NotAllowedError):
        lab.request("postgres", confirm="postgres")
    assert told(lab) == [("restart", "refused", "aider", None)]
    plan_id = approve(lab, planned(lab, "postgres", confirm="postgres"))
    lab.request("postgres", confirm="postgres", plan_id=plan_id)
    assert told(lab)[1:] == [("restart", outcome, "aider", plan_id) for outcome in ("allowed", "done")]
    (lab.directory / "audit").rename(lab.directory / "audit.away")
    (lab.directory / "audit").touch()
    with pytest.raises(AuditError, match="Nothing is changed that the audit log is not told of"):
        lab.request("redis-cache")
    assert lab.done() == ["postgres"]


# What waits for its hour was let through when it was asked for.


def scheduled(lab: Lab) -> str:
    """A restart of minio and postgres that was approved, and whose hour has come since."""
    plan_id = approve(lab, planned(lab, "minio", "postgres", confirm="postgres"))
    assert lab.request("minio", "postgres", confirm="postgres", plan_id=plan_id).action == "scheduled"
    return plan_id


def due(lab: Lab) -> dict[str, Any]:
    lab.ahead = timedelta(hours=12)
    lab.restarts().run_due()
    (job,) = lab.jobs()
    return job


def test_a_scheduled_restart_needs_its_approval_when_it_is_scheduled(lab: Lab) -> None:
    with pytest.raises(NotAllowedError, match="needs an approval"):
        lab.request("minio", "postgres", confirm="postgres")
    assert (lab.jobs(), open_files(lab)) == ([], [])
    plan_id = scheduled(lab)
    assert [(job["by"], job["admitted"]) for job in lab.jobs()] == [("aider", plan_id)]
    again = lab.request("minio", "postgres", confirm="postgres")
    assert not again.changed, "what waits already needs no second approval"
    assert due(lab)["status"] == "done"
    assert sorted(lab.done()) == ["minio", "postgres"]
    assert told(lab)[-2:] == [("restart/due", outcome, "aider", plan_id) for outcome in ("allowed", "done")]


def test_a_scheduled_restart_waits_while_changes_are_frozen(lab: Lab) -> None:
    scheduled(lab)
    freeze(lab.directory, "luca", "something is odd")
    assert due(lab)["status"] == "scheduled"
    unfreeze(lab.directory)
    assert due(lab)["status"] == "done"


def outlawed(lab: Lab) -> None:
    write(lab, {**POLICY, "rules": [{"decision": "deny", "reason": "not today"}]})


def dethroned(lab: Lab) -> None:
    write(lab, {**POLICY, "operators": ["sofia"]})


def rewritten(lab: Lab) -> None:
    for path in (lab.directory / "restarts/jobs").glob("*.json"):
        job = json.loads(path.read_text())
        path.write_text(json.dumps({**job, "services": ["minio", "off", "postgres"]}))


def forged(lab: Lab) -> None:
    unused = planned(lab, "minio", "postgres", confirm="postgres")
    for path in (lab.directory / "restarts/jobs").glob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "admitted": unused}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (corrected, "not what was allowed with plan-.*: the guest changed"), (swapped, "the guest changed"),
        (renamed, "not postgres"), (regraphed, "what would be done changed"), (outlawed, "not today"),
        (dethroned, "needs an approval by now"), (forged, "does not stand for anything that aider was allowed"),
    ],
)  # fmt: skip
def test_what_is_another_when_its_hour_comes_is_not_done(lab: Lab, change: Callable[[Lab], None], words: str) -> None:
    scheduled(lab)
    lab.ahead = timedelta(hours=12)
    change(lab)
    (job,) = lab.restarts().run_due()
    assert job.status == "failed"
    assert re.search(words, job.message), job.message
    assert lab.done() == []


def test_a_change_of_the_graph_elsewhere_does_not_concern_it(lab: Lab) -> None:
    scheduled(lab)
    graph = json.loads((lab.directory / "dependency_graph.json").read_text())
    graph["services"]["new"] = {"depends_on": ["redis-cache"]}
    (lab.directory / "dependency_graph.json").write_text(json.dumps(graph))
    assert due(lab)["status"] == "done"


# Cut off in the middle, it was let through already.


def killed(lab: Lab, monkeypatch: pytest.MonkeyPatch, plan_id: str | None = None) -> None:
    """A restart of redis-cache and postgres that SIGKILL ends before postgres."""

    def kill(moment: str, service: str) -> None:
        if (moment, service) == ("before", "redis-cache"):
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(restarts_module, "GuestRestarter", lambda _site: FakeRestarter(lab.file, kill))
        try:
            lab.request("postgres", "redis-cache", confirm="postgres", plan_id=plan_id)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert lab.done() == ["postgres"]


@pytest.mark.parametrize("named", [True, False])
def test_the_same_again_goes_on_under_its_used_plan(lab: Lab, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    plan_id = approve(lab, planned(lab, "postgres", "redis-cache", confirm="postgres"))
    killed(lab, monkeypatch, plan_id)
    again = lab.request("postgres", "redis-cache", confirm="postgres", plan_id=plan_id if named else None)
    assert again.progress["resumed"] == ["postgres"]
    assert (lab.done(), open_files(lab)) == (["postgres", "redis-cache"], [])


def test_somebody_else_does_not_go_on_with_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(lab, monkeypatch, approve(lab, planned(lab, "postgres", "redis-cache", confirm="postgres")))
    monkeypatch.setenv("NHI_ACTOR", "goose")
    with pytest.raises(NotAllowedError, match="needs an approval"):
        lab.request("postgres", "redis-cache", confirm="postgres")
    assert lab.done() == ["postgres"]


def test_whoever_finishes_it_needs_no_approval_of_their_own(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(lab, monkeypatch, approve(lab, planned(lab, "postgres", "redis-cache", confirm="postgres")))
    monkeypatch.setenv("NHI_ACTOR", "sofia")
    (name,) = open_files(lab)
    operation = name.removesuffix(".jsonl")
    freeze(lab.directory, "luca", "something is odd")
    with pytest.raises(FrozenError):
        lab.restarts().finish(operation)
    unfreeze(lab.directory)
    corrected(lab)
    with pytest.raises(PlanError, match="the guest changed"):
        lab.restarts().finish(operation)
    assert lab.done() == ["postgres"]
    lab.pve.guests[102]["config"]["memory"] = 512
    assert lab.restarts().finish(operation).progress["restarted"] == ["postgres", "redis-cache"]
    assert (lab.done(), open_files(lab)) == (["postgres", "redis-cache"], [])
    with pytest.raises(PreflightError, match="there is no restart"):
        lab.restarts().finish(operation)
