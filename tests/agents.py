"""Three agents, an operator and what goes wrong around them: programs that work on one lab at the same time.

Each is a process of its own that goes on until its time is up, with random numbers from one seed. Their runs of modules
are killed now and then, at one of their steps or at any instant. What each did is one line of JSON a run in its report.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ansible_collections.nhi.core.plugins.module_utils.errors import NHIError
from ansible_collections.nhi.core.plugins.module_utils.plan_store import PlanStore
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.module_utils.state_document import utc_now
from nhi_services import cli, plan_command

from lab.faults import Faults, fault_from

from .conftest import Operator
from .killing import run_module

AIDER, INTERPRETER, ANTIGRAVITY, OPERATOR = "aider", "open-interpreter", "antigravity", "luca"
NAMES = [f"web-{number}" for number in range(8)]
SPEC: dict[str, Any] = {
    "template": "debian-12", "storage": "local-lvm", "cores": 1, "memory": 64, "disk": 1, "wait": False,
    "network": {"range": "127.86.72.10-127.86.72.99", "prefix": 24}, "tags": ["svc-echo"],
}  # fmt: skip
KILLED_RUNS = 0.35
_LONGEST_LIFE_SECONDS = 0.6
_MOMENTS = 14


@dataclass(frozen=True)
class Mission:
    """Who works where, until which file is there, with which numbers; `service` is a catalogue entry."""

    operator: Operator
    actor: str
    seed: int
    stop: Path
    report: Path
    service: dict[str, Any]

    @property
    def is_over(self) -> bool:
        return self.stop.exists()


class Agent:
    """What the agents share: a turn is one thing that they do."""

    def __init__(self, mission: Mission) -> None:
        self.mission = mission
        self.random = random.Random(f"{mission.seed}/{mission.actor}")
        extra = {**mission.operator.extra, "NHI_ACTOR": mission.actor}
        self.operator = replace(mission.operator, extra=extra)
        self.state_dir = mission.operator.state_dir
        os.environ.clear()
        os.environ.update(self.operator.environment())

    def work(self) -> None:
        """Take turns until the time is up, at first each of them once."""
        turns = self.turns()
        first = self.random.sample(turns, len(turns))
        while not self.mission.is_over:
            (first.pop() if first else self.random.choice(turns))()

    def turns(self) -> list[Callable[[], None]]:
        """What may be done, the more likely the more often it is listed."""
        raise NotImplementedError

    def module(self, name: str, /, *, check: bool = False, **options: Any) -> dict[str, Any]:
        """Run a module, which may be killed; its result, empty if it was."""
        fate: dict[str, Any] = {}
        if self.random.random() < KILLED_RUNS:
            if self.random.random() < 0.5:
                fate["kill_at"] = self.random.randint(1, _MOMENTS)
            else:
                fate["kill_after"] = self.random.uniform(0, _LONGEST_LIFE_SECONDS)
        began = time.time()
        ended = run_module(self.operator, name, {**options, "_ansible_check_mode": check}, **fate)
        result = ended.result
        self.tell(
            name, f"{options.get('name', '')} {options.get('state', '')}{' check' if check else ''}", began,
            killed=ended.killed, changed=bool(result.get("changed")), failed=str(result.get("msg", "")) or None
            if result.get("failed") else None,
        )  # fmt: skip
        return result

    def nhi(self, *args: str) -> tuple[int, str]:
        """The command, in this process: what it returns and prints."""
        began, out, complaint = time.time(), io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(complaint):
            code = cli.main([*args, "--state-dir", str(self.state_dir)])
        self.tell("nhi", " ".join(args), began, failed=complaint.getvalue().strip() or None)
        return code, out.getvalue()

    def tell(self, what: str, about: str, began: float, **more: Any) -> None:
        """A line of the report."""
        line = {"what": what, "about": about, "seconds": round(time.time() - began, 2), **more}
        with self.mission.report.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def guests(self) -> list[dict[str, Any]]:
        """Guests by the state, which is whole whoever writes it."""
        snapshot = StateStore(self.state_dir).read_or_none()
        return [g for g in snapshot.document["infrastructure"]["guests"] if g["name"] in NAMES] if snapshot else []


class Aider(Agent):
    """Reads in bulk: state, plans, locks, dry runs, scans."""

    def turns(self) -> list[Callable[[], None]]:
        commands = (("status",), ("plans",), ("lock", "status"), ("services",), ("status", "--json"))
        return [
            *[self.read] * 6, self.scan, self.dry_run, self.history,
            *(lambda args=args: self.seen(*args) for args in commands),
        ]  # fmt: skip

    def read(self) -> None:
        """A hundred verified reads: a torn one is an error that ends the agent."""
        began = time.time()
        for _ in range(100):
            StateStore(self.state_dir).read()
        StateStore(self.state_dir).validate()
        self.tell("read", "100", began)

    def scan(self) -> None:
        self.module("nhi_state_scan", state_dir=str(self.state_dir), health_checks=False, guest_health_port=0)

    def dry_run(self) -> None:
        self.module("nhi_vm", check=True, name=self.random.choice(NAMES), state="started", **SPEC)

    def history(self) -> None:
        self.nhi("diff", "1 minute ago", "now")

    def seen(self, *args: str) -> None:
        self.nhi(*args)


class Interpreter(Agent):
    """Creates guests and registers the service on them."""

    def turns(self) -> list[Callable[[], None]]:
        return [self.create, self.create, self.deploy, self.resize]

    def create(self) -> None:
        state = self.random.choice(("started", "present"))
        self.module("nhi_vm", name=self.random.choice(NAMES), state=state, **SPEC)

    def deploy(self) -> None:
        name = self.random.choice(NAMES)
        made = self.module("nhi_vm", name=name, state="started", **SPEC)
        if made and not made.get("failed"):
            self.module(
                "nhi_service", name=name, service=self.mission.service["name"], address=made["vm"]["address"],
                catalogue=[self.mission.service], state_dir=str(self.state_dir), health_timeout=2.0,
                guest_health_port=0,
            )  # fmt: skip

    def resize(self) -> None:
        if guests := self.guests():
            self.module("nhi_vm", name=self.random.choice(guests)["name"], memory=self.random.choice((64, 96, 128)))


class Antigravity(Agent):
    """Destroys and restarts, by plans that somebody else approves; now and then it tries without."""

    def turns(self) -> list[Callable[[], None]]:
        while not (self.guests() or self.mission.is_over):
            time.sleep(0.1)
        return [self.destroy, self.destroy, self.restart, self.destroy_unasked]

    def destroy(self) -> None:
        self.by_plan("absent")

    def restart(self) -> None:
        self.by_plan("restarted")

    def by_plan(self, state: str) -> None:
        guests = self.guests()
        if not guests:
            time.sleep(0.2)
            return
        name = self.random.choice(guests)["name"]
        options = {"name": name, "state": state, "confirm": name, "allow_impact": True}
        plan_id = (self.module("nhi_vm", check=True, **options).get("plan") or {}).get("plan_id")
        if plan_id is None:
            return
        patience = time.time() + self.random.uniform(0, 3)
        while time.time() < patience:
            with contextlib.suppress(NHIError):
                if PlanStore(self.state_dir).get(plan_id).status(utc_now()) != "waiting":
                    break
            time.sleep(0.1)
        # Also when it was rejected, or nobody has decided: the gate has to say no.
        self.module("nhi_vm", **options, plan_id=plan_id)

    def destroy_unasked(self) -> None:
        if guests := self.guests():
            name = self.random.choice(guests)["name"]
            self.module("nhi_vm", name=name, state="absent", confirm=name, allow_impact=True)


class Person(Agent):
    """The operator: approves some plans, rejects others, and is slow with the rest."""

    first: Sequence[str] = ("reject", "approve")

    def turns(self) -> list[Callable[[], None]]:
        return [self.decide]

    def decide(self) -> None:
        time.sleep(self.random.uniform(0.05, 0.4))
        waiting = [p for p in PlanStore(self.state_dir).all() if p.status(utc_now()) == "waiting"]
        for plan in waiting:
            verb = self.random.choices(("approve", "reject", ""), (6, 3, 2))[0]
            if self.first:
                verb, *self.first = self.first
            if verb:
                self.nhi(verb, plan.plan_id)


ROLES: dict[str, type[Agent]] = {
    AIDER: Aider, INTERPRETER: Interpreter, ANTIGRAVITY: Antigravity, OPERATOR: Person,
}  # fmt: skip


def work(mission: Mission) -> None:
    """The process of one of them."""
    sys.argv = [mission.actor]
    with patch.object(plan_command, "current_person", lambda: OPERATOR):
        ROLES[mission.actor](mission).work()


# What goes wrong in the lab, each for a moment and for a few calls only
FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "slow", "delay": 0.4, "count": 5},
    {"kind": "task-slow", "task": "vzcreate", "delay": 0.8, "count": 2},
    {"kind": "task-fail", "task": "vzcreate", "text": "no space left", "count": 1},
    {"kind": "task-fail", "task": "vzdestroy", "text": "busy", "count": 1},
    {"kind": "task-fail", "task": "vzstart", "text": "it did not start", "count": 1},
    {"kind": "task-fail", "task": "vzstop", "text": "it did not stop", "count": 1},
    {"kind": "task-warn", "task": "vzcreate", "count": 1},
    {"kind": "proxy-timeout", "path": "/nodes/*", "delay": 0.3, "count": 2},
    {"kind": "config-lock", "delay": 0.5, "count": 1},
    {"kind": "captive-html", "path": "/cluster/resources", "count": 1},
    {"kind": "node-offline", "node": "pve"},
    {"kind": "storage-full", "storage": "local-lvm"},
)
_FAULT_SECONDS = (0.3, 1.2)
_PEACE_SECONDS = (0.2, 1.5)


def trouble(faults: Faults, chance: random.Random, until: float) -> int:
    """Order one fault after the other until the time is up; how many."""
    ordered = 0
    while (left := until - time.time()) > 0:
        time.sleep(min(left, chance.uniform(*_PEACE_SECONDS)))
        fault = faults.set(fault_from(dict(chance.choice(FAULTS))))
        ordered += 1
        time.sleep(chance.uniform(*_FAULT_SECONDS))
        faults.clear(fault.id)
    return ordered
