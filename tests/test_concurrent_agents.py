"""Three agents, an operator and a lab full of faults for a while: in the end nothing is lost, orphaned or unexplained.

For longer, or again with the same numbers:

    NHI_CONCURRENT_SECONDS=300 NHI_CONCURRENT_SEED=7 pytest tests/test_concurrent_agents.py -s
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.audit_entry import ALLOWED, DONE
from ansible_collections.nhi.core.plugins.module_utils.audit_reader import Query, find
from ansible_collections.nhi.core.plugins.module_utils.audit_verify import verify
from ansible_collections.nhi.core.plugins.module_utils.lock_status import FREE, holds_in
from ansible_collections.nhi.core.plugins.module_utils.open_work import open_work
from ansible_collections.nhi.core.plugins.module_utils.plan_store import PlanStore, StoredPlan
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import ProxmoxClient
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now

from lab.faults import Faults

from .agents import AIDER, ANTIGRAVITY, INTERPRETER, NAMES, OPERATOR, SPEC, Mission, trouble, work
from .conftest import Operator, tool
from .killing import journals
from .test_audit_journey import untold
from .test_races import assert_nothing_is_given_twice, endpoint, there_is

SECONDS = float(os.environ.get("NHI_CONCURRENT_SECONDS", "30"))
PATIENCE_SECONDS = 120.0
POLICY: dict[str, Any] = {
    "schema_version": 1,
    "operators": [OPERATOR],
    "rules": [
        {"actors": ["@operators"], "decision": "allow"},
        {"actors": [INTERPRETER], "operations": ["create", "start", "configure", "resize"], "decision": "allow"},
        {"operations": ["destroy", "stop"], "decision": "approve"},
    ],
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 400)]

Report = dict[str, list[dict[str, Any]]]


@pytest.fixture
def echo() -> Iterator[dict[str, Any]]:
    """A service that is well on every guest, since all of them are addresses of this host."""
    with socket.create_server(("", 0)) as server:
        threading.Thread(target=_answer, args=(server,), daemon=True).start()
        yield {
            "name": "echo", "title": "Echo", "summary": "It answers.", "role": "nhi.core.redis", "criticality": "low",
            "guest": {"type": "lxc", "template": "debian-12"},
            "sizes": {"default": {"cores": 1, "memory_mib": 64, "disk_gib": 1}}, "depends_on": [], "tags": [],
            "endpoints": [{
                "name": "main", "protocol": "tcp", "port": server.getsockname()[1], "health": {"type": "tcp"},
            }],
        }  # fmt: skip


def _answer(server: socket.socket) -> None:
    while True:
        try:
            server.accept()[0].close()
        except OSError:
            return


@pytest.fixture
def seed() -> int:
    """Numbers that can be had again."""
    number = int(os.environ.get("NHI_CONCURRENT_SEED") or random.randrange(10**6))
    print(f"NHI_CONCURRENT_SEED={number} NHI_CONCURRENT_SECONDS={SECONDS:g}")
    return number


@pytest.fixture
def night(operator: Operator, echo: dict[str, Any], seed: int, tmp_path: Path) -> tuple[Operator, Report]:
    """What an operator finds in the morning: the lab, settled by one change of the operator's, and the reports."""
    (operator.state_dir / "policy.json").write_text(json.dumps(POLICY))
    person = replace(operator, extra={**operator.extra, "NHI_ACTOR": OPERATOR, "NHI_GUEST_HEALTH_PORT": "0"})
    scan(person)
    stop = tmp_path / "stop"
    context = multiprocessing.get_context("spawn")
    missions = [
        Mission(operator, actor, seed, stop, tmp_path / f"{actor}.jsonl", echo)
        for actor in (AIDER, INTERPRETER, ANTIGRAVITY, OPERATOR)
    ]
    processes = [context.Process(target=work, args=(mission,)) for mission in missions]
    for process in processes:
        process.start()
    faults = Faults(operator.lab.directory / "faults.json")
    ordered = trouble(faults, random.Random(f"{seed}/faults"), time.time() + SECONDS)
    faults.clear()
    # A busy machine needs longer until all that is to be seen was done once.
    patience = time.time() + PATIENCE_SECONDS
    while missing({m.actor: lines_of(m.report) for m in missions}) and time.time() < patience:
        time.sleep(0.5)
    stop.touch()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4, "an agent fell over"
    report = {m.actor: lines_of(m.report) for m in missions}
    print("\n".join(summary(report, ordered)))
    settle(person)
    return person, report


