"""nhi_vm against a lab in memory: over HTTPS, with faults, in parallel, and interrupted."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .conftest import COLLECTIONS, ROOT, Lab, Operator, running_lab, tool

# Addresses of loopback: nothing outside this machine is ever asked.
NETWORK = {"range": "127.86.5.105-127.86.5.199", "prefix": 24, "gateway": "127.86.5.1"}
REDIS: dict[str, Any] = {
    "name": "redis-cache", "state": "started", "template": "debian-12", "purpose": "cache", "cores": 1, "memory": 256,
    "disk": 2, "network": NETWORK, "tags": ["svc-redis"], "pool": "ai-lab",
}  # fmt: skip
GRAPH = ROOT / "infrastructure" / "dependency_graph.json"


@pytest.fixture
def vm(operator: Operator) -> Callable[..., dict[str, Any]]:
    return lambda **options: operator.module("nhi_vm", **options)


@pytest.fixture(scope="module")
def untouched(shared_lab: Operator) -> Operator:
    """A shared lab for tests that are refused and write nothing."""
    return shared_lab


def guests(operator: Operator) -> dict[int, str]:
    """VMID to name of every guest, as a second client sees them."""
    done = operator.module("nhi_state_scan")
    assert not done.get("failed"), done
    return {g["vmid"]: g["name"] for g in operator.state()["infrastructure"]["guests"]}


def failure(result: dict[str, Any]) -> str:
    assert result.get("failed"), result
    message: str = result["msg"]
    assert "\n" not in message
    return message


def test_check_mode_sends_only_reads_and_leaves_no_file(operator: Operator, vm: Callable[..., Any]) -> None:
    foretold = vm(**REDIS, _check=True)
    assert foretold["changed"]
    assert [a["kind"] for a in foretold["actions"]] == ["create", "start"]
    assert all(c["passed"] for c in foretold["preflight"])
    assert operator.lab.requests(), "the lab's log is empty: this test could not fail"
    assert operator.lab.writes() == []
    assert list(operator.state_dir.iterdir()) == []
    done = vm(**REDIS)
    assert (done["vm"]["vmid"], done["vm"]["address"]) == (foretold["vm"]["vmid"], foretold["vm"]["address"])
    assert done["actions"] == foretold["actions"]


def test_a_guest_from_birth_to_end(operator: Operator, vm: Callable[..., Any]) -> None:
    made = vm(**REDIS)
    assert made["vm"] | {"vmid": 105, "address": "127.86.5.105", "status": "running"} == made["vm"], made
    assert made["vm"]["tags"] == ["purpose-cache", "svc-redis"]
    before = len(operator.lab.writes())
    assert vm(**REDIS)["changed"] is False
    assert len(operator.lab.writes()) == before

    bigger = vm(name="redis-cache", memory=512, disk=3, onboot=True, description="Cache.", protection=True)
    assert bigger["diff"]["before"] == {
        "memory": 256, "disk": 2.0, "onboot": False, "description": "", "protection": False,
    }  # fmt: skip
    assert (
        vm(name="redis-cache", memory=512, disk=3, onboot=True, description="Cache.", protection=True)["changed"]
        is False
    )
    assert vm(name="redis-cache", state="stopped")["vm"]["status"] == "stopped"
    assert vm(name="redis-cache", state="stopped")["changed"] is False
    assert vm(name="redis-cache", state="started")["vm"]["address"] == "127.86.5.105"
    assert [a["kind"] for a in vm(name="redis-cache", state="restarted")["actions"]] == ["stop", "start"]

    assert "protection: false" in failure(vm(name="redis-cache", state="absent", confirm="redis-cache"))
    vm(name="redis-cache", protection=False)
    assert "needs confirm: redis-cache" in failure(vm(name="redis-cache", state="absent"))
    gone = vm(name="redis-cache", state="absent", confirm="redis-cache")
    assert (gone["changed"], gone["vm"]) == (True, None)
    assert vm(name="redis-cache", state="absent", confirm="redis-cache")["changed"] is False
    assert guests(operator) == {}


def test_a_vmid_taken_between_plan_and_create_is_left_to_its_owner(operator: Operator, vm: Callable[..., Any]) -> None:
    operator.lab.fault("set", "vmid-taken", "--count", "1")
    made = vm(**REDIS)
    assert made["vm"]["vmid"] == 106
    assert guests(operator).keys() == {105, 106}
    operator.lab.fault("set", "vmid-taken", "--count", "1")
    assert "VMID 150 is taken" in failure(vm(**{**REDIS, "name": "other", "vmid": 150}))
    assert guests(operator).keys() == {105, 106, 150}


@pytest.mark.parametrize("task", ["vzcreate", "vzstart"])
def test_a_task_that_fails_half_way_is_undone(operator: Operator, vm: Callable[..., Any], task: str) -> None:
    vm(**{**REDIS, "name": "neighbour"})
    operator.lab.fault("set", "task-fail", "--task", task, "--text", "no space left on device")
    message = failure(vm(**REDIS))
    assert "no space left on device" in message
    assert "106 redis-cache" in message
    operator.lab.fault("clear")
    assert list(guests(operator).values()) == ["neighbour"]
    assert vm(**REDIS)["vm"]["address"] == "127.86.5.106"


def test_destroying_postgres_shows_what_would_go(operator: Operator, vm: Callable[..., Any]) -> None:
    for vmid, name in ((102, "postgres-lxc"), (103, "observability-lxc")):
        vm(**{**REDIS, "name": name, "vmid": vmid})
    before = len(operator.lab.writes())
    plan = vm(name="postgres-lxc", state="absent", dependency_graph=str(GRAPH), _check=True)
    assert plan["changed"]
    dependents = {d["name"]: d for d in plan["impact"]["dependents"]}
    assert dependents.keys() == {"grafana", "webapp", "log-processor"}
    assert dependents["grafana"]["active"]
    assert dependents["grafana"]["guest"] == "observability-lxc"
    assert "webapp (medium) would stop working: it needs postgres-lxc." in plan["summary"]
    options = {"name": "postgres-lxc", "state": "absent", "dependency_graph": str(GRAPH), "confirm": "postgres-lxc"}
    assert "grafana" in failure(vm(**options))
    assert len(operator.lab.writes()) == before
    assert vm(**options, allow_impact=True)["changed"]
    assert list(guests(operator)) == [103]


def test_the_brain_is_refused_whatever_is_said(operator: Operator, vm: Callable[..., Any]) -> None:
    made = vm(name="brain-vm", type="qemu", state="started", vmid=100, cores=1, memory=512, disk=3, tags=["brain"])
    assert not made.get("failed"), made
    before = len(operator.lab.writes())
    wish = {"name": "brain-vm", "state": "absent", "confirm": "brain-vm", "allow_impact": True}
    assert "is the Brain" in failure(vm(**wish))
    assert [c["check"] for c in vm(**wish, _check=True)["preflight"] if not c["passed"]] == ["critical"]
    message = failure(vm(name="brain-vm", state="absent", confirm="brain-vm", brain_vmid=999))
    assert "is the Brain" in message, "the tag alone is enough"
    assert len(operator.lab.writes()) == before


def test_a_machine_is_created_and_found_again(operator: Operator, vm: Callable[..., Any]) -> None:
    wish = {
        "name": "webapp", "type": "qemu", "state": "started", "cores": 1, "memory": 512, "disk": 3,
        "network": {"ip": "127.86.5.110/24", "gateway": "127.86.5.1"}, "onboot": True, "tags": ["web"],
    }  # fmt: skip
    assert vm(**wish)["vm"]["address"] == "127.86.5.110"
    assert vm(**wish)["changed"] is False
    assert vm(name="webapp", memory=1024)["restart_required"] == ["memory"]
    assert vm(name="webapp", memory=1024)["changed"] is False
    assert vm(name="webapp", state="absent", confirm="webapp")["changed"]


def as_token(operator: Operator, name: str) -> dict[str, str]:
    env = operator.lab.env
    return {"api_token_id": env[f"PROXMOX_{name}_TOKEN_ID"], "api_token_secret": env[f"PROXMOX_{name}_TOKEN_SECRET"]}


def test_a_wrong_token_is_one_line(untouched: Operator) -> None:
    wrong = "00000000-0000-0000-0000-000000000000"
    message = failure(untouched.module("nhi_vm", **REDIS, api_token_secret=wrong))
    assert "does not accept the API token" in message


def test_a_missing_privilege_is_named_with_its_path(operator: Operator, vm: Callable[..., Any]) -> None:
    reader = as_token(operator, "READER")
    assert "VM.Allocate on /vms/105" in failure(vm(**{**REDIS, "pool": None}, **reader))
    vm(**REDIS)
    before = len(operator.lab.writes())
    assert "VM.PowerMgmt on /vms/105" in failure(vm(name="redis-cache", state="stopped", **reader))
    assert len(operator.lab.writes()) == before


def test_a_guest_is_known_before_the_cluster_has_heard_of_it(tmp_path: Path) -> None:
    """With the ten seconds that names and states of guests take to reach /cluster/resources."""
    with running_lab(tmp_path / "lab", "--driver", "memory") as lab:
        operator = Operator(lab, tmp_path / "infrastructure")
        operator.state_dir.mkdir()
        assert operator.module("nhi_vm", **REDIS)["changed"]
        assert operator.module("nhi_vm", **REDIS)["changed"] is False
        assert operator.module("nhi_vm", name="redis-cache", state="stopped")["changed"]
        assert operator.module("nhi_vm", name="redis-cache", state="stopped")["changed"] is False
        assert operator.module("nhi_vm", name="redis-cache", state="absent", confirm="redis-cache")["changed"]
        assert operator.module("nhi_vm", name="redis-cache", state="absent")["changed"] is False


def test_a_daemon_that_dies_on_the_create_call_leaves_nothing_half_done(
    operator: Operator, vm: Callable[..., Any]
) -> None:
    operator.lab.fault("set", "daemon-crash", "--path", "/nodes/*/lxc", "--method", "POST")
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(vm, **REDIS)
        wait_for_end(operator.lab)
        operator.lab.up("--driver", "memory", "--no-lag", "--test-endpoint")
        operator.lab.fault("clear")
        message = failure(running.result())
    assert "Undone: LXC 105 redis-cache" in message or "LXC 105 redis-cache was not there" in message
    assert guests(operator) == {}
    assert vm(**REDIS)["changed"]


def wait_for_end(lab: Lab, seconds: float = 20.0) -> None:
    """Until nobody listens on the lab's port."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", lab.port)):
                return
        time.sleep(0.05)
    pytest.fail("the daemon did not end")


