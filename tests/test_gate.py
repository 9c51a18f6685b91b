"""Plan, approve, apply with the real module on a lab in memory: what an agent may do, and what stops it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.audit_reader import Query, find

from tests.conftest import ROOT, Operator, tool

pytestmark = pytest.mark.e2e

GRAPH = ROOT / "infrastructure/dependency_graph.json"
POLICY: dict[str, Any] = {
    "schema_version": 1,
    "operators": ["root", "luca"],
    "protected": {"guests": ["brain-vm"], "tags": ["precious"]},
    "rules": [
        {"actors": ["@operators"], "decision": "allow"},
        {"operations": ["create", "start", "configure", "snapshot", "backup"], "decision": "allow"},
    ],
    "budgets": {"default": {"guests": 4, "outstanding_plans": 10}},
}
SPEC: dict[str, Any] = {
    "template": "debian-12", "memory": 128, "disk": 1, "wait": False,
    "network": {"bridge": "vmbr0", "ip": "auto", "range": "127.86.71.10-127.86.71.99", "prefix": 24},
}  # fmt: skip
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def agent(operator: Operator) -> Operator:
    """The agent aider; its lab has a policy."""
    (operator.state_dir / "policy.json").write_text(json.dumps(POLICY))
    return replace(operator, extra={**operator.extra, "NHI_ACTOR": "aider"})


@pytest.fixture
def person(agent: Operator) -> Operator:
    """The operator luca, in the same lab."""
    return replace(agent, extra={**agent.extra, "NHI_ACTOR": "luca"})


def vm(who: Operator, name: str, state: str = "started", **more: Any) -> dict[str, Any]:
    spec = SPEC if state in ("started", "present") else {"confirm": name}
    return who.module("nhi_vm", name=name, state=state, state_dir=str(who.state_dir), **{**spec, **more})


def nhi(who: Operator, *args: str) -> str:
    """As an operator called luca would run it: `nhi` asks the system who that is."""
    code = (
        "import sys; from nhi_services import plan_command, cli;"
        " plan_command.current_person = lambda: 'luca'; sys.exit(cli.main(sys.argv[1:]))"
    )
    done = who.run(tool("python"), "-c", code, *args, "--state-dir", str(who.state_dir))
    assert done.returncode == 0, done.stderr
    return done.stdout


def writes(who: Operator) -> int:
    return len(who.lab.writes())


def test_an_agent_creates_freely_but_destroys_only_what_was_approved(agent: Operator) -> None:
    made = vm(agent, "web-1")
    assert made["changed"], made
    before = writes(agent)
    refused = vm(agent, "web-1", "absent")
    assert refused["failed"]
    assert "needs an approval" in refused["msg"]
    plan = vm(agent, "web-1", "absent", _check=True)["plan"]
    assert plan["needs_approval"], plan
    waiting = vm(agent, "web-1", "absent", plan_id=plan["plan_id"])
    assert f"nhi approve {plan['plan_id']}" in waiting["msg"]
    assert writes(agent) == before
    assert "is approved by luca" in nhi(agent, "approve", plan["plan_id"])
    done = vm(agent, "web-1", "absent", plan_id=plan["plan_id"])
    assert done["changed"], done
    [told] = [
        e for e in find(agent.state_dir, Query(guest="web-1", outcome="done")) if e["plan"] and e["actor"] == "aider"
    ]
    assert told["plan"] == plan["plan_id"]
    assert "is used by aider" in vm(agent, "web-1", "absent", plan_id=plan["plan_id"]).get("msg", "is used by aider")


def test_a_plan_does_not_outlive_a_change_of_the_guest(agent: Operator, person: Operator) -> None:
    vm(agent, "web-1")
    plan_id = vm(agent, "web-1", "absent", _check=True)["plan"]["plan_id"]
    nhi(agent, "approve", plan_id)
    assert vm(person, "web-1", memory=256)["changed"]
    before = writes(agent)
    refused = vm(agent, "web-1", "absent", plan_id=plan_id)
    assert "no longer fits" in refused["msg"]
    assert "digest" in refused["msg"]
    assert writes(agent) == before


def test_a_plan_does_not_fit_another_guest_or_request(agent: Operator) -> None:
    vm(agent, "web-1")
    vm(agent, "web-2")
    plan_id = vm(agent, "web-1", "absent", _check=True)["plan"]["plan_id"]
    nhi(agent, "approve", plan_id)
    before = writes(agent)
    for name, more in (("web-2", {}), ("web-1", {"allow_impact": True})):
        assert "no longer fits" in vm(agent, name, "absent", plan_id=plan_id, **more)["msg"]
    assert writes(agent) == before


def test_a_guest_swapped_under_its_vmid_is_not_what_was_approved(agent: Operator, person: Operator) -> None:
    made = vm(agent, "web-1")
    plan_id = vm(agent, "web-1", "absent", _check=True)["plan"]["plan_id"]
    nhi(agent, "approve", plan_id)
    assert vm(person, "web-1", "absent")["changed"]
    assert vm(person, "web-1", vmid=made["vmid"])["changed"]
    before = writes(agent)
    refused = vm(agent, "web-1", "absent", plan_id=plan_id)
    assert "no longer fits" in refused["msg"], refused
    assert writes(agent) == before


def test_what_is_created_under_a_plan_is_what_was_shown(agent: Operator, person: Operator) -> None:
    shown = vm(agent, "web-1", _check=True)
    assert shown["plan"]["decision"] == "allow"
    done = vm(agent, "web-1", plan_id=shown["plan"]["plan_id"])
    assert (done["vmid"], done["vm"]["address"]) == (shown["vm"]["vmid"], shown["vm"]["address"])
    shown = vm(agent, "web-2", _check=True)
    vm(person, "other")
    before = writes(agent)
    refused = vm(agent, "web-2", plan_id=shown["plan"]["plan_id"])
    assert "no longer fits: what would be done changed" in refused["msg"]
    assert writes(agent) == before


def test_what_the_policy_protects_nobody_destroys(agent: Operator, person: Operator) -> None:
    vm(person, "db-1", tags=["precious"])
    before = writes(agent)
    for who in (agent, person):
        assert "protected by the policy" in vm(who, "db-1", "absent")["msg"]
    assert writes(agent) == before
    assert "not allowed" in str(vm(agent, "db-1", "absent", _check=True)["warnings"])


def test_a_loop_is_stopped_by_the_budget(agent: Operator) -> None:
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda number: vm(agent, f"loop-{number}"), range(12)))
    made = [r for r in results if not r.get("failed")]
    assert len(made) == 4, [r.get("msg") for r in results]
    for refused in (r for r in results if r.get("failed")):
        assert "of the 4 that the policy allows" in refused["msg"]
    names = {r["vm"]["name"] for r in made}
    there = {p["params"].get("hostname") for p in agent.lab.writes() if p["path"].endswith("/lxc")}
    assert names == there - {None}


def test_a_creation_that_fails_does_not_count(agent: Operator) -> None:
    for _count in range(5):
        agent.lab.fault("set", "task-fail", "--task", "vzcreate", "--count", "1")
        assert vm(agent, "web-1")["failed"]
        agent.lab.fault("clear")
    for number in range(4):
        assert vm(agent, f"web-{number}")["changed"]


def test_a_freeze_stops_agents_and_operators_and_every_module(agent: Operator, person: Operator) -> None:
    vm(agent, "web-1")
    before = writes(agent)
    assert "frozen by luca" in nhi(agent, "freeze", "odd things happen")
    for who in (agent, person):
        for result in (vm(who, "web-2"), vm(who, "web-1", "stopped"), vm(who, "web-1", "absent")):
            assert "odd things happen" in result["msg"]
    assert "odd things" in str(vm(agent, "web-2", _check=True)["warnings"])
    assert writes(agent) == before
    nhi(agent, "unfreeze")
    assert vm(agent, "web-2")["changed"]


def test_a_broken_policy_allows_nothing(agent: Operator, person: Operator) -> None:
    (agent.state_dir / "policy.json").write_text(json.dumps({**POLICY, "rules": [{"decision": "perhaps"}]}))
    for who in (agent, person):
        for check in (False, True):
            assert "nothing is allowed" in vm(who, "web-1", _check=check)["msg"]
    assert writes(agent) == 0


def test_of_many_runs_one_applies_a_plan(agent: Operator) -> None:
    vm(agent, "web-1")
    plan_id = vm(agent, "web-1", "absent", _check=True)["plan"]["plan_id"]
    nhi(agent, "approve", plan_id)
    barrier = threading.Barrier(4)

    def apply(_number: int) -> dict[str, Any]:
        barrier.wait()
        return vm(agent, "web-1", "absent", plan_id=plan_id)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(apply, range(4)))
    assert sum(bool(r.get("changed")) for r in results) == 1, results
    assert len([w for w in agent.lab.writes() if w["method"] == "DELETE"]) == 1


def test_going_back_to_a_snapshot_needs_approval_and_taking_one_does_not(agent: Operator) -> None:
    vm(agent, "web-1", storage="local-lvm")
    wish = {"name": "web-1", "snapshot": "before", "state_dir": str(agent.state_dir)}
    assert agent.module("nhi_vm_snapshot", **wish)["changed"]
    wish |= {"state": "rollback", "confirm": "web-1"}
    before = writes(agent)
    assert "needs an approval" in agent.module("nhi_vm_snapshot", **wish)["msg"]
    plan_id = agent.module("nhi_vm_snapshot", **wish, _check=True)["plan"]["plan_id"]
    # The plan of one module is none of another.
    nhi(agent, "approve", plan_id)
    assert "no longer fits" in vm(agent, "web-1", "absent", plan_id=plan_id)["msg"]
    assert writes(agent) == before
    assert agent.module("nhi_vm_snapshot", **wish, plan_id=plan_id)["changed"]


def test_a_restore_counts_as_a_guest_and_one_in_place_needs_approval(agent: Operator) -> None:
    vm(agent, "web-1")
    state = {"state_dir": str(agent.state_dir)}
    made = agent.module("nhi_vm_backup", name="web-1", storage="local", **state)
    wish = {"state": "restored", "backup": made["backup"]["volid"], **state}
    assert "needs an approval (no rule" in agent.module("nhi_vm_backup", name="web-2", **wish)["msg"]
    refused = agent.module("nhi_vm_backup", name="web-1", confirm="web-1", **wish)
    assert "needs an approval" in refused["msg"], refused
    plan_id = agent.module("nhi_vm_backup", name="web-1", confirm="web-1", **wish, _check=True)["plan"]["plan_id"]
    nhi(agent, "approve", plan_id)
    assert agent.module("nhi_vm_backup", name="web-1", confirm="web-1", **wish, plan_id=plan_id)["changed"]


def test_secrets_are_in_no_plan(agent: Operator) -> None:
    secret = {"ciuser": "admin", "cipassword": "S3cret-of-the-guest"}
    shown = vm(agent, "web-1", _check=True, type="qemu", template=None, **secret)
    assert shown["plan"], shown["preflight"]
    texts = [f.read_text(errors="replace") for f in agent.state_dir.rglob("*") if f.is_file() and f.name != "plan.key"]
    secrets = ["S3cret-of-the-guest", agent.lab.env["PROXMOX_TOKEN_SECRET"]]
    assert not [s for s in secrets for text in texts if s in text]
