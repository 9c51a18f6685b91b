"""nhi_state_scan against a lab in memory whose API fails in every way an API can."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import proxmoxer
import pytest
from ansible_collections.nhi.core.plugins.module_utils.catalogue_files import read_catalogue
from ansible_collections.nhi.core.plugins.module_utils.proxmox_client import ProxmoxClient

from .api_client import client, new_token
from .conftest import COLLECTIONS, Lab, Operator, free_port, running_lab

LAB_OPTIONS = ("--driver", "memory", "--no-lag", "--nodes", "pve,pve2", "--test-endpoint")
CATALOGUE = [dict(entry.raw) for entry in read_catalogue().values()]


@pytest.fixture(scope="module")
def shared_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two nodes; a container and a virtual machine on the first, a container on the second."""
    directory = tmp_path_factory.mktemp("scan") / "lab"
    with running_lab(directory, *LAB_OPTIONS) as lab:
        with client(lab) as api:
            template = api.get("/nodes/pve/storage/local/content", {"content": "vztmpl"})[0]["volid"]
            for vmid, name, node, ip, tags in (
                (101, "redis-cache", "pve", "127.86.0.101/24", "svc-redis;purpose-cache"),
                (103, "far", "pve2", "127.86.0.103/24", ""),
            ):
                options = {
                    "vmid": vmid, "hostname": name, "ostemplate": template, "storage": "local-lvm",
                    "rootfs": "local-lvm:1", "memory": 256, "unprivileged": True, "pool": "ai-lab", "start": True,
                    "net0": f"name=eth0,bridge=vmbr0,ip={ip}", "tags": tags or None,
                }  # fmt: skip
                api.wait_task(api.post(("nodes", node, "lxc"), options), 60)
            machine = {"vmid": 102, "name": "vm", "memory": 512, "agent": "1", "net0": "virtio,bridge=vmbr0"}
            api.wait_task(api.post("/nodes/pve/qemu", {**machine, "scsi0": "local-lvm:1"}), 60)
            api.wait_task(api.post("/nodes/pve/qemu/102/status/start"), 60)
            wait_for_guests(api)
        yield lab


@pytest.fixture
def operator(shared_lab: Lab, tmp_path: Path) -> Iterator[Operator]:
    state = tmp_path / "infrastructure"
    state.mkdir()
    yield Operator(shared_lab, state)
    shared_lab.fault("clear")


def wait_for_guests(api: ProxmoxClient) -> None:
    """A container that is created with start=1 is started by a task of its own, afterwards."""
    deadline = time.monotonic() + 30
    while any(row["status"] != "running" for row in api.get("/cluster/resources", {"type": "vm"})):
        assert time.monotonic() < deadline, "the guests of the lab did not start"
        time.sleep(0.1)


def scan(operator: Operator, **options: Any) -> dict[str, Any]:
    """A scan without health checks, unless asked for: no guest of this lab listens on anything."""
    return operator.module("nhi_state_scan", **{"health_checks": False, "catalogue": CATALOGUE, **options})


def good_scan(operator: Operator, **options: Any) -> dict[str, Any]:
    result = scan(operator, **options)
    assert not result.get("failed"), result
    return result


def failure(result: dict[str, Any]) -> str:
    assert result.get("failed"), result
    message: str = result["msg"]
    assert "\n" not in message
    assert "Traceback" not in json.dumps(result)
    return message


def guest(operator: Operator, vmid: int) -> dict[str, Any]:
    found: dict[str, Any] = next(g for g in operator.state()["infrastructure"]["guests"] if g["vmid"] == vmid)
    return found


def alert_ids(operator: Operator) -> list[str]:
    return [alert["id"] for alert in operator.state()["alerts"]]


def asked_since(operator: Operator, moment: float) -> list[str]:
    """Paths of requests that began after a moment; an abandoned one of an earlier test may be logged any time later."""
    return [
        request["path"].removeprefix("/api2/json")
        for request in operator.lab.requests()
        if datetime.fromisoformat(request["time"]).timestamp() - request["duration_ms"] / 1000 > moment
    ]