def test_the_creator_may_work_in_its_pool_only(operator: Operator, vm: Callable[..., Any]) -> None:
    creator = as_token(operator, "CREATOR")
    assert "VM.Allocate on /vms/105" in failure(vm(**{**REDIS, "pool": None}, **creator))
    made = vm(**REDIS, **creator)
    assert not made.get("failed"), made
    assert vm(name="redis-cache", state="absent", confirm="redis-cache", **creator)["changed"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"template": "debian-99"}, "debian-12-standard"),
        ({"template": "local:vztmpl/nosuch.tar.zst"}, "does not exist on pve; templates there: local:vztmpl/debian-12"),
        ({"storage": "local"}, "does not take rootdir"),
        ({"storage": "nosuch"}, "storage nosuch does not exist"),
        ({"pool": "nosuch"}, "pools: ai-lab"),
        ({"node": "pve9"}, "nodes are pve (online)"),
        ({"network": {**NETWORK, "bridge": "vmbr9"}}, "bridges: vmbr0"),
        ({"disk": 100000}, "GiB free"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_done(
    untouched: Operator, options: dict[str, Any], words: str
) -> None:
    assert words in failure(untouched.module("nhi_vm", **{**REDIS, **options}))
    assert words in str(untouched.module("nhi_vm", **{**REDIS, **options}, _check=True)["warnings"])
    assert untouched.lab.writes() == []
    assert not (untouched.state_dir / "reservations.json").exists()


def test_a_name_that_no_guest_can_have_is_an_error_in_check_mode_too(untouched: Operator) -> None:
    for check in (True, False):
        message = failure(untouched.module("nhi_vm", **{**REDIS, "name": "not_a_name"}, _check=check))
        assert "can not name a guest" in message


def test_no_free_address_is_said_with_numbers(operator: Operator, vm: Callable[..., Any]) -> None:
    one = {**REDIS, "network": {"range": "127.86.5.105", "prefix": 24}}
    vm(**one)
    before = len(operator.lab.writes())
    message = failure(vm(**{**one, "name": "second"}))
    assert "no address is free in 127.86.5.105-127.86.5.105: all 1 are taken" in message
    assert len(operator.lab.writes()) == before


def test_a_locked_guest_is_named_with_its_lock(operator: Operator, vm: Callable[..., Any]) -> None:
    vm(**REDIS)
    operator.lab.fault("set", "stuck-lock", "--vmid", "105", "--text", "backup")
    assert "is locked (backup)" in failure(vm(name="redis-cache", memory=512))


@pytest.mark.parametrize(
    ("fault", "options", "words"),
    [
        (("captive-html",), {}, "not the Proxmox VE API"),
        (("slow", "--delay", "3"), {"timeout": 0.5}, "was not answered within 0.5 s"),
        (("proxy-timeout", "--delay", "0.1"), {}, "596"),
    ],
)
def test_an_api_that_does_not_answer_is_one_line(
    untouched: Operator, fault: tuple[str, ...], options: dict[str, Any], words: str
) -> None:
    untouched.lab.fault("set", *fault)
    assert words in failure(untouched.module("nhi_vm", **REDIS, **options))
    untouched.lab.fault("clear")


def test_an_api_that_is_down_is_one_line(operator: Operator, vm: Callable[..., Any]) -> None:
    operator.lab.command("down", "--keep")
    assert "connection refused" in failure(vm(**REDIS))
    operator.lab.up("--driver", "memory", "--no-lag", "--test-endpoint")


def wait_for(lab: Lab, method: str, path_end: str, seconds: float = 20.0) -> None:
    """Until the lab was asked for it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(r["method"] == method and r["path"].endswith(path_end) for r in lab.requests()):
            return
        time.sleep(0.05)
    pytest.fail(f"nobody asked for {method} ...{path_end}")


@pytest.fixture
def slow_start(operator: Operator) -> Iterator[Operator]:
    """The start of a guest takes so long that there is time to interrupt it."""
    operator.lab.fault("set", "slow", "--path", "/nodes/*/lxc/*/status/start", "--delay", "2")
    yield operator
    operator.lab.fault("clear")


def test_an_interrupted_module_undoes_what_it_did(slow_start: Operator) -> None:
    arguments = {"ANSIBLE_MODULE_ARGS": REDIS}
    with subprocess.Popen(
        [sys.executable, "-m", "ansible_collections.nhi.core.plugins.modules.nhi_vm"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**slow_start.environment(), "PYTHONPATH": str(COLLECTIONS)},
    ) as process:  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(json.dumps(arguments))
        process.stdin.close()
        process.stdin = None
        wait_for(slow_start.lab, "POST", "/nodes/pve/lxc")
        time.sleep(0.4)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    message = failure(json.loads(output))
    # Where the signal hit the create task itself, ending that task is all there is to undo.
    assert message in (
        "interrupted by SIGINT. Undone: LXC 105 redis-cache was destroyed again.",
        "interrupted by SIGINT. Nothing of LXC 105 redis-cache is left.",
    )
    assert errors == ""
    assert guests(slow_start) == {}


def test_ctrl_c_in_a_playbook_leaves_no_guest(slow_start: Operator, tmp_path: Path) -> None:
    play = [{"hosts": "localhost", "gather_facts": False, "tasks": [{"nhi.core.nhi_vm": REDIS}]}]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    with subprocess.Popen(
        [tool("ansible-playbook"), "-i", "localhost,", "-c", "local", str(tmp_path / "play.yml")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, start_new_session=True,
        env={**slow_start.environment(), "ANSIBLE_PYTHON_INTERPRETER": sys.executable},
    ) as process:  # fmt: skip
        wait_for(slow_start.lab, "POST", "/nodes/pve/lxc")
        time.sleep(0.4)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in output
    # The module outlives Ansible by the time that undoing takes; giving its reservation back is the last it does.
    ledger, deadline = slow_start.state_dir / "reservations.json", time.monotonic() + 30
    while json.loads(ledger.read_text())["reservations"] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert guests(slow_start) == {}
