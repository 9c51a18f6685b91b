# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options in, result out: what Ansible sees of nhi_state_scan, over real HTTPS."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.nhi.core.plugins.module_utils import about
from ansible_collections.nhi.core.plugins.module_utils.state import StateStore
from ansible_collections.nhi.core.plugins.modules import nhi_state_scan
from ansible_collections.nhi.core.tests.unit.plugins.api_server import ApiServer, Reply, Request, api_server, refusal

Run = Callable[..., dict[str, Any]]
SECRET = "5ecre7-5ecre7-5ecre7"
ROWS = [
    {"id": "node/pve", "type": "node", "node": "pve", "status": "online", "maxcpu": 8},
    {"id": "lxc/101", "type": "lxc", "vmid": 101, "name": "web", "node": "pve", "status": "running", "uptime": 9},
]
ANSWERS: dict[str, Any] = {
    "/cluster/resources": ROWS,
    "/cluster/tasks": [],
    "/cluster/status": [],
    "/version": {"version": "9.2.3"},
    "/nodes/pve/lxc/101/config": {"net0": "name=eth0,bridge=vmbr0,ip=198.51.100.7/24", "digest": "d1"},
}


def answer(request: Request) -> Reply:
    if request.path not in ANSWERS:
        return refusal(501, f"Method 'GET {request.path}' not implemented")
    return Reply(ANSWERS[request.path])


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with api_server() as running:
        running.answer = answer
        yield running


@pytest.fixture
def run(server: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    environment = {"HOST": "127.0.0.1", "PORT": str(server.port), "USER": "nhi@pve", "TOKEN_ID": "reader"}
    for name, value in {**environment, "TOKEN_SECRET": SECRET, "VALIDATE_CERTS": "false"}.items():
        monkeypatch.setenv(f"PROXMOX_{name}", value)

    def call(*, check: bool = False, diff: bool = False, **options: Any) -> dict[str, Any]:
        given = {"state_dir": str(tmp_path), "health_checks": False, **options}
        given |= {"_ansible_check_mode": check, "_ansible_diff": diff}
        with patch_module_args(given), pytest.raises(SystemExit) as caught:
            nhi_state_scan.main()
        output = capsys.readouterr().out
        assert SECRET not in output
        result: dict[str, Any] = json.loads(output)
        assert bool(result.get("failed")) == (caught.value.code != 0)
        return result

    return call


def test_options_come_from_the_environment_and_the_state_is_written(run: Run, tmp_path: Path) -> None:
    result = run()
    document = StateStore(tmp_path).read().document
    assert document["infrastructure"]["guests"][0]["address"] == "198.51.100.7"
    assert document["meta"]["generated_by"]["program"] == "nhi_state_scan"
    assert (result["changed"], result["kind"], result["revision"]) == (True, "cold", 1)
    assert (result["counts"]["guests"], result["counts"]["running"], result["counts"]["read"]) == (1, 1, 1)
    assert set(result["durations"]) == {"resources", "guests", "probes", "write", "total"}
    assert "diff" not in result


def test_the_number_of_calls_is_what_the_server_counted(run: Run, server: ApiServer) -> None:
    assert run()["api_calls"] == len(server.requests)
    server.requests.clear()
    assert run()["api_calls"] == len(server.requests) == 3


def test_check_mode_says_what_would_change_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    result = run(check=True, diff=True)
    assert result["changed"] is True
    assert result["diff"]["before"] == {}
    assert result["diff"]["after"]["guests"]["101"]["name"] == "web"
    assert list(tmp_path.iterdir()) == []


def test_only_reads_are_sent(run: Run, server: ApiServer) -> None:
    run()
    run(full=True)
    assert {request.method for request in server.requests} == {"GET"}


def test_a_failure_is_one_line_and_no_traceback(run: Run, server: ApiServer, tmp_path: Path) -> None:
    server.answer = lambda _request: Reply(status=401, reason="Authentication failed!", body=b"", close=True)
    result = run()
    assert "nhi@pve!reader" in result["msg"]
    assert "\n" not in result["msg"]
    assert "exception" not in result
    assert list(tmp_path.iterdir()) == []


def test_a_catalogue_with_faults_is_refused_before_anything_is_asked(run: Run, server: ApiServer) -> None:
    assert "sizes is missing" in run(catalogue=[{"name": "memo"}])["msg"]
    assert server.requests == []


def test_every_option_is_documented_and_every_default_is_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    documented = yaml.safe_load(nhi_state_scan.DOCUMENTATION)["options"]
    seen: dict[str, Any] = {}

    class Stopped(Exception):
        pass

    def module(argument_spec: dict[str, Any], **_more: Any) -> None:
        seen.update(argument_spec)
        raise Stopped

    monkeypatch.setattr(nhi_state_scan, "AnsibleModule", module)
    with pytest.raises(Stopped):
        nhi_state_scan.main()
    assert documented.keys() <= seen.keys()
    for name, text in documented.items():
        assert (text["type"], text.get("default")) == (seen[name]["type"], seen[name].get("default")), name


def test_the_version_is_that_of_the_collection() -> None:
    galaxy = Path(nhi_state_scan.__file__).parents[2] / "galaxy.yml"
    assert yaml.safe_load(galaxy.read_text())["version"] == about.VERSION