# What a good scan finds


def test_a_scan_finds_every_guest_and_a_second_one_changes_nothing(operator: Operator) -> None:
    first = good_scan(operator)
    assert (first["changed"], first["kind"], first["counts"]["guests"]) == (True, "cold", 3)
    assert guest(operator, 101)["address"] == "127.86.0.101"
    assert guest(operator, 101)["pool"] == "ai-lab"
    second = good_scan(operator)
    assert (second["changed"], second["kind"], second["changed_guests"]) == (False, "warm", [])
    assert second["revision"] == first["revision"] + 1


def test_check_mode_reads_and_leaves_no_file(operator: Operator) -> None:
    before = time.time()
    result = good_scan(operator, _check=True)
    assert result["changed"] is True
    assert result["diff"]["after"]["guests"]["101"]["name"] == "redis-cache"
    assert len(asked_since(operator, before)) == result["api_calls"]
    assert list(operator.state_dir.iterdir()) == []


def test_a_scan_never_writes_to_the_api(operator: Operator) -> None:
    before = len(operator.lab.writes())
    good_scan(operator)
    good_scan(operator, full=True)
    assert len(operator.lab.writes()) == before


@contextmanager
def redis_at(address: str) -> Iterator[None]:
    """Something that answers PING as Redis does, where the guest would."""
    with socket.create_server((address, 6379)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _peer = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(100)
                    connection.sendall(b"+PONG\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


def test_the_health_of_a_service_is_what_it_answers(operator: Operator) -> None:
    with redis_at("127.86.0.101"):
        good_scan(operator, health_checks=True)
    service = operator.state()["infrastructure"]["services"][0]
    assert (service["service"], service["purpose"], service["health"]) == ("redis", "cache", "healthy")
    assert service["endpoints"][0]["url"] == "redis://127.86.0.101:6379"
    assert guest(operator, 101)["health"] == "healthy"
    result = good_scan(operator, health_checks=True)
    assert operator.state()["infrastructure"]["services"][0]["health"] == "unhealthy"
    assert "service-unhealthy:redis:101" in alert_ids(operator)
    assert {"vmid": 101, "name": "redis-cache", "change": "changed", "facts": ["health"]} in result["changed_guests"]


# Who asks


def test_a_wrong_token_is_refused_after_three_seconds_by_name(operator: Operator) -> None:
    started, before = time.monotonic(), time.time()
    message = failure(scan(operator, api_token_secret="00000000-0000-4000-8000-000000000000"))
    # Once: guards such as fail2ban count.
    assert asked_since(operator, before) == ["/cluster/resources"]
    assert time.monotonic() - started >= 3
    assert "nhi@pve!demo" in message
    assert "127.0.0.1" in message
    assert "00000000-0000" not in message
    assert list(operator.state_dir.iterdir()) == []


def test_a_token_that_may_see_nothing_is_told_which_privilege_it_needs(operator: Operator) -> None:
    message = failure(scan(operator, **new_token(operator, "blind")))
    assert "nhi@pve!blind" in message
    assert "VM.Audit" in message
    assert list(operator.state_dir.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_privilege_that_only_some_facts_need_is_an_alert_that_names_it(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    token = new_token(operator, "half")
    # A role with VM.Audit and without VM.GuestAgent.Audit.
    as_root(operator.lab).access.acl.put(path="/vms", roles="PVETemplateUser", tokens="nhi@pve!half")
    good_scan(operator, **token)
    alert = next(item for item in operator.state()["alerts"] if item["kind"] == "api_permission")
    assert "VM.GuestAgent.Audit" in alert["message"]
    assert "nhi@pve!half" in alert["message"]
    assert guest(operator, 101)["address"] == "127.86.0.101"


def as_root(lab: Lab) -> Any:
    """The administrator, who logs in with a password."""
    password = json.loads((lab.directory / "credentials.json").read_text())["root_password"]
    return proxmoxer.ProxmoxAPI("127.0.0.1", port=lab.port, user="root@pam", password=password, verify_ssl=False)


# The way to the API


def test_an_api_that_is_down_is_one_line_and_leaves_the_state(operator: Operator) -> None:
    good_scan(operator)
    before = (operator.state_dir / "state.json").read_bytes()
    port = free_port()
    message = failure(scan(operator, api_port=port))
    assert f"127.0.0.1:{port}" in message
    assert (operator.state_dir / "state.json").read_bytes() == before


def test_an_untrusted_certificate_is_told_with_the_way_out(operator: Operator) -> None:
    message = failure(scan(operator, validate_certs=True))
    assert "ca_path" in message
    assert "validate_certs" in message


def test_a_slow_api_ends_at_the_timeout(operator: Operator) -> None:
    operator.lab.fault("set", "slow", "--delay", "8", "--path", "/cluster/resources")
    started = time.monotonic()
    message = failure(scan(operator, timeout=1))
    assert time.monotonic() - started < 6
    assert "timeout" in message


def test_a_page_instead_of_the_api_is_told_as_such(operator: Operator) -> None:
    operator.lab.fault("set", "captive-html", "--path", "/cluster/resources")
    assert "not the Proxmox VE API" in failure(scan(operator))


def test_a_proxy_that_gives_up_is_told_as_such(operator: Operator) -> None:
    operator.lab.fault("set", "proxy-timeout", "--delay", "0.1", "--path", "/cluster/resources")
    assert "596" in failure(scan(operator))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_scan_ends_at_once_and_leaves_the_state(operator: Operator, number: signal.Signals) -> None:
    good_scan(operator)
    before = (operator.state_dir / "state.json").read_bytes()
    operator.lab.fault("set", "slow", "--delay", "15", "--path", "/nodes/*")
    args = {"ANSIBLE_MODULE_ARGS": {"health_checks": False, "full": True}}
    process = subprocess.Popen(
        [sys.executable, "-m", "ansible_collections.nhi.core.plugins.modules.nhi_state_scan", json.dumps(args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**operator.environment(), "PYTHONPATH": str(COLLECTIONS)},
    )  # fmt: skip
    started = time.time()
    deadline = time.monotonic() + 20
    while "/cluster/tasks" not in asked_since(operator, started):
        assert time.monotonic() < deadline, "the scan asked nothing"
        time.sleep(0.05)
    time.sleep(0.3)
    started = time.monotonic()
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert time.monotonic() - started < 5
    assert process.returncode != 0
    assert number.name in json.loads(output)["msg"]
    assert "Traceback" not in errors
    assert (operator.state_dir / "state.json").read_bytes() == before


# Parts that fail


def test_a_dead_agent_costs_its_three_seconds_once(operator: Operator) -> None:
    operator.lab.fault("set", "dead-agent", "--vmid", "102")
    good_scan(operator)
    assert guest(operator, 102)["address"] is None
    assert guest(operator, 101)["address"] == "127.86.0.101"
    assert "guest-address-unknown:102" in alert_ids(operator)
    started, before = time.monotonic(), time.time()
    good_scan(operator)
    assert time.monotonic() - started < 3
    assert not any("agent" in path for path in asked_since(operator, before))


def test_a_node_that_goes_offline_makes_its_guests_stale_and_no_others(operator: Operator) -> None:
    good_scan(operator)
    before = guest(operator, 103)
    operator.lab.fault("set", "node-offline", "--node", "pve2")
    result = good_scan(operator)
    found = guest(operator, 103)
    assert (found["freshness"], found["health"], found["address"]) == ("stale", "unknown", "127.86.0.103")
    assert found["observed_at"] == before["observed_at"]
    assert guest(operator, 101)["freshness"] == "fresh"
    assert "node-offline:pve2" in alert_ids(operator)
    assert result["changed"] is True
    operator.lab.fault("clear")
    good_scan(operator)
    assert guest(operator, 103)["freshness"] == "fresh"
    assert "node-offline:pve2" not in alert_ids(operator)


def test_a_node_whose_calls_time_out_does_not_stop_the_scan_of_the_others(operator: Operator) -> None:
    operator.lab.fault("set", "proxy-timeout", "--delay", "0.1", "--path", "/nodes/pve2/*")
    good_scan(operator)
    assert guest(operator, 103)["freshness"] == "unknown"
    assert guest(operator, 103)["health"] == "unknown"
    assert guest(operator, 101)["freshness"] == "fresh"
    assert "guest-stale:103" in alert_ids(operator)


def test_a_stuck_lock_and_a_full_storage_are_seen(operator: Operator) -> None:
    good_scan(operator)
    operator.lab.fault("set", "stuck-lock", "--vmid", "101")
    result = good_scan(operator)
    assert guest(operator, 101)["lock"] == "backup"
    assert [item["vmid"] for item in result["changed_guests"]] == [101]


def test_a_daemon_that_dies_in_the_middle_leaves_the_old_state_whole(operator: Operator) -> None:
    good_scan(operator)
    before = (operator.state_dir / "state.json").read_bytes()
    operator.lab.fault("set", "daemon-crash", "--path", "/cluster/resources", "--count", "1")
    failure(scan(operator))
    assert (operator.state_dir / "state.json").read_bytes() == before
    operator.lab.up(*LAB_OPTIONS)
    assert good_scan(operator)["changed"] is False


# The state itself


@pytest.mark.parametrize("damage", [b"", b'{"meta"', b"not json at all"])
def test_a_damaged_state_stops_the_scan_before_it_asks_anything(operator: Operator, damage: bytes) -> None:
    good_scan(operator)
    state = operator.state_dir / "state.json"
    state.write_bytes(damage)
    before = time.time()
    message = failure(scan(operator))
    assert str(state) in message
    assert state.read_bytes() == damage
    assert asked_since(operator, before) == []


def test_a_state_of_a_newer_nhi_is_not_overwritten(operator: Operator) -> None:
    good_scan(operator)
    document = operator.state()
    document["meta"]["schema_version"] = 99
    raw = json.dumps(document).encode()
    (operator.state_dir / "state.json").write_bytes(raw)
    (operator.state_dir / "state.json.checksum").write_text(f"{hashlib.sha256(raw).hexdigest()}  state.json\n")
    assert "schema version 99" in failure(scan(operator))
    assert (operator.state_dir / "state.json").read_bytes() == raw


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("concurrency", 0),
        ("concurrency", 1000),
        ("guest_health_port", 70000),
        ("api_port", 0),
        ("timeout", -1),
        ("address_ttl_seconds", -5),
        ("catalogue", [{"name": "Nonsense"}]),
    ],
)
def test_option_values_that_make_no_sense_are_named_before_anything_is_asked(
    operator: Operator, option: str, value: Any
) -> None:
    before = time.time()
    message = failure(scan(operator, **{option: value}))
    assert option.removesuffix("s") in message
    assert asked_since(operator, before) == []


def test_two_scans_at_once_both_end_well(operator: Operator) -> None:
    good_scan(operator)
    results: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: results.append(scan(operator))) for _number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.get("failed", False) for result in results] == [False] * 3
    assert sorted(result["revision"] for result in results) == [2, 3, 4]


def test_a_scan_of_a_quiet_lab_costs_three_calls(operator: Operator) -> None:
    # Last in this file: guests that a task touched within the last 15 s are asked about.
    with client(operator.lab) as api:
        newest = max(task["endtime"] for task in api.get("/cluster/tasks"))
    time.sleep(max(0.0, newest + 16 - time.time()))
    good_scan(operator)
    before = time.time()
    result = good_scan(operator)
    assert sorted(asked_since(operator, before)) == ["/cluster/resources", "/cluster/tasks", "/version"]
    assert result["api_calls"] == 3