def lines_of(report: Path) -> list[dict[str, Any]]:
    text = report.read_text() if report.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def settle(person: Operator) -> None:
    """What the operator does in the morning: a guest comes and goes, what is gone is forgotten, the lab is read."""
    for state in ("started", "absent"):
        options = SPEC if state == "started" else {"confirm": "morning"}
        done = person.module("nhi_vm", name="morning", state=state, **options)
        assert not done.get("failed"), done
    alive = {guest["name"] for guest in there_is(person.lab).values()}
    for path in (person.state_dir / "dependency_graph.d").glob("*.json"):
        if path.stem not in alive:
            gone = person.module("nhi_service", name=path.stem, state="absent", catalogue=[])
            assert not gone.get("failed"), gone
    wait_for_tasks(person)
    scan(person)


def wait_for_tasks(person: Operator) -> None:
    """A task that a killed run began goes on, and locks its guest until its end."""
    deadline = time.monotonic() + 30
    with ProxmoxClient(endpoint(person.lab)) as client:
        while [t for t in client.get("/nodes/pve/tasks", {"source": "active"}) if not t.get("endtime")]:
            assert time.monotonic() < deadline, "a task has no end"
            time.sleep(0.2)


def scan(person: Operator) -> None:
    scanned = person.module("nhi_state_scan", full=True, health_checks=False, guest_health_port=0)
    assert not scanned.get("failed"), scanned


def summary(report: Report, faults: int) -> Iterator[str]:
    for actor, lines in report.items():
        kinds = Counter(
            "killed" if line.get("killed") else "failed" if line.get("failed") else "changed"
            if line.get("changed") else "ok"
            for line in lines
        )  # fmt: skip
        yield f"{actor}: {len(lines)} runs, {dict(kinds)}"
    yield f"{faults} faults"


def test_in_the_morning_everything_is_accounted_for(night: tuple[Operator, Report], capfd: Any) -> None:
    person, report = night
    found = there_is(person.lab)
    assert missing(report) == []
    check_that_every_failure_is_one_line(report)
    check_the_state(person, found)
    check_that_nothing_is_left(person, found)
    check_the_audit(person, found)


def missing(report: Report) -> list[str]:
    """What has not been done yet; a night in which nothing happened shows nothing."""
    runs = [line for lines in report.values() for line in lines]
    done = {
        "a kill": any(line.get("killed") for line in runs),
        "a bulk read": any(line["what"] == "read" for line in report[AIDER]),
        "a creation": any("started" in line["about"] and line.get("changed") for line in report[INTERPRETER]),
        "a removal": any(line["about"].endswith(" absent") and line.get("changed") for line in report[ANTIGRAVITY]),
        "a removal without approval": any(
            "needs an approval" in (line.get("failed") or "") for line in report[ANTIGRAVITY]
        ),
        **{
            f"an operator's {verb}": any(verb in line["about"] and not line["failed"] for line in report[OPERATOR])
            for verb in ("approve", "reject")
        },
    }
    return [what for what, was in done.items() if not was]


def check_that_every_failure_is_one_line(report: Report) -> None:
    for lines in report.values():
        for line in lines:
            assert "\n" not in (line.get("failed") or ""), line
            assert "Traceback" not in (line.get("failed") or ""), line


