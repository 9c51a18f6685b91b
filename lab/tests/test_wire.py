"""What one client does must not disturb another; what is secret must not be written down."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import pytest

from lab.tests.harness import RunningLab, running


def test_a_delayed_refusal_blocks_nobody(tmp_path: Path) -> None:
    with running(tmp_path, auth_delay=1.5) as lab:
        header = lab.token("reader")
        refused = threading.Thread(target=lab.request, args=("GET", "/version"), kwargs={"headers": {}})
        started = time.monotonic()
        refused.start()
        assert lab.request("GET", "/version", headers=header).status == 200
        assert time.monotonic() - started < 1.0
        refused.join()
        assert time.monotonic() - started >= 1.5


def test_a_client_that_says_nothing_blocks_nobody(lab: RunningLab) -> None:
    with socket.create_connection(("127.0.0.1", lab.port)):
        assert lab.get("/version")["release"] == "9.2"


def test_plain_http_is_sent_to_https(lab: RunningLab) -> None:
    with socket.create_connection(("127.0.0.1", lab.port), timeout=5) as plain:
        plain.sendall(b"GET /api2/json/version HTTP/1.1\r\nHost: lab:1\r\n\r\n")
        answer = plain.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 301 Moved Permanently")
    assert "Location: https://lab:1/api2/json/version" in answer


def requests_of(lab: RunningLab) -> list[dict[str, object]]:
    return [json.loads(line) for line in (lab.directory / "requests.jsonl").read_text().splitlines()]


def test_every_request_is_logged_with_who_and_what(lab: RunningLab) -> None:
    lab.request("PUT", "/nodes/pve/lxc/999/config", {"memory": 64}, lab.token("demo"))
    entry = requests_of(lab)[-1]
    assert entry["method"] == "PUT"
    assert entry["path"] == "/api2/json/nodes/pve/lxc/999/config"
    assert entry["status"] == 500
    assert entry["user"] == "nhi@pve!demo"
    assert entry["params"] == {"memory": "64"}


def test_no_secret_is_written_down(lab: RunningLab) -> None:
    secret = lab.request("POST", "/access/users/nhi@pve/token/spare").data["value"]
    lab.container(101, password="guest-password-1")
    lab.machine(200, cipassword="guest-password-2")
    ticket = lab.root["Cookie"].partition("=")[2]
    known = [
        secret,
        ticket,
        "guest-password-1",
        lab.runtime.credentials.root_password,
        *lab.runtime.credentials.tokens.values(),
    ]
    logs = [lab.directory / "requests.jsonl", *(lab.directory / "tasks").iterdir()]
    text = "".join(path.read_text() for path in logs)
    assert not [value for value in known if value in text]
    assert "guest-password-2" not in text


def test_passwords_of_machines_are_not_shown(lab: RunningLab) -> None:
    lab.machine(200, cipassword="guest-password-2")
    assert lab.get("/nodes/pve/qemu/200/config")["cipassword"] == "**********"


def test_the_test_endpoint_needs_its_secret(lab: RunningLab) -> None:
    assert lab.request("GET", "/faults", headers={}, base="/lab").status == 403
    allowed = {"Authorization": f"Bearer {lab.runtime.credentials.control_secret}"}
    made = lab.raw("POST", "/lab/faults", json.dumps({"kind": "slow", "count": 1}), allowed)
    assert (made.status, made.json["kind"]) == (200, "slow")
    assert len(lab.raw("GET", "/lab/faults", None, allowed).json) == 1
    assert lab.raw("DELETE", "/lab/faults", None, allowed).json == {"cleared": 1}
    assert lab.raw("POST", "/lab/faults", '{"kind": "nosuch"}', allowed).status == 400


def test_without_the_option_there_is_no_test_endpoint(tmp_path: Path) -> None:
    with running(tmp_path, test_endpoint=False) as lab:
        allowed = {"Authorization": f"Bearer {lab.runtime.credentials.control_secret}"}
        assert lab.raw("GET", "/lab/faults", None, allowed).reason == "no such file '/lab/faults'"


@pytest.mark.parametrize("path", ["/version/", "//version", "/api2/json/../version"])
def test_odd_paths_do_not_break_it(lab: RunningLab, path: str) -> None:
    assert lab.request("GET", path).status in (200, 501)
