"""Many runs at once, with and without a client that knows nothing of ours: no name, VMID or address is given twice."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.nhi.core.plugins.module_utils.guest_manager import GuestManager
from ansible_collections.nhi.core.plugins.module_utils.guest_rescan import Rescan
from ansible_collections.nhi.core.plugins.module_utils.guest_run import Settings
from ansible_collections.nhi.core.plugins.module_utils.guest_spec import wanted_from_params
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import (
    Endpoint,
    ProxmoxClient,
    endpoint_from_params,
)
from ansible_collections.nhi.core.plugins.module_utils.shared_lock import infrastructure_lock
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore

from .conftest import Lab, Operator, tool

pytestmark = pytest.mark.slow

GIB = 1 << 30
NETWORK = {"range": "127.86.67.5-127.86.67.250", "prefix": 24, "gateway": "127.86.67.1"}
SMALL: dict[str, Any] = {
    "template": "debian-12", "storage": "local-lvm", "cores": 1, "memory": 64, "disk": 1, "network": NETWORK,
}  # fmt: skip
OURS = """
- name: Make three guests
  hosts: localhost
  gather_facts: false
  vars: {ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  tasks:
    - name: Make one
      nhi.core.nhi_vm:
        name: "{{ prefix }}-{{ item }}"
        state: started
        template: debian-12
        storage: local-lvm
        cores: 1
        memory: 64
        disk: 1
        network: %s
      loop: [1, 2, 3]
"""
FOREIGN = """
- name: Make guests without our lock, each under the VMID that was free a moment ago
  hosts: localhost
  gather_facts: false
  vars: {ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  tasks:
    - name: Find the newest template
      ansible.builtin.set_fact:
        template: "{{ lookup('ansible.builtin.env', 'TEMPLATE') }}"
    - name: Make one, with the next VMID that is free now
      community.proxmox.proxmox:
        node: pve
        hostname: "foreign-{{ item }}"
        ostemplate: "{{ template }}"
        storage: local-lvm
        memory: 64
        netif: {net0: "name=eth0,bridge=vmbr0,ip=dhcp"}
      loop: [1, 2, 3, 4, 5, 6]
      register: made
      until: made is succeeded
      retries: 20
      delay: 0
"""


def endpoint(lab: Lab) -> Endpoint:
    env = {name.removeprefix("PROXMOX_").lower(): value for name, value in lab.env.items()}
    return endpoint_from_params({
        "api_host": env["host"], "api_port": int(env["port"]), "api_user": env["user"], "api_token_id": env["token_id"],
        "api_token_secret": env["token_secret"], "validate_certs": False, "ca_path": None, "timeout": 60.0,
    })  # fmt: skip


def there_is(lab: Lab) -> dict[int, dict[str, str]]:
    """Name and address of every guest, as its configuration says."""
    with ProxmoxClient(endpoint(lab)) as client:
        rows = [r for r in client.get("/cluster/resources") if r["type"] == "lxc"]
        configs = {int(r["vmid"]): client.get(f"/nodes/{r['node']}/lxc/{r['vmid']}/config") for r in rows}
    assert len(configs) == len(rows)
    return {vmid: {"name": c["hostname"], "address": address_in(c["net0"])} for vmid, c in configs.items()}


def address_in(net: str) -> str:
    return net.partition("ip=")[2].partition(",")[0].partition("/")[0]


def assert_nothing_is_given_twice(found: dict[int, dict[str, str]]) -> None:
    for fact in ("name", "address"):
        values = Counter(guest[fact] for guest in found.values() if guest[fact] != "dhcp")
        assert [value for value, count in values.items() if count > 1] == []


def assert_state_is_true(operator: Operator, found: dict[int, dict[str, str]]) -> None:
    """Without any scan, state.json shows every guest that was made, and it is valid."""
    guests = StateStore(operator.state_dir).validate().document["infrastructure"]["guests"]
    assert {g["vmid"]: (g["name"], g["address"]) for g in guests} == {
        vmid: (guest["name"], guest["address"]) for vmid, guest in found.items()
    }


def playbooks(operator: Operator, playbook: Path, prefixes: list[str]) -> list[subprocess.Popen[str]]:
    """The playbook, once for each prefix, all at the same time."""
    return [
        subprocess.Popen(
            [tool("ansible-playbook"), "-i", "localhost,", "-c", "local", str(playbook), "-e", f"prefix={prefix}"],
            env=operator.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for prefix in prefixes
    ]  # fmt: skip


def outcomes(running: list[subprocess.Popen[str]]) -> list[str]:
    """What those that failed printed."""
    with ThreadPoolExecutor(len(running)) as threads:
        printed = list(threads.map(lambda process: process.communicate(timeout=280)[0], running))
    return [text for process, text in zip(running, printed, strict=True) if process.returncode]


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    path = tmp_path / "ours.yml"
    path.write_text(OURS % json.dumps(NETWORK))
    return path


def test_sixteen_playbooks_at_once_make_forty_eight_guests(operator: Operator, ours: Path) -> None:
    assert outcomes(playbooks(operator, ours, [f"run{number}" for number in range(16)])) == []
    found = there_is(operator.lab)
    assert {guest["name"] for guest in found.values()} == {f"run{n}-{i}" for n in range(16) for i in (1, 2, 3)}
    assert len(found) == 48
    assert_nothing_is_given_twice(found)
    assert_state_is_true(operator, found)


def test_a_client_without_our_lock_gets_in_nobodys_way(operator: Operator, ours: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.yml"
    theirs.write_text(FOREIGN)
    with ProxmoxClient(endpoint(operator.lab)) as client:
        volumes = client.get("/nodes/pve/storage/local/content", {"content": "vztmpl"})
    operator.extra["TEMPLATE"] = next(v["volid"] for v in volumes if "debian-12" in v["volid"])
    # Both sides look for a VMID before they create: the longer that takes, the more often they meet.
    operator.lab.fault("set", "slow", "--path", "/cluster/nextid", "--delay", "0.3")
    running = playbooks(operator, theirs, ["-"]) + playbooks(operator, ours, ["a", "b", "c"])
    assert outcomes(running) == []
    found = there_is(operator.lab)
    names = {f"foreign-{n}" for n in range(1, 7)} | {f"{p}-{i}" for p in "abc" for i in (1, 2, 3)}
    assert {guest["name"] for guest in found.values()} == names
    assert len(found) == 15
    assert_nothing_is_given_twice(found)


# Without the cost of starting Ansible


def create(lab_endpoint: Endpoint, state_dir: Path, name: str) -> str | None:
    """Make a guest as the module does; what went wrong."""
    rescan = Rescan(state_dir, lab_endpoint, "test")
    told: list[str] = []
    wanted = wanted_from_params({"name": name, "state": "present", "vmid_range": "105-999", **SMALL})
    try:
        with ProxmoxClient(lab_endpoint) as client:
            GuestManager(client, wanted, Settings(state_dir, rescan=rescan, tell=told.append)).run()
    except Exception as e:  # noqa: BLE001 -- whatever it is, it belongs into the test's report
        return f"{name}: {e!r}"
    return f"{name}: {told}" if told else None


def create_many(lab_endpoint: Endpoint, state_dir: Path, names: list[str], results: Any) -> None:
    with ThreadPoolExecutor(len(names)) as threads:
        results.put([text for text in threads.map(lambda n: create(lab_endpoint, state_dir, n), names) if text])


def test_two_hundred_creates_at_once(operator: Operator) -> None:
    """Ten processes of twenty threads, as many runs at once as threads."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    where = endpoint(operator.lab)
    workers = [
        context.Process(
            target=create_many, args=(where, operator.state_dir, [f"guest-{p}-{t}" for t in range(20)], results)
        )
        for p in range(10)
    ]
    for worker in workers:
        worker.start()
    failed = [text for _worker in workers for text in results.get(timeout=280)]
    for worker in workers:
        worker.join(30)
    assert failed == []
    found = there_is(operator.lab)
    assert len(found) == 200
    assert_nothing_is_given_twice(found)
    assert_state_is_true(operator, found)


@pytest.mark.parametrize("what", ["memory", "disk"])
def test_exactly_as_many_as_fit_when_many_are_made_at_once(operator: Operator, what: str) -> None:
    """Each of sixteen runs would fit alone, and five of them fit together."""
    many, fit, each = 16, 5, 1
    with ProxmoxClient(endpoint(operator.lab)) as client:
        rows = client.get("/cluster/resources")
        disks = [d for d in client.get("/nodes/pve/storage/local-lvm/content") if d["content"] != "backup"]
    node = next(r for r in rows if r["type"] == "node")
    if what == "memory":
        has, size = node["maxmem"] >> 20, SMALL["memory"]
        before = sum(r["maxmem"] >> 20 for r in rows if r["type"] in ("lxc", "qemu") and r["status"] != "stopped")
    else:
        store = next(r for r in rows if r["type"] == "storage" and r["storage"] == "local-lvm")
        has, size, before = store["maxdisk"] / GIB, each, sum(d["size"] for d in disks) / GIB
    limit = (before + (fit + 0.5) * size) / has
    # The slower a create is, the more of them are under way at once.
    operator.lab.fault("set", "task-slow", "--task", "vzcreate", "--delay", "1")

    def run(number: int) -> dict[str, Any]:
        options = {**SMALL, "disk": each, f"max_{what}_overcommit": limit}
        return operator.module("nhi_vm", name=f"guest-{number}", state="started", wait=False, **options)

    with ThreadPoolExecutor(many) as threads:
        results = list(threads.map(run, range(many)))
    refused = [r["msg"] for r in results if r.get("failed")]
    assert len(there_is(operator.lab)) == fit
    assert len(refused) == many - fit
    assert all("over" in text and f"raise max_{what}_overcommit" in text for text in refused), refused
    ledger = json.loads((operator.state_dir / "reservations.json").read_text())["reservations"]
    assert {line["status"] for line in ledger} == {"used"}, "a refused run holds nothing"
    assert len(ledger) == fit


BACK = {"range": "127.86.68.5-127.86.68.250", "prefix": 24}


def test_two_addresses_for_each_of_many_guests_at_once(operator: Operator) -> None:
    """Half of the guests are made with both interfaces, half get the second one later, all at the same time."""
    options = {k: v for k, v in SMALL.items() if k != "network"}
    old = [f"old-{n}" for n in range(8)]
    for name in old:
        assert create(endpoint(operator.lab), operator.state_dir, name) is None
    both = [NETWORK, BACK]

    def run(name: str) -> dict[str, Any]:
        made = {} if name in old else {"state": "present", **options}
        return operator.module("nhi_vm", name=name, networks=both, **made)

    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(run, [*old, *(f"new-{n}" for n in range(8))]))
    assert [r["msg"] for r in results if r.get("failed")] == []
    addresses = [net["ip"].partition("/")[0] for r in results for net in r["vm"]["networks"]]
    assert len(set(addresses)) == len(addresses) == 32
    lines = json.loads((operator.state_dir / "reservations.json").read_text())["reservations"]
    assert sorted(line["address"] for line in lines) == sorted(addresses)
    assert {line["status"] for line in lines} == {"used"}


# What is held while tasks run


def test_no_lock_is_held_while_a_create_task_runs(operator: Operator) -> None:
    operator.lab.fault("set", "task-slow", "--task", "vzcreate", "--delay", "5", "--count", "1")
    with ThreadPoolExecutor(1) as thread:
        run = thread.submit(operator.module, "nhi_vm", name="slow", state="present", **SMALL)
        deadline = time.monotonic() + 30
        while not operator.lab.writes():
            assert time.monotonic() < deadline, "nothing was created"
            time.sleep(0.05)
        with infrastructure_lock(operator.state_dir, "another change", timeout=0.0) as lock:
            assert lock.held
            assert not run.done(), "the task was not slow: this test could not fail"
        quick = operator.module("nhi_vm", name="quick", state="present", **SMALL)
        assert not quick.get("failed"), quick
        assert not run.done(), "the task was not slow: this test could not fail"
        slow = run.result()
    assert not slow.get("failed"), slow
    assert_nothing_is_given_twice(there_is(operator.lab))


def test_two_runs_for_one_name_make_one_guest(operator: Operator) -> None:
    operator.lab.fault("set", "slow", "--path", "/nodes/*/lxc", "--delay", "0.5")
    with ThreadPoolExecutor(2) as threads:
        made = list(threads.map(lambda _: operator.module("nhi_vm", name="redis", state="started", **SMALL), range(2)))
    assert [guest["name"] for guest in there_is(operator.lab).values()] == ["redis"]
    for result in made:
        assert (
            not result.get("failed")
            or "is being made as VMID 105 right now" in result["msg"]
            or "is locked (create)" in result["msg"]
        )
    assert any(not r.get("failed") for r in made)