def check_the_state(person: Operator, found: dict[int, dict[str, str]]) -> None:
    """It is valid, and it shows what there is."""
    assert_nothing_is_given_twice(found)
    document = StateStore(person.state_dir).validate().document
    guests = document["infrastructure"]["guests"]
    assert {g["vmid"]: (g["name"], g["address"]) for g in guests} == {
        vmid: (guest["name"], guest["address"]) for vmid, guest in found.items()
    }
    with ProxmoxClient(endpoint(person.lab)) as client:
        rows = {r["vmid"]: r["status"] for r in client.get("/cluster/resources") if r["type"] == "lxc"}
    assert {g["vmid"]: g["status"] for g in guests} == rows
    assert {g["vmid"]: g["lock"] for g in guests if g["lock"]} == {}
    assert [g["vmid"] for g in guests if g["freshness"] != "fresh"] == []
    status = nhi(person, "status", "--json")
    assert status.returncode == 0, status.stderr
    alerts = [a for a in json.loads(status.stdout)["alerts"] if a["severity"] != "info"]
    assert alerts == []


def nhi(person: Operator, *args: str) -> subprocess.CompletedProcess[str]:
    return person.run(
        tool("python"), "-c", "import sys; from nhi_services.cli import main; sys.exit(main(sys.argv[1:]))", *args
    )


def check_that_nothing_is_left(person: Operator, found: dict[int, dict[str, str]]) -> None:
    """No journal, lock, reservation or registration of what is not there; each address in the ledger once."""
    assert journals(person.state_dir) == []
    assert open_work(person.state_dir, utc_now()) == []
    assert [hold for hold in holds_in(person.state_dir) if hold.state != FREE] == []
    locks = nhi(person, "lock", "status")
    assert locks.returncode == 0, locks.stdout
    ledger = json.loads((person.state_dir / "reservations.json").read_text())["reservations"]
    used = [line for line in ledger if line["status"] == "used" and line["address"]]
    assert {line["status"] for line in ledger} <= {"used", "quarantined"}
    assert Counter((line["name"], line["vmid"], line["address"]) for line in used) == Counter(
        (guest["name"], vmid, guest["address"]) for vmid, guest in found.items()
    )
    registered = {path.stem for path in (person.state_dir / "dependency_graph.d").glob("*.json")}
    assert registered <= {guest["name"] for guest in found.values()}


def check_the_audit(person: Operator, found: dict[int, dict[str, str]]) -> None:
    """The log is whole; what there is was asked for; what is gone was approved; what was rejected never happened."""
    assert verify(person.state_dir).findings == []
    assert untold(person) == []
    entries = list(find(person.state_dir, Query()))
    asked = {e["subject"] for e in entries if e["outcome"] == ALLOWED and e["actor"] == INTERPRETER}
    assert {guest["name"] for guest in found.values()} <= asked
    plans = PlanStore(person.state_dir).all()
    used = [plan for plan in plans if "used" in plan.marks]
    for plan in used:
        assert plan.marks["approved"].by == OPERATOR, plan
        assert plan.marks["used"].by == ANTIGRAVITY, plan
    assert [plan.plan_id for plan in used if "rejected" in plan.marks] == []
    check_removals(person, entries, used, found)


def check_removals(
    person: Operator, entries: list[dict[str, Any]], used: list[StoredPlan], found: dict[int, dict[str, str]]
) -> None:
    """As many guests that were made to the end are gone as plans to remove them were approved and used, at most."""
    made = Counter(
        (e["subject"], e["result"]["vmid"])
        for e in entries
        if e["outcome"] == DONE and e["actor"] == INTERPRETER
        and any(re.match(r"Create ", action) for action in (e["result"] or {}).get("actions", []))
    )  # fmt: skip
    there = Counter((guest["name"], vmid) for vmid, guest in found.items())
    approved = Counter(
        (target["name"], target["vmid"])
        for plan in used
        if plan.body.request.get("state") == "absent"
        for target in plan.body.targets
    )
    assert made, "nothing was made to its end"
    gone = made - there
    assert gone - approved == Counter(), (gone, approved)
    assert set(NAMES) >= {name for name, _vmid in there}
