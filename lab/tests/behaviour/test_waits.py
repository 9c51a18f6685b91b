"""Measured behaviour where time matters: all waits at once, in one lab with its real delays and lag."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from lab.tests.behaviour.client import Answer, expect
from lab.tests.behaviour.process import command
from lab.tests.behaviour.world import NODE, World, ct, until, vm

pytestmark = pytest.mark.slow
Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Lag:
    """What /cluster/resources said: right after some changes, and after the next broadcast."""

    stopped: str
    machine: str
    container: str
    at_once: Rows
    later: Rows
    seconds: float


@dataclass(frozen=True)
class Waits:
    """Everything is under way; each result is there when it is there."""

    world: World
    locked: int
    config_lock: Future[Answer]
    dead_agent: Future[Answer]
    unauthorized: Future[dict[str, Answer]]
    lag: Future[Lag]


@pytest.fixture(scope="module")
def waits(lab: Callable[..., World]) -> Waits:
    world = lab("--auth-delay", "3")
    locked, stopped = world.container(), world.container(running=True)
    agent = world.machine(running=True, agent="1")
    command("down", world.directory, "--keep")
    command("up", world.directory, "--lag")
    pool = ThreadPoolExecutor(4)
    started = Waits(
        world,
        locked,
        pool.submit(put_config_of_a_held_file, world, locked),
        pool.submit(ask_a_dead_agent, world, agent),
        pool.submit(come_without_rights, world),
        pool.submit(watch_the_resources, world, stopped),
    )
    pool.shutdown(wait=False)
    return started


def put_config_of_a_held_file(world: World, vmid: int) -> Answer:
    with world.fault("config-lock", vmid=vmid):
        return world.root.put(ct(vmid, "/config"), onboot=0)


def ask_a_dead_agent(world: World, vmid: int) -> Answer:
    with world.fault("dead-agent", vmid=vmid):
        return world.root.get(vm(vmid, "/agent/network-get-interfaces"))


def come_without_rights(world: World) -> dict[str, Answer]:
    anonymous = world.anonymous
    garbage = anonymous.signed(Authorization="PVEAPIToken=garbage")
    no_csrf = anonymous.signed(Cookie=world.root.headers["Cookie"])
    calls: dict[str, Callable[[], Answer]] = {
        "no header": lambda: anonymous.get("/version"),
        "no header, unknown path": lambda: anonymous.get("/nosuch"),
        "garbage": lambda: garbage.get("/version"),
        "wrong password": lambda: anonymous.post("/access/ticket", username="root@pam", password="wrong"),
        "no csrf token": lambda: no_csrf.post("/pools", poolid="x"),
    }
    with ThreadPoolExecutor(len(calls)) as pool:
        return dict(zip(calls, pool.map(lambda call: call(), calls.values()), strict=True))


def watch_the_resources(world: World, running: int) -> Lag:
    stopped = f"lxc/{running}"
    until(lambda: world.resources()[stopped]["status"] == "running", "first broadcast", 12)
    start = time.monotonic()
    world.succeeds(world.root.post(ct(running, "/status/stop")))
    machine, container = f"qemu/{world.machine()}", f"lxc/{world.container(tags='fresh')}"
    at_once = world.resources()
    until(lambda: world.resources()[stopped]["status"] == "stopped", "next broadcast", 12)
    return Lag(stopped, machine, container, at_once, world.resources(), time.monotonic() - start)


class TestUnauthorized:
    """Section 2: every 401 takes 3 s."""

    def test_each_kind(self, waits: Waits) -> None:
        answers = waits.unauthorized.result()
        assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(answers, 401)
        assert {name: 2.95 <= answer.seconds <= 6 for name, answer in answers.items()} == dict.fromkeys(answers, True)

    def test_nothing_else(self, waits: Waits) -> None:
        assert waits.world.root.get("/version").seconds < 2.9


def test_a_dead_agent_takes_three_seconds(waits: Waits) -> None:
    answer = waits.dead_agent.result()
    expect(answer, "500 QEMU guest agent is not running")
    assert 2.95 <= answer.seconds <= 6


def test_a_held_config_file_takes_ten_seconds(waits: Waits) -> None:
    """Section 5."""
    answer = waits.config_lock.result()
    expect(answer, f"500 can't lock file '/run/lock/lxc/pve-config-{waits.locked}.lock' - got timeout")
    assert 9.9 <= answer.seconds <= 15


class TestLag:
    """Section 7: the list is instant; names, numbers and status come with the next broadcast, every 10 s."""

    @pytest.fixture
    def lag(self, waits: Waits) -> Lag:
        return waits.lag.result()

    def test_a_stopped_guest_is_still_shown_as_running(self, lag: Lag, waits: Waits) -> None:
        assert lag.at_once[lag.stopped]["status"] == "running"
        assert lag.later[lag.stopped]["status"] == "stopped"
        assert 5 < lag.seconds <= 15

    def test_a_new_guest_is_unknown_and_without_a_name(self, lag: Lag) -> None:
        vmid = int(lag.machine.partition("/")[2])
        assert lag.at_once[lag.machine] == {
            "id": lag.machine, "vmid": vmid, "type": "qemu", "node": NODE, "status": "unknown",
        }  # fmt: skip
        assert "name" not in lag.at_once[lag.container]

    def test_tags_are_instant(self, lag: Lag) -> None:
        assert lag.at_once[lag.container]["tags"] == "fresh"

    def test_the_next_broadcast_brings_the_rest(self, lag: Lag) -> None:
        assert lag.later[lag.machine]["status"] == "stopped"
        assert lag.later[lag.container]["name"] == f"CT{lag.container.partition('/')[2]}"
